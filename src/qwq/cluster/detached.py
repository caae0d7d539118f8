"""Processes that outlive the command which started them: started, looked at and ended by process id
and start time, on this machine or, by a command template, on others. No torch.

A process is this one only if its id, its start time in ticks and the boot of its host are those
that were written down, so a process id that the system has given to another program is never
touched. Each is the leader of a session of its own; `end` ends the whole session. Covered: hosts
with Linux and a POSIX shell. Not covered: what a leader that died by itself has left behind.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from qwq.errors import InfraError

HERE = "sh -c {command}"
CALL_S = 60.0  # of a command on a host
KILL_S = 10.0  # from KILL to the end of a process
POLL_S = 0.2
# Prints the state and start time of a process (fields 3 and 22 of its stat; its name may hold
# anything) and the boot: `S 12345 BOOT`.
WHO = (
    "who() { echo $(sed 's/.*) //' /proc/$1/stat 2>/dev/null | cut -d' ' -f1,20) "
    "$(cat /proc/sys/kernel/random/boot_id); }"
)


class RunProcess(Protocol):
    """A process of a run, wherever it was started: `DetachedProcess`, or Ray's (`ray_group.py`)."""

    @property
    def name(self) -> str: ...

    @property
    def command(self) -> str: ...

    @property
    def host(self) -> str: ...

    @property
    def label(self) -> str: ...

    @property
    def pid(self) -> int: ...

    @property
    def log(self) -> str: ...

    @property
    def url(self) -> str: ...

    def now(self) -> RunProcess:
        """Where it is now: it may have been started again elsewhere."""
        ...

    def alive(self) -> bool: ...

    def signal(self, name: str) -> None:
        """Send TERM to the process, or KILL to its session, if it is still this one."""
        ...

    def release(self) -> None:
        """Give back what a process that has ended still holds."""
        ...


@dataclass(frozen=True, slots=True)
class Host:
    """Where commands run: `template` is a shell command in which {host} is `name` and {command} one
    quoted word, such as `ssh {host} {command}`; by default this machine.
    """

    name: str = ""
    template: str = HERE

    @property
    def label(self) -> str:
        """How a place is told from another one."""
        return self.name

    def start(self, name: str, command: str, *, folder: str, log: str, url: str = "") -> DetachedProcess:
        """Start `command` (shell words) in `folder`, its output in `log`. It is detached: neither
        the end of this process nor of its terminal ends it.
        """
        quoted = shlex.quote(log)
        script = f"{WHO}; cd {shlex.quote(folder)} || exit 1; setsid {command} </dev/null >>{quoted} 2>&1 & "
        pid, _, started = self.run(f"{script}p=$!; echo $p $(who $p)").split(maxsplit=2)
        return DetachedProcess(name, command, self.name, self.template, int(pid), started, log, url)

    def run(self, script: str) -> str:
        """What `script` printed. InfraError where the host cannot be reached or it failed."""
        command = self.template.format(host=shlex.quote(self.name), command=shlex.quote(script))
        try:
            done = subprocess.run(
                command, shell=True, capture_output=True, text=True, timeout=CALL_S, stdin=subprocess.DEVNULL,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise InfraError(
                f"{self.name or 'this machine'} has not answered within {CALL_S:g} s: {command}"
            ) from error
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
            raise InfraError(f"{self.name or 'this machine'}: {said[0]}")
        return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class DetachedProcess:
    """A process: what it is called, where it runs, and how it is known again. `started` is its
    start time and the boot of its host; `url` is where it serves, empty if it does not.
    """

    name: str
    command: str
    host: str
    template: str
    pid: int
    started: str
    log: str
    url: str = ""

    @property
    def place(self) -> Host:
        return Host(self.host, self.template)

    @property
    def label(self) -> str:
        return self.place.label

    def now(self) -> DetachedProcess:
        """It stays where it was started."""
        return self

    def release(self) -> None:
        """It holds nothing but itself."""

    def alive(self) -> bool:
        """Whether it runs, and is no other process with the same id."""
        state, *started = self.place.run(f"{WHO}; who {self.pid}").split(maxsplit=1)
        return state not in ("Z", "X") and started == [self.started]

    def signal(self, name: str) -> None:
        """Send TERM to the process, or KILL to its session, if it is still this one."""
        to = f"$(ps -o pid= -s {self.pid}) {self.pid}" if name == "KILL" else str(self.pid)
        same = f'case "$(who {self.pid})" in "Z "*) ;; *" {self.started}") kill -{name} {to} || :;; esac'
        self.place.run(f"{WHO}; {same}")


def end(members: Sequence[RunProcess], grace_s: float) -> list[str]:
    """End these processes and no others: TERM, and after `grace_s` seconds KILL to the session of
    those that are left. Returns the names of those that had to be killed. InfraError where one
    does not end even so.
    """
    left = [m for m in members if m.alive()]
    for member in left:
        member.signal("TERM")
    killed = _left(left, grace_s)
    for member in killed:
        member.signal("KILL")
    if left := _left(killed, KILL_S):
        raise InfraError(f"{left[0].name} (process {left[0].pid}) could not be killed: end it by hand")
    return [m.name for m in killed]


def _left(members: Sequence[RunProcess], within_s: float) -> list[RunProcess]:
    """Those that still run after at most so many seconds."""
    until = time.monotonic() + within_s
    members = list(members)
    while (members := [m for m in members if m.alive()]) and time.monotonic() < until:
        time.sleep(POLL_S)
    return members
