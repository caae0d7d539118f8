"""Where the numbers of a report come from: executed calls, the task, or nowhere.

    given = [NumberSource("cell 3", "North    84.15\\nSouth    13.68")]
    check_numbers("The South sold 84.15.", given)[0].reason

A number is traced where a call gave the same value, rounded to the digits shown, percent against
fraction, in thousands or millions. It is not where only the value of another row or column is the
same, as far as the text says which row it means (`attachment.py`). A difference, change, ratio,
share or sum of numbers that the sentence shows or names is computed here and so checked
(`derived.py`); other arithmetic was not executed and is unsupported.

A traced number was given by a call: that the call computed the right thing is not shown by this.
"""

from __future__ import annotations

import ast
import re
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from qwq.agent.report.attachment import Attachments
from qwq.agent.report.derived import Derivation, Operand, derive
from qwq.agent.report.grid import Grid, OutputNumber, lines_grid
from qwq.agent.report.label_words import forms
from qwq.agent.report.output_numbers import read_figures
from qwq.agent.report.places import NumberPlace, Places
from qwq.agent.report.reader import WrittenNumber, read_numbers

TASK = "task"
_TIMES_100 = re.compile(r"\*\s*100(?:\.0*)?\b|\b100(?:\.0*)?\s*\*|\bmul\(\s*100|pct|percent|%['\"}]", re.IGNORECASE)
_PERCENT = re.compile(r"[%％]|pct|perc|百分", re.IGNORECASE)
_RATE = re.compile(r"rate|share|ratio|margin|yield|interest|率|占比", re.IGNORECASE)
_CHANGE = re.compile(r"growth|change|chg|return|increase|diff|delta|yoy|lift|uplift|gain|变化|增长", re.IGNORECASE)
_LOSS = re.compile(r"drop|decline|decrease|fall|loss|reduc|下降|减少", re.IGNORECASE)
_BASIS = re.compile(r"basis|bps|\bbp\b", re.IGNORECASE)
_DOWN = re.compile(
    r"\b(?:fell|fall(?:s|ing|en)?|declin\w*|drop\w*|decreas\w*|reduc\w*|lower\w*|down|lost|loss(?:es)?|negativ\w*|"
    r"invers\w*|minus|below|shr[aiu]nk\w*|contract\w*|slip\w*|slid\w*|under|less|deficit|cut\w*|cool\w*|shorter|smaller)"
    r"|下降|减少|下跌|下滑|降低|负|亏损",
    re.IGNORECASE,
)
_FELL_BY = re.compile(
    r"(?:\b(?:fell|falls|fallen|declined|declines|dropped|drops|decreased|decreases|shrank|shrunk|down|slipped|contracted)"
    r"(?:\s+by)?|\b(?:decline|drop|decrease|fall|reduction|loss)\s+of|下降了?|减少了?|下跌了?)\s*(?:about|around|~)?\s*[$€£¥]?$",
    re.IGNORECASE,
)
_QUANTILES = ("1%", "5%", "10%", "25%", "50%", "75%", "90%", "95%", "99%")
_BELOW = re.compile(
    r"below|under|less|fewer|lower|above|over|more|at (?:most|least)|or (?:less|more)|up to|quantile|quartile|"
    r"percentile|median|middle|half|within|between|exceed|top|bottom|分位",
    re.I,
)
_ADVICE = re.compile(
    r"\b(?:recommend\w*|suggest\w*|propos\w*|should|could|consider|plan(?:s|ned)? to|aim\w*|target\w*|goal|next steps?|"
    r"advis\w*|let us|we will|ought|review|try)\b|建议|应当|计划",
    re.I,
)
_FACTORS = (1.0, 1e2, 1e3, 1e4, 1e-2, 1e-3, 1e-4)  # from a figure to a number in its unit
_SCALE_WORDS = {
    1e3: re.compile(r"thousand|1e3\b|/\s*1_?000\b|\(k\)|_k\b|千", re.I),
    1e6: re.compile(r"million|1e6\b|1_?000_?000\b|_m\b|_mn\b|\bmn\b|\bM\b|百万", re.I),
    1e9: re.compile(r"billion|1e9\b|1_?000_?000_?000\b|_bn\b|\bbn\b", re.I),
    1e4: re.compile(r"万|1e4\b|/\s*1_?0000\b"),
    1e8: re.compile(r"亿|1e8\b"),
}


@dataclass(frozen=True, slots=True)
class NumberSource:
    """The output of one executed call, or the task. `code` is what was executed."""

    label: str
    text: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class NumberCheck:
    """A number of the text at [start, end), where it is from, and why it is from nowhere.

    `source` is a source's label, None where the number is unsupported. `kind` is output, code (a
    limit or an option in the code, such as 20000 in `amount > 20000`), task, derived (it follows
    from numbers that calls gave, as `given` says), count (so many rows of that name were printed),
    or value (registered in strict mode). `given` is the value as the call printed it.
    """

    text: str
    start: int
    end: int
    source: str | None
    reason: str = ""
    kind: str = ""
    given: str = ""


def check_numbers(text: str, sources: Sequence[NumberSource]) -> list[NumberCheck]:
    """Every number of a report that counts, in order; read `NumberCheck`."""
    return Trace(sources).check(text)


class Trace:
    """The figures of a run's outputs, to check texts against."""

    def __init__(self, sources: Sequence[NumberSource]):
        self.sources = sources
        lines = lines_grid()
        self.figures = [
            figure
            for i, source in enumerate(sources)
            if source.label != TASK
            for figure in read_figures(source.text, i, lines)
        ]

        self._order = sorted(range(len(self.figures)), key=lambda i: abs(self.figures[i].value))
        self._sizes = [abs(self.figures[i].value) for i in self._order]

    @cached_property
    def _typed(self) -> list[tuple[float, int, str]]:
        """(value, source, kind) of numbers in the task and of limits and options in the code."""
        typed = []
        for i, source in enumerate(self.sources):
            if source.label == TASK:
                typed += [(n.value, i, "task") for n in read_numbers(source.text, skip=False)]
            else:
                typed += [(value, i, "code") for value in literals(source.code)]
        return typed

    def check(self, text: str) -> list[NumberCheck]:
        numbers, places = read_numbers(text), Places(text)
        located = [(number, places.of(number)) for number in numbers]
        equals = [[f for f in self._near(n, place) if self._is_same(n, f, place)] for n, place in located]
        derived: dict[int, NumberCheck] = {}
        operands: dict[int, Operand] = {}
        for i, (number, place) in enumerate(located):
            if equals[i]:
                operands[i] = self._operand(number, place, equals[i][0])
            elif number.is_counted and (found := self._derivation(i, located, operands)) is not None:
                derived[i] = self._as_check(number, found)
                operands[i] = Operand(found.value, number.share, found.source, number.text)
        # A difference is no row's value: the others of its sentence are attached without it.
        attachments = Attachments(text, [n for i, n in enumerate(numbers) if i not in derived])
        checks = []
        for i, (number, place) in enumerate(located):
            check = derived.get(i) or self._check(number, place, equals[i], attachments)
            if check is not None and check.source is None and equals[i] and number.share:
                found = self._derivation(i, located, operands)  # another row has the share by chance
                check = check if found is None else self._as_check(number, found)
            if check is not None:
                checks.append(check)
        return checks

    def _derivation(
        self, index: int, located: Sequence[tuple[WrittenNumber, NumberPlace]], operands: Mapping[int, Operand]
    ) -> Derivation | None:
        """How a number that no call gave follows from others of its sentence and of the one before,
        or from rows that the sentence names.
        """
        number, place = located[index]
        begin = number.start - place.start - len(place.before)
        end = number.start - place.start + len(place.text)
        shown = [
            operand
            for i, operand in operands.items()
            if i != index and not located[i][0].is_year
            and (begin <= located[i][0].start < end or (place.is_cell and located[i][1].line == place.line))
        ]  # fmt: skip
        return derive(number, place, shown, self._grids)

    def _as_check(self, number: WrittenNumber, found: Derivation) -> NumberCheck:
        label = self.sources[found.source].label
        return NumberCheck(number.text, number.start, number.end, label, kind="derived", given=found.text)

    def _operand(self, number: WrittenNumber, place: NumberPlace, figure: OutputNumber) -> Operand:
        exact = next(
            (v for v in self._values(number, figure, place) if _close(number, v, ignore_sign=True)), number.value
        )
        return Operand(exact, number.share or place.share, figure.source, figure.text)

    @cached_property
    def _grids(self) -> list[Grid]:
        return list({id(f.grid): f.grid for f in self.figures if f.grid is not None}.values())

    def _check(
        self, number: WrittenNumber, place: NumberPlace, equal: Sequence[OutputNumber], attachments: Attachments
    ) -> NumberCheck | None:
        if not number.is_counted and (not place.is_cell or place.is_name):
            return None
        span = (number.text, number.start, number.end)
        reasons = [attachments.conflict(number, place, figure) for figure in equal]
        given = self._given(equal, reasons, place, attachments)
        if given is not None:
            return NumberCheck(*span, self.sources[given.source].label, kind="output", given=given.text)
        if (not equal or number.is_whole) and (typed := self._where_typed(number)):
            return NumberCheck(*span, typed[0], kind=typed[1])
        if (counted := self._counted(number, place)) is not None:
            return NumberCheck(*span, self.sources[counted].label, kind="count", given=number.text)
        if equal:
            index = next(i for i, reason in enumerate(reasons) if reason)
            return NumberCheck(*span, None, f"{self.sources[equal[index].source].label}: {reasons[index]}")
        if number.is_year or (number.may_be_year and place.is_name) or _is_advice(number, place):
            return None
        return NumberCheck(*span, None, "no executed call gave this number")

    def _given(
        self, equal: Sequence[OutputNumber], reasons: Sequence[str], place: NumberPlace, attachments: Attachments
    ) -> OutputNumber | None:
        """What gave the number: of those that fit, the one called most like it."""
        overlaps = [attachments.overlap(place, f, self.sources[f.source].code) for f in equal]
        # Where the number is known to be of another row, an equal one of something else is chance.
        known = any(reason and overlap for reason, overlap in zip(reasons, overlaps, strict=True))
        fitting = [
            (overlap, figure.source, -index)
            for index, (figure, reason, overlap) in enumerate(zip(equal, reasons, overlaps, strict=True))
            if not reason and (overlap or not known)
        ]
        return equal[-max(fitting)[2]] if fitting else None

    def _where_typed(self, number: WrittenNumber) -> tuple[str, str] | None:
        """(source, kind) of the number in the task or the code."""
        for value, source, kind in self._typed:
            share = number.share if abs(value) <= 1 else 0.0
            if _close(number, value) or (share and _close(number, value * share)):
                return self.sources[source].label, kind
        return None

    def _counted(self, number: WrittenNumber, place: NumberPlace) -> int | None:
        """The source of a table that has so many rows of the name behind the number: 4 years."""
        if not number.is_whole or number.share or number.scale != 1:
            return None
        behind = forms(" ".join(place.text[place.start + len(number.text) :].split()[:3]))
        for grid in self._grids:
            for vocabulary, axis in zip(grid.vocabularies, grid.axes, strict=True):
                if axis and forms(axis) & behind and vocabulary.num_printed == number.value:
                    return grid.figures[0].source
        return None

    def _near(self, number: WrittenNumber, place: NumberPlace) -> list[OutputNumber]:
        """The figures whose size fits in some unit, in the order of the outputs."""
        shown = abs(number.value)
        reach = number.step + (shown / 5 if number.hedge else 0.0)
        chosen: set[int] = set()
        for factor in {*_FACTORS, number.scale, 1 / number.scale, place.scale, 1 / place.scale}:
            low, high = (shown - reach) / factor, (shown + reach) / factor
            low, high = low - 1e-9 * abs(low), high + 1e-9 * abs(high)
            chosen.update(self._order[bisect_left(self._sizes, low) : bisect_right(self._sizes, high)])
        return [self.figures[i] for i in sorted(chosen)]

    # -- equality ----------------------------------------------------------------------------------

    def _is_same(self, number: WrittenNumber, figure: OutputNumber, place: NumberPlace) -> bool:
        if figure.share and figure.grid is None and figure.text in _QUANTILES and not _BELOW.search(place.text):
            return False  # the name of a row of describe()
        return any(
            self._fits(number, value, figure, place) for value in self._values(number, figure, place)
        )  # fmt: skip

    def _values(self, number: WrittenNumber, figure: OutputNumber, place: NumberPlace) -> Iterable[float]:
        """What the figure is in the number's unit, in each way that it may be meant."""
        value, share = figure.value, number.share or place.share
        if share:
            yield from self._shares(share, figure)
        else:
            yield value
            if figure.share:
                yield value / figure.share
        scale = number.scale if number.scale != 1 else place.scale
        if scale != 1:
            words = " ".join((*figure.labels, self.sources[figure.source].code))
            if number.scale == 1:
                yield value / scale
            elif scale in _SCALE_WORDS and _SCALE_WORDS[scale].search(words):
                yield value * scale

    def _shares(self, share: float, figure: OutputNumber) -> Iterable[float]:
        value, labels = figure.value, " ".join(figure.labels)
        if figure.share:
            yield value * share / figure.share
            return
        as_percent = bool(_PERCENT.search(labels) or _TIMES_100.search(self.sources[figure.source].code))
        if abs(value) <= 1 or (abs(value) <= 10 and _CHANGE.search(labels)):
            yield value * share
        if share == 100 and ((abs(value) > 1 and (figure.step < 1 or _RATE.search(labels))) or as_percent):
            yield value
        if share == 1e4 and (abs(value) >= 1 or _BASIS.search(labels)):
            yield value
            if as_percent:
                yield value * 100

    def _fits(self, number: WrittenNumber, value: float, figure: OutputNumber, place: NumberPlace) -> bool:
        if not _close(number, value, ignore_sign=True):
            return False
        if value == 0 or (value < 0) == (number.value < 0):
            fell = _FELL_BY.search(place.text[: place.start])
            # A fall by -3 is a rise, and so is what the call calls a change and gives as a plus.
            return not (fell and (number.value < 0 or (value > 0 and _CHANGE.search(" ".join(figure.labels)))))
        if number.either_sign:
            return True
        if number.value < 0:
            return bool(_LOSS.search(" ".join(figure.labels)))
        around = place.text[max(0, place.start - 70) : place.start + len(number.text) + 40] + place.row + place.column
        return bool(_DOWN.search(around))


def _is_advice(number: WrittenNumber, place: NumberPlace) -> bool:
    """A round number of what is recommended or planned: shift 10% of the budget."""
    digits = number.text.strip("$€£%").rstrip("0%").replace(",", "")
    is_round = len(re.sub(r"\D", "", digits)) <= 1 or number.value % 5 == 0
    return is_round and number.is_whole and bool(_ADVICE.search(place.text[: place.start]))


def _close(number: WrittenNumber, value: float, *, ignore_sign: bool = False) -> bool:
    """Whether `value` rounds to the number as it is shown; with "about", to its round figure."""
    shown = number.value
    if ignore_sign:
        shown, value = abs(shown), abs(value)
    half = number.step / 2 * (1 + 1e-9) + 1e-12 * abs(value)
    if abs(value - shown) <= half:
        return True
    if not number.hedge:
        return False
    whole = round(abs(shown) / number.step)
    grain = number.step
    while whole and whole % 10 == 0:
        whole, grain = whole // 10, grain * 10
    grain = min(grain, abs(shown) / 10)
    if number.hedge == "about":
        return abs(value - shown) <= grain / 2
    return 0 <= (value - shown if number.hedge == "above" else shown - value) < grain


# -- what the code says ----------------------------------------------------------------------------

_SHOWING = {"print", "display", "format", "round", "value", "table", "Series", "DataFrame", "array"}
_SQL = re.compile(
    r"(?:[<>=]|\b(?:limit|between|and|in\s*\(|like|interval|offset|then|else|having))\s*\(?(-?\d+(?:\.\d+)?)", re.I
)


def literals(code: str) -> list[float]:
    """Numbers with which code compares, cuts or is called, but not those that it only assigns or
    shows: a figure typed into the code is no result.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return [float(match[1]) for match in _SQL.finditer(code)]
    found: list[float] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            found += _constants([node.left, *node.comparators])
        elif isinstance(node, ast.Slice):
            found += _constants([part for part in (node.lower, node.upper) if part])
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name not in _SHOWING:
                found += _constants([*node.args, *(k.value for k in node.keywords)])
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.search(r"\bselect\b", node.value, re.I)
        ):
            found += [float(match[1]) for match in _SQL.finditer(node.value)]
    return found


def _constants(nodes: Iterable[ast.expr]) -> list[float]:
    values: list[float] = []
    for node in nodes:
        if isinstance(node, (ast.List, ast.Tuple)):
            values += _constants(node.elts)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            values += [-value for value in _constants([node.operand])]
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
        ):
            values.append(float(node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            values += [n.value for n in read_numbers(node.value, skip=False)]
    return values
