"""Every process of a run tells the others that it is there, also while it works alone or waits for
one that does.

Such a wait may take an hour, and a host that is lost, or whose link is cut, closes no connection:
without this the others would wait so long for it. A thread of each process adds up zeros with all
the others, again and again, each time within the time-out of common work.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

BEAT_S = 1.0  # from one beat to the next
SHORTEST_POLL_S, LONGEST_POLL_S = 0.0005, 0.02


class Heartbeat:
    """Beats of this process and all others, from now until all of them leave."""

    def __init__(self, size: int, timeout_s: float) -> None:
        self.size = size
        self._lost: RuntimeError | None = None
        self._leaving = threading.Event()
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._thread.start()

    def _beat(self) -> None:
        num_leaving = 0
        while num_leaving < self.size:
            self._leaving.wait(BEAT_S)
            leaving = torch.tensor([int(self._leaving.is_set())])
            try:
                dist.all_reduce(leaving, group=self._group)
            except RuntimeError as error:
                self._lost = error
                return
            num_leaving = int(leaving)

    def wait(self, work: Any) -> None:
        """Wait for a message of torch's, as long as all processes are there. RuntimeError, torch's
        own, where one is not.
        """
        poll_s = SHORTEST_POLL_S
        while not work.is_completed():
            if self._lost is not None:
                raise self._lost
            time.sleep(poll_s)
            poll_s = min(LONGEST_POLL_S, 1.5 * poll_s)
        work.wait()

    def leave(self, timeout_s: float) -> None:
        """The last beat, with which all leave: who goes alone is one that was lost."""
        self._leaving.set()
        self._thread.join(timeout_s)
