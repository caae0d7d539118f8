"""What a reward says about length: terms added once a group's verdicts are known.

- `overlong`: soft punishment (DAPO, Yu et al. 2025, arXiv 2503.14476, equation 13): 0 up to
  `max_new_tokens - buffer` tokens, then falling linearly to -`penalty` at `max_new_tokens`. For
  every response, right or wrong. It counts what the limit counts: all tokens of the completion,
  tools' results and forced closings among them.
- `length`: among the correct answers of a group only (Arora and Zanette 2025, arXiv 2502.04463):
  -weight x sigmoid((n - mean) / std) of their lengths n in sampled tokens. A correct answer so
  keeps at least 1 - weight, more than any wrong one has; wrong answers are never paid for being
  short, and never for being long.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from qwq.types import Rollout


@dataclass(frozen=True, slots=True)
class LengthShaping:
    """`buffer` and `max_new_tokens` in tokens; a zero `buffer` or `weight` leaves that term out."""

    max_new_tokens: int
    buffer: int = 0
    penalty: float = 1.0
    weight: float = 0.0

    @property
    def active(self) -> bool:
        return bool(self.buffer or self.weight)

    def apply(self, rollouts: Sequence[Rollout]) -> None:
        """Add the terms to rewarded rollouts of whole groups, in place."""
        groups: dict[int, list[Rollout]] = {}
        for r in rollouts:
            if r.reward is not None:
                groups.setdefault(r.group, []).append(r)
        for members in groups.values():
            if self.buffer:
                for r in members:
                    r.rewards["overlong"] = self.penalty * overlong(r.num_tokens, self.max_new_tokens, self.buffer)
            if self.weight:
                right = [r for r in members if r.verdicts[-1].correct]
                for r, share in zip(right, shorter([r.num_sampled for r in right]), strict=True):
                    r.rewards["length"] = -self.weight * share
            for r in members:
                r.reward = sum(r.rewards.values())


def overlong(num_tokens: int, max_new_tokens: int, buffer: int) -> float:
    """DAPO's punishment, from 0 to -1."""
    start = max_new_tokens - buffer
    return -min(1.0, max(0.0, (num_tokens - start) / buffer))


def shorter(lengths: Sequence[int]) -> list[float]:
    """sigmoid((n - mean) / std) of each length: below a half for the shorter ones.

    Equal lengths all give a half.
    """
    if not lengths:
        return []
    mean, std = statistics.fmean(lengths), statistics.pstdev(lengths)
    return [1 / (1 + math.exp(-(n - mean) / std)) if std else 0.5 for n in lengths]
