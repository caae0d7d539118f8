"""A run's jailed calls once more, in a fresh session: do they give what the log says?

A call whose text or artefacts differ is looked at a second time: where two replays differ from each
other too, it reads a clock or draws at random; where they agree, the log and this machine do not.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwq.agent.command import first_of, make_toolbox
from qwq.agent.events import Event, EventKind, read_run, sha256
from qwq.agent.folder import AgentFolder
from qwq.agent.recorded import keep_earlier
from qwq.envs.base import in_background
from qwq.envs.toolbox import IN_TASKS, Toolbox
from qwq.errors import DataError
from qwq.types import Problem, ToolCall


@dataclass(frozen=True, slots=True)
class CallOutput:
    """What a call gave: its text, and the hashes of its artefacts in their order."""

    text: str
    artefacts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReplayOutcome:
    """Ids of calls. `varies`: two replays differ from each other. `differs`: they agree with each
    other and not with the log; what was recorded, and what came now. `skipped`: not in the jail.
    """

    equal: Sequence[str] = ()
    varies: Sequence[str] = ()
    differs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    skipped: Sequence[str] = ()

    @property
    def agrees(self) -> bool:
        return not self.differs

    def to_dict(self) -> dict[str, Any]:
        return {
            "agrees": self.agrees,
            "equal": list(self.equal),
            "varies": list(self.varies),
            "differs": {i: {"recorded": was, "now": now} for i, (was, now) in self.differs.items()},
            "skipped": list(self.skipped),
        }


def replay(out: Path) -> ReplayOutcome:
    """Run every jailed call of the run in `out` again. DataError for a log that is damaged."""
    events = read_run(out)
    if not events:
        raise DataError(f"{out}: the run was stopped before its first event: there is nothing to replay")
    calls = {e["id"]: e for e in events if e["event"] == EventKind.CALL}
    ran = {e["id"] for e in events if e["event"] == EventKind.TOOL_STARTED}
    results = [e for e in events if e["event"] == EventKind.RESULT and e["id"] in ran]
    made, skipped = _run(out, events, calls, ran)
    recorded = {e["id"]: CallOutput(e["text"], tuple(a["sha256"] for a in e["artefacts"])) for e in results}
    other = [ident for ident, output in made.items() if output != recorded[ident]]
    again = _run(out, events, calls, ran)[0] if other else {}
    return ReplayOutcome(
        equal=[ident for ident in made if ident not in other],
        varies=[ident for ident in other if made[ident] != again[ident]],
        differs={i: _difference(recorded[i], made[i]) for i in other if made[i] == again[i]},
        skipped=skipped,
    )


def _difference(recorded: CallOutput, now: CallOutput) -> tuple[str, str]:
    if recorded.text != now.text:
        return recorded.text, now.text
    return " ".join(recorded.artefacts), " ".join(now.artefacts)


def _run(
    out: Path, events: Sequence[Event], calls: Mapping[str, Event], ran: Container[str]
) -> tuple[dict[str, CallOutput], list[str]]:
    first = first_of(events, out, ("toolsets", "box_mb", "files"))
    names = [name for name in first["toolsets"] if name in IN_TASKS]
    toolbox = make_toolbox(names, AgentFolder(out).read_inputs(first), first["box_mb"])
    made: dict[str, CallOutput] = {}
    skipped: list[str] = []
    try:
        in_background(toolbox.reset(Problem("replay", "tools", (), {}, "replay"))).result()
        for ident, output in _each(toolbox, events, calls, ran):
            if output is None:
                skipped.append(ident)
            else:
                made[ident] = output
    finally:
        in_background(toolbox.close()).result()
    return made, skipped


def _each(
    toolbox: Toolbox, events: Sequence[Event], calls: Mapping[str, Event], ran: Container[str]
) -> Iterator[tuple[str, CallOutput | None]]:
    for event in events:
        if event["event"] == EventKind.COMPACTION:
            keep_earlier(toolbox, events, (*event["dropped"], *event["shortened"]))
        if event["event"] != EventKind.RESULT or event["id"] not in ran:
            continue
        call = ToolCall(event["tool"], calls[event["id"]]["arguments"])
        if toolbox.spec(call.name) is None:
            yield event["id"], None
            continue
        result = in_background(toolbox.run_call(call)).result()
        yield event["id"], CallOutput(result.text, tuple(sha256(a.data) for a in result.artefacts))
