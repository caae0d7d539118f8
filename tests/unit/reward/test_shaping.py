"""Rewards for length, by hand: who pays, how much, and that no wrong answer ever gains."""

import math

import pytest

from qwq.reward.shaping import LengthShaping, overlong, shorter
from qwq.types import Outcome, Rollout, StopReason, Verdict


def rollout(tokens: int, correct: bool, group: int = 0, reward: float | None = -1.0) -> Rollout:
    r = Rollout("p", "math", group, [1], [0] * tokens, [1] * tokens, [0.0] * tokens, [0] * tokens, StopReason.END)
    r.verdicts = [Verdict(Outcome.CORRECT if correct else Outcome.WRONG, "", "test")]
    r.rewards = {"accuracy": float(correct)}
    r.reward = float(correct) if reward == -1.0 else reward
    return r


@pytest.mark.parametrize("tokens, expected", [(0, 0), (60, 0), (70, -0.25), (80, -0.5), (100, -1), (130, -1)])
def test_overlong_by_hand(tokens, expected):
    assert overlong(tokens, 100, 40) == pytest.approx(expected)


def test_shorter_by_hand():
    """Lengths 10 and 30: mean 20, deviation 10, so sigmoid(-1) and sigmoid(1)."""
    assert shorter([10, 30]) == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])
    assert shorter([7, 7, 7]) == [0.5] * 3 and shorter([9]) == [0.5] and shorter([]) == []


def test_length_counts_among_the_correct_of_a_group_only():
    a = [rollout(10, True), rollout(30, True), rollout(1, False), rollout(1000, False)]
    b = [rollout(500, True, group=1), rollout(1, False, group=1)]
    LengthShaping(100, weight=0.4).apply([*a, *b])
    assert a[0].reward == pytest.approx(1 - 0.4 / (1 + math.e)) and a[1].reward == pytest.approx(
        1 - 0.4 * math.e / (1 + math.e)
    )
    assert [r.reward for r in (*a[2:], b[1])] == [0.0] * 3 and b[0].reward == pytest.approx(0.8)
    assert a[0].rewards == {"accuracy": 1.0, "length": pytest.approx(-0.4 / (1 + math.e))}
    assert min(r.reward for r in (*a[:2], b[0])) > 0  # right pays more than wrong, however long


def test_an_infrastructure_error_stays_without_reward_and_out_of_the_mean():
    good, failed = rollout(10, True), rollout(5000, True, reward=None)
    LengthShaping(100, buffer=20, weight=0.4).apply([good, failed])
    assert failed.reward is None and "length" not in failed.rewards
    assert good.reward == pytest.approx(1 - 0.2)


def test_overlong_is_for_all_and_its_penalty_scales():
    right, wrong = rollout(100, True), rollout(90, False)
    LengthShaping(100, buffer=20, penalty=0.5).apply([right, wrong])
    assert right.reward == pytest.approx(0.5) and wrong.reward == pytest.approx(-0.25)


def test_overlong_counts_all_tokens_that_the_limit_counts():
    """Cut off at 120 of 120 tokens, 60 of them a tool's: the whole punishment, not none."""
    long, short = rollout(120, False), rollout(60, True)
    long.sampled_mask = [1] * 60 + [0] * 60
    LengthShaping(120, buffer=20, penalty=0.5).apply([long, short])
    assert long.rewards["overlong"] == pytest.approx(-0.5) and short.rewards["overlong"] == 0.0
