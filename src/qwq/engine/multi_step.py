"""Multi-step decoding: sequences of one kind decode together in tensors, and the scheduler acts
only when one of them ends.

A *plain* sequence needs nothing between two tokens: no stop strings, grammar, penalties,
speculation or alternatives. If all sequences of an engine are plain and sampled alike, and its
backend can (`backends.base.BatchBackend`), a step is

    admit    waiting sequences get slots, many at once so that prefills stay large
    load     tokens that are not computed yet are computed but for the last one; a prompt that
             several sequences have is
             computed once and copied
    decode   all rows in one batch, for as many steps as none of them ends; text is not made here
    output   the rows that stopped: an end token, a limit, or a check that is due (thinking budget,
             loop)

A sequence's limit is the earliest token at which something may have to be done: its thinking budget
cannot be spent before as many tokens came, and loops are looked for every `LOOP_CHECK_EVERY`
tokens.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from qwq.engine.backends.base import BatchBackend, Chunk, DecodeRow, RowOutput
from qwq.engine.output import OutputProcessor, not_finite
from qwq.engine.prefix_cache import PrefixCache
from qwq.engine.sequence import TokenSequence
from qwq.engine.thinking import LOOP_CHECK_EVERY
from qwq.types import StopReason

PREFILL_TOKENS = 4096  # prompt tokens computed at once: bounds the activations of a long prefill
REFILL_SHARE = 8  # new sequences are admitted when 1/8 of the places are free: few empty rows, and large prefills


def batch_kind(sequence: TokenSequence) -> Hashable | None:
    """What sequences that decode together have in common; None if one needs the scheduler after
    each token.
    """
    request, params = sequence.request, sequence.request.params
    if (
        request.stop
        or request.stop_ids
        or request.min_new_tokens
        or request.logprobs is not None
        or request.prompt_logprobs is not None
        or request.matcher is not None
        or sequence.draft is not None
        or sequence.yarn
        or params.needs_history
        or params.logit_bias
        or (request.thinking_budget is not None and not request.plain_sampling)
    ):
        return None
    return params.temperature, params.top_k, params.top_p, params.min_p, request.eos_ids


@dataclass(slots=True)
class DecodeCounts:
    """What one call of `MultiStep.step` did."""

    steps: int = 0
    computed_tokens: int = 0
    output_tokens: int = 0


class MultiStep:
    """The loaded rows of one engine. The engine keeps `waiting` and `running`; this class keeps
    what decodes in tensors.
    """

    def __init__(self, backend: BatchBackend, cache: PrefixCache, output: OutputProcessor, name: str) -> None:
        self.backend, self.cache, self.output, self.name = backend, cache, output, name
        self.loaded: dict[int, TokenSequence] = {}  # by slot
        self._taken: dict[int, int] = {}  # tokens of a loaded slot that its sequence already has
        self._prompts: dict[tuple[int, ...], int] = {}  # all tokens of a prompt but the last -> a slot that holds them

    def room(self, sequence: TokenSequence) -> int:
        """Tokens that a sequence may still write."""
        return min(
            sequence.request.params.max_new_tokens - len(sequence.ids), self.output.max_tokens - len(sequence.tokens)
        )

    # -- admission ---------------------------------------------------------------------------------

    def admit(self, new: Sequence[TokenSequence]) -> list[TokenSequence]:
        """Give sequences slots; those for which there is none are left out."""
        self.backend.grow(len(self.cache.slots) + len(new), max(len(s.tokens) + self.room(s) for s in new))
        filled = self.cache.filled()  # once: those that are admitted together hold nothing yet
        return [s for s in new if self.cache.take(s, *self.cache.longest_prefix(s, len(s.tokens) // 2, among=filled))]

    def load(self, sequences: Sequence[TokenSequence]) -> int:
        """Compute what sequences lack but their last tokens, and let them decode. Returns the
        tokens computed.
        """
        leaders, followers = self._by_prompt(sequences)
        todo = [s for s in leaders if s.num_computed < len(s.tokens) - 1]
        todo.sort(key=lambda s: len(s.tokens) - s.num_computed)
        chunks = [
            Chunk(s.slot, s.tokens[s.num_computed : -1], s.num_computed, 0, prompt=s.num_computed < s.num_prompt)
            for s in todo
        ]
        for batch in batches([len(c.ids) for c in chunks], PREFILL_TOKENS):
            self.backend.forward(chunks[batch])
        for source, group in followers.items():
            length = len(group[0].tokens) - 1
            self.backend.copy_prefixes(source, [s.slot for s in group], length)
            for s in group:
                s.num_cached = length
        self.backend.load([self._row(s) for s in sequences])
        for s in sequences:
            s.num_computed = len(s.tokens) - 1
            self.loaded[s.slot], self._taken[s.slot] = s, 0
        return sum(len(c.ids) for c in chunks)

    def _by_prompt(
        self, sequences: Sequence[TokenSequence]
    ) -> tuple[list[TokenSequence], dict[int, list[TokenSequence]]]:
        """Those whose tokens must be computed, and those that copy them, by the slot that will have
        them.
        """
        leaders: list[TokenSequence] = []
        followers: dict[int, list[TokenSequence]] = {}
        for s in sequences:
            if s.num_computed or len(s.tokens) < 2:
                leaders.append(s)
                continue
            prompt = tuple(s.tokens[:-1])
            source = self._prompts.setdefault(prompt, s.slot)
            if source != s.slot and not self._holds(source, prompt):
                source = self._prompts[prompt] = s.slot
            if source == s.slot:
                leaders.append(s)
            else:
                followers.setdefault(source, []).append(s)
        if len(self._prompts) > 2 * len(self.cache.slots):
            self._prompts = {p: slot for p, slot in self._prompts.items() if self._holds(slot, p)}
        return leaders, followers

    def _holds(self, slot: int, prompt: tuple[int, ...]) -> bool:
        """Whether a slot still belongs to a sequence that begins with `prompt` and goes on behind
        it.
        """
        held = self.cache.slots.get(slot)
        tokens = held.owner.tokens if held is not None and held.owner is not None else []
        return len(tokens) > len(prompt) and tuple(tokens[: len(prompt)]) == prompt

    def _row(self, s: TokenSequence) -> DecodeRow:
        room = self.room(s)
        draw = s.request.offset + len(s.ids)
        return DecodeRow(s.slot, s.tokens[-1], len(s.tokens) - 1, s.stream_seed, draw, self._limit(s), room)

    def _limit(self, s: TokenSequence) -> int:
        """New tokens until something may have to be done for this sequence."""
        limit = self.room(s)
        if s.request.thinking_budget is not None:
            s.read_thinking()
            if not s.thinking.closed:
                limit = min(limit, max(1, (s.thinking.budget or 0) - s.thinking.num_thinking))
        if s.request.loop_tokens:
            next_check = max(s.request.loop_tokens, len(s.ids) + 1)
            limit = min(limit, math.ceil(next_check / LOOP_CHECK_EVERY) * LOOP_CHECK_EVERY - len(s.ids))
        return limit

    # -- decoding ----------------------------------------------------------------------------------

    def decode(self) -> tuple[list[TokenSequence], DecodeCounts]:
        """Decode until a row stops. Returns the sequences that stopped; those that are not done go
        on.
        """
        if not self.loaded:
            return [], DecodeCounts()
        request = next(iter(self.loaded.values())).request
        num_rows = len(self.loaded)
        outputs, steps = self.backend.decode(request.params, request.eos_ids)
        stopped = [self._stop(row) for row in outputs]
        leaving = [s.slot for s in stopped if s.done or s.num_computed < len(s.tokens) - 1]
        self._unload(leaving)
        for s in stopped:
            if s.slot in self.loaded:
                self.backend.set_limit(s.slot, self._taken[s.slot] + self._limit(s))
        return stopped, DecodeCounts(steps, steps * num_rows, steps * num_rows)

    def _stop(self, row: RowOutput) -> TokenSequence:
        """Hand a stopped row's tokens to its sequence; end the sequence, or check its thinking."""
        sequence = self.loaded[row.slot]
        if math.isnan(row.logprobs[-1]):
            raise not_finite(self.name)
        self._take(sequence, row)
        request, last = sequence.request, row.ids[-1]
        if last in request.eos_ids:
            sequence.finish(StopReason.END, last)
        elif len(sequence.ids) >= request.params.max_new_tokens:
            sequence.finish(StopReason.LENGTH)
        elif len(sequence.tokens) >= self.output.max_tokens:
            sequence.finish(StopReason.CONTEXT)
        else:
            sequence.read_thinking()
            self.output.check_thinking(sequence)
        return sequence

    def _take(self, sequence: TokenSequence, row: RowOutput) -> None:
        first = self._taken[row.slot]
        if len(row.ids) > first:
            sequence.extend(row.ids[first:], row.logprobs[first:])
            sequence.num_computed = len(sequence.tokens) - 1
            sequence.stamp()
            self._taken[row.slot] = len(row.ids)

    def _unload(self, slots: list[int]) -> None:
        if slots:
            keep = [not s.done or self.cache.keeps(s) for s in map(self.loaded.__getitem__, slots)]
            self.backend.unload(slots, keep=any(keep))
            for slot in slots:
                del self.loaded[slot], self._taken[slot]

    def sync(self) -> None:
        """Bring all loaded sequences up to date."""
        for row in self.backend.outputs(list(self.loaded)):
            self._take(self.loaded[row.slot], row)

    def remove(self, sequences: Sequence[TokenSequence]) -> None:
        """Bring sequences up to date and take them out of the batch: they end, or need the
        scheduler from now on.
        """
        sequences = [s for s in sequences if s.slot in self.loaded]
        for s, row in zip(sequences, self.backend.outputs([s.slot for s in sequences]), strict=True):
            self._take(s, row)
        self._unload([s.slot for s in sequences])


def batches(sizes: Sequence[int], most: int) -> list[slice]:
    """Consecutive pieces whose sizes add up to at most `most`; a larger single one is a piece by
    itself.
    """
    pieces, first, total = [], 0, 0
    for i, size in enumerate(sizes):
        if i > first and total + size > most:
            pieces.append(slice(first, i))
            first, total = i, 0
        total += size
    if len(sizes) > first:
        pieces.append(slice(first, len(sizes)))
    return pieces
