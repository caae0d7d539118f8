"""A pool of worker processes that can be killed: the only place where sympy runs.

Covers: a wall limit per request (the worker is killed and replaced), a memory limit (RLIMIT_AS, in the
worker), a CPU limit that the kernel enforces even where the parent is gone, use from any thread and from
asyncio (`asyncio.to_thread`), forks of the parent. Uses no signals in the parent. Does not cover: a memory
limit on systems that ignore RLIMIT_AS (macOS), and Windows.

Parent and worker speak JSON with a four-byte length before it, over a socket pair. A worker ends when its
socket closes, so none outlives its parent by more than the CPU limit.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any

from qwq.errors import InfraError

START_LIMIT_S = 60.0
MEMORY_LIMIT_BYTES = 512 * 1024 * 1024
MAX_MESSAGE_BYTES = 1 << 20
_LENGTH = struct.Struct("!I")
# Deaths that the request itself causes: its CPU limit, a stack overflow, an abort in C code.
_OWN_FAULT = {-signal.SIGXCPU, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS}


class OverLimit(Exception):
    """The request needs more time or memory than it may have."""


class Worker:
    """One process, one request at a time. Not for sharing between threads: `Pool` sees to that."""

    def __init__(self, module: str) -> None:
        ours, theirs = socket.socketpair()
        env = dict(
            os.environ,
            PYTHONPATH=os.pathsep.join(p for p in sys.path if p),
            OMP_NUM_THREADS="1",
        )
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=env,
                start_new_session=True,  # Ctrl-C in the terminal is the parent's to handle
            )
        except OSError as error:
            ours.close()
            raise InfraError(f"could not start a verifier worker ({module}): {error}") from error
        finally:
            theirs.close()
        self._socket = ours
        self.ready = False

    def request(self, payload: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """The worker's reply. OverLimit past the limit, InfraError where the worker died of something else."""
        try:
            if not self.ready:
                receive(self._socket, time.monotonic() + START_LIMIT_S)
                self.ready = True
            self._socket.settimeout(limit_s)
            send(self._socket, payload | {"limit_s": limit_s})
            reply = receive(self._socket, time.monotonic() + limit_s)
        except TimeoutError:
            started = self.ready
            self.kill()
            if not started:
                raise InfraError(f"a verifier worker did not start within {START_LIMIT_S:.0f} s") from None
            raise OverLimit(f"no decision within {limit_s:g} s") from None
        except OSError as error:
            self.kill()
            status = self._process.returncode
            if self.ready and status in _OWN_FAULT:
                raise OverLimit(f"the worker overran its limits ({signal.Signals(-status).name})") from None
            raise InfraError(f"a verifier worker died with status {status}: {error}") from None
        if reply.get("over"):
            self.kill()  # what a MemoryError leaves behind is not worth keeping
            raise OverLimit(reply["over"])
        return reply

    def kill(self) -> None:
        self._socket.close()
        if self._process.poll() is None:
            # A worker that is dying on its own gets a moment, so that its own status can be read.
            try:
                self._process.wait(0.05 if self.ready else 0)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid


class Pool:
    """At most `size` workers, started when first needed, each used by one thread at a time."""

    def __init__(self, module: str, size: int = 2) -> None:
        self._module = module
        self._size = size
        self._reset()
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._reset)  # a forked child must not speak on its parent's sockets

    def _reset(self) -> None:
        self._permits = threading.BoundedSemaphore(self._size)
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()

    def request(self, payload: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """A worker's reply within `limit_s` of its start on the request (waiting for a free worker is not counted).

        OverLimit past the limits; InfraError where two workers in a row died or could not be started.
        """
        with self._permits:
            try:
                return self._try(payload, limit_s)
            except InfraError:
                return self._try(payload, limit_s)

    def _try(self, payload: dict[str, Any], limit_s: float) -> dict[str, Any]:
        with self._lock:
            ready = [w for w in self._idle if w.ready] or self._idle
            worker = ready[-1] if ready else None
            if worker is not None:
                self._idle.remove(worker)
        worker = worker or Worker(self._module)
        with self._lock:
            self._busy.add(worker)
        try:
            reply = worker.request(payload, limit_s)
        except BaseException as error:
            worker.kill()
            if isinstance(error, OverLimit):  # it will be missed: let its successor import while nobody waits
                with self._lock:
                    self._idle.append(Worker(self._module))
            raise
        else:
            with self._lock:
                self._idle.append(worker)
            return reply
        finally:
            with self._lock:
                self._busy.discard(worker)

    def warm(self) -> None:
        """Start the workers now, so that the first request does not wait for imports."""
        with self._lock:
            missing = self._size - len(self._idle) - len(self._busy)
            self._idle.extend(Worker(self._module) for _ in range(missing))

    def pids(self) -> list[int]:
        with self._lock:
            return [w.pid for w in (*self._idle, *self._busy)]

    def close(self) -> None:
        """Kill all workers. The pool can be used again; it starts new ones."""
        with self._lock:
            workers, self._idle, self._busy = [*self._idle, *self._busy], [], set()
        for worker in workers:
            worker.kill()


def send(channel: socket.socket, payload: dict[str, Any]) -> None:
    data = json.dumps(payload).encode()
    channel.sendall(_LENGTH.pack(len(data)) + data)


def receive(channel: socket.socket, deadline: float | None = None) -> dict[str, Any]:
    """One message. TimeoutError past the deadline, ConnectionError where the other side is gone."""
    length = _LENGTH.unpack(_read(channel, _LENGTH.size, deadline))[0]
    if length > MAX_MESSAGE_BYTES:
        raise ConnectionError(f"a message of {length} bytes, at most {MAX_MESSAGE_BYTES} are allowed")
    return json.loads(_read(channel, length, deadline))


def _read(channel: socket.socket, size: int, deadline: float | None) -> bytes:
    data = b""
    while len(data) < size:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            channel.settimeout(left)
        part = channel.recv(size - len(data))
        if not part:
            raise ConnectionError("the other side closed the connection")
        data += part
    return data


def serve(handle: Any, fd: int) -> None:
    """The worker's side: answer requests with `handle(payload) -> dict` until the socket closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = socket.socket(fileno=fd)
    send(channel, {"ready": True})
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    while True:
        try:
            payload = receive(channel)
        except OSError:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu_limit = int(used.ru_utime + used.ru_stime + payload["limit_s"]) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_limit, hard))
        try:
            reply = handle(payload)
        except (MemoryError, RecursionError) as error:
            send(channel, {"over": f"{type(error).__name__} within the worker's limits"})
            return
        send(channel, reply)
