"""Small parts of the server, by hand."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("fastapi")

from qwq.serve.openapi import up_to


@pytest.mark.parametrize("largest", [0, 5, 9, 10, 19, 99, 100, 294, 1000, 4321])
def test_the_pattern_of_token_ids(largest: int) -> None:
    pattern = re.compile(up_to(largest))
    assert [n for n in range(largest + 1200) if pattern.match(str(n))] == list(range(largest + 1))
    assert not pattern.match("007") and not pattern.match("")
