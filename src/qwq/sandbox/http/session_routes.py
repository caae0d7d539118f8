"""Sessions over HTTP: Python that keeps state, for clients that are not in this process.

    POST   /sessions                limits of protocol.SessionRequest -> {"id", "limits"}
    GET    /sessions, /sessions/ID  what is open: cells, seconds, whether one runs
    POST   /sessions/ID/cells       {"code", "files"?, "fetch"?, "timeout_s"?} -> a cell's result, or {"error"}
    POST   /sessions/ID/interrupt   the cell that runs; its state is kept if it obeys
    POST   /sessions/ID/restart     {"replay"} -> {"differs": cells that gave something else}
    DELETE /sessions/ID

An id is 128 random bits and all that one needs beside the key: sessions of others cannot be found
by guessing, and whoever may list them may use them. A client that goes away while its cell runs has
it interrupted. A session that nobody uses is closed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter
from starlette.types import Receive, Scope, Send

from qwq.errors import InfraError, UsageError
from qwq.sandbox.http.body import HEARTBEAT_S, BodyRefused, gone, read_body
from qwq.sandbox.http.protocol import CellRequest, RestartRequest, SessionRequest
from qwq.sandbox.http.service import Service
from qwq.sandbox.interpreter import SessionLimits
from qwq.sandbox.session import Session

_REAP_S = 5.0
_OPEN, _CELL, _RESTART = TypeAdapter(SessionRequest), TypeAdapter(CellRequest), TypeAdapter(RestartRequest)


@dataclass(slots=True, eq=False)
class Opened:
    """A session and the order of its cells: one runs, the others wait without holding a thread."""

    session: Session
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def describe(self, name: str) -> dict[str, Any]:
        session = self.session
        return {
            "id": name,
            "cells": session.cells,
            "running": session.is_running,
            "idle_s": 0.0 if session.is_running else round(time.monotonic() - session.last_used, 3),
            "used_s": round(session.used_s, 3),
            "used_output_bytes": session.used_output_bytes,
            "limits": asdict(session.limits),
        }


class SessionService:
    """The sessions of a server.

    Runs in its event loop, but for cells, which run in as many threads as there may be sessions.
    """

    def __init__(self, service: Service):
        self.service = service
        self.opened: dict[str, Opened] = {}
        self._threads = ThreadPoolExecutor(max(1, service.limits.sessions), "session")

    def open(self, asked: SessionRequest) -> str:
        """Raises UsageError for limits beyond the server's and for programs that its jail does not
        show, BodyRefused where no more sessions are allowed.
        """
        limits = self.service.limits
        if len(self.opened) >= limits.sessions:
            raise BodyRefused(
                429, f"{limits.sessions} sessions are open, which is the limit: close one", {"Retry-After": "5"}
            )
        for name, value, most in (
            ("timeout_s", asked.timeout_s, limits.timeout_s),
            ("total_s", asked.total_s, limits.session_total_s),
            ("memory_mb", asked.memory_mb, limits.memory_mb),
            ("output_limit_bytes", asked.output_limit_bytes, limits.output_bytes),
            ("box_mb", asked.box_mb, limits.memory_mb),
        ):
            if value > most:
                raise UsageError(f"{name} is {value:g}, this server allows up to {most:g}")
        options = asked.model_dump()
        more = {key: options.pop(key) for key in ("replay", "programs")}
        name = secrets.token_hex(16)
        self.opened[name] = Opened(self.service.sandbox.session(SessionLimits(**options), **more))
        self.service.metrics.sessions.set(len(self.opened))
        return name

    def get(self, name: str) -> Opened:
        if name not in self.opened:
            raise BodyRefused(404, "no session of this id is open: it was closed, or not used for too long")
        return self.opened[name]

    async def cell(self, opened: Opened, asked: CellRequest) -> dict[str, Any]:
        """A cell's result, or {"error"}: a fault of ours is an error of its own kind, never a
        result.
        """
        async with opened.turn:
            try:
                result = await self._in_thread(self._run, opened.session, asked)
            except UsageError as error:
                return {"error": {"kind": "usage", "message": str(error)}}
            except InfraError as error:
                return {"error": {"kind": "infra", "message": str(error)}}
        return result

    def _run(self, session: Session, asked: CellRequest) -> dict[str, Any]:
        files = {name: base64.b64decode(data) for name, data in asked.files.items()}
        result = session.send(asked.code, files, asked.fetch, asked.timeout_s)
        if asked.code is not None:
            self.service.metrics.cells.labels(result.status.value).inc()
        return result.to_dict()

    async def restart(self, opened: Opened, replay: bool) -> list[int]:
        async with opened.turn:
            return await self._in_thread(lambda: opened.session.restart(replay=replay))

    async def close(self, name: str) -> None:
        opened = self.opened.pop(name)
        self.service.metrics.sessions.set(len(self.opened))
        await asyncio.to_thread(opened.session.close)

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def reap(self) -> None:
        """Close what nobody has used for the server's `session_idle_s`, for ever."""
        while True:
            await asyncio.sleep(min(_REAP_S, self.service.limits.session_idle_s))
            for name, opened in list(self.opened.items()):
                idle_s = time.monotonic() - opened.session.last_used
                if (
                    not opened.turn.locked()
                    and not opened.session.is_running
                    and idle_s > self.service.limits.session_idle_s
                ):
                    await self.close(name)

    def shutdown(self) -> None:
        """Called after the sandbox has closed all sessions."""
        self._threads.shutdown(wait=True, cancel_futures=True)


class CellStream(Response):
    """A cell's result as JSON, behind an empty line for every ten seconds that it takes; interrupts
    it if the client goes away.
    """

    def __init__(self, sessions: SessionService, opened: Opened, asked: CellRequest):
        super().__init__(media_type="application/json")
        self.sessions = sessions
        self.opened = opened
        self.asked = asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.create_task(self.sessions.cell(self.opened, self.asked))
        listener = asyncio.create_task(gone(receive))
        headers = [(b"content-type", b"application/json")]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while not task.done():
                done, _ = await asyncio.wait({task, listener}, timeout=HEARTBEAT_S, return_when="FIRST_COMPLETED")
                if listener in done and not task.done():
                    return
                if not done:
                    await send({"type": "http.response.body", "body": b"\n", "more_body": True})
            body = json.dumps(task.result()).encode()
            await send({"type": "http.response.body", "body": body, "more_body": False})
        except OSError:
            return  # the connection broke while we wrote
        finally:
            listener.cancel()
            if not task.done():
                await self._give_up(task)

    async def _give_up(self, task: asyncio.Task[dict[str, Any]]) -> None:
        """A cell that waits for its turn is dropped; one that runs is interrupted, and waited
        for.
        """
        session = self.opened.session
        while not task.done():
            if session.is_running:
                session.interrupt()
            else:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task}, timeout=1.0)


def add_routes(app: FastAPI, sessions: SessionService) -> None:
    """The paths below /sessions."""
    limit = sessions.service.limits.body_bytes

    async def answered(function: Callable[[], Awaitable[Mapping[str, Any]]], status: int = 200) -> Response:
        try:
            return JSONResponse(await function(), status)
        except UsageError as error:
            raise BodyRefused(422, str(error)) from None
        except InfraError as error:
            raise BodyRefused(500, str(error)) from None

    @app.post("/sessions")
    async def open_session(request: Request) -> Response:
        asked = await read_body(request, _OPEN, limit)

        async def opened() -> Mapping[str, Any]:
            name = sessions.open(asked)
            return sessions.get(name).describe(name)

        return await answered(opened, 201)

    @app.get("/sessions")
    async def list_sessions() -> Response:
        return JSONResponse({"sessions": [opened.describe(name) for name, opened in sessions.opened.items()]})

    @app.get("/sessions/{name}")
    async def describe_session(name: str) -> Response:
        return JSONResponse(sessions.get(name).describe(name))

    @app.post("/sessions/{name}/cells")
    async def run_cell(name: str, request: Request) -> Response:
        opened = sessions.get(name)
        asked = await read_body(request, _CELL, limit)
        most = sessions.service.limits.timeout_s
        if (asked.timeout_s or 0) > most:
            raise BodyRefused(422, f"timeout_s is {asked.timeout_s:g}, this server allows up to {most:g}")
        return CellStream(sessions, opened, asked)

    @app.post("/sessions/{name}/interrupt")
    async def interrupt(name: str) -> Response:
        session = sessions.get(name).session
        session.interrupt()
        return JSONResponse({"running": session.is_running})

    @app.post("/sessions/{name}/restart")
    async def restart(name: str, request: Request) -> Response:
        opened = sessions.get(name)
        asked = await read_body(request, _RESTART, limit)

        async def restarted() -> Mapping[str, Any]:
            return {"differs": await sessions.restart(opened, asked.replay)}

        return await answered(restarted)

    @app.delete("/sessions/{name}")
    async def close_session(name: str) -> Response:
        sessions.get(name)
        await sessions.close(name)
        return Response(status_code=204)
