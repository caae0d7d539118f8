"""Speculative decoding: guess the next tokens cheaply, check them all in one step of the model.

Guesses come from the sequence itself, an n-gram that stood there before (prompt look-up decoding,
Saxena 2023), or from a smaller model of the same vocabulary (Leviathan et al. 2023, arXiv
2211.17192, whose check this is). It is lossless in the strongest sense: the model's own sampler
draws at every checked position with the random number of that position, and a guess is kept only
where it is what was drawn. So the tokens are the ones that plain decoding would have sampled, not
only their distribution. For a guess without a distribution of its own this accepts as often as
rejection sampling would: with probability p(guess). A draft model draws with the same random
numbers, so where the two models agree they draw the same token.

Whether guessing pays depends on the machine: checking 8 tokens may cost as much as one, or five
times as much. So the engine measures what steps of several tokens cost (`StepCosts`), each sequence
knows how often its look-ups are right (also those that were not checked: what was sampled tells),
and the length that promises most tokens a second is taken, often 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from qwq.engine.backends.base import Backend, Chunk
from qwq.engine.sampler import sample_token, uniform
from qwq.engine.sequence import TokenSequence

MIN_GRAM, MAX_GRAM = 3, 5
LENGTHS = (1, 2, 3, 5, 7, 11, 15)  # tokens guessed at once
CALIBRATED = (1, 2, 3, 4, 6, 8, 12, 16)  # tokens in a step whose cost is measured
FEED = 256  # prompt tokens that a draft model computes at once
MEMORY = 0.95  # weight of the past in the share of right look-ups, a token


class StepCosts:
    """Seconds of one step by its number of tokens, between measured sizes on a straight line,
    beyond them on the last one's slope.
    """

    def __init__(self, measure: Callable[[int], float]) -> None:
        self.sizes = CALIBRATED
        self.seconds = [min(measure(n) for _ in range(2)) for n in self.sizes]

    @classmethod
    def of_backend(cls, backend: Backend) -> StepCosts:
        """Measured on a backend, in one slot."""

        def seconds(num_tokens: int) -> float:
            slot = backend.open_slot()
            assert slot is not None and backend.reserve(slot, num_tokens)
            started = time.perf_counter()
            backend.forward([Chunk(slot, [0] * num_tokens, 0, num_tokens)])
            took = time.perf_counter() - started
            backend.close_slot(slot)
            return took

        return cls(seconds)

    def __call__(self, num_tokens: int) -> float:
        at = next((i for i, size in enumerate(self.sizes) if size >= num_tokens), len(self.sizes) - 1)
        if self.sizes[at] == num_tokens:
            return self.seconds[at]
        low, high = (at - 1, at) if at else (0, 1)
        slope = (self.seconds[high] - self.seconds[low]) / (self.sizes[high] - self.sizes[low])
        return self.seconds[low] + max(0.0, slope) * (num_tokens - self.sizes[low])

    def best_length(self, right: float, others: int) -> int:
        """Tokens to guess when a look-up is right with probability `right` and `others` samples
        decode in the same step.
        """
        best, most = 0, (others + 1) / self(others + 1)
        for length in LENGTHS:
            expected = sum(right**i for i in range(length + 1))
            if (rate := (others + expected) / self(others + 1 + length)) > 1.05 * most:
                best, most = length, rate
        return best


class NgramDraft:
    """Look-up of the last 3 to 5 tokens in all earlier ones of the same sequence."""

    def __init__(self, costs: StepCosts) -> None:
        self._costs = costs
        self._ends: list[dict[tuple[int, ...], int]] = [{} for _ in range(MAX_GRAM + 1)]
        self._indexed = 0
        self._next = -1  # position of the token that is expected to come next
        self._looked = 0  # how many tokens there were at the last look-up
        self._right = self._wrong = 1.0

    @property
    def right(self) -> float:
        """Share of look-ups that were right lately; a half before anything is known."""
        return self._right / (self._right + self._wrong)

    def follow(self, tokens: Sequence[int]) -> None:
        """Take in the tokens that came since the last call, and what they say about the look-ups
        made meanwhile.
        """
        for at in range(max(self._looked, 1), len(tokens)):
            if 0 <= self._next < at:
                hit = tokens[self._next] == tokens[at]
                self._right = MEMORY * self._right + hit
                self._wrong = MEMORY * self._wrong + (not hit)
                self._next = self._next + 1 if hit else -1
            self._index(tokens, at)
            if self._next < 0:
                self._next = self._find(tokens, at + 1)
        self._looked = len(tokens)

    def _index(self, tokens: Sequence[int], end: int) -> None:
        """Note the n-grams before `end`; later ones take the place of earlier ones."""
        for n in range(MIN_GRAM, MAX_GRAM + 1):
            if end >= n:
                self._ends[n][tuple(tokens[end - n : end])] = end

    def _find(self, tokens: Sequence[int], end: int) -> int:
        for n in range(MAX_GRAM, MIN_GRAM - 1, -1):
            if end > n and (at := self._ends[n].get(tuple(tokens[end - n : end]))) is not None:
                return at
        return -1

    def propose(self, sequence: TokenSequence, room: int, others: int) -> list[int]:
        """At most `room` tokens that may follow; as many as promise most tokens a second for the
        share of right look-ups.
        """
        tokens = sequence.tokens
        self.follow(tokens)
        if self._next < 0:
            return []
        length = min(self._costs.best_length(self.right, others), room)
        return list(tokens[self._next : self._next + length])

    def close(self) -> None:
        """Nothing is held."""


class ModelDraft:
    """Guesses of one sequence by a smaller model, in a slot of its own on that model's backend."""

    def __init__(self, backend: Backend, count: int) -> None:
        self.backend, self.count = backend, count
        self._slot = -1
        self._held: list[int] = []  # tokens whose keys and values the slot holds

    @torch.inference_mode()
    def propose(self, sequence: TokenSequence, room: int, others: int) -> list[int]:
        """As many tokens as were asked for, at most `room`; fewer if the draft's cache or context
        is full.
        """
        count = min(self.count, room)
        if self._slot < 0:
            slot = self.backend.open_slot()
            if slot is None:
                return []
            self._slot, self._held = slot, []
        tokens = sequence.tokens
        shared = next(
            (i for i, (a, b) in enumerate(zip(self._held, tokens, strict=False)) if a != b),
            min(len(self._held), len(tokens)),
        )
        shared = min(shared, len(tokens) - 1)
        self.backend.truncate(self._slot, shared)
        self._held = list(tokens[:shared])
        drafted: list[int] = []
        todo = list(tokens[shared:])
        while len(drafted) < count and len(self._held) + len(todo) < self.backend.max_positions:
            logits_V = self._feed(todo)
            if logits_V is None:
                break
            draw = uniform(sequence.stream_seed, sequence.request.offset + len(sequence.ids) + len(drafted))
            drafted.append(sample_token(logits_V, sequence.request.params, draw).id)
            todo = drafted[-1:]
        return drafted

    def _feed(self, todo: list[int]) -> torch.Tensor | None:
        """Logits after `todo`, computed in pieces that any backend takes; None if memory ends."""
        if not self.backend.reserve(self._slot, len(self._held) + len(todo)):
            return None
        for at in range(0, len(todo), FEED):
            piece = todo[at : at + FEED]
            logits_NV = self.backend.forward([Chunk(self._slot, piece, len(self._held), int(at + FEED >= len(todo)))])
            self._held += piece
        return logits_NV[-1]

    def close(self) -> None:
        if self._slot >= 0:
            self.backend.close_slot(self._slot)
            self._slot = -1
