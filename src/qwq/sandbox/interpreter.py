"""A session's Python process in its jail, and how an equal one is made when it has to be replaced.

`Process` runs cells; `Interpreter` keeps a record of those that ended, and runs them again in a new
process when the old one was killed, died, or gave its slot up.
"""

from __future__ import annotations

import array
import base64
import contextlib
import json
import os
import secrets
import select
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

from qwq.errors import InfraError, UsageError
from qwq.sandbox.cells import CellResult, CellStatus, SessionState, result_of
from qwq.sandbox.clock import Clock
from qwq.sandbox.jail.box_files import MAX_LISTED
from qwq.sandbox.limits import Level, Limits, RunStatus
from qwq.sandbox.open_run import Ended, OpenRun
from qwq.sandbox.pipes import Pipes, sealed_memory
from qwq.sandbox.slot import JailSlot
from qwq.sandbox.watchdog import Watchdog

GRACE_S = 2.0  # from an interrupt to the kill
REPLAY_FACTOR, REPLAY_S = 3.0, 5.0  # what a cell may take when it runs again, by what it took the first time
_WHY = {RunStatus.MEMORY: CellStatus.MEMORY, RunStatus.OUTPUT_LIMIT: CellStatus.OUTPUT_LIMIT}


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Limits of a session. `timeout_s` and `output_limit_bytes` are a cell's, `total_s` and
    `total_output_bytes` those of all its cells together; `memory_mb`, `processes` and `box_mb` hold
    for the session at any time.
    """

    timeout_s: float = 30.0
    total_s: float = 3600.0
    memory_mb: int = 1024
    processes: int = 32
    box_mb: int = 64
    box_files: int = 1024
    output_limit_bytes: int = 1 << 20
    total_output_bytes: int = 64 << 20
    text_chars: int = 8000  # of a cell's text for a model; the whole is put into the workspace

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UsageError(f"{field.name} is {getattr(self, field.name)}: give a number above 0")
        if self.box_files > MAX_LISTED:
            raise UsageError(f"box_files is {self.box_files}: give up to {MAX_LISTED}, a cell lists them all")
        self.of_cell(self.timeout_s, self.total_s)

    def of_cell(self, timeout_s: float, total_s: float) -> Limits:
        return Limits(
            min(timeout_s, total_s),
            self.memory_mb,
            self.output_limit_bytes,
            processes=self.processes,
            box_mb=self.box_mb,
            box_files=self.box_files,
            total_timeout_s=total_s,
        )


@dataclass(frozen=True, slots=True)
class Cell:
    """What the jail is sent; `code` None: only files are written and read.

    `took_s`: what it took when it ran first.
    """

    number: int
    code: str | None
    files: Mapping[str, bytes]
    fetch: Sequence[str] = ()
    timeout_s: float = 30.0
    took_s: float = 0.0
    digest: str = ""

    def payload(self) -> bytes:
        files = {name: base64.b64encode(data).decode() for name, data in self.files.items()}
        request = {"number": self.number, "code": self.code, "files": files, "fetch": list(self.fetch)}
        return json.dumps(request).encode()

    @property
    def leaves_state(self) -> bool:
        return self.code is not None or bool(self.files)


class SlotSource(Protocol):
    """Where a session's slot comes from (`session_slots.py`)."""

    def take(self) -> JailSlot: ...
    def give_back(self, slot: JailSlot) -> None: ...


class Process:
    """The session's process, in an open run of a slot."""

    def __init__(self, slot: JailSlot, limits: SessionLimits):
        self.slot = slot
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        whole = limits.of_cell(min(limits.timeout_s, limits.total_s), limits.total_s)
        try:
            self._open = OpenRun(slot, json.dumps({"kind": "session"}).encode(), theirs.detach(), whole)
        except InfraError:
            self._ours.close()
            raise

    @property
    def is_alive(self) -> bool:
        return self._open.is_alive

    def run(self, cell: Cell, limits: Limits, wake: int) -> tuple[CellStatus | None, bytes, Pipes]:
        """Run one cell. Returns what stopped it, if something did, and its record, b"" where the
        process has ended or does not obey, and is to be ended.
        """
        echo = secrets.token_hex(16).encode()
        pipes = Pipes(limits, self.slot.own_uid, None)
        fds = array.array("i", [sealed_memory("cell", cell.payload()), *pipes.write_ends])
        try:
            self._ours.sendmsg([b"cell"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            self._ours.send(echo)
        except OSError:
            return None, b"", pipes
        finally:
            os.close(fds[0])
            pipes.close_write_ends()
        return *self._watch(pipes, limits, echo, wake), pipes

    def _watch(self, pipes: Pipes, limits: Limits, echo: bytes, wake: int) -> tuple[CellStatus | None, bytes]:
        poller = select.poll()
        for fd in (self._open.control_fd, wake, *pipes.read_ends):
            poller.register(fd, select.POLLIN)
        clock, guard = self.slot.clock(limits, resumed=True), self.slot.watchdog(limits)
        why: CellStatus | None = None
        deadline = 0.0
        while True:
            wait_s = (deadline if why else clock.due) - time.monotonic()
            events = dict(poller.poll(max(0.0, wait_s if guard is None else min(wait_s, guard.period_s)) * 1000))
            if self._open.control_fd in events:
                pipes.drain()  # what it wrote last may have come in the same moment
                return why, b""
            for fd in pipes.open.intersection(events):
                if not pipes.read(fd, keep=not pipes.too_much()) and fd not in pipes.open:
                    poller.unregister(fd)
            if record := pipes.line_with(echo):
                pipes.drain()
                full = guard is not None and guard.disk_is_full()  # a short cell was not looked at yet
                return (CellStatus.OUTPUT_LIMIT, b"") if full else (why, record)
            if why:
                if time.monotonic() >= deadline:
                    return why, b""
                continue
            why = CellStatus.INTERRUPTED if wake in events else _reason_to_stop(pipes, clock, guard)
            if why:
                if wake in events:
                    poller.unregister(wake)
                self._open.interrupt()
                deadline = time.monotonic() + GRACE_S

    def end(self, *, kill: bool) -> Ended:
        """Close the socket, at which the process ends, and wait until nothing is left of it."""
        self._ours.close()
        return self._open.end(kill=kill)


def _reason_to_stop(pipes: Pipes, clock: Clock, guard: Watchdog | None) -> CellStatus | None:
    if pipes.too_much():
        return CellStatus.OUTPUT_LIMIT
    if clock.is_over():
        return CellStatus.TIMEOUT
    seen = guard.look() if guard is not None else None
    return _WHY[seen] if seen else None


class Interpreter:
    """The process of a session and the record of its cells.

    Used under the session's lock, but for `wake`.
    """

    def __init__(self, slots: SlotSource, limits: SessionLimits, *, replay: bool):
        self.limits = limits
        self.used_s = 0.0
        self.is_closed = False
        self.history: list[Cell] = []  # cells that ended
        self.process: Process | None = None
        self.gave_way = False  # the process was ended for another session, and not by a fault
        self._unended: list[int] = []  # cells that were stopped, and left in the process what they had done until then
        self._slots = slots
        self._replays = replay
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def wake(self) -> None:
        """Called from another thread: the cell that runs is to be interrupted."""
        os.eventfd_write(self._wake, 1)

    def forget_wake(self) -> None:
        """Called before a cell: an interrupt that came too late for an earlier one is not meant for
        it.
        """
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def run(self, cell: Cell) -> CellResult:
        """Run a cell, in a rebuilt process where there is none or the machinery has just failed."""
        try:
            return self._attempt(cell)
        except InfraError:
            if self.is_closed:
                raise
            return self._attempt(cell)

    def _attempt(self, cell: Cell) -> CellResult:
        unended = tuple(self._unended)
        rebuilt = self._ensure_process()
        result = self._once(cell)
        if rebuilt and result.state is SessionState.KEPT:
            return replace(result, state=rebuilt, not_repeated=unended)
        return result

    def _once(self, cell: Cell) -> CellResult:
        """Run a cell in the process that is there, and put it on record for a later rebuild."""
        result, why, ended = self._in_process(cell, cell.timeout_s)
        if ended:
            if why is not None:
                self._unended.append(cell.number)
            elif cell.leaves_state:
                self.history.append(replace(cell, fetch=(), took_s=result.seconds, digest=result.digest()))
            return result
        ended_as = self.end(kill=True)
        why = CellStatus.MEMORY if ended_as.out_of_memory else why or CellStatus.DIED
        unended = tuple(self._unended)
        state = SessionState.LOST if self.is_closed else self._rebuild()
        return replace(result, status=why, exit_code=ended_as.exit_code, state=state, not_repeated=unended)

    def _in_process(self, cell: Cell, timeout_s: float) -> tuple[CellResult, CellStatus | None, bool]:
        """(result, what stopped the cell, whether the process is ready for the next one)."""
        assert self.process is not None
        limits = self.limits.of_cell(timeout_s, max(0.001, self.limits.total_s - self.used_s))
        started = time.monotonic()
        why, record, pipes = self.process.run(cell, limits, self._wake)
        seconds = time.monotonic() - started
        self.used_s += seconds
        stdout, stderr, _ = (bytes(data) for data in pipes.data)
        pipes.close()
        seen = why or (CellStatus.OUTPUT_LIMIT if pipes.too_much() else None)  # it may have ended all the same
        result = result_of(cell.number, seen, record, stdout, stderr, limits.output_limit_bytes, seconds)
        return replace(result, unsafe=self.process.slot.level is Level.RLIMITS), why, bool(record)

    def restart(self, *, replay: bool) -> list[int]:
        """A new process, in which the cells that ended run again, or none.

        Returns the numbers of those that gave something else.
        """
        self.end_quietly()
        if not replay:
            self.history.clear()
            self._unended.clear()
            return []
        before = list(self.history)
        if self._rebuild() is SessionState.LOST:
            raise UsageError("the cells of this session could not be run again: its state is lost")
        return [old.number for old, new in zip(before, self.history, strict=True) if old.digest != new.digest]

    def close(self) -> None:
        self.end_quietly()
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def end_quietly(self) -> None:
        """End the process; a slot that is dead has ended it already."""
        with contextlib.suppress(InfraError):
            self.end()

    def _ensure_process(self) -> SessionState | None:
        """A process for the next cell.

        Says RESUMED, REBUILT or LOST where there had been one with a state.
        """
        if self.process is not None and self.process.is_alive:
            return None
        self.end()
        gave_way, self.gave_way = self.gave_way and not self._unended, False
        if self.history:
            before = [cell.digest for cell in self.history]
            state = self._rebuild()
            same = state is SessionState.REBUILT and before == [cell.digest for cell in self.history]
            return SessionState.RESUMED if gave_way and same else state
        self._start()
        return SessionState.LOST if self._unended else None

    def _start(self) -> None:
        slot = self._slots.take()
        try:
            self.process = Process(slot, self.limits)
        except InfraError:
            self._slots.give_back(slot)
            raise

    def end(self, *, kill: bool = False) -> Ended:
        """End the process, if there is one. Raises InfraError where the slot itself had died."""
        process, self.process = self.process, None
        if process is None:
            return Ended(0, out_of_memory=False)
        try:
            return process.end(kill=kill)
        finally:
            self._slots.give_back(process.slot)

    def _rebuild(self) -> SessionState:
        """Run the earlier cells again in a new process.

        LOST: that did not work, and the new process is empty.
        """
        history, self.history = self.history, []
        self._unended.clear()
        self._start()
        for old in history if self._replays else ():
            result, why, ended = self._in_process(old, old.took_s * REPLAY_FACTOR + REPLAY_S)
            if why is not None or not ended:
                self.history.clear()
                self.end(kill=True)
                self._start()
                return SessionState.LOST
            self.history.append(replace(old, digest=result.digest()))
        return SessionState.REBUILT if self._replays else SessionState.LOST
