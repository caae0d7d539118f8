"""`/v1/responses`: items in, items out (reasoning, message, function calls), whole or in typed
events.

1. Finished responses are kept in memory (the last 1,000, unless `store` is false), so that
   `previous_response_id` can continue from them; they are gone when the server ends, and an unknown
   id is a 404 with its field.
2. Thinking is an item of type reasoning with its full text; `encrypted_content` is not made.
3. A call that turns out broken after it was announced stays in the stream as an incomplete item;
   its text follows as a message.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from qwq.engine.sequence import TokenSequence
from qwq.serve.chat import tool_choice
from qwq.serve.core import Core, new_id
from qwq.serve.engine_thread import RequestGroup
from qwq.serve.errors import RequestRefused
from qwq.serve.prompt import in_order_of_calls
from qwq.serve.response_format import response_form
from qwq.serve.schema_messages import CalledFunction, CalledTool, ChatMessage, Function, Tool
from qwq.serve.schema_responses import (
    LOGPROBS,
    InputCall,
    InputCallOutput,
    InputItem,
    InputMessage,
    InputReasoning,
    ResponsesAllowedTools,
    ResponsesNamedTool,
    ResponsesRequest,
)
from qwq.serve.sse import event
from qwq.serve.turn import AnswerRequest, OutgoingMessage, PreparedChat, ToolChoice, converse, follow
from qwq.text.parts import Kind, Part

SECTIONS = {Kind.THINKING: "reasoning", Kind.ANSWER: "message"}


@dataclass(frozen=True, slots=True)
class Kept:
    """A response, the messages that led to it and its own, and the input items of its request."""

    response: dict[str, Any]
    messages: list[ChatMessage]
    items: list[dict[str, Any]]


class ResponseStore:
    """The latest responses."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def keep(self, kept: Kept) -> None:
        self._kept[kept.response["id"]] = kept
        while len(self._kept) > self.size:
            self._kept.popitem(last=False)

    def get(self, id: str, param: str) -> Kept:
        if id not in self._kept:
            raise RequestRefused(
                f"{param}: no response {id[:100]!r} is kept here", param, 404, code="previous_response_not_found"
            )
        return self._kept[id]

    def drop(self, id: str) -> None:
        self.get(id, "response_id")
        del self._kept[id]


def item_dicts(items: Sequence[InputItem]) -> list[dict[str, Any]]:
    """Input items as they are listed: each with an id, words as parts."""
    out = []
    for item in items:
        listed = {"id": new_id("msg_"), "type": "message", "status": "completed"} | item.model_dump(
            mode="json", exclude_none=True
        )
        if isinstance(item, InputMessage) and isinstance(item.content, str):
            kind = "output_text" if item.role == "assistant" else "input_text"
            listed["content"] = [{"type": kind, "text": item.content}]
        out.append(listed)
    return out


def page_of(items: list[dict[str, Any]], *, after: str | None, limit: int, order: str) -> dict[str, Any]:
    """At most `limit` items behind the one with the id `after`, the last first where `order` is
    desc.
    """
    ordered = items if order == "asc" else items[::-1]
    if after is not None:
        ids = [i["id"] for i in ordered]
        if after not in ids:
            raise RequestRefused(f"after: no item {after[:100]!r} is in this response's input", "after", 404)
        ordered = ordered[ids.index(after) + 1 :]
    data = ordered[:limit]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, "has_more": len(ordered) > limit, **ends}


def chat_messages(items: Sequence[InputItem], before: Sequence[ChatMessage] = ()) -> list[ChatMessage]:
    """Messages `before` and input items as messages: an assistant's reasoning, words and calls that
    follow one another are one turn.

    RequestRefused where a call's output does not belong to a call, see `in_order_of_calls`.
    """
    out: list[ChatMessage] = []
    fields = ["previous_response_id"] * len(before)

    def begin(message: ChatMessage, number: int) -> ChatMessage:
        out.append(message)
        fields.append(f"input.{number}")
        return message

    for i, item in enumerate(items):
        if isinstance(item, InputCallOutput):
            begin(ChatMessage(role="tool", content=item.output, tool_call_id=item.call_id), i)
            continue
        if isinstance(item, InputMessage) and item.role != "assistant":
            begin(ChatMessage(role=item.role, content=item.content), i)
            continue
        turn = out[-1] if out and out[-1].role == "assistant" else None
        if turn is None or (not isinstance(item, InputCall) and (turn.tool_calls or turn.content is not None)):
            turn = begin(ChatMessage(role="assistant"), i)
        match item:
            case InputReasoning():
                parts = item.content or item.summary or []
                turn.reasoning_content = (turn.reasoning_content or "") + "".join(str(p.get("text", "")) for p in parts)
            case InputMessage():
                turn.content = item.content
            case InputCall():
                call = CalledTool(id=item.call_id, function=CalledFunction(name=item.name, arguments=item.arguments))
                turn.tool_calls = [*(turn.tool_calls or []), call]
    return in_order_of_calls([*before, *out], fields, "call_id")


class ResponseRun:
    """One request and its answer."""

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
        self.output: list[dict[str, Any]] = []
        self._number = 0

    @classmethod
    async def make(cls, core: Core, store: ResponseStore, body: ResponsesRequest) -> ResponseRun:
        if body.top_logprobs and LOGPROBS not in (body.include or ()):
            raise RequestRefused(f"top_logprobs: needs include to name {LOGPROBS}", "top_logprobs")
        before = (
            []
            if body.previous_response_id is None
            else store.get(body.previous_response_id, "previous_response_id").messages
        )
        messages = chat_messages(input_items(body), before)
        # Instructions hold for this response alone.
        system = [] if body.instructions is None else [ChatMessage(role="system", content=body.instructions)]
        tools = [
            Tool(type="function", function=Function(**t.model_dump(exclude={"type", "defer_loading"})))
            for t in body.tools or []
        ]
        ask = AnswerRequest(
            messages=[*system, *messages],
            tools=tools,
            choice=_choice(body.tool_choice),
            parallel=body.parallel_tool_calls is not False,
            form=response_form(body.text.format if body.text else None, "text.format"),
            max_new=body.max_output_tokens,
            n=1,
            top=(body.top_logprobs or 0) if LOGPROBS in (body.include or ()) else None,
        )
        return cls(core, store, body, messages, await converse(core, body, body, ask))

    async def answer(self) -> dict[str, Any]:
        async with self.core.running([self.conversation.request], streamed=self.conversation.watched) as group:
            async for _ in self.events(group):
                pass
            return self.final

    # -- events ------------------------------------------------------------------------------------

    async def events(self, group: RequestGroup) -> AsyncIterator[bytes]:
        yield self._event("response.created", response=self._response("in_progress"))
        yield self._event("response.in_progress", response=self._response("in_progress"))
        writer = _ItemWriter(self)
        turns: dict[TokenSequence, OutgoingMessage] = {}
        async for updates in follow(group, turns, self.conversation):
            for u, turn, parts in updates:
                tokens = (
                    [self.core.token_logprob(c) for c in u.sample.outputs[u.first : u.last]] if self.logprobs else []
                )
                events = writer.add(parts, turn, tokens)
                if u.done:
                    events += writer.close()
                if events:
                    yield b"".join(events)
        (sample,) = group.samples[0]
        ending = turns[sample].ending(self.core, sample)
        cut = ending["finish_reason"] == "length"
        status = "incomplete" if cut else "completed"
        if cut and self.output:
            self.output[-1]["status"] = "incomplete"
        self.final = self._response(status, group.samples, reason="max_output_tokens" if cut else None)
        if self.body.store is not False:
            kept = ChatMessage.model_validate({k: v for k, v in turns[sample].message().items() if v is not None})
            self.store.keep(Kept(self.final, [*self.messages, kept], item_dicts(input_items(self.body))))
        yield self._event(f"response.{status}", response=self.final)

    def failed(self, body: dict[str, Any]) -> bytes:
        """The last event of a stream that an error of ours ends."""
        error = {"code": "server_error", "message": body["error"]["message"]}
        return self._event("response.failed", response=self._response("failed") | {"error": error})

    def _event(self, kind: str, **fields: Any) -> bytes:
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
            "tools": [{"strict": None, "parameters": None, **t} for t in dumped.get("tools", [])],
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


def input_items(body: ResponsesRequest) -> list[InputItem]:
    return [InputMessage(role="user", content=body.input)] if isinstance(body.input, str) else body.input


def _choice(value: str | ResponsesNamedTool | ResponsesAllowedTools | None) -> ToolChoice:
    match value:
        case ResponsesNamedTool():
            return ToolChoice("required", (value.name,), one=True)
        case ResponsesAllowedTools():
            return ToolChoice(value.mode, tuple(t.name for t in value.tools))
    return tool_choice(value)


class _ItemWriter:
    """Parts of one turn as output items, one open at a time, and the events that tell of them."""

    def __init__(self, run: ResponseRun) -> None:
        self.run = run
        self._item: dict[str, Any] | None = None
        self._index = -1
        self._tokens: list[dict[str, Any]] = []

    def add(self, parts: list[Part], turn: OutgoingMessage, tokens: list[dict[str, Any]]) -> list[bytes]:
        events: list[bytes] = []
        self._tokens += tokens
        for part in parts:
            match part.kind:
                case Kind.THINKING | Kind.ANSWER:
                    if part.kind is Kind.THINKING and not self.run.conversation.include_reasoning:
                        continue
                    if self._item is None or self._item["type"] != SECTIONS[part.kind]:
                        events += self.close() + self._open_section(part.kind)
                    events.append(self._text(part.text))
                case Kind.CALL:
                    events += self.close()
                    events.append(self._open(_call_item(turn.call_id(part.index), part.text)))
                case Kind.ARGUMENTS:
                    assert self._item is not None
                    self._item["arguments"] += part.text
                    events.append(self._event("response.function_call_arguments.delta", delta=part.text))
                case Kind.BROKEN:
                    events += self.close(status="incomplete")
                    self.run.output.pop()
        return events

    def _open(self, item: dict[str, Any]) -> bytes:
        self._index += 1
        self._item = item
        self.run.output.append(item)
        return self.run._event("response.output_item.added", output_index=self._index, item=item)

    def _open_section(self, kind: Kind) -> list[bytes]:
        if kind is Kind.THINKING:
            item: dict[str, Any] = {
                "id": new_id("rs_"),
                "type": "reasoning",
                "summary": [],
                "content": [],
                "status": "in_progress",
            }
            part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        else:
            item = {
                "id": new_id("msg_"),
                "type": "message",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        opened = self._open(item)
        added = self._event("response.content_part.added", content_index=0, part=part)
        item["content"].append(part)
        return [opened, added]

    def _text(self, text: str) -> bytes:
        assert self._item is not None
        part = self._item["content"][0]
        part["text"] += text
        if self._item["type"] == "reasoning":
            return self._event("response.reasoning_text.delta", content_index=0, delta=text)
        tokens, self._tokens = self._tokens, []
        part["logprobs"] += tokens
        return self._event("response.output_text.delta", content_index=0, delta=text, logprobs=tokens)

    def close(self, status: str = "completed") -> list[bytes]:
        item, self._tokens = self._item, []
        if item is None:
            return []
        item["status"] = status
        events: list[bytes] = []
        if item["type"] == "function_call":
            events.append(
                self._event("response.function_call_arguments.done", name=item["name"], arguments=item["arguments"])
            )
        else:
            part = item["content"][0]
            if item["type"] == "reasoning":
                events.append(self._event("response.reasoning_text.done", content_index=0, text=part["text"]))
            else:
                done = {"text": part["text"], "logprobs": part["logprobs"]}
                events.append(self._event("response.output_text.done", content_index=0, **done))
            events.append(self._event("response.content_part.done", content_index=0, part=part))
        events.append(self.run._event("response.output_item.done", output_index=self._index, item=item))
        self._item = None
        return events

    def _event(self, kind: str, **fields: Any) -> bytes:
        assert self._item is not None
        return self.run._event(kind, item_id=self._item["id"], output_index=self._index, **fields)


def _call_item(call_id: str, name: str) -> dict[str, Any]:
    return {
        "id": new_id("fc_"),
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": "",
        "status": "in_progress",
    }
