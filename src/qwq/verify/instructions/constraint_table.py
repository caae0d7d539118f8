"""What a constraint is, how a table of them is made, and how their parameters are drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qwq.verify.instructions.text_units import words

Check = Callable[..., bool]
Kwargs = dict[str, Any]
Draw = Callable[[random.Random], Kwargs]

# Plain words that fit into a text about nearly anything; the parameters of keyword constraints are
# drawn from them.
KEYWORDS = (
    "balance", "bridge", "candle", "careful", "change", "circle", "corner", "courage", "detail", "distance", "effort",
    "evening", "future", "garden", "gentle", "habit", "history", "honest", "journey", "kitchen", "lantern", "lesson",
    "market", "memory", "method", "mirror", "moment", "mountain", "neighbor", "orange", "patience", "pattern", "pencil",
    "question", "quiet", "reason", "river", "season", "shadow", "signal", "silver", "simple", "station", "steady",
    "story", "summer", "ticket", "tradition", "travel", "valley", "village", "window", "winter", "wonder",
)  # fmt: skip
PHRASES = (
    "step by step",
    "in the long run",
    "as a matter of fact",
    "one thing at a time",
    "more often than not",
    "all things considered",
)
NAMES = ("Mara", "Jonas", "Priya", "Tomás", "Ingrid", "Kofi", "Leila", "Pavel")
WHOLE = ("layout", "lines", "paragraphs", "start", "end", "case", "sentences", "length", "marks")


@dataclass(frozen=True, slots=True)
class Constraint:
    """One type: `check(text, **kwargs)`, `draw(rng)` gives kwargs, `wording` is the request with
    the kwargs in braces.
    """

    name: str
    wording: str
    draw: Draw
    touches: frozenset[str]
    check: Check

    def describe(self, kwargs: Mapping[str, Any]) -> str:
        shown = {k: ", ".join(v) if isinstance(v, list) else v for k, v in kwargs.items()}
        return self.wording.format(**shown)


class ConstraintTable(dict[str, Constraint]):
    """Constraints by name, in the order in which they are declared: draws depend on it."""

    def constraint(
        self, name: str, wording: str, touches: str, draw: Draw = lambda rng: {}
    ) -> Callable[[Check], Check]:
        """Declare the constraint whose check is the function below.

        `touches`: sides of an answer, or "whole".
        """

        def register(check: Check) -> Check:
            sides = frozenset(touches.split()) if touches != "whole" else frozenset(WHOLE)
            self[name] = Constraint(name, wording, draw, sides, check)
            return check

        return register


def some_keyword(rng: random.Random) -> Kwargs:
    return {"keyword": rng.choice(KEYWORDS)}


def between(first: int, last: int, least: int, most: int) -> Draw:
    def draw(rng: random.Random) -> Kwargs:
        low = rng.randint(first, last)
        return {"low": low, "high": low + rng.randint(least, most)}

    return draw


def one_of(**choices: Any) -> Draw:
    """Each parameter from a tuple of choices or a (first, last) range object."""
    return lambda rng: {key: rng.choice(list(values)) for key, values in choices.items()}


def first_word(text: str) -> str:
    found = words(text)
    return found[0].lower() if found else ""


def last_word(text: str) -> str:
    found = words(text)
    return found[-1].lower() if found else ""
