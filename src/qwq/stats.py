"""The few statistics that reports and the stage contract rest on. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Z95 = 1.959964
FEW = 10  # pairs apart from the commonest case; below, the normal approximation promises too much (McNemar's rule of thumb)


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
    """Mean of after - before over the same problems, and its 95% interval (low, high).

    The interval is the normal approximation, but Agresti and Min's where it would promise too much (`few_differ`):
    nothing or next to nothing differs, or everything in the same way.
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


def few_differ(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether the spread of the differences says little: no pair differs, or the outcomes are 0 or 1 and fewer than
    FEW pairs are apart from the commonest of better, worse and equal."""
    if all(b == a for b, a in zip(before, after, strict=True)):
        return True
    if not {*before, *after} <= {0, 1}:
        return False
    return len(before) - max(Counter(a - b for b, a in zip(before, after, strict=True)).values()) < FEW


def agresti_min(differences: Sequence[float], z: float = Z95) -> tuple[float, float]:
    """Interval of the mean of paired differences between -1 and 1 (Agresti and Min 2005, Statistics in Medicine 24:729).

    Half a pair is added to each of the four cells of the table of outcomes, which is two pairs: one without a
    difference, half of one each way. The interval stays within -1 and 1 and holds the mean.
    """
    n, mean = len(differences) + 2, sum(differences) / len(differences)
    shrunk = sum(differences) / n
    variance = (sum(d * d for d in differences) + 1) / n - shrunk * shrunk
    half = z * math.sqrt(variance / n)
    return max(-1.0, min(mean, shrunk - half)), min(1.0, max(mean, shrunk + half))
