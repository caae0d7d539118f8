"""The parent's side of one slot: starts its process, sends one run at a time, reads what comes
back.

The parent alone reads the program's output and enforces the wall limit and the output caps; the
slot's process (`jail/zygote.py`) only forks, waits and kills.
"""

from __future__ import annotations

import array
import contextlib
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

from qwq.errors import InfraError
from qwq.sandbox import cgroup, languages, watchdog
from qwq.sandbox.clock import Clock
from qwq.sandbox.jail.zygote import EXIT_PACKET
from qwq.sandbox.limits import (
    ZYGOTE_MB,
    Level,
    Limits,
    RunStatus,
    interpreter_files,
)
from qwq.sandbox.pipes import Pipes, sealed_memory
from qwq.sandbox.runner import Execution
from qwq.sandbox.slot_process import START_TIMEOUT_S, Forked, Template, imports, spawn

KILL_TIMEOUT_S = 20.0
STARTED = b"R\n"  # written by the child just before the program is loaded
_SCRATCH = re.compile(r"qwq-(\d+)-[0-9a-f]+-\d+-")


class Cancelled(InfraError):
    """The caller gave the run up."""


class Cancel:
    """Lets another thread end the run that was started with it.

    Once set it stays set: what is yet to start, does not.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slot: JailSlot | None = None
        self._set = False

    def set(self) -> None:
        with self._lock:
            self._set = True
            if self._slot is not None:
                self._slot.wake()

    def is_set(self) -> bool:
        return self._set

    def enter(self, slot: JailSlot) -> None:
        with self._lock:
            if self._set:
                raise Cancelled("the caller gave the run up")
            self._slot = slot

    def leave(self) -> None:
        with self._lock:
            self._slot = None


def _remove_stale_scratch() -> None:
    """Working folders of a process of ours that was killed."""
    for entry in os.scandir(tempfile.gettempdir()):
        match = _SCRATCH.match(entry.name)
        stale = match and entry.is_dir(follow_symlinks=False) and not os.path.exists(f"/proc/{match[1]}")
        if stale and os.geteuid() in (0, entry.stat(follow_symlinks=False).st_uid):
            shutil.rmtree(entry.path, ignore_errors=True)


class JailSlot:
    """One jail, used by one thread at a time.

    Raises InfraError where the machinery fails; it is dead after that.
    """

    def __init__(
        self,
        level: Level,
        own_uid: int | None,
        name: str,
        *,
        tools: bool = False,
        bare: bool = False,
        cgroups: bool = True,
        template: Template | None = None,
    ):
        """`tools` shows compilers and shells in place of what Python imports; `bare` leaves it to
        programs to import packages; with a `template` the slot is a fork of it, and shows its
        packages.
        """
        self.level = level
        self.own_uid = own_uid
        self.name = name
        self.dead = False
        self.base_mb = ZYGOTE_MB
        self.control, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._files = interpreter_files(template.packages if template else ())
        self._tools = tools
        self.bare = bare
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._scratch: str | None = None
        if level is not Level.NAMESPACES:
            _remove_stale_scratch()
            self._scratch = tempfile.mkdtemp(prefix=f"{name}-")
            if own_uid is not None:
                os.chown(self._scratch, own_uid, own_uid)
        self._process: subprocess.Popen[bytes] | Forked = template.fork(child_end) if template else spawn(child_end)
        child_end.close()
        self.group = cgroup.create(name, self._process.pid) if cgroups else None
        self._start()

    def _start(self) -> None:
        read_only, links = self._files.read_only, self._files.links
        if self._tools:
            more, more_links = languages.tool_files()
            read_only = more + [path for path in read_only if not any(path.startswith(m + "/") for m in more)]
            links = links | more_links
        config = imports(self._files, read_only, bare=self.bare, tools=self._tools) | {
            "level": self.level.value,
            "hidden": self._files.hidden,
            "links": links,
            "own_uid": self.own_uid,
            "scratch": self._scratch,
            "cgroup": self.group is not None,
        }
        self.control.settimeout(START_TIMEOUT_S)
        try:
            self.control.send(json.dumps(config).encode())
            answer = self.control.recv(1 << 16)
        except OSError as error:
            raise self.fail(f"no answer from the slot's process: {error}") from error
        if not answer:
            raise self.fail("the slot's process ended while starting")
        reply = json.loads(answer)
        if "error" in reply:
            raise self.fail(reply["error"])
        if self._files.preimport and not self.bare:  # packages may take more than an interpreter alone
            taken = sum(map(watchdog.memory_of, watchdog.descendants(self._process.pid)))
            self.base_mb = max(ZYGOTE_MB, (taken >> 20) + ZYGOTE_MB // 2)

    def fail(self, what: str) -> InfraError:
        """Close the slot; the error says what its process wrote last."""
        self.dead = True
        self._process.kill()
        _, stderr = self._process.communicate()
        self.close()
        last = stderr.decode(errors="replace").strip().splitlines()[-1:]
        return InfraError(": ".join([f"sandbox slot at level {self.level}", what, *last]))

    def wake(self) -> None:
        """Called from another thread: the run in progress is to be killed."""
        os.eventfd_write(self.wake_fd, 1)

    def execute(
        self,
        payload: bytes,
        stdin: bytes | int,
        limits: Limits,
        cancel: Cancel | None = None,
        stdout: int | None = None,
    ) -> Execution:
        """Run one request to its end. The payload is what `jail/child.py` reads. Raises Cancelled
        if given up.

        `stdin` and `stdout` may be descriptors, which are closed here.
        """
        if cancel is None:
            return self._execute(payload, stdin, limits, stdout)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake_fd)  # a wake that came too late for an earlier run
        cancel.enter(self)
        try:
            done = self._execute(payload, stdin, limits, stdout)
        finally:
            cancel.leave()
        if cancel.is_set():
            raise Cancelled("the caller gave the run up")
        return done

    def _execute(self, payload: bytes, stdin: bytes | int, limits: Limits, stdout: int | None) -> Execution:
        self.limit_group(limits)
        pipes = Pipes(limits, self.own_uid, stdout)
        started = time.monotonic()
        try:
            self.send(payload, stdin, limits, pipes)
            early, packet = _RunWatch(self, pipes, limits).until_end()
            pipes.drain()
        finally:
            pipes.close()
        seconds = time.monotonic() - started
        if early is None and pipes.too_much():
            early = RunStatus.OUTPUT_LIMIT
        out, err, records = (bytes(data) for data in pipes.data)
        if not records.startswith(STARTED):
            if early is RunStatus.TIMEOUT:  # there is no clock yet, so it was given up
                raise Cancelled("the caller gave the run up")
            raise self.fail(f"a run could not be set up: {err.decode(errors='replace')[:300]}")
        status, cpu_s, peak_kib = EXIT_PACKET.unpack(packet)
        exit_code = os.waitstatus_to_exitcode(status)
        killed = exit_code == -signal.SIGKILL or limits.supervises  # a supervisor says later how its command ended
        out_of_memory = self.group is not None and self.group.ran_out_of_memory() and killed
        ended = early or status_of(exit_code, cpu_s, limits, records, out_of_memory)
        cap = limits.output_limit_bytes
        return Execution(
            ended,
            exit_code,
            out[:cap],
            err[:cap],
            records[len(STARTED) :],
            seconds,
            cpu_s,
            memory_mb=round(peak_kib / 1024, 1),
        )

    def limit_group(self, limits: Limits) -> None:
        if self.group is not None:
            self.group.set_limits((limits.memory_mb + 2 * limits.box_mb + self.base_mb) << 20, limits.processes + 8)

    def watchdog(self, limits: Limits) -> watchdog.Watchdog | None:
        """What looks at an open run from outside, where neither a group nor a file system of its
        own bounds it.
        """
        watched = self._process.pid if self.group is None else None
        return watchdog.Watchdog(watched, self._scratch, limits, self.base_mb) if watched or self._scratch else None

    def clock(self, limits: Limits, *, resumed: bool = False) -> Clock:
        return Clock(self._process.pid, limits, resumed=resumed)

    def send(self, payload: bytes, stdin: bytes | int, limits: Limits, pipes: Pipes) -> None:
        given = stdin if isinstance(stdin, int) else sealed_memory("stdin", stdin)
        inputs = [sealed_memory("payload", payload), given]
        try:
            fds = array.array("i", inputs + pipes.write_ends)
            message = json.dumps(limits.packet()).encode()
            self.control.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        except OSError as error:
            raise self.fail(f"the slot's process is gone: {error}") from error
        finally:
            for fd in inputs:
                os.close(fd)
            pipes.close_write_ends()

    def kill_run(self) -> None:
        try:
            self.control.send(b"K")
        except OSError as error:
            raise self.fail(f"the slot's process is gone: {error}") from error

    def exit_packet(self) -> bytes:
        try:
            packet = self.control.recv(64)
        except ConnectionError:  # the slot died with a message of ours unread
            packet = b""
        if len(packet) != EXIT_PACKET.size:
            raise self.fail("the slot's process died during a run")
        return packet

    def close(self) -> None:
        """End the slot's process and all below it. Safe to call twice."""
        self.dead = True
        self.control.close()
        if self.wake_fd >= 0:
            os.close(self.wake_fd)
            self.wake_fd = -1
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
        """In a forked copy of the parent: let go of the descriptors, leave the processes to their
        owner.
        """
        self.dead = True
        with contextlib.suppress(OSError):
            self.control.close()
            os.close(self.wake_fd)


class _RunWatch:
    """Reads what one run writes until the slot reports its end, and kills it at a limit."""

    def __init__(self, slot: JailSlot, pipes: Pipes, limits: Limits):
        self._slot, self._pipes, self._limits = slot, pipes, limits
        self._guard = slot.watchdog(limits)
        self._clock: Clock | None = None  # from when the program is loaded on
        self._killed: RunStatus | None = None
        self._records = 0
        self._deadline = time.monotonic() + START_TIMEOUT_S

    def until_end(self) -> tuple[RunStatus | None, bytes]:
        """Why the run was killed, if it was, and the slot's report.

        Raises InfraError where the machinery fails.
        """
        slot, pipes = self._slot, self._pipes
        poller = select.poll()
        for fd in (slot.control.fileno(), slot.wake_fd, *pipes.read_ends):
            poller.register(fd, select.POLLIN)
        while True:
            events = dict(poller.poll(self._wait_s() * 1000))
            if slot.control.fileno() in events:
                return self._killed, slot.exit_packet()
            given_up = slot.wake_fd in events
            if given_up:
                poller.unregister(slot.wake_fd)
            for fd in pipes.open.intersection(events):
                ended = not pipes.read(fd) and fd not in pipes.open
                if ended or (self._killed and pipes.too_much()):
                    poller.unregister(fd)
            self._advance_clock()
            self._check_progress()
            if not self._killed:
                self._killed = self._reason_to_stop(given_up)
                if self._killed:
                    self._deadline = time.monotonic() + KILL_TIMEOUT_S
                    slot.kill_run()

    def _wait_s(self) -> float:
        due = self._deadline if self._clock is None or self._killed else self._clock.due
        wait_s = max(0.0, due - time.monotonic())
        return wait_s if self._guard is None else min(wait_s, self._guard.period_s)

    def _advance_clock(self) -> None:
        pipes = self._pipes
        if self._clock is None and pipes.data[2].startswith(STARTED):
            self._clock = self._slot.clock(self._limits)
        elif self._clock is not None and self._limits.each_record and pipes.records > self._records:
            self._records = pipes.records
            self._clock.case_done()

    def _check_progress(self) -> None:
        """Raises InfraError where the machinery, or the machine, is too slow for a run to say
        anything.
        """
        late = time.monotonic() >= self._deadline
        if self._killed and late:
            raise self._slot.fail(f"a run did not end within {KILL_TIMEOUT_S} s of being killed")
        if self._killed:
            return
        if self._clock is None and late:
            raise self._slot.fail(f"the jail was not ready within {START_TIMEOUT_S:g} s: the machine is overloaded")
        if self._clock is not None and self._clock.says_nothing():
            raise self._slot.fail("a run had too little of the machine to be judged: it is overloaded")

    def _reason_to_stop(self, given_up: bool) -> RunStatus | None:
        if self._pipes.too_much():
            return RunStatus.OUTPUT_LIMIT
        if given_up or (self._clock is not None and self._clock.is_over()):
            return RunStatus.TIMEOUT
        return self._guard.look() if self._guard is not None else None


def status_of(exit_code: int, cpu_s: float, limits: Limits, records: bytes, out_of_memory: bool) -> RunStatus:
    """The status of a run that was not killed by us; `out_of_memory` is what the run's memory group
    says.
    """
    if out_of_memory:
        return RunStatus.MEMORY
    if exit_code in (-9, -24) and cpu_s >= limits.cpu_limit_s - 1:  # SIGKILL that we did not send, or SIGXCPU
        return RunStatus.TIMEOUT
    if exit_code != 0 and b'"e": ["MemoryError"' in records[-200:]:
        return RunStatus.MEMORY
    return RunStatus.OK if exit_code == 0 else RunStatus.ERROR
