"""The `qwq` command in a process of its own, as a user starts it, for every test that does.

Importing torch and qwq costs a start two to three seconds of processor time. `Command` therefore
forks from a process that has imported them (command_starter.py); all else is as after
`subprocess.Popen([QWQ, ...])`: a process id of its own, exit status, signals, environment, working
folder, streams. Tests of the start itself (what is imported when, the commands of the README, the
installed entry point, a start by another program) use `QWQ` and `subprocess`.

Two processes to fork from take turns, so that two starts after one another differ in hash seed and
addresses, as two processes do. Environments that differ in what is read at import (`AT_IMPORT`)
have two each; filters of warnings are set in the command.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

QWQ = str(Path(sys.executable).with_name("qwq"))
# Beginnings of names of variables that Python, OpenMP, BLAS, torch and matplotlib read at import.
AT_IMPORT = (
    "PYTHON",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "TORCH",
    "PYTORCH_",
    "LD_",
    "CUDA_",
    "TRITON_",
    "MPL",
)
CODE = (
    "import sys; sys.path.insert(0, sys.argv.pop()); import command_starter; del sys.path[0]; "
    "sys.exit(command_starter.main())"
)
CAN_FORK = hasattr(os, "pidfd_open")  # elsewhere each start imports for itself


class Starter:
    """A process to fork from, until the tests end."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own = {name: value for name, value in environment.items() if name != "PYTHONWARNINGS"}
        command = [sys.executable, "-P", "-c", CODE, str(theirs.fileno()), str(Path(__file__).parent)]
        with theirs:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=own,
            )
        atexit.register(self.close)

    def start(
        self, argv: Sequence[str], cwd: str, environment: Mapping[str, str], streams: Sequence[int]
    ) -> tuple[int, int]:
        """Process id of a command, and the descriptor from which its wait status is read."""
        message = json.dumps({"argv": argv, "cwd": cwd, "env": dict(environment)}).encode()
        status_end, theirs = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._control, [message], [*streams, theirs])
                answer = self._control.recv(64)
        finally:
            os.close(theirs)
        assert answer, f"the process to fork from ended with status {self._process.wait()}"
        return int(answer), status_end

    def close(self) -> None:
        self._control.close()
        self._process.wait()


class Starters:
    """Two for each kind of environment, made when first used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[tuple[tuple[str, str], ...], list[Starter]] = {}

    def next(self, environment: Mapping[str, str]) -> Starter:
        names = [name for name in environment if name.startswith(AT_IMPORT) and name != "PYTHONWARNINGS"]
        kind = tuple((name, environment[name]) for name in sorted(names))
        with self._lock:
            made = self._made.setdefault(kind, [])
            chosen = Starter(environment) if len(made) < 2 else made.pop(0)
            made.append(chosen)
            return chosen


STARTERS = Starters()


class Command(subprocess.Popen):
    """`qwq WORDS`. Options of Popen: `cwd`, `env`, `stdin`, `stdout`, `stderr`; text."""

    def __init__(self, *words: object, **options: Any) -> None:
        super().__init__([QWQ, *map(str, words)], text=True, **options)

    if CAN_FORK:

        def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more):
            pipes = p2cread, _, _, c2pwrite, _, errwrite = more[3:9]
            environment = os.environ if env is None else env
            streams = [own if end < 0 else end for own, end in enumerate((p2cread, c2pwrite, errwrite))]
            starter = STARTERS.next(environment)
            self.pid, self._status_end = starter.start(args, str(Path(cwd or ".").resolve()), environment, streams)
            self._child_created = True
            self._close_pipe_fds(*pipes)

        def _try_wait(self, wait_flags):
            """The process id, or 0 while it runs, and the wait status."""
            ready = select.poll()
            ready.register(self._status_end, select.POLLIN)
            if not ready.poll(0 if wait_flags & os.WNOHANG else None):
                return 0, 0
            status = os.read(self._status_end, 4)
            os.close(self._status_end)
            assert status, "the process to fork from has ended before its command"
            return self.pid, int.from_bytes(status, "little")

        def _internal_poll(self, _deadstate=None):
            if self.returncode is None and self._waitpid_lock.acquire(blocking=False):
                try:
                    pid, status = (0, 0) if self.returncode is not None else self._try_wait(os.WNOHANG)
                    if pid:
                        self._handle_exitstatus(status)
                finally:
                    self._waitpid_lock.release()
            return self.returncode


def run(
    *words: object, input: str | None = None, timeout: float = 300.0, **options: Any
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of `qwq WORDS`, its output captured."""
    stdin = {} if input is None else {"stdin": subprocess.PIPE}
    with Command(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **stdin, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
