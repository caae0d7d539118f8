"""Reward functions of a user's own, in the signatures that TRL and verl call.

    trl    f(prompts, completions, completion_ids, **columns) -> one float or None each
    verl   f(data_source, solution_str, ground_truth, extra_info) -> a float, or a dict with "score"

A function is named `file.py:function` or `package.module:function` and runs in this process: it is the user's own code. It is asked about
responses that ended with an answer; a response that never ends earns nothing (design of the loop, point 5), whatever a function thinks of it.
None says that it does not apply.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwq.errors import ConfigError, nearest
from qwq.types import Problem, Response


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """A function with its style ("trl" or "verl"), its weight in the sum, and the name its term is logged under."""

    name: str
    call: Callable[..., Any]
    style: str = "trl"
    weight: float = 1.0

    def values(self, asked: Sequence[tuple[Problem, Response, list[int]]]) -> list[float | None]:
        """Weighted values, one for each (problem, response, completion ids). ConfigError where the function does not answer in kind."""
        found = self._verl(asked) if self.style == "verl" else self._trl(asked)
        out: list[float | None] = []
        for value in found:
            if value is not None and (isinstance(value, str) or not math.isfinite(float(value))):
                raise ConfigError(f"reward function {self.name} gave {value!r}: a finite number or None is wanted")
            out.append(None if value is None else self.weight * float(value))
        return out

    def _trl(self, asked: Sequence[tuple[Problem, Response, list[int]]]) -> list[Any]:
        keys = dict.fromkeys(k for problem, _, _ in asked for k in problem.truth)
        columns = {k: [problem.truth.get(k) for problem, _, _ in asked] for k in keys}
        found = self.call(
            prompts=[[m.to_dict() for m in problem.messages] for problem, _, _ in asked],
            completions=[[{"role": "assistant", "content": response.text}] for _, response, _ in asked],
            completion_ids=[ids for _, _, ids in asked],
            **columns,
        )
        if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != len(asked):
            size = len(found) if isinstance(found, Sequence) else type(found).__name__
            raise ConfigError(f"reward function {self.name} was asked about {len(asked)} completions and gave {size}: one number each is wanted")
        return list(found)

    def _verl(self, asked: Sequence[tuple[Problem, Response, list[int]]]) -> list[Any]:
        out = []
        for problem, response, _ in asked:
            truth = problem.truth
            gold = truth.get("ground_truth", truth.get("gold", truth.get("answer")))
            value = self.call(
                data_source=truth.get("data_source", problem.source), solution_str=response.text, ground_truth=gold, extra_info=truth.get("extra_info")
            )
            out.append(value.get("score") if isinstance(value, dict) else value)
        return out


def load_function(where: str, style: str = "trl", weight: float = 1.0) -> RewardFunction:
    """Import `file.py:function` or `package.module:function`. ConfigError where there is none."""
    place, colon, name = where.rpartition(":")
    if not colon or not name:
        raise ConfigError(f"reward function {where!r}: write file.py:function or package.module:function")
    if place.endswith(".py"):
        path = Path(place).expanduser()
        if not path.is_file():
            raise ConfigError(f"reward function {where!r}: no file at {path}")
        spec = importlib.util.spec_from_file_location(f"reward_{path.stem}", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise ConfigError(f"reward function {where!r}: {error}") from None
    call = getattr(module, name, None)
    if not callable(call):
        there = [n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")]
        raise ConfigError(f"reward function {where!r}: {place} has no function {name!r}: {nearest(name, there)}")
    return RewardFunction(name, call, style, weight)
