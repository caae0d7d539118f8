"""Verifiers: math, code, instructions, tools. Each takes a response and what is true, and gives a
`Verdict` with its reason.

Import the one you need (`from qwq.verify import math`); importing this package alone loads nothing.
Each of the four modules can be called, which is its `verify`: `qwq.verify.math(response, gold)`,
`code(program, tests)`, `instructions(response, rules)`, `tools(response, truth)`.
"""

from importlib import import_module
from typing import Any

_CALLABLE = ("code", "instructions", "math", "tools")


def __getattr__(name: str) -> Any:
    if name in _CALLABLE:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_CALLABLE})
