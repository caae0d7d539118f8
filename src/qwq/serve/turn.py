"""One turn of a conversation, whichever endpoint it came to: prompt, grammar and engine request
made ready, and the message that comes of it.

`PreparedChat` is what chat completions, responses, messages (Anthropic's) and Ollama's chat share.
`OutgoingMessage` follows one sample: the same parser makes whole answers and streamed ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwq.engine.grammar import answer_grammar, calls_grammar, text_or_calls_grammar
from qwq.engine.request import GenerationRequest
from qwq.engine.sequence import TokenSequence
from qwq.errors import UsageError
from qwq.serve.core import EFFORT, Core, new_id
from qwq.serve.engine_thread import RequestGroup, Update
from qwq.serve.errors import RequestRefused
from qwq.serve.prompt import Prompt, make_prompt
from qwq.serve.response_format import Form
from qwq.serve.schema import Sampling
from qwq.serve.schema_messages import ChatMessage, TemplateFields, Tool
from qwq.text.parts import Kind, Part, ResponseBuilder
from qwq.text.response import ResponseParser
from qwq.types import StopReason


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """A chat request made ready. `tools`: functions whose calls are looked for, with their
    arguments' schemas; `parallel`: more than one counts.
    """

    request: GenerationRequest
    prompt: Prompt
    tools: Mapping[str, Any]
    parallel: bool
    include_reasoning: bool

    def parser(self) -> ResponseParser:
        return ResponseParser(
            thinking_open=self.prompt.thinking_open,
            tools=self.tools,
            parallel=self.parallel,
            continued=self.prompt.continued,
        )

    @property
    def watched(self) -> bool:
        """Whether the text must be read while it is written, to stop behind the first call."""
        return bool(self.tools) and not self.parallel


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`mode` is none, auto or required; `names`: only these may be called.

    `one`: there is to be one call.
    """

    mode: str = "auto"
    names: tuple[str, ...] | None = None
    one: bool = False


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """What a request asks for, whichever endpoint it came to."""

    messages: Sequence[ChatMessage]
    tools: Sequence[Tool]
    choice: ToolChoice
    parallel: bool
    form: Form | None
    max_new: int | None
    n: int | None
    top: int | None


async def converse(
    core: Core, body: Sampling, template: TemplateFields, ask: AnswerRequest, ids: list[int] | None = None
) -> PreparedChat:
    """Validates the request before anything runs. `ids` take the place of the messages' own,
    for an answer that they open alike.
    """
    core.check_model(body.model)
    choice = ask.choice
    if (choice.mode == "required" or choice.names) and not ask.tools:
        raise RequestRefused("tool_choice: needs tools to choose from", "tool_choice")
    tools = [] if choice.mode == "none" else list(ask.tools)
    if missing := [n for n in choice.names or () if n not in [t.function.name for t in tools]]:
        raise RequestRefused(f"tool_choice: no tool is called {missing[0]!r}", "tool_choice")
    budget = EFFORT[body.effort] if body.thinking_token_budget is None and body.effort else body.thinking_token_budget
    think = False if budget == 0 else body.switch
    prompt = make_prompt(
        core.chat, ask.messages, tools, template, keep_tool_thinking=core.options.keep_tool_thinking, think=think,
        defaults=core.options.default_chat_template_kwargs,
    )  # fmt: skip
    if ids is not None:
        prompt = replace(prompt, ids=ids)
    try:
        grammar, param = _grammar(ask, tools)
    except UsageError as error:
        raise RequestRefused(f"tools: {error}", "tools") from None
    matcher = None if grammar is None else await core.compile(grammar, param)
    request = core.request(
        body, prompt.ids, ask.max_new, n=ask.n, top=ask.top, thinking_open=prompt.thinking_open,
        budget=0 if prompt.unthinking else budget, matcher=matcher,
    )  # fmt: skip
    known = {
        t.function.name: t.function.parameters for t in tools if choice.names is None or t.function.name in choice.names
    }
    return PreparedChat(request, prompt, known, ask.parallel, body.shows_thinking)


def _grammar(ask: AnswerRequest, tools: list[Tool]) -> tuple[str | None, str]:
    """The form that the answer is held to, and the field that asks for it."""
    choice = ask.choice
    functions = [
        (t.function.name, t.function.parameters)
        for t in tools
        if choice.names is None or t.function.name in choice.names
    ]
    if choice.mode == "required":
        return calls_grammar(
            functions[:1] if choice.one else functions, parallel=ask.parallel and not choice.one
        ), "tools"
    if ask.form and tools:
        return calls_grammar(functions, parallel=ask.parallel, answer=ask.form.rule), ask.form.param
    if ask.form:
        return answer_grammar(ask.form.rule), ask.form.param
    if choice.names is not None or any(t.function.strict for t in tools):
        return text_or_calls_grammar(functions), "tools"
    return None, ""


class OutgoingMessage:
    """One sample's message while it comes to be."""

    def __init__(self, conversation: PreparedChat) -> None:
        self.conversation = conversation
        self.parser = conversation.parser()
        self.whole = ResponseBuilder()
        self.call_ids: dict[int, str] = {}

    def push(self, u: Update) -> list[Part]:
        parts = self.parser.push(u.text)
        if u.done:
            parts += self.parser.finish(cut=bool(u.sample.stop_reason and u.sample.stop_reason.cut))
        self.whole.add(parts)
        return parts

    def deltas(self, parts: list[Part]) -> list[dict[str, Any]]:
        """The parts as a stream's deltas. What a broken call has sent cannot be taken back; its
        text follows as content.
        """
        out: list[dict[str, Any]] = []
        for part in parts:
            match part.kind:
                case Kind.THINKING if self.conversation.include_reasoning:
                    out.append({"reasoning_content": part.text, "reasoning": part.text})
                case Kind.ANSWER:
                    out.append({"content": part.text})
                case Kind.CALL:
                    function = {"name": part.text, "arguments": ""}
                    out.append({"tool_calls": [self._call(part.index) | {"function": function}]})
                case Kind.ARGUMENTS:
                    out.append({"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]})
        return out

    def _call(self, index: int) -> dict[str, Any]:
        return {"index": index, "id": self.call_id(index), "type": "function"}

    def call_id(self, index: int) -> str:
        return self.call_ids.setdefault(index, new_id("call_")[:29])

    def message(self) -> dict[str, Any]:
        whole, reasoning = self.whole, self.whole.thinking if self.conversation.include_reasoning else ""
        # `reasoning_content` is read unguarded by programs written for DeepSeek's API. Other keys
        # are left out where they would be null: clients that send an answer back as it came
        # (litellm) make keys of their own of them.
        message: dict[str, Any] = {"role": "assistant", "content": whole.answer, "reasoning_content": reasoning or None}
        if reasoning:
            message["reasoning"] = reasoning
        if whole.calls:
            message["content"] = whole.answer or None
            message["tool_calls"] = [
                {"id": self.call_id(i), "type": "function", "function": {"name": name, "arguments": arguments}}
                for i, (name, arguments) in enumerate(whole.calls)
            ]
        return message

    def ending(self, core: Core, s: TokenSequence) -> dict[str, Any]:
        if self.parser.complete and s.stop_reason is StopReason.ABORT:  # stopped behind the one call that was asked for
            return {"finish_reason": "tool_calls", "stop_reason": None}
        ending = core.ending(s)
        if self.whole.calls and ending["finish_reason"] == "stop":
            ending["finish_reason"] = "tool_calls"
        return ending


async def follow(
    group: RequestGroup, turns: dict[TokenSequence, OutgoingMessage], conversation: PreparedChat
) -> AsyncIterator[list[tuple[Update, OutgoingMessage, list[Part]]]]:
    """News of a group with their parts.

    Stops a sample whose message is complete before its text is.
    """
    async for updates in group.updates():
        out = []
        for u in updates:
            turn = turns.get(u.sample) or turns.setdefault(u.sample, OutgoingMessage(conversation))
            out.append((u, turn, turn.push(u)))
            if turn.parser.complete and not u.done:
                group.stop(u.sample)
        yield out
