"""Tool use: sums too large to do in the head, one calculator call in Hermes form, then the answer.

Canonical form: the expression. A right number without the call does not count.
"""

from __future__ import annotations

import random

from qwq.tasks.procedural.base import Family, answer_turn, split_of
from qwq.types import Message, Problem, ToolCall

CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Evaluates an arithmetic expression.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    },
}
THINGS = ("boxes", "bags", "trucks", "shelves", "crates", "rows")
WORDS = {"+": "plus", "-": "minus", "*": "times"}
GOODS = ("nuts", "bolts", "beads", "seeds", "bricks", "tiles")


class Calculator(Family):
    name = domain = "tools"

    def draw(self, rng: random.Random) -> Problem:
        a, b = rng.randint(112, 989), rng.randint(12, 98)
        op = rng.choice("+-*")
        thing, good = rng.choice(THINGS), rng.choice(GOODS)
        story = rng.random() < 0.6
        if not story:
            text = {"+": f"What is {a} plus {b}?", "-": f"What is {a} minus {b}?", "*": f"What is {a} times {b}?"}[op]
        elif op == "*":
            text = f"There are {a} {good} in each of {b} {thing}. How many {good} are there?"
        elif op == "+":
            text = f"A shop has {a} {good} and buys {b} more. How many {good} does it have?"
        else:
            text = f"A shop has {a} {good} and sells {b}. How many {good} are left?"
        expression = f"{a}{op}{b}"
        if rng.random() < 0.25:
            c = rng.randint(12, 98)
            expression += f"+{c}"
            text += f" Then add {c}."
        gold = str(eval(expression))
        truth = {"gold": gold, "min_calls": 1, "tool": "calculator"}
        canonical = f"tools/{expression}"
        level = expression.count("+") + expression.count("-") + expression.count("*")
        return Problem(f"{canonical}#{text}", "tools", (Message("user", text),), truth, canonical, (CALCULATOR,), level)

    def drill(self, rng: random.Random) -> list[tuple[str, str]]:
        """A sum in words, and the expression to hand over: copying long numbers is what a small
        model learns last.
        """
        page: list[tuple[str, str]] = []
        while len(page) < 10:
            a, b, op = rng.randint(112, 989), rng.randint(12, 98), rng.choice("+-*")
            if split_of(f"tools/{a}{op}{b}") == "train":
                page.append((f"{a} {WORDS[op]} {b}: ", f"{a}{op}{b}"))
        return page

    def demonstrate(self, problem: Problem, rng: random.Random, *, noisy: bool = False) -> tuple[Message, ...]:
        expression = problem.canonical.removeprefix("tools/")
        result = problem.truth["gold"]
        kind = rng.choice(("digit", "operator", "no call", "misread")) if noisy else ""
        if kind == "no call":
            guess = str(max(1, int(result) + rng.choice((-100, -10, -1, 1, 10, 100))))
            return (answer_turn(expression, f"\\boxed{{{guess}}}"),)
        if kind == "digit":
            at = rng.choice([i for i, c in enumerate(expression) if c.isdigit()])
            expression = (
                expression[:at] + rng.choice([d for d in "123456789" if d != expression[at]]) + expression[at + 1 :]
            )
        elif kind == "operator":
            old = next(c for c in expression if c in "+-*")
            expression = expression.replace(old, rng.choice([o for o in "+-*" if o != old]), 1)
        result = str(eval(expression))
        call = ToolCall("calculator", {"expression": expression})
        shown = str(int(result) + rng.choice((-10, -1, 1, 10))) if kind == "misread" else result
        return (
            Message("assistant", f"<think>\n{expression}\n</think>", (call,)),
            Message("tool", result),
            answer_turn(result, f"\\boxed{{{shown}}}"),
        )
