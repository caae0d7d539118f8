"""The tools of any MCP server as a toolset.

    toolsets = make_toolsets(["python", "mcp"], mcp="mcp.json")

A tool is called `SERVER__TOOL` and the list is sorted, so the prompt's prefix stays the same from
run to run. What a server says of itself is not trusted: its results are other people's text, its
tools have external effects unless they are annotated as read-only, and no other hint is read. A
server that has died is started once more; the call that was under way is not repeated.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwq.envs.mcp_connection import McpConnection, McpGone, McpRefused, McpTimeout
from qwq.envs.mcp_servers import McpServer, read_mcp_file
from qwq.envs.toolbox import Artefact, Effect, ResultKind, ToolResult, Toolset, ToolSpec, toolset
from qwq.errors import InfraError, QwqError, UsageError
from qwq.types import ToolCall

if TYPE_CHECKING:
    import mcp_types

    from qwq.envs.workspace import Workspace

MAX_NAME = 64  # characters of a tool's name, as chat APIs take it
MAX_DESCRIPTION = 2000  # characters
MAX_ARTEFACTS, MAX_ARTEFACT_BYTES = 8, 4 << 20

MAX_STARTS = 2
GRACE_S = 15.0  # for the end of a server that does not obey
STATE_GONE = "what it kept in memory is gone"

__all__ = ["McpServer", "McpToolset", "read_mcp_file"]


class _Server:
    """A server of a run: its connection, and how often it was started."""

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self.connection: McpConnection | None = None
        self._num_starts = 0
        self._lock = asyncio.Lock()

    async def living(self) -> tuple[McpConnection, str]:
        """The connection, opened once more where it has ended; then with a note for the model.
        ConfigError or InfraError where the server does not come up.
        """
        async with self._lock:
            if self.connection is not None and self.connection.alive:
                return self.connection, ""
            name = self.server.name
            if self._num_starts == MAX_STARTS:
                raise InfraError(f"the MCP server {name!r} has ended again and is not started a third time")
            self._num_starts += 1
            if self.connection is not None:
                await self.connection.close()
            self.connection = await McpConnection.connect(self.server)
            again = self._num_starts > 1
            return self.connection, f"[the server {name} was started again: {STATE_GONE}]\n" if again else ""

    async def after_end(self, error: str) -> str:
        """Start the server again; how it ended and what became of it."""
        tail = (self.connection.log_tail() if self.connection else "") or f" ({error})"
        try:
            await self.living()
        except QwqError as failure:
            return f"{tail}; {failure}"
        return f"{tail}; it was started again: {STATE_GONE}"

    async def close(self) -> None:
        if self.connection is not None:
            await self.connection.close()


@dataclass(frozen=True, slots=True)
class _Tool:
    """A tool as the model knows it, as its server does, and where it is."""

    spec: ToolSpec
    listed: mcp_types.Tool
    server: _Server


@toolset("mcp")
class McpToolset(Toolset):
    """The tools of all servers of `mcp`, which is a file or a list. `offers` picks the tools that
    the model may see; by default all.
    """

    def __init__(
        self,
        mcp: str | Path | Sequence[McpServer] | None = None,
        *,
        offers: Callable[[McpServer, mcp_types.Tool], bool] | None = None,
    ) -> None:
        if mcp is None:
            raise UsageError("the tools of MCP servers need the file that names them: --mcp FILE")
        servers = read_mcp_file(mcp) if isinstance(mcp, str | Path) else mcp
        self._servers = [_Server(server) for server in servers]
        self._offers = offers
        self._tools: dict[str, _Tool] = {}
        # A server that has ended is closed and started again within a call.
        self.grace_s = GRACE_S + max((s.start_timeout_s for s in servers), default=0.0)

    async def open(self, desk: Workspace | None = None) -> None:
        """Start the servers. ConfigError or InfraError where one does not come up."""
        for outcome in await asyncio.gather(*(server.living() for server in self._servers), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        tools = [tool for server in self._servers for tool in self._tools_of(server)]
        self._tools = {tool.spec.name: tool for tool in sorted(tools, key=lambda tool: tool.spec.name)}

    def _tools_of(self, held: _Server) -> Iterator[_Tool]:
        assert held.connection is not None
        server, listed = held.server, held.connection.tools
        if self._offers is not None:
            listed = [tool for tool in listed if self._offers(server, tool)]
        for name, tool in zip(tool_names(server.name, [t.name for t in listed]), listed, strict=True):
            yield _Tool(make_spec(name, tool, server.call_timeout_s), tool, held)

    def specs(self) -> Sequence[ToolSpec]:
        return [tool.spec for tool in self._tools.values()]

    def listed(self, server: str) -> dict[str, mcp_types.Tool]:
        """A server's own description of its tools, by the names that the model uses."""
        return {name: tool.listed for name, tool in self._tools.items() if tool.server.server.name == server}

    def versions(self) -> dict[str, str]:
        """The protocol version agreed on with each server."""
        return {s.server.name: s.connection.protocol_version for s in self._servers if s.connection is not None}

    async def run(self, call: ToolCall) -> ToolResult:
        tool = self._tools[call.name]
        spec, unknown = tool.spec, ResultKind.UNKNOWN if tool.spec.effect is Effect.EXTERNAL else None
        timeout_s = self.seconds_for(spec.timeout_s)
        try:
            connection, note = await tool.server.living()
            result = await connection.call(tool.listed.name, call.arguments, timeout_s)
        except McpTimeout:
            text = f"error: {call.name} gave no result within {timeout_s:g} s{_outcome(spec)}"
            return ToolResult(text, unknown or ResultKind.TIMEOUT)
        except McpRefused as error:
            return ToolResult(f"error: {call.name}: {error}", ResultKind.ERROR)
        except McpGone as error:
            then = await tool.server.after_end(str(error))
            ended = f"error: the server {tool.server.server.name} ended while {call.name} ran{_outcome(spec)}"
            return ToolResult(ended + then, unknown or ResultKind.ERROR)
        except QwqError as error:
            return ToolResult(f"error: {error}", ResultKind.ERROR)
        text, artefacts = read_content(result)
        if result.is_error:
            return ToolResult(f"{note}error: {text}", ResultKind.ERROR, artefacts=artefacts)
        return ToolResult(note + text, artefacts=artefacts)

    async def close(self) -> None:
        await asyncio.gather(*(server.close() for server in self._servers))


def _outcome(spec: ToolSpec) -> str:
    """What has to be said of a call with external effects that was not answered."""
    if spec.effect is not Effect.EXTERNAL:
        return ""
    return ", and whether the call took effect is unknown: look before you repeat it"


def tool_names(server: str, tools: Sequence[str]) -> list[str]:
    """`SERVER__TOOL` for each, in the letters that chat APIs allow; a hash of the server's own name
    tells apart what would be the same.
    """
    plain = [re.sub(r"[^A-Za-z0-9_-]", "_", f"{server}__{tool}") for tool in tools]
    names = []
    for tool, name in zip(tools, plain, strict=True):
        if len(name) > MAX_NAME or plain.count(name) > 1:
            name = f"{name[: MAX_NAME - 7]}_{hashlib.sha256(tool.encode()).hexdigest()[:6]}"
        names.append(name)
    return names


def make_spec(name: str, tool: mcp_types.Tool, timeout_s: float) -> ToolSpec:
    """A listed tool as the toolbox knows tools. The hints of a server are believed for reads alone:
    what is marked read-only may be called again, and without asking.
    """
    reads = tool.annotations is not None and tool.annotations.read_only_hint is True
    function = {
        "name": name,
        "description": (tool.description or tool.title or "")[:MAX_DESCRIPTION],
        "parameters": {"type": "object", "properties": {}, **tool.input_schema},
    }
    return ToolSpec(
        {"type": "function", "function": function},
        Effect.NONE if reads else Effect.EXTERNAL,
        timeout_s,
        idempotent=reads,
        untrusted=True,
    )


def read_content(result: mcp_types.CallToolResult) -> tuple[str, tuple[Artefact, ...]]:
    """A result's text, and the pictures and files in it. Structured content is read where there is
    no text.
    """
    texts: list[str] = []
    artefacts: list[Artefact] = []
    for block in result.content:
        text = _read_block(block, artefacts)
        if text:
            texts.append(text)
    if not texts and result.structured_content is not None:
        texts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return "\n".join(texts) or "(no output)", tuple(artefacts)


def _read_block(block: Any, artefacts: list[Artefact]) -> str:
    match block.type:
        case "text":
            return str(block.text)
        case "image" | "audio":
            return _keep(block.data, block.mime_type, block.type, artefacts)
        case "resource_link":
            return f"[link: {block.title or block.name}, {block.uri}]"
        case "resource":
            held = block.resource
            if hasattr(held, "text"):
                return str(held.text)
            return _keep(held.blob, held.mime_type or "application/octet-stream", "file", artefacts)
    return f"[{block.type} that cannot be shown]"


def _keep(data: str, media_type: str, kind: str, artefacts: list[Artefact]) -> str:
    """Add a picture or file to the artefacts; the line that shows it in the text."""
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return f"[{kind} that is no base64]"
    if len(artefacts) >= MAX_ARTEFACTS or len(raw) > MAX_ARTEFACT_BYTES:
        return (
            f"[{kind} of {len(raw):,} bytes left out: at most {MAX_ARTEFACTS} of up to {MAX_ARTEFACT_BYTES >> 20} MiB]"
        )
    ending = re.sub(r"[^a-z0-9]", "", media_type.partition("/")[2].partition("+")[0].lower()) or "bin"
    name = f"{kind}-{len(artefacts) + 1}.{ending}"
    artefacts.append(Artefact(name, media_type, raw))
    return f"[{name}: {media_type}, {len(raw):,} bytes]"
