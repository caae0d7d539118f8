"""A toolbox behind the Model Context Protocol, through the protocol's own SDK: 2026-07-28 without
state, and 2025-11-25 and before by `initialize`.

The reason of a failed call is part of its result, so that the model that called reads it. (The SDK
hides the text of an exception; here none reaches it.)
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from qwq.envs.toolbox import Effect, ResultKind, Toolbox, ToolResult, ToolSpec
from qwq.errors import ConfigError, InfraError, install_hint
from qwq.serve.mcp.offered import OfferedTools
from qwq.types import Problem, ToolCall

if TYPE_CHECKING:
    import mcp_types
    from mcp.server import Server

MCP_PATH = "/mcp"
LIST_TTL_MS = 3_600_000  # the list does not change while the server runs
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
INSTRUCTIONS = (
    "Code runs in a jail on this machine, without network. `python` keeps variables and files in a session: its first "
    "result names the session, give that as `session` in the next call."
)
_NO_PROBLEM = Problem("mcp", "custom", (), {}, "mcp")


def make_server(box: Toolbox) -> Server[Any]:
    """The protocol's side of a toolbox. ConfigError where the SDK is not installed."""
    try:
        from mcp.server import CacheHint, Server, ServerRequestContext
        from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams
    except ImportError:
        raise ConfigError(f"MCP needs the package mcp: {install_hint('agent')}") from None

    async def list_tools(context: ServerRequestContext, params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[_listed(spec) for spec in box.specs().values()])

    async def call_tool(context: ServerRequestContext, params: CallToolRequestParams) -> CallToolResult:
        try:
            result = await box.run_call(ToolCall(params.name, params.arguments or {}))
        except InfraError as error:
            result = ToolResult(f"error: the tool's machinery failed: {error}", ResultKind.ERROR)
        return CallToolResult(content=_content(result), is_error=result.kind is not ResultKind.OK)

    return Server(
        "qwq", version="1", instructions=INSTRUCTIONS, on_list_tools=list_tools, on_call_tool=call_tool,
        cache_hints={"tools/list": CacheHint(LIST_TTL_MS, "public")},
    )  # fmt: skip


def _listed(spec: ToolSpec) -> mcp_types.Tool:
    from mcp_types import Tool, ToolAnnotations

    hints = ToolAnnotations(
        read_only_hint=spec.effect is Effect.NONE,
        destructive_hint=False,
        idempotent_hint=spec.idempotent,
        open_world_hint=spec.effect is Effect.EXTERNAL,
    )
    description = str(spec.schema["function"].get("description", ""))
    return Tool(name=spec.name, description=description, input_schema=dict(spec.parameters), annotations=hints)


def _content(result: ToolResult) -> list[mcp_types.ContentBlock]:
    from mcp_types import ImageContent, TextContent

    pictures = [a for a in result.artefacts if a.media_type in PICTURES]
    return [
        TextContent(text=result.text),
        *(ImageContent(data=base64.b64encode(a.data).decode(), mime_type=a.media_type) for a in pictures),
    ]


async def serve_stdio(tools: OfferedTools) -> None:
    """Answer on standard input and output until the input ends."""
    box = Toolbox([tools])
    server = make_server(box)
    from mcp.server.stdio import stdio_server

    await box.reset(_NO_PROBLEM)
    try:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
    finally:
        await box.close()


def run_stdio(tools: OfferedTools) -> None:
    """`serve_stdio` for callers without an event loop."""
    asyncio.run(serve_stdio(tools))


class McpEndpoint:
    """`/mcp` of a web server, by streamable HTTP: an ASGI application that answers inside
    `running`.
    """

    def __init__(self, tools: OfferedTools, *, limit_bytes: int) -> None:
        self._box = Toolbox([tools])
        server = make_server(self._box)
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        # Sessions of Python are arguments, so older clients need no session of the protocol either.
        self._manager = StreamableHTTPSessionManager(server, stateless=True, max_request_body_size=limit_bytes)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self._box.reset(_NO_PROBLEM)
        try:
            async with self._manager.run():
                yield
        finally:
            await self._box.close()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._manager.asgi_app(scope, receive, send)
