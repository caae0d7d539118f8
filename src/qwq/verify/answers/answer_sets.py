"""Lists of answers and changed tables, as AgentBench scores DBBench (Liu et al. 2023, arXiv
2308.03688; result_processor.py of THUDM/AgentBench).

An answer is a list. Single values are equal as numbers up to 0.01, else as texts; of several all
are numbers, each with a partner, or the sets of texts are equal. Before, a percent sign and commas
go, and what says nothing (none, null, nan, an empty text) becomes 0.

A changed table is the md5 of its rows' short md5 sums, as MySQL makes it: `md5(group_concat(rowhash
order by rowhash))` with `rowhash` the first five digits of `md5(concat_ws(',', columns))`, and
`group_concat` cut at 1,024 bytes, its default.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from qwq.verify.answers.denotation import finite_number

TOLERANCE = 1e-2
GROUP_CONCAT_BYTES = 1024
NOTHING = frozenset({"none", "null", "undefined", "nan", "inf", "infinity", "-inf", "-infinity", ""})


def read_final_answer(text: str) -> list[str] | None:
    """The list behind the last `Final Answer:`; a text that is no list is its one value. None
    without the mark.
    """
    marks = list(re.finditer(r"final answer\s*:", text, re.IGNORECASE))
    if not marks:
        return None
    written = text[marks[-1].end() :].strip().strip("*`").strip()
    listed = re.match(r"\[.*?\](?=\s|$)", written, re.DOTALL)
    line = listed[0] if listed else written.split("\n")[0].strip()
    for read in (json.loads, ast.literal_eval):
        try:
            values = read(line)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return [_text(v) for v in (values if isinstance(values, list | tuple) else [values])]
    return [line]


def same_answers(answer: Sequence[str], expected: Sequence[str]) -> bool:
    """Whether two lists of answers are equal by DBBench's rule."""
    found, needed = [clean_answer(a) for a in answer], [clean_answer(e) for e in expected]
    numbers = [[finite_number(value) for value in values] for values in (found, needed)]
    if len(found) == 1 == len(needed):
        a, e = numbers[0][0], numbers[1][0]
        return _close(a, e) if a is not None and e is not None else found == needed
    if all(number is not None for values in numbers for number in values):
        return len(found) == len(needed) and _partners(numbers[0], numbers[1])
    return set(found) == set(needed)


def clean_answer(value: str) -> str:
    """A value as it is compared."""
    text = value.strip().strip("'\"").strip()
    if text.endswith("%"):
        return text[:-1].strip()
    text = text.replace(",", "")
    return "0" if text.lower() in NOTHING else text


def table_md5(rows: Iterable[Sequence[Any]]) -> str:
    """The md5 that DBBench gives for a table with these rows."""
    hashes = sorted(_md5(",".join(_text(v) for v in row if v is not None))[:5] for row in rows)
    return _md5(",".join(hashes)[:GROUP_CONCAT_BYTES])


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _close(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and abs(a - b) <= TOLERANCE


def _partners(found: Sequence[float | None], needed: Sequence[float | None]) -> bool:
    """Whether each number has a partner of its own, taken in order."""
    left = list(needed)
    for number in found:
        partner = next((i for i, other in enumerate(left) if _close(number, other)), None)
        if partner is None:
            return False
        del left[partner]
    return not left
