"""repair: a Python function with one changed operator, to be mended by running its tests. For
models that can read code.

A function is made from a template with numbers of its own; one operator or comparison of it is
replaced so that a shown case fails. Canonical form: template, numbers and the change.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Mapping
from typing import Any

from qwq.tasks.procedural.world_family import Script, WorldFamily
from qwq.types import Problem

CALLS = 4
NUM_SHOWN, NUM_HIDDEN = 4, 8
# What a function does, and its source; {k} and {m} are numbers from 2 to 9.
TEMPLATES = (
    ("the sum of the numbers in x that are above {k}",
     "def f(x):\n    total = 0\n    for v in x:\n        if v > {k}:\n            total = total + v\n    return total"),
    ("how many numbers in x are at most {k}",
     "def f(x):\n    num = 0\n    for v in x:\n        if v <= {k}:\n            num = num + 1\n    return num"),
    ("every number of x times {k}, then plus {m}",
     "def f(x):\n    out = []\n    for v in x:\n        out.append(v * {k} + {m})\n    return out"),
    ("the numbers of x that {k} divides, each less {m}",
     "def f(x):\n    out = []\n    for v in x:\n        if v % {k} == 0:\n            out.append(v - {m})\n"
     "    return out"),
    ("the largest difference of two neighbours in x, 0 if there are none",
     "def f(x):\n    best = 0\n    for i in range(len(x) - 1):\n        step = x[i + 1] - x[i]\n"
     "        if step > best:\n            best = step\n    return best"),
    ("the sum of x, where every number above {k} counts as {k}",
     "def f(x):\n    total = 0\n    for v in x:\n        if v > {k}:\n            v = {k}\n"
     "        total = total + v\n    return total"),
    ("the running sums of x, each with {k} added",
     "def f(x):\n    out = []\n    total = 0\n    for v in x:\n        total = total + v\n"
     "        out.append(total + {k})\n    return out"),
    ("the position of the first number in x that is at least {k}, or -{m}",
     "def f(x):\n    for i in range(len(x)):\n        if x[i] >= {k}:\n            return i\n    return 0 - {m}"),
)  # fmt: skip
ARITHMETIC = {ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.Mod: "//"}
COMPARISON = {ast.Gt: ">=", ast.GtE: ">", ast.Lt: "<=", ast.LtE: "<", ast.Eq: "!="}


class Repair(WorldFamily):
    name = kind = "repair"

    def draw(self, rng: random.Random) -> Problem:
        while True:
            words, template = rng.choice(TEMPLATES)
            k, m = rng.randint(2, 9), rng.randint(2, 9)
            right = template.format(k=k, m=m)
            wrong, change = mutated(right, rng)
            inputs = [[rng.randint(0, 15) for _ in range(rng.randint(3, 6))] for _ in range(NUM_SHOWN + NUM_HIDDEN)]
            expected, got = _values(right, inputs), _values(wrong, inputs)
            differ = [a != b for a, b in zip(expected, got, strict=True)]
            if any(differ[:NUM_SHOWN]) and any(differ[NUM_SHOWN:]):
                break
        cases = [{"args": [x], "expected": value} for x, value in zip(inputs, expected, strict=True)]
        spec = {
            "name": "f", "shown": cases[:NUM_SHOWN], "hidden": cases[NUM_SHOWN:], "calls": CALLS,
            "code": wrong, "mended": right,
        }  # fmt: skip
        text = (
            f"This function should give {words.format(k=k, m=m)}, and one operator in it is wrong:\n\n```python\n"
            f"{wrong}\n```\n\nMend it: run_tests runs the tests on your version, {CALLS} times at most. "
            "When they pass, answer \\boxed{done}."
        )
        return self.posed(text, spec, f"{TEMPLATES.index((words, template))}/{k},{m}/{change}")

    def play(self, script: Script, spec: Mapping[str, Any], rng: random.Random) -> str:
        script.call("First the version as it is, to see what fails.", "run_tests", code=spec["code"])
        script.call("The case shows which operator is wrong.", "run_tests", code=spec["mended"])
        return "done"


def mutated(source: str, rng: random.Random) -> tuple[str, str]:
    """The source with one operator changed, and the change in words."""
    spots = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            spots.append((node.left, node.right, ARITHMETIC[type(node.op)]))
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISON:
            spots.append((node.left, node.comparators[0], COMPARISON[type(node.ops[0])]))
    left, right, operator = rng.choice(spots)
    lines = source.split("\n")
    line = lines[left.lineno - 1]
    old = line[left.end_col_offset : right.col_offset]
    lines[left.lineno - 1] = f"{line[: left.end_col_offset]} {operator} {line[right.col_offset :]}"
    return "\n".join(lines), f"{left.lineno}:{left.col_offset}{old.strip()}to{operator}"


def _values(source: str, inputs: list[list[int]]) -> list[Any]:
    """What our own function gives for each input; the name of what it raises where it raises."""
    space: dict[str, Any] = {}
    exec(compile(source, "template", "exec"), space)  # a template of this file with numbers in it
    values = []
    for x in inputs:
        try:
            values.append(space["f"](list(x)))
        except (IndexError, ZeroDivisionError) as error:
            values.append(type(error).__name__)
    return values
