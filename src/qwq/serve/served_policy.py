"""The model of this server as a policy: turns of an episode go through the same queue as every
request.

`rollout.episode.play` asks from a thread of its own; the turns are made in the server's event loop,
where `listen` hears what comes. So hosted tools and the page's agent have the one loop that answers
calls, and the engine's thread never waits for a tool.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any

from qwq.engine.request import GenerationRequest
from qwq.engine.sequence import TokenSequence
from qwq.errors import UsageError
from qwq.rollout.policy import NextRequest, TurnRequest
from qwq.serve.core import Core
from qwq.serve.engine_thread import Update
from qwq.serve.prompt import Prompt
from qwq.serve.turn import OutgoingMessage, PreparedChat, follow
from qwq.text.parts import Part
from qwq.text.response import parse
from qwq.types import ParsedResponse, StopReason, Turn, tool_schemas

Prepare = Callable[[TurnRequest], PreparedChat]
Listener = Callable[[Update, OutgoingMessage, list[Part]], None]


def prepare_turn(core: Core, request: TurnRequest) -> PreparedChat:
    """A turn as an episode asks for it, as the engine takes it."""
    chat, ids = core.chat, request.prompt_ids
    ids = chat.prompt_ids(request.messages, request.tools) if ids is None else list(ids)
    generation = GenerationRequest(
        ids,
        request.params,
        seed=request.seed,
        stream=request.stream,
        offset=request.offset,
        eos_ids=chat.eos_ids,
        thinking_open=chat.thinking_open,
        thinking_budget=request.thinking_budget,
        loop_tokens=request.loop_tokens,
        hidden_ids=core.hidden_ids,
    )
    return PreparedChat(generation, Prompt(ids, chat.thinking_open), tool_schemas(request.tools), True, True)


class ServedPolicy:
    """Turns of one episode after another, one at a time. Make it in the event loop of the server,
    ask it from another thread. `prepare` makes the engine's request of a turn.
    """

    token_exact = True
    native_tools = True
    version = 0

    def __init__(self, core: Core, *, prepare: Prepare | None = None, listen: Listener | None = None) -> None:
        self.core, self.name, self.chat, self.context = core, core.options.name, core.chat, core.max_len
        self.identity: Mapping[str, Any] = {"served": core.options.name}
        self.samples: list[list[TokenSequence]] = []  # of each turn
        self._prepare = prepare or (lambda request: prepare_turn(core, request))
        self._listen = listen
        self._loop = asyncio.get_running_loop()
        self._running: Future[Turn] | None = None
        self._closed = False

    def generate(self, next_request: NextRequest, concurrency: int | None = None) -> Iterator[tuple[TurnRequest, Turn]]:
        while (request := next_request()) is not None:
            if self._closed:
                raise CancelledError("the episode was stopped")
            self._running = asyncio.run_coroutine_threadsafe(self._turn(request), self._loop)
            if self._closed:
                self._running.cancel()
            yield request, self._running.result()

    def close(self) -> None:
        """End the turn that is being made: whoever waits for it gets CancelledError."""
        self._closed = True
        if self._running is not None:
            self._running.cancel()

    async def _turn(self, request: TurnRequest) -> Turn:
        started, conversation = time.monotonic(), self._prepare(request)
        asked = conversation.request
        if request.schema is not None:
            asked = replace(asked, matcher=await asyncio.to_thread(self.core.grammars.for_schema, request.schema))
        room = self.core.max_len - len(asked.prompt_ids)
        if min(room, asked.params.max_new_tokens) < 1:
            return Turn(ParsedResponse(None, ""), StopReason.CONTEXT if room < 1 else StopReason.LENGTH)
        if asked.params.max_new_tokens > room:
            asked = replace(asked, params=replace(asked.params, max_new_tokens=room))
        turns: dict[TokenSequence, OutgoingMessage] = {}
        async with self.core.running([asked], streamed=True) as group:
            async for updates in follow(group, turns, conversation):
                for update, turn, parts in updates:
                    if self._listen is not None and request.schema is None:
                        self._listen(update, turn, parts)
                    if request.on_text is not None and update.text:
                        request.on_text(update.text)
        ((sample,),) = group.samples
        self.samples.append([sample])
        return self._made(sample, turns[sample], conversation, time.monotonic() - started)

    def _made(self, sample: TokenSequence, turn: OutgoingMessage, conversation: PreparedChat, seconds: float) -> Turn:
        assert sample.stop_reason is not None
        ids, mask, reason = list(sample.ids), [1 - f for f in sample.forced], sample.stop_reason
        if turn.parser.complete and reason is StopReason.ABORT:
            # Stopped behind the one call that may be made: the end of the turn is written here.
            ids, mask, reason = [*ids, self.chat.eos_ids[0]], [*mask, 0], StopReason.END
        parts = parse(
            sample.text, thinking_open=conversation.prompt.thinking_open, tools=conversation.tools, cut=reason.cut
        )
        return Turn(
            parts, reason, sample.text, len(ids), sample.num_thinking, seconds, ids=ids, sampled_mask=mask,
            logprobs=[0.0] * len(ids), weight_versions=[0] * len(ids),
        )  # fmt: skip

    def pause(self) -> None:
        raise UsageError("a server that answers cannot be paused for one episode")

    def update_weights(self, version: int) -> None:
        raise UsageError("a server takes no weights while it answers")

    def resume(self) -> None:
        raise UsageError("a server that answers cannot be paused for one episode")
