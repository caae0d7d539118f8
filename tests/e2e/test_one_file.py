"""A task, an environment, a loss, a reward and a stage of a user's own: one file each, outside the package, named as `file.py:Name`.

`WRITTEN` is everything that is written for them. One run trains on all of them, evaluates, holds its contract and is killed in the
user's stage; the tests read what it left.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import commands
import pytest

from qwq.report.palette import COLOURS

TASK = '''
import qwq


class Parity(qwq.Task):
    """Right where the answer's length is even: a rule that no verifier of the project knows."""

    name = "parity"
    environment = "desk.py:Desk"
    protocol = qwq.Protocol(samples=1, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=12)

    def rows(self, split):
        first = {"train": 0, "validation": 1000, "test": 2000}[split]
        for i in range(first, first + 20):
            yield {"prompt": f"Say something about {i}.", "number": i}

    def verify(self, problem, response):
        assert isinstance(problem.truth["number"], int)
        return self.verdict(len(response.text) % 2 == 0, f"{len(response.text)} characters")
'''
ENVIRONMENT = """
import qwq


class Desk(qwq.Environment):
    max_calls = 2

    async def reset(self, problem):
        with open("desk.txt", "a") as file:
            file.write(problem.id + "\\n")

    @qwq.tool
    def double(self, number: int) -> int:
        "Twice a number."
        return 2 * number
"""
LOSS = """
import torch
from qwq.train.losses import TokenLoss


def plain(batch):
    with open("loss.txt", "a") as file:
        file.write("asked\\n")
    return TokenLoss(-batch.advantage_N * batch.ratio_N, batch.ratio_N, torch.zeros_like(batch.ratio_N))
"""
REWARD = """
def brief(prompts, completions, completion_ids, **columns):
    return [-0.01 * len(ids) for ids in completion_ids]
"""
STAGE = '''
import os
import re
import signal
from pathlib import Path

import qwq


class Echo(qwq.Stage):
    """Next-token prediction on one sentence. It kills its own process in the middle of step 3, once."""

    steps: int = 6
    kill: bool = False

    def plan(self, context):
        return qwq.StagePlan(self.steps, "one sentence a step", tokens=self.steps * 32, flops=None)

    def train(self, model, job):
        from qwq.train.optim import Optimizer
        from qwq.train.supervised import supervised_step

        optimizer = Optimizer(model, self.optim, self.steps)
        job.run.resume(model, optimizer)
        ids = job.chat.tokenizer.encode("Say something about nothing at all.")

        def step(index):
            if self.kill and index == 3 and not Path("killed").exists():
                Path("killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return supervised_step(model, optimizer, [(ids, [1.0] * len(ids))], index) | {"echoes": 2.0 * index}

        job.run.run(self.steps, model, optimizer, step)
        return {"sentence": len(ids)}
'''
WRITTEN = {
    "task": {"parity.py": TASK},
    "environment": {"desk.py": ENVIRONMENT},
    "loss": {"plain.py": LOSS},
    "reward": {"brief.py": REWARD},
    "stage": {"echo.py": STAGE},
}
RECIPE = """
name = "own"
[model]
preset = "tiny"
vocab_size = 384
[compute]
threads = 1
checkpoint_interval_s = 0
[eval]
math = 4
"parity.py:Parity" = 8
max_new_tokens = 12
greedy = false
[stages.pretrain]
kind = "pretrain"
tokens = 20_000
batch_tokens = 512
mix = { preference = 1.0 }
evaluate = false
[stages.rl1]
kind = "rl1"
steps = 2
prompts = 6
samples = 4
max_new_tokens = 48
drop_zero_signal = false
mix = { math = 0.4, "parity.py:Parity" = 0.6 }
environment = "desk.py:Desk"
loss = "plain.py:plain"
rewards = [{ function = "brief.py:brief" }]
validation = { every = 1, problems = 4 }
optim = { lr = 1e-4 }
[stages.echo]
kind = "echo.py:Echo"
kill = true
[stages.again]
kind = "echo.py:Echo"
start_from = "rl1"
evaluate = false
[stages.rl2]
kind = "rl2"
start_from = "echo"
steps = 1
prompts = 4
samples = 4
max_new_tokens = 24
mix = { math = 0.5 }
sources = [{ kind = "task", path = "parity.py:Parity" }]
kl = 0.0
contract = { every = 1, problems = 8 }
optim = { lr = 1e-4 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    for files in WRITTEN.values():
        for name, text in files.items():
            (folder / name).write_text(text)
    (folder / "own.toml").write_text(RECIPE)
    return folder


def qwq(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    return commands.run(*words, cwd=folder, env=environment)


@pytest.fixture(scope="module")
def killed(folder) -> subprocess.CompletedProcess[str]:
    """The first start of the recipe, which the user's stage kills."""
    done = qwq(folder, "train", "own.toml")
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done


@pytest.fixture(scope="module")
def second(folder, killed) -> subprocess.CompletedProcess[str]:
    """The same command again, to the end."""
    done = qwq(folder, "train", "own.toml")
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def run(folder, second) -> Path:
    return folder / "runs" / "own"


@pytest.fixture(scope="module")
def results(run) -> dict:
    return json.loads((run / "results.json").read_text())


def stage_of(results: dict, name: str) -> dict:
    return next(stage for stage in results["stages"] if stage["name"] == name)


def rollouts(run: Path, stage: str) -> list[dict]:
    files = sorted((run / "rollouts" / stage).glob("*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def test_each_takes_one_file(folder):
    assert {noun: len(files) for noun, files in WRITTEN.items()} == dict.fromkeys(WRITTEN, 1)
    assert len(list(folder.glob("*.py"))) == 5


def rows_of(run: Path, stage: str) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["stage"] == stage]


# -- task ---------------------------------------------------------------------------------------------------------------


def test_rl_trains_on_the_task_with_its_own_verdicts(run):
    rows = rollouts(run, "rl1")
    assert len(rows) == 2 * 6 * 4
    assert {row["domain"] for row in rows} == {"math", "parity"}
    for row in (r for r in rows if r["domain"] == "parity"):
        (verdict,) = [v for v in row["verdicts"] if v["verifier"] == "parity"]
        if row["stop_reason"] == "end":
            assert verdict["outcome"] == ("correct" if int(verdict["reason"].split()[0]) % 2 == 0 else "wrong")
        else:
            assert verdict["outcome"] == "unfinished"


def test_the_run_is_evaluated_on_the_tasks_test_rows(run, results, second):
    for name in ("rl1", "echo", "rl2"):
        evals = stage_of(results, name)["evals"]
        assert list(evals) == ["math", "parity"] and evals["parity"]["n"] == 8
    header = next(line for line in second.stdout.splitlines() if line.startswith("stage"))
    assert header.split() == ["stage", "seconds", "math", "parity"]
    rows = [json.loads(line) for line in (run / "evals" / "rl1" / "sampled.jsonl").read_text().splitlines()]
    asked = [row for row in rows if row["benchmark"] == "parity"]
    assert len(asked) == 8 and {row["verdict"]["verifier"] for row in asked} == {"parity"}


def test_the_contract_watches_the_task(results):
    entries = stage_of(results, "rl2")["contract"]
    assert {f["domain"] for e in entries for f in e["findings"]} == {"math", "parity"}


def test_the_report_shows_it(run):
    page = (run / "report.html").read_text()
    assert page.count(">parity<") >= 3  # scores, rewards, contract
    shades = set(re.findall(r'--c:var\(--p-[0-9a-f]{6}, (#[0-9a-f]{6})\)"></i>parity<', page))
    assert len(shades) == 1 and shades.isdisjoint(COLOURS.values())  # one colour all over the page


def test_qwq_eval_takes_the_same_file_with_the_tasks_protocol(run, folder):
    (folder / "desk.txt").unlink()
    done = qwq(folder, "eval", "runs/own", "parity.py:Parity", "--n", "5", "--out", "evals")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["parity"]["n"] == 5
    ids = {f"parity/test/{i}" for i in range(20)}
    begun = (folder / "desk.txt").read_text().split()
    assert len(begun) == 5 and set(begun) <= ids  # the environment, in an evaluation


# -- environment, loss, reward ------------------------------------------------------------------------------------------


def test_rl_offers_the_environments_tools(run):
    rows = rollouts(run, "rl1")
    assert all("double(number)" in row["prompt"] for row in rows)


def test_the_loss_is_asked_in_every_update(folder, run):
    assert len((folder / "loss.txt").read_text().split()) >= len(rows_of(run, "rl1")) == 2


def test_the_reward_is_added(run):
    paid = [row["rewards"]["brief"] for row in rollouts(run, "rl1") if "brief" in row["rewards"]]
    assert paid and all(value < 0 for value in paid)


# -- stage --------------------------------------------------------------------------------------------------------------


def test_the_stage_goes_on_after_a_kill_to_the_same_weights(run, second):
    """Stage `again` starts from the same weights and is not killed."""
    assert "echo: resuming from step 3" in second.stderr
    of_stage = {name: rows_of(run, name) for name in ("echo", "again")}
    assert [r["step"] for r in of_stage["echo"]] == list(range(6))
    assert [r["loss"] for r in of_stage["echo"]] == [r["loss"] for r in of_stage["again"]]
    final = [run / "checkpoints" / name / "final" / "model.safetensors" for name in ("echo", "again", "rl1")]
    assert final[0].read_bytes() == final[1].read_bytes() != final[2].read_bytes()


def test_the_stage_is_in_the_plan_the_table_the_results_and_the_report(folder, run, results, second):
    plan = qwq(folder, "explain", "own.toml")
    assert plan.returncode == 0 and "one sentence a step" in plan.stdout, plan.stderr
    assert any(line.startswith("echo ") for line in second.stdout.splitlines())
    record = stage_of(results, "echo")
    assert (record["kind"], record["steps"]) == ("echo.py:Echo", 6) and record["sentence"] > 0
    page = (run / "report.html").read_text()
    assert ">echo " in page and ">echoes<" in page  # its heading, and a curve of its own figure


def test_a_run_is_read_where_the_files_are_not(run, tmp_path):
    done = qwq(tmp_path, "report", str(run))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stages.rl1.mix", '{ "parity.py:Party" = 1.0 }', "did you mean 'Parity'?"),
        ("stages.rl1.mix", '{ "nofile.py:Parity" = 1.0 }', "no file at nofile.py"),
        ("stages.rl1.mix", '{ "desk.py:Desk" = 1.0 }', "give a class made from qwq.Task"),
        ("stages.rl1.mix", "{ maths = 1.0 }", "did you mean 'math'?"),
        ("eval.gsm8", "4", "did you mean 'gsm8k'?"),
        ('eval."parity.py:Parity"', "21", "the task has 20 test problems: lower the number"),
        ("stages.rl1.sources", '[{kind = "task", path = "parity.py:Party"}]', "did you mean 'Parity'?"),
        ("stages.echo.kind", "echo.py:Ecco", "did you mean 'Echo'?"),
        ("stages.rl1.loss", "plain.py:plan", "did you mean 'plain'?"),
        ("stages.rl1.environment", "desk.py:Disk", "did you mean 'Desk'?"),
        ("stages.pretrain.mix", '{ "parity.py:Parity" = 1.0 }', "task parity has no demonstrations"),
    ],
)
def test_a_wrong_name_is_one_line(folder, monkeypatch, error, key, value, words):
    monkeypatch.chdir(folder)
    assert words in error("train", "own.toml", f"--{key}={value}", "--name=other", "--dry-run")
