"""Numbers that follow from others by arithmetic, which the check computes itself: differences,
changes, ratios, shares, sums, averages.

Which derivations count:

1. of numbers that the sentence shows, or the one before it, and that calls or the task gave
   (`_shown_families`): the words of the sentence say which operation there may be ("more", "apart",
   "times", "of all")
2. of values of one row or one column of one table, of which the text names or shows at least one
   (`derived_rows.py`): of 2023 against the year before, of a row's amount and its count, of a row
   in its column's sum; the sum and the average of a whole column

The second kind counts only where it is telling: where the same rule gives other values close to the
number as well, a wrong number would be met by chance, and the number stays unsupported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

from qwq.agent.report.directions import direction
from qwq.agent.report.grid import Grid, OutputNumber
from qwq.agent.report.places import NumberPlace
from qwq.agent.report.reader import WrittenNumber, grain

MOST_OPERANDS = 8  # of a sentence
MAX_CHANCE = 0.2  # that a number which is wrong is met by a value of the same rule
_NEAR = 1.5  # values up to so many times larger or smaller than the number say how dense they are
_DIFFERENCE = re.compile(
    r"\b(?:more|less|fewer|than|higher|lower|greater|larger|smaller|gaps?|differences?|differs?|differed|apart|leads?|led|"
    r"ahead|behind|above|below|rose|rises?|risen|grew|grows?|grown|growth|increas\w*|decreas\w*|fell|falls?|fallen|"
    r"drop\w*|declin\w*|gain\w*|lost|loss|losing|up|down|by|margin|exceed\w*|advantage|spread|shortfall|surplus|net|"
    r"chang\w*|delta|diff|chg|vs\.?|versus|against|compared|relative|cheaper|dearer|longer|shorter|faster|slower|older|younger|cut|reduc\w*|improv\w*|sav\w*|extra|"
    r"additional|remain\w*|rest|minus|trail\w*|outperform\w*|outsold|beat\w*|swing|jump\w*|climb\w*|shr[aiu]nk|added|"
    r"adds|separat\w*|distance|steps?|mov\w*|shift\w*|off|away|short|another|missing|premium|discount|points?|pp|slip\w*|"
    r"dip\w*|widen\w*|narrow\w*|balance|deficit|adrift|span\w*|from|between|worth|miss\w*|plus|mehr|weniger|um|wuchs|stieg|sank|zur\u00fcck)\b|"
    r"[\u0394\u2206\u2192+]|[高低]|差|高出|增长|增加|下降|减少|多|少|提高|降",
    re.I,
)
_RATIO = re.compile(
    r"\b(?:times|ratios?|multiple|as (?:much|many|high|large|long|big|often)|per|each|twice|double|triple|of|shares?|"
    r"proportion|fraction|accounts?|factor|every|apiece|a head|average\w*|mean|typical\w*|rate|percent|"
    r"make\w* up|explain\w*|"
    r"about|carr\w+|pays?|pro|je|Anteil|davon)\b|fold\b|\dx\b|[x×%]|倍|占|平均|每|率|人均",
    re.I,
)
_SUM = re.compile(
    r"\b(?:together|combin\w*|totals?|totall?ing|sum\w*|both|altogether|in all|all in all|all told|plus|"
    r"jointly|collectively|"
    r"between them|add\w*|overall|two|three|four|five|contain\w*|consist\w*|compris\w*|split|break\w*|of which|across|"
    r"across the board|whole|entire|company-wide|altogether|out of|there (?:are|were)|employs?|make\w*|handled|"
    r"in total|N|"
    r"zusammen|insgesamt|gesamt\w*)\b|合计|共|总",
    re.I,
)
_MEAN = re.compile(r"\b(?:average\w*|mean|typical\w*|per|avg)\b|平均", re.I)
_EITHER = re.compile(r"\b(?:chang\w*|differ\w*|delta|balance|net)\b|[\u0394\u2206]|差", re.I)
_REST = re.compile(
    r"\b(?:rest|remain\w*|others?|leav\w+|left|not|without|neither|balance|miss\w*|late)\b|其余|未", re.I
)
_FALLS = re.compile(
    r"\b(?:sav\w+|cheaper|shorter|faster|smaller|fewer|less|below|under|discount|shortfall|deficit|miss\w*)\b", re.I
)
_POINTS = ("point", "points", "pt", "pts")
_EACH = re.compile(
    r"\b(?:per|each|every|average\w*|mean|typical\w*|apiece|a head|once|one in|ratios?|factor|multiple|pays?|"
    r"carr\w+|pro|je|avg|for every)\b|"
    r"[x×]\s|\dx\b|倍|人均|平均|每",
    re.I,
)
TOTAL_WORDS = frozenset(("sum", "all", "overall", "count", "row", "grand"))
SUM_WORDS = frozenset(("sum", "all", "overall", "grand"))


@dataclass(frozen=True, slots=True)
class Operand:
    """A number that calls gave: its exact value in the unit in which it is written, `share` of that
    unit, and what to show of it. `figure` is what gave it.
    """

    value: float
    share: float
    source: int
    text: str
    figure: OutputNumber | None = None


@dataclass(frozen=True, slots=True)
class Derivation:
    """How a number follows: 91105.32 - 30942.82. `is_change`: it has a minus where the first one is
    the smaller.
    """

    source: int
    text: str
    either_sign: bool = False
    value: float = 0.0
    is_change: bool = False


Candidates = Iterable[tuple[float, Derivation]]


@dataclass(frozen=True, slots=True)
class Words:
    """Which operations the words around a number speak of."""

    text: str
    differs: bool
    divides: bool
    adds: bool
    averages: bool
    leaves: bool

    @classmethod
    def of(cls, number: WrittenNumber, text: str) -> Words:
        times = number.unit in ("x", "times", "fold", "倍")
        divides = times or (not number.is_points and bool((_RATIO if number.share else _EACH).search(text)))
        return cls(
            text, not times and bool(_DIFFERENCE.search(text)), divides, not times and bool(_SUM.search(text)),
            not times and bool(_MEAN.search(text)), bool(_REST.search(text)),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a number may follow from: `near` are operands of its sentence and of the one before,
    `far` those of the rest of its paragraph, `typed` numbers of the task.
    """

    near: Sequence[Operand]
    far: Sequence[Operand] = ()
    typed: Sequence[Operand] = ()
    grids: Sequence[Grid] = field(default_factory=tuple)


def first_match(
    number: WrittenNumber, place: NumberPlace, candidates: Candidates, limit: float, others: set[float]
) -> Derivation | None:  # fmt: skip
    """The first of the values that rounds to the number as it is shown; None where there is none,
    or where others come so close to it that it says little. `others` are such values of the rules
    tried before, and those of this one are added.
    """
    found: Derivation | None = None
    size = abs(number.value)
    for value, derivation in candidates:
        if _is(number, value, derivation, place):
            found = found or replace(derivation, value=value)
        elif size and size / _NEAR <= abs(value) <= size * _NEAR:
            others.add(float(f"{value:.6g}"))
    if found is None or not size:
        return None
    width = 2 * _half(number, found.value) / size
    return found if len(others) * width / (_NEAR - 1 / _NEAR) <= limit else None


def _half(number: WrittenNumber, value: float) -> float:
    """How far a value may be from the number as it is shown."""
    half = number.step / 2 * (1 + 1e-9) + 1e-9 * abs(value)
    return max(half, grain(number) / (2 if number.hedge == "about" else 1)) if number.hedge else half


def _is(number: WrittenNumber, value: float, derivation: Derivation, place: NumberPlace) -> bool:
    """Whether the value rounds to the number as it is shown. A fall is told without its minus; a
    difference has one where it is not said which of two is taken from which.
    """
    if abs(abs(value) - abs(number.value)) > _half(number, value):
        return False
    if derivation.is_change and not number.has_sign and not place.is_cell:
        way = direction(place.text, place.start, place.start + len(number.text))
        if way or not _FALLS.search(place.text):
            return value < 0 if way < 0 else value > 0
    if (number.value < 0) == (value < 0):
        return True
    if number.value < 0:
        before = place.text[max(0, place.start - 40) : place.start]
        return derivation.either_sign and (place.is_cell or bool(_EITHER.search(before)))
    return not number.has_sign


def as_operand(figure: OutputNumber, number: WrittenNumber) -> Operand:
    """A figure as an operand: fractions and percents in the number's unit, where it has one."""
    as_share = bool(number.share) or number.unit in _POINTS
    is_share = bool(figure.share) or (as_share and abs(figure.value) <= 1 and figure.step < 1)
    share = (number.share or figure.share or 1e2) if is_share else 0.0
    value = figure.value * (share / (figure.share or 1.0)) if is_share else figure.value
    return Operand(value, share, figure.source, figure.text, figure)


# -- what the sentence shows -----------------------------------------------------------------------


def of_shown(number: WrittenNumber, near: Sequence[Operand], words: Words) -> Iterator[tuple[float, Derivation]]:
    """From numbers of the sentence and of the one before."""
    operands = list(near)[:MOST_OPERANDS]
    for a, b in permutations(operands, 2):
        yield from of_pair(number, a, b, words)
    yield from _of_all(number, operands, words)
    yield from of_the_rest(number, operands, words)


def of_pair(number: WrittenNumber, a: Operand, b: Operand, words: Words) -> Iterator[tuple[float, Derivation]]:
    if bool(a.share) == bool(b.share):
        yield from _terms(number, a, b, words)
        yield from _quotients(number, a, b, words)
    elif (
        a.share
        and not b.share
        and not number.share
        and number.is_whole
        and number.hedge
        and 0 < a.value <= a.share
        and b.value >= 50
    ):
        yield a.value / a.share * b.value, Derivation(a.source, f"{a.text} of {b.text}")


def _terms(number: WrittenNumber, a: Operand, b: Operand, words: Words) -> Iterator[tuple[float, Derivation]]:
    """The difference and the sum of two, in the number's unit."""
    in_points = number.unit in _POINTS and not number.share and a.share == b.share
    if bool(number.share) != bool(a.share) and not in_points:
        return
    factor = number.share / a.share if a.share and not in_points else 1.0
    if not _are_alike(a.figure, b.figure):
        return
    if words.differs and a.value >= b.value and not 0 < abs(a.value * factor) < number.step / 2:
        # What is too small to be seen would turn the other one's sign: 0.003 - -12.5.
        yield (a.value - b.value) * factor, Derivation(a.source, f"{a.text} - {b.text}", True)
    if words.adds and _are_alike(a.figure, b.figure, is_sum=True):
        yield (a.value + b.value) * factor, Derivation(a.source, f"{a.text} + {b.text}")


def _are_alike(a: OutputNumber | None, b: OutputNumber | None, *, is_sum: bool = False) -> bool:
    """Whether two values go together: of one table, they are of one row or of one column; for a
    sum of one column.
    """
    if a is None or b is None or a.grid is None or a.grid is not b.grid or a.grid.is_lines or len(a.labels) < 2:
        return True
    rows, columns = [x == y for x, y in zip(a.labels[:-1], b.labels[:-1], strict=True)], a.labels[-1] == b.labels[-1]
    return columns or (all(rows) and not is_sum)


def _quotients(number: WrittenNumber, a: Operand, b: Operand, words: Words) -> Iterator[tuple[float, Derivation]]:
    """The change from b to a, and how many times b is in a."""
    if not b.value or not _are_alike(a.figure, b.figure):
        return
    if number.share and words.differs and not number.is_points:
        change = Derivation(a.source, f"{a.text} / {b.text} - 1", is_change=True)
        yield (a.value - b.value) / b.value * number.share, change
    if words.divides:
        yield a.value / b.value * (number.share or 1.0), Derivation(a.source, f"{a.text} / {b.text}")


def _of_all(number: WrittenNumber, operands: Sequence[Operand], words: Words) -> Iterator[tuple[float, Derivation]]:
    """The sum and the average of three operands or more."""
    alike = [o for o in operands if bool(o.share) == bool(number.share)]
    if len(alike) < 3 or not all(_are_alike(alike[0].figure, o.figure, is_sum=True) for o in alike[1:3]):
        return
    total = sum(o.value for o in alike)
    if words.adds:
        yield total, Derivation(alike[0].source, " + ".join(o.text for o in alike))
        last = alike[-3:]  # the three of them
        yield sum(o.value for o in last), Derivation(last[0].source, " + ".join(o.text for o in last))
    if words.averages:
        yield total / len(alike), Derivation(alike[0].source, f"the average of {len(alike)} numbers")


def of_the_rest(number: WrittenNumber, operands: Sequence[Operand], words: Words) -> Iterator[tuple[float, Derivation]]:
    """What a share leaves of the whole."""
    if number.share and words.leaves:
        for o in operands:
            if o.share and 0 <= o.value <= o.share:
                yield number.share * (1 - o.value / o.share), Derivation(o.source, f"100% - {o.text}")
