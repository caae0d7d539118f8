"""Starts processes of a run again that have ended: `qwq cluster watch`, one more process of the
run, for those that were started plainly. Ray's are started again by Ray.

Each gets so many further starts, later and later, and is then left as it is. It decides nothing
about work: a lost engine's leases are the trainer's to give again, and a trainer resumes from its
checkpoint. No torch.
"""

from __future__ import annotations

import time
from collections import Counter

from qwq.cluster.detached import DetachedProcess, RunProcess
from qwq.cluster.group import ProcessGroup, last_line
from qwq.errors import ConfigError, InfraError

NAME = "watcher"
TRAINER = "trainer"
LOOK_S = 1.0  # from one look to the next
FIRST_WAIT_S = 1.0  # before the second start of a process again; doubled each time
LONGEST_WAIT_S = 60.0


class Restarter:
    """Watches the processes of `group`, each of which is started again at most `restarts` times."""

    def __init__(self, group: ProcessGroup, restarts: int) -> None:
        self.group, self.restarts = group, restarts
        self.tries: Counter[str] = Counter()
        self._due: dict[str, float] = {}
        self._said: dict[str, str] = {}

    def run(self) -> None:
        """Until `qwq cluster down` ends the run's processes."""
        while self.look(time.monotonic()):
            time.sleep(LOOK_S)

    def look(self, now: float) -> bool:
        """One look at all; False where the run has no processes any more."""
        try:
            members = self.group.members()
        except ConfigError:
            return False
        for member in members:
            if isinstance(member, DetachedProcess) and member.name != NAME:
                try:
                    self._look_at(member, now)
                except InfraError as error:  # its host does not answer: it is asked again
                    self._say(member.name, str(error))
                except ConfigError:  # another command works on the run: it is looked at again
                    continue
        return True

    def _look_at(self, member: DetachedProcess, now: float) -> None:
        if member.alive() or now < self._due.get(member.name, 0.0) or self._is_done(member):
            return
        if self.tries[member.name] >= self.restarts:
            self._say(member.name, f"it has ended, and was started again {self.restarts} times: it is left so")
            return
        ended = last_line(member.log)
        if (started := self.group.again(member)) is not None:
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** self.tries[member.name])
            self.tries[member.name] += 1
            self._due[member.name] = now + wait_s
            left = self.restarts - self.tries[member.name]
            self.group.note(
                f"{member.name} had ended ({ended}): started again as process {started.pid}, {left} restarts left"
            )

    def _is_done(self, member: RunProcess) -> bool:
        """Whether it is the trainer of a run that is finished."""
        results = self.group.folder.results() if member.name == TRAINER else None
        return bool(results and results["finished"])

    def _say(self, name: str, text: str) -> None:
        """Once for each text."""
        if self._said.get(name) != text:
            self._said[name] = text
            self.group.note(f"{name}: {text}")
