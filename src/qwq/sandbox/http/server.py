"""The HTTP server: `qwq sandbox serve`.

    POST /batch      {"items": [...]}: JSON lines, a result each as it finishes; items of protocol.py
    POST /run_code   SandboxFusion's request and response
    GET  /health     level of the jail and why, slots, queue, languages
    GET  /metrics    Prometheus text

A full queue answers 429 with Retry-After. A client that goes away takes its runs with it. With a key, every path but
/health needs it (`Authorization: Bearer KEY` or `X-API-Key`); without one the server listens on loopback only and
refuses what a web page could make a browser send: other content types than JSON, and host names that are not loopback.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import ipaddress
import json
import platform
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import islice
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from qwq.errors import UsageError
from qwq.sandbox import cgroup, languages
from qwq.sandbox.http.protocol import (
    BATCH,
    Batch,
    CommandRunResult,
    ExecuteItem,
    ItemLimits,
    RunCodeRequest,
    RunCodeResponse,
    VerifyItem,
    execution_from_dict,
)
from qwq.sandbox.http.service import Full, Grade, Job, ServerLimits, Service
from qwq.sandbox.policy import Level, RunStatus
from qwq.sandbox.pool import Sandbox
from qwq.sandbox.runner import RunResult, run_result

HEARTBEAT_S = 10.0
SHUTDOWN_S = 5
_RUN_CODE = TypeAdapter(RunCodeRequest)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address to listen on, or a Host header names this machine."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets a request through only with the key, or, where there is none, only in the form that no web page can send."""

    def __init__(self, app: ASGIApp, api_key: str | None):
        self.app = app
        self.key = api_key.encode() if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {name: value for name, value in scope["headers"]}
        if self.key is not None and scope["path"] != "/health":
            given = headers.get(b"x-api-key", b"")
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() == b"bearer":
                given = token.strip()
            if not hmac.compare_digest(given, self.key):
                return _error(401, "the API key is missing or wrong", {"WWW-Authenticate": "Bearer"})
        if self.key is None:
            host, _, port = headers.get(b"host", b"localhost").decode("latin-1").rpartition(":")
            if not is_loopback(host if host and port.isdigit() else f"{host}:{port}".strip(":")):
                return _error(403, "without an API key only requests to a loopback name are answered")
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if scope["method"] == "POST" and kind != b"application/json":
            return _error(415, "send application/json")
        return None


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"message": message}}, status, headers=dict(headers or {}))


class _Refused(Exception):
    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.response = _error(status, message, headers)


async def _read(request: Request, form: TypeAdapter[Any], limit_bytes: int) -> Any:
    """The checked body. Raises _Refused for one that is too large or does not have the form."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit_bytes:
                raise _Refused(413, f"the body is larger than {limit_bytes} bytes: send fewer items at a time")
    except ClientDisconnect:
        raise _Refused(400, "the body ended early") from None
    try:
        return form.validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _Refused(422, f"{where}: {first['msg']}" if where else first["msg"]) from None


async def _gone(receive: Receive) -> None:
    """Returns when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class BatchStream(Response):
    """Runs a batch and sends each result when it is there; ends all that is left of it when the client goes away."""

    def __init__(self, service: Service, batch: Batch):
        super().__init__(media_type="application/x-ndjson")
        self.service = service
        self.items = batch.items
        self.ready: asyncio.Queue[tuple[int, Job] | None] = asyncio.Queue()

    def _submit(self, index: int) -> Job:
        job = self.service.submit(self.items[index])
        assert job.future is not None
        job.future.add_done_callback(lambda _: self.ready.put_nowait((index, job)))
        return job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/x-ndjson")]
        listener = asyncio.create_task(_gone(receive))
        listener.add_done_callback(lambda _: self.ready.put_nowait(None))
        left = len(self.items)
        waiting = iter(range(left))
        running: set[Job] = set()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            running |= {self._submit(i) for i in islice(waiting, self.service.window)}
            while left:
                try:
                    ready = await asyncio.wait_for(self.ready.get(), HEARTBEAT_S)
                except TimeoutError:
                    # An empty line tells the client that we are alive, and us whether it is.
                    await send({"type": "http.response.body", "body": b"\n", "more_body": True})
                    continue
                if ready is None:
                    return
                index, job = ready
                assert job.future is not None
                line = {"index": index, "id": self.items[index].id, **job.future.result()}
                left -= 1
                self.service.discharge(1)
                running.discard(job)
                self.service.release(job)
                await send({"type": "http.response.body", "body": json.dumps(line).encode() + b"\n", "more_body": True})
                running |= {self._submit(i) for i in islice(waiting, 1)}
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:
            return  # the connection broke while we wrote
        finally:
            listener.cancel()
            self.service.discharge(left)
            for job in running:
                self.service.release(job)


async def _single(service: Service, item: ExecuteItem | VerifyItem, receive: Receive) -> dict[str, Any] | None:
    """The result of one item, or None where the client went away before."""
    job = service.submit(item)
    assert job.future is not None
    listener = asyncio.create_task(_gone(receive))
    try:
        done, _ = await asyncio.wait({job.future, listener}, return_when=asyncio.FIRST_COMPLETED)
        return job.future.result() if job.future in done else None
    finally:
        listener.cancel()
        service.release(job)
        service.discharge(1)


# -- SandboxFusion's form


def _run_code_item(asked: RunCodeRequest, limits: ServerLimits) -> ExecuteItem:
    """Raises UsageError for what is not supported, rather than leave it out in silence."""
    if asked.args:
        raise UsageError("args go to pytest in SandboxFusion, which is not supported here")
    language = languages.canonical(asked.language)
    request: dict[str, Any] = {
        "kind": "script",
        "program": asked.code,
        "files": {name: data for name, data in asked.files.items() if data is not None},
        "fetch": asked.fetch_files,
    }
    if language != "python":
        request |= {"kind": "source", "language": language, "compile_timeout_s": asked.compile_timeout}
    memory_mb = asked.memory_limit_MB if asked.memory_limit_MB > 0 else min(1024, limits.memory_mb)
    stdin = base64.b64encode((asked.stdin or "").encode(errors="surrogatepass")).decode()
    return ExecuteItem.model_validate(
        {
            "kind": "execute",
            "request": request,
            "stdin": stdin,
            "limits": ItemLimits(timeout_s=asked.run_timeout, memory_mb=max(32, memory_mb)),
        }
    )


def _command(result: RunResult) -> CommandRunResult:
    timed_out = result.status is RunStatus.TIMEOUT
    return CommandRunResult(
        status="TimeLimitExceeded" if timed_out else "Finished",
        execution_time=result.seconds,
        return_code=None if timed_out else result.exit_code,
        stdout=result.stdout.decode(errors="replace"),
        stderr=result.stderr.decode(errors="replace"),
    )


def run_code_response(result: RunResult) -> RunCodeResponse:
    """A run in SandboxFusion's words: a compiler that failed leaves no run_result."""
    compiled = result.built is None or result.built.status is RunStatus.OK
    return RunCodeResponse(
        status="Success" if result.status is RunStatus.OK else "Failed",
        message="ran without a jail that protects (unsafe)" if result.unsafe else "",
        compile_result=_command(result.built) if result.built else None,
        run_result=_command(result) if compiled else None,
        executor_pod_name=platform.node() or None,
        files={name: base64.b64encode(data).decode() for name, data in result.files.items()},
    )


async def _run_code(service: Service, request: Request) -> Response:
    asked = await _read(request, _RUN_CODE, service.limits.body_bytes)
    try:
        item = _run_code_item(asked, service.limits)
        service.check(item)
    except UsageError as error:
        return _model(RunCodeResponse(status="SandboxError", message=str(error)))
    service.admit(1)
    found = await _single(service, item, request.receive)
    if found is None:
        return Response(status_code=499)
    if "error" in found:
        return _model(RunCodeResponse(status="SandboxError", message=found["error"]["message"]))
    return _model(run_code_response(run_result(execution_from_dict(found["execution"]))))


def _model(model: BaseModel) -> Response:
    return Response(model.model_dump_json(), media_type="application/json")


# -- the application


def health(service: Service) -> dict[str, Any]:
    """What a load balancer and a person want to know."""
    grouped, why = cgroup.available()
    return {
        "status": "ok",
        "level": service.sandbox.level.value,
        "reason": service.sandbox.reason,
        "unsafe": service.sandbox.level is Level.RLIMITS,
        "memory_of_a_process_tree": why if grouped else f"watched, not bounded: {why}",
        "slots": service.sandbox.slots,
        "held": service.held,
        "queue": service.limits.queue,
        "limits": {
            "timeout_s": service.limits.timeout_s,
            "memory_mb": service.limits.memory_mb,
            "body_bytes": service.limits.body_bytes,
        },
        "languages": {"python": sys.executable} | languages.available(),
    }


def create_app(service: Service, api_key: str | None = None) -> FastAPI:
    """The application over a service, which it closes at shutdown."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(title="qwq sandbox", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, api_key=api_key)

    @app.exception_handler(_Refused)
    async def refused(request: Request, error: _Refused) -> Response:
        return error.response

    @app.exception_handler(Full)
    async def full(request: Request, error: Full) -> Response:
        return _error(429, str(error), {"Retry-After": str(error.retry_after_s)})

    @app.post("/batch", response_model=None)
    async def batch(request: Request) -> Any:
        asked = await _read(request, BATCH, service.limits.body_bytes)
        if len(asked.items) > service.limits.queue:
            raise _Refused(413, f"{len(asked.items)} items, the queue holds {service.limits.queue}: send fewer")
        try:
            for item in asked.items:
                service.check(item)
        except UsageError as error:
            raise _Refused(422, str(error)) from None
        service.admit(len(asked.items))
        return BatchStream(service, asked)

    @app.post("/run_code")
    async def run_code(request: Request) -> Response:
        return await _run_code(service, request)

    @app.get("/health")
    async def get_health() -> Response:
        return JSONResponse(health(service))

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type="text/plain; version=0.0.4")

    return app


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End cleanly, with status 0, on SIGINT and SIGTERM: uvicorn's own raises the signal again afterwards."""
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int, api_key: str | None) -> socket.socket:
    """The bound socket. Raises UsageError for an address that others can reach without a key, or that is taken."""
    if not api_key and not is_loopback(host):
        raise UsageError(f"{host} can be reached by other machines: give --api-key, or listen on 127.0.0.1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, since asyncio switches Nagle's delay off (40 ms a small answer) only where it is.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host.strip("[]"), port))
    except OSError as error:
        bound.close()
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return bound


def serve(
    grade: Grade, *, host: str, port: int, slots: int | None, api_key: str | None, limits: ServerLimits, unsafe: bool
) -> None:
    """Serve until SIGINT or SIGTERM. Raises UsageError where no safe jail is possible, before anything listens."""
    bound = listen(host, port, api_key)
    with bound, Sandbox(slots, unsafe=unsafe) as sandbox:
        level = sandbox.level
        service = Service(sandbox, grade, limits)
        config = uvicorn.Config(
            create_app(service, api_key),
            log_level="warning",
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=SHUTDOWN_S,
            server_header=False,
        )
        name, number = bound.getsockname()[:2]
        print(
            f"listening on http://{name}:{number} with {sandbox.slots} slots, level {level}",
            file=sys.stderr,
            flush=True,
        )
        if level is Level.RLIMITS:
            print("UNSAFE: programs can read what this user can; every result says so", file=sys.stderr, flush=True)
        _Server(config).run(sockets=[bound])
