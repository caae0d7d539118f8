"""Modules that can be called, so that `qwq.verify.math(response, gold)` and `qwq.train(recipe)` are
what their names say.

The module stays a module: `qwq.verify.math.verify`, `qwq.train.losses` and all imports are as
before.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module whose call is passed on to the function that `make_callable` named."""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        place, _, name = self.__qwq_call__.partition(":")
        return getattr(importlib.import_module(place), name)(*args, **keywords)


def make_callable(module: str, function: str) -> None:
    """Let a call of `module` (its `__name__`) be a call of `function`, `package.module:name`.

    The function is named and not handed over, since it may be in a module that imports this one; it
    is looked up with each call.
    """
    made = sys.modules[module]
    made.__class__ = CallableModule
    made.__qwq_call__ = function  # type: ignore[attr-defined]
