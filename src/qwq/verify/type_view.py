"""What a type checker sees of `qwq.verify`, whose modules are callable: read by checkers, imported
by nothing at run time.

A checker takes a module for something that cannot be called. Here each of the four is an object
with its `verify`'s own signature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, ParamSpec

from qwq.types import Verdict
from qwq.verify.code import verify as _code
from qwq.verify.instructions import verify as _instructions
from qwq.verify.math import verify as _math
from qwq.verify.tools import verify as _tools

_P = ParamSpec("_P")


@dataclass(frozen=True, slots=True)
class Verifier(Generic[_P]):
    """A verifier: a call of it is its `verify`."""

    verify: Callable[_P, Verdict]

    def __call__(self, *args: _P.args, **keywords: _P.kwargs) -> Verdict:
        return self.verify(*args, **keywords)


class _Verifiers:
    math = Verifier(_math)
    code = Verifier(_code)
    instructions = Verifier(_instructions)
    tools = Verifier(_tools)


verify = _Verifiers()
