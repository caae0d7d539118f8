"""Numbers that follow from two others by arithmetic: differences, changes, ratios, shares, sums.

The check computes them itself. Operands are numbers that the sentence shows, or the one before it,
and that calls gave; or the values of rows that the sentence names, in one column of one table. The
words of the sentence say which operation there may be: "more", "apart", "times", "of all".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from qwq.agent.report.grid import Grid, OutputNumber
from qwq.agent.report.places import NumberPlace
from qwq.agent.report.reader import WrittenNumber

MOST_OPERANDS = 8  # of a sentence
MOST_ROWS = 400  # of a table whose named rows are looked up
_DIFFERENCE = re.compile(
    r"\b(?:more|less|fewer|than|higher|lower|greater|larger|smaller|gaps?|differences?|differs?|differed|apart|leads?|led|"
    r"ahead|behind|above|below|rose|rises?|risen|grew|grows?|grown|growth|increas\w*|decreas\w*|fell|falls?|fallen|"
    r"drop\w*|declin\w*|gain\w*|lost|loss|losing|up|down|by|margin|exceed\w*|advantage|spread|shortfall|surplus|net|"
    r"chang\w*|delta|diff|chg|vs\.?|versus|against|compared|relative|cheaper|dearer|longer|shorter|faster|slower|older|younger|cut|reduc\w*|improv\w*|sav\w*|extra|"
    r"additional|remain\w*|rest|minus|trail\w*|outperform\w*|outsold|beat\w*|swing|jump\w*|climb\w*|shr[aiu]nk|added|"
    r"adds|separat\w*|distance|steps?|mov\w*|shift\w*|off|away|short|another|missing|premium|discount|points?|pp)\b|[\u0394\u2206]|差|高出|增长|增加|下降|减少",
    re.I,
)
_RATIO = re.compile(
    r"\b(?:times|ratios?|multiple|as (?:much|many|high|large|long|big|often)|per|each|twice|double|triple|of|shares?|"
    r"proportion|fraction|accounts?|factor|every)\b|fold\b|\dx\b|[x×]\s|倍|占",
    re.I,
)
_SUM = re.compile(
    r"\b(?:together|combin\w*|totals?|totall?ing|sum\w*|both|altogether|in all|plus|jointly|collectively|between them|"
    r"add\w*|overall|two|three|contain\w*|consist\w*|compris\w*|split|break\w*|of which)\b|合计|共",
    re.I,
)
_MOVES = re.compile(r"\b(?:by|fell|drop\w*|declin\w*|decreas\w*|loss|lost|rose|grew|increas\w*)\s*$", re.I)
_REST = re.compile(r"\b(?:rest|remain\w*|others?|leav\w+|left|not|without|neither|balance)\b|其余", re.I)
_EXTREMES = re.compile(
    r"\b(?:best|worst|highest|lowest|largest|smallest|top|bottom|first|last|strongest|weakest|leader|laggard|most|least|"
    r"maximum|minimum|max|min|cheapest|dearest)\b",
    re.I,
)
_POINTS = ("point", "points", "pt", "pts")
_WHOLE = re.compile(r"\bof (?:all|the|total|overall|our|its|revenue|sales|every\w*)\b|\bshares?\b|\baccount|占", re.I)


@dataclass(frozen=True, slots=True)
class Operand:
    """A number that calls gave: its exact value in the unit in which it is written, `share` of that
    unit, and what to show of it.
    """

    value: float
    share: float
    source: int
    text: str


@dataclass(frozen=True, slots=True)
class Derivation:
    """How a number follows: 91105.32 - 30942.82."""

    source: int
    text: str
    either_sign: bool = False
    value: float = 0.0


def derive(number: WrittenNumber, place: NumberPlace, shown: Sequence[Operand], grids: Sequence[Grid]
           ) -> Derivation | None:  # fmt: skip
    """How the number follows from operands that the sentence shows, or from rows that it names;
    None where it does not.
    """
    for value, derivation in _candidates(number, place, list(shown)[:MOST_OPERANDS], grids):
        if _is(number, value, derivation, place):
            return replace(derivation, value=value)
    return None


def _candidates(
    number: WrittenNumber, place: NumberPlace, operands: Sequence[Operand], grids: Sequence[Grid]
) -> Iterator[tuple[float, Derivation]]:
    text = f"{place.text} {place.row} {place.column}"
    yield from _of_pairs(number, operands, text)
    yield from _of_all(number, operands, text)
    yield from _of_the_rest(number, operands, text)
    for grid in grids:
        if len(grid.figures) > MOST_ROWS:
            continue
        for rows in _named_rows(grid, f"{place.before} {text}"):
            yield from _of_pairs(number, [_operand(f, number) for f in rows], text)
        yield from _of_columns(number, grid, text)
        yield from _of_extremes(number, grid, text)


def _is(number: WrittenNumber, value: float, derivation: Derivation, place: NumberPlace) -> bool:
    """Whether the value rounds to the number as it is shown. A fall is told without its minus; a
    difference has one where it is not said which of two is taken from which.
    """
    half = number.step / 2 * (1 + 1e-9) + 1e-9 * abs(value)
    if number.hedge:
        half = max(half, number.step, abs(number.value) / 20)
    if abs(abs(value) - abs(number.value)) > half:
        return False
    if (number.value < 0) == (value < 0):
        return True
    if number.value < 0:
        return derivation.either_sign and (place.is_cell or not _MOVES.search(place.text[: place.start]))
    return not number.has_sign


def _operand(figure: OutputNumber, number: WrittenNumber) -> Operand:
    """A figure as an operand: fractions and percents in the number's unit, where it has one."""
    as_share = bool(number.share) or number.unit in _POINTS
    is_share = bool(figure.share) or (as_share and abs(figure.value) <= 1 and figure.step < 1)
    share = (number.share or figure.share or 1e2) if is_share else 0.0
    value = figure.value * (share / (figure.share or 1.0)) if is_share else figure.value
    return Operand(value, share, figure.source, figure.text)


def _of_pairs(number: WrittenNumber, operands: Sequence[Operand], text: str) -> Iterator[tuple[float, Derivation]]:
    differs, adds = bool(_DIFFERENCE.search(text)), bool(_SUM.search(text))
    divides = bool(_RATIO.search(text)) or number.unit in ("x", "times", "fold")
    for a, b in permutations(operands, 2):
        if bool(a.share) == bool(b.share):
            yield from _terms(number, a, b, differs, adds)
            yield from _quotients(number, a, b, differs, divides)


def _terms(
    number: WrittenNumber, a: Operand, b: Operand, differs: bool, adds: bool
) -> Iterator[tuple[float, Derivation]]:  # fmt: skip
    """The difference and the sum of two, in the number's unit."""
    in_points = number.unit in _POINTS and not number.share and a.share == b.share
    if bool(number.share) != bool(a.share) and not in_points:
        return
    factor = number.share / a.share if a.share and not in_points else 1.0
    if differs and a.value >= b.value:
        yield (a.value - b.value) * factor, Derivation(a.source, f"{a.text} - {b.text}", True)
    if adds:
        yield (a.value + b.value) * factor, Derivation(a.source, f"{a.text} + {b.text}")


def _quotients(
    number: WrittenNumber, a: Operand, b: Operand, differs: bool, divides: bool
) -> Iterator[tuple[float, Derivation]]:  # fmt: skip
    """The change from b to a, and how many times b is in a."""
    if not b.value:
        return
    if number.share and differs:
        yield (a.value - b.value) / b.value * number.share, Derivation(a.source, f"{a.text} / {b.text} - 1")
    if divides:
        yield a.value / b.value * (number.share or 1.0), Derivation(a.source, f"{a.text} / {b.text}")


def _of_all(number: WrittenNumber, operands: Sequence[Operand], text: str) -> Iterator[tuple[float, Derivation]]:
    """The sum of three operands or more."""
    alike = [o for o in operands if bool(o.share) == bool(number.share)]
    if len(alike) > 2 and _SUM.search(text):
        yield sum(o.value for o in alike), Derivation(alike[0].source, " + ".join(o.text for o in alike))


def _of_the_rest(number: WrittenNumber, operands: Sequence[Operand], text: str) -> Iterator[tuple[float, Derivation]]:
    """What a share leaves of the whole."""
    if number.share and _REST.search(text):
        for o in operands:
            if o.share:
                yield number.share * (1 - o.value / o.share), Derivation(o.source, f"100% - {o.text}")


def _of_extremes(number: WrittenNumber, grid: Grid, text: str) -> Iterator[tuple[float, Derivation]]:
    """The difference between the largest and the smallest of a column, or their ratio."""
    if len(_EXTREMES.findall(text)) < 2:
        return
    for level, vocabulary in enumerate(grid.vocabularies):
        if vocabulary.is_statistic or len(vocabulary) < 2:
            continue
        for figures in _columns(grid, level).values():
            ends = [max(figures, key=lambda f: f.value), min(figures, key=lambda f: f.value)]
            yield from _of_pairs(number, [_operand(f, number) for f in ends], text)


def _columns(grid: Grid, level: int) -> dict[tuple[str, ...], list[OutputNumber]]:
    """The figures that differ in one level alone."""
    columns: dict[tuple[str, ...], list[OutputNumber]] = {}
    for figure in grid.figures:
        if len(figure.labels) > level:
            columns.setdefault((*figure.labels[:level], *figure.labels[level + 1 :]), []).append(figure)
    return columns


def _named_rows(grid: Grid, text: str) -> Iterator[list[OutputNumber]]:
    """Values of rows that the text names, of one column each."""
    for level, vocabulary in enumerate(grid.vocabularies):
        if vocabulary.is_statistic or len(vocabulary) < 2:
            continue
        named = {vocabulary.labels[m.label] for m in vocabulary.mentions(text)}
        if not 2 <= len(named) <= MOST_OPERANDS:
            continue
        for column in _columns(grid, level).values():
            figures = [f for f in column if f.labels[level] in named]
            if len(figures) > 1:
                yield figures


def _of_columns(number: WrittenNumber, grid: Grid, text: str) -> Iterator[tuple[float, Derivation]]:
    """The share of a row that the text names in the sum of its column."""
    if not number.share or not _WHOLE.search(text):
        return
    for level, vocabulary in enumerate(grid.vocabularies):
        if vocabulary.is_statistic or len(vocabulary) < 2:
            continue
        named = {vocabulary.labels[m.label] for m in vocabulary.mentions(text)}
        if len(named) != 1:
            continue  # of two rows it could be either's
        for figures in _columns(grid, level).values():
            total = sum(f.value for f in figures)
            if len(figures) < 2 or any(f.value < 0 for f in figures) or not total:
                continue
            for figure in figures:
                if figure.labels[level] in named:
                    shown = Derivation(figure.source, f"{figure.text} / the sum of {len(figures)} rows")
                    yield figure.value / total * number.share, shown
