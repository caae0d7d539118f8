"""What the toolsets that run in the workspace's session share: calls as cells, cells as results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qwq.envs.toolbox import Artefact, ResultKind, ToolResult, Toolset
from qwq.envs.workspace import Workspace
from qwq.sandbox import CellResult, CellStatus
from qwq.sandbox.jail.desk import FAULT
from qwq.sandbox.jail.report_values import VALUE

GRACE_S = 120.0  # a cell that is killed is rebuilt by replay, which takes as long as the cells did
NO_OUTPUT = "(no output)"
_KINDS = {
    CellStatus.OK: ResultKind.OK,
    CellStatus.ERROR: ResultKind.ERROR,
    CellStatus.INTERRUPTED: ResultKind.ERROR,
    CellStatus.TIMEOUT: ResultKind.TIMEOUT,
    CellStatus.MEMORY: ResultKind.LIMIT,
    CellStatus.OUTPUT_LIMIT: ResultKind.LIMIT,
    CellStatus.DIED: ResultKind.ERROR,
}


class JailedToolset(Toolset):
    """Tools that are cells of the workspace's session, which holds their time limits."""

    grace_s = GRACE_S
    _desk: Workspace | None = None

    async def open(self, desk: Workspace) -> None:
        self._desk = desk

    @property
    def desk(self) -> Workspace:
        assert self._desk is not None, "open comes before run"
        return self._desk

    async def on_desk(self, name: str, arguments: Mapping[str, Any], timeout_s: float) -> ToolResult:
        """Run a tool of `sandbox/jail/desk.py` as a cell."""
        # A traceback shows the first line only, and not what is to be written.
        code = f"__import__('jail.desk', fromlist=['run']).run({name!r},\n{dict(arguments)!r})"
        result = result_of_cell(await self.desk.run_cell_async(code, self.seconds_for(timeout_s)))
        if any(FAULT in data for data in result.detail["display"]):
            return replace(result, kind=ResultKind.ERROR)
        return result


def result_of_cell(cell: CellResult) -> ToolResult:
    """A cell as a tool's result."""
    detail = {
        "cell": cell.number,
        "status": cell.status.value,
        "state": cell.state.value,
        "value": cell.value,
        "cpu_s": cell.cpu_s,
        "files": dict(cell.listing),
        "display": [dict(data) for data in cell.display if VALUE not in data and data.keys() - {"text/plain"}],
        "values": [value for data in cell.display if (value := _registered(data)) is not None],
    }
    return ToolResult(
        cell.text or NO_OUTPUT,
        _KINDS[cell.status],
        whole=cell.whole_text() if cell.output_file is not None else None,
        artefacts=tuple(_artefacts(cell)),
        detail=detail,
    )


def _registered(data: Mapping[str, str]) -> dict[str, Any] | None:
    """What `report.value`, `table` and `figure` of a session registered."""
    try:
        fields = json.loads(data.get(VALUE, "null"))
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and isinstance(fields.get("name"), str) else None


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
