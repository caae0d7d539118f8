"""The endpoints: JSON in, a `GenerationRequest` to the engine, JSON out.

Errors have OpenAI's shape: {"error": {"message", "type", "param", "code"}}; 400 for a request that cannot be met, 429 where
the queue is full, 500 where our machinery failed. A client that goes away stops its samples.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from qwq.engine.open import Opened
from qwq.engine.request import GenerationRequest, Sample
from qwq.engine.sampler import SamplingParams
from qwq.errors import InfraError, QwqError, UsageError
from qwq.serve.runner import EngineRunner
from qwq.serve.schema import ChatMessage, ChatRequest, Common, CompletionRequest
from qwq.text.parse import THINK_CLOSE, THINK_OPEN, parse_response
from qwq.types import StopReason

FINISH = {StopReason.END: "stop", StopReason.STOP: "stop"}


class _Refused(Exception):
    """A request that cannot be met, with the field at fault."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, kind: str = "invalid_request_error"):
        super().__init__(message)
        self.message, self.param, self.status, self.kind = message, param, status, kind


def _error(status: int, message: str, kind: str, param: str | None = None) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 429 else None
    body = {"error": {"message": message, "type": kind, "param": param, "code": None}}
    return JSONResponse(body, status_code=status, headers=headers)


def create_app(opened: Opened, *, served_name: str, loop_tokens: int, max_waiting: int) -> FastAPI:
    """The application around one engine; the engine's thread lives as long as the application."""
    runner = EngineRunner(opened.engine, max_waiting=max_waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runner.start()
        yield
        runner.stop()

    app = FastAPI(title="qwq", lifespan=lifespan)
    server = _Server(opened, runner, served_name, loop_tokens)

    @app.exception_handler(_Refused)
    async def refused(request: Request, error: _Refused) -> JSONResponse:
        return _error(error.status, error.message, error.kind, error.param)

    @app.exception_handler(QwqError)
    async def failed(request: Request, error: QwqError) -> JSONResponse:
        usage = isinstance(error, UsageError)
        return _error(400 if usage else 500, str(error), "invalid_request_error" if usage else "server_error")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = [str(p) for p in first["loc"] if p != "body"]
        known = [p for p in place if not p.isupper() and "[" not in p]
        if first["type"] == "json_invalid":
            return _error(400, "the body is not JSON", "invalid_request_error")
        what = "is not implemented here" if first["type"] == "extra_forbidden" else first["msg"].lower()
        param = ".".join(known) or None
        return _error(400, f"{param or 'request'}: {what}", "invalid_request_error", param)

    @app.get("/health")
    async def health() -> JSONResponse:
        if runner.failure is not None:
            return _error(500, "the engine has stopped: restart the server", "server_error")
        return JSONResponse({"status": "ok"})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        entry = {"id": served_name, "object": "model", "created": server.started, "owned_by": "qwq"}
        return {"object": "list", "data": [entry | {"max_model_len": opened.engine.max_len}]}

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> dict[str, Any]:
        return await _unless_gone(request, server.complete(body))

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> dict[str, Any]:
        return await _unless_gone(request, server.chat(body))

    return app


async def _unless_gone(request: Request, answer: Any) -> dict[str, Any]:
    """The answer, unless the client goes away first; then its work is cancelled."""
    task = asyncio.ensure_future(answer)

    async def watch() -> None:
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                task.cancel()
                return

    watcher = asyncio.create_task(watch())
    try:
        return await task
    except asyncio.CancelledError:
        raise _Refused("the client has gone", status=499) from None
    finally:
        watcher.cancel()


class _Server:
    def __init__(self, opened: Opened, runner: EngineRunner, name: str, loop_tokens: int) -> None:
        self.opened, self.runner, self.name, self.loop_tokens = opened, runner, name, loop_tokens
        self.tokenizer, self.format = opened.chat.tokenizer, opened.chat
        self.started = int(time.time())

    async def complete(self, body: CompletionRequest) -> dict[str, Any]:
        prompts: list[list[int]]
        if isinstance(body.prompt, str):
            prompts = [self.tokenizer.encode_rendered(body.prompt)]
        elif body.prompt and isinstance(body.prompt[0], int):
            prompts = [body.prompt]  # type: ignore[list-item]
        else:
            prompts = [self.tokenizer.encode_rendered(p) if isinstance(p, str) else list(p) for p in body.prompt]  # type: ignore[arg-type]
        if not prompts:
            raise _Refused("prompt: the list is empty", "prompt")
        requests = [self._request(body, ids, body.max_tokens or 16, body.logprobs, self._inside_thinking(ids)) for ids in prompts]
        groups = await self._generate(requests)
        choices: list[dict[str, Any]] = []
        for group in groups:
            for s in group:
                choice = {"index": len(choices), "text": s.text, "logprobs": None, **self._ending(s)}
                if body.logprobs is not None:
                    choice["logprobs"] = self._completion_logprobs(s)
                choices.append(choice)
        return self._envelope("text_completion", "cmpl", groups, choices)

    async def chat(self, body: ChatRequest) -> dict[str, Any]:
        tools = [] if body.tool_choice == "none" else body.tools or []
        ids = self.format.prompt_ids([_message(m, i) for i, m in enumerate(body.messages)], tools)
        opened = self.format.thinking_open
        top = (body.top_logprobs or 0) if body.logprobs else None
        if body.top_logprobs is not None and not body.logprobs:
            raise _Refused("top_logprobs: needs logprobs to be true", "top_logprobs")
        request = self._request(body, ids, body.max_completion_tokens or body.max_tokens, top, opened)
        (group,) = await self._generate([request])
        choices = []
        for s in group:
            parsed = parse_response(s.text, thinking_open=opened)
            # Without tools on offer, what looks like a call is text.
            answer = parsed.answer if tools or not parsed.thinking_closed else s.text.rpartition(THINK_CLOSE)[2].strip()
            message: dict[str, Any] = {"role": "assistant", "content": answer}
            message |= {"reasoning_content": parsed.thinking, "reasoning": parsed.thinking}
            ending = self._ending(s)
            if tools and parsed.tool_calls:
                message["content"] = parsed.answer or None
                message["tool_calls"] = [
                    {
                        "id": f"call_{uuid.uuid4().hex[:24]}",
                        "type": "function",
                        "function": {"name": c.name, "arguments": json.dumps(c.arguments, ensure_ascii=False)},
                    }
                    for c in parsed.tool_calls
                ]
                ending["finish_reason"] = "tool_calls" if ending["finish_reason"] == "stop" else ending["finish_reason"]
            choice = {"index": s.number, "message": message, "logprobs": None, **ending}
            if top is not None:
                choice["logprobs"] = {"content": [self._token_logprob(c) for c in s.choices], "refusal": None}
            choices.append(choice)
        return self._envelope("chat.completion", "chatcmpl", [group], choices)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _request(self, body: Common, ids: list[int], max_new: int | None, top: int | None, opened: bool) -> GenerationRequest:
        if body.model not in (None, self.name):
            raise _Refused(f"model: {body.model!r} is not served here, {self.name!r} is", "model", 404)
        room = self.opened.engine.max_len - len(ids)
        if max_new is not None and max_new > room >= 1:
            raise _Refused(
                f"max_tokens: {len(ids)} prompt tokens and {max_new} new ones are more than the model's context of "
                f"{self.opened.engine.max_len}: ask for at most {room}",
                "max_tokens",
            )
        own = self.opened.sampling
        params = SamplingParams(
            temperature=_first(body.temperature, own.get("temperature"), 1.0),
            top_p=_first(body.top_p, own.get("top_p"), 1.0),
            top_k=max(0, int(_first(body.top_k, own.get("top_k"), 0))),
            min_p=_first(body.min_p, own.get("min_p"), 0.0),
            repetition_penalty=_first(body.repetition_penalty, own.get("repetition_penalty"), 1.0),
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            logit_bias=tuple((body.logit_bias or {}).items()),
            max_new_tokens=max(1, max_new if max_new is not None else room),
        )
        stop = () if body.stop is None else (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
        return GenerationRequest(
            ids,
            params,
            n=body.n or 1,
            seed=secrets.randbits(48) if body.seed is None else body.seed,
            eos_ids=() if body.ignore_eos else self.format.eos_ids,
            stop=stop,
            stop_ids=tuple(body.stop_token_ids or ()),
            min_new_tokens=body.min_tokens or 0,
            thinking_open=opened,
            thinking_budget=body.thinking_token_budget,
            logprobs=top,
            loop_tokens=0 if body.ignore_eos else self.loop_tokens,
        )

    def _inside_thinking(self, ids: list[int]) -> bool:
        text = self.tokenizer.decode(ids)
        return text.rfind(THINK_OPEN) > text.rfind(THINK_CLOSE)

    async def _generate(self, requests: list[GenerationRequest]) -> list[list[Sample]]:
        if self.runner.full:
            raise _Refused("the queue is full: try again in a moment", status=429, kind="rate_limit_error")
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.runner.generate(r)) for r in requests]
        except* QwqError as errors:
            raise errors.exceptions[0] from None
        return [t.result() for t in tasks]

    # -- answers -------------------------------------------------------------------------------------------------------

    def _ending(self, s: Sample) -> dict[str, Any]:
        assert s.stop_reason is not None
        if s.stop_reason is StopReason.ABORT:
            raise InfraError("the request was stopped by the server")
        said: str | int | None = s.stopped_by if s.stop_reason is StopReason.STOP else None
        if s.stop_reason is StopReason.LOOP or s.loop_in_thinking:
            said = "loop"
        return {"finish_reason": FINISH.get(s.stop_reason, "length"), "stop_reason": said}

    def _envelope(self, kind: str, prefix: str, groups: list[list[Sample]], choices: list[dict[str, Any]]) -> dict[str, Any]:
        samples = [s for g in groups for s in g]
        prompt, new = sum(g[0].num_prompt for g in groups), sum(len(s.ids) for s in samples)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
            "completion_tokens_details": {"reasoning_tokens": sum(s.num_thinking for s in samples)},
            "prompt_tokens_details": {"cached_tokens": min(s.num_cached for s in samples)},
        }
        head = {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": self.name}
        return head | {"choices": choices, "usage": usage}

    def _token(self, id: int) -> dict[str, Any]:
        data = self.tokenizer.token_bytes[id] if id < self.tokenizer.vocab_size else b""
        return {"token": data.decode("utf-8", "replace"), "bytes": list(data)}

    def _token_logprob(self, c: Any) -> dict[str, Any]:
        top = [self._token(i) | {"logprob": p} for i, p in c.top]
        # A token that a thinking budget wrote was not sampled: its log-probability is 0, as its probability was 1.
        return self._token(c.token) | {"logprob": 0.0 if c.raw is None else c.raw, "top_logprobs": top}

    def _completion_logprobs(self, s: Sample) -> dict[str, Any]:
        offsets, at = [], 0
        for c in s.choices:
            offsets.append(at)
            at += len(self._token(c.token)["token"])
        return {
            "tokens": [self._token(c.token)["token"] for c in s.choices],
            "token_logprobs": [0.0 if c.raw is None else c.raw for c in s.choices],
            "top_logprobs": [{self._token(i)["token"]: p for i, p in c.top} for c in s.choices],
            "text_offset": offsets,
        }


def _first(*values: Any) -> Any:
    return next(v for v in values if v is not None)


def _message(m: ChatMessage, index: int) -> Mapping[str, Any]:
    """A message as templates expect it: text content, thinking before it, arguments as an object."""
    content = m.content
    if isinstance(content, list):
        parts = []
        for part in content:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise _Refused(f"messages.{index}.content: only text parts are understood", f"messages.{index}.content")
            parts.append(part["text"])
        content = "".join(parts)
    out: dict[str, Any] = {"role": "system" if m.role == "developer" else m.role, "content": content or ""}
    thinking = m.reasoning_content or m.reasoning
    if thinking and m.role == "assistant":
        out["content"] = f"{THINK_OPEN}\n{thinking}\n{THINK_CLOSE}\n\n{out['content']}"
    if m.tool_calls:
        calls = []
        for call in m.tool_calls:
            function = call.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise _Refused(f"messages.{index}.tool_calls: a call needs function.name", f"messages.{index}.tool_calls")
            arguments = function.get("arguments", {})
            if isinstance(arguments, str):
                try:
                    arguments = json.loads(arguments or "{}")
                except ValueError:
                    raise _Refused(
                        f"messages.{index}.tool_calls: the arguments are not JSON", f"messages.{index}.tool_calls"
                    ) from None
            calls.append({"type": "function", "function": {"name": function["name"], "arguments": arguments}})
        out["tool_calls"] = calls
    if m.role == "tool" and m.name:
        out["name"] = m.name
    return out
