"""Leases: which engine samples which group, until when, and what of it counts.

A group is `GroupKey`. It is wanted, then leased to an engine until a deadline, then accepted, once.
An engine that is lost, or whose deadline has passed, loses its leases; the groups are wanted again,
and whatever it still sends is late. Nothing here waits, measures time or speaks to anybody: times
come from the caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, order=True)
class GroupKey:
    """The samples of one prompt in one step. Two keys that are equal ask for the same tokens.

    `group` is the number of the prompt in the stage, `step` the step that trains on it.
    """

    stage: str
    step: int
    group: int
    samples: int
    seed: int


@dataclass(frozen=True, slots=True)
class Lease:
    """`engine` samples `key` until `deadline` (seconds of the caller's clock)."""

    number: int
    key: GroupKey
    engine: Hashable
    deadline: float


class Offer(StrEnum):
    """What became of a result."""

    ACCEPTED = "accepted"
    LATE = "late"  # its lease was lost before
    TWICE = "twice"  # the group was accepted before
    STALE = "stale"  # sampled with weights further back than max_lag


class LeaseBook:
    """The groups of the steps under way. `max_lag`: how many steps the weights of a group's oldest
    token may be behind the step that trains on it; 0 is on-policy.
    """

    def __init__(self, *, max_lag: int = 0) -> None:
        self.max_lag = max_lag
        self.waiting: list[GroupKey] = []
        self.leases: dict[int, Lease] = {}
        self.accepted: set[GroupKey] = set()
        self.counts: Counter[str] = Counter()
        self._next = 0

    def want(self, key: GroupKey) -> None:
        """Ask for a group; one that is known already stays as it is."""
        leased = any(lease.key == key for lease in self.leases.values())
        if key not in self.accepted and key not in self.waiting and not leased:
            self.waiting.append(key)

    def grant(self, engine: Hashable, deadline: float) -> Lease | None:
        """The next group for an engine; None where nothing waits."""
        if not self.waiting:
            return None
        self._next += 1
        lease = Lease(self._next, self.waiting.pop(0), engine, deadline)
        self.leases[lease.number] = lease
        self.counts["granted"] += 1
        return lease

    def lose(self, number: int) -> Lease | None:
        """Take a lease back; its group waits again, before all others. None: it was lost before."""
        lease = self.leases.pop(number, None)
        if lease is not None:
            self.counts["lost"] += 1
            if lease.key not in self.accepted:
                self.waiting.insert(0, lease.key)
        return lease

    def lose_all(self, engine: Hashable) -> list[Lease]:
        """Take every lease of an engine back."""
        held = [lease.number for lease in self.leases.values() if lease.engine == engine]
        return [lease for number in reversed(held) if (lease := self.lose(number)) is not None]

    def expired(self, now: float) -> list[Lease]:
        """Leases whose deadline has passed; they are still held (`lose`)."""
        return [lease for lease in self.leases.values() if lease.deadline <= now]

    def offer(self, number: int, oldest_step: int, at: float) -> tuple[Offer, GroupKey | None]:
        """A result for a lease, which came `at`; its oldest token was sampled with the weights of
        `oldest_step`. A stale group waits again.
        """
        lease = self.leases.get(number)
        if lease is None or lease.deadline < at:
            self.lose(number)
            return self._told(Offer.LATE), None
        if lease.key in self.accepted:
            del self.leases[number]
            return self._told(Offer.TWICE), lease.key
        if not self.fresh(lease.key.step, oldest_step):
            self.lose(number)
            return self._told(Offer.STALE), lease.key
        del self.leases[number]
        self.accepted.add(lease.key)
        return self._told(Offer.ACCEPTED), lease.key

    def restore(self, key: GroupKey, oldest_step: int) -> bool:
        """Count a group that was logged as accepted before a restart; False where it is stale."""
        if not self.fresh(key.step, oldest_step):
            return False
        self.accepted.add(key)
        return True

    def fresh(self, step: int, oldest_step: int) -> bool:
        """Whether weights of `oldest_step` may be trained on in `step`."""
        return 0 <= step - oldest_step <= self.max_lag

    def cut(self, key: GroupKey) -> list[Lease]:
        """Want a group no longer; gives the leases that it had."""
        held = [lease for lease in self.leases.values() if lease.key == key]
        for lease in held:
            del self.leases[lease.number]
        self.waiting = [k for k in self.waiting if k != key]
        self.counts["cut"] += 1
        return held

    def carry(self, key: GroupKey, later: GroupKey) -> None:
        """A group that was not ready belongs to a later step; its leases stay."""
        for number, lease in list(self.leases.items()):
            if lease.key == key:
                self.leases[number] = Lease(number, later, lease.engine, lease.deadline)
        self.waiting = [later if k == key else k for k in self.waiting]
        self.counts["carried"] += 1

    def _told(self, offer: Offer) -> Offer:
        self.counts[offer.value] += 1
        return offer
