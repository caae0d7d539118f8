"""Python values that a model writes as text."""

from __future__ import annotations

import ast
from typing import Any

from qwq.sandbox import Item, Runner, default_sandbox

MISSING = object()  # there is no value


def literal(text: str) -> Any:
    """The value of a Python literal; `MISSING` for any other text."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return MISSING


def computed(code: str, expression: str, *, sandbox: Runner | None = None) -> Any:
    """The value of an expression behind `code`, run in the jail; `MISSING` where it has none.

    InfraError where the sandbox fails.
    """
    case = (sandbox or default_sandbox()).evaluate([code], [Item(expression)]).cases[0]
    return case.value if case.has_value else MISSING


def equal_values(a: Any, b: Any) -> bool:
    """Whether two values are equal as Python's `==` says."""
    try:
        return bool(a == b)
    except RecursionError:
        return False
