"""A run's turns asked for once more: does the same model say what the log says?

Each turn is asked for in its place, behind the turns and results that the log holds and with the
run's own seed and sampling, so that one that differs does not change the next. No tool runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from qwq.agent.approvals import approvals_of
from qwq.agent.command import first_of, policy_of, settings_of
from qwq.agent.events import EVENTS, Event, EventKind, EventLog, read_run
from qwq.agent.folder import AgentFolder
from qwq.agent.recorded import RecordedTools
from qwq.agent.run import AgentLimits, episodes
from qwq.agent.tape import Tape
from qwq.agent.turns import RecordedPolicy, behind, kind_of, turn_fields, turn_of
from qwq.envs.toolbox import NO_LIMIT, Effect, Toolbox, ToolSpec
from qwq.errors import DataError, InfraError
from qwq.rollout.policy import NextRequest, Policy, TurnRequest
from qwq.types import Turn

AFTER_LOSS = "a replay keeps nothing and the run is as it was: replay again when the server is back"
SAID = ("thinking", "answer", "calls")  # fields of a turn


@dataclass(frozen=True, slots=True)
class TurnDifference:
    """What a turn said (thoughts, words, calls) where it came out differently. `token` is the first
    token that differs, counted from 0; None where the log or the model gives no tokens, and where
    the same tokens ended for another reason.
    """

    recorded: str
    now: str
    token: int | None

    def to_dict(self) -> dict[str, Any]:
        return {"recorded": self.recorded, "now": self.now, "token": self.token}


@dataclass(frozen=True, slots=True)
class ModelReplay:
    """`equal` and `differs` name turns by their numbers, from 1; summaries of turns that left the
    context are numbered by themselves.
    """

    equal: Sequence[int] = ()
    differs: Mapping[int, TurnDifference] = field(default_factory=dict)
    equal_summaries: Sequence[int] = ()
    differing_summaries: Mapping[int, TurnDifference] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        return not self.differs and not self.differing_summaries

    def to_dict(self) -> dict[str, Any]:
        made = _compared(self.equal, self.differs)
        if self.equal_summaries or self.differing_summaries:
            made["summaries"] = _compared(self.equal_summaries, self.differing_summaries)
        return made


def replay_model(out: Path, *, policy: Policy | None = None, endpoint: str | None = None) -> ModelReplay:
    """Ask for every turn of the run in `out` again, of `policy`, by default of the run's own model;
    `endpoint` is its server where that is another than before.

    DataError for a log that is damaged or holds no turn, InfraError for a server that is gone.
    """
    events = read_run(out)
    num_turns = sum(e["event"] in (EventKind.MODEL_TURN, EventKind.SUMMARY) for e in events)
    if not num_turns:
        raise DataError(f"{out}: the run was stopped before the model's first turn: there is nothing to replay")
    first = events[0]
    settings = settings_of(first)
    limits, approvals = AgentLimits(**first["limits"]), approvals_of(first["approvals"], f"{out / EVENTS}")
    tape = Tape(_ReadLog(out, events))
    tools = RecordedTools(
        _LoggedTools(events), tape, AgentFolder(out), approvals, check=lambda *_: "", max_turns=limits.model_calls
    )
    policy_here = policy or policy_of(first_of(events, out), endpoint=endpoint, after_loss=AFTER_LOSS)
    asked = _AskedAgain(policy_here, tape, num_turns)
    try:
        for _ in episodes(asked, first["task"], first["tools"], tools, limits, settings):
            pass  # the policy stops behind the last turn, so none ends
    finally:
        if policy is None:
            asked.close()
    turns, summaries = asked.seen[EventKind.MODEL_TURN], asked.seen[EventKind.SUMMARY]
    return ModelReplay(turns.equal, turns.differs, summaries.equal, summaries.differs)


class _ReadLog(EventLog):
    """A log that is read and not written: not even its file is opened."""

    def __init__(self, folder: Path, events: list[Event]) -> None:
        self.folder, self.events = folder, events

    def append(self, what: EventKind, /, *, durable: bool = False, **fields: Any) -> Event:
        raise DataError(f"{self.folder}: event {len(self.events)}, {what.value}, is missing before the last turn")

    def close(self) -> None: ...


class _LoggedTools(Toolbox):
    """The tools that a run had. The log answers their calls."""

    def __init__(self, events: Sequence[Event]) -> None:
        super().__init__([])
        effects = {e["tool"]: Effect(e["effect"]) for e in events if e["event"] == EventKind.TOOL_STARTED}
        named = {schema["function"]["name"]: schema for schema in events[0]["tools"]}
        self._specs = {n: ToolSpec(schema, effects.get(n, Effect.NONE), NO_LIMIT) for n, schema in named.items()}

    def specs(self) -> dict[str, ToolSpec]:
        return self._specs


@dataclass(slots=True)
class _Seen:
    """What was compared of one kind of event."""

    equal: list[int] = field(default_factory=list)
    differs: dict[int, TurnDifference] = field(default_factory=dict)


class _AskedAgain(RecordedPolicy):
    """Each recorded turn, once the policy has been asked for it and the two have been compared."""

    def __init__(self, policy: Policy, tape: Tape, num_turns: int) -> None:
        super().__init__(policy, tape)
        self.left = num_turns
        self.seen = {EventKind.MODEL_TURN: _Seen(), EventKind.SUMMARY: _Seen()}

    def generate(self, next_request: NextRequest, concurrency: int | None = None) -> Iterator[tuple[TurnRequest, Turn]]:
        while (request := next_request()) is not None:
            event = self._tape.peek(kind_of(request))
            if event is None:
                raise DataError(
                    f"{self._tape.log.folder}: a turn is missing from the log: put the file back from a copy"
                )
            ((_, turn),) = self._policy.generate(behind(request), 1)
            if turn.failure:
                raise InfraError(turn.failure)
            self._compare(self.seen[kind_of(request)], event, turn)
            self.left -= 1
            if not self.left:
                return
            yield request, turn_of(event)

    @staticmethod
    def _compare(seen: _Seen, event: Event, turn: Turn) -> None:
        number = event["turn"] if event["event"] == EventKind.MODEL_TURN else len(seen.equal) + len(seen.differs) + 1
        now = turn_fields(turn)
        exact = "ids" in event and "ids" in now
        compared = ("ids", "stop_reason") if exact else (*SAID, "text", "stop_reason")
        if all(event[key] == now[key] for key in compared):
            seen.equal.append(number)
            return
        token = None
        if exact:
            pairs = zip_longest(event["ids"], now["ids"])
            token = next((n for n, (was, new) in enumerate(pairs) if was != new), None)
        seen.differs[number] = TurnDifference(_said(event), _said(now), token)


def _compared(equal: Sequence[int], differs: Mapping[int, TurnDifference]) -> dict[str, Any]:
    return {"equal": list(equal), "differs": {str(n): d.to_dict() for n, d in differs.items()}}


def _said(fields: Mapping[str, Any]) -> str:
    calls = [c if isinstance(c, str) else json.dumps(c, ensure_ascii=False) for c in fields["calls"]]
    return "\n".join(part for part in (fields["thinking"], fields["answer"], *calls) if part)
