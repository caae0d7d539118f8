"""Plain sums at a level, for models that can already read: the quickest real task that a small
checkpoint half knows.

Level 1: a + b and a - b up to 20. Level 2: up to 99. Level 3: up to 999. Level 4: a + b - c up to
99. Level 5: a x b, two digits by one. Level 6: two digits by two. All problems of a level are
counted once and belong to train, validation or test by a hash of the sum itself (`base.split_of`);
their order is fixed.
"""

from __future__ import annotations

import functools
import random

from qwq.data.examples import FileUse
from qwq.errors import ConfigError
from qwq.tasks.base import Protocol, Task
from qwq.tasks.downloads import DataFiles
from qwq.tasks.procedural.base import answer_turn, digest, split_of
from qwq.types import Message, Problem

LEVELS = range(1, 7)
POOL = 20_000  # distinct sums drawn for a level, where there are as many
ASK = "What is {sum}? End with: The answer is [number]."


class Arithmetic(Task):
    """One level, or all of them."""

    name = "arithmetic"
    domain = "math"
    parts = tuple(map(str, LEVELS))
    majority_votes = True
    protocol = Protocol(samples=1, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=512)

    def problems(
        self, split: str, num: int | None = None, *, data: DataFiles | None = None, use: FileUse | None = None
    ) -> list[Problem]:
        levels = [int(self.part)] if self.part else LEVELS
        # Levels overlap: a sum of small numbers is one problem, of the first level that has it.
        unique: dict[str, Problem] = {}
        for problem in (p for level in levels for p in problems(level, split)):
            unique.setdefault(problem.id, problem)
        return self.first(list(unique.values()), num)

    def demonstrate(self, problem: Problem, rng: random.Random, *, noisy: bool = False) -> tuple[Message, ...]:
        return (demonstrate(problem),)


@functools.lru_cache(maxsize=64)
def problems(level: int, split: str, limit: int | None = None) -> list[Problem]:
    """The problems of a level that belong to `split`, in their fixed order.

    ConfigError for a level there is not.
    """
    if level not in LEVELS:
        raise ConfigError(f"arithmetic level {level}: levels are {LEVELS[0]} to {LEVELS[-1]}")
    rng, seen, out = random.Random(digest(f"arithmetic/{level}")), set(), []
    for _ in range(POOL):
        terms, gold = _draw(level, rng)
        canonical = f"arithmetic/{terms}"
        if canonical in seen or split_of(canonical) != split:
            continue
        seen.add(canonical)
        out.append(
            Problem(
                canonical,
                "math",
                (Message("user", ASK.format(sum=terms)),),
                {"gold": str(gold)},
                canonical,
                level=level,
                source="arithmetic",
            )
        )
        if len(out) == limit:
            break
    return out


def demonstrate(problem: Problem) -> Message:
    """The turn that answers a problem: the sum worked out in short, then the answer."""
    terms = problem.canonical.partition("/")[2].split()
    gold = problem.truth["gold"]
    a, op, b = int(terms[0]), terms[1], int(terms[2])
    if len(terms) > 3:
        thought = f"{a} + {b} = {a + b}. {a + b} - {terms[4]} = {gold}."
    elif op == "*":
        tens, ones = b // 10 * 10, b % 10
        parts = [(f"{a} * {n}", a * n) for n in (tens, ones) if n]
        thought = ". ".join(f"{text} = {value}" for text, value in parts) + (
            f". {' + '.join(str(v) for _, v in parts)} = {gold}." if len(parts) > 1 else "."
        )
    else:
        step = b // 10 * 10
        middle = a + step if op == "+" else a - step
        steps = (
            [f"{a} {op} {step} = {middle}", f"{middle} {op} {b - step} = {gold}"]
            if step and b - step
            else [f"{a} {op} {b} = {gold}"]
        )
        thought = ". ".join(steps) + "."
    return answer_turn(thought, f"The answer is {gold}.")


def _draw(level: int, rng: random.Random) -> tuple[str, int]:
    if level <= 3:
        top = (20, 99, 999)[level - 1]
        a, b = rng.randint(1, top), rng.randint(1, top)
        if rng.random() < 0.5:
            return f"{a} + {b}", a + b
        return f"{max(a, b)} - {min(a, b)}", abs(a - b)
    if level == 4:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        c = rng.randint(1, a + b)
        return f"{a} + {b} - {c}", a + b - c
    a, b = rng.randint(10, 99), rng.randint(2, 9) if level == 5 else rng.randint(10, 99)
    return f"{a} * {b}", a * b
