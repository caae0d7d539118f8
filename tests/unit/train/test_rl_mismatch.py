"""Design promise 1 in the run itself: a step whose rollouts do not come from the trainer's weights
is not trained on.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from qwq.config import RolloutSection
from qwq.errors import InfraError
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.train.alarms import mismatch_alarms
from qwq.train.policy_update import PolicyUpdater


@pytest.fixture
def updater() -> PolicyUpdater:
    updater = PolicyUpdater.__new__(PolicyUpdater)  # the check needs the model's number type and nothing else
    updater.model = Transformer(preset("tiny"))
    updater.sampler = RolloutSection()
    return updater


def differing(*differences: float) -> tuple[torch.Tensor, SimpleNamespace]:
    sampler = torch.full((len(differences),), -1.0, dtype=torch.float64)
    extra = {"sampler": sampler, "behind": torch.zeros(len(differences))}
    return sampler + torch.tensor(differences, dtype=torch.float64), SimpleNamespace(extra=extra)


def test_rounding_passes_and_is_counted(updater: PolicyUpdater) -> None:
    sums = updater._check_mismatch(*differing(1e-6, -9e-4, 0.0))
    assert sums["mismatch_max"] == pytest.approx(9e-4) and sums["mismatch_sum"] == pytest.approx(9.01e-4)
    updater._check_mean_mismatch(9e-6)


def test_one_token_too_far_stops_the_step(updater: PolicyUpdater) -> None:
    with pytest.raises(InfraError, match="differ by 2.00e-03 at most, 1e-03 is allowed"):
        updater._check_mismatch(*differing(0.0, 2e-3))


def test_a_mean_beyond_rounding_stops_the_step(updater: PolicyUpdater) -> None:
    with pytest.raises(InfraError, match="differ by 2.00e-05 on average, 1e-05 is allowed"):
        updater._check_mean_mismatch(2e-5)
    updater.model = updater.model.bfloat16()  # there rounding itself is larger
    updater._check_mean_mismatch(2e-5)


def test_tokens_of_earlier_weights_are_not_compared(updater: PolicyUpdater) -> None:
    logprob, batch = differing(1e-6, 0.5, 0.7)
    batch.extra["behind"] = torch.tensor([0.0, 1.0, 2.0])
    sums = updater._check_mismatch(logprob, batch)
    assert sums["compared"] == 1 and sums["mismatch_max"] == pytest.approx(1e-6)


def test_engines_over_http_raise_an_alarm_at_their_own_limit(updater: PolicyUpdater) -> None:
    updater.sampler = RolloutSection(policy="qwq", endpoints=["http://a"], mismatch_alarm=1e-4)
    updater._check_mismatch(*differing(0.5))
    assert mismatch_alarms({"mismatch_mean": 9e-5}, updater.sampler) == []
    (alarm,) = mismatch_alarms({"mismatch_mean": 2e-4}, updater.sampler)
    assert "2.00e-04 nats" in alarm and "mismatch_alarm is 1.00e-04" in alarm
    assert mismatch_alarms({"mismatch_mean": 2e-4}, RolloutSection()) == []
    usual = RolloutSection(policy="qwq", endpoints=["http://a"])
    assert mismatch_alarms({"mismatch_mean": 6e-5}, usual) and not mismatch_alarms({"mismatch_mean": 4e-5}, usual)
    assert not mismatch_alarms({"mismatch_mean": 0.01}, usual, exact=False)


def test_an_alarm_shows_the_limit_that_was_passed(updater: PolicyUpdater) -> None:
    """In one digit 0.015 was 1e-02."""
    sampler = RolloutSection(policy="qwq", endpoints=["http://a"], mismatch_alarm=0.015)
    (alarm,) = mismatch_alarms({"mismatch_mean": 0.016}, sampler)
    assert "differ by 1.60e-02 nats" in alarm and "mismatch_alarm is 1.50e-02" in alarm


def test_a_log_probability_that_is_no_number_stops_the_step(updater: PolicyUpdater) -> None:
    """NaN is not above a limit, and was trained on."""
    with pytest.raises(InfraError, match="differ by nan at most, 1e-03 is allowed"):
        updater._check_mismatch(*differing(0.0, float("nan")))
    with pytest.raises(InfraError, match="differ by nan on average"):
        updater._check_mean_mismatch(float("nan"))
