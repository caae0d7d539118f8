"""Twelve forced breaches of the stage contract: four actions, with families, with sources, and with
both.

The run, its prompts, its training and its files are real; only what the checks find is forced: good
after step 1, a breach after step 2 and, where the stage gets that far, after the last step. A
reward by length keeps the weights moving. Looked at: what is drawn after the breach, which weights
are handed on.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from qwq.config import Optim, load_recipe
from qwq.errors import ConfigError, Interrupted
from qwq.model.weights import load_model
from qwq.pipeline.run import RecipeRun
from qwq.pipeline.run_report import write_report
from qwq.pipeline.stages.rl2 import Rl2Stage
from qwq.pipeline.table import contract_lines
from qwq.tasks.mix import ProblemMix
from qwq.train import stage2 as rl2
from qwq.train.checkpoint import StageRun, StopFlag, clone_weights
from qwq.train.optim import Optimizer

PRETRAIN = """
name = "start"
[model]
preset = "tiny"
vocab_size = 384
[compute]
threads = 1
[stages.pretrain]
kind = "pretrain"
tokens = 30_000
batch_tokens = 512
optim = { lr = 3e-3, warmup = 0.1 }
evaluate = false
mix = { math = 1.0 }
"""
RL2 = """
name = "breach"
[model]
path = "START"
[compute]
threads = 1
checkpoint_interval_s = 0
[stages.rl2]
kind = "rl2"
steps = 3
prompts = 12
samples = 2
max_new_tokens = 24
kl = 0.0
evaluate = false
DATA
rewards = [{ function = "FOLDER/reward.py:length" }]
contract = { domains = ["math"], every = 1, problems = 4, reweight = 3.0, on_breach = "ACTION" }
optim = { lr = 1e-3 }
"""
MATH = '{ kind = "math", path = "FOLDER/sums.jsonl", weight = 1.0 }'
CONSTRAINTS = '{ kind = "constraints", path = "builtin", weight = 3.0, limit = 40 }'
DATA = {
    "families": "mix = { math = 1.0, instructions = 3.0 }",
    "sources": f"sources = [{MATH}, {CONSTRAINTS}]",
    "both": f"mix = {{ math = 1.0, instructions = 3.0 }}\nsources = [{MATH}, {CONSTRAINTS}]",
}
REWARD = """
def length(prompts, completions, completion_ids, **_):
    return [float(sum(ids) % 7) for ids in completion_ids]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("breaches")
    numbers = random.Random(0)
    rows = [
        {"question": f"What is {numbers.randrange(10**6)} + {numbers.randrange(10**6)}?", "answer": str(i)}
        for i in range(300)
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(REWARD)
    (folder / "start.toml").write_text(PRETRAIN)
    RecipeRun(load_recipe(folder / "start.toml"), folder / "runs").run()
    return folder


class Scripted(rl2.ContractGuard):
    """Finds what the script says, and keeps the weights and shares that each check leaves
    behind.
    """

    script: list[float] = []
    seen: list[dict[str, torch.Tensor]] = []
    left: list[dict[str, float]] = []

    def begin(self) -> None:
        found = iter([1.0, *Scripted.script])
        real = self.evaluate
        size = {d: len(v) for d, v in real().items()}
        self.evaluate = lambda: (lambda share: {d: [share] * n for d, n in size.items()})(next(found))
        super().begin()

    def _look(self, step, metrics, *, last):
        Scripted.seen.append(clone_weights(self.model))
        super()._look(step, metrics, last=last)
        Scripted.left.append(dict(self.mix.shares))


def shares_of(data: str) -> tuple[dict[str, float], set[str]]:
    """The recipe's shares by name, and the names that replay math."""
    shares: dict[str, float] = {}
    if data in ("families", "both"):
        shares |= {"math": 1.0, "instructions": 3.0}
    if data in ("sources", "both"):
        shares |= {"sums": 1.0, "constraints:builtin:train": 3.0}
    return shares, {"math", "sums"} & shares.keys()


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("action", ["reweight", "hold", "rollback", "stop"])
def test_a_forced_breach(folder, monkeypatch, action, data):
    text = RL2.replace("DATA", DATA[data]).replace("ACTION", action).replace("FOLDER", str(folder))
    text = text.replace("START", str(folder / "runs/start/checkpoints/pretrain/final"))
    path = folder / f"{action}-{data}.toml"
    path.write_text(text.replace('"breach"', f'"{action}-{data}"'))
    monkeypatch.setattr("qwq.train.stage2.ContractGuard", Scripted)
    Scripted.script, Scripted.seen, Scripted.left = [1.0, 0.0, 0.0], [], []
    run = RecipeRun(load_recipe(path), folder / "runs")
    results = run.run()
    (record,) = results["stages"]
    checks = record["contract"]
    assert [c["findings"][0]["state"] for c in checks] == ["ok", "breach", "breach"][: 2 if action == "stop" else 3]

    # what is drawn after the breach
    base, math = shares_of(data)
    own = str(folder / "sums.jsonl")
    left = [{("sums" if own in name else name): w for name, w in shares.items()} for shares in Scripted.left]
    assert left[0] == base
    drawn = (
        [json.loads(line) for line in (run.folder / "rollouts/rl2/step-00002.jsonl").read_text().splitlines()]
        if action != "stop"
        else []
    )
    if action == "hold":
        assert left[1] == {name: (w if name in math else 0.0) for name, w in base.items()}
        assert {row["domain"] for row in drawn} == {"math"}
    elif action in ("reweight", "rollback"):
        total = sum(base.values())
        grown = {name: w * (3.0 if name in math else 1.0) for name, w in base.items()}
        assert left[1] == pytest.approx({name: w * total / sum(grown.values()) for name, w in grown.items()})
        mix = ProblemMix(0, "rl2", {}, shares=dict(Scripted.left[1]))
        expected = [mix.choose(i) for i in range(24, 36)]  # prompts 24 to 35 are those of the third step
        assert sum(row["domain"] == "math" for row in drawn) == 2 * sum(
            name == "math" or own in name for name in expected
        )
    assert results["finished"] and (record["steps"] == (2 if action == "stop" else 3))

    # which weights are handed on
    final = {k: v for k, v in load_model(run.folder / "checkpoints/rl2/final").state_dict().items()}
    trained = Scripted.seen
    assert any(
        not torch.equal(trained[0][k], trained[1][k]) for k in trained[0]
    )  # the step between the checks moved them
    handed_on = trained[0] if action in ("rollback", "stop") else trained[-1]
    assert all(torch.equal(final[k], v) for k, v in handed_on.items())
    if action == "rollback":  # the third step began at the good weights, not at those in breach
        assert not all(torch.equal(trained[2][k], trained[1][k]) for k in trained[1])

    # what is said
    outcome = record["contract_outcome"]
    assert outcome["state"] == ("restored" if action in ("rollback", "stop") else "breached")
    assert (outcome["checks"], outcome["breaches"]) == ((2, 1) if action == "stop" else (3, 2))
    (line,) = contract_lines(results)
    assert line.startswith("rl2: contract") and ("handed on" in line)


def test_a_breach_that_ends_gives_the_full_mix_back_and_is_kept(folder, monkeypatch):
    text = (
        RL2.replace("DATA", DATA["both"])
        .replace("ACTION", "hold")
        .replace("FOLDER", str(folder))
        .replace("steps = 3", "steps = 4")
    )
    text = text.replace("START", str(folder / "runs/start/checkpoints/pretrain/final")).replace('"breach"', '"back"')
    (folder / "back.toml").write_text(text)
    monkeypatch.setattr("qwq.train.stage2.ContractGuard", Scripted)
    Scripted.script, Scripted.seen, Scripted.left = [1.0, 0.0, 1.0, 1.0], [], []
    run = RecipeRun(load_recipe(folder / "back.toml"), folder / "runs")
    (record,) = run.run()["stages"]
    assert Scripted.left[2] == Scripted.left[0] != Scripted.left[1]
    assert record["contract_outcome"]["state"] == "kept" and "full mix again" in record["contract"][2]["action"]


def test_the_last_weights_are_looked_at_also_between_two_checks(folder, monkeypatch):
    text = (
        RL2.replace("DATA", DATA["families"])
        .replace("ACTION", "rollback")
        .replace("FOLDER", str(folder))
        .replace("every = 1", "every = 2")
    )
    text = text.replace("START", str(folder / "runs/start/checkpoints/pretrain/final")).replace('"breach"', '"between"')
    (folder / "between.toml").write_text(text)
    monkeypatch.setattr("qwq.train.stage2.ContractGuard", Scripted)
    Scripted.script, Scripted.seen, Scripted.left = [1.0, 0.0], [], []
    run = RecipeRun(load_recipe(folder / "between.toml"), folder / "runs")
    (record,) = run.run()["stages"]
    assert [c["step"] for c in record["contract"]] == [1, 2]
    final = load_model(run.folder / "checkpoints/rl2/final").state_dict()
    assert all(torch.equal(final[k], v) for k, v in Scripted.seen[0].items())


def guard_of(stage, model, run, evaluate) -> rl2.ContractGuard:
    mix = ProblemMix(0, "rl2", stage.mix.weights())
    optimizer = Optimizer(model, Optim(), stage.steps)
    return rl2.ContractGuard(
        stage.contract, stage.replays(), model, optimizer, mix, run, steps=stage.steps, evaluate=evaluate
    )


def test_weights_that_validation_puts_back_are_looked_at_too(tmp_path):
    """`validation.keep = "best"` hands on other weights than those of the last check; these are in
    breach, so the last good ones go in their place.
    """
    stage = Rl2Stage(
        kind="rl2",
        steps=2,
        mix={"math": 0.5, "tools": 0.5},
        contract={"domains": ["math"], "every": 1, "on_breach": "rollback"},
    )
    model, run = torch.nn.Linear(2, 2), StageRun(tmp_path, "rl2", "rl2")
    found = {"math": [1.0] * 40}
    guard = guard_of(stage, model, run, lambda: found)
    guard.begin()
    for step in range(2):
        torch.nn.init.constant_(model.weight, step + 1.0)
        guard.after_step(step, {})
    torch.nn.init.constant_(model.weight, 7.0)  # what validation found best
    found = {"math": [0.0] * 40}
    record = guard.finish(changed=True)
    assert model.weight[0, 0].item() == 2.0
    assert [e["findings"][0]["state"] for e in record["contract"]] == ["ok", "ok", "breach"]
    assert record["contract_outcome"]["state"] == "restored"


def test_a_stage_that_validation_ends_early_is_looked_at_where_it_ends(tmp_path):
    stage = Rl2Stage(kind="rl2", steps=9, mix={"math": 1.0}, contract={"domains": ["math"], "every": 5})
    run = StageRun(tmp_path, "rl2", "rl2")
    guard = guard_of(stage, torch.nn.Linear(2, 2), run, lambda: {"math": [1.0] * 8})
    guard.begin()
    guard.after_step(0, {})
    run.state.ended = "no better"
    guard.after_step(1, {})
    record = guard.finish(changed=False)
    assert [e["step"] for e in record["contract"]] == [1] and record["contract_outcome"]["state"] == "kept"


class Forced(rl2.ContractGuard):
    """Every check but those of the start and of the first step finds nothing right; a run that goes
    on finds the same.
    """

    def begin(self) -> None:
        real = self.evaluate
        right = lambda: 1.0 if len(self.state.contract_log) == 0 else 0.0
        self.evaluate = lambda: {d: [right()] * len(v) for d, v in real().items()}
        super().begin()


@pytest.mark.parametrize("action", ["reweight", "hold", "rollback"])
def test_a_run_that_is_stopped_after_a_breach_goes_on_bit_for_bit(folder, monkeypatch, action):
    """The shares of families and sources that the breach left, and the last good weights, come with
    the checkpoint.
    """
    text = (
        RL2.replace("DATA", DATA["both"])
        .replace("ACTION", action)
        .replace("FOLDER", str(folder))
        .replace("steps = 3", "steps = 5")
    )
    text = text.replace("START", str(folder / "runs/start/checkpoints/pretrain/final"))
    monkeypatch.setattr("qwq.train.stage2.ContractGuard", Forced)
    ends = {}
    for name in ("whole", "stopped"):
        path = folder / f"{name}-{action}.toml"
        path.write_text(text.replace('"breach"', f'"{name}-{action}"'))
        if name == "stopped":
            stop = StopFlag()
            after = Forced.after_step

            def raising(self, step, metrics, stop=stop, after=after):
                after(self, step, metrics)
                stop.raised = step == 2

            with monkeypatch.context() as patch:
                patch.setattr(Forced, "after_step", raising)
                with pytest.raises(Interrupted, match="after step 3 of 5"):
                    RecipeRun(load_recipe(path), folder / "runs", stop=stop).run()
        run = RecipeRun(load_recipe(path), folder / "runs")
        (record,) = run.run()["stages"]
        drawn = [
            row["domain"]
            for p in sorted((run.folder / "rollouts/rl2").glob("*.jsonl"))
            for row in map(json.loads, p.read_text().splitlines())
        ]
        ends[name] = ((run.folder / "checkpoints/rl2/final/model.safetensors").read_bytes(), record["contract"], drawn)
    assert ends["whole"] == ends["stopped"]
    assert "shares" in ends["whole"][1][1] and ends["whole"][1][1]["shares"] != {"math": 1.0, "instructions": 3.0}


def test_looks_leave_the_training_as_it_was(folder):
    """Without a breach the steps are those of a run that looks at nothing: same prompts, same
    tokens, same weights.
    """
    text = RL2.replace("DATA", DATA["both"]).replace("ACTION", "reweight").replace("FOLDER", str(folder))
    text = text.replace("START", str(folder / "runs/start/checkpoints/pretrain/final"))
    ends = {}
    for name, domains in (("looked-at", '["math"]'), ("left-alone", "[]")):
        path = folder / f"{name}.toml"
        path.write_text(text.replace('"breach"', f'"{name}"').replace('domains = ["math"]', f"domains = {domains}"))
        run = RecipeRun(load_recipe(path), folder / "runs")
        (record,) = run.run()["stages"]
        tokens = [
            row["completion_ids"]
            for p in sorted((run.folder / "rollouts/rl2").glob("*.jsonl"))
            for row in map(json.loads, p.read_text().splitlines())
        ]
        ends[name] = ((run.folder / "checkpoints/rl2/final/model.safetensors").read_bytes(), tokens)
        assert ("contract_outcome" in record) == (name == "looked-at")
        page = write_report(run.folder).read_text()
        assert ("held nothing" in page) == (name == "left-alone") and ("At the end it was kept" in page) == (
            name == "looked-at"
        )
    assert ends["looked-at"] == ends["left-alone"]


def test_a_source_too_small_to_be_watched_is_refused_before_training(folder):
    rows = (folder / "sums.jsonl").read_text().splitlines(keepends=True)
    (folder / "few.jsonl").write_text("".join(rows[:40]))
    text = RL2.replace("DATA", DATA["sources"]).replace("sums.jsonl", "few.jsonl").replace("ACTION", "reweight")
    text = text.replace("START", str(folder / "runs/start/checkpoints/pretrain/final")).replace("FOLDER", str(folder))
    (folder / "few.toml").write_text(text)
    with pytest.raises(
        ConfigError, match=r"the contract measures math on [12] problems \(4 are asked for\): even the loss of all"
    ):
        RecipeRun(load_recipe(folder / "few.toml"), folder / "runs").check()
