"""Small Python functions from a one-line specification, graded by hidden tests.

A specification is a composition of two to four operations. Canonical form: the sequence of
operations without their numbers, so that a test problem is a composition never met in training, not
a renamed or renumbered function. Nor is a test composition inside a longer training one:
every run of two or more steps of a training problem belongs to the training split itself.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qwq.tasks.procedural.base import Family, answer_turn, digest, split_of
from qwq.types import Message, Problem

NUM_TESTS = 6


@dataclass(frozen=True, slots=True)
class Op:
    """One operation: its words and its expression, over `x` and (where `ks` is given) a small
    number `k`.
    """

    takes: str
    gives: str
    words: str
    code: str
    ks: tuple[int, int] | None = None

    def draw(self, rng: random.Random) -> int:
        """A number `k` for it, 0 if it takes none."""
        return rng.randint(*self.ks) if self.ks else 0


OPS: dict[str, Op] = {
    "add": Op("int", "int", "add {k}", "x + {k}", (2, 9)),
    "subtract": Op("int", "int", "subtract {k}", "x - {k}", (2, 9)),
    "multiply": Op("int", "int", "multiply by {k}", "x * {k}", (2, 9)),
    "divide": Op("int", "int", "divide by {k} rounding down", "x // {k}", (2, 9)),
    "remainder": Op("int", "int", "take the remainder by {k}", "x % {k}", (2, 9)),
    "square": Op("int", "int", "square it", "x * x"),
    "negate": Op("int", "int", "negate it", "-x"),
    "absolute": Op("int", "int", "take the absolute value", "abs(x)"),
    "at_least": Op("int", "int", "raise it to at least {k}", "max(x, {k})", (2, 9)),
    "at_most": Op("int", "int", "cap it at {k}", "min(x, {k})", (2, 9)),
    "sort": Op("list", "list", "sort it", "sorted(x)"),
    "reverse": Op("list", "list", "reverse it", "x[::-1]"),
    "first_k": Op("list", "list", "keep the first {k}", "x[:{k}]", (2, 5)),
    "last_k": Op("list", "list", "keep the last {k}", "x[-{k}:]", (2, 5)),
    "drop_first": Op("list", "list", "drop the first", "x[1:]"),
    "drop_last": Op("list", "list", "drop the last", "x[:-1]"),
    "add_each": Op("list", "list", "add {k} to each", "[v + {k} for v in x]", (2, 9)),
    "multiply_each": Op("list", "list", "multiply each by {k}", "[v * {k} for v in x]", (2, 9)),
    "square_each": Op("list", "list", "square each", "[v * v for v in x]"),
    "keep_even": Op("list", "list", "keep the even ones", "[v for v in x if v % 2 == 0]"),
    "keep_odd": Op("list", "list", "keep the odd ones", "[v for v in x if v % 2 == 1]"),
    "keep_over": Op("list", "list", "keep those over {k}", "[v for v in x if v > {k}]", (2, 9)),
    "keep_under": Op("list", "list", "keep those under {k}", "[v for v in x if v < {k}]", (2, 9)),
    "unique": Op("list", "list", "remove duplicates and sort", "sorted(set(x))"),
    "sum": Op("list", "int", "take the sum", "sum(x)"),
    "length": Op("list", "int", "take the length", "len(x)"),
    "largest": Op("list", "int", "take the largest or 0", "max(x, default=0)"),
    "smallest": Op("list", "int", "take the smallest or 0", "min(x, default=0)"),
    "upper": Op("str", "str", "make it upper case", "x.upper()"),
    "swap_case": Op("str", "str", "swap its case", "x.swapcase()"),
    "backwards": Op("str", "str", "spell it backwards", "x[::-1]"),
    "double": Op("str", "str", "repeat it twice", "x * 2"),
    "first_chars": Op("str", "str", "keep the first {k} letters", "x[:{k}]", (2, 5)),
    "cut_chars": Op("str", "str", "cut the first {k} letters", "x[{k}:]", (2, 5)),
    "star": Op("str", "str", "put a star in front", "'*' + x"),
    "bang": Op("str", "str", "put a bang behind", "x + '!'"),
    "letters": Op("str", "int", "count its letters", "len(x)"),
    "count_a": Op("str", "int", "count the letter a", "x.count('a')"),
}
BY_TYPE = {t: [name for name, op in OPS.items() if op.takes == t] for t in ("int", "list", "str")}
NOUN = {"int": "a number x", "list": "a list x", "str": "a string x"}
WORDS = ("banana", "Cat", "lamp", "Data", "orange", "Java", "alpha", "Tea", "mango", "Panda", "kayak", "salsa")


def _input(kind: str, rng: random.Random) -> Any:
    if kind == "int":
        return rng.randint(-30, 60)
    if kind == "list":
        return [rng.randint(0, 15) for _ in range(rng.choice((0, 3, 5, 6, 7, 8)))]
    return "".join(rng.sample(WORDS, rng.choice((1, 2))))


@functools.cache
def _function(name: str, k: int) -> Callable[[Any], Any]:
    """An operation as a function; compiling its expression takes longer than any run of it."""
    function: Callable[[Any], Any] = eval(f"lambda x: {OPS[name].code.format(k=k)}")
    return function


def run_steps(steps: list[tuple[str, int]], x: Any) -> Any:
    """The reference answer: our own expressions, evaluated step by step."""
    for name, k in steps:
        x = _function(name, k)(x)
    return x


class CodeFunctions(Family):
    name = domain = "code"
    files_task = "code-rows"

    def draw(self, rng: random.Random) -> Problem:
        kind = start = rng.choices(("int", "list", "str"), (30, 45, 25))[0]
        length = rng.choices((2, 3, 4), (35, 45, 20))[0]
        steps: list[tuple[str, int]] = []
        while len(steps) < length:
            name = rng.choice(BY_TYPE[kind])
            if steps and steps[-1][0] == name:
                continue
            op = OPS[name]
            steps.append((name, op.draw(rng)))
            kind = op.gives
        text = f"Write f(x) for {NOUN[start]}: " + ", then ".join(OPS[n].words.format(k=k) for n, k in steps) + "."
        canonical = f"code/{start}/" + ">".join(name for name, _ in steps)
        ident = f"{canonical}#{','.join(str(k) for _, k in steps)}"
        cases = self._cases(ident, start, steps)
        truth = {"tests": {"kind": "call", "entry_point": "f", "cases": cases}, "steps": steps}
        return Problem(ident, "code", (Message("user", text),), truth, canonical, level=length)

    def belongs(self, problem: Problem, split: str) -> bool:
        if split != "train":
            return split_of(problem.canonical) == split
        names = [name for name, _ in problem.truth["steps"]]
        runs = (names[i:j] for i in range(len(names) - 1) for j in range(i + 2, len(names) + 1))
        return all(split_of(f"code/{OPS[run[0]].takes}/" + ">".join(run)) == "train" for run in runs)

    @staticmethod
    def _cases(ident: str, kind: str, steps: list[tuple[str, int]]) -> list[dict[str, Any]]:
        rng = random.Random(digest(f"cases/{ident}"))
        inputs = [_input(kind, rng) for _ in range(NUM_TESTS)]
        return [{"args": [x], "kwargs": {}, "expected": run_steps(steps, x)} for x in inputs]

    def drill(self, rng: random.Random) -> list[tuple[str, str]]:
        """Single operations: their words, and their line of code."""
        page = []
        for name in rng.sample(list(OPS), 6):
            k = OPS[name].draw(rng)
            page.append((f"    # {OPS[name].words.format(k=k)}\n", f"    x = {OPS[name].code.format(k=k)}"))
        return page

    def demonstrate(self, problem: Problem, rng: random.Random, *, noisy: bool = False) -> tuple[Message, ...]:
        steps: list[tuple[str, int]] = list(problem.truth["steps"])
        if noisy:
            self._slip(steps, rng)
        # Each line says what it does before it does it, which is also how the composition is kept
        # in order.
        body = [f"    # {OPS[name].words.format(k=k)}\n    x = {OPS[name].code.format(k=k)}" for name, k in steps]
        plan = f"{len(steps)} steps"
        code = "\n".join(["def f(x):", *body, "    return x"])
        return (answer_turn(plan, f"```python\n{code}\n```"),)

    @staticmethod
    def _slip(steps: list[tuple[str, int]], rng: random.Random) -> None:
        """Change one step in place: another operation, another number, a step forgotten or two
        swapped.
        """
        i = rng.randrange(len(steps))
        name, k = steps[i]
        kind = rng.choice(("operation", "number", "forget", "swap"))
        if kind == "number" and OPS[name].ks:
            steps[i] = (name, k + 1 if k < 9 else k - 1)
        elif kind == "forget":
            del steps[i]
        elif kind == "swap" and i:
            steps[i - 1], steps[i] = steps[i], steps[i - 1]
        else:
            other = rng.choice([n for n in BY_TYPE[OPS[name].takes] if n != name])
            steps[i] = (other, OPS[other].draw(rng))
