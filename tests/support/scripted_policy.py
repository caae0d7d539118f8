"""A policy that says what a script tells it to: with messages alone, or token by token with a chat
format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from qwq.rollout.policy import NextRequest, TurnRequest
from qwq.text.response import parse
from qwq.text.template import ChatFormat
from qwq.types import StopReason, Turn, tool_schemas

Script = Callable[[TurnRequest], str | Turn | list[int]]


class ScriptedPolicy:
    """`script(request)` is the turn: its text (it ends by itself), its token ids, or a whole
    `Turn`. `asked` are the requests.
    """

    name = "scripted"
    context: int | None = None
    native_tools = True

    def __init__(self, script: Script, chat: ChatFormat | None = None, context: int | None = None) -> None:
        self.script, self.chat, self.context = script, chat, context
        self.token_exact = chat is not None
        self.identity = {"scripted": True}
        self.version = 0
        self.asked: list[TurnRequest] = []

    def generate(self, next_request: NextRequest, concurrency: int | None = None) -> Iterator[tuple[TurnRequest, Turn]]:
        while (request := next_request()) is not None:
            self.asked.append(request)
            turn = self._turn(request, self.script(request))
            if request.on_text is not None:
                request.on_text(turn.text)
            yield request, turn

    def _turn(self, request: TurnRequest, said: Any) -> Turn:
        if isinstance(said, Turn):
            return said
        tools = tool_schemas(request.tools)
        if self.chat is None:
            return Turn(parse(said, tools=tools), StopReason.END, said)
        eos = self.chat.eos_ids
        ids = [*self.chat.own_ids(said), eos[0]] if isinstance(said, str) else said
        ended = ids[-1] in eos
        stop = StopReason.END if ended else StopReason.LENGTH
        text = self.chat.tokenizer.decode(ids[:-1] if ended else ids)
        parts = parse(text, thinking_open=self.chat.thinking_open, tools=tools, cut=stop.cut)
        return Turn(
            parts, stop, text, len(ids), ids=ids, sampled_mask=[1] * len(ids), logprobs=[-0.5] * len(ids),
            weight_versions=[self.version] * len(ids),
        )  # fmt: skip

    def pause(self) -> None: ...

    def update_weights(self, version: int) -> None:
        self.version = version

    def resume(self) -> None: ...

    def close(self) -> None: ...
