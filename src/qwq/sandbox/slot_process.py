"""How the process of a slot starts: by itself, or as a fork of a template that has imported large
packages once for all.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

from qwq.errors import InfraError
from qwq.sandbox.limits import MORE_PREIMPORT, PREIMPORT, InterpreterFiles, cache_folder, environment, interpreter_files

START_TIMEOUT_S = 60.0


def spawn(child_end: socket.socket) -> subprocess.Popen[bytes]:
    """Start `jail/zygote.py` on its end of the control socket."""
    zygote = Path(__file__).with_name("jail") / "zygote.py"
    executable = interpreter_files().executable
    return subprocess.Popen(
        [executable, "-s", "-P", "-S", "-B", "-X", "utf8", str(zygote), str(child_end.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[child_end.fileno()],
        env=environment(),
        cwd="/",
        start_new_session=True,
    )


def imports(
    files: InterpreterFiles, read_only: list[str], *, bare: bool = False, tools: bool = False
) -> dict[str, Any]:
    """The part of a configuration that says what to import beforehand, and where it may be
    found.
    """
    beforehand = [] if tools else [*PREIMPORT, *(() if bare else (*MORE_PREIMPORT, *files.preimport))]
    return {
        "environment": environment(),
        "path": files.search_path,
        "read_only": read_only,
        "preimport": beforehand,
        "font_cache": str(cache_folder() / "matplotlib") if "matplotlib" in beforehand else None,
        "bare": bare,
        "template": False,
    }


class Forked:
    """A process that the template has forked for us: what Slot needs of `subprocess.Popen`."""

    stderr = None  # the template's own

    def __init__(self, pid: int):
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> None:
        if not select.select([self._pidfd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("slot", timeout or 0.0)

    def communicate(self) -> tuple[bytes, bytes]:
        self.wait()
        return b"", b""

    def __del__(self) -> None:
        os.close(self._pidfd)


class Template:
    """A process outside any jail that has imported packages, and is forked for each slot that shows
    them.
    """

    def __init__(self, packages: tuple[str, ...]):
        self.packages = packages
        self._lock = threading.Lock()
        self._control, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(START_TIMEOUT_S)
        self._process = spawn(child_end)
        child_end.close()
        files = interpreter_files(packages)
        self._ask(json.dumps(imports(files, files.read_only) | {"template": True}).encode())

    def _ask(self, message: bytes, descriptors: list[int] | None = None) -> dict[str, Any]:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self._control.sendmsg([message], rights)
            answer = self._control.recv(1 << 10)
        except OSError as error:
            raise self._fail(f"no answer: {error}") from error
        if not answer:
            raise self._fail("it ended")
        return dict(json.loads(answer))

    def _fail(self, what: str) -> InfraError:
        self._process.kill()
        _, stderr = self._process.communicate()
        self.close()
        last = stderr.decode(errors="replace").strip().splitlines()[-1:]
        return InfraError(": ".join([f"the process that imports {', '.join(self.packages)}", what, *last]))

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def fork(self, child_end: socket.socket) -> Forked:
        """The process of a slot, which waits for its configuration on `child_end`."""
        with self._lock:
            pid = self._ask(b"fork", [child_end.fileno()])["pid"]
        try:
            return Forked(pid)
        except ProcessLookupError as error:
            raise InfraError("a fork of the process that imports packages ended at once") from error

    def close(self) -> None:
        """End it; slots that were forked keep running. Safe to call twice."""
        self._control.close()
        self._process.kill()
        self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()

    def abandon(self) -> None:
        """In a forked copy of the parent: let go of it."""
        self._control.close()
