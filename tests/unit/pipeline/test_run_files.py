"""What a run reads back of its own files when it goes on: a damaged one is named in one line, with
what to do.
"""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from qwq.common.files import atomic_folder, read_record, write_atomic, writing_to
from qwq.config import Optim
from qwq.errors import CapacityError, ConfigError, DataError, ModelError
from qwq.model import lora
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.pipeline.resolve import model_folder
from qwq.pipeline.run_report import read_run
from qwq.rollout.store import RolloutStore
from qwq.train.checkpoint import StageRun
from qwq.train.optim import Optimizer
from qwq.types import Outcome, Rollout, StopReason, Verdict


def rollout(group: int, text: str = "4") -> Rollout:
    return Rollout(
        "p",
        "math",
        group,
        [1],
        [5, 6],
        [1, 1],
        [-0.1, -0.2],
        [0, 0],
        StopReason.END,
        text=text,
        verdicts=[Verdict(Outcome.CORRECT, "equal", "math")],
    )


def test_rollouts_come_back_as_they_were_written_surrogates_included(tmp_path):
    log = RolloutStore(tmp_path)
    written = [rollout(0), rollout(0, "half \ud83d"), rollout(1), rollout(1)]
    log.write(3, written)
    assert log.read(3, 2) == written and log.read(4, 2) is None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lines: [], "damaged (it holds no rollout)"),
        (lambda lines: [*lines[:1], lines[1][:30]], "line 2: damaged ("),
        (lambda lines: [*lines[:1], "[1, 2]\n"], "line 2: damaged ("),
        (lambda lines: [*lines[:1], '{"half": 1}\n'], "line 2: damaged ("),
        (lambda lines: [*lines[:2], "\x00" * 50], "line 3: damaged ("),
        (lambda lines: lines[:3], "damaged (it holds a group of 1 rollouts, 2 were sampled)"),
    ],
)
def test_damaged_rollouts(tmp_path, damage, words):
    log = RolloutStore(tmp_path)
    log.write(0, [rollout(0), rollout(0), rollout(1), rollout(1)])
    log.path(0).write_text("".join(damage(log.path(0).read_text().splitlines(keepends=True))))
    with pytest.raises(DataError) as caught:
        log.read(0, 2)
    assert str(caught.value).startswith(str(log.path(0))) and words in str(caught.value)
    assert str(caught.value).endswith("delete the file, and the same command samples this step again")


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "tensors.safetensors"])
@pytest.mark.parametrize("left", [0, 5, 100])
def test_a_damaged_checkpoint(tmp_path, file, left):
    model = torch.nn.Linear(30, 30)
    optimizer = Optimizer(model, Optim(), 10)
    model(torch.ones(30)).sum().backward()
    optimizer.step(0)
    run = StageRun(tmp_path, "rl1", "rl1")
    run.tensors = {"kept": torch.ones(300)}
    run.save(model, optimizer)
    folder = tmp_path / "checkpoints" / "rl1" / "step-000000"
    with (folder / file).open("r+b") as f:
        f.truncate(left)
    with pytest.raises(ModelError) as caught:
        StageRun(tmp_path, "rl1", "rl1").resume(model, optimizer)
    assert f"{folder / file} is damaged (" in str(caught.value)
    assert f"delete the folder {folder}, and the same command restarts the stage" in str(caught.value)


def test_a_damaged_record(tmp_path):
    path = tmp_path / "sft.json"
    path.write_text(json.dumps({"name": "sft"})[:-2])
    with pytest.raises(DataError, match=r"sft.json is damaged .*start over with --fresh, which keeps the old run"):
        read_record(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match=r"sft.json is damaged"):
        read_record(path)


@pytest.mark.parametrize("file", ["recipe.toml", "stages/sft.json"])
def test_other_commands_name_a_run_s_damaged_file_too(tmp_path, file):
    run = tmp_path / "run"
    (run / "stages").mkdir(parents=True)
    (run / "checkpoints" / "sft" / "final").mkdir(parents=True)
    (run / "recipe.toml").write_text('name = "x"\n[stages.sft]\nkind = "sft"\n')
    (run / "stages" / "sft.json").write_text('{"name": "sft"}')
    assert model_folder(str(run)) == str(run / "checkpoints" / "sft" / "final")
    (run / file).write_bytes(b"{ = \x00\xff")
    for read in (lambda: model_folder(str(run)), lambda: read_run(run)):
        with pytest.raises(DataError, match=f"{file} is damaged"):
            read()


def test_a_damaged_adapter(tmp_path):
    model = Transformer(preset("tiny", vocab_size=64)).init_weights(torch.Generator().manual_seed(0))
    lora.add(model, rank=2, seed=0)
    lora.save_adapter(model, tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    other = Transformer(preset("tiny", vocab_size=64)).init_weights(torch.Generator().manual_seed(0))
    with pytest.raises(ModelError, match="adapter_model.safetensors is cut short: 500 bytes are there"):
        lora.load_adapter(other, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="adapter_config.json: not JSON"):
        lora.load_adapter(other, tmp_path)


def refusing(number: int, path: Path | None):
    return OSError(number, os.strerror(number), None if path is None else str(path))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            lambda f: refusing(errno.ENOSPC, f / "recipe.toml"),
            CapacityError,
            "recipe.toml cannot be written (No space left on device): free some space",
        ),
        (
            lambda f: refusing(errno.ENOSPC, None),
            CapacityError,
            "cannot be written (No space left on device): free some space",
        ),
        (
            lambda f: SafetensorError("I/O error: No space left on device (os error 28)"),
            CapacityError,
            "No space left on device",
        ),
        (lambda f: refusing(errno.EROFS, f), ConfigError, "cannot be written (Read-only file system:"),
        (lambda f: refusing(errno.EACCES, f / "x"), ConfigError, "Permission denied"),
        (lambda f: refusing(errno.ENOTDIR, f.parent), ConfigError, "give another folder with --runs"),
    ],
)
def test_what_a_disk_refuses_is_one_line(tmp_path, error, kind, words):
    with pytest.raises(kind) as caught, writing_to(tmp_path / "runs" / "x"):
        raise error(tmp_path / "runs" / "x")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_other_errors_are_not_taken_for_the_disk_s(tmp_path):
    with pytest.raises(FileNotFoundError), writing_to(tmp_path / "runs"):
        (tmp_path / "elsewhere" / "data").read_text()
    with pytest.raises(ZeroDivisionError), writing_to(tmp_path / "runs"):
        raise ZeroDivisionError


def test_half_a_folder_does_not_stay(tmp_path):
    with pytest.raises(OSError, match="full"), atomic_folder(tmp_path / "final") as partial:
        (partial / "model").write_bytes(b"0" * 1000)
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("losses", "last"), [([2.0, math.nan], "nan"), ([math.nan, math.inf], "inf")])
def test_a_stage_that_ends_without_a_finite_loss_hands_nothing_on(tmp_path, losses, last):
    run = StageRun(tmp_path, "pretrain", "pretrain")
    model = torch.nn.Linear(2, 2)
    with pytest.raises(
        ConfigError, match=rf"stage pretrain ends after step 2 of 2 with loss {last}: .* lower stages.pretrain.optim.lr"
    ):
        run.run(2, model, Optimizer(model, Optim(), 2), lambda step: {"loss": losses[step]})


def test_a_loss_that_is_finite_again_is_no_divergence(tmp_path):
    run = StageRun(tmp_path, "pretrain", "pretrain")
    model = torch.nn.Linear(2, 2)
    run.run(2, model, Optimizer(model, Optim(), 2), lambda step: {"loss": [math.nan, 2.0][step]})
    assert run.state.step == 2


def test_a_folder_that_takes_no_files_is_one_line():
    with pytest.raises(
        ConfigError, match=r"/proc/x\.jsonl cannot be written: /proc takes no new files, name another place"
    ):
        write_atomic(Path("/proc/x.jsonl"), "a")
