"""`/v1/chat/completions`: messages in, one message out, with its thinking and its calls taken
apart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
from pydantic import ValidationError

from qwq.engine.sequence import TokenSequence
from qwq.errors import UsageError
from qwq.serve.core import Core, usage_wanted
from qwq.serve.engine_thread import RequestGroup
from qwq.serve.errors import RequestRefused, first_fault
from qwq.serve.response_format import form_of
from qwq.serve.schema import ChatRequest
from qwq.serve.schema_messages import AllowedTools, NamedTool
from qwq.serve.sse import DONE, event
from qwq.serve.turn import AnswerRequest, OutgoingMessage, PreparedChat, ToolChoice, converse, follow


def tool_choice(value: str | NamedTool | AllowedTools | None) -> ToolChoice:
    """A chat's field. "any" is what other APIs call required."""
    match value:
        case NamedTool():
            return ToolChoice("required", (value.function.name,), one=True)
        case AllowedTools():
            return ToolChoice(value.allowed_tools.mode, tuple(t.function.name for t in value.allowed_tools.tools))
        case "any":
            return ToolChoice("required")
    return ToolChoice(value or "auto")


class ChatCompletion:
    """One request and its answer, whole or in events."""

    def __init__(self, core: Core, body: ChatRequest, conversation: PreparedChat) -> None:
        self.core, self.body, self.conversation = core, body, conversation
        self.head = core.head("chat.completion.chunk" if body.stream else "chat.completion", "chatcmpl-")

    @classmethod
    async def make(cls, core: Core, body: ChatRequest) -> ChatCompletion:
        if body.top_logprobs and not body.logprobs:
            raise RequestRefused("top_logprobs: needs logprobs to be true", "top_logprobs")
        ask = AnswerRequest(
            messages=body.messages,
            tools=body.tools or [],
            choice=tool_choice(body.tool_choice),
            parallel=body.parallel_tool_calls is not False,
            form=form_of(body),
            max_new=body.max_completion_tokens or body.max_tokens,
            n=body.n,
            top=(body.top_logprobs or 0) if body.logprobs else None,
        )
        return cls(core, body, await converse(core, body, body, ask))

    async def answer(self) -> dict[str, Any]:
        core, turns = self.core, dict[TokenSequence, OutgoingMessage]()
        async with core.running([self.conversation.request], streamed=self.conversation.watched) as group:
            async for _ in follow(group, turns, self.conversation):
                pass
            (samples,) = groups = group.samples
        choices = []
        for s in samples:
            turn = turns[s]
            choice = {"index": s.number, "message": turn.message(), "logprobs": None, **turn.ending(core, s)}
            if self.body.logprobs:
                choice["logprobs"] = {"content": [core.token_logprob(c) for c in s.outputs], "refusal": None}
            choices.append(choice)
        return self.head | {"choices": choices, "usage": core.usage(groups), "timings": core.timings(groups)}

    async def events(self, group: RequestGroup) -> AsyncIterator[bytes]:
        core, turns = self.core, dict[TokenSequence, OutgoingMessage]()
        include, continuous = usage_wanted(self.body)
        write = _ChunkWriter(self.head, usage_null=include and not continuous)
        for i in range(self.body.n or 1):
            yield write(i, {"role": "assistant", "content": ""})
        async for updates in follow(group, turns, self.conversation):
            # One write for all that came in this step.
            out = []
            for u, turn, parts in updates:
                logprobs = None
                if self.body.logprobs:
                    logprobs = {
                        "content": [core.token_logprob(c) for c in u.sample.outputs[u.first : u.last]],
                        "refusal": None,
                    }
                usage = core.usage(group.samples) if continuous else None
                deltas = turn.deltas(parts)
                if not deltas and logprobs and logprobs["content"]:
                    deltas = [{"content": ""}]
                for delta in deltas:
                    out.append(write(u.sample.number, delta, logprobs=logprobs, usage=usage))
                    logprobs = None
                if u.done:
                    ending, timings = turn.ending(core, u.sample), core.timings([[u.sample]])
                    out.append(write(u.sample.number, {}, ending=ending, usage=usage, timings=timings))
            if out:
                yield b"".join(out)
        if include:
            yield event(
                self.head | {"choices": [], "usage": core.usage(group.samples), "timings": core.timings(group.samples)}
            )
        yield DONE


async def chat_chunks(core: Core, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The endpoint in process: the chunks of a streamed answer. UsageError where the request cannot
    be met; closing it ends the work.
    """
    try:
        run = await ChatCompletion.make(core, ChatRequest.model_validate(body | {"stream": True}))
        group = core.start([run.conversation.request], streamed=True)
    except ValidationError as error:
        raise UsageError(first_fault(error.errors())[0]) from None
    except RequestRefused as refused:
        raise UsageError(refused.message) from None
    try:
        async for data in run.events(group):
            for line in data.split(b"\n\n"):
                if line and line != DONE.strip():
                    yield orjson.loads(line.removeprefix(b"data: "))
    finally:
        core.end(group)


class _ChunkWriter:
    """Chunks of one stream; what all of them share is spelled out once."""

    def __init__(self, head: dict[str, Any], *, usage_null: bool) -> None:
        self._head = b"data: " + orjson.dumps(head)[:-1] + b',"choices":[{"index":'
        self._plain_tail = (
            b',"logprobs":null,"finish_reason":null}]' + (b',"usage":null' if usage_null else b"") + b"}\n\n"
        )
        self._usage_null = usage_null

    def __call__(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: Any = None,
        ending: dict[str, Any] | None = None,
        usage: Any = None,
        timings: Any = None,
    ) -> bytes:
        start = self._head + str(index).encode() + b',"delta":' + orjson.dumps(delta)
        if logprobs is None and ending is None and usage is None:
            return start + self._plain_tail
        rest = {"logprobs": logprobs, **(ending or {"finish_reason": None})}
        out = start + b"," + orjson.dumps(rest)[1:] + b"]"
        more = {} if usage is None and not self._usage_null else {"usage": usage}
        if timings:
            more["timings"] = timings
        return out + (b"," + orjson.dumps(more)[1:] if more else b"}") + b"\n\n"
