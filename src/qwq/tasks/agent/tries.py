"""What the user says after a turn without calls: how a call is written, once, where the turn shows
one that nobody could read; and, where there are several tries, what was wrong with the answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from qwq.envs.base import Environment, environment_class
from qwq.types import Message, ParsedResponse, Problem, tool_schemas

Feedback = Callable[[Problem, ParsedResponse], str]
HOW_TO_CALL = (
    "No tool ran. A call is written without a code block, with line breaks as \\n in its texts:\n<tool_call>\n"
    '{"name": ..., "arguments": {...}}\n</tool_call>\nMake the call again.'
)
_SHOWN_CALL = re.compile(r'\{\s*"name"\s*:\s*"([\w.-]+)"')


def shows_a_call(turn: ParsedResponse, tools: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a turn without calls holds one of a tool on offer as text, as small models write it:
    JSON in a code block, or the tool's schema.
    """
    names = tool_schemas(tools)
    return not turn.calls_in_order and any(name in names for name in _SHOWN_CALL.findall(turn.answer))


class Retrying(Environment):
    """Goes before an environment class; `retrying` puts the two together."""

    tries: ClassVar[int]
    feedback: ClassVar[Feedback]

    async def reset(self, problem: Problem) -> None:
        await super().reset(problem)
        self._problem = problem
        self._tries_left = self.tries - 1
        self._explained = False

    async def next_messages(self, turn: ParsedResponse) -> Sequence[Message]:
        if not self._explained and shows_a_call(turn, self._problem.tools):
            self._explained = True
            return (Message("user", HOW_TO_CALL),)
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
