"""A pool of worker processes that can be killed: the only place where sympy runs.

A worker imports once and forks a child for each request. What a child may use is counted in ways
that do not depend on what else the machine does:

1. Allocation: the number of collections of the youngest garbage-collector generation. The same
   request makes the same number of them on every run, so whether a pair is decided is repeatable.
2. CPU time (ITIMER_PROF), for work that allocates little, well above what 1. lets pass on a busy
   machine.
3. Memory (RLIMIT_AS).

Only a worker that gives no sign of life for `WALL_CAP_S` is killed by the clock, and that is an
infrastructure error. Usable from any thread and from asyncio (`asyncio.to_thread`), across forks of
the parent. Uses no signals in the parent. Does not cover: a memory limit on systems that ignore
RLIMIT_AS (macOS), and Windows.

Parent and worker speak JSON with a four-byte length before it, over a socket pair. A worker ends
when its socket closes, so none outlives its parent by more than the CPU limit.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
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

WALL_CAP_S = 120.0  # for start and request alike; a CPU-bound request takes that long only where nothing runs at all
MEMORY_LIMIT_BYTES = 512 * 1024 * 1024
MAX_MESSAGE_BYTES = 1 << 20
BUSY = 1.5  # wall over CPU seconds: past this other work shares the cores, and CPU seconds do less
_LENGTH = struct.Struct("!I")
_NO_ALLOCATIONS_LEFT = 75  # exit status of a child
# Deaths that the request itself causes: its CPU limit, a stack overflow, an abort in C code.
_OWN_FAULT = {-signal.SIGPROF, -signal.SIGXCPU, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS}


class OverLimit(Exception):
    """The request needs more CPU time, allocations or memory than it may have.

    `retry`: a quieter machine might do it.
    """

    def __init__(self, reason: str, retry: bool = False) -> None:
        super().__init__(reason)
        self.retry = retry


class Worker:
    """One process, one request at a time. Not for sharing between threads: `Pool` sees to that."""

    def __init__(self, module: str) -> None:
        ours, theirs = socket.socketpair()
        env = dict(
            os.environ,
            PYTHONPATH=os.pathsep.join(p for p in sys.path if p),
            OMP_NUM_THREADS="1",
            PYTHONHASHSEED="0",  # the order of sympy's sets, and with it the work done, is the same every time
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

    def request(self, payload: dict[str, Any], limit_s: float, collections: int | None = None) -> dict[str, Any]:
        """The worker's reply.

        OverLimit past the limits, InfraError where the worker died or gave no sign of life.
        """
        limits = {"limit_s": limit_s, "collections": collections}
        deadline = time.monotonic() + WALL_CAP_S
        try:
            if not self.ready:
                receive(self._socket, deadline)
                self.ready = True
            started = time.monotonic()
            send(self._socket, {"payload": payload, **limits})
            reply = receive(self._socket, started + WALL_CAP_S)
        except TimeoutError:
            what = "decide" if self.ready else "start"
            self.kill()
            raise InfraError(f"a verifier worker did not {what} within {WALL_CAP_S:.0f} s of wall time") from None
        except OSError as error:
            self.kill()
            raise InfraError(f"a verifier worker died with status {self._process.returncode}: {error}") from None
        if "status" in reply:
            seconds = time.monotonic() - started
            if reply["status"] == -signal.SIGPROF:
                raise OverLimit(f"no decision within {limit_s:g} s of CPU time", retry=seconds > BUSY * limit_s)
            if reply["status"] == _NO_ALLOCATIONS_LEFT:
                raise OverLimit(f"no decision within {collections} garbage collections")
            if reply["status"] in _OWN_FAULT:
                raise OverLimit(f"the worker overran its limits ({signal.Signals(-reply['status']).name})")
            raise InfraError(f"a verifier worker's child died with status {reply['status']}")
        if "over" in reply:
            raise OverLimit(reply["over"])
        return reply["reply"]

    def kill(self) -> None:
        """End the worker and the child that it may have. A second call does nothing."""
        if self._socket.fileno() < 0:
            return
        self._socket.close()
        if self._process.poll() is None:
            # A worker that is dying on its own gets a moment, so that its own status can be read.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05 if self.ready else 0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
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

    def request(self, payload: dict[str, Any], limit_s: float, collections: int | None = None) -> dict[str, Any]:
        """A worker's reply within `limit_s` of CPU time and `collections` of the youngest
        generation (None: any number).

        Tried once more where a worker died, or where the CPU time ran out on a busy machine.
        OverLimit past the limits; InfraError where two workers in a row died or could not be
        started.
        """
        with self._permits:
            try:
                return self._try(payload, limit_s, collections)
            except InfraError:
                return self._try(payload, limit_s, collections)
            except OverLimit as over:
                if not over.retry:
                    raise
                return self._try(payload, limit_s, collections)

    def _try(self, payload: dict[str, Any], limit_s: float, collections: int | None) -> dict[str, Any]:
        with self._lock:
            ready = [w for w in self._idle if w.ready] or self._idle
            worker = ready[-1] if ready else None
            if worker is not None:
                self._idle.remove(worker)
        worker = worker or Worker(self._module)
        with self._lock:
            self._busy.add(worker)
        keep = False
        try:
            reply = worker.request(payload, limit_s, collections)
            keep = True
            return reply
        except OverLimit:
            keep = True  # only its child is gone
            raise
        finally:
            with self._lock:
                self._busy.discard(worker)
                if keep:
                    self._idle.append(worker)
            if not keep:
                worker.kill()

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
    """The worker's side: answer each request with `handle(payload) -> dict`, in a child, until the
    socket closes.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a parent that ignores it would leave no status to wait for
    channel = socket.socket(fileno=fd)
    gc.collect()
    gc.freeze()  # what is imported is neither scanned again nor copied by the children's collections
    send(channel, {"ready": True})
    while True:
        try:
            message = receive(channel)
        except OSError:
            return
        child = os.fork()
        if child == 0:
            _answer(handle, channel, message)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != 0:
            send(channel, {"status": status})


def _answer(handle: Any, channel: socket.socket, message: dict[str, Any]) -> None:
    """The child: one reply, then the end.

    Ends with `_NO_ALLOCATIONS_LEFT` or by SIGPROF past the limits.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    if message["collections"] is not None:
        gc.collect()  # what the worker allocated since its start differs from request to request, and is not counted
        gc.callbacks.append(_count_down(message["collections"]))
    signal.setitimer(signal.ITIMER_PROF, message["limit_s"])
    try:
        reply = {"reply": handle(message["payload"])}
    except (MemoryError, RecursionError) as error:
        reply = {"over": f"{type(error).__name__} within the worker's limits"}
    except BaseException:  # noqa: BLE001  # the parent learns the status, and nothing runs the worker's own exit handlers twice
        os._exit(70)
    signal.setitimer(signal.ITIMER_PROF, 0)
    gc.callbacks.clear()
    send(channel, reply)
    os._exit(0)


def _count_down(left: int) -> Any:
    def count(phase: str, info: dict[str, int]) -> None:
        nonlocal left
        if phase == "start" and info["generation"] == 0:
            left -= 1
            if left < 0:
                os._exit(_NO_ALLOCATIONS_LEFT)

    return count
