"""What `commands.Command` forks from: a process that has imported what `qwq` imports. It has one
thread and has computed nothing.

Requests come over the socket whose descriptor is the first argument. A request is one message: JSON
with `argv`, `cwd` and `env`, and with it four descriptors: the command's standard streams, and a
pipe that takes its wait status. The answer is the command's process id. This process ends when the
tests' end of the socket is closed, and within `LOOK_S` of the tests' own end.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import warnings
from collections.abc import Sequence

MODULES = (
    "numpy", "torch", "safetensors.torch", "tokenizers", "pydantic", "jinja2.sandbox", "httpx2", "orjson",
    "matplotlib.pyplot", "qwq.cli", "qwq.pipeline.run", "qwq.pipeline.run_report", "qwq.pipeline.stages.rl2",
    "qwq.train.rl", "qwq.distill.run", "qwq.serve.app",
)  # fmt: skip
MESSAGE_BYTES = 1 << 17
LOOK_S = 1.0


def main() -> int:
    """The status of a command, in the command's own process."""
    starter = Starter(socket.socket(fileno=int(sys.argv[1])), os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the tests
    filters, before = Filters(), dict(os.environ)
    for name in MODULES:
        importlib.import_module(name)
    filters.imported()
    added = {name: value for name, value in os.environ.items() if name not in before}
    gc.collect()
    gc.freeze()
    starter.serve()
    os.environ.update(added | os.environ)
    filters.restore(os.environ.get("PYTHONWARNINGS", ""))
    from qwq.cli import main as qwq

    return qwq()


class Filters:
    """Filters of warnings. All imports are made with warnings as errors; a command then has those
    of its own PYTHONWARNINGS, and in front of them what the imported modules have put there.
    """

    def __init__(self) -> None:
        self.before = list(warnings.filters)
        warnings.simplefilter("error")
        self.strict = list(warnings.filters)

    def imported(self) -> None:
        self.added = [one for one in warnings.filters if one not in self.strict]

    def restore(self, options: str) -> None:
        warnings.filters[:] = self.before
        sys.warnoptions[:] = [option for option in options.split(",") if option]
        warnings._processoptions(sys.warnoptions)
        warnings.filters[:0] = self.added


class Starter:
    """Forks commands for the process `tests` and tells it how they end."""

    def __init__(self, control: socket.socket, tests: int) -> None:
        self.control, self.tests = control, tests
        self.running: dict[int, tuple[int, int]] = {}  # by a command's pidfd: its id, the pipe for its status
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ)

    def serve(self) -> None:
        """Returns in the process of a command, and nowhere else."""
        while os.getppid() == self.tests:
            for key, _ in self.selector.select(LOOK_S):
                if key.fd in self.running:
                    self.ended(key.fd)
                elif self.started():
                    return
        os._exit(0)

    def started(self) -> bool:
        """Fork what the next request asks for; True in the command's process."""
        message, descriptors, _, _ = socket.recv_fds(self.control, MESSAGE_BYTES, 4)
        if not message:
            os._exit(0)
        *streams, status_end = descriptors
        pid = os.fork()
        if not pid:
            for descriptor in (*self.running, *(end for _, end in self.running.values()), status_end):
                os.close(descriptor)
            self.selector.close()
            self.control.close()
            become(json.loads(message), streams)
            return True
        for descriptor in streams:
            os.close(descriptor)
        pidfd = os.pidfd_open(pid)
        self.running[pidfd] = pid, status_end
        self.selector.register(pidfd, selectors.EVENT_READ)
        self.control.send(str(pid).encode())
        return False

    def ended(self, pidfd: int) -> None:
        pid, status_end = self.running.pop(pidfd)
        self.selector.unregister(pidfd)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it
            os.write(status_end, status.to_bytes(4, "little"))
        os.close(status_end)
        os.close(pidfd)


def become(request: dict, streams: Sequence[int]) -> None:
    """Make this process what `qwq` is when it has imported and has not begun."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # New ones: Python asks of a stream once, as it is opened, whether it can seek.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, closefd=False, errors="backslashreplace")
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["argv"]
