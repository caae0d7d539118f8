"""The statistics against published and hand-worked values."""

import math

import pytest

from qwq.stats import paired_difference, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 2, 0.0945, 0.9055),
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_wilson_known_values(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx([low, high], abs=1e-4)


def test_wilson_is_symmetric_bounded_and_exact_at_the_ends():
    for n in (1, 3, 37):
        for k in range(n + 1):
            low, high = wilson(k, n)
            mirrored = wilson(n - k, n)
            assert low == pytest.approx(1 - mirrored[1], abs=1e-12)
            assert 0.0 <= low <= k / n <= high <= 1.0
        assert wilson(0, n)[0] == 0.0 and wilson(n, n)[1] == 1.0


def test_no_data_says_nothing():
    assert wilson(0, 0) == [0.0, 1.0]


def test_paired_difference_by_hand():
    """Differences 1, 0, 0, -1, 1: mean 0.2, sum of squares about it 3 - 5 * 0.04 = 2.8, variance 0.7."""
    mean, low, high = paired_difference([0, 1, 0, 1, 0], [1, 1, 0, 0, 1])
    half = 1.959964 * math.sqrt(0.7 / 5)
    assert (mean, low, high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))


def test_the_pairing_counts_not_the_means():
    """Equal means before and after, but the same drop on every problem leaves no doubt."""
    assert paired_difference([1.0, 0.5, 0.25], [0.75, 0.25, 0.0]) == pytest.approx((-0.25, -0.25, -0.25))


def test_one_pair_bounds_nothing():
    assert paired_difference([0], [1]) == (1, -1.0, 1.0)


@pytest.mark.parametrize(("before", "after"), [([], []), ([1], [1, 0])])
def test_unpaired_outcomes_are_refused(before, after):
    with pytest.raises(ValueError, match=f"{len(before)} and {len(after)}"):
        paired_difference(before, after)
