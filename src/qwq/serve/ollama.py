"""Ollama's API: chat and generate, whole or as JSON lines, and what desktop programs ask before
they chat.

1. Models have the names that the server was started with; `:latest` behind a name is taken off.
2. Bodies are read whatever Content-Type they come with, as Ollama's own examples send none, unless
   a web page sends them (`Origin`).
3. Thinking comes in `thinking` unless `think` is false. A call comes whole, once it is written.
4. Results of calls without ids go to the calls of the same name (`tool_name`), in order.
5. `/api/version` names the version of Ollama whose API this follows.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

from qwq.engine.grammar import answer_grammar
from qwq.engine.request import GenerationRequest
from qwq.engine.sequence import TokenSequence
from qwq.serve.core import Core
from qwq.serve.engine_thread import RequestGroup, Update
from qwq.serve.errors import ABSENT, RequestRefused
from qwq.serve.infill import infill_of
from qwq.serve.ollama_models import card_of, created_at, install_lists, own_name, read_body
from qwq.serve.response_format import Form, schema_form
from qwq.serve.schema_messages import CalledFunction, CalledTool, ChatMessage
from qwq.serve.schema_ollama import OllamaChat, OllamaGenerate, OllamaMessage, OllamaOptions, OllamaRequest
from qwq.serve.sse import EventStream, unless_gone
from qwq.serve.translated import Translated
from qwq.serve.turn import AnswerRequest, OutgoingMessage, PreparedChat, ToolChoice, converse, follow
from qwq.text.parts import Kind, Part
from qwq.types import Message

TEXT_ONLY = "images: this model reads text only: leave them out"


def install(app: FastAPI, core: Core) -> None:
    """The paths, outside the OpenAPI document: Ollama's own documentation describes them."""

    @app.post("/api/chat", include_in_schema=False)
    async def chat(request: Request) -> Response:
        return await _answer(core, await OllamaRun.of_chat(core, await read_body(request, OllamaChat)), request)

    @app.post("/api/generate", include_in_schema=False)
    async def generate(request: Request) -> Response:
        return await _answer(core, await OllamaRun.of_generate(core, await read_body(request, OllamaGenerate)), request)

    install_lists(app, core.catalogue)

    async def absent(request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        words = f"no /api/{name} here: the model is the one that `qwq serve` was started with"
        raise RequestRefused(ABSENT["embeddings"] if name.startswith("embed") else words, status=404)

    for name in ("embed", "embeddings", "create", "push", "copy", "delete"):
        app.add_api_route(f"/api/{name}", absent, methods=["POST", "DELETE"], include_in_schema=False)


# -- requests --------------------------------------------------------------------------------------


def _call_of(name: str | None, waiting: Sequence[tuple[str, str]]) -> str | None:
    """The id of the first waiting call of a name; of the first at all for a result without one."""
    return next((id for called, id in waiting if name is None or called == name), None)


def chat_messages(messages: Sequence[OllamaMessage]) -> list[ChatMessage]:
    """Messages as chats have them, with ids for calls and results, which Ollama's have not."""
    out: list[ChatMessage] = []
    waiting: list[tuple[str, str]] = []  # names and ids of the last calls that have no result yet
    for i, m in enumerate(messages):
        if m.images:
            raise RequestRefused(f"messages.{i}.{TEXT_ONLY}", f"messages.{i}.images")
        made = ChatMessage(role=m.role, content=m.content or "", reasoning_content=m.thinking or None)
        if m.tool_calls:
            ids = [c.id or f"{i}.{k}" for k, c in enumerate(m.tool_calls)]
            waiting = [(c.function.name, id) for c, id in zip(m.tool_calls, ids, strict=True)]
            made.tool_calls = [
                CalledTool(id=id, function=CalledFunction(name=c.function.name, arguments=c.function.arguments))
                for c, id in zip(m.tool_calls, ids, strict=True)
            ]
        if m.role == "tool":
            made.tool_call_id = m.tool_call_id or _call_of(m.tool_name or m.name, waiting)
            waiting = [w for w in waiting if w[1] != made.tool_call_id]
        out.append(made)
    return out


def _translated(core: Core, body: OllamaRequest) -> Translated:
    o = body.options or OllamaOptions()
    return Translated(
        model=own_name(core.catalogue, body.model),
        temperature=o.temperature,
        top_p=o.top_p,
        top_k=o.top_k,
        min_p=o.min_p,
        repetition_penalty=o.repeat_penalty,
        presence_penalty=o.presence_penalty,
        frequency_penalty=o.frequency_penalty,
        seed=o.seed,
        stop=o.stop or None,
        think=body.think,
    )


def _form(body: OllamaRequest) -> Form | None:
    if not body.format:
        return None
    return schema_form({"type": "object"} if body.format == "json" else body.format, "format")


def _limit(body: OllamaRequest) -> int | None:
    limit = body.options.num_predict if body.options else None
    return limit if limit is not None and limit > 0 else None


class OllamaRun:
    """One request and its answer. `conversation` None: the model's text continues as it is.
    `request` None: nothing is asked, as by programs that want a model loaded.
    """

    def __init__(
        self,
        core: Core,
        body: OllamaRequest,
        request: GenerationRequest | None,
        conversation: PreparedChat | None = None,
    ) -> None:
        self.core, self.body, self.request, self.conversation = core, body, request, conversation
        self.chat = isinstance(body, OllamaChat)
        self.started = time.monotonic()
        self.turn = None if conversation is None else OutgoingMessage(conversation)

    @classmethod
    async def of_chat(cls, core: Core, body: OllamaChat) -> OllamaRun:
        card_of(core.catalogue, body)
        if not body.messages:
            return cls(core, body, None)
        ask = AnswerRequest(
            chat_messages(body.messages), body.tools or [], ToolChoice(), True, _form(body), _limit(body), 1, None
        )
        own = _translated(core, body)
        conversation = await converse(core, own, own, ask)
        return cls(core, body, conversation.request, conversation)

    @classmethod
    async def of_generate(cls, core: Core, body: OllamaGenerate) -> OllamaRun:
        card_of(core.catalogue, body)
        if body.images:
            raise RequestRefused(TEXT_ONLY, "images")
        own = _translated(core, body)
        if not body.prompt:
            return cls(core, body, None)
        if body.suffix:
            infill = infill_of(core.tokenizer, "suffix")
            request = core.request(own, infill.ids(core.tokenizer, body.prompt, body.suffix), _limit(body))
            return cls(core, body, replace(request, eos_ids=(*request.eos_ids, *infill.ends)))
        if body.raw:
            form = _form(body)
            matcher = None if form is None else await core.compile(answer_grammar(form.rule, lead=False), form.param)
            return cls(
                core,
                body,
                core.request(own, core.tokenizer.encode_rendered(body.prompt), _limit(body), matcher=matcher),
            )
        messages = [ChatMessage(role="system", content=body.system)] if body.system else []
        ask = AnswerRequest(
            [*messages, ChatMessage(role="user", content=body.prompt)],
            [],
            ToolChoice(),
            True,
            _form(body),
            _limit(body),
            1,
            None,
        )
        before = None
        if body.context:
            before = [*body.context, *core.chat.next_turn_ids([Message("user", body.prompt)])]
        conversation = await converse(core, own, own, ask, ids=before)
        return cls(core, body, conversation.request, conversation)

    async def answer(self) -> dict[str, Any]:
        if self.request is None:
            return self._line({}, loaded=True)
        texts: list[str] = []
        async with self.core.running([self.request], streamed=False) as group:
            async for updates in self._followed(group):
                texts += [u.text for u, _ in updates]
            (sample,) = group.samples[0]
        return self._line(self._whole("".join(texts)), sample)

    async def events(self, group: RequestGroup | None) -> AsyncIterator[bytes]:
        if group is None:
            yield orjson.dumps(self._line({}, loaded=True)) + b"\n"
            return
        calls: dict[int, list[str]] = {}
        async for updates in self._followed(group):
            lines = [self._line(piece) for u, parts in updates for piece in self._pieces(u, parts, calls)]
            if lines:
                yield b"".join(orjson.dumps(line) + b"\n" for line in lines)
        yield orjson.dumps(self._line({}, group.samples[0][0])) + b"\n"

    async def _followed(self, group: RequestGroup) -> AsyncIterator[list[tuple[Update, list[Part]]]]:
        if self.conversation is None:
            async for raw in group.updates():
                yield [(u, []) for u in raw]
            return
        turns: dict[TokenSequence, OutgoingMessage] = {}
        async for updates in follow(group, turns, self.conversation):
            self.turn = updates[-1][1] if updates else self.turn
            yield [(u, parts) for u, _, parts in updates]

    def _pieces(self, u: Update, parts: list[Part], calls: dict[int, list[str]]) -> list[dict[str, Any]]:
        """What is to be shown of an update, in the fields of a chat's message.

        A call waits until it is whole.
        """
        if self.conversation is None:
            return [{"content": u.text}] if u.text else []
        out: list[dict[str, Any]] = []
        for part in parts:
            match part.kind:
                case Kind.THINKING if self.body.think is not False:
                    out.append({"content": "", "thinking": part.text})
                case Kind.ANSWER:
                    out.append({"content": part.text})
                case Kind.CALL:
                    calls[part.index] = [part.text, ""]
                case Kind.ARGUMENTS:
                    calls[part.index][1] += part.text
                case Kind.BROKEN:
                    calls.pop(part.index, None)
        for index in sorted(calls):
            if (call := _call(*calls[index])) is not None:
                del calls[index]
                out.append({"content": "", "tool_calls": [call]})
        return out

    def _whole(self, text: str) -> dict[str, Any]:
        if self.conversation is None or self.turn is None:
            return {"content": text}
        whole = self.turn.whole
        message: dict[str, Any] = {"content": whole.answer}
        if whole.thinking and self.body.think is not False:
            message["thinking"] = whole.thinking
        if calls := [c for c in (_call(*pair) for pair in whole.calls) if c is not None]:
            message["tool_calls"] = calls
        return message

    def _line(
        self, piece: dict[str, Any], sample: TokenSequence | None = None, *, loaded: bool = False
    ) -> dict[str, Any]:
        head: dict[str, Any] = {"model": self.body.model, "created_at": created_at(time.time())}
        done = sample is not None or loaded
        if self.chat:
            head["message"] = {"role": "assistant", "content": ""} | piece
        else:
            head["response"] = piece.get("content", "")
            head |= {k: v for k, v in piece.items() if k == "thinking"}
        head["done"] = done
        if loaded:
            return head | {"done_reason": "load"}
        return head | self._end(sample) if sample is not None else head

    def _end(self, sample: TokenSequence) -> dict[str, Any]:
        ending = self.turn.ending(self.core, sample) if self.turn else self.core.ending(sample)
        usage, timings = self.core.usage([[sample]]), self.core.timings([[sample]])
        out: dict[str, Any] = {
            "done_reason": "length" if ending["finish_reason"] == "length" else "stop",
            "total_duration": int(1e9 * (time.monotonic() - self.started)),
            "load_duration": 0,
            "prompt_eval_count": usage["prompt_tokens"],
            "prompt_eval_duration": int(1e6 * timings.get("prompt_ms", 0)),
            "eval_count": usage["completion_tokens"],
            "eval_duration": int(1e6 * timings.get("predicted_ms", 0)),
        }
        if not self.chat and self.conversation is not None:
            out["context"] = [*sample.request.prompt_ids, *sample.ids]
        return out


def _call(name: str, arguments: str) -> dict[str, Any] | None:
    """A call as Ollama gives it, None while its arguments are not whole."""
    try:
        return {"function": {"name": name, "arguments": orjson.loads(arguments)}}
    except orjson.JSONDecodeError:
        return None


def _failed(body: dict[str, Any]) -> bytes:
    return orjson.dumps({"error": body["error"]["message"]}) + b"\n"


async def _answer(core: Core, run: OllamaRun, request: Request) -> Response:
    if run.body.stream is False:
        return await unless_gone(request, run.answer())
    group = None if run.request is None else core.start([run.request], streamed=True)
    return LinesStream(run.events(group), lambda: core.end(group) if group is not None else None, _failed)


class LinesStream(EventStream):
    """JSON lines, which allow no comments."""

    media_type = "application/x-ndjson"
    comment = b""
