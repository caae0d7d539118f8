"""One run of the agent: a task, a policy, a toolbox, and a folder that tells all that happened.

    with Workspace(files={"sales.csv": data}) as desk:
        box = Toolbox(make_toolsets(["python"]), desk)
        outcome = run_agent(policy, "What was the best month?", toolbox=box, out=Path("runs/x"))
    print(outcome.answer, outcome.stop_reason)

The same call on a folder that holds a run resumes it: after a kill, or once a person has
decided what a call waits for (`decide_calls`).
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from qwq.agent.approvals import NO_RULES, Approvals
from qwq.agent.events import FORMAT, Event, EventKind, EventLog, sha256
from qwq.agent.folder import AgentFolder, resume_command
from qwq.agent.recorded import AnswerCheck, RecordedTools, decide
from qwq.agent.report import write_report
from qwq.agent.tape import Tape
from qwq.agent.turns import RecordedPolicy
from qwq.common.files import write_atomic
from qwq.engine.sampler import SamplingParams
from qwq.engine.thinking import LOOP_TOKENS
from qwq.envs.base import in_background
from qwq.envs.toolbox import Toolbox
from qwq.errors import ConfigError, InfraError, nearest
from qwq.rollout.budget import EpisodeLimits
from qwq.rollout.episode import Episode, EpisodeJob, play
from qwq.rollout.policy import Policy
from qwq.text.response import parse_answer
from qwq.types import Message, Problem, StopReason

MAX_LOOP = 5  # turns of calls that bring nothing new
TELL_AT = 0.8  # of a budget
BUDGETS = ("model_calls", "tool_calls", "parallel", "tokens", "seconds")
SYSTEM = (
    "You solve the user's task with the tools on offer. Compute with tools instead of guessing, look at what comes "
    "back, and mend what failed. Give numbers only as tools or the task gave them. When you are done, answer in "
    "plain text without a call."
)
ANSWERED, NOT_ANSWERED, WAITS = 0, 1, 75


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """Budgets of a run; None: no limit. `tokens` are sampled ones, `seconds` those of its
    processes; `per_tool` counts the calls of single tools.
    """

    model_calls: int = 20
    tool_calls: int = 50
    parallel: int = 8
    tokens: int | None = None
    seconds: float | None = None
    per_tool: Mapping[str, int] = field(default_factory=dict)

    def episode(self) -> EpisodeLimits:
        return EpisodeLimits(
            max_calls=self.tool_calls, max_parallel=self.parallel, max_turns=self.model_calls, max_sampled=self.tokens,
            max_seconds=self.seconds, per_tool=self.per_tool, max_loop=MAX_LOOP, compact=True, last_turn=True,
            tell_at=TELL_AT,
        )  # fmt: skip


def read_limits(pairs: Sequence[str]) -> AgentLimits:
    """Limits of words such as model_calls=8, seconds=60 or, for one tool, python=3. ConfigError for
    what is no number; whether there is such a tool is known once the tools are open.
    """
    chosen: dict[str, Any] = {}
    per_tool: dict[str, int] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            value = float(text)
        except ValueError:
            raise ConfigError(f"--budget {pair}: write NAME=NUMBER, such as model_calls=8") from None
        whole = name != "seconds"
        if not equals or not 0 < value < math.inf or (whole and value != int(value)):
            raise ConfigError(f"--budget {pair}: give {'a whole number' if whole else 'a number'} above 0")
        if name in chosen or name in per_tool:
            raise ConfigError(f"--budget {pair}: {name} has a budget already: give each one once")
        if name in BUDGETS:
            chosen[name] = int(value) if whole else value
        else:
            per_tool[name] = int(value)
    return AgentLimits(**chosen, per_tool=per_tool)


@dataclass(frozen=True, slots=True)
class AgentOutcome:
    """How a run ended. `answer` is "" without one; `budget` names the limit that took the tools
    from its last turn; `waiting` are calls that wait for a person; `unsupported` counts the numbers
    of the answer that no executed call gave, None where nothing has looked.
    """

    answer: str
    stop_reason: StopReason
    unsupported: int | None = None
    budget: str = ""
    waiting: tuple[str, ...] = ()
    model_calls: int = 0
    tool_calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    failure: str = ""
    note: str = ""  # why there is no answer, or what went wrong and cost none

    @property
    def exit_status(self) -> int:
        """0 answered, 1 not answered or unsupported numbers, 70 our machinery failed, 75 waits."""
        if self.failure:
            return InfraError.exit_status
        if self.waiting:
            return WAITS
        return ANSWERED if self.answer and not self.unsupported else NOT_ANSWERED

    def to_dict(self) -> dict[str, Any]:
        made = asdict(self) | {"stop_reason": self.stop_reason.value, "waiting": list(self.waiting)}
        return made if self.note else {k: v for k, v in made.items() if k != "note"}


class CompactBy(StrEnum):
    """How turns leave a full context: summed up by the model, or by the rule alone."""

    SUMMARY = "summary"
    RULE = "rule"


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How the model is asked. `system` is what it is told first, "" for nothing. `about` goes into
    the first event beside what is known here: what a later command needs to resume. `files` are
    those of the workspace; they are kept in `inputs/`. A run that resumes compacts as it began to.
    """

    params: SamplingParams = SamplingParams(max_new_tokens=8192)
    seed: int = 0
    thinking_budget: int | None = None
    system: str = SYSTEM
    about: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    compaction: CompactBy = CompactBy.SUMMARY


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who follows a run: `event` of every event, `text` of a turn's text while it is written."""

    event: Callable[[Event], None] | None = None
    text: Callable[[Episode, str], None] | None = None


NO_BUDGETS = AgentLimits()
PLAIN = AgentSettings()
NOBODY = Watcher()


def run_agent(
    policy: Policy,
    task: str,
    *,
    toolbox: Toolbox,
    out: Path,
    limits: AgentLimits = NO_BUDGETS,
    approvals: Approvals = NO_RULES,
    settings: AgentSettings = PLAIN,
    check: AnswerCheck | None = None,
    watcher: Watcher = NOBODY,
    log: EventLog | None = None,
) -> AgentOutcome:
    """Play the run in the folder `out`, from its start or from where it was left.

    `check` looks at the answer once. `log`: the open log, where the caller has one. The toolbox is
    opened here; it and the log are closed at the end.

    Raises ConfigError where another process runs it or it holds another run, DataError for a
    damaged log, InfraError for a server that is gone; the run can then resume.
    """
    folder = AgentFolder(out)
    try:
        in_background(toolbox.reset(Problem("agent", "tools", (), {}, "agent"))).result()
        _check_tools(policy, toolbox, limits)
        begun = log is None
        log = log or EventLog(out, heard=watcher.event, otherwise=", or give another --out")
        setup = _setup(policy, task, toolbox, limits, approvals, settings)
        _begin(log, setup, folder, settings, resumed=not begun)
        settings = replace(settings, compaction=compaction_of(log.events[0]))
        tape = Tape(log)
        tools = RecordedTools(toolbox, tape, folder, approvals, check=check, max_turns=limits.model_calls)
        (episode,) = episodes(RecordedPolicy(policy, tape), task, setup["tools"], tools, limits, settings, watcher.text)
        outcome = _kept_answer(_outcome(episode, tools, limits), tools)
        if not outcome.failure and not outcome.waiting:
            outcome = _finish(outcome, tools, folder)
        write_answer(folder, outcome)
        return outcome
    finally:
        in_background(toolbox.close()).result()
        if log is not None:
            log.close()


def episodes(
    policy: RecordedPolicy, task: str, schemas: Sequence[Mapping[str, Any]], tools: RecordedTools, limits: AgentLimits,
    settings: AgentSettings, text: Callable[[Episode, str], None] | None = None,
) -> Iterator[Episode]:  # fmt: skip
    """The run's one episode, once it has ended. `schemas` are those of the tools."""
    messages = (*([Message("system", settings.system)] if settings.system else []), Message("user", task))
    problem = Problem("agent", "tools", messages, {}, "agent", tuple(schemas))
    job = EpisodeJob(problem, seed=settings.seed, thinking_budget=settings.thinking_budget, environment=tools)
    return play(
        policy, iter([job]), settings.params, limits=limits.episode(), concurrency=1, loop_tokens=LOOP_TOKENS,
        hooks=tools.hooks(text, summaries=settings.compaction is CompactBy.SUMMARY),
    )  # fmt: skip


def compaction_of(first: Event) -> CompactBy:
    """How a run compacts, by its first event; older logs do not name it."""
    return CompactBy(first.get("compaction", CompactBy.RULE))


def write_answer(folder: AgentFolder, outcome: AgentOutcome) -> None:
    text = json.dumps(outcome.to_dict(), ensure_ascii=False, indent=1) + "\n"
    write_atomic(folder.answer, text.encode(errors="backslashreplace"))  # half a surrogate pair as JSON escapes it


def _setup(
    policy: Policy, task: str, toolbox: Toolbox, limits: AgentLimits, approvals: Approvals, settings: AgentSettings
) -> dict[str, Any]:
    """The fields of the first event."""
    return {
        "format": FORMAT, "task": task, "system": settings.system, "model": policy.name, "exact": policy.token_exact,
        "tools": [spec.schema for spec in toolbox.specs().values()], "limits": asdict(limits),
        "sampling": asdict(settings.params), "seed": settings.seed, "thinking_budget": settings.thinking_budget,
        "compaction": settings.compaction.value,
        "approvals": approvals.to_dict(), "files": {name: len(data) for name, data in settings.files.items()},
        "sha256": {name: sha256(data) for name, data in settings.files.items()},
        **settings.about, "versions": _versions(),
    }  # fmt: skip


def _check_tools(policy: Policy, toolbox: Toolbox, limits: AgentLimits) -> None:
    tools = list(toolbox.specs())
    for name in limits.per_tool:
        if name not in tools:
            raise ConfigError(
                f"--budget {name}=...: no budget and no tool {name!r}: {nearest(name, [*BUDGETS, *tools])}"
            )
    if not policy.native_tools:
        raise ConfigError(
            f"the chat template of {policy.name} writes no tools into its prompt: take a model whose template does, or "
            "serve it with one that does"
        )


def _begin(
    log: EventLog, setup: Mapping[str, Any], folder: AgentFolder, settings: AgentSettings, *, resumed: bool
) -> None:
    """Write the first event, or compare it with what the log holds. `resumed`: the caller has the
    log of the run and resumes it.
    """
    if not log.events:
        folder.keep_inputs(settings.files)
        log.append(EventKind.RUN, **setup, durable=True)
        return
    first = log.events[0]
    for key in ("task", "system", "exact", "tools", "limits", "sampling", "seed"):
        if json.loads(json.dumps(setup[key])) != first.get(key):
            both = f"another {key} ({str(first.get(key))[:100]}, now {str(setup[key])[:100]})"
            if resumed:
                raise ConfigError(f"{log.folder} began with {both}: resume it with the same")
            raise ConfigError(
                f"{log.folder} holds a run with {both}: continue it with `{resume_command(log.folder)}`, or give "
                "another --out"
            )


def _outcome(episode: Episode, tools: RecordedTools, limits: AgentLimits) -> AgentOutcome:
    assert episode.stop_reason is not None
    last = episode.turns[-1] if episode.turns else None
    ended = episode.stop_reason is StopReason.END
    budgets = [e for e in tools.tape.log.events if e["event"] == EventKind.BUDGET and e["last"]]
    forced = "model_calls" if limits.model_calls == 1 else "tool_calls"  # where the model was not told before
    answer = last.parts.final if last is not None and ended else ""
    return AgentOutcome(
        answer=answer,
        stop_reason=episode.forced or episode.stop_reason if ended else episode.stop_reason,
        budget=budgets[-1]["about"] if budgets else (forced if episode.forced else ""),
        waiting=tuple(tools.waiting),
        model_calls=episode.num_model_calls,
        tool_calls=tools.num_calls,
        tokens=sum(turn.num_tokens for turn in (*episode.turns, *episode.summaries)),
        seconds=tools.tape.seconds,
        failure=episode.failure,
        note="" if answer or episode.failure else _without_answer(episode),
    )


def _without_answer(episode: Episode) -> str:
    """Why an episode ended without an answer, where its stop reason does not say so."""
    if episode.stop_reason is StopReason.END:
        return "the last turn of the model has no text"
    if episode.stop_reason is StopReason.ABORT:
        return "the server ended the last turn itself, as content filters do"
    if episode.forced is None or not episode.turns:
        return ""
    last = episode.turns[-1]
    calls = last.parts.calls_in_order or parse_answer(last.answer).calls_in_order
    return "the last turn, which had no tools, was a call" if calls else ""


def _kept_answer(outcome: AgentOutcome, tools: RecordedTools) -> AgentOutcome:
    """The answer from before its check where no other came: the server failed, or a turn ended
    without one. What the check found stays marked in the report.
    """
    if outcome.waiting or outcome.answer or not tools.answer_before_check:
        return outcome
    note = f"the turn that should mend the answer failed: {outcome.failure}" if outcome.failure else ""
    return replace(outcome, answer=tools.answer_before_check, stop_reason=StopReason.END, failure="", note=note)


def _finish(outcome: AgentOutcome, tools: RecordedTools, folder: AgentFolder) -> AgentOutcome:
    """Keep the workspace's files and the report, and note the end."""
    desk = tools.toolbox.workspace
    files: dict[str, Any] = {}
    if desk is not None and desk.is_used:
        diff = desk.diff()
        now = desk.snapshot()
        folder.keep_workspace({name: now[name] for name in (*diff.added, *diff.changed)})
        files = {
            "added": {n: _state(s) for n, s in diff.added.items()},
            "changed": {n: [_state(a), _state(b)] for n, (a, b) in diff.changed.items()},
            "removed": {n: _state(s) for n, s in diff.removed.items()},
        }
    tools.tape.put(EventKind.FINISH, **outcome.to_dict(), files=files, durable=True)
    return report(outcome, folder)


def report(outcome: AgentOutcome, folder: AgentFolder) -> AgentOutcome:
    """Write the report of a run that has ended, and count what nothing supports."""
    return replace(outcome, unsupported=write_report(folder.path).unsupported)


def finished(events: Sequence[Event]) -> AgentOutcome | None:
    """How a run ended, by its last event; None while it can resume."""
    if not events or events[-1]["event"] != EventKind.FINISH:
        return None
    known = {f.name: events[-1][f.name] for f in fields(AgentOutcome) if f.name in events[-1]}
    return AgentOutcome(**known | {"stop_reason": StopReason(known["stop_reason"]), "waiting": ()})


def _state(state: Any) -> dict[str, Any]:
    return {"bytes": state.size, "sha256": state.sha256}


def _versions() -> dict[str, str]:
    return {"qwq": metadata.version("qwq"), "python": platform.python_version()}


def decide_calls(out: Path, approved: Sequence[str], denied: Mapping[str, str], log: EventLog) -> None:
    """Note a person's decisions on calls that wait. ConfigError for a call that does not wait."""
    asked = [e for e in log.events if e["event"] == EventKind.APPROVAL and e["decision"] == "ask"]
    decided = Tape(log).decisions()
    waiting = [e["id"] for e in asked if e["id"] not in decided]
    for ident in (*approved, *denied):
        if ident not in waiting:
            shown = f"waiting: {', '.join(waiting)}" if waiting else "none waits"
            raise ConfigError(f"{out}: call {ident!r} does not wait for a decision: {shown}")
    tape = Tape(log)
    for ident in approved:
        decide(tape, ident, True, "")
    for ident, reason in denied.items():
        decide(tape, ident, False, reason)
