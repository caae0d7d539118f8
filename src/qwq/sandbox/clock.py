"""The time that a run has had, whatever else the machine does.

A run's time is wall time without the part in which it was ready and waited for a core: it computes
or sleeps, and other processes of a busy machine do not count. The kernel tells how long a task has
waited (/proc/PID/task/TID/schedstat); of several tasks the one that waited longest is taken, so a
program that waits for its own threads or processes is not charged for what delayed them. Tasks of
one program that wait for each other are no excuse: what the others of them have computed is taken
off, shared by the cores. Where the kernel does not tell, wall time is all there is.
"""

from __future__ import annotations

import os
import time

from qwq.sandbox.limits import Limits
from qwq.sandbox.watchdog import descendants

CPU_FACTOR = 4  # CPU time of all processes of a run together, as a multiple of its time
WALL_FACTOR, WALL_S = 20, 60.0  # a run that is not over by then says nothing about the program
SAMPLE_S = 0.05
_TICKS = os.sysconf("SC_CLK_TCK")
_CORES = len(os.sched_getaffinity(0))


class Clock:
    """One run below the slot's process `pid`. It starts with the program, and again with each case
    if limits say so.

    `resumed`: the run is older than the clock (a session's next cell). What it has waited and used
    before is taken off, as of SAMPLE_S after the start, so that a short cell costs no look at its
    tasks.
    """

    def __init__(self, pid: int, limits: Limits, *, resumed: bool = False):
        self._pid = pid
        self._limits = limits
        self._started = self._case_started = self._sampled = time.monotonic()
        self._case_waited = self._waited_before = self._used_before = 0.0
        self._needs_baseline = resumed
        self.due = self._started + (min(SAMPLE_S, limits.timeout_s) if resumed else limits.timeout_s)  # the next look

    def case_done(self) -> None:
        """The program has given a result, and begins with the next."""
        now = time.monotonic()
        if now - self._sampled > SAMPLE_S:
            self._sampled, self._case_waited = now, waited_and_used(self._tasks())[0]
        self._case_started = now
        self.due = min(now + self._limits.timeout_s, self._started + self._limits.total_s)

    def is_over(self) -> bool:
        """Whether the run has had its time; else `due` is later than now."""
        now = time.monotonic()
        if now < self.due:
            return False
        waited, used = waited_and_used(self._tasks())
        if self._needs_baseline:
            self._needs_baseline = False
            self._case_waited = self._waited_before = waited
            self._used_before = used
        left = min(
            self._limits.timeout_s - (now - self._case_started) + (waited - self._case_waited),
            self._limits.total_s - (now - self._started) + (waited - self._waited_before),
        )
        if left <= 0 or used - self._used_before > CPU_FACTOR * self._limits.total_s:
            return True
        self.due = now + max(left, 0.01)
        return False

    def says_nothing(self) -> bool:
        """Whether so much time has passed that the machine, not the program, is to blame."""
        return time.monotonic() - self._started > WALL_FACTOR * self._limits.total_s + WALL_S

    def _tasks(self) -> list[str]:
        """Folders of all tasks of the run: what lies below the slot's process and its child, the
        zygote.
        """
        tasks = []
        for pid in descendants(self._pid)[2:]:
            try:
                tasks += [f"/proc/{pid}/task/{thread}" for thread in os.listdir(f"/proc/{pid}/task")]
            except OSError:
                continue
        return tasks


def waited_and_used(tasks: list[str]) -> tuple[float, float]:
    """Seconds that the task which waited longest for a core has waited for others than its own, and
    CPU seconds of all.
    """
    waited = computed = used = 0.0
    for folder in tasks:
        try:
            with open(f"{folder}/stat") as f:
                # After the name in brackets: utime and stime are fields 14 and 15 of proc(5).
                fields = f.read().rpartition(")")[2].split()
            own = (int(fields[11]) + int(fields[12])) / _TICKS
            used += own
            with open(f"{folder}/schedstat") as f:
                delay = int(f.read().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            continue
        if delay > waited:
            waited, computed = delay, own
    return max(0.0, waited - (used - computed) / _CORES), used
