"""Numbers that follow from the rows and columns of the tables that calls printed.

A value is an anchor where the sentence shows it, or names its row and its column. What counts are an
anchor against the others of its row or column, the values of a named row among each other, an anchor
in a sum or a total, and the sum, the average and the ends of a whole column. `first_match` leaves
out what says little.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

from qwq.agent.report.derived import (
    MAX_CHANCE,
    MOST_OPERANDS,
    TOTAL_WORDS,
    Candidates,
    Derivation,
    Evidence,
    Operand,
    Words,
    as_operand,
    first_match,
    of_pair,
    of_shown,
    of_the_rest,
)
from qwq.agent.report.grid import Grid, OutputNumber
from qwq.agent.report.label_words import forms
from qwq.agent.report.places import NumberPlace
from qwq.agent.report.reader import WrittenNumber

MOST_ROWS = 400  # of a table that is looked at
MOST_OTHERS = 60  # of a row or column
AT_ONCE = 0.25  # what may be met by chance among the numbers nearest to it, and rows named together
_EXTREMES = re.compile(
    r"\b(?:best|worst|highest|lowest|largest|smallest|top|bottom|first|last|strongest|weakest|leader|laggard|most|least|"
    r"maximum|minimum|max|min|cheapest|dearest)\b",
    re.I,
)


def derive(number: WrittenNumber, place: NumberPlace, evidence: Evidence) -> Derivation | None:
    """How the number follows from what its sentence shows or names; None where it does not."""
    text = f"{place.text} {place.row} {place.column}"
    words = Words.of(number, text)
    shown = list(evidence.near)
    plain = [as_operand(o.figure, number) for o in shown if o.figure is not None]  # 3.2 GWh as it was printed, in kWh
    tables = Tables(number, evidence, f"{place.before} {text} {' '.join(place.parents[:1])}")
    families: tuple[tuple[Candidates, float], ...] = (
        (of_shown(number, shown[:3], words), AT_ONCE),
        (_of_named(number, tables, words), AT_ONCE),
        (_of_extremes(number, tables, words), AT_ONCE),
        (_of_own_column(number, tables, words), AT_ONCE),
        (of_shown(number, shown, words), MAX_CHANCE),
        (of_shown(number, plain, words), MAX_CHANCE),
        (_of_named_rows(number, tables, words), MAX_CHANCE),
        (_of_anchors(number, tables, words), MAX_CHANCE),
        (_of_whole_columns(number, tables, words), MAX_CHANCE),
        (_of_totals(number, tables, shown, words), MAX_CHANCE),
        (_of_typed(number, shown, evidence.typed, words), MAX_CHANCE),
        (of_shown(number, [*shown[:4], *evidence.far], words), MAX_CHANCE),
    )
    return next((d for values, limit in families if (d := first_match(number, place, values, limit))), None)


@dataclass(frozen=True, slots=True)
class _Column:
    """Figures of a table that differ in one level alone; `level` is the one."""

    grid: Grid
    level: int
    figures: tuple[OutputNumber, ...]

    @property
    def is_row(self) -> bool:
        return self.level == len(self.grid.axes) - 1


class Tables:
    """The tables as one sentence sees them: which figures it shows, and which it names."""

    def __init__(self, number: WrittenNumber, evidence: Evidence, text: str):
        self.number = number
        self.text = text
        self.grids = [grid for grid in evidence.grids if len(grid.figures) <= MOST_ROWS]
        self.shown = [o.figure for o in evidence.near if o.figure is not None][:MOST_OPERANDS]

    @cached_property
    def columns(self) -> list[_Column]:
        return [column for grid in self.grids for column in _columns(grid)]

    @cached_property
    def _names(self) -> dict[int, list[set[str]]]:
        return {id(grid): _named_labels(grid, self.text) for grid in self.grids}

    @cached_property
    def named(self) -> list[Operand]:
        """What the text names by row and column."""
        found = [f for grid in self.grids for f in grid.figures if self.is_named(f)]
        return [as_operand(f, self.number) for f in found[: 2 * MOST_OPERANDS]]

    def names(self, grid: Grid, level: int) -> set[str]:
        """The labels of a level that the text mentions."""
        return self._names[id(grid)][level]

    def is_named(self, figure: OutputNumber, but: int = -1) -> bool:
        """Whether the text names the figure's labels: in each level, but one, that has several for
        the labels which it names.
        """
        if figure.grid is None or id(figure.grid) not in self._names:
            return False
        names = self._names[id(figure.grid)]
        levels = [i for i, label in enumerate(figure.labels) if label in names[i] and i != but]
        open_ = [i for i in range(len(figure.labels)) if i not in (*levels, but)]
        if not levels:
            return False
        alike = [f for f in figure.grid.figures if f.labels and all(f.labels[i] == figure.labels[i] for i in levels)]
        return all(f.labels[i] == figure.labels[i] for f in alike for i in open_)

    def anchors(self, column: _Column) -> list[OutputNumber]:
        shown = [f for f in column.figures if any(f is s for s in self.shown)]
        return shown + [f for f in column.figures if self.is_named(f) and not any(f is s for s in shown)]


def _named_labels(grid: Grid, text: str) -> list[set[str]]:
    return [{v.labels[m.label] for m in v.mentions(text)} if len(v) > 1 else set() for v in grid.vocabularies]


def _columns(grid: Grid) -> Iterator[_Column]:
    for level, vocabulary in enumerate(grid.vocabularies):
        if vocabulary.is_statistic or vocabulary.num_printed < 2:
            continue
        groups: dict[tuple[str, ...], list[OutputNumber]] = {}
        for figure in grid.figures:
            if len(figure.labels) > level:
                groups.setdefault((*figure.labels[:level], *figure.labels[level + 1 :]), []).append(figure)
        for figures in groups.values():
            rows = [f for f in figures if not _is_total(f.labels[level])]
            if 2 <= len(rows) <= MOST_OTHERS:
                yield _Column(grid, level, tuple(rows))


def _is_total(label: str) -> bool:
    words = forms(label)
    return bool(words) and words <= TOTAL_WORDS


# -- families --------------------------------------------------------------------------------------


def _of_named(number: WrittenNumber, tables: Tables, words: Words) -> Iterator[tuple[float, Derivation]]:
    """From values of rows that the text names, two or more, of one column each."""
    for column in tables.columns:
        named = tables.names(column.grid, column.level)
        if not 2 <= len(named) <= MOST_OPERANDS:
            continue
        rows = [as_operand(f, number) for f in column.figures if f.labels[column.level] in named]
        for a, b in permutations(rows, 2):
            yield from of_pair(number, a, b, words)


def _of_extremes(number: WrittenNumber, tables: Tables, words: Words) -> Iterator[tuple[float, Derivation]]:
    """The difference between the largest and the smallest of a column, or their ratio."""
    if len(_EXTREMES.findall(words.text)) < 2:
        return
    for column in tables.columns:
        ends = [max(column.figures, key=lambda f: f.value), min(column.figures, key=lambda f: f.value)]
        for a, b in permutations([as_operand(f, number) for f in ends], 2):
            yield from of_pair(number, a, b, words)


def _of_own_column(number: WrittenNumber, tables: Tables, words: Words) -> Iterator[tuple[float, Derivation]]:
    """The share of an anchor in the sum of its column, and what is left of it."""
    if not number.share:
        return
    for column in tables.columns:
        total = sum(f.value for f in column.figures)
        if total <= 0 or any(f.value < 0 for f in column.figures):
            continue
        for figure in tables.anchors(column):
            shown = f"{figure.text} / the sum of {len(column.figures)} rows"
            yield figure.value / total * number.share, Derivation(figure.source, shown)
    yield from of_the_rest(number, tables.named, words)


def _of_named_rows(number: WrittenNumber, tables: Tables, words: Words) -> Iterator[tuple[float, Derivation]]:
    """The values of one row that the text names among each other: revenue for each order."""
    for column in tables.columns:
        if not column.is_row or len(column.figures) > MOST_OPERANDS:
            continue
        if tables.is_named(column.figures[0], column.level):
            for a, b in permutations([as_operand(f, number) for f in column.figures], 2):
                yield from of_pair(number, a, b, words)


def _of_anchors(number: WrittenNumber, tables: Tables, words: Words) -> Iterator[tuple[float, Derivation]]:
    """An anchor against the others of its row or column."""
    for column in tables.columns:
        for figure in tables.anchors(column):
            a = as_operand(figure, number)
            for b in (as_operand(f, number) for f in column.figures if f is not figure):
                yield from of_pair(number, a, b, words)
                yield from of_pair(number, b, a, words)


def _of_whole_columns(number: WrittenNumber, tables: Tables, words: Words) -> Iterator[tuple[float, Derivation]]:
    """The sum and the average of a column."""
    for column in tables.columns:
        first = column.figures[0]
        if bool(first.share) != bool(number.share) and not (number.share and abs(first.value) <= 1):
            continue
        factor = number.share / (first.share or 1.0) if number.share else 1.0
        total, count = sum(f.value for f in column.figures) * factor, len(column.figures)
        if words.adds:
            yield total, Derivation(first.source, f"the sum of {count} rows")
        if words.averages:
            yield total / count, Derivation(first.source, f"the average of {count} rows")


def _of_totals(
    number: WrittenNumber, tables: Tables, shown: Sequence[Operand], words: Words
) -> Iterator[tuple[float, Derivation]]:  # fmt: skip
    """What is shown or named in a total: the sum of a column, or what a call calls total or n."""
    totals = [
        Operand(sum(f.value for f in c.figures), 0.0, c.figures[0].source, f"the sum of {len(c.figures)} rows")
        for c in tables.columns
        if not c.figures[0].share
    ]
    totals += [
        as_operand(f, number) for grid in tables.grids for f in grid.figures if any(map(_is_total, f.labels))
    ]  # fmt: skip
    for operand in shown[:2]:
        for total in totals[:MOST_OTHERS]:
            yield from of_pair(number, operand, total, words)
            yield from of_pair(number, total, operand, words)


def _of_typed(
    number: WrittenNumber, operands: Sequence[Operand], typed: Sequence[Operand], words: Words
) -> Iterator[tuple[float, Derivation]]:  # fmt: skip
    """An operand and a number of the task: short of the goal, times the price."""
    for a in operands[:MOST_OPERANDS]:
        for b in typed[:MOST_OPERANDS]:
            yield from of_pair(number, a, b, words)
            yield from of_pair(number, b, a, words)
            if not a.share and not b.share and not number.share:
                yield a.value * b.value, Derivation(a.source, f"{a.text} * {b.text}")
