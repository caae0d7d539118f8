"""The tool `python`: cells that share their variables, in the jail. Figures come back as pictures
for people and in words for the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from qwq.envs.jailed import JailedToolset, result_of_cell
from qwq.envs.toolbox import Effect, ToolResult, ToolSpec, tool_schema, toolset
from qwq.envs.workspace import READERS
from qwq.sandbox import packages
from qwq.sandbox.session_slots import PACKAGES
from qwq.types import ToolCall

TIMEOUT_S = 30.0


@toolset("python")
class PythonToolset(JailedToolset):
    """`python(code)`. A cell that meets `timeout_s` is interrupted and the variables are kept."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S):
        self.timeout_s = timeout_s

    def specs(self) -> Sequence[ToolSpec]:
        readers = () if self._desk is None else tuple(name for name in READERS if name in self._desk.packages)
        description = (
            "Run Python code. Variables, imports and files are kept from call to call. The value of the last "
            f"expression is shown, and so are open matplotlib figures. {_installed(readers)} No network."
        )
        schema = tool_schema("python", description, {"code": {"type": "string"}}, ["code"])
        untrusted = self._desk is not None and self._desk.has_files
        return (ToolSpec(schema, Effect.WORKSPACE, self.timeout_s, untrusted=untrusted),)

    async def run(self, call: ToolCall) -> ToolResult:
        return result_of_cell(await self.desk.run_cell_async(call.arguments["code"], self.seconds_for(self.timeout_s)))


@cache
def _installed(readers: tuple[str, ...]) -> str:
    """Which packages a model may count on, read without importing them."""
    usual = (*PACKAGES, *readers)
    added = packages.versions()
    there = {package.name for package in packages.of_host(usual)} | set(added)
    names = [name for name in usual if name in there] + sorted(set(added) - set(usual))
    return f"Installed: {', '.join(names)}." if names else "Only the standard library is installed."
