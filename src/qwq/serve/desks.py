"""Python sessions by handle, for protocols without state: whoever has the handle continues in the
session.

A desk is a workspace in the jail with the tool `python`. At most `max_open` are kept; the one that
was not used for the longest time makes room, and one that nobody has used for `idle_s` ends.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from qwq.envs.python import PythonToolset
from qwq.envs.toolbox import Toolbox, ToolResult
from qwq.envs.workspace import Workspace
from qwq.errors import UsageError
from qwq.sandbox import Sandbox, SessionLimits
from qwq.types import Problem, ToolCall

MAX_OPEN, IDLE_S = 16, 1800.0
_NO_PROBLEM = Problem("desk", "custom", (), {}, "desk")


@dataclass(slots=True, eq=False)
class Desk:
    """One session; its cells run one after another."""

    box: Toolbox
    workspace: Workspace
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    last_used: float = field(default_factory=time.monotonic)

    async def run(self, call: ToolCall) -> ToolResult:
        async with self.turn:
            try:
                return await self.box.run_call(call)
            finally:
                self.last_used = time.monotonic()


class Desks:
    """The open desks, least recently used first. `prefix` begins their handles."""

    def __init__(
        self, sandbox: Sandbox | None = None, *, limits: SessionLimits | None = None, max_open: int = MAX_OPEN,
        idle_s: float = IDLE_S, prefix: str = "",
    ) -> None:  # fmt: skip
        self.sandbox, self.limits = sandbox, limits or SessionLimits()
        self.max_open, self.idle_s, self.prefix = max_open, idle_s, prefix
        self._open: OrderedDict[str, Desk] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, handle: str) -> bool:
        return handle in self._open

    async def open(self) -> str:
        """A fresh desk's handle. Nothing starts before its first cell."""
        await self._make_room()
        workspace = Workspace(self.sandbox, limits=self.limits)
        box = Toolbox([PythonToolset(timeout_s=self.limits.timeout_s)], workspace)
        await box.reset(_NO_PROBLEM)
        handle = self.prefix + secrets.token_hex(8)
        self._open[handle] = Desk(box, workspace)
        return handle

    def get(self, handle: str) -> Desk:
        """UsageError where the handle is none, or its session has ended."""
        if handle not in self._open:
            raise UsageError(
                f"no session {handle[:60]!r} is open: it was never one, was idle for {self.idle_s / 60:g} minutes, "
                "or made room for another; leave the session out to open one"
            )
        self._open.move_to_end(handle)
        return self._open[handle]

    async def end(self, handle: str) -> None:
        """Close a desk, if it is open."""
        desk = self._open.pop(handle, None)
        if desk is not None:
            await desk.box.close()
            await asyncio.to_thread(desk.workspace.close)

    async def close(self) -> None:
        for handle in list(self._open):
            await self.end(handle)

    async def _make_room(self) -> None:
        now = time.monotonic()
        idle = [handle for handle, desk in self._open.items() if not desk.turn.locked()]
        for handle in [h for h in idle if now - self._open[h].last_used > self.idle_s]:
            await self.end(handle)
        if len(self._open) < self.max_open:
            return
        oldest = next((handle for handle in idle if handle in self._open), None)
        if oldest is None:
            raise UsageError(f"{self.max_open} sessions run at the moment, which is the limit: try again later")
        await self.end(oldest)
