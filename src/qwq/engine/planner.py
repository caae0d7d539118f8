"""The batch of one step: which tokens of which sequences are computed, and the memory for them.

Running sequences come first, one token each (more after a guess or a forced phrase), then new ones
while slots, memory and the budget of tokens last. Under memory pressure idle slots are evicted,
then the newest sequence is preempted: it goes back to waiting and is recomputed later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from qwq.engine.backends.base import Backend, Chunk
from qwq.engine.prefix_cache import MIN_SHARED, PrefixCache
from qwq.engine.sequence import Phase, TokenSequence
from qwq.types import StopReason

PROMPT_LOGPROB_CHUNK = 64  # bounds the logits of a prompt that are alive at once


@dataclass(slots=True)
class Stats:
    """Counts since the engine was made."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    computed_tokens: int = 0
    preemptions: int = 0
    drafted: int = 0
    accepted: int = 0


class BatchPlanner:
    """Plans the steps of one engine, whose queues it shares. A sequence holds at most `max_tokens`
    tokens.

    `finish` ends a sequence that is alone and has no memory left.
    """

    def __init__(
        self,
        backend: Backend,
        cache: PrefixCache,
        *,
        max_running: int,
        token_budget: int,
        max_tokens: int,
        finish: Callable[[TokenSequence, StopReason], None],
    ) -> None:
        self.backend, self.cache, self._finish = backend, cache, finish
        self.max_running, self.max_tokens = max_running, max_tokens
        self.token_budget = max(token_budget, backend.chunk_unit)
        self.waiting: deque[TokenSequence] = deque()
        self.running: list[TokenSequence] = []
        self.stats = Stats()

    def plan(self) -> list[tuple[TokenSequence, Chunk]]:
        """The batch: running sequences first (short pieces before long ones), then new ones while
        the budget lasts.
        """
        budget = self.token_budget
        work: dict[TokenSequence, Chunk] = {}
        for sequence in sorted(self.running, key=lambda s: len(s.tokens) - s.num_computed > MIN_SHARED):
            if sequence.phase is not Phase.RUNNING:  # preempted to make room for one before it
                continue
            chunk = self._next_chunk(sequence, budget)
            if chunk is None:
                continue
            if not self._make_room(sequence, chunk.start + len(chunk.ids), work):
                continue
            work[sequence] = chunk
            budget -= len(chunk.ids)
        while self.waiting and len(self.running) < self.max_running and budget > 0:
            sequence = self.waiting[0]
            if not self._admit(sequence):
                break
            self.waiting.popleft()
            chunk = self._next_chunk(sequence, budget)
            if chunk is None or not self._make_room(sequence, chunk.start + len(chunk.ids), work):
                break
            work[sequence] = chunk
            budget -= len(chunk.ids)
        return list(work.items())

    def _next_chunk(self, sequence: TokenSequence, budget: int) -> Chunk | None:
        start, unit = sequence.num_computed, self.backend.chunk_unit
        left = len(sequence.tokens) - start
        in_prompt = start < sequence.num_prompt
        size = min(left, budget)
        if in_prompt:
            if unit > 1:  # deterministic: whole blocks, and never prompt and output together
                size = min(size, sequence.num_prompt - start)
                size = size if size == sequence.num_prompt - start else size // unit * unit
            if sequence.request.prompt_logprobs is not None:
                size = min(size, PROMPT_LOGPROB_CHUNK)
        if size <= 0:
            return None
        ids = sequence.tokens[start : start + size]
        last = size == left
        num_logits = int(last)
        sequence.drafted = []
        room = min(budget, self._room(sequence)) - 1
        if last and left == 1 and sequence.draft is not None and not in_prompt and room > 0:
            sequence.drafted = sequence.draft.propose(sequence, room, len(self.running) - 1)
            num_logits += len(sequence.drafted)
        if in_prompt and sequence.request.prompt_logprobs is not None:
            num_logits = size
        return Chunk(sequence.slot, [*ids, *sequence.drafted], start, num_logits, sequence.yarn, in_prompt)

    def _room(self, sequence: TokenSequence) -> int:
        """Tokens that a sequence may still write."""
        return min(sequence.request.params.max_new_tokens - len(sequence.ids), self.max_tokens - len(sequence.tokens))

    def _admit(self, sequence: TokenSequence) -> bool:
        """Give a waiting sequence a slot. False: not now."""
        length = len(sequence.tokens)
        if self.backend.deterministic:
            length = min(sequence.num_prompt + sequence.request.params.max_new_tokens, self.max_tokens)
        if not self.cache.acquire(sequence, self.running, length):
            return False
        self.stats.cached_tokens += sequence.num_cached
        self.stats.prompt_tokens += sequence.num_prompt
        self.running.append(sequence)
        return True

    def _make_room(self, sequence: TokenSequence, length: int, work: dict[TokenSequence, Chunk]) -> bool:
        """Reserve memory for a running sequence, at the cost of idle slots and then of newer
        sequences.
        """
        while not self.backend.reserve(sequence.slot, length):
            if self.cache.evict(keep=None):
                continue
            victim = self.running[-1]
            self._preempt(victim)
            work.pop(victim, None)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: TokenSequence) -> None:
        assert not self.backend.deterministic, "a deterministic slot has reserved all it may need"
        if len(self.running) == 1:
            self._finish(sequence, StopReason.CONTEXT)  # alone, and nothing left to give back
            return
        self.restart(sequence)
        sequence.num_preemptions += 1
        self.stats.preemptions += 1

    def restart(self, sequence: TokenSequence) -> None:
        """Take a running sequence's slot; it waits, first in the queue, and is computed again from
        its tokens.
        """
        self.cache.drop(self.cache.slots[sequence.slot])
        self.running.remove(sequence)
        sequence.slot, sequence.num_computed, sequence.phase = -1, 0, Phase.WAITING
        self.waiting.appendleft(sequence)
