"""pass@k, votes, intervals and paired tests against values worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from qwq.common.estimates import bootstrap, ks_for, majority, paired, pass_at_k, sign_test
from qwq.common.stats import wilson


@pytest.mark.parametrize(
    ("n", "correct", "k", "value"),
    [
        (1, 0, 1, 0.0), (1, 1, 1, 1.0),
        (5, 2, 1, 2 / 5),
        (5, 2, 2, 1 - 3 / 10),  # C(3,2) / C(5,2) = 3/10
        (5, 2, 3, 1 - 1 / 10),  # C(3,3) / C(5,3) = 1/10
        (5, 2, 4, 1.0),  # four draws of five hold a right one
        (10, 3, 5, 1 - 21 / 252),  # C(7,5) / C(10,5)
        (64, 64, 64, 1.0), (64, 0, 64, 0.0),
    ],
)  # fmt: skip
def test_pass_at_k(n: int, correct: int, k: int, value: float) -> None:
    assert pass_at_k(n, correct, k) == pytest.approx(value, abs=1e-12)


def test_pass_at_k_is_the_share_of_draws_with_a_right_one() -> None:
    for n, correct, k in itertools.product((4, 6), range(5), (1, 2, 3)):
        draws = list(itertools.combinations([1] * correct + [0] * (n - correct), k))
        assert pass_at_k(n, correct, k) == pytest.approx(sum(any(d) for d in draws) / len(draws))


def test_pass_at_k_refuses_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="pass@3 of 1 right in 2"):
        pass_at_k(2, 1, 3)
    assert ks_for(8) == [1, 2, 4, 8] and ks_for(6) == [1, 2, 4, 6] and ks_for(1) == [1]


def test_majority_votes() -> None:
    assert majority(["7", "7", "8"], [1, 1, 0]) == 1.0
    assert majority(["7", "8", "8"], [1, 0, 0]) == 0.0
    assert majority(["7", "8", None], [1, 0, 0]) == 0.5  # two groups of one share the vote
    assert majority([None, None], [0, 0]) == 0.0
    assert majority([None, None, "7"], [0, 0, 1]) == 1.0  # what gave no answer has no vote


def test_bootstrap_of_a_plain_mean_is_near_the_normal_interval() -> None:
    scores = [1.0] * 60 + [0.0] * 40
    low, high = bootstrap({"": scores})
    half = 1.96 * np.sqrt(0.6 * 0.4 / 100)
    assert (low, high) == (pytest.approx(0.6 - half, abs=0.015), pytest.approx(0.6 + half, abs=0.015))
    assert bootstrap({"": scores}) == [low, high]  # seeded
    uneven = {"": [i / 99 for i in range(100)]}
    assert bootstrap(uneven, seed=1) != bootstrap(uneven, seed=2)


def test_bootstrap_draws_problems_not_samples() -> None:
    """Ten problems that are each half right have no spread between them, whatever their samples
    do.
    """
    assert bootstrap({"": [0.5] * 10}) == [0.5, 0.5]


def test_bootstrap_within_strata() -> None:
    low, high = bootstrap({"a": [0.5] * 5, "b": [0.0, 1.0] * 50})
    half = 1.96 * np.sqrt(0.25 / 100) / 2  # only b varies, and it weighs half
    assert (low, high) == (pytest.approx(0.5 - half, abs=0.01), pytest.approx(0.5 + half, abs=0.01))


def test_where_all_scored_alike_wilson_speaks() -> None:
    assert bootstrap({"": [0.0] * 20}) == wilson(0, 20)
    assert bootstrap({"": [1.0] * 3}) == wilson(3, 3)


def test_a_stratum_of_equal_scores_is_not_taken_for_certain() -> None:
    low, high = bootstrap({"a": [1.0] * 3, "b": [0.0] * 3})
    assert low < 0.45 < 0.5 < 0.55 < high
    assert bootstrap({"a": [1.0] * 3, "b": [1.0] * 3})[1] == 1.0  # the score itself always lies inside


def test_sign_test_and_paired() -> None:
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(4, 1) == pytest.approx(2 * (1 + 5) / 32)
    assert sign_test(0, 0) == 1.0 and sign_test(3, 3) == 1.0
    same = paired([0.0] * 3, [0.0] * 3)
    assert (same["difference"], same["p"], same["ci95"]) == (0.0, 1.0, pytest.approx([-0.39199, 0.39199], abs=1e-4))
    got = paired([0, 0, 1, 0.5], [1, 1, 1, 0.25])
    assert (got["difference"], got["better"], got["worse"], got["n"]) == (pytest.approx(1.75 / 4), 2, 1, 4)
    assert got["ci95"][0] <= got["difference"] <= got["ci95"][1]
    assert got["p"] == pytest.approx(1.0)  # 2 up, 1 down: 2 * (1 + 3) / 8
