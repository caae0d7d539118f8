"""A run of a slot that its parent talks to while it lasts, as sessions do; `JailSlot.execute` runs
the others from start to end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass

from qwq.sandbox.jail.zygote import EXIT_PACKET
from qwq.sandbox.limits import Limits
from qwq.sandbox.pipes import Pipes
from qwq.sandbox.slot import KILL_TIMEOUT_S, STARTED, JailSlot
from qwq.sandbox.slot_process import START_TIMEOUT_S

END_TIMEOUT_S = 1.0  # for a run that is told to end, before it is killed


@dataclass(frozen=True, slots=True)
class Ended:
    """How an open run ended. A negative `exit_code` is a signal."""

    exit_code: int
    out_of_memory: bool


class OpenRun:
    """Started when it is made, over `stdin`, a descriptor, which is closed here; `end` must
    follow.
    """

    def __init__(self, slot: JailSlot, payload: bytes, stdin: int, limits: Limits):
        self.slot = slot
        slot.limit_group(limits)
        pipes = Pipes(limits, slot.own_uid, None)
        try:
            slot.send(payload, stdin, limits, pipes)
            self._wait_for_start(pipes)
        finally:
            pipes.close()

    def _wait_for_start(self, pipes: Pipes) -> None:
        poller = select.poll()
        for fd in (self.control_fd, pipes.read_ends[2]):
            poller.register(fd, select.POLLIN)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not pipes.data[2].startswith(STARTED):
            events = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not events or self.control_fd in dict(events):
                pipes.drain()
                raise self.slot.fail(f"a run could not be set up: {pipes.data[1].decode(errors='replace')[:300]}")
            pipes.read(pipes.read_ends[2])

    @property
    def control_fd(self) -> int:
        """Readable when the run has ended, or the slot has died."""
        return self.slot.control.fileno()

    @property
    def is_alive(self) -> bool:
        return not select.select([self.control_fd], [], [], 0)[0]

    def interrupt(self) -> None:
        """Send SIGINT to the run's process."""
        with contextlib.suppress(OSError):  # `end` says what happened to the slot
            self.slot.control.send(b"I")

    def end(self, *, kill: bool) -> Ended:
        """Wait until nothing is left of the run. It is killed first if that is asked for, or if it
        does not end by itself. Raises InfraError where the slot has died.
        """
        if kill or not self._has_ended(END_TIMEOUT_S):
            with contextlib.suppress(OSError):
                self.slot.control.send(b"K")
            if not self._has_ended(KILL_TIMEOUT_S):
                raise self.slot.fail(f"a run did not end within {KILL_TIMEOUT_S} s of being killed")
        status, _, _ = EXIT_PACKET.unpack(self.slot.exit_packet())
        exit_code = os.waitstatus_to_exitcode(status)
        killed = exit_code == -signal.SIGKILL
        return Ended(exit_code, killed and self.slot.group is not None and self.slot.group.ran_out_of_memory())

    def _has_ended(self, wait_s: float) -> bool:
        return bool(select.select([self.control_fd], [], [], wait_s)[0])
