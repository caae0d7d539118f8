"""The limits and options that the code of a call has: 60 in `df.age > 60`."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable

from qwq.agent.report.reader import read_numbers

_SHOWING = {"print", "display", "format", "round", "value", "table", "Series", "DataFrame", "array"}
_SQL = re.compile(
    r"(?:[<>=]|\b(?:limit|between|and|in\s*\(|like|interval|offset|then|else|having))\s*\(?(-?\d+(?:\.\d+)?)", re.I
)


def literals(code: str) -> list[float]:
    """Numbers with which code compares, cuts or is called, but not those that it only assigns or
    shows: a figure typed into the code is no result.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        limits = [float(match[1]) for match in _SQL.finditer(code)]
        return limits if re.search(r"\bselect\b", code, re.I) else limits + _options(code)
    found: list[float] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            found += _constants([node.left, *node.comparators])
        elif isinstance(node, ast.Slice):
            found += _constants([part for part in (node.lower, node.upper) if part])
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name not in _SHOWING:
                found += _constants([*node.args, *(k.value for k in node.keywords)])
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.search(r"\bselect\b", node.value, re.I)
        ):
            found += [float(match[1]) for match in _SQL.finditer(node.value)]
    return found


def _options(command: str) -> list[float]:
    """The numbers of a shell command, but for what it prints."""
    lines = [line for line in command.splitlines() if not re.search(r"\b(?:echo|printf|print)\b", line)]
    return [n.value for line in lines for n in read_numbers(line, skip=False)]


def _constants(nodes: Iterable[ast.expr]) -> list[float]:
    values: list[float] = []
    for node in nodes:
        if isinstance(node, (ast.List, ast.Tuple)):
            values += _constants(node.elts)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            values += [-value for value in _constants([node.operand])]
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
        ):
            values.append(float(node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            values += [n.value for n in read_numbers(node.value)]
    return values
