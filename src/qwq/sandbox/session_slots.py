"""Slots of a sandbox's sessions: one for each session that has a process, kept warm for the next
one when it closes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from qwq.errors import InfraError, UsageError
from qwq.sandbox.interpreter import SessionLimits
from qwq.sandbox.session import Session
from qwq.sandbox.slot import JailSlot

# Of the host's installed packages: shown in the jail and imported once, before any session, where
# they are there.
PACKAGES = ("numpy", "pandas", "matplotlib")
WAIT_S = 60.0  # for another session to end its cell
LOOK_EVERY_S = 0.02  # a session that is idle again does not say so
MAX_FREE = 4  # slots that wait for a session: each holds the packages in memory


class SessionSlots:
    """At most `most` sessions have a process at a time. When one more needs one, the session that
    was not used for longest gives up its own and is rebuilt by replay when it is used again.
    """

    def __init__(self, start_slot: Callable[[], JailSlot], discard: Callable[[JailSlot], None], most: int):
        self._start_slot = start_slot
        self._discard = discard
        self._most = most
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._free: list[JailSlot] = []
        self._sessions: set[Session] = set()
        self._taken = 0
        self._closed = False

    def open(self, limits: SessionLimits, *, replay: bool) -> Session:
        session = Session(self, limits, replay=replay, on_close=self._forget)
        with self._lock:
            if self._closed:
                raise InfraError("the sandbox is closed")
            self._sessions.add(session)
        return session

    def warm(self, count: int) -> None:
        """Start slots ahead of the sessions that will need them."""
        for _ in range(min(count, self._most) - len(self._free) - self._taken):
            slot = self._start_slot()
            with self._lock:
                self._free.append(slot)

    def take(self) -> JailSlot:
        """A slot for a session that has none, which holds its own lock.

        Waits where all others run cells, and raises UsageError after WAIT_S.
        """
        deadline = time.monotonic() + WAIT_S
        while True:
            with self._lock:
                if self._closed:
                    raise InfraError("the sandbox is closed")
                if self._taken < self._most:
                    self._taken += 1
                    free = self._free.pop() if self._free else None
                    break
                idle = sorted((s for s in self._sessions if s.has_process), key=lambda s: s.last_used)
            if any(other.suspend() for other in idle):
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                raise UsageError(
                    f"{self._most} sessions have run cells for {WAIT_S:g} s, which is the limit: try again, or give "
                    "max_sessions"
                )
            with self._idle:
                self._idle.wait(min(left, LOOK_EVERY_S))
        try:
            return free if free is not None and not free.dead else self._start_slot()
        except BaseException:
            with self._lock:
                self._taken -= 1
            raise

    def give_back(self, slot: JailSlot) -> None:
        with self._lock:
            self._taken -= 1
            self._idle.notify()
            if not slot.dead and not self._closed and len(self._free) < MAX_FREE:
                self._free.append(slot)
                return
        self._discard(slot)

    def _forget(self, session: Session) -> None:
        with self._lock:
            self._sessions.discard(session)

    def close(self) -> None:
        """Close all sessions. The slots belong to the sandbox, which ends them."""
        with self._lock:
            self._closed = True
            sessions = list(self._sessions)
        for session in sessions:
            session.close()
