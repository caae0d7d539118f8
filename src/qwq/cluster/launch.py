"""Starts the processes of a run on this machine and watches them; Ray starts them elsewhere
(`ray_launch.py`). No torch.

Each process is this command once more with its place in the environment. The first one has the
terminal: it shows progress and prints the result. Where one dies the others are ended within
`GRACE_S`, one line says which and why, and the same command resumes. Signals are handed on once, so
that Ctrl-C and SIGTERM stop the run after the step, state saved. With `restarts` all are started
again after one was lost. A launcher that is killed leaves no process behind: each has SIGTERM from
the kernel then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from qwq.cluster.place import RankPlace
from qwq.common.signals import ending_signals
from qwq.errors import InfraError, Interrupted, PeerLost

GRACE_S = 5.0  # between the end of one process and that of the others, which may have more to say
POLL_S = 0.05
HELD = "from qwq.common.signals import end_with_parent; end_with_parent({}); "  # by the launcher's id
START = "import sys; from qwq.cli import main; sys.exit(main())"
QUIET = (None, 0, Interrupted.exit_status, PeerLost.exit_status)  # statuses of processes that caused nothing
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


class StartedProcess(Protocol):
    """What is asked of a process; `subprocess.Popen` is one."""

    @property
    def returncode(self) -> Any: ...

    def poll(self) -> int | None: ...

    def send_signal(self, number: int, /) -> None: ...

    def kill(self) -> None: ...

    def wait(self) -> int: ...


@dataclass
class Member:
    """One process of the run; what it prints as errors goes to `log`, None for the first one. Where
    its host is gone, `lost` says how that is known.
    """

    rank: int
    process: StartedProcess
    log: IO[bytes] | None

    @property
    def lost(self) -> str:
        return ""

    def last_words(self) -> str:
        """The last line that it printed as an error."""
        if self.log is None:
            return ""
        self.log.seek(0)
        lines = [line for line in self.log.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip().removeprefix("error: ") if lines else ""


# Runs `qwq ARGV` in so many processes while the block lasts.
Starter = Callable[[int, Sequence[str]], AbstractContextManager[list[Member]]]


def launch(
    num_processes: int,
    argv: Sequence[str],
    command: str,
    *,
    first: Sequence[str] = (),
    restarts: int = 0,
    starter: Starter | None = None,
) -> int:
    """Run `qwq ARGV` in so many processes; returns the exit status of the first. `first` are
    further arguments of the first start. `starter` starts them, by default on this machine.

    InfraError, after all have ended, where one died or failed on its own, and again after so many
    `restarts`; `command` resumes.
    """
    left = restarts
    while True:
        try:
            with (starter or on_this_machine)(num_processes, [*argv, *first]) as members:
                return _watch(members, command)
        except InfraError as error:
            if not left:
                raise
            left, first = left - 1, ()
            print(f"{error}; started again, {left} restarts left", file=sys.stderr, flush=True)


@contextlib.contextmanager
def on_this_machine(num_processes: int, argv: Sequence[str]) -> Iterator[list[Member]]:
    """The processes on this machine."""
    with tempfile.TemporaryDirectory(prefix="qwq-run-") as folder, contextlib.ExitStack() as held:
        members: list[Member] = []
        held.callback(lambda: end_all(members))
        for rank in range(num_processes):
            log = None if rank == 0 else held.enter_context((Path(folder) / f"errors-{rank}").open("w+b"))
            place = RankPlace(rank, num_processes, rank, num_processes, str(Path(folder) / "meet"))
            members.append(Member(rank, _start(argv, place, log), log))
        held.enter_context(_handing_on(members))
        yield members


def _start(argv: Sequence[str], place: RankPlace, log: IO[bytes] | None) -> subprocess.Popen[bytes]:
    environment = {"GLOO_SOCKET_IFNAME": LOOPBACK} | os.environ | place.variables()
    return subprocess.Popen(
        [sys.executable, "-c", HELD.format(os.getpid()) + START, *argv],
        env=environment, stderr=log, stdin=subprocess.DEVNULL,
        stdout=None if log is None else subprocess.DEVNULL,
        process_group=0,  # not the terminal's: its Ctrl-C comes to this process, which hands it on
    )  # fmt: skip


@contextlib.contextmanager
def _handing_on(members: Sequence[Member]) -> Iterator[None]:
    """Hand SIGINT and SIGTERM on to the processes."""

    def handler(number: int, frame: object) -> None:
        for member in members:
            if member.process.poll() is None:
                member.process.send_signal(number)

    with ending_signals(handler):
        yield


def _watch(members: Sequence[Member], command: str) -> int:
    """Wait for all; at most `GRACE_S` from the moment on that the first one ends or another
    fails.
    """
    deadline, order = float("inf"), list[Member]()
    while [m for m in members if m.process.poll() is None] and time.monotonic() < deadline:
        order += [m for m in members if m.process.returncode not in QUIET and m not in order]
        first = members[0].process.returncode
        if first is not None or any(m.process.returncode not in (None, 0, Interrupted.exit_status) for m in members):
            deadline = min(deadline, time.monotonic() + GRACE_S)
        if first:
            break
        time.sleep(POLL_S)
    first = members[0].process.returncode
    order += [m for m in members if m.process.returncode not in QUIET and m not in order]
    # One that aborts has lost another: gloo's way to end where a connection breaks.
    culprits = sorted(order, key=lambda m: m.process.returncode == -signal.SIGABRT)
    if first == 0 and not culprits:
        return 0
    if first is not None and first > 0 and first != PeerLost.exit_status:
        return first  # it has said itself what is wrong
    raise InfraError(f"{_reason(culprits, len(members))}; all were ended: `{command}` resumes")


def _reason(culprits: Sequence[Member], size: int) -> str:
    """Which process ended first and why; `culprits` in that order."""
    if not culprits:
        return (
            f"one of {size} processes did not answer within cluster.timeout_s, or cluster.work_timeout_s where the "
            "others waited for its work"
        )
    member = culprits[0]
    status, who = member.process.returncode, f"process {member.rank} of {size}"
    if member.lost:
        return f"{who} was lost ({member.lost})"
    if status < 0:
        return f"{who} was ended by {signal.Signals(-status).name}"
    words = member.last_words()
    return f"{who} ended with status {status}{f' ({words})' if words else ''}"


def end_all(members: Sequence[Member]) -> None:
    """End those that still run. What they write is whole or absent at any moment."""
    for member in members:
        if member.process.poll() is None:
            member.process.kill()
    for member in members:
        member.process.wait()
