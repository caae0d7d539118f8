"""Several models under one address, one of them in memory at a time.

A request names its model. If another model is loaded, its answers under way end first, then it is
unloaded and the named one is loaded. Requests enter in the order in which they came, so none waits
for ever behind a model that is requested again and again. A request that names no model, the page's
too, goes to the loaded one. Lists, health and metrics need no loaded model and never wait.

1. A client that goes away while it waits leaves the queue, and loads nothing.
2. A load cannot be cut off: one whose client has gone is finished before the next one starts.
3. A model that cannot be loaded is a 503; nothing is loaded then, and the next request tries again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, HTTPException, Response
from fastapi.middleware.cors import CORSMiddleware

from qwq.errors import InfraError, UsageError
from qwq.serve import about, errors, ollama_models
from qwq.serve.access import AccessLog
from qwq.serve.app import Shared, mcp_endpoint, mount_page
from qwq.serve.catalogue import Catalogue
from qwq.serve.chat import chat_chunks
from qwq.serve.core import Core
from qwq.serve.engine_thread import Gone
from qwq.serve.errors import RequestRefused
from qwq.serve.guards import Guards, Rooted, SameSite, path_of
from qwq.serve.hosted import HostedTools
from qwq.serve.mcp.provider import MCP_PATH
from qwq.serve.metrics import ServerMetrics
from qwq.serve.model_turns import ModelEntry, ModelTurns
from qwq.serve.options import ServeOptions
from qwq.serve.response_store import ResponseStore
from qwq.serve.sse import HeldOpen, Json

# Paths whose requests go to the model that they name.
NAMING = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/v1/tokenize",
    "/detokenize",
    "/v1/detokenize",
    "/apply-template",
    "/api/chat",
    "/api/generate",
    "/infill",
)


def _shared_state(entries: Sequence[ModelEntry], options: ServeOptions) -> Shared:
    catalogue = Catalogue([e.card for e in entries])
    return Shared(catalogue, ServerMetrics(), ResponseStore(options.stored_responses), HostedTools(options))


class ModelSwitch:
    """The ASGI application. `closing` is awaited when the server ends, as a single model's is."""

    def __init__(
        self, entries: Sequence[ModelEntry], options: ServeOptions, ready: Callable[[], None] = lambda: None
    ) -> None:
        self.options, self._ready = options, ready
        self.shared = _shared_state(entries, options)
        self.turns = ModelTurns(entries, options, self.shared)
        self.front = FastAPI(openapi_url=None)
        errors.install(self.front)
        about.install_lists(self.front, self.shared.catalogue, self.shared.metrics, self._health)
        ollama_models.install_lists(self.front, self.shared.catalogue)
        self._lists = {getattr(route, "path", "") for route in self.front.routes}
        self.closing: list[Any] = []
        self.front.state.closing = self.closing
        self.front.state.chat = self.chat
        self.front.state.open_core = self.open_core
        if options.page:
            mount_page(self.front, options)
        self._endpoint = mcp_endpoint(options)
        self._mcp = None if self._endpoint is None else SameSite(self._endpoint, allowed_hosts=options.allowed_host)

    def guarded(self) -> Any:
        """The application behind keys, limits, origins and the access log, as for one model."""
        options = self.options
        app: Any = Guards(
            self, api_keys=options.api_key, limit_bytes=options.limit_bytes, lenient=options.ignore_unknown_fields
        )
        if options.allowed_origins:
            app = CORSMiddleware(
                app,
                allow_origins=list(options.allowed_origins),
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=["*"],
            )
        if options.access_log is not None:
            app = AccessLog(app, options.access_log)
        return Rooted(app, root_path=options.root_path)

    def _health(self) -> Response:
        core = self.turns.core
        if core is not None and core.runner.failure is not None:
            return errors.error_response(500, "the engine has stopped: restart the server", "server_error")
        return Json({"status": "ok"} | ({"loading": True} if self.turns.is_loading else {}))

    async def chat(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The page's way to the model that it names, or else to the loaded one."""
        try:
            entry = self.turns.find(body["model"]) if body.get("model") else None
            async with self.turns.using(entry) as app, aclosing(chat_chunks(app.state.core, body)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk
        except RequestRefused as refused:
            raise UsageError(refused.message) from None

    @asynccontextmanager
    async def open_core(self, model: str | None) -> AsyncIterator[Core]:
        """A model for a run of the page's agent, which keeps it loaded. UsageError for one that is
        not served.
        """
        try:
            async with self.turns.using(self.turns.find(model) if model else None) as app:
                yield app.state.core
        except RequestRefused as refused:
            raise UsageError(refused.message) from None

    def abort_all(self) -> None:
        self.turns.abort_all()

    # -- requests ----------------------------------------------------------------------------------

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self._lifespan(receive, send)
        path, send = path_of(scope), HeldOpen(send)
        if path in self._lists or path.startswith("/v1/models/") or self._is_page(path):
            return await self.front(scope, receive, send)
        if self._mcp is not None and path == MCP_PATH:
            return await self._mcp(scope, receive, send)
        try:
            if scope["method"] == "POST" and path in NAMING:
                return await self._named(path, scope, receive, send)
            async with self.turns.any() as app:
                return await app(scope, receive, send)
        except Gone:
            answer: Response = Response(status_code=499)  # nobody reads it
        except HTTPException as error:  # the body is too large
            answer = errors.error_response(error.status_code, str(error.detail), errors.INVALID, path=path)
        except RequestRefused as error:
            answer = errors.error_response(error.status, error.message, error.kind, error.param, error.code, path=path)
        except InfraError as error:
            answer = errors.error_response(503, str(error), "server_error", path=path)
        await answer(scope, receive, send)

    async def _named(self, path: str, scope: Any, receive: Any, send: HeldOpen) -> None:
        body = await _Body.read(receive)
        fields = body.fields()
        name = fields.get("model") if isinstance(fields.get("model"), str) else None
        # Ollama's streams are JSON lines, which have no comments.
        keeps_open = fields.get("stream") is True and not path.startswith("/api/")
        waiting = asyncio.create_task(send.waiting()) if keeps_open else None
        try:
            if name is not None and path.startswith("/api/"):
                name = ollama_models.own_name(self.shared.catalogue, name)
            async with self.turns.using(None if name is None else self.turns.find(name), body.end) as app:
                if waiting is not None:
                    waiting.cancel()
                await app(scope, body.receive, send)
        finally:
            body.end.cancel()
            if waiting is not None:
                waiting.cancel()

    def _is_page(self, path: str) -> bool:
        if not self.options.page:
            return False
        below = path.removeprefix("/api/").partition("/")[0] if path.startswith("/api/") else ""
        return path == "/" or path.startswith("/assets/") or (bool(below) and below not in (*errors.OLLAMA, "blobs"))

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        try:
            await self.turns.load(self.turns.entries[0])
        except InfraError as error:
            return await send({"type": "lifespan.startup.failed", "message": str(error)})
        async with AsyncExitStack() as stack:
            if self._endpoint is not None:
                await stack.enter_async_context(self._endpoint.running())
            self._ready()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.turns.end(self.closing)
            await self.shared.hosted.close()
        await send({"type": "lifespan.shutdown.complete"})


class _Body:
    """A request's body, read to see which model it names, and read once more by that model's
    application.
    """

    def __init__(self, data: bytes, receive: Any) -> None:
        self.data, self._read_again = data, False
        self.end = asyncio.ensure_future(receive())  # after the body comes nothing but the client's leaving

    @classmethod
    async def read(cls, receive: Any) -> _Body:
        """Gone where the client leaves midway."""
        parts, more = [], True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise Gone
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        return cls(b"".join(parts), receive)

    def fields(self) -> dict[str, Any]:
        """The request's fields; none if it is not JSON, which the application then reports."""
        try:
            data = orjson.loads(self.data)
        except orjson.JSONDecodeError:
            try:
                data = json.loads(self.data)  # halves of surrogate pairs, NaN, UTF-16: the application reads them too
            except (ValueError, RecursionError):
                return {}
        return data if isinstance(data, dict) else {}

    async def receive(self) -> Any:
        if not self._read_again:
            self._read_again = True
            return {"type": "http.request", "body": self.data, "more_body": False}
        return await asyncio.shield(self.end)
