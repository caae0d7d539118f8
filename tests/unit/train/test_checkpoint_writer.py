"""Checkpoints that a thread writes while training continues: their values, order and faults."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwq.config import Optim, load_recipe
from qwq.errors import CapacityError, Interrupted
from qwq.model.config import preset
from qwq.pipeline.plan.peak import training_base
from qwq.train import checkpoint_writer
from qwq.train.checkpoint import Progress, StageRun, StopFlag
from qwq.train.optim import Optimizer

RECIPE = Path(__file__).parents[2] / "e2e" / "cluster.toml"


class Gate:
    """Holds the writing of files until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.opened, self.real = threading.Event(), threading.Event(), checkpoint_writer.save_file
        monkeypatch.setattr(checkpoint_writer, "save_file", self.save)

    def save(self, tensors, path) -> None:
        self.begun.set()
        assert self.opened.wait(60)
        self.real(tensors, path)


class Notes(Progress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def trained(folder: Path, **options) -> tuple[torch.nn.Module, Optimizer, StageRun]:
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 4)
    run = StageRun(folder, "sft", "sft", interval_s=0, background=True, **options)
    return model, Optimizer(model, Optim(lr=0.01), 8), run


def stepper(model: torch.nn.Module, optimizer: Optimizer):
    def step(index: int) -> dict[str, float]:
        loss = model(torch.full((3, 6), 0.5 + index)).square().mean()
        loss.backward()
        return {"loss": loss.item()} | optimizer.step(index)

    return step


def test_a_checkpoint_holds_the_weights_of_its_own_step(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    model, optimizer, run = trained(tmp_path)
    stepper(model, optimizer)(0)
    weight = model.weight.detach().clone()
    moment = optimizer.adam.state[model.weight]["exp_avg"].clone()
    run.state.step, run.state.seconds = 1, 2.5
    run.save(model, optimizer)  # is back, although no byte is written
    assert gate.begun.wait(60) and not list(run.folder.glob("step-*"))
    stepper(model, optimizer)(1)
    run.state.seconds = 9.0
    gate.opened.set()
    assert run.saved_step == 1  # after the one under way
    assert not torch.equal(model.weight, weight)
    stored = load_file(run.folder / "step-000001" / "weights.safetensors")
    assert torch.equal(stored["weight"], weight)
    assert torch.equal(load_file(run.folder / "step-000001" / "optimizer.safetensors")["weight/exp_avg"], moment)
    assert '"seconds": 2.5' in (run.folder / "step-000001" / "state.json").read_text()


def test_the_next_one_waits_for_the_one_before(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    model, optimizer, run = trained(tmp_path)
    run.save(model, optimizer)
    run.state.step = 1
    second = threading.Thread(target=run.save, args=(model, optimizer))
    second.start()
    second.join(0.3)
    assert second.is_alive() and gate.begun.is_set()
    gate.opened.set()
    second.join(60)
    assert run.saved_step == 1 and [p.name for p in run.folder.iterdir()] == ["step-000001"]
    assert run.writer.num_written == 2 and run.writer.waited_s > 0.2


def test_a_failure_reaches_the_training_and_the_last_one_stays(tmp_path, monkeypatch):
    model, optimizer, run = trained(tmp_path)
    run.save(model, optimizer)
    run.writer.wait()

    def full(tensors, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "save_file", full)
    run.state.step = 1
    run.save(model, optimizer)
    with pytest.raises(CapacityError, match="could not be written .* No space left .*the last checkpoint is untouched"):
        run.save(model, optimizer)
    assert run.saved_step == 0 and [p.name for p in run.folder.iterdir()] == ["step-000000"]
    run.state.step = 0
    with pytest.raises(CapacityError):
        run.run(2, model, optimizer, stepper(model, optimizer))


CHILD = """
import os, sys
from pathlib import Path
import torch
from qwq.config import Optim
from qwq.train import checkpoint_writer
from qwq.train.checkpoint import StageRun
from qwq.train.optim import Optimizer
torch.manual_seed(0)
model = torch.nn.Linear(6, 4)
optimizer = Optimizer(model, Optim(lr=0.01), 8)
run = StageRun(Path(sys.argv[1]), "sft", "sft", background=True)
run.save(model, optimizer)
run.writer.wait()
real, number = checkpoint_writer.save_file, 0
def dies(tensors, path):
    global number
    number += 1
    if number == 2:
        os._exit(9)  # as by a kill: the weights are written, the moments are not
    real(tensors, path)
checkpoint_writer.save_file = dies
with torch.no_grad():
    model.weight += 1
run.state.step = 1
run.save(model, optimizer)
run.writer.wait()
"""


def test_a_kill_in_the_middle_leaves_the_one_before(tmp_path):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path)], timeout=300, check=False)
    assert done.returncode == 9
    model, optimizer, run = trained(tmp_path)
    assert (run.folder / ".step-000001.partial" / "weights.safetensors").exists()
    expected = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.zero_()
    run.resume(model, optimizer)
    assert run.state.step == 0 and torch.equal(model.weight, expected)
    run.clear()
    assert not list(run.folder.iterdir())


def test_a_stopped_run_resumes_bit_for_bit(tmp_path, monkeypatch):
    straight, optimizer, run = trained(tmp_path / "a")
    notes = Notes()
    run.progress = notes
    run.run(6, straight, optimizer, stepper(straight, optimizer))
    assert "5 checkpoints were written in " in notes.texts[-1] and "which waited" in notes.texts[-1]

    real = checkpoint_writer.save_file
    monkeypatch.setattr(checkpoint_writer, "save_file", lambda *args: (time.sleep(0.2), real(*args)))
    stop = StopFlag()
    model, optimizer, run = trained(tmp_path / "b", stop=stop)
    step = stepper(model, optimizer)

    def stopping(index: int) -> dict[str, float]:
        stop.raised = index == 2
        return step(index)

    with pytest.raises(Interrupted, match="after step 3 of 6, state saved"):
        run.run(6, model, optimizer, stopping)
    assert [p.name for p in run.folder.glob("step-*")] == ["step-000003"]  # saved before it was said
    model, optimizer, run = trained(tmp_path / "b")
    run.resume(model, optimizer)
    assert run.state.step == 3
    run.run(6, model, optimizer, stepper(model, optimizer))
    assert torch.equal(model.weight, straight.weight) and torch.equal(model.bias, straight.bias)


def test_the_plan_counts_the_copy():
    config = preset("tiny")
    p = config.num_parameters
    assert "checkpoint copy" not in training_base(load_recipe(RECIPE), config, p)
    in_background = {"compute.background_checkpoints": True}
    assert training_base(load_recipe(RECIPE, in_background), config, p)["checkpoint copy"] == 12 * p
    half = load_recipe(RECIPE, in_background | {"compute.dtype": "bfloat16"})
    assert training_base(half, config, p)["checkpoint copy"] == 14 * p
    gpu = load_recipe(RECIPE, in_background | {"compute.device": "cuda"})
    assert "checkpoint copy" not in training_base(gpu, config, p)  # it lies in host memory
