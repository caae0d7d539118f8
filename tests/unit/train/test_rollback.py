"""A rollback of the contract puts AdamW's moments back with the weights.

The parameter has gradient 1 at step 1 and 0.5 at step 2. With beta1 = 0.9 and beta2 = 0.99 the
first moments are 0.1, then 0.9 x 0.1 + 0.1 x 0.5 = 0.14; the second ones 0.01, then
0.99 x 0.01 + 0.01 x 0.25 = 0.0124.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from qwq.config import Optim
from qwq.pipeline.stages.rl2 import Rl2Stage
from qwq.tasks.mix import ProblemMix
from qwq.train.checkpoint import StageRun, restore, snapshot
from qwq.train.optim import Optimizer
from qwq.train.stage2 import ContractGuard

OPTIM = Optim(lr=0.1, beta1=0.9, beta2=0.99, grad_clip=10.0, weight_decay=0.0)
GOOD, BAD = [1.0] * 40, [0.0] * 40


def take(model: nn.Linear, optimizer: Optimizer, step: int, gradient: float) -> None:
    (gradient * model.weight.sum()).backward()
    optimizer.step(step)


def moments(optimizer: Optimizer) -> list[float]:
    state = optimizer.state()
    return [float(state[f"weight/{key}"]) for key in ("step", "exp_avg", "exp_avg_sq") if f"weight/{key}" in state]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_breach_puts_weights_and_moments_of_the_last_good_check_back(tmp_path: Path, dtype: torch.dtype):
    contract = {"domains": ["math"], "every": 1, "problems": 40, "on_breach": "rollback"}
    stage = Rl2Stage(kind="rl2", steps=9, mix={"math": 0.5, "tools": 0.5}, contract=contract)
    model = nn.Linear(1, 1, bias=False, dtype=dtype)
    optimizer, run = Optimizer(model, OPTIM, 9), StageRun(tmp_path, "rl2", "rl2")
    mix = ProblemMix(0, "rl2", stage.mix.weights())
    outcomes = GOOD
    guard = ContractGuard(
        stage.contract, stage.replays(), model, optimizer, mix, run, steps=9, evaluate=lambda: {"math": outcomes}
    )
    guard.begin()
    take(model, optimizer, 0, 1.0)
    guard.after_step(0, {})
    good, master = model.weight.detach().clone(), optimizer.masters[0].detach().clone()
    assert moments(optimizer) == pytest.approx([1, 0.1, 0.01])
    outcomes = BAD
    for step in (1, 2):  # twice: what is put back is not what the next step changes
        take(model, optimizer, step, 0.5)
        assert moments(optimizer) == pytest.approx([2, 0.14, 0.0124])
        assert not torch.equal(optimizer.masters[0], master)
        guard.after_step(step, {})
        assert moments(optimizer) == pytest.approx([1, 0.1, 0.01])
        assert torch.equal(model.weight, good) and torch.equal(optimizer.masters[0], master)


def test_moments_that_were_not_stored_are_cleared():
    """A snapshot of before the first step, or a checkpoint of a version that kept weights alone."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = Optimizer(model, OPTIM, 9)
    start = snapshot(model, optimizer)
    take(model, optimizer, 0, 1.0)
    restore(model, optimizer, start)
    assert moments(optimizer) == [] and torch.equal(model.weight, start["weight"])
    take(model, optimizer, 1, 0.5)
    assert moments(optimizer) == pytest.approx([1, 0.05, 0.0025])


def test_a_snapshot_comes_back_from_a_checkpoint(tmp_path: Path):
    model = nn.Linear(1, 1, bias=False)
    optimizer, run = Optimizer(model, OPTIM, 9), StageRun(tmp_path, "rl2", "rl2")
    take(model, optimizer, 0, 1.0)
    run.tensors = snapshot(model, optimizer)
    take(model, optimizer, 1, 0.5)
    run.state.step = 2
    run.save(model, optimizer)
    other = nn.Linear(1, 1, bias=False)
    later, again = Optimizer(other, OPTIM, 9), StageRun(tmp_path, "rl2", "rl2")
    again.resume(other, later)
    assert moments(later) == pytest.approx([2, 0.14, 0.0124])
    restore(other, later, again.tensors)
    assert moments(later) == pytest.approx([1, 0.1, 0.01]) and torch.equal(other.weight, run.tensors["weight"])
