"""What an evaluation computes from its samples: pass@k, majority votes, bootstrap intervals, paired
tests. No I/O, no torch.

pass@k is the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, equation 1). Intervals are
percentile bootstraps over problems (Efron 1979), within each stratum where a score is put together
from several; seeded, so they repeat. Where every problem scored the same 0 or 1, resampling sees no
spread at all: a plain mean gets Wilson's interval, and the mean of such a stratum is drawn from its
Beta distribution under Jeffreys' prior. Where next to nothing differs between two results, their
difference gets Agresti and Min's interval (`stats.few_differ`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qwq.common.stats import agresti_min, few_differ, wilson

RESAMPLES = 2000
BOOTSTRAP_SEED = 20_250_306
Combine = Callable[[Mapping[str, Any]], Any]


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that at least one of k samples, drawn from n without replacement, is among the
    `correct` ones.
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {correct} right in {n}: needs 0 <= right <= n and 1 <= k <= n")
    if n - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - correct + 1, n + 1))


def pass_hat_k(n: int, correct: int, k: int) -> float:
    """Chance that all of k samples, drawn from n without replacement, are among the `correct`
    ones (Yao et al. 2024, arXiv 2406.12045, section 3).
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass^{k} of {correct} right in {n}: needs 0 <= right <= n and 1 <= k <= n")
    return math.comb(correct, k) / math.comb(n, k)


def ks_for(n: int) -> list[int]:
    """1, 2, 4 ... up to n, and n."""
    return sorted({n, *(1 << p for p in range(n.bit_length()) if 1 << p <= n)})


def majority(answers: Sequence[str | None], correct: Sequence[float]) -> float:
    """Share of right answers in the largest group of equal ones; groups of equal size share the
    vote. Without answers 0.
    """
    groups: dict[str, list[float]] = {}
    for answer, right in zip(answers, correct, strict=True):
        if answer is not None:
            groups.setdefault(answer, []).append(right)
    if not groups:
        return 0.0
    largest = max(map(len, groups.values()))
    votes = [sum(g) / len(g) for g in groups.values() if len(g) == largest]
    return sum(votes) / len(votes)


def mean_of_means(strata: Mapping[str, Any]) -> Any:
    """The only stratum's mean, or the mean of several."""
    return sum(strata.values()) / len(strata)


def bootstrap(
    strata: Mapping[str, Sequence[float]],
    combine: Combine = mean_of_means,
    *,
    seed: int = BOOTSTRAP_SEED,
    resamples: int = RESAMPLES,
) -> list[float]:
    """95% interval of `combine` applied to the strata's means, when the problems of each stratum
    are redrawn.

    `combine` gets arrays with one mean a resample, so it may only add, multiply and divide.
    """
    import numpy as np  # tasks are read without it

    values = [v for scores in strata.values() for v in scores]
    if len(strata) == 1 and values and set(values) in ({0.0}, {1.0}):
        return wilson(int(sum(values)), len(values))
    generator = np.random.default_rng(seed)
    drawn = {}
    for name, scores in strata.items():
        x = np.asarray(scores, dtype=np.float64)
        if set(scores) in ({0.0}, {1.0}):
            drawn[name] = generator.beta(x.sum() + 0.5, len(x) - x.sum() + 0.5, size=resamples)
            continue
        # One resample's mean is the dot product of the scores and how often each problem was drawn.
        counts = generator.multinomial(len(x), np.full(len(x), 1 / len(x)), size=resamples)
        drawn[name] = counts @ x / len(x)
    low, high = np.quantile(combine(drawn), [0.025, 0.975])
    score = float(combine({name: sum(scores) / len(scores) for name, scores in strata.items()}))
    return [min(float(low), score), max(float(high), score)]


def mean_interval(values: Sequence[float], *, seed: int = BOOTSTRAP_SEED, resamples: int = RESAMPLES) -> list[float]:
    """95% interval of a mean of figures that are no shares, such as calls or seconds.

    Equal values give no interval but themselves: nothing is known of how others would spread.
    """
    if len(set(values)) == 1:
        return [float(values[0])] * 2
    return bootstrap({"": list(values)}, seed=seed, resamples=resamples)


def share_interval(values: Sequence[float], *, seed: int = BOOTSTRAP_SEED, resamples: int = RESAMPLES) -> list[float]:
    """95% interval of a mean of shares: Wilson's where each is 0 or 1."""
    if set(values) <= {0.0, 1.0}:
        return wilson(int(sum(values)), len(values))
    return bootstrap({"": list(values)}, seed=seed, resamples=resamples)


def paired(
    a: Sequence[float], b: Sequence[float], *, seed: int = BOOTSTRAP_SEED, resamples: int = 10_000
) -> dict[str, Any]:
    """b - a over the same problems: mean, 95% interval, how many rose and fell, and the sign test's
    p-value.

    The interval is a bootstrap over problems, but Agresti and Min's where `few_differ`.
    """
    import numpy as np  # tasks are read without it

    difference = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    n = len(difference)
    if few_differ(a, b):
        low, high = agresti_min(difference.tolist())
    else:
        generator = np.random.default_rng(seed)
        counts = generator.multinomial(n, np.full(n, 1 / n), size=resamples)
        low, high = np.quantile(counts @ difference / n, [0.025, 0.975])
    rose, fell = int((difference > 0).sum()), int((difference < 0).sum())
    return {
        "n": n, "difference": float(difference.mean()), "ci95": [float(low), float(high)],
        "better": rose, "worse": fell, "p": sign_test(rose, fell),
    }  # fmt: skip


def sign_test(rose: int, fell: int) -> float:
    """Two-sided exact p-value of the sign test; ties are left out. 1 where nothing differs."""
    n, k = rose + fell, min(rose, fell)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
