"""The calls of a run as a report shows and checks them, read from its events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwq.agent.events import Event, EventKind
from qwq.agent.report.trace import TASK, NumberSource

_CODE = ("code", "command", "query", "sql")  # arguments that hold a program
_NOT_RUN = ("refused", "unknown_outcome")


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call with its result. `label` is what a report calls it (cell 3, call 4), `code` what it
    ran, `text` all that it gave, `kind` how it ended, `values` what it registered for the report.
    """

    id: str
    label: str
    tool: str
    arguments: Mapping[str, Any]
    code: str
    text: str
    kind: str
    effect: str
    seconds: float
    artefacts: Sequence[Mapping[str, Any]] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    values: Sequence[Mapping[str, Any]] = ()
    exit_status: int | None = None

    @property
    def was_executed(self) -> bool:
        return self.kind not in _NOT_RUN


def read_steps(events: Sequence[Event], folder: Path | None = None) -> list[CallRecord]:
    """The calls that have results, in order. With the run's `folder` long outputs are read in
    whole.
    """
    calls = {e["id"]: e for e in events if e["event"] == EventKind.CALL}
    effects = {e["id"]: e["effect"] for e in events if e["event"] == EventKind.TOOL_STARTED}
    results = {e["id"]: e for e in events if e["event"] == EventKind.RESULT}
    return [_step(calls[ident], result, effects.get(ident, "none"), folder) for ident, result in results.items()]


def _step(call: Event, result: Event, effect: str, folder: Path | None) -> CallRecord:
    arguments = call.get("arguments") or {}
    detail = result.get("detail") or {}
    number = detail.get("cell") if result["tool"] == "python" else None
    label = f"cell {number}" if number is not None else result["id"].replace("-", " ")
    code = next((str(arguments[name]) for name in _CODE if name in arguments), "")
    return CallRecord(
        result["id"], label, result["tool"], arguments, code, _whole(result, folder), result["kind"], effect,
        result.get("seconds", 0.0), tuple(result.get("artefacts") or ()), detail.get("files") or {},
        tuple(detail.get("values") or ()), detail.get("exit_status"),
    )  # fmt: skip


def _whole(result: Event, folder: Path | None) -> str:
    if result.get("whole") and folder is not None and (folder / result["whole"]).is_file():
        return (folder / result["whole"]).read_text(encoding="utf-8", errors="replace")
    return str(result["text"])


def number_sources(task: str, steps: Sequence[CallRecord]) -> list[NumberSource]:
    """The task, and what executed calls gave."""
    given = [NumberSource(step.label, step.text, step.code) for step in steps if step.was_executed]
    return [NumberSource(TASK, task), *given]
