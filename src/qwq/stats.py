"""The few statistics that reports and the stage contract rest on. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959964


def wilson(successes: int, n: int, z: float = Z95) -> list[float]:
    """Wilson score interval of a share (Wilson 1927), [low, high] in 0..1."""
    if n == 0:
        return [0.0, 1.0]
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # The ends are exact where nothing or everything succeeded; rounding would leave them a hair off.
    return [0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == n else min(1.0, centre + half)]


def paired_difference(before: Sequence[float], after: Sequence[float], z: float = Z95) -> tuple[float, float, float]:
    """Mean of after - before over the same problems, and its normal-approximation 95% interval (low, high)."""
    if len(before) != len(after) or not before:
        raise ValueError(f"paired outcomes need equal, non-zero counts, got {len(before)} and {len(after)}")
    differences = [a - b for b, a in zip(before, after, strict=True)]
    mean = sum(differences) / len(differences)
    if len(differences) == 1:
        return mean, -1.0, 1.0
    variance = sum((d - mean) ** 2 for d in differences) / (len(differences) - 1)
    half = z * math.sqrt(variance / len(differences))
    return mean, mean - half, mean + half
