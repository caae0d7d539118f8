"""One live connection to an MCP server, through the protocol's own SDK.

The SDK's client has to be left by the task that entered it, so the connection lives in a task of
its own; any other task of the loop may call. It agrees on the newest version that both sides speak:
`server/discover` first, `initialize` for servers of 2025-11-25 and before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwq.envs import mcp_guard
from qwq.envs.mcp_servers import McpServer
from qwq.errors import ConfigError, InfraError, install_hint

if TYPE_CHECKING:
    import mcp_types
    from mcp import Client

MAX_PAGES = 32  # of a server's list of tools
TAIL_CHARS = 300  # of what a server wrote to its standard error, in a message


class McpGone(Exception):
    """The connection has ended, so the outcome of a call that was under way is not known."""


class McpTimeout(Exception):
    """The server has not answered in time; it may still be at work."""


class McpRefused(Exception):
    """The server answered the call with an error of the protocol."""


class McpConnection:
    """A server that has started and listed its tools. Made by `connect`."""

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self.tools: list[mcp_types.Tool] = []
        self.protocol_version = ""
        self._client: Client | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  # lives as long as the server
        self._task = asyncio.create_task(self._live(), name=f"mcp {server.name}")

    @classmethod
    async def connect(cls, server: McpServer) -> McpConnection:
        """Raises ConfigError where the program is not there, InfraError where the server does not
        come up in time.
        """
        check_program(server)
        made = cls(server)
        try:
            async with asyncio.timeout(server.start_timeout_s):
                await asyncio.shield(made._ready)
        except TimeoutError:
            reason = f"it did not list its tools within {server.start_timeout_s:g} s (start_timeout_s)"
        except asyncio.CancelledError:
            await made.close()
            raise
        except Exception as error:  # noqa: BLE001  # the SDK, the network and a foreign program raise what they like
            reason = describe(error)
        else:
            return made
        tail = made.log_tail()
        await made.close()
        raise InfraError(f"the MCP server {server.name!r} did not start: {reason}{tail}")

    @property
    def alive(self) -> bool:
        return self._client is not None and not self._task.done()

    def log_tail(self) -> str:
        """The end of what the server wrote to its standard error, as ` (...)`."""
        with contextlib.suppress(OSError, ValueError):
            size = os.fstat(self._log.fileno()).st_size
            data = os.pread(self._log.fileno(), 4 * TAIL_CHARS, max(0, size - 4 * TAIL_CHARS))
            text = " ".join(data.decode(errors="replace").split())[-TAIL_CHARS:]
            return f" (its standard error ends: {text})" if text else ""
        return ""

    async def call(self, name: str, arguments: Mapping[str, Any], timeout_s: float) -> mcp_types.CallToolResult:
        """Call a tool. Raises McpGone, McpTimeout or McpRefused."""
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        if self._client is None:
            raise McpGone
        try:
            # The SDK's own limit tells the server that nobody waits; ours holds where it does not.
            async with asyncio.timeout(timeout_s + 1.0):
                return await self._client.call_tool(name, dict(arguments), read_timeout_seconds=timeout_s)
        except TimeoutError:
            raise McpTimeout from None
        except MCPError as error:
            if error.code == REQUEST_TIMEOUT:
                raise McpTimeout from None
            if error.code == CONNECTION_CLOSED:
                self._client = None
                raise McpGone(describe(error)) from None
            raise McpRefused(error.message) from None
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # streams and sockets of several libraries, each with its own kinds
            self._client = None
            raise McpGone(describe(error)) from None

    async def close(self) -> None:
        """End the connection, and a program that was started for it, with all it started. Safe to
        call twice.
        """
        self._client = None
        self._leave.set()
        if not self._ready.done():
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({self._task})
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()
        self._log.close()

    async def _live(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(self._make_client(stack))
                self.protocol_version = client.protocol_version
                self.tools = [tool async for tool in _listed(client)]
                self._client = client
                self._ready.set_result(None)
                await self._leave.wait()
        except asyncio.CancelledError:
            self._ready.cancel()
            raise
        except BaseException as error:  # noqa: BLE001  # groups of exceptions included: whoever waits is told
            if not self._ready.done():
                self._ready.set_exception(InfraError(describe(error)))
        finally:
            self._client = None

    def _make_client(self, stack: AsyncExitStack) -> Client:
        from mcp import Client, StdioServerParameters
        from mcp.client.stdio import stdio_client
        from mcp_types import Implementation

        info = Implementation(name="qwq", version="1")
        if self.server.url:
            return Client(_over_http(self.server), client_info=info, cache=None)
        guard = [sys.executable, "-I", "-S", mcp_guard.__file__, str(os.getpid()), *self.server.command]
        program = StdioServerParameters(
            command=guard[0],
            args=guard[1:],
            env=dict(self.server.env),
            cwd=self.server.cwd,
            encoding_error_handler="replace",
        )
        return Client(stdio_client(program, errlog=self._log), client_info=info, cache=None)


@contextlib.asynccontextmanager
async def _over_http(server: McpServer) -> AsyncIterator[Any]:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    timeout = httpx2.Timeout(server.start_timeout_s, read=server.call_timeout_s + 5.0)
    async with (
        httpx2.AsyncClient(headers=dict(server.headers), timeout=timeout) as http,
        streamable_http_client(server.url, http_client=http) as streams,
    ):
        yield streams


async def _listed(client: Client) -> AsyncIterator[mcp_types.Tool]:
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            yield tool
        cursor = page.next_cursor
        if cursor is None:
            return
    raise InfraError(f"its list of tools has more than {MAX_PAGES} pages")


def check_program(server: McpServer) -> None:
    """ConfigError where the SDK, the server's program or its folder is not there."""
    try:
        import mcp  # noqa: F401
    except ImportError:
        raise ConfigError(f"MCP needs the package mcp: {install_hint('agent')}") from None
    if server.cwd is not None and not Path(server.cwd).expanduser().is_dir():
        raise ConfigError(f"the MCP server {server.name!r}: cwd {server.cwd} is no folder")
    if server.command and shutil.which(server.command[0], path=server.env.get("PATH")) is None:
        raise ConfigError(
            f"the MCP server {server.name!r}: no program {server.command[0]!r}: install it, or give its path"
        )


def describe(error: BaseException) -> str:
    """An error in one line; of a group, its first member."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split())[:300]
    return text or type(error).__name__
