"""Numbers that follow from the rows and columns of the tables that calls printed.

A value is an anchor where the sentence shows it, or names its row and its column. What counts are
an anchor against the others of its row or column, the values of a named row among each other, an
anchor
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
    SUM_WORDS,
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
NAMED = 0.5  # what may be met by chance among rows that the sentence names, of a column that it leaves open
AT_ONCE = 0.3  # what may be met by chance among the numbers nearest to it, and rows named together
_EXTREMES = re.compile(
    r"\b(?:best|worst|highest|lowest|largest|smallest|top|bottom|first|last|strongest|weakest|leader|laggard|most|least|"
    r"maximum|minimum|max|min|cheapest|dearest)\b",
    re.I,
)
_RATES = frozenset(
    "mean median std rate share min max score price correlation growth per ratio margin temp temperature age".split()
)
_FEW = "two three four five six seven eight nine ten".split()
_PRONOUN = re.compile(r"\W*(?:it|they|this|that|these|he|she|its|their|both)\b", re.I)
_AT_LEAST = re.compile(
    r"\b(\d+) (?:or|and) (?:higher|more|above|over|better|older|later|greater)\b|\bat least (\d+)\b", re.I
)
_FIRST_OF = re.compile(rf"\b(?:these|the|top|first|those|all) ({'|'.join(_FEW)})\b", re.I)


def derive(
    number: WrittenNumber, place: NumberPlace, evidence: Evidence, *, is_of_another: bool = False
) -> Derivation | None:  # fmt: skip
    """How the number follows from what its sentence shows or names; None where it does not. A
    number
    that is the value of another row (`is_of_another`) must follow from the numbers beside it.
    """
    text = f"{place.text} {place.row} {place.column}"
    words = Words.of(number, text)
    shown = list(evidence.near)
    plain = [as_operand(o.figure, number) for o in shown if o.figure is not None]  # 3.2 GWh as it was printed, in kWh
    tables = Tables(number, evidence, place)
    families: tuple[tuple[Candidates, float], ...] = (
        (of_shown(number, shown[:3], words), AT_ONCE),
        (_of_nearest_rows(number, tables, words), AT_ONCE),
        (_of_named(number, tables, words, True), AT_ONCE),
        (_of_group_sums(number, tables), AT_ONCE),
        (_of_two_rows(number, tables, words), AT_ONCE),
        (_of_extremes(number, tables, words), AT_ONCE),
        (_of_own_column(number, tables, words), AT_ONCE),
        (of_shown(number, shown, words), MAX_CHANCE),
        (of_shown(number, plain, words), MAX_CHANCE),
        (_of_named(number, tables, words, False), NAMED),
        (_of_named_rows(number, tables, words), MAX_CHANCE),
        (_of_anchors(number, tables, words), MAX_CHANCE),
        (_of_whole_columns(number, tables, words), MAX_CHANCE),
        (_of_totals(number, tables, shown, words), MAX_CHANCE),
        (_of_twins(number, tables, words), MAX_CHANCE),
        (_of_shown_and_named(number, shown, tables, words), MAX_CHANCE),
        (_of_typed(number, shown, tables.rows, evidence.typed, words), MAX_CHANCE),
        (of_shown(number, [*shown[:4], *evidence.far], words), MAX_CHANCE),
    )
    if is_of_another:
        families = (families[0], families[2], families[3])
    others: set[float] = set()
    found = (
        first_match(number, place, values, limit, set() if limit == NAMED else others) for values, limit in families
    )  # fmt: skip
    return next((derivation for derivation in found if derivation is not None), None)


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

    def __init__(self, number: WrittenNumber, evidence: Evidence, place: NumberPlace):
        self.number = number
        self.place = place
        self.grids = [grid for grid in evidence.grids if len(grid.figures) <= MOST_ROWS]
        self.shown = [o.figure for o in evidence.near if o.figure is not None][:MOST_OPERANDS]

    @cached_property
    def columns(self) -> list[_Column]:
        return [column for grid in self.grids for column in _columns(grid)]

    @cached_property
    def _names(self) -> dict[int, list[set[str]]]:
        place = self.place
        above = f"{place.before} {' '.join(place.parents[:1])}"
        texts = (f"{place.text} {place.row} {place.column}", above)
        if _PRONOUN.match(place.text):
            texts = (f"{above} {texts[0]}", "")
        return {id(grid): _named_labels(grid, texts) for grid in self.grids}

    @cached_property
    def named(self) -> list[Operand]:
        """What the text names by row and column."""
        found = [f for grid in self.grids for f in grid.figures if self.is_named(f)]
        return [as_operand(f, self.number) for f in found[: 2 * MOST_OPERANDS]]

    @cached_property
    def rows(self) -> list[Operand]:
        """The values of rows that the text names, of all columns; what it names wholly first."""
        found = [f for grid in self.grids for f in grid.figures if f.labels and self.is_named(f, len(f.labels) - 1)]
        return [*self.named, *(as_operand(f, self.number) for f in found)][: 3 * MOST_OPERANDS]

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
        open_ = [
            i for i in range(len(figure.labels))
            if i not in (*levels, but) and not (but >= 0 and figure.grid.vocabularies[i].is_statistic)
        ]  # fmt: skip
        if not levels:
            return False
        alike = [f for f in figure.grid.figures if f.labels and all(f.labels[i] == figure.labels[i] for i in levels)]
        return all(f.labels[i] == figure.labels[i] for f in alike for i in open_)

    def nearest(self, column: _Column) -> set[str]:
        return self.nearest_label(column.grid, column.level)

    def nearest_label(self, grid: Grid, level: int) -> set[str]:
        """The label of a level that the sentence mentions last before the number, or else first
        behind it.
        """
        vocabulary = grid.vocabularies[level]
        mentions = vocabulary.mentions(self.place.text) if not self.place.is_cell else []
        before = [m for m in mentions if m.end <= self.place.start]
        names = self.names(grid, level)
        behind = mentions[:1] if not before else before[-1:]
        return {vocabulary.labels[m.label] for m in behind} or names

    def is_meant(self, column: _Column) -> bool:
        """Whether the text names the column, or shows a value of it."""
        names, labels = self._names[id(column.grid)], column.figures[0].labels
        said = forms(f"{self.place.text} {self.place.column}")
        named = any(
            label in names[i] or (len(column.grid.vocabularies[i]) == 1 and forms(label) & said)
            for i, label in enumerate(labels) if i != column.level
        )  # fmt: skip
        return named or any(f is s for f in column.figures for s in self.shown[:4])

    def anchors(self, column: _Column) -> list[OutputNumber]:
        shown = [f for f in column.figures if any(f is s for s in self.shown)]
        return shown + [f for f in column.figures if self.is_named(f) and not any(f is s for s in shown)]


def _named_labels(grid: Grid, texts: Sequence[str]) -> list[set[str]]:
    """The labels of each level that the first of the texts mentions which mentions any."""
    names: list[set[str]] = []
    for text in texts:
        names = [{v.labels[m.label] for m in v.mentions(text)} if len(v) > 1 else set() for v in grid.vocabularies]
        if any(names):
            break
    return names


def _columns(grid: Grid) -> Iterator[_Column]:
    for level, vocabulary in enumerate(grid.vocabularies):
        if vocabulary.is_statistic or vocabulary.num_printed < 2:
            continue
        groups: dict[tuple[str, ...], list[OutputNumber]] = {}
        same = _same_as(grid, level)
        for figure in grid.figures:
            if len(figure.labels) > level:
                key = tuple(label for i, label in enumerate(figure.labels) if i not in same)
                groups.setdefault(key, []).append(figure)
        for figures in groups.values():
            rows = [f for f in figures if not _is_total(f.labels[level], SUM_WORDS)]
            if 2 <= len(rows) <= MOST_OTHERS:
                yield _Column(grid, level, tuple(rows))


def _same_as(grid: Grid, level: int) -> set[int]:
    """The levels that say the same as one: a name and the country that only it has."""
    labels = {f.labels[:-1] for f in grid.figures if len(f.labels) > 2}
    if not labels or level == len(grid.axes) - 1 or len({row[level] for row in labels}) < len(labels):
        return {level}
    return set(range(len(grid.axes) - 1))


def _counts(column: _Column) -> bool:
    return any(forms(label) & {"count", "sum"} for i, label in enumerate(column.figures[0].labels) if i != column.level)


def _adds_up(column: _Column) -> bool:
    """Whether the sum of a column says something: not that of means and rates, nor of lines."""
    labels = [label for i, label in enumerate(column.figures[0].labels) if i != column.level]
    rates = any(forms(label) & _RATES for label in labels)
    shares = all(abs(f.value) <= 1 and f.step < 1 for f in column.figures)
    return not (rates or shares or column.grid.is_lines or any(f.share or f.value < 0 for f in column.figures))


def _is_total(label: str, among: frozenset[str] = TOTAL_WORDS) -> bool:
    words = forms(label)
    return bool(words) and words <= among


# -- families --------------------------------------------------------------------------------------


def _of_named(
    number: WrittenNumber, tables: Tables, words: Words, meant: bool
) -> Iterator[tuple[float, Derivation]]:  # fmt: skip
    """From values of rows that the text names, two or more, of one column each: of those that it
    names or shows, or of all.
    """
    for column in tables.columns:
        named = tables.names(column.grid, column.level)
        if not 2 <= len(named) <= MOST_OPERANDS or tables.is_meant(column) is not meant:
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
    for column in filter(_adds_up, tables.columns):
        total = sum(f.value for f in column.figures)
        names = tables.nearest(column)
        anchors = [
            f for f in tables.anchors(column)
            if not names or f.labels[column.level] in names or any(f is s for s in tables.shown[:1])
        ]  # fmt: skip
        if not anchors and len(names) == 1 and not column.is_row:
            anchors = [f for f in column.figures if f.labels[column.level] in names]
        for figure in anchors:
            shown = f"{figure.text} / the sum of {len(column.figures)} rows"
            yield figure.value / total * number.share, Derivation(figure.source, shown)
    yield from of_the_rest(number, tables.named, words)


def _of_nearest_rows(number: WrittenNumber, tables: Tables, words: Words) -> Iterator[tuple[float, Derivation]]:
    """The values among each other of the row that the sentence names last before the number."""
    for column in tables.columns:
        rows = [level for level in range(len(column.grid.axes) - 1) if tables.names(column.grid, level)]
        if not column.is_row or len(column.figures) > MOST_OPERANDS or not rows:
            continue
        labels = column.figures[0].labels
        if all(labels[level] in tables.nearest_label(column.grid, level) for level in rows):
            for a, b in permutations([as_operand(f, number) for f in column.figures], 2):
                yield from of_pair(number, a, b, words)


def _of_group_sums(number: WrittenNumber, tables: Tables) -> Iterator[tuple[float, Derivation]]:
    """The sum of the rows of a group that the text names: juniors and seniors of IT."""
    for column in tables.columns:
        figures = column.figures
        named = any(
            label in tables.nearest_label(column.grid, level)
            for level, label in enumerate(figures[0].labels[:-1]) if level != column.level
        )  # fmt: skip
        if named and not column.is_row and not number.share and _adds_up(column):
            yield sum(f.value for f in figures), Derivation(figures[0].source, f"the sum of {len(figures)} rows")


def _of_two_rows(number: WrittenNumber, tables: Tables, words: Words) -> Iterator[tuple[float, Derivation]]:
    """The two values of a column that has no more, where the text names or shows the column."""
    for column in tables.columns:
        if len(column.figures) == 2 and tables.is_meant(column):
            for a, b in permutations([as_operand(f, number) for f in column.figures], 2):
                yield from of_pair(number, a, b, words)


def _of_named_rows(number: WrittenNumber, tables: Tables, words: Words) -> Iterator[tuple[float, Derivation]]:
    """The values of one row that the text names among each other: revenue for each order."""
    for column in tables.columns:
        if len(column.figures) > MOST_OPERANDS:
            continue
        if tables.is_named(column.figures[0], column.level):
            for a, b in permutations([as_operand(f, number) for f in column.figures], 2):
                yield from of_pair(number, a, b, words)


def _of_anchors(number: WrittenNumber, tables: Tables, words: Words) -> Iterator[tuple[float, Derivation]]:
    """An anchor against the others of its row or column."""
    for column in tables.columns:
        anchors = tables.anchors(column)
        if not anchors and not column.is_row:
            anchors = [f for f in column.figures if f.labels[column.level] in tables.nearest(column)]
        for figure in anchors:
            a = as_operand(figure, number)
            for b in (as_operand(f, number) for f in column.figures if f is not figure):
                yield from of_pair(number, a, b, words)
                yield from of_pair(number, b, a, words)


def _of_whole_columns(number: WrittenNumber, tables: Tables, words: Words) -> Iterator[tuple[float, Derivation]]:
    """The sum and the average of a column; the sum of some of its rows."""
    for column in tables.columns:
        first = column.figures[0]
        if column.grid.is_lines:
            continue
        if bool(first.share) != bool(number.share) and not (number.share and abs(first.value) <= 1):
            continue
        factor = number.share / (first.share or 1.0) if number.share else 1.0
        total, count = sum(f.value for f in column.figures) * factor, len(column.figures)
        whole = number.is_whole and number.value >= 100 and all(f.step >= 1 for f in column.figures)
        if (words.adds or whole or _counts(column)) and (_adds_up(column) or number.share):
            yield total, Derivation(first.source, f"the sum of {count} rows")
        if not column.is_row and _adds_up(column):
            yield from _of_some_rows(column, words)
        if words.averages:
            yield total / count, Derivation(first.source, f"the average of {count} rows")


def _of_some_rows(column: _Column, words: Words) -> Iterator[tuple[float, Derivation]]:
    """The sum of the first three, and of those from 7 on."""
    first = column.figures[0]
    if first_of := _FIRST_OF.search(words.text):
        size = _FEW.index(first_of[1].lower()) + 2
        some = sum(f.value for f in column.figures[:size])
        yield some, Derivation(first.source, f"the sum of the first {size} rows")
    if at_least := _AT_LEAST.search(words.text):
        limit = int(at_least[1] or at_least[2])
        rows = [f for f in column.figures if re.fullmatch(r"\d+", f.labels[column.level])]
        total = sum(f.value for f in rows if int(f.labels[column.level]) >= limit)
        yield total, Derivation(first.source, f"the sum of the rows from {limit} on")


def _of_totals(
    number: WrittenNumber, tables: Tables, shown: Sequence[Operand], words: Words
) -> Iterator[tuple[float, Derivation]]:  # fmt: skip
    """What is shown or named in a total: the sum of a column, or what a call calls total or n."""
    totals = [
        Operand(sum(f.value for f in c.figures), 0.0, c.figures[0].source, f"the sum of {len(c.figures)} rows")
        for c in filter(_adds_up, tables.columns)
    ]
    totals += [
        as_operand(f, number) for grid in tables.grids for f in grid.figures if any(map(_is_total, f.labels))
    ]  # fmt: skip
    for operand in shown[:2]:
        for total in totals[:MOST_OTHERS]:
            if words.leaves and not number.share and not operand.share:
                yield total.value - operand.value, Derivation(operand.source, f"{total.text} - {operand.text}")
            if number.share and total.value and not operand.share:
                yield (
                    operand.value / total.value * number.share,
                    Derivation(operand.source, f"{operand.text} / {total.text}"),
                )
            elif words.divides and operand.value and total.value > operand.value:
                yield total.value / operand.value, Derivation(operand.source, f"{total.text} / {operand.text}")


def _of_twins(number: WrittenNumber, tables: Tables, words: Words) -> Iterator[tuple[float, Derivation]]:
    """A value against what another table has for the same row."""
    by_row: dict[str, list[OutputNumber]] = {}
    for grid in tables.grids:
        for figure in grid.figures:
            if figure.labels and not grid.is_lines:
                by_row.setdefault(figure.labels[0], []).append(figure)
    for figure in [*tables.shown[:2], *(o.figure for o in tables.named if o.figure)]:
        for twin in by_row.get(figure.labels[0], ()) if figure.labels else ():
            if twin.grid is not figure.grid and (len(twin.labels) < 3 or twin.labels == figure.labels):
                a, b = as_operand(figure, number), as_operand(twin, number)
                yield from of_pair(number, a, b, words)
                yield from of_pair(number, b, a, words)


def _of_shown_and_named(
    number: WrittenNumber, shown: Sequence[Operand], tables: Tables, words: Words
) -> Iterator[tuple[float, Derivation]]:  # fmt: skip
    for a in shown[:2]:
        for b in tables.rows:
            yield from of_pair(number, a, b, words)
            yield from of_pair(number, b, a, words)


def _of_typed(
    number: WrittenNumber, shown: Sequence[Operand], rows: Sequence[Operand], typed: Sequence[Operand], words: Words
) -> Iterator[tuple[float, Derivation]]:  # fmt: skip
    """An operand and a number of the task: short of the goal, times the price."""
    for a in rows if words.differs and not number.share else ():
        for b in typed[:MOST_OPERANDS]:
            gap = Derivation(a.source, f"{a.text} - {b.text}", True)
            yield (abs(a.value - b.value), gap) if not a.share else (0.0, gap)
    for a in shown[:MOST_OPERANDS]:
        for b in typed[:MOST_OPERANDS]:
            yield from of_pair(number, a, b, words)
            yield from of_pair(number, b, a, words)
            if not a.share and not b.share and not number.share and b.value:
                yield a.value * b.value, Derivation(a.source, f"{a.text} * {b.text}")
                yield a.value / b.value, Derivation(a.source, f"{a.text} / {b.text}")
