"""Reward functions of a user's own, in the signatures that TRL and verl call.

    trl    f(prompts, completions, completion_ids, **columns) -> one float or None each
    verl   f(data_source, solution_str, ground_truth, extra_info) -> a float, or a dict with "score"

A function is named `file.py:function` or `package.module:function`, or by the name that
`@qwq.reward("name")` gave it, and runs in this process: it is the user's own code. It is asked
about responses that ended with an answer; a response that never ends earns nothing (design of the
loop, point 5), whatever a function thinks of it. None says that it does not apply.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

from qwq.common.imports import import_object, is_reference, user_code
from qwq.errors import ConfigError, nearest
from qwq.types import Problem, Response


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What TRL calls `trainer_state`, for functions that name it: the steps taken so far."""

    global_step: int


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """A function with its style ("trl" or "verl"), its weight in the sum, the name its term is
    logged under, and where it was found.
    """

    name: str
    call: Callable[..., Any]
    style: str = "trl"
    weight: float = 1.0
    where: str = ""

    def values(
        self, asked: Sequence[tuple[Problem, Response, list[int]]], *, step: int | None = None
    ) -> list[float | None]:
        """Weighted values, one for each (problem, response, completion ids).

        ConfigError where the function raises, or does not answer in kind; it names the training
        step (from 0), where one is given.
        """
        found = self._verl(asked, step) if self.style == "verl" else self._trl(asked, step)
        return [None if value is None else self.weight * self._number(value) for value in found]

    def _number(self, value: Any) -> float:
        try:
            number = math.nan if isinstance(value, str) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(
                f"reward function {self.where or self.name} gave {repr(value)[:60]}: a finite number or None is wanted"
            )
        return number

    def _ask(self, step: int | None, about: str, **keywords: Any) -> Any:
        """What the function returns.

        It is the user's own code and may raise anything: the error says where, in the user's own
        lines.
        """
        at = "" if step is None else f" at step {step + 1}"
        with user_code(f"reward function {self.where or self.name}", self.call, f"{at}, asked about {about}"):
            return self.call(**keywords)

    def _trl(self, asked: Sequence[tuple[Problem, Response, list[int]]], step: int | None) -> list[Any]:
        state = {} if not self._wants_state else {"trainer_state": TrainerState(step or 0)}
        keys = dict.fromkeys(k for problem, _, _ in asked for k in problem.truth)
        columns = {k: [problem.truth.get(k) for problem, _, _ in asked] for k in keys}
        found = self._ask(
            step,
            f"{len(asked)} completion{'' if len(asked) == 1 else 's'}",
            prompts=[[m.to_dict() for m in problem.messages] for problem, _, _ in asked],
            completions=[[{"role": "assistant", "content": response.text}] for _, response, _ in asked],
            completion_ids=[ids for _, _, ids in asked],
            **(columns | state),
        )
        many = isinstance(found, Sized) and isinstance(found, Iterable) and not isinstance(found, str | bytes | dict)
        if not many or len(found) != len(asked):
            size = len(found) if many else type(found).__name__
            raise ConfigError(
                f"reward function {self.where or self.name} was asked about {len(asked)} completions and gave "
                f"{size}: one number each is wanted"
            )
        return list(found)

    @property
    def _wants_state(self) -> bool:
        try:
            return "trainer_state" in inspect.signature(self.call).parameters
        except ValueError:  # a function of a C module that does not state its arguments
            return False

    def _verl(self, asked: Sequence[tuple[Problem, Response, list[int]]], step: int | None) -> list[Any]:
        out = []
        for problem, response, _ in asked:
            truth = problem.truth
            gold = truth.get("ground_truth", truth.get("gold", truth.get("answer")))
            value = self._ask(
                step, f"the answer to {problem.messages[-1].content[:60]!r}",
                data_source=truth.get("data_source", problem.source), solution_str=response.text, ground_truth=gold,
                extra_info=truth.get("extra_info"),
            )  # fmt: skip
            out.append(value.get("score") if isinstance(value, dict) else value)
        return out


REWARDS: dict[str, Callable[..., Any]] = {}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def register_reward(name: str) -> Callable[[_Function], _Function]:
    """Decorator: recipes read in this process may give the function by `name`, `rewards = [{
    function = "name" }]`.

    The function has TRL's signature, or verl's where the recipe says `style = "verl"`. ConfigError
    for a name with a colon or a dot, which is that of a file or a module.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ConfigError(f"@reward({name!r}): give one word of letters, digits, - and _")

    def register(function: _Function) -> _Function:
        REWARDS[name] = function
        return function

    return register


def load_function(where: str, style: str = "trl", weight: float = 1.0) -> RewardFunction:
    """A registered function, or `file.py:function` or `package.module:function`, which is imported.

    ConfigError where there is none, or where its file does not import.
    """
    if where not in REWARDS and not is_reference(where):
        hint = f"{nearest(where, REWARDS)}, or " if REWARDS else ""
        raise ConfigError(
            f"no reward function {where!r} is registered: {hint}write file.py:function or package.module:function"
        )
    call = REWARDS[where] if where in REWARDS else import_object(where, "reward function")
    if inspect.iscoroutinefunction(call):
        raise ConfigError(
            f"reward function {where!r} is `async def`: write a plain function, which may call asyncio.run itself"
        )
    return RewardFunction(where.rpartition(":")[2], call, style, weight, where)
