"""Design promise 5: a run that is killed goes on with the same command and ends in the same
weights, bit for bit.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch

from qwq.cli import main
from qwq.config import Optim
from qwq.pipeline.stages.rl2 import Rl2Stage
from qwq.tasks.mix import ProblemMix
from qwq.train.checkpoint import StageRun
from qwq.train.optim import Optimizer
from qwq.train.rl import RlState
from qwq.train.stage2 import ContractGuard

RECIPE = Path(__file__).with_name("mini.toml")
STAGES = ("pretrain", "sft", "rl1", "control", "reward_model", "rl2")
CLOCK = {"seconds", "cpu_s", "memory_mb", "sampling_s", "verifying_s", "training_s"}


def without_clock(value):
    """The same JSON without readings of the clock, which no two runs share."""
    if isinstance(value, dict):
        return {k: without_clock(v) for k, v in value.items() if k not in CLOCK}
    return [without_clock(v) for v in value] if isinstance(value, list) else value


def test_every_stage_was_hit_while_it_ran(killed):
    hit = Counter(e.stage for e in killed.endings if e.status == -signal.SIGKILL and e.stage not in e.finished_stages)
    assert set(hit) == set(STAGES)
    # Some of the starts began in the middle of a stage, from a checkpoint, and not only at its
    # first step.
    texts = [e.stderr for e in killed.endings] + [killed.stderr]
    going_on = [int(m) for text in texts for m in re.findall(r"resuming from step (\d+)", text)]
    assert len([s for s in going_on if s > 0]) >= 4, going_on


@pytest.mark.parametrize("stage", STAGES)
def test_weights_are_the_same_bit_for_bit(undisturbed, killed, stage):
    path = Path("checkpoints") / stage / "final" / "model.safetensors"
    assert (killed.folder / path).read_bytes() == (undisturbed.folder / path).read_bytes()


def test_each_stage_changed_the_weights(undisturbed):
    """Or else equal weights would say nothing: every stage with a gradient took some steps that
    were not zero.
    """
    moved = Counter(r["stage"] for r in undisturbed.rows() if r.get("grad_norm", 0.0) > 0)
    assert set(moved) == set(STAGES) and min(moved.values()) >= 2, moved


def test_metrics_have_each_step_once_and_the_same_figures(undisturbed, killed):
    assert [(r["stage"], r["step"]) for r in killed.rows()] == [(r["stage"], r["step"]) for r in undisturbed.rows()]
    assert without_clock(killed.rows()) == without_clock(undisturbed.rows())


def test_rollouts_are_the_same(undisturbed, killed):
    def rollouts(folder: Path) -> dict[str, list]:
        files = sorted((folder / "rollouts").rglob("*.jsonl"))
        return {
            str(f.relative_to(folder)): [without_clock(json.loads(line)) for line in f.read_text().splitlines()]
            for f in files
        }

    expected = rollouts(undisturbed.folder)
    assert len(expected) == 6 + 4
    assert rollouts(killed.folder) == expected


def test_results_are_the_same(undisturbed, killed):
    def read(run) -> list:
        return [
            without_clock({k: v for k, v in s.items() if k not in ("wall_s", "train_s")})
            for s in run.results()["stages"]
        ]

    assert killed.results()["finished"] is True
    assert read(killed) == read(undisturbed)


def test_no_trainer_state_or_partial_folder_is_left(killed):
    left = [p for p in (killed.folder / "checkpoints").glob("*/*") if p.name != "final"]
    assert left == []


def test_ctrl_c_says_in_one_line_how_to_go_on(killed):
    (stopped,) = [e for e in killed.endings if e.signal == signal.SIGINT]
    assert stopped.status == 130
    last = stopped.stderr.rstrip().splitlines()[-1]
    command = f"qwq train {RECIPE} --runs {killed.folder.parent}"
    assert re.fullmatch(rf"stopped in stage pretrain after step \d+ of \d+, state saved: {re.escape(command)}", last)
    after = killed.endings[killed.endings.index(stopped) + 1]
    step = re.search(r"after step (\d+) of", last)
    assert step and f"pretrain: resuming from step {step[1]}" in after.stderr


def test_finished_run_prints_its_table_and_does_nothing(undisturbed, capsys, keep_signals):
    files = {p: p.stat().st_mtime_ns for p in (undisturbed.folder / "checkpoints").rglob("*") if p.is_file()}
    metrics = (undisturbed.folder / "metrics.jsonl").read_bytes()
    assert main(["train", str(RECIPE), "--runs", str(undisturbed.folder.parent)]) == 0
    captured = capsys.readouterr()
    assert captured.out == undisturbed.stdout
    assert "was finished before; --fresh starts it over" in captured.err
    assert (undisturbed.folder / "metrics.jsonl").read_bytes() == metrics
    assert {p: p.stat().st_mtime_ns for p in (undisturbed.folder / "checkpoints").rglob("*") if p.is_file()} == files


def test_changed_recipe_in_the_same_folder_is_refused(undisturbed, capsys, keep_signals):
    before = (undisturbed.folder / "recipe.toml").read_bytes()
    assert main(["train", str(RECIPE), "--runs", str(undisturbed.folder.parent), "--stages.rl1.steps=7"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and "stages.rl1.steps was 6, now 7" in line and "--fresh" in line
    assert (undisturbed.folder / "recipe.toml").read_bytes() == before


def test_fresh_starts_anew(undisturbed, tmp_path, capsys, keep_signals):
    """One stage of the finished run, from its first step again, and nothing of the other stages
    there; the finished run is kept beside it.
    """
    shutil.copytree(undisturbed.folder, tmp_path / "mini")
    (tmp_path / "mini" / "stray.txt").write_text("of the run before")
    words = [
        "train",
        str(RECIPE),
        "--runs",
        str(tmp_path),
        "--fresh",
        "--until",
        "pretrain",
        "--stages.pretrain.tokens=2000",
    ]
    assert main([*words, "--eval.code=0", "--eval.math=1"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "mini" / "metrics.jsonl").read_text().splitlines()]
    assert {r["stage"] for r in rows} == {"pretrain"} and [r["step"] for r in rows] == list(range(len(rows)))
    assert not (tmp_path / "mini" / "stray.txt").exists()
    assert (tmp_path / "mini.1" / "stray.txt").exists() and json.loads(
        (tmp_path / "mini.1" / "results.json").read_text()
    )["finished"]
    assert sorted(p.name for p in (tmp_path / "mini" / "checkpoints").iterdir()) == ["pretrain"]
    assert "resume" in capsys.readouterr().out


def test_a_folder_in_use_is_left_alone_even_by_fresh(tmp_path, capsys, keep_signals):
    folder = tmp_path / "mini"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("of the run that is going on\n")
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["train", str(RECIPE), "--runs", str(tmp_path), "--fresh"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and "is in use by another run" in line
    assert (folder / "metrics.jsonl").read_text() == "of the run that is going on\n"


def test_run_begun_before_a_field_was_new_goes_on(tmp_path, capsys, keep_signals):
    """A recipe.toml without a field that has its default value now is the same recipe."""
    words = ["train", str(RECIPE), "--runs", str(tmp_path), "--until", "pretrain", "--stages.pretrain.tokens=600"]
    words += [f"--eval.{d}=0" for d in ("math", "code", "instructions", "tools", "preference")]
    assert main(words) == 0
    path = tmp_path / "mini" / "recipe.toml"
    text = path.read_text()
    path.write_text(text.replace("micro_batch_tokens = 8192\n", ""))
    assert path.read_text() != text
    assert main(words) == 0
    assert path.read_text() == text


# -- stage 2's guard: what a breach has done is not forgotten either -------------------------------


def guard_at(folder: Path, on_breach: str, outcomes: list[float]) -> tuple[ContractGuard, Optimizer]:
    """A guard on a one-layer model whose every check finds `outcomes` on math, gone on with as the
    RL loop does it.
    """
    stage = Rl2Stage(
        kind="rl2",
        steps=4,
        mix={"math": 0.5, "tools": 0.5},
        contract={"domains": ["math"], "every": 1, "problems": 8, "on_breach": on_breach},
    )
    model = torch.nn.Linear(2, 2)
    torch.nn.init.zeros_(model.weight)
    mix = ProblemMix(0, "rl2", stage.mix.weights())
    run = StageRun(folder, "rl2", "rl2")
    optimizer = Optimizer(model, Optim(), 4)
    run.resume(model, optimizer)
    mix.shares = mix.base_shares | run.state.part(RlState).mix
    guard = ContractGuard(
        stage.contract, stage.replays(), model, optimizer, mix, run, steps=4, evaluate=lambda: {"math": outcomes}
    )
    guard.begin()
    return guard, optimizer


def take(guard: ContractGuard, optimizer: Optimizer, step: int) -> dict:
    metrics: dict = {}
    guard.after_step(step, metrics)
    guard.run.state.part(RlState).mix = dict(guard.mix.shares)
    guard.run.state.step = step + 1
    guard.run.save(guard.model, optimizer)
    return metrics["contract"]


def test_rollback_after_going_on_puts_back_the_last_good_check(tmp_path):
    guard, optimizer = guard_at(tmp_path, "rollback", [1.0] * 8)
    torch.nn.init.constant_(guard.model.weight, 1.0)
    take(guard, optimizer, 0)  # good: these weights are the ones to come back to
    torch.nn.init.constant_(guard.model.weight, 2.0)
    guard.run.state.step = 2
    guard.run.save(guard.model, optimizer)  # a checkpoint between two checks
    later, optimizer = guard_at(tmp_path, "rollback", [0.0] * 8)
    assert later.model.weight[0, 0].item() == 2.0
    assert "put back" in take(later, optimizer, 2)["action"]
    assert later.model.weight[0, 0].item() == 1.0


def test_hold_ends_after_going_on_with_the_full_mix(tmp_path):
    take(*guard_at(tmp_path, "hold", [1.0] * 8), 0)
    held, optimizer = guard_at(tmp_path, "hold", [0.0] * 8)
    take(held, optimizer, 1)
    assert held.mix.shares == {"math": 0.5, "tools": 0.0}
    later, optimizer = guard_at(tmp_path, "hold", [1.0] * 8)
    assert later.mix.shares == {"math": 0.5, "tools": 0.0}
    take(later, optimizer, 2)
    assert later.mix.shares == {"math": 0.5, "tools": 0.5}
