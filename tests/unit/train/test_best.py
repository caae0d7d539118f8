"""`validation.keep = "best"`: the weights of the best look are handed on, after kills too."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from qwq.config import Optim, Validation
from qwq.train.best import BestCheckpoint
from qwq.train.checkpoint import StageRun
from qwq.train.optim import Optimizer


class Stage:
    """A run of one number as weights; its score at each step is given."""

    def __init__(self, folder: Path, scores: dict[int, float], every: int = 1) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        self.run = StageRun(folder, "rl1", "rl1")
        config = Validation(every=every, problems=8, keep="best")
        self.best = BestCheckpoint(config, self.model, self.run, lambda: {"math": [scores[self.run.state.step]]})
        (folder / "checkpoints" / "rl1").mkdir(parents=True, exist_ok=True)

    def take(self, *values: float) -> None:
        """Steps whose weights are `values`."""
        for value in values:
            step = self.run.state.step
            with torch.no_grad():
                self.model.weight.fill_(value)
            self.run.state.step = step + 1
            self.best.after_step(step, {})

    def save(self) -> None:
        self.run.save(self.model, self.optimizer())

    def resume(self) -> None:
        self.run.resume(self.model, self.optimizer())

    def optimizer(self) -> Optimizer:
        return Optimizer(self.model, Optim(), num_steps=10)

    def handed_on(self) -> float:
        self.best.finish()
        return self.model.weight.item()


def test_the_best_look_is_handed_on(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {0: 0.1, 1: 0.5, 2: 0.7, 3: 0.2})
    stage.best.begin()
    stage.take(1.0, 2.0, 3.0)
    assert stage.handed_on() == 2.0


def test_the_last_look_is_handed_on_where_steps_came_after_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {0: 0.1, 2: 0.7}, every=2)
    stage.best.begin()
    stage.take(1.0, 2.0, 3.0)
    assert stage.handed_on() == 2.0


def test_steps_that_come_out_differently_after_a_kill_hand_on_what_the_log_calls_best(tmp_path: Path) -> None:
    killed = Stage(tmp_path, {0: 0.1, 1: 0.5, 2: 0.6, 3: 0.9})
    killed.best.begin()
    killed.take(1.0)
    killed.save()
    killed.take(2.0, 3.0)  # two new bests, then a kill before the next checkpoint
    again = Stage(tmp_path, {1: 0.5, 2: 0.3, 3: 0.2})
    again.resume()
    again.best.begin()
    again.take(20.0, 30.0)
    assert [entry["score"] for entry in again.best.state.validation] == [0.1, 0.5, 0.3, 0.2]
    assert again.handed_on() == 1.0
