"""Where the machine gives us no cgroup: looks at a run from outside, some times a second, and says
when to kill it.

Bounds what rlimits cannot: the memory of all processes of a run together and, without a tmpfs of
its own, what it leaves on disk. It is a watch and not a wall: between two looks a run can exceed
the limit by what it can take in that time.
"""

from __future__ import annotations

import os

from qwq.sandbox.limits import ZYGOTE_MB, Limits, RunStatus

PERIOD_S = 0.05
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Watchdog:
    """Watches the processes below `pid` (None where a group bounds them) and the files in `scratch`
    (None where the box is a tmpfs) for one run.
    """

    def __init__(self, pid: int | None, scratch: str | None, limits: Limits, base_mb: int = ZYGOTE_MB):
        self.period_s = PERIOD_S
        self._pid = pid
        self._scratch = scratch
        self._memory_bytes = (limits.memory_mb + limits.box_mb + base_mb) << 20
        self._box_bytes = limits.box_mb << 20
        self._box_files = limits.box_files

    def look(self) -> RunStatus | None:
        """Why the run should be killed now, or None."""
        if self.disk_is_full():
            return RunStatus.OUTPUT_LIMIT
        if self._pid is None:
            return None
        return RunStatus.MEMORY if sum(map(memory_of, descendants(self._pid))) > self._memory_bytes else None

    def disk_is_full(self) -> bool:
        """Whether the run has more on disk than it may; a file system of its own tells it so
        itself.
        """
        folder = self._scratch
        if folder is None:
            return False
        total = 0
        try:
            with os.scandir(folder) as entries:
                for number, entry in enumerate(entries):
                    if number >= self._box_files:
                        return True
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:  # a file that is gone by now
            return False
        return total > self._box_bytes


def descendants(pid: int) -> list[int]:
    """`pid` and all processes below it, as far as they are still there."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        found.append(parent)
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children") as f:
                    waiting += map(int, f.read().split())
        except (OSError, ValueError):
            continue
    return found


def memory_of(pid: int) -> int:
    """Bytes of a process, pages shared with others by their share; all its pages where the kernel
    does not tell us.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as f:
            for line in f:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    try:
        with open(f"/proc/{pid}/statm", "rb") as f:
            return int(f.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0
