"""The tool `python`: cells that share their variables, in the jail. Figures come back as pictures
for people and in words for the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from qwq.envs.toolbox import Artefact, Effect, ResultKind, ToolResult, Toolset, ToolSpec, tool_schema, toolset
from qwq.envs.workspace import Workspace
from qwq.sandbox import CellResult, CellStatus, packages
from qwq.sandbox.session_slots import PACKAGES
from qwq.types import ToolCall

GRACE_S = 120.0  # a cell that is killed is rebuilt by replay, which takes as long as the cells did
CELL_TIMEOUT_S = 30.0
KINDS = {
    CellStatus.OK: ResultKind.OK,
    CellStatus.ERROR: ResultKind.ERROR,
    CellStatus.INTERRUPTED: ResultKind.ERROR,
    CellStatus.TIMEOUT: ResultKind.TIMEOUT,
    CellStatus.MEMORY: ResultKind.LIMIT,
    CellStatus.OUTPUT_LIMIT: ResultKind.LIMIT,
    CellStatus.DIED: ResultKind.ERROR,
}
NO_OUTPUT = "(no output)"


@toolset("python")
class PythonToolset(Toolset):
    """`python(code)`. A cell that meets `timeout_s` is interrupted and the variables are kept."""

    grace_s = GRACE_S

    def __init__(self, *, timeout_s: float = CELL_TIMEOUT_S):
        self.timeout_s = timeout_s
        self._desk: Workspace | None = None

    async def open(self, desk: Workspace) -> None:
        self._desk = desk

    def specs(self) -> Sequence[ToolSpec]:
        description = (
            "Run Python code. Variables, imports and files are kept from call to call. The value of the last "
            f"expression is shown, and so are open matplotlib figures. {_installed()} No network."
        )
        schema = tool_schema("python", description, {"code": {"type": "string"}}, ["code"])
        untrusted = self._desk is not None and self._desk.has_files
        return (ToolSpec(schema, Effect.WORKSPACE, self.timeout_s, untrusted=untrusted),)

    async def run(self, call: ToolCall) -> ToolResult:
        assert self._desk is not None
        code, timeout_s = call.arguments["code"], self.seconds_for(self.timeout_s)
        return result_of_cell(await self._desk.run_cell_async(code, timeout_s))


def result_of_cell(cell: CellResult) -> ToolResult:
    """A cell as a tool's result."""
    detail = {
        "cell": cell.number,
        "status": cell.status.value,
        "state": cell.state.value,
        "value": cell.value,
        "cpu_s": cell.cpu_s,
        "files": dict(cell.listing),
        "tables": cell.tables,
        "display": [dict(data) for data in cell.display],
    }
    return ToolResult(
        cell.text or NO_OUTPUT,
        KINDS[cell.status],
        whole=cell.whole_text() if cell.output_file is not None else None,
        artefacts=tuple(_artefacts(cell)),
        detail=detail,
    )


def _artefacts(cell: CellResult) -> list[Artefact]:
    """Figures, named by their cell, so that a replay names them the same."""
    artefacts = []
    for index, figure in enumerate(cell.figures, 1):
        stem = f"figure-{cell.number}" if index == 1 else f"figure-{cell.number}-{index}"
        if figure.png is not None:
            artefacts.append(Artefact(f"{stem}.png", "image/png", figure.png, figure.text))
        if figure.svg is not None:
            artefacts.append(Artefact(f"{stem}.svg", "image/svg+xml", figure.svg.encode(), figure.text))
    return artefacts


@cache
def _installed() -> str:
    """Which packages a model may count on, read without importing them."""
    names = {package.name for package in packages.of_host(PACKAGES)} | set(packages.versions())
    there = [name for name in PACKAGES if name in names] + sorted(set(packages.versions()) - set(PACKAGES))
    return f"Installed: {', '.join(there)}." if there else "Only the standard library is installed."
