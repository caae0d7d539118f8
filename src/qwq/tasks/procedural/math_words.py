"""Multi-step arithmetic word problems; the answer is in `\\boxed{}`.

Canonical form: the starting number and the chain of operations with their numbers. Names, objects
and wordings do not count.
"""

from __future__ import annotations

import random

from qwq.tasks.procedural.base import Family, answer_turn
from qwq.types import Message, Problem

NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gia", "Hugo")
THINGS = ("pens", "eggs", "cards", "coins", "nuts", "books", "stamps", "shells")
ADD = ("{n} buys {k} more.", "{n} finds {k} more.", "{n} gets {k} from a friend.")
SUB = ("{n} gives away {k}.", "{n} loses {k}.", "{n} sells {k}.")
MUL = {2: "Then the number doubles.", 3: "Then the number triples."}
LIMIT = 60  # of any value; small numbers are learnt from the first token on


def _apply(value: int, op: str, k: int) -> int:
    return value + k if op == "+" else value - k if op == "-" else value * k


def _step(value: int, rng: random.Random) -> tuple[str, int]:
    """A random operation whose result stays within 1..LIMIT."""
    while True:
        op = rng.choices("+-*", (45, 40, 15))[0]
        k = rng.randint(2, 3) if op == "*" else rng.randint(2, 15)
        if 0 < _apply(value, op, k) <= LIMIT:
            return op, k


class MathWords(Family):
    name = domain = "math"
    files_task = "math-rows"

    def draw(self, rng: random.Random) -> Problem:
        return self._together(rng) if rng.random() < 0.3 else self._chain(rng)

    def _chain(self, rng: random.Random) -> Problem:
        """One person's things grow and shrink in 2 to 4 steps."""
        num_steps = rng.choices((2, 3, 4), (45, 40, 15))[0]
        start = value = rng.randint(3, 25)
        steps: list[tuple[str, int]] = []
        for _ in range(num_steps):
            op, k = _step(value, rng)
            value = _apply(value, op, k)
            steps.append((op, k))
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        sentences = [f"{name} has {start} {thing}."]
        for op, k in steps:
            template = MUL[k] if op == "*" else rng.choice(ADD if op == "+" else SUB)
            sentences.append(template.format(n=name, k=k))
        sentences.append(f"How many {thing} does {name} have now?")
        canonical = f"math/chain/{start}" + "".join(f"{op}{k}" for op, k in steps)
        return self._worded(" ".join(sentences), start, steps, value, canonical, num_steps)

    def _together(self, rng: random.Random) -> Problem:
        """Two people compared, then added up."""
        start = rng.randint(3, 25)
        op, k = _step(start, rng)
        second = _apply(start, op, k)
        if start + second > LIMIT:
            return self._together(rng)
        first_name, second_name = rng.sample(NAMES, 2)
        thing = rng.choice(THINGS)
        relation = {"+": f"{k} more than", "-": f"{k} fewer than", "*": f"{k} times as many as"}[op]
        steps = [(op, k), ("+", start)]
        text = (
            f"{first_name} has {start} {thing}. {second_name} has {relation} {first_name}. "
            f"How many {thing} do they have together?"
        )
        return self._worded(text, start, steps, start + second, f"math/together/{start}{op}{k}", 2)

    def _worded(
        self, text: str, start: int, steps: list[tuple[str, int]], gold: int, canonical: str, level: int
    ) -> Problem:
        truth = {"gold": str(gold), "start": start, "steps": steps}
        return Problem(f"{canonical}#{text}", "math", (Message("user", text),), truth, canonical, level=level)

    def drill(self, rng: random.Random) -> list[tuple[str, str]]:
        """Single steps: `17+8=` and `25`."""
        page = []
        for _ in range(16):
            value = rng.randint(3, LIMIT)
            op, k = _step(value, rng)
            page.append((f"{value}{op}{k}=", str(_apply(value, op, k))))
        return page

    def demonstrate(self, problem: Problem, rng: random.Random, *, noisy: bool = False) -> tuple[Message, ...]:
        value: int = problem.truth["start"]
        steps: list[tuple[str, int]] = list(problem.truth["steps"])
        slip_at = rng.randrange(len(steps)) if noisy else -1
        kind = rng.choice(("result", "operation", "number", "no box"))
        lines = []
        for i, (op, k) in enumerate(steps):
            if i == slip_at and kind == "operation" and op != "*":
                op = "-" if op == "+" else "+"
            if i == slip_at and kind == "number":
                k = max(1, k + rng.choice((-10, -1, 1, 10)))
            result = _apply(value, op, k)
            if i == slip_at and kind == "result":
                result += rng.choice((-10, -2, -1, 1, 2, 10))
            lines.append(f"{value}{op}{k}={result}")
            value = result
        answer = f"{value}" if noisy and kind == "no box" else f"\\boxed{{{value}}}"
        return (answer_turn("\n".join(lines), answer),)
