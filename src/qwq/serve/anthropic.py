"""`/v1/messages`: Anthropic's API, whole or in events, and the count of a request's tokens.

1. Thinking is given in blocks where the request asks for it (`thinking` enabled or adaptive). Where
   it says nothing, the model thinks and the thinking is left out, as programs then take the first
   block for the answer; `disabled` ends it at once.
2. A thinking block's `signature` is a checksum. It is not looked at when the block comes back.
3. A last assistant message is continued (prefill).
4. A call that turns out broken after it was announced stays in the stream; its text follows as a
   block.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from qwq.engine.notes import note_once
from qwq.engine.sequence import TokenSequence
from qwq.serve.core import Core, new_id
from qwq.serve.engine_thread import RequestGroup
from qwq.serve.errors import RequestRefused, anthropic_error
from qwq.serve.fields import LENIENT
from qwq.serve.prompt import in_order_of_calls, make_prompt
from qwq.serve.response_format import schema_form
from qwq.serve.schema_anthropic import (
    AnthropicToolChoice,
    AssistantTurn,
    CallersTool,
    CountRequest,
    DocumentBlock,
    MessagesRequest,
    ResultBlock,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    UserTurn,
)
from qwq.serve.schema_messages import CalledFunction, CalledTool, ChatMessage, Function, Tool
from qwq.serve.sse import event
from qwq.serve.translated import Translated
from qwq.serve.turn import AnswerRequest, OutgoingMessage, PreparedChat, ToolChoice, converse, follow
from qwq.text.attach import file_block
from qwq.text.parts import Kind, Part

STOPS = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}


def chat_messages(body: CountRequest) -> list[ChatMessage]:
    """The messages as chats have them. RequestRefused where a result belongs to no call."""
    out: list[ChatMessage] = []
    fields: list[str] = []
    if body.system:
        out.append(ChatMessage(role="system", content=_text(body.system)))
        fields.append("system")
    for i, turn in enumerate(body.messages):
        made = [_assistants(turn)] if isinstance(turn, AssistantTurn) else _users(turn)
        out += made
        fields += [f"messages.{i}.content"] * len(made)
    return in_order_of_calls(out, fields, "tool_use_id")


def _users(turn: UserTurn) -> list[ChatMessage]:
    """Tool results and words, in their order; words that follow one another are one message."""
    out: list[ChatMessage] = []
    for block in [TextBlock(type="text", text=turn.content)] if isinstance(turn.content, str) else turn.content:
        if isinstance(block, ResultBlock):
            content = block.content if isinstance(block.content, str) else _text(block.content or [])
            out.append(ChatMessage(role="tool", content=content, tool_call_id=block.tool_use_id))
            continue
        text = _text([block])
        if out and out[-1].role == turn.role:
            out[-1].content = f"{out[-1].content}\n{text}"
        else:
            out.append(ChatMessage(role=turn.role, content=text))
    return out or [ChatMessage(role=turn.role, content="")]


def _assistants(turn: AssistantTurn) -> ChatMessage:
    out = ChatMessage(role="assistant", content="")
    for block in [TextBlock(type="text", text=turn.content)] if isinstance(turn.content, str) else turn.content:
        match block:
            case TextBlock():
                out.content = f"{out.content}{block.text}"
            case ThinkingBlock():
                out.reasoning_content = (out.reasoning_content or "") + block.thinking
            case ToolUseBlock():
                call = CalledTool(id=block.id, function=CalledFunction(name=block.name, arguments=block.input))
                out.tool_calls = [*(out.tool_calls or []), call]
    return out


def _text(content: str | Sequence[TextBlock | DocumentBlock]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(
        b.text if isinstance(b, TextBlock) else file_block(b.title or "document", b.source.data) for b in content
    )


def chat_tools(tools: Sequence[CallersTool]) -> list[Tool]:
    """The caller's tools. Anthropic's own (web search and others) are refused, or left out where
    unknown fields are ignored.
    """
    out = []
    for i, tool in enumerate(tools):
        if tool.type not in (None, "custom"):
            if not LENIENT.get():
                raise RequestRefused(
                    f"tools.{i}.type: {tool.type[:60]!r} is a tool of Anthropic's servers, which is not here: "
                    "leave it out",
                    f"tools.{i}.type",
                )
            note_once(f"tool {tool.type}", f"requests: the tool {tool.type[:60]!r} is not here and is left out")
            continue
        function = Function(
            name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
        )
        out.append(Tool(type="function", function=function))
    return out


def _choice(value: AnthropicToolChoice | None) -> ToolChoice:
    if value is None or value.type == "auto":
        return ToolChoice()
    if value.type == "tool":
        if not value.name:
            raise RequestRefused("tool_choice.name: names the tool to call", "tool_choice.name")
        return ToolChoice("required", (value.name,), one=True)
    return ToolChoice("none" if value.type == "none" else "required")


def _translated(body: CountRequest, messages: Sequence[ChatMessage]) -> Translated:
    thinking = body.thinking
    goes_on = messages[-1].role == "assistant" and not messages[-1].tool_calls
    out = Translated(
        model=body.model,
        chat_template_kwargs=body.chat_template_kwargs,
        reasoning_effort=body.output_config.effort if body.output_config else None,
        continue_final_message=goes_on or None,
        add_generation_prompt=False if goes_on else None,
        include_reasoning=thinking is not None and thinking.type != "disabled" and thinking.display != "omitted",
    )
    if thinking is not None:
        out.enable_thinking = False if thinking.type == "disabled" else None
        out.thinking_token_budget = thinking.budget_tokens
    if isinstance(body, MessagesRequest):
        named = body.metadata or {}
        out.metadata, out.user = named, named.get("user_id")
        out.temperature, out.top_p, out.top_k, out.seed, out.stop = (
            body.temperature,
            body.top_p,
            body.top_k,
            body.seed,
            body.stop_sequences,
        )
    return out


def count(core: Core, body: CountRequest) -> dict[str, Any]:
    """How many tokens the request's prompt has."""
    core.check_model(body.model)
    messages = chat_messages(body)
    tools = [] if _choice(body.tool_choice).mode == "none" else chat_tools(body.tools or [])
    own = _translated(body, messages)
    think = False if own.thinking_token_budget == 0 or own.effort == "none" else own.switch
    prompt = make_prompt(
        core.chat,
        messages,
        tools,
        own,
        think=think,
        defaults=core.options.default_chat_template_kwargs,
        keep_tool_thinking=core.options.keep_tool_thinking,
    )
    return {"input_tokens": len(prompt.ids)}


class Messages:
    """One request and its answer, whole or in events."""

    def __init__(self, core: Core, body: MessagesRequest, conversation: PreparedChat) -> None:
        self.core, self.body, self.conversation = core, body, conversation
        self.id = new_id("msg_")

    @classmethod
    async def make(cls, core: Core, body: MessagesRequest) -> Messages:
        messages = chat_messages(body)
        form = body.output_config.format if body.output_config else None
        ask = AnswerRequest(
            messages=messages,
            tools=chat_tools(body.tools or []),
            choice=_choice(body.tool_choice),
            parallel=not (body.tool_choice and body.tool_choice.disable_parallel_tool_use),
            form=None if form is None else schema_form(form.schema_, "output_config.format.schema"),
            max_new=body.max_tokens,
            n=1,
            top=None,
        )
        own = _translated(body, messages)
        return cls(core, body, await converse(core, own, own, ask))

    async def answer(self) -> dict[str, Any]:
        turns: dict[TokenSequence, OutgoingMessage] = {}
        async with self.core.running([self.conversation.request], streamed=self.conversation.watched) as group:
            async for _ in follow(group, turns, self.conversation):
                pass
        (sample,) = group.samples[0]
        return self._message(self._blocks(turns[sample]), turns[sample].ending(self.core, sample), group.samples)

    def _message(
        self, content: list[dict[str, Any]], ending: dict[str, Any] | None, groups: list[list[TokenSequence]]
    ) -> dict[str, Any]:
        head = {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.core.options.name,
            "content": content,
        }
        return head | _stop(ending) | {"usage": self._usage(groups)}

    def _blocks(self, turn: OutgoingMessage) -> list[dict[str, Any]]:
        whole = turn.whole
        out: list[dict[str, Any]] = []
        if whole.thinking and self.conversation.include_reasoning:
            out.append({"type": "thinking", "thinking": whole.thinking, "signature": _signature(whole.thinking)})
        if whole.answer:
            out.append({"type": "text", "text": whole.answer})
        for i, (name, arguments) in enumerate(whole.calls):
            out.append({"type": "tool_use", "id": turn.call_id(i), "name": name, "input": _input(arguments)})
        return out

    def _usage(self, groups: list[list[TokenSequence]]) -> dict[str, Any]:
        """Prompt tokens that were found in the cache are counted apart, as Anthropic counts
        them.
        """
        usage = self.core.usage(groups)
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        prompt = usage["prompt_tokens"] or len(self.conversation.prompt.ids)
        counts = {"input_tokens": prompt - cached, "cache_read_input_tokens": cached, "cache_creation_input_tokens": 0}
        return counts | {"output_tokens": usage["completion_tokens"]}

    # -- events ------------------------------------------------------------------------------------

    async def events(self, group: RequestGroup) -> AsyncIterator[bytes]:
        yield event({"type": "message_start", "message": self._message([], None, [])}, "message_start")
        yield event({"type": "ping"}, "ping")
        writer, turns = _BlockWriter(self.conversation.include_reasoning), dict[TokenSequence, OutgoingMessage]()
        async for updates in follow(group, turns, self.conversation):
            for u, turn, parts in updates:
                events = writer.add(parts, turn)
                if u.done:
                    events += writer.close()
                if events:
                    yield b"".join(events)
        (sample,) = group.samples[0]
        ending = turns[sample].ending(self.core, sample)
        yield event(
            {"type": "message_delta", "delta": _stop(ending), "usage": self._usage(group.samples)}, "message_delta"
        )
        yield event({"type": "message_stop"}, "message_stop")

    @staticmethod
    def failed(body: dict[str, Any]) -> bytes:
        """The last event of a stream that an error of ours ends."""
        return event(anthropic_error(500, body["error"]["message"]), "error")


def _stop(ending: dict[str, Any] | None) -> dict[str, Any]:
    if ending is None:
        return {"stop_reason": None, "stop_sequence": None}
    sequence = (
        ending["stop_reason"] if ending["finish_reason"] == "stop" and isinstance(ending["stop_reason"], str) else None
    )
    return {"stop_reason": "stop_sequence" if sequence else STOPS[ending["finish_reason"]], "stop_sequence": sequence}


def _signature(thinking: str) -> str:
    return hashlib.sha256(thinking.encode("utf-8", "replace")).hexdigest()


def _input(arguments: str) -> dict[str, Any]:
    """Arguments as an object; those of a call that was cut off are empty."""
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}


class _BlockWriter:
    """Parts of one turn as content blocks, one open at a time, and the events that tell of them."""

    def __init__(self, thinking: bool) -> None:
        self._thinking_shown = thinking
        self._index, self._open = -1, ""
        self._thinking = ""

    def add(self, parts: Sequence[Part], turn: OutgoingMessage) -> list[bytes]:
        out: list[bytes] = []
        for part in parts:
            match part.kind:
                case Kind.THINKING if self._thinking_shown:
                    out += self._enter("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                    self._thinking += part.text
                    out.append(self._delta({"type": "thinking_delta", "thinking": part.text}))
                case Kind.ANSWER:
                    out += self._enter("text", {"type": "text", "text": ""})
                    out.append(self._delta({"type": "text_delta", "text": part.text}))
                case Kind.CALL:
                    out += self.close()
                    out += self._enter(
                        "tool_use", {"type": "tool_use", "id": turn.call_id(part.index), "name": part.text, "input": {}}
                    )
                case Kind.ARGUMENTS:
                    out.append(self._delta({"type": "input_json_delta", "partial_json": part.text}))
                case Kind.BROKEN:
                    out += self.close()
        return out

    def _enter(self, kind: str, block: dict[str, Any]) -> list[bytes]:
        if self._open == kind:
            return []
        out = self.close()
        self._index, self._open = self._index + 1, kind
        return [
            *out,
            event({"type": "content_block_start", "index": self._index, "content_block": block}, "content_block_start"),
        ]

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return event({"type": "content_block_delta", "index": self._index, "delta": delta}, "content_block_delta")

    def close(self) -> list[bytes]:
        if not self._open:
            return []
        out = (
            [self._delta({"type": "signature_delta", "signature": _signature(self._thinking)})]
            if self._open == "thinking"
            else []
        )
        self._open = ""
        return [*out, event({"type": "content_block_stop", "index": self._index}, "content_block_stop")]
