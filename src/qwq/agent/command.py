"""`qwq agent run` and `resume`: from words and files to a run in its folder."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwq.agent.approvals import NO_RULES, Approvals, approvals_of, read_approvals
from qwq.agent.events import EVENTS, Event, EventKind, EventLog, read_run
from qwq.agent.folder import FILES_BELOW, AgentFolder, resume_command
from qwq.agent.report import correction
from qwq.agent.run import (
    AgentLimits,
    AgentOutcome,
    AgentSettings,
    CompactBy,
    Watcher,
    compaction_of,
    decide_calls,
    finished,
    read_limits,
    report,
    run_agent,
    write_answer,
)
from qwq.agent.show import one_line, summary_line
from qwq.engine.options import MODEL_DEFAULTS, ModelOptions
from qwq.engine.sampler import SamplingParams
from qwq.envs.toolbox import Toolbox, make_toolsets, workspace_for
from qwq.envs.workspace import check_size, missing_readers, read_files, read_folder
from qwq.errors import ConfigError, InfraError, ServerRefuses, UsageError
from qwq.rollout.policies.endpoint import EndpointPolicy
from qwq.rollout.policies.local import open_policy
from qwq.rollout.policy import Policy
from qwq.sandbox import SessionLimits
from qwq.types import StopReason

RUNS = Path("runs/agent")
BOX_MB = SessionLimits().box_mb


@dataclass(frozen=True, slots=True)
class AgentRequest:
    """What `qwq agent run` is request. `model` is a folder or a name; with `endpoint` it is the
    server's name for it, "" for its first.
    """

    task: str
    model: str = ""
    endpoint: str | None = None
    tools: tuple[str, ...] = ("python",)
    data: tuple[Path, ...] = ()
    workspace: Path | None = None
    mcp: Path | None = None
    allow_hosts: tuple[str, ...] = ()
    policy: Path | None = None
    budget: tuple[str, ...] = ()
    out: Path | None = None
    params: SamplingParams = SamplingParams(temperature=0.6, top_p=0.95, top_k=40, max_new_tokens=8192)
    seed: int = 0
    thinking_budget: int | None = None
    compaction: CompactBy = CompactBy.SUMMARY
    box_mb: int = BOX_MB
    engine: ModelOptions = MODEL_DEFAULTS


def start(request: AgentRequest) -> tuple[AgentOutcome, Path]:
    """Begin a run and play it to its end, or until a call waits for a person. Everything that it
    needs is read and checked before the first event.
    """
    out = request.out or RUNS / f"{time.strftime('%Y%m%d-%H%M%S')}-{_slug(request.task)}"
    if (out / EVENTS).is_file() and read_run(out):
        raise ConfigError(f"{out} holds a run: `{resume_command(out)}` continues it, or give another --out")
    if not request.task.strip():
        raise ConfigError("the task is empty: say what is to be done")
    if request.thinking_budget is not None and request.thinking_budget < 0:
        raise ConfigError(f"--thinking-budget is {request.thinking_budget}: give 0 or more tokens, or leave it out")
    approvals = read_approvals(request.policy) if request.policy else NO_RULES
    limits = read_limits(request.budget)
    files = _files(request)
    toolbox = make_toolbox(request.tools, files, request.box_mb, mcp=request.mcp, allow_hosts=request.allow_hosts)
    if {"python", "shell"} & set(request.tools):
        for line in missing_readers(files):
            print(f"note: {line}", file=sys.stderr, flush=True)
    policy = _policy(request.model, request.endpoint, request.params, request.engine)
    about = {
        "endpoint": request.endpoint,
        "source": request.model,
        "toolsets": list(request.tools),
        "mcp": str(request.mcp.resolve()) if request.mcp else None,
        "allow_hosts": list(request.allow_hosts),
        "box_mb": request.box_mb,
        "workspace": str(request.workspace.resolve()) if request.workspace else None,
        "engine": {"dtype": request.engine.dtype, "device": request.engine.device},
    }
    settings = AgentSettings(
        request.params, request.seed, request.thinking_budget, about=about, files=files, compaction=request.compaction
    )
    task = request.task + listing(files)
    return _play(policy, task, toolbox, out, limits, approvals, settings), out


def resume(
    out: Path, *, approved: Sequence[str] = (), denied: Mapping[str, str] | None = None,
    engine: ModelOptions = MODEL_DEFAULTS, endpoint: str | None = None,
) -> AgentOutcome:  # fmt: skip
    """Resume the run in `out`, with a person's decisions on calls that wait. A run that has
    ended is not run again: its answer and its report are written where they are missing.
    """
    events = read_run(out)
    if not events:
        raise ConfigError(f"{out}: the run was stopped before its first event: start it again")
    outcome = finished(events)
    if outcome is not None:
        if approved or denied:
            raise ConfigError(f"{out}: the run has ended, no call waits for a decision")
        outcome = report(outcome, AgentFolder(out))
        write_answer(AgentFolder(out), outcome)
        return outcome
    first = first_of(events, out)
    log = EventLog(out, heard=show_event)
    try:
        decide_calls(out, approved, denied or {}, log)
        policy = policy_of(first, endpoint=endpoint, engine=engine)
        toolbox = toolbox_of(first, out)
    except BaseException:
        log.close()
        raise
    limits, approvals = AgentLimits(**first["limits"]), approvals_of(first["approvals"], f"{out / EVENTS}")
    return _play(policy, first["task"], toolbox, out, limits, approvals, settings_of(first), log)


def _play(
    policy: Policy, task: str, toolbox: Toolbox, out: Path, limits: AgentLimits, approvals: Approvals,
    settings: AgentSettings, log: EventLog | None = None,
) -> AgentOutcome:  # fmt: skip
    try:
        return run_agent(
            policy, task, toolbox=toolbox, out=out, limits=limits, approvals=approvals, settings=settings,
            check=correction, watcher=Watcher(show_event), log=log,
        )  # fmt: skip
    except (InfraError, ServerRefuses) as error:
        events = read_run(out) if (out / EVENTS).is_file() else []
        # A key or an address that was never right is wrong usage; later a run breaks off there.
        started = isinstance(error, InfraError) or any(event["event"] == EventKind.MODEL_TURN for event in events)
        if not events or not started:
            raise
        outcome = _broken_off(events, str(error))
        write_answer(AgentFolder(out), outcome)
        return outcome
    finally:
        policy.close()


def _broken_off(events: Sequence[Event], failure: str) -> AgentOutcome:
    """How far a run came whose server or machinery failed; it can resume."""
    turns = [event for event in events if event["event"] in (EventKind.MODEL_TURN, EventKind.SUMMARY)]
    return AgentOutcome(
        "",
        StopReason.ABORT,
        model_calls=len(turns),
        tool_calls=sum(event["event"] == EventKind.CALL for event in events),
        tokens=sum(turn["tokens"] for turn in turns),
        seconds=events[-1]["s"],
        failure=failure,
    )


STARTED_HERE = ("endpoint", "source", "toolsets", "mcp", "allow_hosts", "box_mb", "files", "engine")


def first_of(events: Sequence[Event], out: Path, keys: Sequence[str] = STARTED_HERE) -> Event:
    """The first event of a run that the command or the page started. UsageError where it lacks one
    of `keys`: a run started from Python does not log its tools and its model.
    """
    for key in keys:
        if key not in events[0]:
            raise UsageError(
                f"{out}: its log does not name {key!r}: continue a run of `run_agent` where it was started"
            )
    return events[0]


def settings_of(first: Event) -> AgentSettings:
    """How a run's model is asked, by its first event."""
    params = SamplingParams(**{**first["sampling"], "logit_bias": ()})
    return AgentSettings(
        params, first["seed"], first["thinking_budget"], first["system"], compaction=compaction_of(first)
    )


def policy_of(
    first: Event, *, endpoint: str | None = None, engine: ModelOptions | None = None, after_loss: str = ""
) -> Policy:
    """The model of a run's first event, by default in the engine as it was; `endpoint` is its
    server where that is another than before. `after_loss`: see `EndpointPolicy`.
    """
    server = endpoint or first["endpoint"]
    engine = engine or ModelOptions(**first["engine"])
    return _policy(first["model"] if server else first["source"], server, settings_of(first).params, engine, after_loss)


def toolbox_of(first: Event, out: Path) -> Toolbox:
    """The toolbox of a run's first event, on a fresh workspace with the run's files."""
    mcp = Path(first["mcp"]) if first["mcp"] else None
    files, hosts = AgentFolder(out).read_inputs(first), first["allow_hosts"]
    return make_toolbox(first["toolsets"], files, first["box_mb"], mcp=mcp, allow_hosts=hosts)


def make_toolbox(
    names: Sequence[str],
    files: Mapping[str, bytes],
    box_mb: int = BOX_MB,
    *,
    mcp: Path | None = None,
    allow_hosts: Sequence[str] = (),
) -> Toolbox:
    """Toolsets on a workspace that holds `files`; closing the toolbox closes both. `mcp`, the file
    of MCP servers, brings their tools, `allow_hosts` brings fetch.
    """
    options: dict[str, Any] = {}
    for name, option, value in (("mcp", "mcp", mcp), ("fetch", "allow_hosts", allow_hosts)):
        if value:
            names = names if name in names else [*names, name]
            options[option] = value
    toolsets = make_toolsets(names, **options)
    return OwnToolbox(toolsets, workspace_for(toolsets, files=files, box_mb=box_mb))


class OwnToolbox(Toolbox):
    """A toolbox that closes its workspace too."""

    async def close(self) -> None:
        await super().close()
        if self.workspace is not None:
            self.workspace.close()


def _policy(
    model: str, endpoint: str | None, params: SamplingParams, engine: ModelOptions, after_loss: str = ""
) -> Policy:
    if endpoint is not None:
        server = EndpointPolicy(endpoint, model, concurrency=1, after_loss=after_loss).connect()
        server.client.context = engine.max_model_len or server.client.context
        return server
    return open_policy(model, max_new_tokens=params.max_new_tokens, options=engine.engine(max_num_seqs=1))


def _files(request: AgentRequest) -> dict[str, bytes]:
    """The files of --workspace and --data by their names in the workspace."""
    limits = replace(SessionLimits(), box_mb=request.box_mb)
    files = read_folder(request.workspace, limits) if request.workspace is not None else {}
    sizes = {name: len(data) for name, data in files.items()}
    for path in dict.fromkeys(request.data):
        if path.is_dir():
            raise UsageError(f"--data {path} is a folder: give its files, or --workspace {shlex.quote(str(path))}")
        if path.name in sizes:
            raise UsageError(f"two files named {path.name} go into the workspace: rename {path}")
        sizes[path.name] = path.stat().st_size if path.is_file() else 0
        check_size(sizes, limits)  # before it is read
        files |= read_files({path.name: str(path)})
    return files


def listing(files: Mapping[str, bytes]) -> str:
    """What the model is told of its files."""
    if not files:
        return ""
    names = [f"- {name} ({len(data):,} bytes)" for name, data in list(files.items())[:MAX_LISTED]]
    more = [f"- and {len(files) - MAX_LISTED:,} more"] if len(files) > MAX_LISTED else []
    return "\n".join([FILES_BELOW, *names, *more])


MAX_LISTED = 40  # files in the task


def _slug(task: str) -> str:
    return re.sub(r"\W+", "-", task.lower()).strip("-")[:32] or "task"


# -- what a person sees as the run goes ------------------------------------------------------------


def show_event(event: Event) -> None:
    """One line on standard error."""
    line = _LINES.get(event["event"], lambda e: "")(event)
    if line:
        print(line, file=sys.stderr, flush=True)


def _first_line(text: str, limit: int = 100) -> str:
    line = one_line(text)
    return line if len(line) <= limit else f"{line[:limit]} ..."


def _call_line(event: Event) -> str:
    what = event.get("malformed") or ", ".join(f"{k}={v!r}" for k, v in event["arguments"].items())
    return f"{event['id']}: {_first_line(event['tool']) or 'malformed'}({_first_line(str(what))})"


_LINES: dict[str, Callable[[Event], str]] = {
    EventKind.CALL: _call_line,
    EventKind.RESULT: lambda e: f"{e['id']}: {e['kind']}: {_first_line(e['text'])}",
    EventKind.APPROVAL: lambda e: f"{e['id']}: {e['decision']} {e.get('reason', '')}".rstrip(),
    EventKind.BUDGET: lambda e: f"note: {one_line(e['text'])}",
    EventKind.CHECK: lambda e: f"check: {_first_line(e['text'])}",
    EventKind.SUMMARY: lambda e: f"summary: {summary_line(e)}",
    EventKind.COMPACTION: lambda e: f"context: {_first_line(e['text'])}",
}


def summary(outcome: AgentOutcome, out: Path) -> str:
    """The last lines for a person."""
    spent = f"{outcome.model_calls} model calls, {outcome.tool_calls} tool calls, {outcome.seconds:.1f} s"
    lines = [f"{outcome.stop_reason.value}{f' ({outcome.budget})' if outcome.budget else ''}: {spent}; {out}"]
    if outcome.waiting:
        command = resume_command(out, "--approve", outcome.waiting[0])
        lines.append(f"waiting for a decision: {', '.join(outcome.waiting)}; `{command}` or --deny runs on")
    if outcome.note:
        lines.append(f"note: {one_line(outcome.note)}")
    if outcome.failure:
        lines.append(f"stopped: {one_line(outcome.failure)}; `{resume_command(out)}` continues it")
    if outcome.unsupported:
        lines.append(
            f"{outcome.unsupported} numbers or claims of the report are supported by no executed call: see report.html"
        )
    return "\n".join(lines)
