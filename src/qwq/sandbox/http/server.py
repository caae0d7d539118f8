"""The HTTP server: `qwq sandbox serve`.

    POST /batch      {"items": [...]}: JSON lines, a result each as it finishes; items of protocol.py
    POST /run_code, /run_jupyter, /submit, GET /v1/ping    SandboxFusion's, see fusion.py
    /sessions        Python that keeps state, see session_routes.py
    GET  /health     level of the jail and why, slots, queue, languages, packages
    GET  /metrics    Prometheus text

A full queue answers 429 with Retry-After. A client that goes away takes its runs with it. With a
key, every path but /health needs it (`Authorization: Bearer KEY`, `X-API-Key`, or `/key/KEY` before
the path), but for clients of the allowed networks; without one the server listens on loopback only,
or serves these networks only, and refuses what a web page could make a browser send: other content
types than JSON, and on loopback host names that are not loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from pydantic import BaseModel, TypeAdapter
from starlette.types import ASGIApp, Receive, Scope, Send

from qwq.errors import UsageError
from qwq.sandbox import cgroup, languages, packages
from qwq.sandbox.http import fusion
from qwq.sandbox.http.body import HEARTBEAT_S, BodyRefused, error_response, gone, read_body
from qwq.sandbox.http.protocol import (
    BATCH,
    Batch,
    ExecuteItem,
    VerifyItem,
    execution_from_dict,
)
from qwq.sandbox.http.service import Full, Grade, QueuedRun, ServerLimits, Service
from qwq.sandbox.http.session_routes import SessionService, add_routes
from qwq.sandbox.limits import Level
from qwq.sandbox.pool import Sandbox
from qwq.sandbox.runner import Execution, run_result

SHUTDOWN_S = 5


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address to listen on, or a Host header names this
    machine.
    """
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(names: Sequence[str]) -> list[Network]:
    """Raises UsageError for what is neither an address nor a network."""
    try:
        return [ipaddress.ip_network(name) for name in names]
    except ValueError as error:
        raise UsageError(f"--allow: {error}: give a network like 10.0.0.0/8, or an address") from None


class Guard:
    """Lets a request through with the key, from an allowed network, or, where there is neither, in
    the form that no web page can send.
    """

    def __init__(self, app: ASGIApp, api_key: str | None, allowed: Sequence[Network]):
        self.app = app
        self.key = api_key.encode() if api_key else None
        self.allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        path, given = _key_of_path(scope["path"])
        if given is not None:
            scope = dict(scope, path=path, raw_path=path.encode())
        await (self._refusal(scope, headers, given) or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Mapping[bytes, bytes], given: bytes | None) -> Response | None:
        if not self._is_allowed(scope["client"]):
            key = given if given is not None else _key_of_headers(headers)
            if self.key is not None and scope["path"] != "/health" and not hmac.compare_digest(key, self.key):
                return error_response(401, "the API key is missing or wrong", {"WWW-Authenticate": "Bearer"})
            if self.key is None and self.allowed and not _is_local(scope["client"]):
                return error_response(403, "this address is in none of the allowed networks")
            if self.key is None and not is_loopback(_host_of(headers)):
                return error_response(403, "without an API key only requests to a loopback name are answered")
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if scope["method"] == "POST" and kind != b"application/json":
            return error_response(415, "send application/json")
        return None

    def _is_allowed(self, client: tuple[str, int] | None) -> bool:
        if client is None or not self.allowed:
            return False
        address = ipaddress.ip_address(client[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self.allowed)


def _is_local(client: tuple[str, int] | None) -> bool:
    return client is not None and is_loopback(client[0])


def _key_of_path(path: str) -> tuple[str, bytes | None]:
    """(path, None), or what follows `/key/KEY` and the key: for clients that can be given a URL and
    nothing else.
    """
    if not path.startswith("/key/"):
        return path, None
    key, _, rest = path.removeprefix("/key/").partition("/")
    return f"/{rest}", key.encode()


def _key_of_headers(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")


def _host_of(headers: Mapping[bytes, bytes]) -> str:
    host, _, port = headers.get(b"host", b"localhost").decode("latin-1").rpartition(":")
    return host if host and port.isdigit() else f"{host}:{port}".strip(":")


class BatchStream(Response):
    """Runs a batch and sends each result when it is there; ends all that is left of it when the
    client goes away.
    """

    def __init__(self, service: Service, batch: Batch):
        super().__init__(media_type="application/x-ndjson")
        self.service = service
        self.items = batch.items
        self.ready: asyncio.Queue[tuple[int, QueuedRun] | None] = asyncio.Queue()

    def _submit(self, index: int) -> QueuedRun:
        job = self.service.submit(self.items[index])
        assert job.future is not None
        job.future.add_done_callback(lambda _: self.ready.put_nowait((index, job)))
        return job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/x-ndjson")]
        listener = asyncio.create_task(gone(receive))
        listener.add_done_callback(lambda _: self.ready.put_nowait(None))
        left = len(self.items)
        waiting = iter(range(left))
        running: set[QueuedRun] = set()
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
    listener = asyncio.create_task(gone(receive))
    try:
        waited: set[asyncio.Future[Any]] = {job.future, listener}
        done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        return job.future.result() if job.future in done else None
    finally:
        listener.cancel()
        service.release(job)
        service.discharge(1)


# -- SandboxFusion's form


async def _held(service: Service, item: ExecuteItem | VerifyItem, request: Request) -> dict[str, Any] | None:
    """The result of an item that waits for room in the queue; None where the client went away."""
    service.check(item)
    await service.admit_held(service.limits.hold_s)
    return await _single(service, item, request.receive)


async def _run_code(service: Service, request: Request) -> Response:
    def answer(_: fusion.RunCodeRequest, item: Any, execution: Execution) -> BaseModel:
        return fusion.run_code_response(run_result(execution), item.limits.output_limit_bytes)

    return await _run(service, request, fusion.RunCodeRequest, fusion.run_code_item, fusion.RunCodeResponse, answer)


async def _run_jupyter(service: Service, request: Request) -> Response:
    def answer(asked: fusion.RunJupyterRequest, item: Any, execution: Execution) -> BaseModel:
        return fusion.run_jupyter_response(execution, asked, item.limits.output_limit_bytes)

    form = fusion.RunJupyterRequest
    return await _run(service, request, form, fusion.run_jupyter_item, fusion.RunJupyterResponse, answer)


async def _run(
    service: Service, request: Request, form: Any, item_of: Callable[..., Any], reply: Any,
    answer: Callable[..., BaseModel],
) -> Response:  # fmt: skip
    """One run of SandboxFusion's API: a request of `form`, its job, and its reply, in which our own
    failures have a status of their own.
    """
    asked = await read_body(request, TypeAdapter(form), service.limits.body_bytes)
    try:
        item = item_of(asked, service.limits)
        found = await _held(service, item, request)
    except UsageError as error:
        return _model(reply(status="SandboxError", message=str(error)))
    if found is None:
        return Response(status_code=499)
    if "error" in found:
        return _model(reply(status="SandboxError", message=found["error"]["message"]))
    return _model(answer(asked, item, execution_from_dict(found["execution"])))


async def _submit(service: Service, request: Request) -> Response:
    asked = await read_body(request, TypeAdapter(fusion.SubmitRequest), service.limits.body_bytes)
    try:
        found = await _held(service, fusion.submit_item(asked), request)
    except UsageError as error:
        raise BodyRefused(400, str(error)) from None
    if found is None:
        return Response(status_code=499)
    if "error" in found:
        raise BodyRefused(400 if found["error"]["kind"] == "usage" else 500, found["error"]["message"])
    return _model(fusion.submit_response(asked, found["verdict"]))


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
            "sessions": service.limits.sessions,
            "session_idle_s": service.limits.session_idle_s,
        },
        "languages": {"python": sys.executable} | languages.available(),
        "packages": packages.versions(),
    }


def add_fusion_routes(app: FastAPI, service: Service) -> None:
    """SandboxFusion's paths."""

    @app.post("/run_code")
    async def run_code(request: Request) -> Response:
        return await _run_code(service, request)

    @app.post("/run_jupyter")
    async def run_jupyter(request: Request) -> Response:
        return await _run_jupyter(service, request)

    @app.post("/submit")
    async def submit(request: Request) -> Response:
        return await _submit(service, request)

    @app.get("/v1/ping")
    async def ping() -> Response:
        return JSONResponse("pong")


def create_app(service: Service, api_key: str | None = None, allowed: Sequence[Network] = ()) -> FastAPI:
    """The application over a service, which it closes at shutdown."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        reaper = asyncio.create_task(sessions.reap())
        yield
        reaper.cancel()
        service.close()
        sessions.shutdown()

    sessions = SessionService(service)
    app = FastAPI(title="qwq sandbox", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, api_key=api_key, allowed=allowed)

    @app.exception_handler(BodyRefused)
    async def refused(request: Request, error: BodyRefused) -> Response:
        return error.response

    @app.exception_handler(Full)
    async def full(request: Request, error: Full) -> Response:
        return error_response(429, str(error), {"Retry-After": str(error.retry_after_s)})

    @app.post("/batch", response_model=None)
    async def batch(request: Request) -> Any:
        asked = await read_body(request, BATCH, service.limits.body_bytes)
        if len(asked.items) > service.limits.queue:
            raise BodyRefused(413, f"{len(asked.items)} items, the queue holds {service.limits.queue}: send fewer")
        try:
            for item in asked.items:
                service.check(item)
        except UsageError as error:
            raise BodyRefused(422, str(error)) from None
        service.admit(len(asked.items))
        return BatchStream(service, asked)

    add_fusion_routes(app, service)
    add_routes(app, sessions)

    @app.get("/health")
    async def get_health() -> Response:
        return JSONResponse(health(service))

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type="text/plain; version=0.0.4")

    return app


class _SandboxServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End cleanly, with status 0, on SIGINT and SIGTERM: uvicorn's own raises the signal again
        afterwards.
        """
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int, protected: bool) -> socket.socket:
    """The bound socket.

    Raises UsageError for an address that others can reach without a key, or that is taken.
    """
    if not protected and not is_loopback(host):
        raise UsageError(f"{host} can be reached by other machines: give --api-key or --allow, or listen on 127.0.0.1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, since asyncio switches Nagle's delay off (40 ms a small answer) only
    # where it is.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host.strip("[]"), port))
    except OSError as error:
        bound.close()
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return bound


def serve(
    grade: Grade,
    *,
    host: str,
    port: int,
    slots: int | None,
    api_key: str | None,
    limits: ServerLimits,
    unsafe: bool,
    allow: Sequence[str] = (),
) -> None:
    """Serve until SIGINT or SIGTERM. Raises UsageError where no safe jail is possible, before
    anything listens.
    """
    allowed = networks(allow)
    bound = listen(host, port, bool(api_key or allowed))
    with bound, Sandbox(slots, unsafe=unsafe, max_sessions=limits.sessions) as sandbox:
        level = sandbox.level
        service = Service(sandbox, grade, limits)
        config = uvicorn.Config(
            create_app(service, api_key, allowed),
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
        _SandboxServer(config).run(sockets=[bound])
