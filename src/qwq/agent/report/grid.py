"""A number that a call gave, and the table that it is in."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from qwq.agent.report.label_words import Vocabulary
from qwq.agent.report.reader import read_numbers

_VALUE = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?%?|NaN|nan|None|NULL|inf|<NA>|NaT")


def is_value(word: str) -> bool:
    """Whether a table's cell holds a number, or says that there is none."""
    return bool(_VALUE.fullmatch(word))


@dataclass(frozen=True, slots=True)
class OutputNumber:
    """A number that a call gave. `labels` has one label for each level of its table."""

    value: float
    step: float
    share: float
    source: int
    labels: tuple[str, ...] = ()
    grid: Grid | None = field(default=None, compare=False, repr=False)
    text: str = ""
    unit: str = ""


def lines_grid() -> Grid:
    """For the numbers in lines of words: what the line begins with, and the words at the number."""
    return Grid(("", ""), is_lines=True)


@dataclass(eq=False)
class Grid:
    """A table: its figures, and the names of its levels ("" where a level has none)."""

    axes: tuple[str, ...]
    figures: list[OutputNumber] = field(default_factory=list)
    is_lines: bool = False

    @cached_property
    def vocabularies(self) -> list[Vocabulary]:
        return [
            Vocabulary(list(dict.fromkeys(f.labels[i] for f in self.figures if f.labels)), axis)
            for i, axis in enumerate(self.axes)
        ]  # fmt: skip

    def add(self, text: str, source: int, labels: Sequence[str]) -> None:
        if figure := _figure(text, source, tuple(labels), self):
            self.figures.append(figure)


def _figure(text: str, source: int, labels: tuple[str, ...] = (), grid: Grid | None = None) -> OutputNumber | None:
    numbers = read_numbers(text.strip(), skip=False)
    if len(numbers) != 1 or not math.isfinite(numbers[0].value):
        return None
    number = numbers[0]
    return OutputNumber(number.value, number.step, number.share, source, labels, grid, number.text, number.unit)


def is_code(figure: OutputNumber, label: str) -> bool:
    """Whether a count's key is a short number (200, 404), which a text calls by words."""
    return figure.labels[-1] == "count" and label.isdigit() and len(label) <= 3
