"""What all back ends share: they begin from a configuration, answer calls, and have a state that
can be compared.
"""

from __future__ import annotations

import copy
import inspect
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

Json = dict[str, Any]


class CallRefused(Exception):
    """A function will not do what it is asked; its text is what the caller reads."""


class World:
    """One back end. `defaults` are the attributes of its state where the configuration says
    nothing.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    seed: ClassVar[int] = 0

    def __init__(self, config: Mapping[str, Any]) -> None:
        for key, value in self.defaults.items():
            setattr(self, key, copy.deepcopy(config.get(key, value)))
        self._random = random.Random(config.get("random_seed", self.seed))

    def state(self) -> Json:
        return {k: v for k, v in vars(self).items() if not k.startswith("_")}

    @classmethod
    def functions(cls) -> list[str]:
        own = {name for name, _ in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")}
        return sorted(own - {"state", "call"})

    def call(self, name: str, positional: Sequence[Any], named: Mapping[str, Any]) -> tuple[str, bool]:
        """(what the function answers, as text; whether it ran as intended)."""
        method = getattr(self, name)
        try:
            inspect.signature(method).bind(*positional, **named)
            result = method(*positional, **named)
        except CallRefused as refusal:
            result = {"error": str(refusal)}
        # Values of a wrong type are the caller's mistake wherever in the function they show.
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            return f"Error during execution: {type(error).__name__}: {error}", False
        return _as_text(result), not (isinstance(result, dict) and "error" in result)


def _as_text(result: Any) -> str:
    if isinstance(result, str):
        return result
    return json.dumps(result) if isinstance(result, dict) else str(result)
