"""Design promise 1 in the run itself: a step whose rollouts do not come from the trainer's weights
is not trained on.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from qwq.errors import InfraError
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.train.policy_update import PolicyUpdater


@pytest.fixture
def updater() -> PolicyUpdater:
    updater = PolicyUpdater.__new__(PolicyUpdater)  # the check needs the model's number type and nothing else
    updater.model = Transformer(preset("tiny"))
    return updater


def differing(*differences: float) -> tuple[torch.Tensor, SimpleNamespace]:
    sampler = torch.full((len(differences),), -1.0, dtype=torch.float64)
    return sampler + torch.tensor(differences, dtype=torch.float64), SimpleNamespace(extra={"sampler": sampler})


def test_rounding_passes_and_is_counted(updater: PolicyUpdater) -> None:
    sums: Counter[str] = Counter()
    updater._check_mismatch(*differing(1e-6, -9e-4, 0.0), sums)
    assert sums["mismatch_max"] == pytest.approx(9e-4) and sums["mismatch_sum"] == pytest.approx(9.01e-4)
    updater._check_mean_mismatch(9e-6)


def test_one_token_too_far_stops_the_step(updater: PolicyUpdater) -> None:
    with pytest.raises(InfraError, match="differ by 2.00e-03 at most, 1e-03 is allowed"):
        updater._check_mismatch(*differing(0.0, 2e-3), Counter())


def test_a_mean_beyond_rounding_stops_the_step(updater: PolicyUpdater) -> None:
    with pytest.raises(InfraError, match="differ by 2.00e-05 on average, 1e-05 is allowed"):
        updater._check_mean_mismatch(2e-5)
    updater.model = updater.model.bfloat16()  # there rounding itself is larger
    updater._check_mean_mismatch(2e-5)
