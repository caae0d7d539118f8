"""The application: paths and what answers them.

Each handler makes its request ready first, so that what cannot be met is a 400 (or 404, 429) and never a stream that breaks
off; then it answers whole or in events. A client that goes away ends its work.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware

from qwq.engine.open import Opened, say
from qwq.errors import ConfigError, DataError
from qwq.serve import errors
from qwq.serve.chat import ChatCompletion, chat_chunks
from qwq.serve.completions import Completion
from qwq.serve.core import Core, ServeOptions
from qwq.serve.guards import Guards
from qwq.serve.messages import make_prompt
from qwq.serve.openapi import RESPONSES, STREAMED, describe
from qwq.serve.responses import ResponseRun, ResponseStore
from qwq.serve.schema import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from qwq.serve.schema_responses import ResponsesRequest
from qwq.serve.sse import EventStream, Json, unless_gone


def create_app(opened: Opened, options: ServeOptions) -> FastAPI:
    """The application around one engine; the engine's thread lives as long as the application.

    For what is mounted on it (the page): `app.state.chat` is the chat endpoint in process, `app.state.closing` a list of
    coroutine functions that are awaited when the server ends, before the engine does.
    """
    core = Core(opened, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        core.runner.start()
        yield
        for close in app.state.closing:
            await close()
        await asyncio.to_thread(core.runner.stop)

    app = FastAPI(title="qwq", version="1", lifespan=lifespan, responses=RESPONSES)
    app.state.core, app.state.closing = core, []
    app.state.chat = partial(chat_chunks, core)
    errors.install(app)
    _about(app, core)
    _generate(app, core)
    _responses(app, core, ResponseStore(options.stored_responses))
    if options.page and importlib.util.find_spec("qwq.serve.page") is not None:
        _mount_page(app, options)
    describe(app, vocab_size=core.tokenizer.vocab_size, variables=opened.chat.template.variables, lenient=options.ignore_unknown)
    app.add_middleware(Guards, api_keys=options.api_keys, limit_bytes=options.limit_bytes, lenient=options.ignore_unknown)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.cors_origins), allow_methods=["*"], allow_headers=["*"], expose_headers=["*"]
        )
    return app


def _mount_page(app: FastAPI, options: ServeOptions) -> None:
    """The chat page; where nobody named a file for its conversations and the usual one cannot be had, they end with the server."""
    mount = importlib.import_module("qwq.serve.page").mount
    try:
        mount(app, database=options.conversations, allowed_hosts=options.allowed_hosts)
    except (ConfigError, DataError) as error:
        if options.conversations_wanted:
            raise
        say(f"conversations of the page are not kept: {error}")
        mount(app, database=None, allowed_hosts=options.allowed_hosts)


def _about(app: FastAPI, core: Core) -> None:
    """What a server says of itself and of its tokens."""
    options = core.options

    def entry(name: str) -> dict[str, Any]:
        root = {"root": options.names[0], "parent": None}
        return {"id": name, "object": "model", "created": core.started, "owned_by": "qwq", "max_model_len": core.max_len} | root

    @app.get("/health")
    async def health() -> Response:
        if core.runner.failure is not None:
            return errors.error_response(500, "the engine has stopped: restart the server", "server_error")
        return Json({"status": "ok"})

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    async def metrics() -> Response:
        return Response(core.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> Response:
        return Json({"object": "list", "data": [entry(name) for name in options.names]})

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        core.check_model(model)
        return Json(entry(model))

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> Response:
        core.check_model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise errors.Refused("tokenize: give either prompt or messages", "prompt")
        if body.messages is None:
            ids = core.tokenizer.encode_rendered(body.prompt or "")
        else:
            ids = make_prompt(core.chat, body.messages, body.tools or [], body).ids
        out: dict[str, Any] = {"count": len(ids), "max_model_len": core.max_len, "tokens": ids, "token_strs": None}
        if body.return_token_strs:
            out["token_strs"] = [core.token(i)["token"] for i in ids]
        return Json(out)

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> Response:
        core.check_model(body.model)
        bad = [i for i in body.tokens if i >= core.tokenizer.vocab_size]
        if bad:
            raise errors.Refused(f"tokens: id {bad[0]} is outside the vocabulary of {core.tokenizer.vocab_size}", "tokens")
        return Json({"prompt": core.tokenizer.decode(body.tokens)})


def _generate(app: FastAPI, core: Core) -> None:
    @app.post("/v1/completions", responses=STREAMED)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        run = await Completion.make(core, body)
        if not body.stream:
            return await unless_gone(request, run.answer())
        group = core.start(run.requests, streamed=True)
        return EventStream(run.events(group), lambda: core.end(group))

    @app.post("/v1/chat/completions", responses=STREAMED)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        run = await ChatCompletion.make(core, body)
        if not body.stream:
            return await unless_gone(request, run.answer())
        group = core.start([run.conversation.request], streamed=True)
        return EventStream(run.events(group), lambda: core.end(group))


def _responses(app: FastAPI, core: Core, store: ResponseStore) -> None:
    @app.post("/v1/responses", responses=STREAMED)
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        run = await ResponseRun.make(core, store, body)
        if not body.stream:
            return await unless_gone(request, run.answer())
        group = core.start([run.conversation.request], streamed=True)
        return EventStream(run.events(group), lambda: core.end(group), run.failed)

    @app.get("/v1/responses/{response_id}")
    async def kept(response_id: str) -> Response:
        return Json(store.get(response_id, "response_id")[0])

    @app.delete("/v1/responses/{response_id}")
    async def dropped(response_id: str) -> Response:
        store.drop(response_id)
        return Json({"id": response_id, "object": "response", "deleted": True})
