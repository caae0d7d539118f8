"""Which sequence has which slot, and automatic prefix caching.

A slot whose sequence has ended keeps its keys and values until another sequence needs the place. A
new sequence takes over the longest prefix of its tokens that any slot holds: the slot itself if
little else in it is lost, else a copy. Under memory pressure idle slots are evicted, the one used
longest ago first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwq.engine.backends.base import Backend
from qwq.engine.sequence import Phase, TokenSequence

MIN_SHARED = 8  # a shorter common prefix is computed again


@dataclass(slots=True, eq=False)
class CacheSlot:
    """A slot of the backend: what it holds, and which sequence runs in it (None: it is kept for its
    prefix).
    """

    number: int
    owner: TokenSequence | None
    yarn: bool
    held: np.ndarray  # of a running sequence its prompt, of an idle slot all its tokens
    shareable: int = 0  # of an idle slot: how many of its tokens another sequence may take over
    used: int = 0

    def content(self, unit: int) -> np.ndarray:
        """Tokens that can be shared, in whole units of the backend; of a running sequence only
        those of its prompt.
        """
        if self.owner is None:
            return self.held[: self.shareable]
        return self.held[: min(self.owner.num_computed, len(self.held)) // unit * unit]


class PrefixCache:
    """The slots of one backend. `enabled` False: a slot is closed when its sequence ends, and no
    prefix is looked for.
    """

    def __init__(self, backend: Backend, *, enabled: bool) -> None:
        self.backend, self.enabled = backend, enabled
        self.slots: dict[int, CacheSlot] = {}
        self._clock = 0

    def acquire(self, sequence: TokenSequence, running: Sequence[TokenSequence], length: int) -> bool:
        """Give a waiting sequence a slot with room for `length` tokens. False: not now."""
        source, shared = self.longest_prefix(sequence)
        if self._worth_waiting(shared, sequence, running):
            return False
        return self.take(sequence, source, shared, length)

    def take(self, sequence: TokenSequence, source: CacheSlot | None, shared: int, length: int = 0) -> bool:
        """Give a sequence a slot with the first `shared` tokens of `source`. False: not now."""
        target, shared = self._target(sequence, source, shared)
        if target is None:
            return False
        while not self.backend.reserve(target.number, length):
            if not self.evict(keep=target):
                self.drop(target)
                return False
        target.owner, target.held = sequence, np.asarray(sequence.request.prompt_ids, dtype=np.int64)
        if sequence.admitted is None:
            sequence.admitted = time.perf_counter()
        sequence.slot, sequence.num_computed, sequence.num_cached = target.number, shared, shared
        sequence.phase = Phase.RUNNING
        return True

    def _target(self, sequence: TokenSequence, source: CacheSlot | None, shared: int) -> tuple[CacheSlot | None, int]:
        """The slot of a new sequence, and how many of its tokens are there."""
        if source is not None and source.owner is None and 2 * shared >= len(source.held):
            # Little is lost by continuing in that very slot.
            self.backend.truncate(source.number, shared)
            return source, shared
        number = self.backend.open_slot()
        while number is None and self.evict(keep=source):
            number = self.backend.open_slot()
        if number is None:
            return None, 0
        target = self.slots[number] = CacheSlot(number, None, sequence.yarn, np.zeros(0, np.int64))
        if source is not None and not self.backend.copy_prefix(source.number, number, shared):
            shared = 0
        return target, shared

    def longest_prefix(
        self, sequence: TokenSequence, least: int = MIN_SHARED, among: Sequence[CacheSlot] | None = None
    ) -> tuple[CacheSlot | None, int]:
        """The slot that holds most of a sequence's tokens, and how many: at least `least`, and not
        its last one. `among`: the slots to look at, by default all that hold something.
        """
        if not self.enabled or sequence.request.prompt_logprobs is not None:
            return None, 0
        unit, length, best = self.backend.chunk_unit, max(least, MIN_SHARED), None
        least = length
        wanted = np.asarray(sequence.tokens[:-1], dtype=np.int64)
        if len(wanted) < length:
            return None, 0
        for slot in self.filled() if among is None else among:
            if self.slots.get(slot.number) is not slot:
                continue  # evicted since
            content = slot.content(unit)
            # The cheap look first: most slots part before the best one so far.
            if len(content) < length or slot.yarn != sequence.yarn or content[length - 1] != wanted[length - 1]:
                continue
            common = common_length(content, wanted)
            # Of two that hold as much, the one that holds less besides: the other one may be
            # continued by its own sequence.
            if common > length or (common == length and (best is None or len(slot.held) < len(best.held))):
                best, length = slot, common
        length = length // unit * unit
        return (best, length) if best is not None and length >= least else (None, 0)

    def filled(self) -> list[CacheSlot]:
        """The slots that hold a prefix worth sharing."""
        return [s for s in self.slots.values() if s.owner is None or s.owner.num_computed >= MIN_SHARED]

    def _worth_waiting(self, shared: int, sequence: TokenSequence, running: Sequence[TokenSequence]) -> bool:
        """Whether a running sequence is about to compute more of this prompt than there is now."""
        if not self.enabled or sequence.request.prompt_logprobs is not None:
            return False
        unit, tokens = self.backend.chunk_unit, np.asarray(sequence.tokens[:-1], dtype=np.int64)
        for other in running:
            if other.num_computed < other.num_prompt and other.yarn == sequence.yarn:
                common = common_length(self.slots[other.slot].held, tokens) // unit * unit
                if common >= shared + 2 * MIN_SHARED and common > other.num_computed:
                    return True
        return False

    def release(self, sequence: TokenSequence) -> None:
        """Keep the slot of a sequence that has ended in the cache, or close it."""
        slot, unit = self.slots[sequence.slot], self.backend.chunk_unit
        shareable = sequence.num_computed
        if unit > 1:  # deterministic: only whole blocks of a prompt
            shareable = min(shareable, sequence.num_prompt) // unit * unit
        if self.keeps(sequence) and shareable >= MIN_SHARED:
            self._clock += 1
            slot.owner, slot.used, slot.shareable = None, self._clock, shareable
            slot.held = np.asarray(sequence.tokens[: sequence.num_computed], dtype=np.int64)
        else:
            self.drop(slot)
        sequence.slot = -1

    def keeps(self, sequence: TokenSequence) -> bool:
        """Whether the slot of this sequence is kept when it ends."""
        return self.enabled and sequence.request.keep_prefix

    def evict(self, keep: CacheSlot | None) -> bool:
        """Close the idle slot that was used longest ago; False if there is none but `keep`."""
        idle = [s for s in self.slots.values() if s.owner is None and s is not keep]
        if not idle:
            return False
        self.drop(min(idle, key=lambda s: s.used))
        return True

    def drop(self, slot: CacheSlot) -> None:
        self.backend.close_slot(slot.number)
        del self.slots[slot.number]

    def forget(self) -> None:
        """Close every idle slot."""
        for slot in [s for s in self.slots.values() if s.owner is None]:
            self.drop(slot)


def common_length(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common beginning."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n
