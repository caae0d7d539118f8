"""One value of the outputs that a text gives to two things: "merge sort took 0.94 s and radix sort
0.94 s", where the calls gave 0.94 once.

A number of the wrong row is most often the number of a row that the text names as well. So a value
that a paragraph writes more often than the calls gave it says that one of the places is wrong, in
whatever words. It does not say which, and both are shown. A text may repeat a number: across
paragraphs this is never counted, and within one only where both are written alike.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Sequence

from qwq.agent.report.grid import OutputNumber
from qwq.agent.report.places import NumberPlace, paragraph_starts
from qwq.agent.report.reader import WrittenNumber

# 0.44², a number again in brackets or behind "i.e.", and one that the text says it repeats.
_NO_CLAIM_BEHIND = re.compile(r"[²³^]|\s?(?:\*\*|squared\b)")
_AGAIN = re.compile(
    r"(?:\(|\b(?:i\.e\.|that is|again|these|those|the same|out of(?: the)?|of the|the))[\s*_$€£]*$", re.I
)


def said_twice(
    located: Sequence[tuple[WrittenNumber, NumberPlace]], equals: Sequence[Sequence[OutputNumber]], text: str,
    left_out: Collection[int],
) -> set[int]:  # fmt: skip
    """Which of the numbers are written more often in their paragraph than the calls gave them.
    `left_out` are places in `located` of numbers that have other sources.
    """
    starts = paragraph_starts(text)
    alike: dict[tuple[int, float, float], list[int]] = defaultdict(list)
    for i, (number, place) in enumerate(located):
        if (
            i in left_out
            or place.is_cell
            or place.is_heading
            or not equals[i]
            or not number.is_counted
            or number.may_be_year
        ):
            continue
        if not _is_repeat(number, text):
            alike[bisect_right(starts, number.start), number.value, number.share].append(i)
    twice: set[int] = set()
    for indices in alike.values():
        given = {(f.source, f.labels, id(f.grid)) for i in indices for f in equals[i]}
        written = {located[i][0].text for i in indices}
        if len(given) < len(indices) and len(written) == 1:
            twice.update(indices)
    return twice


def _is_repeat(number: WrittenNumber, text: str) -> bool:
    return bool(
        _NO_CLAIM_BEHIND.match(text, number.end) or _AGAIN.search(text, max(0, number.start - 12), number.start)
    )
