"""Whether two lists of values denote the same, as WikiTableQuestions scores them (Pasupat and Liang
2015, arXiv 1508.00305, evaluator.py of release 1.0.2).

A text is a number, a date (`2011-03-xx`: xx is unknown) or a string. Two values match where their
normalised texts are equal, or both are numbers less than 1e-6 apart, or both are the same date. Two
lists match where they have equally many different values and every expected one matches one of the
answer's.

The authors read an expected value's number or date with CoreNLP and publish it beside the value; in
files without that column it is read here: `12,467` is a number, `June 3, 2005` a date. An answer is
read as it is, so `12,467` matches `12,467` and not `12467`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

TOLERANCE = 1e-6
MONTHS = (
    "january february march april may june july august september october november december".split()
)  # fmt: skip

_QUOTES, _DOUBLE_QUOTES, _DASHES = re.compile("[‘’´`]"), re.compile("[“”]"), re.compile("[‐‑‒–—−]")
_SIGNS, _NUMBERED = "•♦†‡*#+", re.compile(r"\[\d+\]")
_QUOTED = re.compile(r'^"([^"]*)"$')
_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_MONTH_FIRST = re.compile(r"(?P<month>[a-z]+)\.? (?P<day>\d{1,2}), (?P<year>\d{4})")
_DAY_FIRST = re.compile(r"(?P<day>\d{1,2}) (?P<month>[a-z]+)\.? (?P<year>\d{4})")

Date = tuple[int, int, int]  # year, month, day; -1 is unknown


def normalise_value(text: str) -> str:
    """Lower case without diacritics, citations, brackets behind the text, quotation marks around it
    and a full stop at its end.
    """
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c) != "Mn")
    text = _DASHES.sub("-", _DOUBLE_QUOTES.sub('"', _QUOTES.sub("'", text)))
    before = None
    while before != text:
        before = text
        text = _without_citations(text.strip())
        text = _without_brackets(text.strip())
        text = _QUOTED.sub(r"\1", text.strip())
    return re.sub(r"\s+", " ", text.removesuffix(".")).lower().strip()


def _without_citations(text: str) -> str:
    """The text without signs and `[...]` at its end; one at its beginning counts only as `[12]`.
    Linear, as no regular expression of this rule is.
    """
    end = len(text)
    while end:
        if text[end - 1] in _SIGNS:
            end -= 1
            continue
        if text[end - 1] != "]":
            break
        first = text.rfind("]", 0, end - 1) + 1
        start = text.find("[", first, end)
        if start == 0 and not _NUMBERED.fullmatch(text, 0, end):
            start = text.find("[", 1, end)
        if start < 0:
            break
        end = start
    return text[:end]


def _without_brackets(text: str) -> str:
    """The text without every ` (...)` at its end. Linear."""
    end = len(text)
    while end and text[end - 1] == ")":
        start = text.find(" (", text.rfind(")", 0, end - 1) + 1, end)
        if start <= 0:
            break
        end = start
    return text[:end]


@dataclass(frozen=True, slots=True)
class Denoted:
    """A value: its normalised text, and the number or date that it is, if any."""

    text: str
    number: float | None = None
    date: Date | None = None

    @property
    def identity(self) -> object:
        """What is equal for two values that count once in a list."""
        return self.number if self.number is not None else self.date or self.text

    def matches(self, other: Denoted) -> bool:
        if self.text == other.text:
            return True
        if self.number is not None and other.number is not None:
            return abs(self.number - other.number) < TOLERANCE
        return self.date is not None and self.date == other.date


def read_value(text: str, canonical: str = "") -> Denoted:
    """The value of a text; `canonical` is its number or date where the set gives it."""
    form = canonical or text
    number = finite_number(form)
    date = None if number is not None else _date(form)
    if date is not None and date[1:] == (-1, -1):
        number, date = float(date[0]), None
    return Denoted(normalise_value(text), number, date)


def read_expected(text: str, canonical: str = "") -> Denoted:
    """An expected value; without `canonical` its number or date is read from the text."""
    return read_value(text, canonical or _canonical(text.strip()))


def same_denotation(answer: Sequence[Denoted], expected: Sequence[Denoted]) -> bool:
    """Whether an answer's values are the expected ones, in any order."""
    found, needed = _distinct(answer), _distinct(expected)
    return len(found) == len(needed) and all(any(e.matches(a) for a in found) for e in needed)


def _distinct(values: Sequence[Denoted]) -> list[Denoted]:
    return list({(value.identity, value.number is None): value for value in values}.values())


def finite_number(text: str) -> float | None:
    """The number that a text is; None for anything else, infinity and NaN included."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _date(text: str) -> Date | None:
    parts = text.lower().split("-")
    if len(parts) != 3:
        return None
    try:
        year, month, day = (
            -1 if part in blanks else int(part)
            for part, blanks in zip(parts, (("xx", "xxxx"), ("xx",), ("xx",)), strict=True)
        )
    except ValueError:
        return None
    right = (month == -1 or 1 <= month <= 12) and (day == -1 or 1 <= day <= 31)
    return (year, month, day) if right and (year, month, day) != (-1, -1, -1) else None


def _canonical(text: str) -> str:
    """The number or date in an expected text as the set's published column writes them; "" for
    any other text.
    """
    if _GROUPED.fullmatch(text):
        return text.replace(",", "")
    match = _MONTH_FIRST.fullmatch(text.lower()) or _DAY_FIRST.fullmatch(text.lower())
    if match is None:
        return ""
    month = next((i for i, name in enumerate(MONTHS, 1) if match["month"] in (name, name[:3])), 0)
    return f"{match['year']}-{month}-{match['day']}" if month else ""
