"""The answers to a turn's calls: which of them run, what takes the place of the others, and
environments at work.
"""

from __future__ import annotations

import asyncio
import queue
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from math import isinf
from typing import Any, Generic, TypeVar

from qwq.envs.base import Environment, Parked, explain_malformed, in_background
from qwq.errors import ConfigError, InfraError
from qwq.rollout.budget import EpisodeLimits
from qwq.types import Message, ToolCall

STEP_GRACE_S = 5.0  # beyond the limit of one call, for an environment with a `step` of its own
_Owner = TypeVar("_Owner")
NOTHING: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """Each attempt of a turn with its answer; None for the calls that run, which are `runs`, in
    order.
    """

    attempts: Sequence[ToolCall | str]
    answers: Sequence[str | None]
    runs: Sequence[ToolCall]

    def texts(self, made: Environment, messages: Sequence[Message]) -> list[str]:
        """All answers in order, once the environment has answered the calls that run. ConfigError
        where it answered other than that.
        """
        if len(messages) != len(self.runs):
            raise ConfigError(
                f"{type(made).__name__}.step answered {len(messages)} of {len(self.runs)} calls: "
                "return one message for each"
            )
        results = iter(messages)
        return [next(results).content if answer is None else answer for answer in self.answers]


def plan_answers(
    attempts: Sequence[ToolCall | str], made: Environment, tools: Sequence[Any], limits: EpisodeLimits, num_before: int,
    before: Mapping[str, int] = NOTHING, refusal: str = "",
) -> AnswerPlan:  # fmt: skip
    """Which calls of a turn run, after `num_before` earlier ones (`before` by tool); the others are
    answered with what is wrong with them, all with `refusal` where there is one.
    """
    answers: list[str | None] = []
    runs: list[ToolCall] = []
    count = Counter(before)
    for number, call in enumerate(attempts, num_before):
        answer = refusal or _not_run(call, number, made, tools, limits, len(runs), count)
        answers.append(answer)
        if answer is None and isinstance(call, ToolCall):
            runs.append(call)
            count[call.name] += 1
    return AnswerPlan(attempts, answers, runs)


def _not_run(
    call: ToolCall | str, number: int, made: Environment, tools: Sequence[Any], limits: EpisodeLimits, num_runs: int,
    count: Counter[str],
) -> str | None:  # fmt: skip
    if number >= made.max_calls:
        return f"error: no call is left of {made.max_calls}: answer with what you have"
    if isinstance(call, str):
        return explain_malformed(call, tools)
    if limits.max_parallel is not None and num_runs >= limits.max_parallel:
        return f"error: at most {limits.max_parallel} calls run in one turn: make this one again"
    most = limits.per_tool.get(call.name)
    if most is not None and count[call.name] >= most:
        return f"error: no call of {call.name} is left of {most}: go on without it"
    return None


async def run_calls(made: Environment, calls: Sequence[ToolCall]) -> list[Message]:
    """`made.step(calls)`. Whatever an environment's own `step` raises, or takes too long for, is
    the calls' result.
    """
    if not calls:
        return []
    if made.own:
        return list(await made.step(calls))
    limit_s = made.step_limit_s(calls)
    try:
        return list(await asyncio.wait_for(made.step(calls), None if isinf(limit_s) else limit_s + STEP_GRACE_S))
    except (InfraError, Parked):
        raise
    except TimeoutError:
        text = f"error: no result within {limit_s:g} s"
    except Exception as error:  # noqa: BLE001  # an environment is somebody's code
        text = f"error: the tools raised {type(error).__name__}: {' '.join(str(error).split())[:500]}"
    return [Message("tool", text) for _ in calls]


class Errands(Generic[_Owner]):
    """Coroutines of environments that run beside the sampling; their results are taken in the
    caller's thread.
    """

    def __init__(self) -> None:
        self.num_waiting = 0
        self._inbox: queue.SimpleQueue[tuple[_Owner, Future[Any], Callable[[_Owner, Future[Any]], None]]] = (
            queue.SimpleQueue()
        )

    def start(
        self,
        owner: _Owner,
        made: Environment,
        work: Coroutine[Any, Any, Any],
        then: Callable[[_Owner, Future[Any]], None],
    ) -> None:
        """Run `work`; `then` gets its future: at once where the environment is instant, else from
        `take`.
        """
        future = in_background(work)
        if made.instant:
            future.exception()  # waits until it is done
            then(owner, future)
            return
        self.num_waiting += 1
        future.add_done_callback(lambda done: self._inbox.put((owner, done, then)))

    def take(self, *, wait: bool = False) -> None:
        """Hand on what has come. `wait`: until something has."""
        while self.num_waiting:
            try:
                owner, future, then = self._inbox.get(block=wait)
            except queue.Empty:
                return
            wait = False
            self.num_waiting -= 1
            then(owner, future)
