"""Tools of `/v1/responses` that this server runs itself: `code_interpreter` in the jail, `mcp` on
servers whose hosts were allowed. Off unless `--hosted-tools` names them.

Covered: what may run (`--hosted-tools`), which hosts are called (`--hosted-mcp-host`), how much of
it a request may do, and, where a request does not say otherwise, a person's approval before each
call of an MCP server. Not covered: what an allowed MCP server does with a call.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from qwq.envs.base import in_background
from qwq.envs.mcp import McpServer, McpToolset
from qwq.envs.toolbox import ResultKind, Toolbox, ToolResult, Toolset, ToolSpec
from qwq.errors import InfraError, UsageError
from qwq.sandbox import SessionLimits
from qwq.serve.desks import Desk, Desks
from qwq.serve.errors import RequestRefused
from qwq.serve.options import ServeOptions
from qwq.serve.schema_responses import (
    Chosen,
    ChosenCodeInterpreter,
    ChosenMcpTool,
    CodeInterpreterTool,
    McpTool,
    ToolFilter,
)
from qwq.types import Message, Problem, ToolCall

if TYPE_CHECKING:
    import mcp_types

PYTHON = "python"  # the name under which the model calls the code interpreter
MAX_REMEMBERED = 10_000  # approvals that were used
MAX_RUNS = 8  # requests with hosted tools that are answered at once
_NO_PROBLEM = Problem("hosted", "custom", (), {}, "hosted")


class HostedTools:
    """What a server keeps for its hosted tools: Python sessions ("containers"), and threads in
    which episodes are played.
    """

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.desks = Desks(limits=SessionLimits(memory_mb=1024), prefix="cntr_")
        self.threads = ThreadPoolExecutor(MAX_RUNS, thread_name_prefix="hosted")
        self._places = threading.Semaphore(MAX_RUNS)
        self._used: dict[str, None] = {}  # approvals, oldest first

    def enter(self) -> None:
        """RequestRefused (429) where too many requests with hosted tools are being answered."""
        if not self._places.acquire(blocking=False):
            message = f"{MAX_RUNS} requests with hosted tools are being answered: try again in a moment"
            raise RequestRefused(message, "tools", 429, "rate_limit_error", "queue_full")

    def leave(self) -> None:
        self._places.release()

    def use_approval(self, id: str) -> None:
        """RequestRefused (409) for an approval that was used before."""
        if id in self._used:
            message = f"the approval {id[:60]!r} was used before: the call is not made again"
            raise RequestRefused(message, "input", 409, code="approval_used")
        self._used[id] = None
        while len(self._used) > MAX_REMEMBERED:
            self._used.pop(next(iter(self._used)))

    async def close(self) -> None:
        await asyncio.wrap_future(in_background(self.desks.close()))
        self.threads.shutdown(wait=False, cancel_futures=True)

    def check(self, tool: CodeInterpreterTool | McpTool, param: str) -> None:
        """RequestRefused where this server does not run the tool."""
        if tool.type not in self.options.hosted_tools:
            raise RequestRefused(
                f"{param}: {tool.type} is off on this server: start it with --hosted-tools {tool.type}",
                param,
                status=403,
            )
        if isinstance(tool, McpTool) and not self._is_allowed(urlsplit(tool.server_url).hostname or ""):
            host = urlsplit(tool.server_url).hostname
            raise RequestRefused(
                f"{param}.server_url: calls to {host!r} are not allowed here: start the server with "
                f"--hosted-mcp-host {host}",
                f"{param}.server_url",
                status=403,
            )

    def _is_allowed(self, host: str) -> bool:
        allowed = [h.lower() for h in self.options.hosted_mcp_host]
        return "*" in allowed or host.lower() in allowed


class _DeskTools(Toolset):
    """The tool `python` of one desk."""

    name = PYTHON
    grace_s = 3600.0  # the desk bounds its calls, and other requests may be in front

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def specs(self) -> Sequence[ToolSpec]:
        return list(self._desk.box.specs().values())

    async def run(self, call: ToolCall) -> ToolResult:
        return await self._desk.run(call)


@dataclass(slots=True)
class HostedPlan:
    """The hosted tools of one request. `labels` says of a tool's name as the model uses it which
    server it belongs to and what it is called there; `container` is the Python session's handle.
    """

    box: HostedBox
    container: str = ""
    labels: dict[str, tuple[str, mcp_types.Tool]] = field(default_factory=dict)
    servers: dict[str, McpTool] = field(default_factory=dict)

    def chosen(self, chosen: Chosen) -> tuple[str, ...]:
        """The functions that a choice of the request means, as the model calls them."""
        if isinstance(chosen, ChosenCodeInterpreter):
            return (PYTHON,)
        if isinstance(chosen, ChosenMcpTool):
            label, name = chosen.server_label, chosen.name
            return tuple(n for n, (of, tool) in self.labels.items() if of == label and name in (None, tool.name))
        return (chosen.name,)


class HostedBox(Toolbox):
    """The tools that run here. Calls of the client's own `functions`, and those that `asks` for a
    person's approval, are left to the client and end the episode.
    """

    def __init__(self, toolsets: Sequence[Toolset]) -> None:
        super().__init__(toolsets)
        self.functions: Collection[str] = ()
        self.asks: Callable[[ToolCall], bool] = lambda call: False
        self.results: dict[int, ToolResult] = {}  # of calls that ran, by the call's id()
        self._task: asyncio.Task[Any] | None = None
        self._known: tuple[Mapping[str, Any], ...] = ()

    def open(self) -> Future[None]:
        """Start the tools before the prompt is made, which names them."""
        return in_background(super().reset(_NO_PROBLEM))

    async def reset(self, problem: Problem) -> None:
        self._known = tuple(problem.tools)

    def schemas(self) -> tuple[Mapping[str, Any], ...]:
        return self._known

    def is_left(self, call: ToolCall) -> bool:
        """Whether the client has to act on the call."""
        return call.name in self.functions or self.asks(call)

    async def step(self, calls: Sequence[ToolCall]) -> list[Message]:
        self._task = asyncio.current_task()
        self.over = any(map(self.is_left, calls))
        own = [call for call in calls if not self.is_left(call)]
        for call, result in zip(own, await self.run_calls(own), strict=True):
            self.results[id(call)] = result
        waits = ToolResult("", ResultKind.REFUSED)
        return [Message("tool", self.results.get(id(call), waits).text) for call in calls]

    def stop(self) -> None:
        """End the calls that run; from any thread."""
        task = self._task
        if task is not None:
            task.get_loop().call_soon_threadsafe(task.cancel)


async def make_plan(
    hosted: HostedTools, tools: Sequence[CodeInterpreterTool | McpTool], before: str | None
) -> HostedPlan:
    """Start the tools of a request; `before` is the Python session that its conversation used.

    RequestRefused: 400 for a session that is none, 424 for an MCP server that does not answer.
    """
    plan = HostedPlan(HostedBox(()))
    sets: list[Toolset] = []
    for number, tool in enumerate(tools):
        if isinstance(tool, CodeInterpreterTool):
            plan.container, desk = await asyncio.wrap_future(in_background(_open_desk(hosted.desks, tool, before)))
            sets.append(_DeskTools(desk))
            continue
        if tool.server_label in plan.servers:
            raise RequestRefused(f"tools: two MCP servers are called {tool.server_label!r}", "tools")
        plan.servers[tool.server_label] = tool
        sets.append(_mcp_toolset(tool, number))
    plan.box.toolsets = sets
    try:
        await asyncio.wrap_future(plan.box.open())
    except (UsageError, InfraError) as error:
        await asyncio.wrap_future(in_background(plan.box.close()))
        raise RequestRefused(str(error), "tools", 424, "external_connector_error") from None
    for group in sets:
        if isinstance(group, McpToolset):
            for label in plan.servers:
                plan.labels |= {name: (label, tool) for name, tool in group.listed(label).items()}
    plan.box.asks = lambda call: _needs_approval(plan, call)
    return plan


async def _open_desk(desks: Desks, tool: CodeInterpreterTool, before: str | None) -> tuple[str, Desk]:
    try:
        if isinstance(tool.container, str):
            return tool.container, desks.get(tool.container)
        handle = before if before is not None and before in desks else await desks.open()
        return handle, desks.get(handle)
    except UsageError as error:
        raise RequestRefused(f"tools: container: {error}", "tools") from None


def _mcp_toolset(tool: McpTool, number: int) -> McpToolset:
    headers = dict(tool.headers or {})
    if tool.authorization is not None:
        headers["Authorization"] = f"Bearer {tool.authorization}"
    server = McpServer(tool.server_label, url=tool.server_url, headers=headers)
    allowed = tool.allowed_tools
    names = ToolFilter(tool_names=allowed) if isinstance(allowed, list) else allowed
    return McpToolset([server], offers=None if names is None else lambda _, listed: _matches(names, listed))


def _matches(chosen: ToolFilter, listed: mcp_types.Tool) -> bool:
    reads = listed.annotations is not None and listed.annotations.read_only_hint is True
    return (chosen.tool_names is None or listed.name in chosen.tool_names) and chosen.read_only in (None, reads)


def _needs_approval(plan: HostedPlan, call: ToolCall) -> bool:
    """What a request says of a tool; where it says nothing, or says two things, a person is
    asked.
    """
    if call.name not in plan.labels:
        return False
    label, listed = plan.labels[call.name]
    rule = plan.servers[label].require_approval
    if rule is None or isinstance(rule, str):
        return rule != "never"
    if rule.always is not None and _matches(rule.always, listed):
        return True
    return rule.never is None or not _matches(rule.never, listed)
