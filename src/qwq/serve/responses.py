"""`/v1/responses`: items in, items out (reasoning, message, function calls), whole or in typed
events.

1. Finished responses are kept in memory (the last 1,000, unless `store` is false), so that
   `previous_response_id` can continue from them; they are gone when the server ends, and an unknown
   id is a 404 with its field.
2. Thinking is an item of type reasoning with its full text; `encrypted_content` is not made.
3. A call that turns out broken after it was announced stays in the stream as an incomplete item;
   its text follows as a message.
4. Tools that this server runs itself are in `hosted_response.py`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from qwq.engine.sequence import TokenSequence
from qwq.serve.chat import tool_choice
from qwq.serve.core import Core, new_id
from qwq.serve.engine_thread import RequestGroup, Update
from qwq.serve.errors import RequestRefused
from qwq.serve.response_format import response_form
from qwq.serve.response_input import chat_messages
from qwq.serve.response_items import ItemWriter, function_item
from qwq.serve.response_store import Kept, ResponseStore, input_items, item_dicts
from qwq.serve.schema_messages import ChatMessage, Function, Tool
from qwq.serve.schema_responses import (
    LOGPROBS,
    Chosen,
    ChosenCodeInterpreter,
    ChosenMcpTool,
    FunctionTool,
    ResponsesAllowedTools,
    ResponsesNamedTool,
    ResponsesRequest,
)
from qwq.serve.sse import event
from qwq.serve.turn import AnswerRequest, OutgoingMessage, PreparedChat, ToolChoice, converse, follow
from qwq.text.parts import Part


def plain_names(chosen: Chosen) -> tuple[str, ...]:
    """The functions that a choice names, for a request without tools of this server."""
    if isinstance(chosen, ResponsesNamedTool):
        return (chosen.name,)
    raise RequestRefused(f"tool_choice: the request has no tool of type {chosen.type}", "tool_choice")


def answer_request(
    body: ResponsesRequest,
    messages: list[ChatMessage],
    hosted: Sequence[Tool] = (),
    names: Callable[[Chosen], tuple[str, ...]] = plain_names,
) -> AnswerRequest:
    """What the request asks for; `hosted` are tools of this server, as functions, and `names` says
    which functions a choice of a tool means.
    """
    # Instructions hold for this response alone.
    system = [] if body.instructions is None else [ChatMessage(role="system", content=body.instructions)]
    return AnswerRequest(
        messages=[*system, *messages],
        tools=[*client_functions(body), *hosted],
        choice=_choice(body.tool_choice, names),
        parallel=body.parallel_tool_calls is not False,
        form=response_form(body.text.format if body.text else None, "text.format"),
        max_new=body.max_output_tokens,
        n=1,
        top=(body.top_logprobs or 0) if LOGPROBS in (body.include or ()) else None,
    )


def client_functions(body: ResponsesRequest) -> list[Tool]:
    """The tools that the client runs itself."""
    own = [t for t in body.tools or () if isinstance(t, FunctionTool)]
    return [Tool(type="function", function=Function(**t.model_dump(exclude={"type", "defer_loading"}))) for t in own]


def check_fields(body: ResponsesRequest) -> None:
    """RequestRefused where fields do not go together."""
    if body.top_logprobs and LOGPROBS not in (body.include or ()):
        raise RequestRefused(f"top_logprobs: needs include to name {LOGPROBS}", "top_logprobs")


def messages_before(store: ResponseStore, body: ResponsesRequest) -> list[ChatMessage]:
    if body.previous_response_id is None:
        return []
    return store.get(body.previous_response_id, "previous_response_id").messages


class ResponseRun:
    """One request and its answer: `start`, read `events` or await `answer`, `close` in any case."""

    def __init__(
        self,
        core: Core,
        store: ResponseStore,
        body: ResponsesRequest,
        messages: list[ChatMessage],
        conversation: PreparedChat,
    ) -> None:
        self.core, self.store, self.body, self.messages, self.conversation = core, store, body, messages, conversation
        self.id, self.created = new_id("resp_"), int(time.time())
        self.logprobs = LOGPROBS in (body.include or ())
        self.include_reasoning = conversation.include_reasoning
        self.output: list[dict[str, Any]] = []
        self.writer = ItemWriter(self)
        self._number = 0
        self._group: RequestGroup | None = None

    @classmethod
    async def make(cls, core: Core, store: ResponseStore, body: ResponsesRequest) -> ResponseRun:
        check_fields(body)
        messages = chat_messages(input_items(body), messages_before(store, body))
        return cls(core, store, body, messages, await converse(core, body, body, answer_request(body, messages)))

    def start(self, *, streamed: bool) -> None:
        """Hand the request to the engine. RequestRefused (429) where its queue is full."""
        self._group = self.core.start([self.conversation.request], streamed=streamed or self.conversation.watched)

    def close(self) -> None:
        """End what still runs. Safe to call twice."""
        if self._group is not None:
            self.core.end(self._group)

    async def answer(self) -> dict[str, Any]:
        self.start(streamed=False)
        try:
            async for _ in self.events():
                pass
            return self.final
        finally:
            self.close()

    # -- events ------------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[bytes]:
        assert self._group is not None
        yield self.opening()
        turns: dict[TokenSequence, OutgoingMessage] = {}
        async for updates in follow(self._group, turns, self.conversation):
            for update, turn, parts in updates:
                if written := self.written(update, turn, parts):
                    yield written
        (sample,) = self._group.samples[0]
        ending = turns[sample].ending(self.core, sample)
        own = ChatMessage.model_validate({k: v for k, v in turns[sample].message().items() if v is not None})
        reason = "max_output_tokens" if ending["finish_reason"] == "length" else None
        yield self.ending(self._group.samples, [*self.messages, own], reason)

    def opening(self) -> bytes:
        return b"".join(
            self.event(f"response.{kind}", response=self._response("in_progress"))
            for kind in ("created", "in_progress")
        )

    def written(self, update: Update, turn: OutgoingMessage, parts: list[Part]) -> bytes:
        """The events of one update."""
        tokens: list[dict[str, Any]] = []
        if self.logprobs:
            tokens = [self.core.token_logprob(c) for c in update.sample.outputs[update.first : update.last]]
        events = self.writer.add(parts, turn, tokens)
        if update.done:
            events += self.writer.end(cut=turn.ending(self.core, update.sample)["finish_reason"] == "length")
        return b"".join(events)

    def call_item(self, turn: OutgoingMessage, index: int, name: str) -> dict[str, Any]:
        return function_item(turn.call_id(index), name)

    def ending(self, groups: list[list[TokenSequence]], messages: list[ChatMessage], reason: str | None) -> bytes:
        """The last event, and the response kept. `reason` says what cut it, if something did."""
        status = "completed" if reason is None else "incomplete"
        self.final = self._response(status, groups, reason=reason)
        if self.body.store is not False:
            self.store.keep(Kept(self.final, messages, item_dicts(input_items(self.body)), **self.kept_state()))
        return self.event(f"response.{status}", response=self.final)

    def kept_state(self) -> dict[str, Any]:
        """What a later response has to know beside the messages."""
        return {}

    def failed(self, body: dict[str, Any]) -> bytes:
        """The last event of a stream that an error of ours ends."""
        error = {"code": "server_error", "message": body["error"]["message"]}
        return self.event("response.failed", response=self._response("failed") | {"error": error})

    def event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event(data, kind)

    def _response(
        self, status: str, groups: list[list[TokenSequence]] | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        body, params = self.body, self.conversation.request.params
        dumped = body.model_dump(mode="json", by_alias=True, exclude_none=True)
        out: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.core.options.name,
            "output": self.output,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "instructions": body.instructions,
            "previous_response_id": body.previous_response_id,
            "metadata": body.metadata or {},
            "max_output_tokens": body.max_output_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "parallel_tool_calls": self.conversation.parallel,
            "tool_choice": dumped.get("tool_choice", "auto"),
            "tools": [_shown_tool(t) for t in dumped.get("tools", [])],
            "text": {"format": {"type": "text"}} | dumped.get("text", {}),
            "reasoning": {"effort": None, "summary": None} | dumped.get("reasoning", {}),
            "truncation": "disabled",
            "store": body.store is not False,
            "background": False,
            "top_logprobs": body.top_logprobs or 0,
            "user": body.user,
            "service_tier": body.service_tier or "default",
            "usage": None,
        }
        if groups is not None:
            usage = self.core.usage(groups)
            out["completed_at"] = int(time.time())
            out["usage"] = {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"],
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": usage["completion_tokens_details"],
                "total_tokens": usage["total_tokens"],
            }
            out["timings"] = self.core.timings(groups)
        return out


def _shown_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A request's tool as its answer repeats it: without keys to other servers."""
    if tool["type"] == "function":
        return {"strict": None, "parameters": None, **tool}
    return {k: v for k, v in tool.items() if k not in ("headers", "authorization")}


def _choice(value: Any, names: Callable[[Chosen], tuple[str, ...]]) -> ToolChoice:
    match value:
        case ResponsesAllowedTools():
            return ToolChoice(value.mode, tuple(name for t in value.tools for name in names(t)))
        case ResponsesNamedTool() | ChosenCodeInterpreter() | ChosenMcpTool():
            named = names(value)
            return ToolChoice("required", named, one=len(named) == 1)
    return tool_choice(value)
