"""Speculative decoding: guess the next tokens cheaply, check them all in one step of the model.

Guesses come from the sequence itself (an n-gram that stood there before: prompt look-up decoding, Saxena 2023) or from
a draft model (Leviathan et al. 2023, arXiv 2211.17192). Both are lossless here in the strongest sense: the model's own
sampler draws at every checked position with the random number of that position, and a guess is kept only where it is
what was drawn. So the tokens are the ones that plain decoding would have sampled, not only their distribution. For a
guess without a distribution of its own this accepts as often as rejection sampling would: with probability p(guess).
"""

from __future__ import annotations

from collections.abc import Sequence

MIN_GRAM, MAX_GRAM = 3, 5
MAX_DRAFT = 8
START_DRAFT = 4


class NgramDraft:
    """Look-up of the last 3 to 5 tokens in all earlier ones of the same sequence; adapts its length to what is accepted."""

    def __init__(self) -> None:
        self._seen: list[dict[tuple[int, ...], int]] = [{} for _ in range(MAX_GRAM + 1)]
        self._indexed = 0
        self.length = START_DRAFT
        self._pause = 0
        self.num_drafted = self.num_accepted = 0

    def _index(self, tokens: Sequence[int]) -> None:
        """Note where every n-gram ends, the last token left out: it is the one to be continued."""
        for end in range(max(self._indexed, 1), len(tokens)):
            for n in range(MIN_GRAM, MAX_GRAM + 1):
                if end >= n:
                    self._seen[n][tuple(tokens[end - n : end])] = end
        self._indexed = max(self._indexed, len(tokens))

    def propose(self, tokens: Sequence[int], room: int) -> list[int]:
        """Up to `room` tokens that may follow `tokens`; none where nothing like the end was seen, or guessing did not pay."""
        self._index(tokens)
        if self._pause:
            self._pause -= 1
            return []
        for n in range(MAX_GRAM, MIN_GRAM - 1, -1):
            if len(tokens) > n and (at := self._seen[n].get(tuple(tokens[-n:]))) is not None:
                return list(tokens[at : at + min(self.length, room)])
        return []

    def settle(self, drafted: int, accepted: int) -> None:
        """Learn from a check: longer guesses after full hits, a pause that grows after misses."""
        self.num_drafted += drafted
        self.num_accepted += accepted
        if accepted == drafted:
            self.length = min(2 * self.length, MAX_DRAFT)
        elif accepted == 0:
            self.length = max(self.length // 2, 2)
            # Guesses that fail cost a wider step each, so they become rare where the text does not repeat itself.
            rate = self.num_accepted / self.num_drafted
            self._pause = 0 if rate > 0.5 else 2 if rate > 0.3 else 8 if rate > 0.15 else 32
