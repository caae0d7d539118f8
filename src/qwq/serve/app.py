"""The application: paths and what answers them.

Each handler makes its request ready first, so that what cannot be met is a 400 (or 404, 429) and
never a stream that breaks off; then it answers whole or in events. A client that goes away ends its
work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.routing import Route

from qwq.engine.load import LoadedModel, say
from qwq.envs.mcp import read_mcp_file
from qwq.errors import ConfigError, DataError
from qwq.serve import about, anthropic, errors, llamacpp, ollama, rollouts
from qwq.serve.access import AccessLog
from qwq.serve.anthropic import Messages
from qwq.serve.catalogue import Catalogue
from qwq.serve.chat import ChatCompletion, chat_chunks
from qwq.serve.completions import Completion
from qwq.serve.core import Core
from qwq.serve.episodes import Episodes
from qwq.serve.guards import Guards, Rooted, SameSite
from qwq.serve.hosted import HostedTools
from qwq.serve.hosted_response import HostedRun, hosted_of
from qwq.serve.infill import Infill
from qwq.serve.mcp.offered import OfferedTools
from qwq.serve.mcp.provider import MCP_PATH, McpEndpoint
from qwq.serve.metrics import ServerMetrics
from qwq.serve.openapi import ANTHROPIC_RESPONSES, RESPONSES, STREAMED, describe
from qwq.serve.options import ServeOptions
from qwq.serve.page.agent_runs import AgentRuns
from qwq.serve.page.routes import mount
from qwq.serve.recorder import Recorder
from qwq.serve.response_store import ResponseStore, page_of
from qwq.serve.responses import ResponseRun
from qwq.serve.schema import ChatRequest, CompletionRequest
from qwq.serve.schema_anthropic import CountRequest, MessagesRequest
from qwq.serve.schema_responses import ResponsesRequest
from qwq.serve.sse import EventStream, Json, unless_gone


@dataclass(frozen=True, slots=True)
class Shared:
    """What the models of one server share."""

    catalogue: Catalogue
    metrics: ServerMetrics
    store: ResponseStore
    hosted: HostedTools


def create_app(
    loaded: LoadedModel, options: ServeOptions, shared: Shared | None = None, recorder: Recorder | None = None
) -> FastAPI:
    """The application around one engine; the engine's thread lives as long as the application.
    `shared` where there are several. `recorder` keeps every call.

    For what is mounted on it (the page): `app.state.chat` is the chat endpoint in process,
    `app.state.open_core` the model that a run of the agent works with, `app.state.closing` a list
    of coroutine functions that are awaited when the server ends, before the engine does.
    """
    catalogue, metrics = (None, None) if shared is None else (shared.catalogue, shared.metrics)
    core = Core(loaded, options, catalogue, metrics, recorder)
    hosted = HostedTools(options) if shared is None else shared.hosted
    endpoint = mcp_endpoint(options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if endpoint is not None:
                await stack.enter_async_context(endpoint.running())
            core.runner.start()
            yield
            for close in app.state.closing:
                await close()
            if shared is None:
                await hosted.close()
            await asyncio.to_thread(core.runner.stop)

    app = FastAPI(title="qwq", version="1", lifespan=lifespan, responses=RESPONSES)
    app.state.core, app.state.closing = core, []
    app.state.chat = partial(chat_chunks, core)
    app.state.open_core = lambda model: _this_core(core, model)
    errors.install(app)
    about.install(app, core)
    _generate(app, core)
    _responses(app, core, shared.store if shared else ResponseStore(options.stored_responses), hosted)
    _messages(app, core)
    ollama.install(app, core)
    llamacpp.install(app, core)
    if options.rollout_engine:
        rollouts.install(app, core)
    if endpoint is not None:
        app.router.routes.append(Route(MCP_PATH, endpoint=SameSite(endpoint, allowed_hosts=options.allowed_host)))
    if options.page:
        mount_page(app, options)
    describe(
        app,
        vocab_size=core.tokenizer.vocab_size,
        variables=loaded.chat.template.variables,
        lenient=options.ignore_unknown_fields,
        infill=Infill.of(core.tokenizer) is not None,
    )
    _add_middleware(app, options, recorded=recorder is not None)
    return app


def _add_middleware(app: FastAPI, options: ServeOptions, *, recorded: bool) -> None:
    app.add_middleware(
        Guards, api_keys=options.api_key, limit_bytes=options.limit_bytes, lenient=options.ignore_unknown_fields
    )
    if options.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.allowed_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    if recorded:
        app.add_middleware(Episodes)
    if options.access_log is not None:  # late, so that it sees what the others answer
        app.add_middleware(AccessLog, target=options.access_log)
    if options.root_path:
        app.add_middleware(Rooted, root_path=options.root_path)


def mcp_endpoint(options: ServeOptions) -> McpEndpoint | None:
    """What the server offers at `/mcp`, if anything. ConfigError where the SDK is not installed."""
    return McpEndpoint(OfferedTools(), limit_bytes=options.limit_bytes) if options.mcp else None


def mount_page(app: FastAPI, options: ServeOptions) -> None:
    """The chat page; where nobody named a file for its conversations and the usual one cannot be
    had, they end with the server.
    """
    agent = _agent_runs(app, options) if options.agent else None
    mount_with = partial(mount, app, allowed_hosts=options.allowed_host, agent=agent)
    try:
        mount_with(database=options.conversations_file)
    except (ConfigError, DataError) as error:
        if options.conversations is not None:
            raise
        say(f"conversations of the page are not kept: {error}")
        mount_with(database=None)


def _agent_runs(app: FastAPI, options: ServeOptions) -> AgentRuns:
    """ConfigError where a file of the options cannot be used, or the folder not be written."""
    if options.agent_mcp is not None:
        read_mcp_file(options.agent_mcp)
    try:
        options.agent_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--agent-runs {options.agent_folder}: {error.strerror or error}") from None
    return AgentRuns(options.agent_folder, app.state.open_core, mcp=options.agent_mcp, policy=options.agent_policy)


@asynccontextmanager
async def _this_core(core: Core, model: str | None) -> AsyncIterator[Core]:
    core.check_model(model)
    yield core


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


def _messages(app: FastAPI, core: Core) -> None:
    @app.post("/v1/messages", responses=ANTHROPIC_RESPONSES | STREAMED)
    async def messages(body: MessagesRequest, request: Request) -> Response:
        run = await Messages.make(core, body)
        if not body.stream:
            return await unless_gone(request, run.answer())
        group = core.start([run.conversation.request], streamed=True)
        return EventStream(run.events(group), lambda: core.end(group), run.failed)

    @app.post("/v1/messages/count_tokens", responses=ANTHROPIC_RESPONSES)
    async def count_tokens(body: CountRequest) -> Response:
        return Json(anthropic.count(core, body))


def _responses(app: FastAPI, core: Core, store: ResponseStore, hosted: HostedTools) -> None:
    @app.post("/v1/responses", responses=STREAMED)
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        run = await (
            HostedRun.prepare(core, store, hosted, body) if hosted_of(body) else ResponseRun.make(core, store, body)
        )
        if not body.stream:
            return await unless_gone(request, run.answer())
        run.start(streamed=True)
        return EventStream(run.events(), run.close, run.failed)

    @app.get("/v1/responses/{response_id}")
    async def kept(response_id: str) -> Response:
        return Json(store.get(response_id, "response_id").response)

    @app.get("/v1/responses/{response_id}/input_items")
    async def input_items(
        response_id: str,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> Response:
        return Json(page_of(store.get(response_id, "response_id").items, after=after, limit=limit, order=order))

    @app.delete("/v1/responses/{response_id}")
    async def dropped(response_id: str) -> Response:
        store.drop(response_id)
        return Json({"id": response_id, "object": "response", "deleted": True})
