"""The statistics against published and hand-worked values."""

import itertools
import math
import random
import re
from pathlib import Path

import pytest

from qwq.common.stats import detectable_drop, paired_difference, wilson


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
    """Differences 1, 0, 0, -1, 1 ten times: mean 0.2, sum of squares about it 30 - 50 * 0.04 = 28,
    variance 28 / 49.
    """
    mean, low, high = paired_difference([0, 1, 0, 1, 0] * 10, [1, 1, 0, 0, 1] * 10)
    half = 1.959964 * math.sqrt(28 / 49 / 50)
    assert (mean, low, high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))


def test_few_differences_by_hand():
    """Differences 1, 0, 0, -1, 1.

    Two better and one worse of 5 become 2.5 and 1.5 of 7: mean 1/7, variance 4/7 - 1/49 = 27/49.
    """
    mean, low, high = paired_difference([0, 1, 0, 1, 0], [1, 1, 0, 0, 1])
    half = 1.959964 * math.sqrt(27 / 49 / 7)
    assert (mean, low, high) == pytest.approx((0.2, 1 / 7 - half, 1 / 7 + half))


@pytest.mark.parametrize(("n", "half"), [(3, 0.3920), (40, 0.0467), (200, 0.0097)])
def test_nothing_that_differs_is_no_certainty(n, half):
    """The added half pairs alone: mean 0, variance 1 / (n + 2), so half = 1.96 / (n + 2)."""
    for score in (0, 1, 0.25):
        assert paired_difference([score] * n, [score] * n) == pytest.approx((0.0, -half, half), abs=1e-4)


def test_all_that_differs_alike_is_no_certainty():
    """4 of 4 lost: 4.5 against 0.5 of 6, mean -4/6, variance 5/6 - 16/36 = 14/36; of 400 next to
    nothing is left.
    """
    mean, low, high = paired_difference([1] * 4, [0] * 4)
    assert (mean, low, high) == pytest.approx((-1.0, -1.0, -4 / 6 + 1.959964 * math.sqrt(14 / 36 / 6)))
    assert paired_difference([1] * 400, [0] * 400)[2] == pytest.approx(-0.9866, abs=1e-4)


def test_four_losses_of_forty_are_no_drop_yet_and_nine_are():
    """The sign test's p of 4 to 0 is 0.125, of 9 to 0 0.004; the normal approximation calls
    both.
    """
    assert paired_difference([1] * 40, [0] * 4 + [1] * 36)[2] > 0
    assert paired_difference([1] * 40, [0] * 9 + [1] * 31)[2] < 0


def test_the_two_intervals_meet_where_they_change_over():
    """9 and 10 losses of 100: the high ends go down by about a point, as they do from 10 to 11."""
    highs = [paired_difference([1] * 100, [0] * k + [1] * (100 - k))[2] for k in (8, 9, 10, 11)]
    assert highs == sorted(highs, reverse=True) and all(0.005 < a - b < 0.02 for a, b in itertools.pairwise(highs))


def test_the_pairing_counts_not_the_means():
    """Equal means before and after, but the same drop on every problem leaves no doubt."""
    assert paired_difference([1.0, 0.5, 0.25], [0.75, 0.25, 0.0]) == pytest.approx((-0.25, -0.25, -0.25))


def test_one_pair_bounds_nothing():
    assert paired_difference([0], [1]) == (1, -1.0, 1.0)


@pytest.mark.parametrize(("before", "after"), [([], []), ([1], [1, 0])])
def test_unpaired_outcomes_are_refused(before, after):
    with pytest.raises(ValueError, match=f"{len(before)} and {len(after)}"):
        paired_difference(before, after)


@pytest.mark.parametrize(("n", "points"), [(40, 29.7), (100, 19.5), (200, 14.4), (1000, 8.0)])
def test_the_drop_that_a_check_sees_is_seen_in_80_of_100_checks(n, points):
    """Simulated: shares right drawn from Beta(1.4, 0.6), one sample before and one now, a breach
    where the interval lies beyond 3 points.
    """
    drop = detectable_drop(n)
    assert 100 * drop == pytest.approx(points, abs=0.06)
    numbers = random.Random(n)
    called = 0
    for _ in range(300):
        shares = [numbers.betavariate(1.4, 0.6) for _ in range(n)]
        before = [float(numbers.random() < p) for p in shares]
        now = [float(numbers.random() < max(p - drop, 0.0)) for p in shares]
        called += paired_difference(before, now)[2] < -0.03
    assert 0.72 < called / 300 < 0.88


def test_few_problems_see_no_drop_surely():
    assert detectable_drop(2) == 1.0
    assert detectable_drop(10_000) < 0.05


def test_the_table_of_drops_in_the_docs_is_what_the_function_says():
    text = (Path(__file__).resolve().parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d[\d,]*) \| ([\d.]+) points \|$", text, re.M)
    assert len(rows) >= 6
    for n, points in rows:
        assert f"{100 * detectable_drop(int(n.replace(',', ''))):.1f}" == points
