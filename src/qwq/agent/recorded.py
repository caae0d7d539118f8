"""Tools whose calls are recorded: events around each call, approvals, at most one external effect.

In the recorded part of a run a result is served from the tape. Calls in the jail run again
meanwhile, so that the session is what it was; an external effect never does. A call that had
started when the process ended, and whose effect is external, has an unknown outcome, and the model
is told so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from qwq.agent.approvals import Approvals, Ruling, Then
from qwq.agent.events import Event, EventKind, sha256
from qwq.agent.folder import AgentFolder
from qwq.agent.tape import Tape
from qwq.agent.turns import turn_fields
from qwq.envs.arguments import fault_in
from qwq.envs.base import Environment, Parked
from qwq.envs.toolbox import IN_TASKS, Effect, ResultKind, Toolbox, ToolResult, ToolSpec
from qwq.rollout.answers import AnswerPlan
from qwq.rollout.budget import Note
from qwq.rollout.compact import Compaction
from qwq.rollout.episode import Episode, Hooks
from qwq.rollout.summary import Summary
from qwq.types import Message, ParsedResponse, Problem, ToolCall, Turn

# What the model is told of its answer, "" where nothing is wrong with it.
AnswerCheck = Callable[[str, Sequence[Event]], str]


class RecordedTools(Environment):
    """`toolbox` with its calls on `tape`. `check` looks at the answer, once, and its text makes one
    more turn. `waiting` are the calls that a parked run waits for.
    """

    own = True

    def __init__(
        self, toolbox: Toolbox, tape: Tape, folder: AgentFolder, approvals: Approvals, *,
        check: AnswerCheck | None = None, max_turns: int | None = None,
    ) -> None:  # fmt: skip
        self.toolbox, self.tape, self.folder, self.approvals = toolbox, tape, folder, approvals
        self.check, self.max_turns = check, max_turns
        self.waiting: list[str] = []
        self.tainted = False
        self.num_turns = self.num_summaries = self.num_calls = 0
        self._pending: list[str] = []  # ids of the calls that `step` runs next
        self._checked = False
        self.answer_before_check = ""  # what the model was asked to mend
        self._specs: dict[str, ToolSpec] = {}
        self._jailed: set[str] = set()  # tools whose calls are cells of the session

    # -- what the loop asks of an environment ------------------------------------------------------

    async def reset(self, problem: Problem) -> None:
        self._specs = self.toolbox.specs()  # the caller has opened the toolbox
        jailed = [group for group in self.toolbox.toolsets if group.name in IN_TASKS]
        self._jailed = {spec.name for group in jailed for spec in group.specs()}

    def schemas(self) -> tuple[Any, ...]:
        return tuple(spec.schema for spec in self._specs.values())

    def earlier_place(self, ident: str) -> str:
        return self.toolbox.earlier_place(ident)

    def gave_nothing(self, call: ToolCall, text: str) -> bool:
        spec = self._specs.get(call.name)
        return spec is not None and spec.effect is Effect.NONE and super().gave_nothing(call, text)

    async def step(self, calls: Sequence[ToolCall]) -> list[Message]:
        ids, self._pending = self._pending, []
        denied = await self._decide(ids, calls)
        made = list(zip(ids, calls, strict=True))
        specs = [self._specs.get(call.name) for call in calls]
        if len(calls) > 1 and not denied and all(s is not None and s.effect is Effect.NONE for s in specs):
            texts = await self._together(made)
        else:
            texts = [await self._one(ident, call, denied.get(ident)) for ident, call in made]
        return [Message("tool", text) for text in texts]

    async def next_messages(self, turn: ParsedResponse) -> Sequence[Message]:
        """What is wrong with the answer, once, while a further turn may follow."""
        if self.check is None or self._checked or self.num_turns + self.num_summaries == self.max_turns:
            return ()
        self._checked = True
        if self.tape.live:
            text = await asyncio.to_thread(self.check, turn.final, self.tape.log.events)
            if not text:
                return ()
            self.tape.put(EventKind.CHECK, text=text)
        else:
            event = self.tape.peek(EventKind.CHECK)
            if event is None:
                return ()
            text = self.tape.put(EventKind.CHECK)["text"]
        self.answer_before_check = turn.final
        return [Message("user", text)]

    async def close(self) -> None:
        """The caller closes the toolbox, once it has read the workspace."""

    # -- what the loop tells -----------------------------------------------------------------------

    def hooks(self, text: Callable[[Episode, str], None] | None = None, *, summaries: bool = False) -> Hooks:
        """What `play` calls. The log's clock counts the seconds, so that a resumed run decides the
        same. `summaries`: the model sums up turns that leave its context.
        """
        return Hooks(
            turn=self._turn, plan=self._plan, note=self._note, text=text, clock=lambda: self.tape.seconds,
            compacted=partial(note_compaction, self), summary=partial(note_summary, self) if summaries else None,
        )  # fmt: skip

    def _turn(self, episode: Episode, turn: Turn) -> None:
        self.num_turns += 1
        self.tape.put(EventKind.MODEL_TURN, turn=self.num_turns, **turn_fields(turn))

    def _plan(self, episode: Episode, plan: AnswerPlan) -> None:
        """Number the calls of a turn; those that do not run have their results already."""
        for call, answer in zip(plan.attempts, plan.answers, strict=True):
            self.num_calls += 1
            ident = f"call-{self.num_calls}"
            tool = "" if isinstance(call, str) else call.name
            what: dict[str, Any] = {"malformed": call} if isinstance(call, str) else {"arguments": dict(call.arguments)}
            self.tape.put(EventKind.CALL, id=ident, turn=self.num_turns, tool=tool, **what)
            if answer is None:
                self._pending.append(ident)
            else:
                kind = ResultKind.ERROR if isinstance(call, str) else ResultKind.LIMIT
                self._result(ident, tool, ToolResult(answer, kind))

    def _note(self, episode: Episode, note: Note) -> None:
        self.tape.put(
            EventKind.BUDGET, about=note.about, used=note.used, limit=note.limit, last=note.last, text=note.text
        )

    # -- approvals ---------------------------------------------------------------------------------

    async def _decide(self, ids: Sequence[str], calls: Sequence[ToolCall]) -> dict[str, str]:
        """Reasons of the calls that are denied. Parked where one waits for a person; none of the
        turn's calls has run then.
        """
        denied: dict[str, str] = {}
        waiting: list[str] = []
        for ident, call in zip(ids, calls, strict=True):
            spec = self._specs.get(call.name)
            if spec is None:
                continue  # answered with what is wrong with it; it does not run
            ruling = self.approvals.ruling(call, spec, tainted=self.tainted)
            recorded = self.tape.peek(EventKind.APPROVAL, ident)
            if recorded is None and (ruling is None or not self.tape.live):
                continue  # in the recorded part, what was decided then counts
            if fault_in(call.arguments, spec.checked):
                continue
            event = recorded or {"decision": ruling.then.value, "reason": ruling.reason} if ruling else recorded
            assert event is not None
            self.tape.put(
                EventKind.APPROVAL, id=ident, tool=call.name, arguments=dict(call.arguments),
                decision=event["decision"], reason=event["reason"], durable=event["decision"] == Then.ASK.value,
            )  # fmt: skip
            verdict = await self._verdict(ident, call, Ruling(Then(event["decision"]), event["reason"]))
            if verdict is None:
                waiting.append(ident)
            elif not verdict[0]:
                denied[ident] = verdict[1]
        if waiting:
            self.waiting = waiting
            raise Parked
        return denied

    async def _verdict(self, ident: str, call: ToolCall, ruling: Ruling) -> tuple[bool, str] | None:
        """Whether the call may run, and the reason; None where a person has not said yet."""
        if ruling.then is not Then.ASK:
            return ruling.then is Then.ALLOW, ruling.reason
        decided = self.tape.decisions().get(ident)
        if decided is not None:
            return decided["decision"] == "approved", decided.get("reason", "")
        if self.approvals.ask is None:
            return None
        good, reason = await self.approvals.ask(ident, call, ruling)
        decide(self.tape, ident, good, reason)
        return good, reason

    # -- calls -------------------------------------------------------------------------------------

    async def _one(self, ident: str, call: ToolCall, denied: str | None) -> str:
        if denied is not None:
            why = f": {denied}" if denied else ""
            return self._result(ident, call.name, ToolResult(f"error: not allowed{why}", ResultKind.REFUSED))
        had_started = self._start(ident, call)
        recorded = self.tape.peek(EventKind.RESULT, ident)
        spec = self._specs.get(call.name)
        if recorded is not None:
            return await self._again(recorded, call, spec)
        external = spec is not None and spec.effect is Effect.EXTERNAL
        if had_started and external and spec is not None and not spec.idempotent:
            text = (
                f"error: the run was stopped while {call.name} ran: its outcome is unknown. "
                "Look whether it happened before you repeat it"
            )
            return self._result(ident, call.name, ToolResult(text, ResultKind.UNKNOWN), durable=True)
        return self._result(ident, call.name, await self.toolbox.run_call(call), durable=external)

    async def _together(self, made: Sequence[tuple[str, ToolCall]]) -> list[str]:
        """Calls that change nothing, together; their events are in the order of the calls."""
        for ident, call in made:
            self._start(ident, call)
        recorded = [self.tape.peek(EventKind.RESULT, ident) for ident, _ in made]
        if any(recorded):
            return [await self._one_of_many(ident, call) for ident, call in made]
        results = await asyncio.gather(*(self.toolbox.run_call(call) for _, call in made))
        return [self._result(i, call.name, result) for (i, call), result in zip(made, results, strict=True)]

    async def _one_of_many(self, ident: str, call: ToolCall) -> str:
        recorded = self.tape.peek(EventKind.RESULT, ident)
        if recorded is not None:
            return await self._again(recorded, call, self._specs.get(call.name))
        return self._result(ident, call.name, await self.toolbox.run_call(call))

    def _start(self, ident: str, call: ToolCall) -> bool:
        """Note that the call starts; whether an earlier process had noted it."""
        spec = self._specs.get(call.name)
        effect = Effect.NONE if spec is None else spec.effect
        recorded = not self.tape.live
        self.tape.put(
            EventKind.TOOL_STARTED, id=ident, tool=call.name, effect=effect.value, durable=effect is Effect.EXTERNAL
        )
        return recorded

    async def _again(self, recorded: Event, call: ToolCall, spec: ToolSpec | None) -> str:
        """The recorded result. What ran in the jail runs again: the session is rebuilt so."""
        self.tape.put(EventKind.RESULT, id=recorded["id"])
        self._taint(spec)
        if call.name in self._jailed:
            self.tape.rebuilt.append(recorded["id"])
            result = await self.toolbox.run_call(call)
            if sha256(result.text) != recorded["sha256"]:
                self.tape.changed.append(recorded["id"])
        return _read_by_model(recorded)

    def _result(self, ident: str, tool: str, result: ToolResult, *, durable: bool = False) -> str:
        """Note a result; the text that the model reads."""
        if self.tape.peek(EventKind.RESULT, ident) is not None:
            return _read_by_model(self.tape.put(EventKind.RESULT, id=ident))
        self._taint(self._specs.get(tool))
        note: dict[str, str] = {}
        if self.tape.changed and tool in self._specs:
            note = {"note": _rebuilt(self.tape.changed)}
            self.tape.changed = []
        event = self.tape.put(
            EventKind.RESULT,
            id=ident,
            tool=tool,
            kind=result.kind.value,
            text=result.text,
            sha256=sha256(result.text),
            artefacts=[self.folder.keep_artefact(ident, artefact) for artefact in result.artefacts],
            seconds=round(result.seconds, 4),
            whole=None if result.whole is None else self.folder.keep_output(ident, result.whole),
            detail=dict(result.detail),
            **note,
            durable=durable,
        )
        return _read_by_model(event)

    def _taint(self, spec: ToolSpec | None) -> None:
        """The run has read other people's text: what such a tool gave, or the files that it was
        given.
        """
        desk = self.toolbox.workspace
        reads_files = spec is not None and spec.effect is Effect.WORKSPACE and desk is not None and desk.has_files
        self.tainted = self.tainted or reads_files or (spec is not None and spec.untrusted)


def _read_by_model(result: Event) -> str:
    return f"{result['text']}\n[{result['note']}]" if "note" in result else str(result["text"])


def _rebuilt(changed: Sequence[str]) -> str:
    return f"the session was rebuilt by running its calls again; {', '.join(changed)} gave something else than before"


def note_compaction(tools: RecordedTools, episode: Episode, made: Compaction, context: int) -> None:
    """Results that leave a full context are kept in the workspace, where a tool can read there."""
    keep_earlier(tools.toolbox, tools.tape.log.events, (*made.dropped, *made.shortened))
    tools.tape.put(
        EventKind.COMPACTION, shortened=list(made.shortened), dropped=list(made.dropped),
        dropped_turns=made.dropped_turns, thoughts=made.thoughts, tokens=made.tokens, context=context,
        text=made.text,
    )  # fmt: skip


def note_summary(tools: RecordedTools, episode: Episode, turn: Turn, turns: int, outcome: Summary | str) -> None:
    """What the model wrote of turns that leave the context, or what is wrong with it."""
    tools.num_summaries += 1
    said = outcome.to_dict() if isinstance(outcome, Summary) else {"fault": outcome}
    tools.tape.put(EventKind.SUMMARY, turn=tools.num_turns, turns=turns, **said, **turn_fields(turn))


def keep_earlier(toolbox: Toolbox, events: Sequence[Event], ids: Sequence[str]) -> None:
    """Put the texts of results that leave the context into the workspace."""
    toolbox.keep_earlier({e["id"]: e["text"] for e in events if e["event"] == EventKind.RESULT and e["id"] in ids})


def decide(tape: Tape, ident: str, good: bool, reason: str) -> Event:
    """Note what a person decided of a call that waits."""
    return tape.log.append(
        EventKind.APPROVAL,
        id=ident,
        decision="approved" if good else "denied",
        reason=reason,
        by="person",
        durable=True,
    )
