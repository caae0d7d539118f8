"""Python that keeps state: a session runs cells one after another in one jailed process.

    with Sandbox() as box, box.session() as session:
        session.run("x = 6 * 7")
        print(session.run("x").value)                      # 42
        print(session.run("import matplotlib.pyplot as plt; plt.plot([1, 2])").figures[0].png[:4])

A cell that meets its limit is interrupted and the state is kept; one that does not obey is killed,
and the session is rebuilt: the earlier cells run again in a new process. Each result says which
(`CellResult.state`). Threads may share a session, one cell runs at a time. docs/sandbox.md says
what a session protects against and what it does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

from qwq.errors import UsageError
from qwq.sandbox.cells import CellResult, SessionState, cut_text
from qwq.sandbox.interpreter import Cell, Interpreter, SessionLimits, SlotSource


class Cells:
    """What a session offers wherever it runs; a subclass sends cells."""

    def send(
        self, code: str | None, files: Mapping[str, bytes], fetch: Sequence[str], timeout_s: float | None
    ) -> CellResult:
        """Run a cell, or only write and read files where `code` is None."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """Interrupt the cell that runs, from another thread; its state is kept if it obeys."""
        raise NotImplementedError

    def restart(self, *, replay: bool = True) -> list[int]:
        """End the process and start another, in which all cells that ended run again, or none of
        them. Returns the numbers of those that gave something else than the first time: they read a
        clock, or draw at random.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End the session; a cell that runs is interrupted or killed.

        Nothing of it is left. Safe to call twice.
        """
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(
        self,
        code: str,
        *,
        timeout_s: float | None = None,
        files: Mapping[str, bytes] | None = None,
        fetch: Sequence[str] = (),
    ) -> CellResult:
        """Run one cell. `files` are put into the workspace first, those of `fetch` are read from it
        afterwards.

        Raises UsageError for a closed session or one whose time or output is spent, InfraError
        where the machinery fails.
        """
        return self.send(code, files or {}, fetch, timeout_s)

    async def run_async(self, code: str, **options: Any) -> CellResult:
        """`run` in a thread. Cancelling the task interrupts the cell."""
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(None, partial(self.run, code, **options))
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            self.interrupt()
            with contextlib.suppress(Exception):
                await done
            raise

    def put(self, name: str, data: bytes) -> None:
        """Put a file into the workspace. Raises UsageError where it cannot be written there."""
        result = self.send(None, {name: data}, (), None)
        if result.error is not None:
            raise UsageError(f"{name} cannot be written to the workspace: {result.error[1]}")

    def get(self, name: str) -> bytes:
        """A file of the workspace.

        Raises UsageError where there is none of that name, or it is larger than 20 MB.
        """
        found = self.send(None, {}, (name,), None).files
        if name not in found:
            raise UsageError(f"the session has no file {name!r} of up to 20 MB")
        return found[name]

    def files(self) -> dict[str, int]:
        """Names and sizes of the workspace's files."""
        return dict(self.send(None, {}, (), None).listing)


def _replaced(result: CellResult) -> CellResult | None:
    return None if result.state is SessionState.KEPT else result


class Session(Cells):
    """Made by `Sandbox.session`. Its process starts with the first cell."""

    def __init__(self, slots: SlotSource, limits: SessionLimits, *, replay: bool, on_close: Callable[[Session], None]):
        self.limits = limits
        self.cells = 0  # how many have run
        self.used_output_bytes = 0
        self.last_used = time.monotonic()
        self._on_close = on_close
        self._interpreter = Interpreter(slots, limits, replay=replay)
        self._pending: dict[str, bytes] = {}  # files that go in with the next cell
        self._untold: CellResult | None = None  # of files only, with a process that was replaced: the next cell says so
        self._lock = threading.Lock()
        self._running = False

    @property
    def is_running(self) -> bool:
        return self._running

    @property
    def is_closed(self) -> bool:
        return self._interpreter.is_closed

    @property
    def has_process(self) -> bool:
        """False before the first cell, and where another session has taken the place of this
        one.
        """
        return self._interpreter.process is not None

    @property
    def used_s(self) -> float:
        """Seconds that all cells have taken."""
        return self._interpreter.used_s

    def send(
        self, code: str | None, files: Mapping[str, bytes], fetch: Sequence[str], timeout_s: float | None
    ) -> CellResult:
        with self._lock:
            self.check_open(takes_time=code is not None)
            if self._pending:  # where they do not fit, the cell runs all the same
                waiting, self._pending = self._pending, {}
                self._untold = self._untold or _replaced(self._run(Cell(self.cells, None, waiting)))
            self.cells += code is not None
            result = self._run(Cell(self.cells, code, files, fetch, timeout_s or self.limits.timeout_s))
            if code is None:
                self._untold = self._untold or _replaced(result)
                return result
            untold, self._untold = self._untold, None
            if untold is not None and result.state is SessionState.KEPT:
                result = replace(result, state=untold.state, not_repeated=untold.not_repeated)
            self.used_output_bytes += len(result.stdout) + len(result.stderr)
            return self._with_text(result)

    def interrupt(self) -> None:
        if self._running:
            self._interpreter.wake()

    def _run(self, cell: Cell) -> CellResult:
        self._interpreter.forget_wake()
        self._running = True
        try:
            return self._interpreter.run(cell)
        finally:
            self._running = False
            self.last_used = time.monotonic()

    def check_open(self, *, takes_time: bool = True) -> None:
        """Raises UsageError for a session that is closed, or, where a cell is to run, has spent
        what it may.
        """
        if self.is_closed:
            raise UsageError("this session is closed: open another")
        if not takes_time:
            return
        if self.used_s >= self.limits.total_s:
            raise UsageError(f"the session has used its {self.limits.total_s:g} s: open another, or give total_s")
        if self.used_output_bytes >= self.limits.total_output_bytes:
            raise UsageError(
                f"the session has written {self.used_output_bytes} bytes, its limit is "
                f"{self.limits.total_output_bytes}: open another, or give total_output_bytes"
            )

    def _with_text(self, result: CellResult) -> CellResult:
        """The text for a model; where it is cut, the whole of it is put into the workspace."""
        whole = result.whole_text()
        if len(whole) <= self.limits.text_chars:
            return replace(result, text=whole)
        name = f"outputs/cell-{result.number}.txt"
        self._pending[name] = whole.encode(errors="replace")
        return replace(result, text=cut_text(whole, self.limits.text_chars, name), output_file=name)

    def restart(self, *, replay: bool = True) -> list[int]:
        with self._lock:
            self.check_open()
            return self._interpreter.restart(replay=replay)

    def suspend(self) -> bool:
        """End the process of a session that runs nothing; the next cell rebuilds it.

        False where a cell runs.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._interpreter.end_quietly()
            self._interpreter.gave_way = True
            return True
        finally:
            self._lock.release()

    def close(self) -> None:
        self._interpreter.is_closed = True
        self.interrupt()
        with self._lock:
            self._interpreter.close()
            self._on_close(self)
