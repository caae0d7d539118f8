"""The environment protocol, and its first environment: the calculator.

An environment is reset with a problem and then answers tool calls with messages. It never scores; a
verifier reads the transcript afterwards.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Protocol

from qwq.types import Message, Problem, ToolCall

MAX_EXPRESSION = 200  # characters
MAX_DIGITS = 60  # of any intermediate result


class Environment(Protocol):
    def reset(self, problem: Problem) -> None:
        """Begin a new episode."""

    def step(self, calls: Sequence[ToolCall]) -> list[Message]:
        """One tool message for each call, in order. A bad call is answered with an error text, never raised."""
        ...


_BINARY: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def calculate(expression: str) -> str:
    """The value of an arithmetic expression of numbers, + - * / and brackets, exact where it is whole.

    What cannot be computed gives a text that starts with "error:", as a model would see it.
    """
    if len(expression) > MAX_EXPRESSION:
        return f"error: expression longer than {MAX_EXPRESSION} characters"
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except ZeroDivisionError:
        return "error: division by zero"
    except OverflowError:
        return "error: number too large"
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "error: not an arithmetic expression"
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.10g}"


def _value(node: ast.AST) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        result = Fraction(str(node.value))
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        result = _BINARY[type(node.op)](_value(node.left), _value(node.right))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        result = _value(node.operand) if isinstance(node.op, ast.UAdd) else -_value(node.operand)
    else:
        raise ValueError("not arithmetic")
    if abs(result) >= 10**MAX_DIGITS:
        raise OverflowError
    return result


class CalculatorEnvironment:
    """Answers `calculator(expression)`; any other call gets an error text."""

    def reset(self, problem: Problem) -> None:
        self.names = {tool["function"]["name"] for tool in problem.tools}

    def step(self, calls: Sequence[ToolCall]) -> list[Message]:
        return [Message("tool", self._answer(call)) for call in calls]

    def _answer(self, call: ToolCall) -> str:
        if call.name not in self.names:
            return f"error: no tool {call.name}"
        expression = call.arguments.get("expression")
        if not isinstance(expression, str):
            return "error: calculator needs the argument expression"
        return calculate(expression)
