"""Runs of the agent for the page, below `/api/agent`.

    GET    /api/agent                     whether there is an agent, its toolsets, the latest runs
    POST   /api/agent                     task, files (base64), tools, budget: a run begins
    GET    /api/agent/ID                  what a list shows of it
    GET    /api/agent/ID/events?after=N   its events and the turn that is being written (SSE)
    POST   /api/agent/ID/stop             comes back when nothing runs any more
    POST   /api/agent/ID/resume           approve, deny: ids of calls that wait, and the reason;
                                          without them a stopped run resumes
    GET    /api/agent/ID/numbers          where each number of the answer is from
    GET    /api/agent/ID/diff             what became of the workspace's files
    GET    /api/agent/ID/files/NAME       a file of the run's folder: artefacts, outputs, workspace,
                                          inputs, report

What a run made is other people's text: its files are sent as downloads, with a policy under which
nothing of them runs.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from qwq.agent.copy_out import changes_of, diff_lines
from qwq.agent.events import EventKind, read_events
from qwq.agent.folder import own_task
from qwq.agent.report import check_numbers
from qwq.agent.report.steps import number_sources, read_steps
from qwq.agent.run import AgentLimits
from qwq.envs.workspace import is_safe
from qwq.errors import UsageError
from qwq.serve.page.agent_runs import AgentRun, AgentRuns, RunOrder
from qwq.serve.page.conversation_store import NotFound
from qwq.serve.page.page_events import page_event, page_events

FOLDERS = ("artefacts", "outputs", "workspace", "inputs")
REPORTS = ("report.md", "report.html", "events.jsonl", "answer.json")
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
# What a run has made is not the page's: it may run nothing and load nothing.
SEALED = {
    "Content-Security-Policy": "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
MAX_DIFF_LINES = 2000


class AgentFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=255)]
    data: str


class Budgets(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model_calls: Annotated[int, Field(ge=1, le=1000)] = AgentLimits().model_calls
    tool_calls: Annotated[int, Field(ge=1, le=1000)] = AgentLimits().tool_calls
    seconds: Annotated[float | None, Field(gt=0)] = None


class NewRun(BaseModel):
    model_config = ConfigDict(extra="forbid")
    task: str
    files: list[AgentFile] = []
    tools: list[str] = ["python"]
    budget: Budgets = Budgets()
    thinking_budget: Annotated[int | None, Field(ge=0)] = None
    model: str | None = None


class Decisions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    approve: list[str] = []
    deny: list[str] = []
    reason: Annotated[str, Field(max_length=2000)] = ""


def agent_routes(runs: AgentRuns | None) -> APIRouter:
    """The routes; None for a server without an agent, which says so."""
    router = APIRouter(prefix="/agent")

    @router.get("")
    async def listed() -> dict[str, Any]:
        if runs is None:
            return {"enabled": False, "toolsets": [], "runs": []}
        return {
            "enabled": True,
            "toolsets": list(runs.toolsets),
            "budget": Budgets().model_dump(),
            "runs": await run_in_threadpool(runs.listed),
        }

    if runs is not None:
        _runs(router, runs)
        _made(router, runs)
    return router


def _runs(router: APIRouter, runs: AgentRuns) -> None:
    @router.post("")
    async def start(body: NewRun) -> dict[str, Any]:
        files = {file.name: _decoded(file) for file in body.files}
        if len(files) < len(body.files):
            raise UsageError("files: two have one name: rename one of them")
        limits = AgentLimits(**body.budget.model_dump())
        task = RunOrder(body.task, files, body.tools, limits, body.thinking_budget, body.model)
        return {"id": runs.start(task), "title": own_task(body.task), "state": "running"}

    @router.get("/{ident}")
    def one(ident: str) -> dict[str, Any]:
        _check(runs, ident)
        return runs.summary(ident)

    @router.get("/{ident}/events")
    async def events(ident: str, after: Annotated[int, Query(ge=0)] = 0) -> Response:
        run = runs.get(ident)
        if run is None:
            _check(runs, ident)
        return StreamingResponse(
            _events(runs, ident, run, after), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    @router.post("/{ident}/stop")
    async def stop(ident: str) -> dict[str, Any]:
        _check(runs, ident)
        await runs.stop(ident)
        return runs.summary(ident)

    @router.post("/{ident}/resume")
    async def resume(ident: str, body: Decisions) -> dict[str, Any]:
        _check(runs, ident)
        runs.go_on(ident, body.approve, dict.fromkeys(body.deny, body.reason))
        return runs.summary(ident)


def _made(router: APIRouter, runs: AgentRuns) -> None:
    @router.get("/{ident}/numbers")
    def numbers(ident: str) -> dict[str, Any]:
        return {"numbers": _numbers(_check(runs, ident))}

    @router.get("/{ident}/diff")
    def diff(ident: str) -> dict[str, Any]:
        changes = changes_of(_check(runs, ident))
        lines = list(diff_lines(changes))
        return {"files": [c.name for c in changes], "lines": lines[:MAX_DIFF_LINES], "cut": len(lines) > MAX_DIFF_LINES}

    @router.get("/{ident}/files/{name:path}")
    def file(ident: str, name: str) -> Response:
        path = _check(runs, ident) / name
        known = name in REPORTS or (is_safe(name) and name.partition("/")[0] in FOLDERS)
        if not known or not path.is_file() or path.is_symlink():
            raise NotFound(f"the run has no file {name[:100]!r}")
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        headers = SEALED if kind in PICTURES or name in REPORTS else SEALED | {"Content-Disposition": "attachment"}
        return Response(path.read_bytes(), media_type=kind, headers=headers)


def _check(runs: AgentRuns, ident: str) -> Path:
    try:
        return runs.path(ident)
    except UsageError as error:
        raise NotFound(str(error)) from None


def _decoded(file: AgentFile) -> bytes:
    try:
        return base64.b64decode(file.data, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(f"files: {file.name[:60]!r}: data is no base64") from None


async def _events(runs: AgentRuns, ident: str, run: AgentRun | None, after: int) -> AsyncIterator[bytes]:
    if run is None:
        run = AgentRun(runs.path(ident), None, None)  # of a run that has ended: its log
    async with aclosing(page_events(run.follow(after), lambda batch: batch)) as events:
        async for event in events:
            yield event
    end: dict[str, Any] = {"state": "stopped"}
    if run.events:
        end = await run_in_threadpool(runs.summary, ident)
    yield page_event({"done": end | {"error": run.error}})


def _numbers(folder: Path) -> list[dict[str, Any]]:
    """Where each number of the answer is from: the id of a call, "task", or null."""
    events = read_events(folder)
    if events[-1]["event"] != EventKind.FINISH:
        return []
    records = read_steps(events, folder)
    calls = {record.label: record.id for record in records}
    checks = check_numbers(events[-1]["answer"], number_sources(own_task(events[0]["task"]), records))
    return [
        {
            "start": c.start,
            "end": c.end,
            "text": c.text,
            "source": calls.get(c.source or "", c.source),
            "reason": c.reason,
        }
        for c in checks
    ]
