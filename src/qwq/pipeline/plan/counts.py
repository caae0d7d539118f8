"""What a stage will do, in numbers: steps, tokens, FLOPs.

Counts come from the recipe; tokens are upper bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwq.config import Recipe
from qwq.data.examples import FileUse
from qwq.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class PlanContext:
    """What a stage's plan is made from; `use` is what became of the rows of its own data file, if
    that was read.
    """

    recipe: Recipe
    name: str
    config: ModelConfig
    use: FileUse | None = None


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What a stage does.

    `tokens` is a bound, `flops` their cost; None if another stage's time or a file that is not here
    decides.
    """

    steps: int | None
    work: str
    tokens: int | None
    flops: float | None


def count(number: float) -> str:
    """Three digits and a letter: 950, 3.40M, 32.8G."""
    for factor, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= factor:
            return f"{number / factor:.3g}{letter}"
    return f"{number:,.0f}"


def times(number: int, one: str, many: str = "") -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
