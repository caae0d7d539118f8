"""Where the numbers of a report come from: executed calls, the task, or nowhere.

    given = [NumberSource("cell 3", "North    84.15\\nSouth    13.68")]
    check_numbers("The South sold 84.15.", given)[0].reason

A number is traced where a call gave the same value, rounded to the digits shown, percent against
fraction, in thousands or another unit (`matching.py`). It is not where only the value of another
row or column is the same, as far as the text says which row it means (`attachment.py`). A
difference, change, ratio, share, sum or average of numbers that the sentence shows or names is
computed here and so checked (`derived.py`); other arithmetic was not executed and is unsupported.

A traced number was given by a call: that the call computed the right thing is not shown by this.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from qwq.agent.report.attachment import Attachments
from qwq.agent.report.code_limits import literals
from qwq.agent.report.derived import Derivation, Evidence, Operand
from qwq.agent.report.derived_rows import derive
from qwq.agent.report.directions import goes_other_way
from qwq.agent.report.grid import Grid, OutputNumber, lines_grid
from qwq.agent.report.label_words import forms
from qwq.agent.report.matching import Figures, close
from qwq.agent.report.output_numbers import read_figures
from qwq.agent.report.places import NumberPlace, Places, paragraph_starts
from qwq.agent.report.reader import WrittenNumber, read_numbers
from qwq.agent.report.said_twice import said_twice

TASK = "task"
_ADVICE = re.compile(
    r"\b(?:recommend\w*|suggest\w*|propos\w*|should|could|consider|plan(?:s|ned)? to|aim(?:s|ed)? (?:for|at|"
    r"to)|next steps?|"
    r"advis\w*|let us|we will|ought|review|try)\b|建议|应当|计划",
    re.I,
)
_ADVICE_ABOVE = re.compile(
    r"\b(?:recommend\w*|next steps?|suggestions?|action items?|action plan|proposals?)\b|建议|下一步", re.I
)
_TIMES = ("hours", "days", "weeks", "months", "hour", "day", "week", "month")
_NAME_BEFORE = re.compile(r"([A-Za-z][\w.&+'-]*|[\u4e00-\u9fff]+)([ \u00a0-]?)$")


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


def _given_to_two(check: NumberCheck | None, number: WrittenNumber) -> NumberCheck | None:
    """The check of a number whose value an output gave once and the text gives to two things."""
    if check is None or check.kind != "output":
        return check
    reason = f"{check.source} gave {check.given} once, and the text gives it to two things"
    return NumberCheck(number.text, number.start, number.end, None, reason)


class Trace:
    """The figures of a run's outputs, to check texts against."""

    def __init__(self, sources: Sequence[NumberSource]):
        self.sources = sources
        lines = lines_grid()
        figures = [
            figure
            for i, source in enumerate(sources)
            if source.label != TASK
            for figure in read_figures(source.text, i, lines)
        ]
        self.figures = Figures(figures, [source.code for source in sources])

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
        equals = [self.figures.equal(n, place) for n, place in located]
        attachments = Attachments(text, numbers)
        operands = {
            i: operand for i, (n, place) in enumerate(located)
            if (operand := self._operand(n, place, equals[i], attachments, text)) is not None
        }  # fmt: skip
        derived = self._derived(located, equals, operands, text)
        # A difference is no row's value: the others of its sentence are attached without it.
        attachments = Attachments(text, [n for i, n in enumerate(numbers) if i not in derived])
        typed = {i for i, (n, _) in enumerate(located) if n.is_whole and self._where_typed(n)}
        twice = said_twice(located, equals, text, derived.keys() | typed)
        checks = []
        for i, (number, place) in enumerate(located):
            check = derived.get(i) or self._check(number, place, equals[i], attachments, text)
            if i in twice:
                check = _given_to_two(check, number)
            if check is not None and check.source is None and equals[i] and number.share:
                # Another row has the share by chance.
                found = self._derivation(i, located, operands, text, is_of_another=True)
                check = check if found is None else self._as_check(number, found)
            if check is not None:
                checks.append(check)
        return checks

    def _derived(
        self, located: Sequence[tuple[WrittenNumber, NumberPlace]], equals: Sequence[Sequence[OutputNumber]],
        operands: dict[int, Operand], text: str,
    ) -> dict[int, NumberCheck]:  # fmt: skip
        """The numbers that no call gave and that follow from others, which become operands too. A
        whole number that a fraction rounds to (16 of 15.5) may be either.
        """
        derived: dict[int, NumberCheck] = {}
        for i, (number, place) in enumerate(located):
            if goes_other_way(place.text, place.start, place.start + len(number.text), number.value):
                continue
            rough = equals[i] and number.is_whole and not any(f.step >= 1 or f.share for f in equals[i])
            if (i in operands and not rough) or not number.is_counted or number.is_year:
                continue
            if (found := self._derivation(i, located, operands, text)) is not None:
                derived[i] = self._as_check(number, found)
                operands[i] = Operand(found.value, number.share, found.source, number.text)
        return derived

    def _derivation(
        self, index: int, located: Sequence[tuple[WrittenNumber, NumberPlace]], operands: Mapping[int, Operand],
        text: str, *, is_of_another: bool = False,
    ) -> Derivation | None:  # fmt: skip
        """How a number that no call gave follows from others of its sentence and of the one before,
        or from rows that the sentence names.
        """
        number, place = located[index]
        begin = number.start - place.start - len(place.before)
        end = number.start - place.start + len(place.text)
        starts = paragraph_starts(text)
        at = bisect_right(starts, number.start)  # of the next paragraph
        paragraph = (starts[max(0, at - 2)], starts[at] if at < len(starts) else len(text))
        near, far = [], []
        for i in sorted(
            operands, key=lambda i: (located[i][0].start > number.start, abs(located[i][0].start - number.start))
        ):
            start = located[i][0].start
            if i == index or (located[i][0].is_year and number.unit not in ("years", "year", "年")):
                continue
            if begin <= start < end or (place.is_cell and located[i][1].line == place.line):
                near.append(operands[i])
            elif paragraph[0] <= start < paragraph[1]:
                far.append(operands[i])
        typed = [Operand(v, 0.0, i, f"{v:g}") for v, i, kind in self._typed if kind == "task"]
        evidence = Evidence(near, far, typed, self._grids)
        return derive(number, place, evidence, is_of_another=is_of_another)

    def _as_check(self, number: WrittenNumber, found: Derivation) -> NumberCheck:
        label = self.sources[found.source].label
        return NumberCheck(number.text, number.start, number.end, label, kind="derived", given=found.text)

    def _operand(
        self, number: WrittenNumber, place: NumberPlace, equal: Sequence[OutputNumber], attachments: Attachments,
        text: str,
    ) -> Operand | None:  # fmt: skip
        """The number for arithmetic: what gave it, of several the one called most like it."""
        if equal and not self._is_label(number, text):
            codes = self.figures.codes
            figure = max(equal, key=lambda f: attachments.overlap(place, f, codes[f.source]))
            exact = self.figures.exact(number, place, figure)
            return Operand(exact, number.share or place.share, figure.source, figure.text, figure)
        if not equal and number.is_counted and not number.is_year and (typed := self._where_typed(number)):
            return Operand(number.value, number.share, typed[2], number.text)
        return None

    @cached_property
    def _grids(self) -> list[Grid]:
        return list({id(f.grid): f.grid for f in self.figures.figures if f.grid is not None}.values())

    def _check(
        self, number: WrittenNumber, place: NumberPlace, equal: Sequence[OutputNumber], attachments: Attachments,
        text: str,
    ) -> NumberCheck | None:  # fmt: skip
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
        if equal and number.may_be_year and all(f.value == number.value for f in equal):
            return NumberCheck(*span, self.sources[equal[0].source].label, kind="output", given=equal[0].text)
        if equal and not number.is_year:
            index = next(i for i, reason in enumerate(reasons) if reason)
            return NumberCheck(*span, None, f"{self.sources[equal[index].source].label}: {reasons[index]}")
        if self._is_no_claim(number, place, text):
            return None
        return NumberCheck(*span, None, "no executed call gave this number")

    def _is_no_claim(self, number: WrittenNumber, place: NumberPlace, text: str) -> bool:
        """Whether a number that no call gave is a year, a round figure of advice or part of a
        name.
        """
        is_year = number.is_year or (number.may_be_year and (place.is_name or self._is_written(number.text)))
        return is_year or _is_advice(number, place) or self._is_name(number, text)

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

    def _where_typed(self, number: WrittenNumber) -> tuple[str, str, int] | None:
        """(source, kind, place of the source) of the number in the task or the code."""
        for value, source, kind in self._typed:
            share = number.share if abs(value) <= 1 else 0.0
            if number.share and kind == "code" and not share:
                continue
            if close(number, value) or (share and close(number, value * share)):
                return self.sources[source].label, kind, source
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

    def _is_name(self, number: WrittenNumber, text: str) -> bool:
        """Whether the number with the word before it, or the letters at it, is written so in the
        outputs or the task: RTX 4090, class 9B.
        """
        if self._is_label(number, text):
            return True
        before = _NAME_BEFORE.search(text, max(0, number.start - 40), number.start)
        digits = re.match(r"[\d.,]*\d", text[number.start :])
        return bool(before and digits) and self._is_written(f"{before[1]}{before[2]}{digits[0]}")  # type: ignore[index]

    def _is_label(self, number: WrittenNumber, text: str) -> bool:
        """Whether the number with the letters at it is a word of the outputs: class 9B."""
        word = re.match(r"\d+[A-Za-z]\b", text[number.start :])
        return bool(word) and number.scale != 1 and self._is_written(word[0])  # type: ignore[index]

    def _is_written(self, words: str) -> bool:
        pattern = re.compile(rf"(?<![\w.]){re.escape(words)}(?![A-Za-z0-9%]|[.,]\d)")
        return any(pattern.search(part) for source in self.sources for part in (source.text, source.code))


def _is_advice(number: WrittenNumber, place: NumberPlace) -> bool:
    """A round number of what is recommended or planned: shift 10% of the budget."""
    is_round = number.num_digits <= 1 or (number.value < 100 and number.value % 5 == 0) or number.unit in _TIMES
    said = (place.text[: place.start], *(t for t in (place.before, *place.parents) if _ADVICE_ABOVE.search(t)))
    return is_round and number.is_whole and bool(_ADVICE.search(" ".join(said)))
