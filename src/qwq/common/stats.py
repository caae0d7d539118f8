"""The few statistics that reports and the stage contract rest on. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Z95 = 1.959964
# Pairs apart from the commonest case; below, the normal approximation promises too much (McNemar's
# rule of thumb).
FEW = 10


def wilson(successes: int, n: int, z: float = Z95) -> list[float]:
    """Wilson score interval of a share (Wilson 1927), [low, high] in 0..1."""
    if n == 0:
        return [0.0, 1.0]
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # The ends are exact where nothing or everything succeeded; rounding would leave them a hair
    # off.
    return [0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == n else min(1.0, centre + half)]


def paired_difference(before: Sequence[float], after: Sequence[float], z: float = Z95) -> tuple[float, float, float]:
    """Mean of after - before over the same problems, and its 95% interval (low, high).

    The interval is the normal approximation, but Agresti and Min's where it would promise too much
    (`few_differ`): nothing or next to nothing differs, or everything in the same way.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"paired outcomes need equal, non-zero counts, got {len(before)} and {len(after)}")
    differences = [a - b for b, a in zip(before, after, strict=True)]
    mean = sum(differences) / len(differences)
    if len(differences) == 1:
        return mean, -1.0, 1.0
    if few_differ(before, after):
        return mean, *agresti_min(differences, z)
    variance = sum((d - mean) ** 2 for d in differences) / (len(differences) - 1)
    half = z * math.sqrt(variance / len(differences))
    return mean, mean - half, mean + half


POWER_Z = 0.841621  # of 80%
# Shares right of single problems before: Beta(1.4, 0.6), which is 0.7 on average with some easy and
# some hard ones.
BASE_ALPHA, BASE_BETA = 1.4, 0.6


def detectable_drop(n: int, tolerated: float = 0.03) -> float:
    """The true drop that one check of n problems, sampled once before and once now, calls a breach
    with 80% power.

    A breach is a paired 95% interval wholly below -tolerated. Normal approximation; problems differ
    in how often they are right (Beta(1.4, 0.6)), and each loses the same share (none falls below
    0). 1.0 where no drop is seen that surely.
    """
    points = [(i + 0.5) / 2000 for i in range(2000)]
    density = [x ** (BASE_ALPHA - 1) * (1 - x) ** (BASE_BETA - 1) for x in points]
    total = sum(density)

    def power_z(drop: float) -> float:
        now = [max(x - drop, 0.0) for x in points]
        fall = sum(w * (x - y) for w, x, y in zip(density, points, now, strict=True)) / total
        square = (
            sum(w * (x * (1 - x) + y * (1 - y) + (x - y) ** 2) for w, x, y in zip(density, points, now, strict=True))
            / total
        )
        return (fall - tolerated) / math.sqrt((square - fall * fall) / n) - Z95

    low, high = tolerated, 1.0
    if power_z(high) < POWER_Z:
        return 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if power_z(middle) >= POWER_Z else (middle, high)
    return high


def few_differ(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether the spread of the differences says little: no pair differs, or the outcomes are 0 or
    1 and fewer than FEW pairs are apart from the commonest of better, worse and equal.
    """
    if all(b == a for b, a in zip(before, after, strict=True)):
        return True
    if not {*before, *after} <= {0, 1}:
        return False
    return len(before) - max(Counter(a - b for b, a in zip(before, after, strict=True)).values()) < FEW


def agresti_min(differences: Sequence[float], z: float = Z95) -> tuple[float, float]:
    """Interval of the mean of paired differences between -1 and 1 (Agresti and Min 2005, Statistics
    in Medicine 24:729).

    Half a pair is added to each of the four cells of the table of outcomes, which is two pairs: one
    without a difference, half of one each way. The interval stays within -1 and 1 and holds the
    mean.
    """
    n, mean = len(differences) + 2, sum(differences) / len(differences)
    shrunk = sum(differences) / n
    variance = (sum(d * d for d in differences) + 1) / n - shrunk * shrunk
    half = z * math.sqrt(variance / n)
    return max(-1.0, min(mean, shrunk - half)), min(1.0, max(mean, shrunk + half))
