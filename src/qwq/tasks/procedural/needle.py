r"""needle: notes of which some lines say what a key is, and a question about one to eight of them.

A model that reads its context finds the values; one that does not is wrong at any length. The part
is the number of lines: 12 are about 200 tokens of the tiny tokenizer, and each further part doubles
it. Without a part there are 2 to 12 lines.
`benchmarks/long_context.py` asks for keys at chosen depths (after the needle in a haystack of
Kamradt 2023, and RULER's variants with several keys, Hsieh et al. 2024, arXiv 2404.06654).

    qwq eval MODEL needle:48

Canonical form: the asked keys with their values.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from string import ascii_uppercase

from qwq.tasks.procedural.base import Family, answer_turn
from qwq.types import Message, Problem

LINES = (12, 24, 48, 96, 192)
MOST_ASKED = 8
KEYS, VALUES = ascii_uppercase, range(100, 1000)


def notes(records: Sequence[str], lines: int, rng: random.Random) -> list[str]:
    """`lines` lines: the records at random places, between lines that hold numbers but no key."""
    places = set(rng.sample(range(lines), len(records)))
    rest = iter(records)
    return [next(rest) if i in places else filler(rng) for i in range(lines)]


def filler(rng: random.Random) -> str:
    """A line that no question asks for."""
    a, b = rng.choice(VALUES), rng.choice(VALUES)
    return f"There are {a} boxes and {b} more."


def record(key: str, value: int) -> str:
    """A line that says what a key is."""
    return f"{key}={value}"


def question(lines: Sequence[str], keys: Sequence[str]) -> str:
    """The notes and what is asked of them."""
    return "\n".join([*lines, f"What is {', '.join(keys)}?"])


class Needle(Family):
    """Values of three digits under keys of one letter."""

    name = "needle"
    domain = "math"
    parts = tuple(map(str, LINES))

    def draw(self, rng: random.Random) -> Problem:
        lines = int(self.part) if self.part else rng.randint(2, LINES[0])
        num_keys = rng.randint(1, min(lines, len(KEYS)))
        values = {key: rng.choice(VALUES) for key in rng.sample(KEYS, num_keys)}
        asked = rng.sample(sorted(values), rng.randint(1, min(MOST_ASKED, num_keys)))
        told = notes([record(*item) for item in values.items()], lines, rng)
        canonical = f"needle/{','.join(f'{key}={values[key]}' for key in asked)}"
        text = question(told, asked)
        return Problem(
            f"{canonical}/{lines}#{text}", self.domain, (Message("user", text),),
            {"gold": ", ".join(str(values[key]) for key in asked), "told": values},
            canonical, source=f"{self.name}:{lines}",
        )  # fmt: skip

    def demonstrate(self, problem: Problem, rng: random.Random, *, noisy: bool = False) -> tuple[Message, ...]:
        """The asked lines, then their values; a noisy one answers with another key's value."""
        asked = [item.split("=") for item in problem.canonical.partition("/")[2].split(",")]
        values = [value for _, value in asked]
        if noisy:
            values[-1] = str(rng.choice(sorted(problem.truth["told"].values())))
        work = " ".join(record(key, int(value)) for key, value in asked)
        return (answer_turn(work, f"\\boxed{{{', '.join(values)}}}"),)
