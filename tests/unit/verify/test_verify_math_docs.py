"""docs/verify_math.md says what the verifier does: every example line of the page is run, and its
table is that of the rules.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qwq.verify.math import verify
from qwq.verify.math.rule_examples import table

PAGE = (Path(__file__).parents[3] / "docs" / "verify_math.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```verdicts\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def test_the_page_has_examples() -> None:
    assert len(LINES) >= 90


def test_the_table_is_that_of_the_rules() -> None:
    assert table() in PAGE, "out of date: run python tools/math_rules.py"


@pytest.mark.parametrize("line", LINES)
def test_example(line: str) -> None:
    form, gold, answer, outcome = line.split(" | ")
    verdict = verify(answer, gold, form=form)
    assert verdict.outcome.value == outcome, verdict.reason
