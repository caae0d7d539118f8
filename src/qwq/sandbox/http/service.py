"""Between the HTTP server and the pool: a bounded queue, one job per item, metrics.

Everything here runs in the server's one event loop, but for `_perform`, which runs in as many
threads as there are slots. A job that several callers wait for (the same id and the same content,
as after a lost connection) runs once, and is killed when the last of them has gone.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from qwq.errors import InfraError, UsageError
from qwq.sandbox.http.protocol import ExecuteItem, VerifyItem, execution_to_dict
from qwq.sandbox.limits import Limits
from qwq.sandbox.pool import Sandbox
from qwq.sandbox.runner import Runner
from qwq.sandbox.slot import Cancel, Cancelled

Grade = Callable[[VerifyItem, Runner], Mapping[str, Any]]

HELD_BACK = 4096  # requests that wait for room in the queue
_KEPT_RESULTS = 4096
_KEPT_BYTES = 64 << 20
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Full(Exception):
    """The queue has no room; `retry_after_s` is when it may have."""

    def __init__(self, retry_after_s: int):
        super().__init__(f"the queue is full: try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one request may ask for, and how much may wait."""

    queue: int = 1024
    hold_s: float = 300.0
    timeout_s: float = 120.0
    memory_mb: int = 4096
    output_bytes: int = 16 << 20
    body_bytes: int = 64 << 20
    sessions: int = 4
    session_idle_s: float = 900.0
    session_total_s: float = 3600.0


@dataclass(slots=True, eq=False)
class QueuedRun:
    """One run, queued or running, and how many callers still want it."""

    key: bytes
    cancel: Cancel = field(default_factory=Cancel)
    future: asyncio.Future[dict[str, Any]] | None = None
    waiting: int = 0


class SandboxMetrics:
    """Counters for /metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kept = self.registry
        self.runs = Counter("qwq_sandbox_runs", "Finished items by kind and result", ["kind", "result"], registry=kept)
        self.seconds = Histogram("qwq_sandbox_run_seconds", "From start to result", buckets=_BUCKETS, registry=kept)
        self.queued_seconds = Histogram(
            "qwq_sandbox_queue_seconds", "From arrival to start", buckets=_BUCKETS, registry=kept
        )
        self.rejected = Counter("qwq_sandbox_rejected", "Items refused because the queue was full", registry=kept)
        self.cancelled = Counter("qwq_sandbox_cancelled", "Items given up by their caller", registry=kept)
        self.joined = Counter("qwq_sandbox_joined", "Items answered by a run that was already there", registry=kept)
        self.held = Gauge("qwq_sandbox_items", "Items admitted and not yet answered", registry=kept)
        self.running = Gauge("qwq_sandbox_running", "Items that run now", registry=kept)
        self.slots = Gauge("qwq_sandbox_slots", "Slots", registry=kept)
        self.sessions = Gauge("qwq_sandbox_sessions", "Sessions that are open", registry=kept)
        self.cells = Counter("qwq_sandbox_cells", "Cells of sessions by how they ended", ["status"], registry=kept)
        self.replaced = Gauge("qwq_sandbox_slots_replaced", "Slots that died and were replaced", registry=kept)


class Service:
    """Runs items on a sandbox.

    `grade` judges items of kind "verify"; it is handed in, for it lies above this package.
    """

    def __init__(self, sandbox: Sandbox, grade: Grade, limits: ServerLimits):
        self.sandbox = sandbox
        self.limits = limits
        self.metrics = SandboxMetrics()
        self.metrics.slots.set(sandbox.slots)
        self.window = max(4, 2 * sandbox.slots)  # items of one batch under way: bounds what unsent results take
        self._grade = grade
        self._held = 0
        self._held_back: deque[asyncio.Future[None]] = deque()
        self._jobs: dict[bytes, QueuedRun] = {}
        self._results: OrderedDict[bytes, tuple[int, dict[str, Any]]] = OrderedDict()
        self._result_bytes = 0
        self._mean_s = 0.05
        self._threads = ThreadPoolExecutor(sandbox.slots, "slot")

    @property
    def held(self) -> int:
        return self._held

    def admit(self, count: int) -> None:
        """Take `count` items in, or raise Full: nothing waits beyond the queue.

        `discharge` lets each go again.
        """
        if self._held + count > self.limits.queue:
            self.metrics.rejected.inc(count)
            wait_s = math.ceil(self._held * self._mean_s / self.sandbox.slots)
            raise Full(min(60, max(1, wait_s)))
        self._held += count
        self.metrics.held.set(self._held)

    async def admit_held(self, limit_s: float) -> None:
        """Take one item in as soon as there is room; raise Full where there is none for `limit_s`,
        or too many wait.
        """
        deadline = time.monotonic() + limit_s
        while True:
            try:
                return self.admit(1)
            except Full:
                left = deadline - time.monotonic()
                if left <= 0 or len(self._held_back) >= HELD_BACK:
                    raise
                room = asyncio.get_running_loop().create_future()
                self._held_back.append(room)
                try:
                    await asyncio.wait_for(room, left)
                except TimeoutError:
                    continue
                finally:
                    with contextlib.suppress(ValueError):
                        self._held_back.remove(room)

    def discharge(self, count: int) -> None:
        self._held -= count
        self.metrics.held.set(self._held)
        for _ in range(min(count, len(self._held_back))):
            room = self._held_back.popleft()
            if not room.done():
                room.set_result(None)

    def check(self, item: ExecuteItem | VerifyItem) -> None:
        """Raise UsageError for limits beyond the server's."""
        asked = item.limits if isinstance(item, ExecuteItem) else item
        for name, value, most in (
            ("timeout_s", max(asked.timeout_s, getattr(asked, "total_timeout_s", None) or 0), self.limits.timeout_s),
            ("memory_mb", asked.memory_mb, self.limits.memory_mb),
            ("output_limit_bytes", asked.output_limit_bytes or 1, self.limits.output_bytes),
            (
                "compile_timeout_s",
                getattr(getattr(item, "request", item), "compile_timeout_s", 1),
                self.limits.timeout_s,
            ),
        ):
            if value > most:
                raise UsageError(f"{name} is {value:g}, this server allows up to {most:g}")

    def submit(self, item: ExecuteItem | VerifyItem) -> QueuedRun:
        """Start or join a job.

        The caller awaits `job.future` and calls `release` when it no longer wants it.
        """
        key = hashlib.sha256(item.model_dump_json().encode(errors="surrogatepass")).digest()
        job = self._jobs.get(key) if item.id else None
        if job is None:
            job = QueuedRun(key)
            known = self._results.get(key) if item.id else None
            loop = asyncio.get_running_loop()
            if known is not None:
                self.metrics.joined.inc()
                job.future = loop.create_future()
                job.future.set_result(known[1])
            else:
                job.future = loop.create_task(self._run(job, item))
                if item.id:
                    self._jobs[key] = job
        else:
            self.metrics.joined.inc()
        job.waiting += 1
        return job

    def release(self, job: QueuedRun) -> None:
        """One caller less; a job that nobody wants is killed, or dropped where it has not
        started.
        """
        job.waiting -= 1
        if job.waiting == 0 and job.future is not None and not job.future.done():
            self._jobs.pop(job.key, None)
            job.cancel.set()
            self.metrics.cancelled.inc()

    async def _run(self, job: QueuedRun, item: ExecuteItem | VerifyItem) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._threads, self._perform, item, job.cancel, time.monotonic())
        finally:
            if self._jobs.get(job.key) is job:
                del self._jobs[job.key]
        if item.id and "error" not in result:
            self._keep(job.key, result)
        return result

    def _keep(self, key: bytes, result: dict[str, Any]) -> None:
        """Remember a result, so that a caller whose connection broke gets it without another
        run.
        """
        execution = result.get("execution") or {}
        size = 500 + sum(len(execution.get(part, "")) for part in ("stdout", "stderr", "records"))
        if size > _KEPT_BYTES // 64:
            return
        self._results[key] = (size, result)
        self._result_bytes += size
        while len(self._results) > _KEPT_RESULTS or self._result_bytes > _KEPT_BYTES:
            self._result_bytes -= self._results.popitem(last=False)[1][0]

    def _perform(self, item: ExecuteItem | VerifyItem, cancel: Cancel, arrived: float) -> dict[str, Any]:
        """One item, in a thread. A fault of ours is an error of its own kind, never a result."""
        started = time.monotonic()
        self.metrics.queued_seconds.observe(started - arrived)
        self.metrics.running.inc()
        try:
            if cancel.is_set():
                raise Cancelled("the caller gave the run up")
            result = self._result(item, self.sandbox.cancellable(cancel))
        except Cancelled as error:
            result = {"error": {"kind": "cancelled", "message": str(error)}}
        except InfraError as error:
            result = {"error": {"kind": "infra", "message": str(error)}}
        except UsageError as error:
            result = {"error": {"kind": "usage", "message": str(error)}}
        finally:
            self.metrics.running.dec()
        seconds = time.monotonic() - started
        self._mean_s += 0.05 * (seconds - self._mean_s)
        self.metrics.seconds.observe(seconds)
        self.metrics.runs.labels(item.kind, _result_name(result)).inc()
        self.metrics.replaced.set(self.sandbox.num_replaced)
        return result

    def _result(self, item: ExecuteItem | VerifyItem, runner: Runner) -> dict[str, Any]:
        if isinstance(item, VerifyItem):
            return {"verdict": dict(self._grade(item, runner))}
        limits = Limits(
            item.limits.timeout_s,
            item.limits.memory_mb,
            item.limits.output_limit_bytes,
            each_record=item.limits.each_record,
            total_timeout_s=item.limits.total_timeout_s,
        )
        done = runner._execute(item.request.model_dump(), base64.b64decode(item.stdin), limits)
        return {"execution": execution_to_dict(done)}

    def close(self) -> None:
        """Kill what runs, drop what waits, end the slots."""
        for job in self._jobs.values():
            job.cancel.set()
        self.sandbox.close()
        self._threads.shutdown(wait=True, cancel_futures=True)


def _result_name(result: Mapping[str, Any]) -> str:
    if "error" in result:
        return str(result["error"]["kind"])
    return str(result["verdict"]["outcome"] if "verdict" in result else result["execution"]["status"])
