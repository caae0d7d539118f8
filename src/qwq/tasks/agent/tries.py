"""Several tries: after a wrong answer the user shows what was wrong, and the model answers
again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import ClassVar

from qwq.envs.base import Environment, environment_class
from qwq.types import Message, ParsedResponse, Problem

Feedback = Callable[[Problem, ParsedResponse], str]


class Retrying(Environment):
    """Goes before an environment class; `retrying` puts the two together."""

    tries: ClassVar[int]
    feedback: ClassVar[Feedback]

    async def reset(self, problem: Problem) -> None:
        await super().reset(problem)
        self._problem = problem
        self._tries_left = self.tries - 1

    async def next_messages(self, turn: ParsedResponse) -> Sequence[Message]:
        if not self._tries_left:
            return ()
        self._tries_left -= 1
        text = await asyncio.to_thread(type(self).feedback, self._problem, turn)
        return (Message("user", text),) if text else ()


def retrying(tools: str | None, tries: int, feedback: Feedback) -> type[Environment]:
    """The environment `tools` (None: no tools) with so many tries. `feedback(problem, turn)` is
    what the user says after a wrong turn, "" after a right one; it may take its time.
    """
    base = Environment if tools is None else environment_class(tools)
    bases = (Retrying,) if base is Environment else (Retrying, base)
    name = f"Retrying[{base.__name__}]"
    return type(name, bases, {"tries": tries, "feedback": staticmethod(feedback)})
