"""What is a value only as a whole text: number sets, grouped digits, digits with a prefix or a
base, times, dates.
"""

from __future__ import annotations

import re
from fractions import Fraction

from qwq.verify.math import numbers, regions, words
from qwq.verify.math.separators import split
from qwq.verify.math.single import TEXT_COMMAND, single, tree_or_none
from qwq.verify.math.trees import Tree
from qwq.verify.math.typed import ALL, Day, Dots, Expr, Interval, NumberSet, Region, Time, Unknown, Value

_EMPTY = re.compile(
    r"\\emptyset|\\\{ ?\\\}|(?:\\text ?\{)? ?no (?:real )?solutions?(?: exists?)? ?\}?"
    r"|(?:\\text ?\{)?(?:the )?empty set\}?|(?:\\text ?\{)? ?(?:无解|空集) ?\}?",
    re.IGNORECASE,
)
_ALL = re.compile(
    r"\\mathbb ?\{? ?R ?\}?|\\Re|(?:\\text ?\{)? ?all real(?: number)?s? ?\}?"
    r"|(?:\\text ?\{)? ?(?:实数集|全体实数|一切实数) ?\}?",
    re.IGNORECASE,
)
_REALS = re.compile(
    r"\\mathbb ?\{? ?R ?\}? ?(?:\^ ?\{? ?(?P<up>[+*-]) ?\}?|_ ?\{? ?(?P<op>>|<|\\ge|\\le|\\ne|>=|<=|\+|-|\*|\\geq"
    r"|\\leq) ?(?P<zero>0)? ?\}?)"
)
_SET = re.compile(
    r"\\mathbb ?\{? ?(?P<name>[ZNQCP]) ?\}? ?(?:[\^_] ?\{? ?(?P<mark>[+*-]|>0|>=0|\\ge ?0|\\geq ?0|<0|\\ne ?0) ?\}?)?"
)
_DOTS = re.compile(r"(?:\\ldots|\\cdots|\.\.\.+)\Z")
_WITHOUT = re.compile(
    r"\\mathbb ?\{? ?R ?\}? ?(?:\\setminus|-|\\) ?\\\{(?P<points>[^{}]{1,80}(?:\{[^{}]{0,80}\}[^{}]{0,80}){0,20})\\\}"
)
_GROUPED = re.compile(r"(?:\\?[$€£¥₹] ?)?[+-]? ?(?:\\?[$€£¥₹] ?)?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)? ?(?:\\?[$€£¥₹%])?")
_GROUPED_FRACTION = re.compile(r"[+-]?(?:\d{1,20}|[1-9]\d{0,2}(?:,\d{3})+) ?/ ?[1-9]\d{0,2}(?:,\d{3})+")
_PREFIXED = re.compile(r"0(?:x([0-9A-Fa-f]{1,40})|b([01]{1,160})|o([0-7]{1,60}))")
_HEX = re.compile(r"(?:\\(?:text|mathrm) ?\{ ?)?([0-9A-Fa-f]{1,40}) ?\}? ?_ ?\{? ?(?:\\text ?\{ ?)?(\d{1,2}) ?\}{0,2}")
_MINUTES = re.compile(
    r"([+-]?\d{1,6}) ?\^ ?\{? ?\\circ ?\}? ?(\d{1,2}(?:\.\d{1,9})?) ?(?:\^ ?\{? ?)?(?:'"
    r"|\\prime) ?\}? ?(?:(\d{1,2}(?:\.\d{1,9})?) ?(?:\^ ?\{? ?)?(?:''|\"|\\prime ?\\prime|'\\prime) ?\}?)?"
)


def as_whole(text: str) -> Value | None:
    """The value of a text that none of its parts has; None where it has no such value."""
    for reader in (_named_set, _digits, _moment):
        if (value := reader(text)) is not None:
            return value
    return None


def _named_set(text: str) -> Value | None:
    if _EMPTY.fullmatch(text):
        return Region(())
    if _ALL.fullmatch(text):
        return ALL
    if _DOTS.fullmatch(text):
        return Dots()
    if match := _REALS.fullmatch(text):
        return _reals(match["up"] or match["op"], text)
    if match := _SET.fullmatch(text):
        mark = "".join((match["mark"] or "").split())
        return NumberSet(match["name"] + mark.replace("\\geq", "\\ge").replace(">=0", "\\ge0").replace(">0", "+"))
    if (without := _WITHOUT.fullmatch(text)) and (points := _trees(without["points"])) is not None:
        return regions.all_but(points) or Unknown(text)
    return None


def _digits(text: str) -> Value | None:
    if _GROUPED.fullmatch(text):
        return single(text, 0)
    if _GROUPED_FRACTION.fullmatch(text):
        return single(text.replace(",", ""))
    if match := _PREFIXED.fullmatch(text):
        return _whole(int(match[1] or match[2] or match[3], 16 if match[1] else 2 if match[2] else 8))
    match = _HEX.fullmatch(text)
    if match is None or match[1].isdecimal() or not 2 <= int(match[2]) <= 36:
        return None
    base = int(match[2])
    return _whole(int(match[1], base)) if all(int(d, 36) < base for d in match[1]) else None


def _moment(text: str) -> Value | None:
    """An angle in minutes, a date or a time of day."""
    if match := _MINUTES.fullmatch(text):
        sign = -1 if match[1].startswith("-") else 1
        minutes = Fraction(match[2]) / 60 + Fraction(match[3] or 0) / 3600
        return Expr(("deg", ("num", Fraction(match[1]) + sign * minutes)))
    if (date := words.date(TEXT_COMMAND.sub(r"\1", text).strip())) is not None:
        return Day(date)
    if (clock := words.clock(text)) is not None:
        return Time(clock)
    return None


def _reals(mark: str, text: str) -> Value:
    zero: Tree = ("num", Fraction(0))
    if mark in ("+", ">"):
        return Region((Interval(zero, False, ALL.intervals[0].high, False),))
    if mark in ("\\ge", ">=", "\\geq"):
        return Region((Interval(zero, True, ALL.intervals[0].high, False),))
    if mark in ("-", "<"):
        return Region((Interval(ALL.intervals[0].low, False, zero, False),))
    if mark in ("\\le", "<=", "\\leq"):
        return Region((Interval(ALL.intervals[0].low, False, zero, True),))
    return regions.all_but([zero]) or Unknown(text)


def _whole(value: int) -> Expr:
    return Expr(("num", Fraction(value)), numbers.Number(Fraction(value), decimals=0))


def _trees(text: str) -> list[Tree] | None:
    trees = [tree_or_none(p) for _, p in split(text, ",")]
    known = [tree for tree in trees if tree is not None]
    return known if len(known) == len(trees) else None
