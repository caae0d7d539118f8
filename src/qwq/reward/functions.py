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
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwq.errors import ConfigError, nearest
from qwq.types import Problem, Response


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """A function with its style ("trl" or "verl"), its weight in the sum, the name its term is logged under, and where it was found."""

    name: str
    call: Callable[..., Any]
    style: str = "trl"
    weight: float = 1.0
    where: str = ""

    def values(self, asked: Sequence[tuple[Problem, Response, list[int]]], *, step: int | None = None) -> list[float | None]:
        """Weighted values, one for each (problem, response, completion ids).

        ConfigError where the function raises, or does not answer in kind; it names the training step (from 0), where one is given.
        """
        found = self._verl(asked, step) if self.style == "verl" else self._trl(asked, step)
        return [None if value is None else self.weight * self._number(value) for value in found]

    def _number(self, value: Any) -> float:
        try:
            number = math.nan if isinstance(value, str) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(f"reward function {self.where or self.name} gave {repr(value)[:60]}: a finite number or None is wanted")
        return number

    def _ask(self, step: int | None, about: str, **keywords: Any) -> Any:
        """What the function returns. It is the user's own code and may raise anything: the error says where, in the user's own lines."""
        try:
            return self.call(**keywords)
        except Exception as error:
            at = "" if step is None else f" at step {step + 1}"
            reason = " ".join(str(error).split())[:200] or "no message"
            raise ConfigError(
                f"reward function {self.where or self.name} raised {type(error).__name__}{at}, asked about {about}: {reason} ({_own_lines(error, self.call)})"
            ) from error

    def _trl(self, asked: Sequence[tuple[Problem, Response, list[int]]], step: int | None) -> list[Any]:
        keys = dict.fromkeys(k for problem, _, _ in asked for k in problem.truth)
        columns = {k: [problem.truth.get(k) for problem, _, _ in asked] for k in keys}
        found = self._ask(
            step,
            f"{len(asked)} completions",
            prompts=[[m.to_dict() for m in problem.messages] for problem, _, _ in asked],
            completions=[[{"role": "assistant", "content": response.text}] for _, response, _ in asked],
            completion_ids=[ids for _, _, ids in asked],
            **columns,
        )
        many = isinstance(found, Sized) and isinstance(found, Iterable) and not isinstance(found, str | bytes | dict)
        if not many or len(found) != len(asked):
            size = len(found) if many else type(found).__name__
            raise ConfigError(f"reward function {self.where or self.name} was asked about {len(asked)} completions and gave {size}: one number each is wanted")
        return list(found)

    def _verl(self, asked: Sequence[tuple[Problem, Response, list[int]]], step: int | None) -> list[Any]:
        out = []
        for problem, response, _ in asked:
            truth = problem.truth
            gold = truth.get("ground_truth", truth.get("gold", truth.get("answer")))
            value = self._ask(
                step, f"the answer to {problem.messages[-1].content[:60]!r}", data_source=truth.get("data_source", problem.source),
                solution_str=response.text, ground_truth=gold, extra_info=truth.get("extra_info"),
            )  # fmt: skip
            out.append(value.get("score") if isinstance(value, dict) else value)
        return out


def _own_lines(error: Exception, call: Callable[..., Any]) -> str:
    """The lines of the file that holds `call` through which an error came, outermost first; else the one that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(call, "__code__", None)
    own = [f for f in frames if code and f.filename == code.co_filename] or frames[-1:]
    return ", ".join(f"{Path(f.filename).name}, line {f.lineno}" for f in own)


def load_function(where: str, style: str = "trl", weight: float = 1.0) -> RewardFunction:
    """Import `file.py:function` or `package.module:function`. ConfigError where there is none, or where its file does not import."""
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
        _import(where, lambda: spec.loader.exec_module(module))
    else:
        module = _import(where, lambda: importlib.import_module(place))
    call = getattr(module, name, None)
    if not callable(call):
        there = [n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")]
        raise ConfigError(f"reward function {where!r}: {place} has no function {name!r}: {nearest(name, there)}")
    if inspect.iscoroutinefunction(call):
        raise ConfigError(f"reward function {where!r} is `async def`: write a plain function, which may call asyncio.run itself")
    return RewardFunction(name, call, style, weight, where)


def _import(where: str, do: Callable[[], Any]) -> Any:
    """Run a user's module, which may raise anything."""
    try:
        return do()
    except SyntaxError as error:
        raise ConfigError(f"reward function {where!r}: {error.msg} ({Path(error.filename or '').name}, line {error.lineno})") from None
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line = "" if isinstance(error, ImportError) else f" ({Path(frame.filename).name}, line {frame.lineno})"
        raise ConfigError(f"reward function {where!r}: importing it raised {type(error).__name__}: {' '.join(str(error).split())[:200]}{line}") from error
