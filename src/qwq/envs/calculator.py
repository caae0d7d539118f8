"""The calculator: exact arithmetic on one expression."""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable
from fractions import Fraction

from qwq.common.source import parse_python
from qwq.envs.base import Environment, environment
from qwq.errors import nearest
from qwq.types import Problem, ToolCall

MAX_EXPRESSION = 200  # characters
MAX_DIGITS = 60  # of any intermediate result


_BINARY: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def calculate(expression: str) -> str:
    """The value of an arithmetic expression of numbers, + - * / and brackets, exact where it is
    whole.

    What cannot be computed gives a text that starts with "error:", as a model would see it.
    """
    if len(expression) > MAX_EXPRESSION:
        return f"error: expression longer than {MAX_EXPRESSION} characters"
    try:
        value = _value(parse_python(expression.strip(), mode="eval").body)
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


@environment("calculator")
class CalculatorEnvironment(Environment):
    """Answers `calculator(expression)` under the name that the problem gives it; any other call
    gets an error text.
    """

    instant = True

    async def reset(self, problem: Problem) -> None:
        self.tools = {tool["function"]["name"]: tool["function"] for tool in problem.tools}

    async def call(self, call: ToolCall) -> str:
        if call.name not in self.tools:
            return f"error: no tool {call.name!r}: {nearest(call.name, self.tools)}"
        expression = call.arguments.get("expression")
        if not isinstance(expression, str):
            schema = json.dumps(self.tools[call.name].get("parameters") or {})
            return f"error: {call.name} needs the text `expression`; its schema: {schema}"
        return calculate(expression)
