"""Advantage forms and the groups that are learnt from, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from qwq.errors import ConfigError
from qwq.train.groups import Group, after_refills, count_undecided, form_groups, judged_reward, without_truncated
from qwq.train.losses import ADVANTAGES, GroupRewards, load_advantage
from qwq.types import Rollout, StopReason


def rewards(*groups: list[float], judged: list[list[float]] | None = None) -> list[GroupRewards]:
    columns = [torch.tensor(g, dtype=torch.float64) for g in groups]
    judgements = columns if judged is None else [torch.tensor(j, dtype=torch.float64) for j in judged]
    return [GroupRewards(r, j) for r, j in zip(columns, judgements, strict=True)]


def values(form: str, *groups: list[float], judged: list[list[float]] | None = None) -> list[list[float]]:
    return [a.tolist() for a in ADVANTAGES[form](rewards(*groups, judged=judged))]


@pytest.mark.parametrize(
    ("form", "first"),
    [
        ("group_mean", 0.5),
        ("group_std", 1.0),  # the deviation of 1, 0 is a half
        ("group_rate", 1.0),  # a half are right
        ("rloo", 1.0),  # 1 - 0
        ("batch_std", 0.5 / math.sqrt(3 / 16)),  # of 1, 0, 1, 1: mean 3/4, mean square 3/4
        ("batch_norm", 0.5 / math.sqrt(1 / 8)),  # of 1/2, -1/2, 0, 0
    ],
)
def test_each_form_by_hand(form, first):
    """Two prompts with rewards 1, 0 and 1, 1. The second teaches nothing under any form."""
    (a, b), second = values(form, [1.0, 0.0], [1.0, 1.0])
    assert (a, b) == pytest.approx((first, -first), rel=1e-5) and second == [0.0, 0.0]


def test_a_rare_success_weighs_as_the_gradient_of_its_logarithm():
    """One right of four: 3/4 over 1/4, and -1/4 over 1/4. Rewards whose mean is below one right one
    of the group are divided by that one's.
    """
    assert values("group_rate", [1.0, 0.0, 0.0, 0.0]) == [pytest.approx([3.0, -1.0, -1.0, -1.0])]
    assert values("group_rate", [-1.0, 1.0]) == [pytest.approx([-2.0, 2.0])]


def test_leave_one_out_by_hand():
    """1 against the mean of 0, 0, 1; 0 against the mean of 1, 0, 1.

    One completion alone has nothing to be compared with.
    """
    assert values("rloo", [1.0, 0.0, 0.0, 1.0]) == [pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])]
    assert values("rloo", [1.0]) == [[0.0]]


@pytest.mark.parametrize("form", sorted(ADVANTAGES))
def test_the_rounding_of_a_sum_is_no_signal(form):
    """0.1 + 0.2 is not 0.3 in floating point."""
    assert values(form, [0.3, 0.1 + 0.2, 0.3], [1.0, 1.0, 1.0]) == [[0.0] * 3] * 2


@pytest.mark.parametrize("form", ["group_std", "group_rate", "batch_std", "batch_norm"])
def test_a_difference_in_length_alone_is_not_blown_up(form):
    """Four wrong answers, one of them punished by 0.001 for its length: scaled by its own deviation
    that would be -1.73.
    """
    (found,) = values(form, [0.0, 0.0, 0.0, -0.001], judged=[[0.0] * 4])
    assert found == pytest.approx([0.00025] * 3 + [-0.00075])


def test_where_verdicts_differ_the_whole_reward_is_scaled():
    (found,) = values("group_std", [1.0, 0.0, -0.5, -0.5], judged=[[1.0, 0.0, 0.0, 0.0]])
    assert found == pytest.approx(
        [1 / math.sqrt(0.375), 0.0, -0.5 / math.sqrt(0.375), -0.5 / math.sqrt(0.375)], abs=1e-5
    )


def test_a_form_from_a_file(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "def signs(groups):\n    return [g.centred_G.sign() for g in groups]\n"
        "def short(groups):\n    return [g.centred_G[:1] for g in groups]\n"
        "def broken(groups):\n    return 1 / 0\n"
    )
    assert [a.tolist() for a in load_advantage(f"{file}:signs")(rewards([1.0, 0.0, 0.0]))] == [[1.0, -1.0, -1.0]]
    with pytest.raises(ConfigError, match=r"own.py:short was given groups of \[2\] completions and gave \[\[0.5\]\]"):
        load_advantage(f"{file}:short")(rewards([1.0, 0.0]))
    with pytest.raises(
        ConfigError, match=r"own.py:broken raised ZeroDivisionError: division by zero \(own.py, line 6\)"
    ):
        load_advantage(f"{file}:broken")(rewards([1.0, 0.0]))
    with pytest.raises(ConfigError, match="did you mean 'rloo'"):
        load_advantage("rlooo")


# --- groups ---------------------------------------------------------------------------------------


def rollout(group: int, stop: StopReason = StopReason.END, **terms: float) -> Rollout:
    r = Rollout("p", "math", group, [1], [2, 3], [1, 1], [0.0, 0.0], [0, 0], stop, rewards=terms)
    r.reward = sum(terms.values()) if terms else None
    return r


def test_what_is_judged_of_a_reward():
    assert judged_reward(rollout(0, accuracy=0.0, partial=0.25, overlong=-0.5, style=0.1)) == 0.25
    assert judged_reward(rollout(0, accuracy=1.0, length=-0.3)) == 1.0
    assert judged_reward(rollout(0, reward_model=0.7, overlong=-0.5)) == 0.7
    assert judged_reward(rollout(0, style=0.5, words=0.25, overlong=-0.5)) == 0.75


def test_signal_is_of_rewards_and_refills_are_of_verdicts():
    """A prompt that all samples got wrong, one of them too long: it has a gradient, and a refill
    replaces it.
    """
    rollouts = [rollout(0, accuracy=0.0, overlong=0.0), rollout(0, accuracy=0.0, overlong=-0.5)]
    (group,) = form_groups(rollouts)
    assert group.has_signal and group.advantages == [0.25, -0.25]
    assert count_undecided(rollouts, 1) == 1
    assert count_undecided([rollout(0, accuracy=1.0), rollout(0, accuracy=0.0)], 1) == 0
    assert count_undecided([rollout(0), rollout(0)], 1) == 1  # all verdicts failed by infrastructure
    noise = [rollout(0, style=0.3), rollout(0, style=0.1, words=0.2)]
    assert count_undecided(noise, 1) == 1 and not form_groups(noise)[0].has_signal


def test_a_replaced_prompt_is_gone_and_the_last_round_whole():
    """3 prompts a step, of which 1 is decided; then 2, of which 3 is; then 1, which is not: 1, 3
    and 5 are left.
    """
    decided = {1, 3}
    rollouts = [rollout(g, accuracy=float(s == 0 and g in decided)) for g in range(6) for s in range(2)]
    assert [r.group for r in after_refills(rollouts, 3)] == [1, 1, 3, 3, 5, 5]
    assert [r.group for r in after_refills(rollouts[:6], 3)] == [0, 0, 1, 1, 2, 2]  # no refill
    later = [rollout(g + 40, accuracy=float(s == 0 and g in decided)) for g in range(6) for s in range(2)]
    assert [r.group for r in after_refills(later, 3)] == [41, 41, 43, 43, 45, 45]
    assert after_refills([], 3) == []


def test_truncated_answers_count_in_the_mean_and_leave_the_loss():
    """Rewards 1, 0, 0, the last one cut off: the mean is 1/3, and two completions are left."""
    members = [rollout(0, accuracy=1.0), rollout(0, accuracy=0.0), rollout(0, StopReason.LENGTH, accuracy=0.0)]
    (group,) = without_truncated(form_groups(members))
    assert group.rollouts == members[:2] and group.advantages == pytest.approx([2 / 3, -1 / 3])
    assert without_truncated([Group([members[2]], [0.5])]) == []
    assert (
        without_truncated(form_groups([rollout(0, StopReason.TURNS, accuracy=0.0)])) != []
    )  # a tool loop's limit cuts no answer off
