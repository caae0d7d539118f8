"""The parent's side of one slot: starts its process, sends one run at a time, reads what comes back.

The parent alone reads the program's output and enforces the wall limit and the output caps; the slot's process
(`jail/zygote.py`) only forks, waits and kills.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from qwq.errors import InfraError
from qwq.sandbox import cgroup, languages, watchdog
from qwq.sandbox.clock import Clock
from qwq.sandbox.jail.zygote import EXIT_PACKET
from qwq.sandbox.policy import (
    PREIMPORT,
    RESULT_LIMIT_BYTES,
    ZYGOTE_MB,
    Level,
    Limits,
    RunStatus,
    environment,
    interpreter_files,
)
from qwq.sandbox.runner import Execution

START_TIMEOUT_S = 60.0
KILL_TIMEOUT_S = 20.0
STARTED = b"R\n"  # written by the child just before the program is loaded
_CHUNK = 1 << 16
_PIPE_BYTES = 1 << 20
_SCRATCH = re.compile(r"qwq-(\d+)-[0-9a-f]+-\d+-")


class Cancelled(InfraError):
    """The caller gave the run up."""


class Cancel:
    """Lets another thread end the run that was started with it. Once set it stays set: what is yet to start, does not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slot: Slot | None = None
        self._set = False

    def set(self) -> None:
        with self._lock:
            self._set = True
            if self._slot is not None:
                self._slot.wake()

    def is_set(self) -> bool:
        return self._set

    def enter(self, slot: Slot) -> None:
        with self._lock:
            if self._set:
                raise Cancelled("the caller gave the run up")
            self._slot = slot

    def leave(self) -> None:
        with self._lock:
            self._slot = None


def _sealed_memory(name: str, data: bytes) -> int:
    """A read-only in-memory file at offset 0."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def _remove_stale_scratch() -> None:
    """Working folders of a process of ours that was killed."""
    for entry in os.scandir(tempfile.gettempdir()):
        match = _SCRATCH.match(entry.name)
        if match and entry.is_dir(follow_symlinks=False) and not os.path.exists(f"/proc/{match[1]}"):
            if os.geteuid() in (0, entry.stat(follow_symlinks=False).st_uid):
                shutil.rmtree(entry.path, ignore_errors=True)


class _Pipes:
    """The parent's ends of stdout, stderr and the result channel, and what was read from them."""

    def __init__(self, limits: Limits, own_uid: int | None, stdout: int | None):
        self.limit = limits.output_limit_bytes
        self.read_ends: list[int] = []
        self.write_ends: list[int] = []
        for _ in range(3):
            read, write = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(read, False)
            self.read_ends.append(read)
            self.write_ends.append(write)
            if own_uid is not None:
                os.fchown(write, own_uid, own_uid)  # so that the program may open /dev/stdout
        with contextlib.suppress(OSError):
            # node leaves at its end what a full pipe has not taken.
            fcntl.fcntl(self.write_ends[0], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        if stdout is not None:  # goes to another run
            os.close(self.write_ends[0])
            self.write_ends[0] = stdout
        self.data = [bytearray(), bytearray(), bytearray()]
        self.open = set(self.read_ends)
        self.records = 0

    def read(self, fd: int) -> bool:
        """Take what is there; False at the end of the stream or where nothing is there."""
        try:
            chunk = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self.open.discard(fd)
            return False
        stream = self.read_ends.index(fd)
        self.data[stream] += chunk
        if stream == 2:
            self.records += chunk.count(b"\n")
        return True

    def too_much(self) -> bool:
        return len(self.data[0]) + len(self.data[1]) > self.limit or len(self.data[2]) > RESULT_LIMIT_BYTES

    def drain(self) -> None:
        for fd in list(self.open):
            while not self.too_much() and self.read(fd):
                pass

    def close_write_ends(self) -> None:
        for fd in self.write_ends:
            os.close(fd)
        self.write_ends = []

    def close(self) -> None:
        self.close_write_ends()
        for fd in self.read_ends:
            os.close(fd)


class Slot:
    """One jail, used by one thread at a time. Raises InfraError where the machinery fails; it is dead after that."""

    def __init__(self, level: Level, own_uid: int | None, name: str, *, tools: bool = False, cgroups: bool = True):
        self.level = level
        self.own_uid = own_uid
        self.name = name
        self.dead = False
        self._control, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._files = interpreter_files()
        self._tools = tools
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._scratch: str | None = None
        if level is not Level.NAMESPACES:
            _remove_stale_scratch()
            self._scratch = tempfile.mkdtemp(prefix=f"{name}-")
            if own_uid is not None:
                os.chown(self._scratch, own_uid, own_uid)
        zygote = Path(__file__).with_name("jail") / "zygote.py"
        command = [self._files.executable, "-s", "-P", "-S", "-B", "-X", "utf8", str(zygote), str(child_end.fileno())]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[child_end.fileno()],
            env=environment(),
            cwd="/",
            start_new_session=True,
        )
        child_end.close()
        self.group = cgroup.create(name, self._process.pid) if cgroups else None
        self._start()

    def _start(self) -> None:
        read_only, links = self._files.read_only, self._files.links
        if self._tools:
            more, more_links = languages.tool_files()
            read_only = more + [path for path in read_only if not any(path.startswith(m + "/") for m in more)]
            links = links | more_links
        config = {
            "level": self.level.value,
            "read_only": read_only,
            "hidden": self._files.hidden,
            "links": links,
            "path": self._files.search_path,
            "own_uid": self.own_uid,
            "environment": environment(),
            "preimport": [] if self._tools else [*PREIMPORT, *self._files.preimport],
            "scratch": self._scratch,
            "cgroup": self.group is not None,
        }
        self._control.settimeout(START_TIMEOUT_S)
        try:
            self._control.send(json.dumps(config).encode())
            answer = self._control.recv(1 << 16)
        except OSError as error:
            raise self._fail(f"no answer from the slot's process: {error}") from error
        if not answer:
            raise self._fail("the slot's process ended while starting")
        reply = json.loads(answer)
        if "error" in reply:
            raise self._fail(reply["error"])

    def _fail(self, what: str) -> InfraError:
        """Close the slot; the error says what its process wrote last."""
        self.dead = True
        self._process.kill()
        _, stderr = self._process.communicate()
        self.close()
        last = stderr.decode(errors="replace").strip().splitlines()[-1:]
        return InfraError(": ".join([f"sandbox slot at level {self.level}", what, *last]))

    def wake(self) -> None:
        """Called from another thread: the run in progress is to be killed."""
        os.eventfd_write(self._wake, 1)

    def execute(
        self,
        payload: bytes,
        stdin: bytes | int,
        limits: Limits,
        cancel: Cancel | None = None,
        stdout: int | None = None,
    ) -> Execution:
        """Run one request to its end. The payload is what `jail/child.py` reads. Raises Cancelled if given up.

        `stdin` and `stdout` may be descriptors, which are closed here.
        """
        if cancel is None:
            return self._execute(payload, stdin, limits, stdout)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)  # a wake that came too late for an earlier run
        cancel.enter(self)
        try:
            done = self._execute(payload, stdin, limits, stdout)
        finally:
            cancel.leave()
        if cancel.is_set():
            raise Cancelled("the caller gave the run up")
        return done

    def _execute(self, payload: bytes, stdin: bytes | int, limits: Limits, stdout: int | None) -> Execution:
        if self.group is not None:
            self.group.set_limits((limits.memory_mb + 2 * limits.box_mb + ZYGOTE_MB) << 20, limits.processes + 8)
        pipes = _Pipes(limits, self.own_uid, stdout)
        started = time.monotonic()
        try:
            self._send(payload, stdin, limits, pipes)
            early, packet = self._watch(pipes, limits)
            pipes.drain()
        finally:
            pipes.close()
        seconds = time.monotonic() - started
        if early is None and pipes.too_much():
            early = RunStatus.OUTPUT_LIMIT
        stdout, stderr, records = (bytes(data) for data in pipes.data)
        if not records.startswith(STARTED):
            if early is RunStatus.TIMEOUT:  # there is no clock yet, so it was given up
                raise Cancelled("the caller gave the run up")
            raise self._fail(f"a run could not be set up: {stderr.decode(errors='replace')[:300]}")
        status, cpu_s, peak_kib = EXIT_PACKET.unpack(packet)
        exit_code = os.waitstatus_to_exitcode(status)
        killed = exit_code == -signal.SIGKILL or limits.supervises  # a supervisor says later how its command ended
        out_of_memory = self.group is not None and self.group.ran_out_of_memory() and killed
        ended = early or status_of(exit_code, cpu_s, limits, records, out_of_memory)
        cap = limits.output_limit_bytes
        return Execution(
            ended,
            exit_code,
            stdout[:cap],
            stderr[:cap],
            records[len(STARTED) :],
            seconds,
            cpu_s,
            memory_mb=round(peak_kib / 1024, 1),
        )

    def _send(self, payload: bytes, stdin: bytes | int, limits: Limits, pipes: _Pipes) -> None:
        given = stdin if isinstance(stdin, int) else _sealed_memory("stdin", stdin)
        inputs = [_sealed_memory("payload", payload), given]
        try:
            fds = array.array("i", inputs + pipes.write_ends)
            message = json.dumps(limits.packet()).encode()
            self._control.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        except OSError as error:
            raise self._fail(f"the slot's process is gone: {error}") from error
        finally:
            for fd in inputs:
                os.close(fd)
            pipes.close_write_ends()

    def _watch(self, pipes: _Pipes, limits: Limits) -> tuple[RunStatus | None, bytes]:
        """Read until the slot reports the end of the run. Returns why it was killed, if it was, and the report."""
        poller = select.poll()
        for fd in (self._control.fileno(), self._wake, *pipes.read_ends):
            poller.register(fd, select.POLLIN)
        watched = self._process.pid if self.group is None else None
        guard = watchdog.Watchdog(watched, self._scratch, limits) if watched or self._scratch else None
        clock: Clock | None = None  # from when the program is loaded on
        records = 0
        killed: RunStatus | None = None
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            wait_s = max(0.0, (deadline if clock is None or killed else clock.due) - time.monotonic())
            events = poller.poll((wait_s if guard is None or killed else min(wait_s, guard.period_s)) * 1000)
            given_up = False
            for fd, _ in events:
                if fd == self._control.fileno():
                    return killed, self._exit_packet()
                if fd == self._wake:
                    poller.unregister(fd)
                    given_up = True
                    continue
                ended = not pipes.read(fd) and fd not in pipes.open
                if ended or (killed and pipes.too_much()):
                    poller.unregister(fd)
            if clock is None and pipes.data[2].startswith(STARTED):
                clock = Clock(self._process.pid, limits)
            elif clock is not None and limits.each_record and pipes.records > records:
                records = pipes.records
                clock.case_done()
            if killed:
                if time.monotonic() >= deadline:
                    raise self._fail(f"a run did not end within {KILL_TIMEOUT_S} s of being killed")
                continue
            if clock is None and time.monotonic() >= deadline:
                raise self._fail(f"the jail was not ready within {START_TIMEOUT_S:g} s: the machine is overloaded")
            if clock is not None and clock.says_nothing():
                raise self._fail("a run had too little of the machine to be judged: it is overloaded")
            over = given_up or (clock is not None and clock.is_over())
            killed = RunStatus.OUTPUT_LIMIT if pipes.too_much() else RunStatus.TIMEOUT if over else None
            if killed is None and guard is not None:
                killed = guard.look()
            if killed:
                deadline = time.monotonic() + KILL_TIMEOUT_S
                try:
                    self._control.send(b"K")
                except OSError as error:
                    raise self._fail(f"the slot's process is gone: {error}") from error

    def _exit_packet(self) -> bytes:
        try:
            packet = self._control.recv(64)
        except ConnectionError:  # the slot died with a message of ours unread
            packet = b""
        if len(packet) != EXIT_PACKET.size:
            raise self._fail("the slot's process died during a run")
        return packet

    def close(self) -> None:
        """End the slot's process and all below it. Safe to call twice."""
        self.dead = True
        self._control.close()
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()
        if self.group is not None:
            self.group.remove()
            self.group = None
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def abandon(self) -> None:
        """In a forked copy of the parent: let go of the descriptors, leave the processes to their owner."""
        self.dead = True
        with contextlib.suppress(OSError):
            self._control.close()
            os.close(self._wake)


def status_of(exit_code: int, cpu_s: float, limits: Limits, records: bytes, out_of_memory: bool) -> RunStatus:
    """The status of a run that was not killed by us; `out_of_memory` is what the run's memory group says."""
    if out_of_memory:
        return RunStatus.MEMORY
    if exit_code in (-9, -24) and cpu_s >= limits.cpu_limit_s - 1:  # SIGKILL that we did not send, or SIGXCPU
        return RunStatus.TIMEOUT
    if exit_code != 0 and b'"e": ["MemoryError"' in records[-200:]:
        return RunStatus.MEMORY
    return RunStatus.OK if exit_code == 0 else RunStatus.ERROR
