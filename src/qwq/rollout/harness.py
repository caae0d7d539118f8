"""Programs that make a sample by themselves: started, bounded in time and output, and ended.

A program runs in a process group of its own behind `envs.mcp_guard`, so that it ends with this
process, however that ends. When the program has ended, or its time has, the whole group is killed;
what leaves the group (setsid) is not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from qwq.envs import mcp_guard

OUTPUT_BYTES = 1 << 20  # of a program's standard output that are read
TAIL_CHARS = 300  # of what it wrote to its standard error, in a message


@dataclass(frozen=True, slots=True)
class ProgramEnd:
    """How a program ended. `status` is None where its time was over."""

    status: int | None
    stdout: str
    stderr_tail: str


@dataclass(slots=True)
class Programs:
    """Runs programs from several threads; `end_all` ends those that run, and no other starts."""

    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: bool = False

    def run(
        self, command: Sequence[str], *, environment: Mapping[str, str], stdin: bytes, timeout_s: float
    ) -> ProgramEnd:
        """One program from its start to its end."""
        guard = [sys.executable, "-I", "-S", mcp_guard.__file__, str(os.getpid()), *command]
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin)
            given.seek(0)
            with self._lock:
                if self._ended:
                    return ProgramEnd(None, "", "")
                process = subprocess.Popen(
                    guard, env=dict(environment), stdin=given, stdout=out, stderr=err, start_new_session=True
                )
                self._running.add(process)
            try:
                status: int | None = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                self._end(process)
            return ProgramEnd(status, _read(out, OUTPUT_BYTES), _read(err, -4 * TAIL_CHARS)[-TAIL_CHARS:].strip())

    def end_all(self) -> None:
        with self._lock:
            self._ended = True
            for process in self._running:
                _kill(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            _kill(process)
            self._running.discard(process)
        process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The group may live on when the guard has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _read(file: IO[bytes], size: int) -> str:
    """The first `size` bytes of a file, or the last where it is negative."""
    if size < 0:
        file.seek(max(0, file.seek(0, os.SEEK_END) + size))
    else:
        file.seek(0)
    return file.read(abs(size)).decode("utf-8", "replace")
