"""The tool `shell`: bash in the workspace's jail, with a state that is kept from call to call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from qwq.envs.jailed import JailedToolset
from qwq.envs.toolbox import Effect, ResultKind, ToolResult, ToolSpec, tool_schema, toolset
from qwq.envs.workspace import Workspace
from qwq.errors import UsageError
from qwq.sandbox import Level
from qwq.sandbox.jail.desk_bash import EXIT_STATUS
from qwq.types import ToolCall

TIMEOUT_S = 60.0
_DESCRIPTION = (
    "Run a bash command in the workspace. Folder, variables and functions are kept from call to call; what it leaves "
    "running is ended. Standard output and error come in one text, then the exit status if it is not 0. No network, "
    "no input."
)


@toolset("shell")
class ShellToolset(JailedToolset):
    """`shell(command)`. Needs the level namespaces."""

    needs_programs = True
    packages = ("pytest",)

    def __init__(self, *, shell_timeout_s: float = TIMEOUT_S):
        self.timeout_s = shell_timeout_s

    async def open(self, desk: Workspace) -> None:
        if not desk.programs:
            raise UsageError("the shell needs a workspace with programs: Workspace(programs=True)")
        level = await asyncio.to_thread(lambda: desk.level)
        if level is not Level.NAMESPACES:
            raise UsageError(
                f"the shell needs the sandbox level {Level.NAMESPACES}, here it is {level}: leave shell out; "
                "`qwq sandbox doctor` says why"
            )
        await super().open(desk)

    def specs(self) -> Sequence[ToolSpec]:
        schema = tool_schema("shell", _DESCRIPTION, {"command": {"type": "string"}}, ["command"])
        return (ToolSpec(schema, Effect.WORKSPACE, self.timeout_s, untrusted=True),)

    async def run(self, call: ToolCall) -> ToolResult:
        result = await self.on_desk("bash", {"command": call.arguments["command"]}, self.timeout_s)
        status = next((data[EXIT_STATUS] for data in result.detail["display"] if EXIT_STATUS in data), None)
        if status is None:  # it was stopped
            return result
        kind = ResultKind.OK if status == "0" else ResultKind.ERROR
        return replace(result, kind=kind, detail={**result.detail, "exit_status": int(status)})
