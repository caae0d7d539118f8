"""Which gold answers of a training set can be graded at all, and which would only teach noise.

A gold is no use as a reward where it is empty, a sentence, several formulas with words between
them, or nothing that any reader makes sense of: a right answer would be marked wrong. `audit_file`
says so row by row and writes the rows that are left.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Generator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from qwq.errors import DataError
from qwq.types import Outcome
from qwq.verify import math
from qwq.verify.cli_io import read_lines
from qwq.verify.math.normal import MAX_CHARS, clean
from qwq.verify.math.read import read
from qwq.verify.math.rule_examples import rule_of
from qwq.verify.math.typed import Bag, Text, Unknown

GOLD_FIELDS = ("gold", "answer", "ground_truth", "final_answer", "solution")
MAX_TEXT_WORDS = 4

_MATH_SIGNS = re.compile(r"\$[^$]*\$")


class GoldKind(StrEnum):
    """What a gold answer is good for. Only `GRADABLE` rows stay in the clean set."""

    GRADABLE = "gradable"
    EMPTY = "empty"  # nothing there, or not a string
    PROSE = "prose"  # a sentence: more words than a name or a phrase has
    SEVERAL = "several"  # formulas with words or line ends between them
    UNREADABLE = "unreadable"  # neither our own reader nor sympy can read it
    TOO_LARGE = "too_large"  # past the limits on length, depth or digits


def audit_gold(gold: Any) -> tuple[GoldKind, str]:
    """What kind of gold this is, and the reason in words."""
    if isinstance(gold, int | float) and not isinstance(gold, bool):
        gold = str(gold)
    if not isinstance(gold, str) or not (answer := math.gold_answer(gold)):
        return GoldKind.EMPTY, f"no gold answer in {gold!r:.60}"
    if len(answer) > MAX_CHARS:
        return GoldKind.TOO_LARGE, f"{len(answer)} characters, {MAX_CHARS} are read"
    outside = _MATH_SIGNS.sub(" ", answer)
    if len(_MATH_SIGNS.findall(answer)) > 1 and re.search(r"[A-Za-z]{2,}|\n", outside):
        return GoldKind.SEVERAL, "formulas with words or line ends between them"
    value = read(clean(answer))
    if isinstance(value, Text):
        num_words = len(value.words.split())
        if num_words > MAX_TEXT_WORDS:
            return GoldKind.PROSE, f"a text of {num_words} words"
        return GoldKind.GRADABLE, "a short text"
    if isinstance(value, Bag) and any(isinstance(v, Unknown | Text) for v in value.items) and len(value.items) > 1:
        texts = sum(isinstance(v, Text) and len(v.words.split()) > MAX_TEXT_WORDS for v in value.items)
        if texts:
            return GoldKind.PROSE, f"a list in which {texts} items are sentences"
    if isinstance(value, Unknown):
        return _by_sympy(answer)
    return GoldKind.GRADABLE, f"read as {type(value).__name__.lower()}"


def _by_sympy(answer: str) -> tuple[GoldKind, str]:
    """An answer that falls under no rule: gradable where sympy can read it, which is asked through
    a harmless pair.
    """
    verdict = math.verify("0", answer, form="bare")
    if verdict.outcome is Outcome.UNDECIDED:
        large = "too long" in verdict.reason
        return (
            (GoldKind.TOO_LARGE, verdict.reason)
            if large
            else (GoldKind.UNREADABLE, "falls under no rule: only the same text would equal it")
        )
    return GoldKind.GRADABLE, "read by sympy"


def audit_file(
    path: str | Path, clean_path: str | Path | None = None, *, field: str | None = None
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Yield `index`, `gradable`, `kind`, `reason`, `rule`, `gold` for each row, in order; return
    counts by kind.

    `rule` names the rule of docs/verify_math.md that the gold falls under by its type, None where
    none reads it.

    `field` names the gold's column (default: the first of gold, answer, ground_truth, final_answer,
    solution). `clean_path` gets the gradable rows, as they were. DataError: missing or malformed
    file, no gold column.
    """
    path = Path(path)
    counts: Counter[str] = Counter()
    kept: list[str] = []
    for index, (number, row) in enumerate(read_lines(path)):
        gold = _gold(row, field, f"{path}, line {number}")
        kind, reason = audit_gold(gold)
        counts[kind.value] += 1
        if kind is GoldKind.GRADABLE:
            kept.append(json.dumps(row, ensure_ascii=False))
        gradable = kind is GoldKind.GRADABLE
        yield {
            "index": index,
            "gradable": gradable,
            "kind": kind.value,
            "reason": reason,
            "rule": _rule(gold),
            "gold": str(gold)[:200],
        }
    if clean_path is not None:
        Path(clean_path).write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    return {"n": sum(counts.values()), "kinds": dict(counts)}


def _rule(gold: Any) -> str | None:
    answer = math.gold_answer(str(gold)) if isinstance(gold, str | int | float) else ""
    return rule_of(answer) if answer and len(answer) <= MAX_CHARS else None


def _gold(row: Mapping[str, Any], field: str | None, where: str) -> Any:
    if field is not None:
        if field not in row:
            raise DataError(f"{where}: no column {field!r}, the columns are {', '.join(sorted(row))}")
        return row[field]
    name = next((f for f in GOLD_FIELDS if f in row), None)
    if name is None:
        raise DataError(f"{where}: no gold column ({', '.join(GOLD_FIELDS)}): name it with field=")
    return row[name]
