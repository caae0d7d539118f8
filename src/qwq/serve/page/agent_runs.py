"""Runs of the agent that the page starts and shows: each is a task of the server, in a folder of
its own, and does not depend on a page being open.

A call that needs approval ends the task; a person's word begins it again from the run's log, hours
or days later, and after a restart of the server too.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from qwq.agent.approvals import NO_RULES, approvals_of, read_approvals
from qwq.agent.command import listing, make_toolbox, toolbox_of
from qwq.agent.events import EVENTS, Event, EventKind, EventLog, read_events
from qwq.agent.folder import AgentFolder, own_task
from qwq.agent.report import correction
from qwq.agent.run import NO_BUDGETS, AgentLimits, AgentOutcome, AgentSettings, Watcher, decide_calls, run_agent
from qwq.engine.sampler import SamplingParams
from qwq.envs.toolbox import Toolbox
from qwq.envs.workspace import is_safe
from qwq.errors import QwqError, UsageError
from qwq.serve.core import Core
from qwq.serve.engine_thread import Update
from qwq.serve.page.generation import FAILED
from qwq.serve.served_policy import ServedPolicy
from qwq.serve.turn import OutgoingMessage
from qwq.text.parts import Kind, Part

# The model that is named, or the loaded one, while a run works with it.
OpenCore = Callable[[str | None], AbstractAsyncContextManager[Core]]

MAX_RUNS = 4  # at once
MAX_LISTED = 100
INTERRUPT_S = 0.3
MAX_NEW_TOKENS = 8192
TOOLSETS = ("python", "files", "sql", "shell")
UNSHOWN = ("ids", "mask", "versions", "logprobs", "text")  # of a turn: tokens, and what its parts say
LIVE = {Kind.THINKING: "reasoning", Kind.ANSWER: "content", Kind.CALL: "call", Kind.ARGUMENTS: "call"}


@dataclass(frozen=True, slots=True)
class RunOrder:
    """What a page asks for. `files` are the workspace's, by name."""

    task: str
    files: Mapping[str, bytes]
    tools: Sequence[str] = ("python",)
    limits: AgentLimits = NO_BUDGETS
    thinking_budget: int | None = None
    model: str | None = None


Work = Callable[["AgentRun"], AgentOutcome]


class AgentRun:
    """A run under way. `follow` may be called by any number of pages."""

    def __init__(self, folder: Path, work: Work | None = None, threads: ThreadPoolExecutor | None = None) -> None:
        """Without `work`, one that has ended."""
        self.folder, self._work = folder, work
        self.events: list[Event] = read_events(folder) if (folder / EVENTS).is_file() else []
        self.live: list[tuple[str, str]] = []  # of the turn that is being written
        self.error = ""
        self.policy: ServedPolicy | None = None
        self.toolbox: Toolbox | None = None
        self.stopped = False
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._threads = threads
        self.task: asyncio.Task[None] | None = None

    def hear(self, event: Event) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._take, event)

    def listen(self, update: Update, turn: OutgoingMessage, parts: Sequence[Part]) -> None:
        """In the event loop: more of the turn that is being written."""
        for part in parts:
            if part.kind in LIVE:
                self.live.append((LIVE[part.kind], part.text))
        self._notify()

    def _take(self, event: Event) -> None:
        self.events.append(event)
        if event["event"] == EventKind.MODEL_TURN:
            self.live = []
        self._notify()

    def _notify(self) -> None:
        wake, self._wake = self._wake, asyncio.Event()
        wake.set()

    async def play(self, open_core: OpenCore, model: str | None) -> None:
        """The run, to its end or to a call that waits."""
        try:
            async with open_core(model) as core:
                self.policy = ServedPolicy(core, listen=self.listen)
                if not self.stopped and self._work is not None:
                    await self._loop.run_in_executor(self._threads, self._work, self)
        except QwqError as error:
            self.error = str(error)
        except (CancelledError, asyncio.CancelledError):
            if not self.stopped:
                raise
        except BaseException:
            self.error = FAILED
            raise
        finally:
            self.live = []
            self._notify()

    @property
    def over(self) -> bool:
        return self.task is None or self.task.done()

    async def follow(self, after: int) -> AsyncIterator[dict[str, Any]]:
        """What happened behind event `after`, as it happens, until the task ends."""
        live = 0
        turn: list[tuple[str, str]] | None = None
        while True:
            wake, over = self._wake, self.over
            out: dict[str, Any] = {}
            if len(self.events) > after:
                out["events"] = [shown(e) for e in self.events[after:]]
                after = len(self.events)
            if self.live is not turn:
                turn, live = self.live, 0
            if len(turn) > live:
                out["live"] = turn[live:]
                live = len(turn)
            if out:
                yield out
            elif over:
                return
            else:
                await wake.wait()

    async def stop(self) -> None:
        """End the turn or the cell that runs; come back when the run has let go. What is recorded
        stays, and the run can resume.
        """
        self.stopped = True
        while self.task is not None and not self.task.done():
            if self.policy is not None:
                self.policy.close()
            desk = self.toolbox.workspace if self.toolbox is not None else None
            if desk is not None:  # again and again: a cell may be about to start
                await asyncio.to_thread(desk.interrupt)
            await asyncio.wait({self.task}, timeout=INTERRUPT_S)


class AgentRuns:
    """All runs of the page, in `folder`, under way and ended."""

    def __init__(
        self, folder: Path, open_core: OpenCore, *, mcp: Path | None = None, policy: Path | None = None
    ) -> None:
        self.folder, self.mcp = folder, mcp
        self.toolsets = (*TOOLSETS, *(("mcp",) if mcp is not None else ()))
        self._approvals = read_approvals(policy) if policy is not None else NO_RULES
        self._open_core = open_core
        self._threads = ThreadPoolExecutor(MAX_RUNS, thread_name_prefix="agent")
        self._running: dict[str, AgentRun] = {}
        self._closed = False

    def get(self, ident: str) -> AgentRun | None:
        return self._running.get(ident)

    def path(self, ident: str) -> Path:
        """The folder of a run. UsageError where there is none."""
        path = self.folder / ident
        if not ident.replace("-", "").isalnum() or not (path / EVENTS).is_file():
            raise UsageError(f"no run {ident[:60]!r} of the agent is kept here")
        return path

    def start(self, asked: RunOrder) -> str:
        """Begin a run; its id. UsageError where it cannot start."""
        if not asked.task.strip():
            raise UsageError("task: it is empty: say what is to be done")
        for name in asked.tools:
            if name not in self.toolsets:
                raise UsageError(f"tools: {name!r} is not offered here: {', '.join(self.toolsets)} are")
        for name in asked.files:
            if not is_safe(name):
                raise UsageError(f"files: {name[:60]!r} is no name of a workspace's file")
        ident = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
        self._play(ident, partial(self._first, asked), asked.model)
        return ident

    def _first(self, asked: RunOrder, run: AgentRun) -> AgentOutcome:
        assert run.policy is not None
        files = dict(asked.files)
        mcp = self.mcp if "mcp" in asked.tools else None
        run.toolbox = make_toolbox(asked.tools, files, mcp=mcp)
        about: dict[str, Any] = {
            "endpoint": None, "source": run.policy.name, "toolsets": list(asked.tools),
            "mcp": str(mcp.resolve()) if mcp else None, "allow_hosts": [],
            "box_mb": run.toolbox.workspace.limits.box_mb,  # type: ignore[union-attr]
            "workspace": None, "engine": {},
        }  # fmt: skip
        settings = AgentSettings(
            sampling_of(run.policy.core), secrets.randbits(31), asked.thinking_budget, about=about, files=files
        )
        return run_agent(
            run.policy, asked.task + listing(files), toolbox=run.toolbox, out=run.folder, limits=asked.limits,
            approvals=self._approvals, settings=settings, watcher=Watcher(run.hear), check=correction,
        )  # fmt: skip

    def go_on(self, ident: str, approved: Sequence[str] = (), denied: Mapping[str, str] | None = None) -> None:
        """Resume a run that was stopped, or that waits, with a person's decisions."""
        folder = self.path(ident)
        if ident in self._running:
            raise UsageError("the run is under way: wait until it has ended, or stop it")
        events = read_events(folder)
        if events[-1]["event"] == EventKind.FINISH:
            raise UsageError("the run has ended: start another")
        if approved or denied:
            log = EventLog(folder)
            try:
                decide_calls(folder, approved, denied or {}, log)
            finally:
                log.close()
        elif state_of(folder, events) == "waiting":
            raise UsageError("a call waits for a decision: approve or deny it")
        self._play(ident, self._again, events[0].get("source"))

    def _again(self, run: AgentRun) -> AgentOutcome:
        assert run.policy is not None
        first = run.events[0]
        run.toolbox = toolbox_of(first, run.folder)
        known = {"seed": first["seed"], "thinking_budget": first["thinking_budget"], "system": first["system"]}
        settings = AgentSettings(SamplingParams(**{**first["sampling"], "logit_bias": ()}), **known)
        return run_agent(
            run.policy, first["task"], toolbox=run.toolbox, out=run.folder, limits=AgentLimits(**first["limits"]),
            approvals=approvals_of(first["approvals"], EVENTS), settings=settings, check=correction,
            watcher=Watcher(run.hear), log=EventLog(run.folder, heard=run.hear),
        )  # fmt: skip

    def _play(self, ident: str, work: Work, model: str | None) -> None:
        if self._closed:
            raise UsageError("the server is shutting down: start the run when it is back")
        if len(self._running) >= MAX_RUNS:
            raise UsageError(f"{MAX_RUNS} runs are under way, which is the limit: wait, or stop one")
        run = AgentRun(self.folder / ident, work, self._threads)
        self._running[ident] = run
        run.task = asyncio.create_task(run.play(self._open_core, model), name=f"agent-{ident}")
        run.task.add_done_callback(lambda _: self._running.pop(ident, None))

    async def stop(self, ident: str) -> None:
        """Come back when the run has let go."""
        run = self._running.get(ident)
        if run is not None:
            await run.stop()

    async def close(self) -> None:
        """Stop all runs; each can resume when the server is back."""
        self._closed = True
        await asyncio.gather(*(self.stop(ident) for ident in list(self._running)))
        self._threads.shutdown(wait=False)

    def listed(self) -> list[dict[str, Any]]:
        """The latest runs, newest first."""
        names = sorted((p.name for p in self.folder.iterdir() if (p / EVENTS).is_file()), reverse=True)
        return [self.summary(name) for name in names[:MAX_LISTED]]

    def summary(self, ident: str) -> dict[str, Any]:
        """What a list shows of a run."""
        folder, run = self.path(ident), self._running.get(ident)
        with (folder / EVENTS).open(encoding="utf-8") as file:
            first = json.loads(file.readline())
        state = "running" if run is not None else state_of(folder, None)
        page = (folder / "report.html").is_file()
        return {
            "id": ident, "title": own_task(first["task"]), "created": first["t"], "state": state, "page": page,
        }  # fmt: skip


def state_of(folder: Path, events: Sequence[Event] | None) -> str:
    """finished, waiting (for a person), or stopped, of a run that is not under way."""
    answer = AgentFolder(folder).answer
    outcome = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else {}
    if not outcome or outcome.get("failure"):
        return "stopped"
    if outcome["waiting"]:
        events = read_events(folder) if events is None else events
        decided = {e["id"] for e in events if e["event"] == EventKind.APPROVAL and e.get("by") == "person"}
        return "stopped" if set(outcome["waiting"]) <= decided else "waiting"
    return "finished"


def shown(event: Event) -> Event:
    """An event without what a page has no use for."""
    turns = (EventKind.MODEL_TURN, EventKind.SUMMARY)
    return {k: v for k, v in event.items() if k not in UNSHOWN or event["event"] not in turns}


def sampling_of(core: Core) -> SamplingParams:
    """The model's own sampling, with room for a long turn."""
    own = core.loaded.sampling
    known = {
        k: own[k] for k in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty") if own.get(k) is not None
    }
    return replace(SamplingParams(max_new_tokens=min(MAX_NEW_TOKENS, core.max_len)), **known)
