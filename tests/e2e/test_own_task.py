"""One file brings a task with an environment and a verifier of its own; RL trains on it, the
contract of names holds everywhere, and `qwq eval` scores it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

QWQ = str(Path(sys.executable).with_name("qwq"))
TASK = '''
import itertools
import qwq.tasks
import qwq.envs
from qwq.types import Outcome, Verdict


class Doubler(qwq.envs.Environment):
    max_calls = 2

    @qwq.envs.tool
    def double(self, number: int) -> int:
        "Twice a number."
        return 2 * number


class Parity(qwq.tasks.Task):
    """Right where the answer's length is even: a rule that no verifier of the project knows."""

    name = "parity"
    environment = Doubler
    protocol = qwq.tasks.Protocol(samples=1, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=12)

    def rows(self, split):
        first = {"train": 0, "validation": 1000, "test": 2000}[split]
        for i in range(first, first + 20):
            yield {"prompt": f"Say something about {i}.", "number": i}

    def verify(self, problem, response):
        assert isinstance(problem.truth["number"], int)
        return self.verdict(len(response.text) % 2 == 0, f"{len(response.text)} characters")
'''
RECIPE = """
name = "own"
[model]
preset = "tiny"
vocab_size = 384
[compute]
threads = 1
[eval]
math = 0
code = 0
instructions = 0
tools = 0
preference = 0
max_new_tokens = 12
greedy = false
sources = [{ kind = "task", path = "FILE:Parity", split = "test", limit = 8 }]
[stages.pretrain]
kind = "pretrain"
tokens = 20_000
batch_tokens = 512
mix = { preference = 1.0 }
[stages.rl1]
kind = "rl1"
steps = 2
prompts = 4
samples = 6
max_new_tokens = 48
sources = [{ kind = "task", path = "FILE:Parity" }]
validation = { every = 1, problems = 4 }
optim = { lr = 1e-4 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "parity.py").write_text(TASK)
    (folder / "own.toml").write_text(RECIPE.replace("FILE", "parity.py"))
    return folder


def qwq(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [QWQ, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    done = qwq(folder, "train", "own.toml")
    assert done.returncode == 0, done.stderr
    assert "parity" in done.stdout
    return folder / "runs" / "own"


def test_rl_trains_on_the_task_with_its_own_verdicts(trained):
    rows = [
        json.loads(line)
        for path in (trained / "rollouts" / "rl1").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(rows) == 2 * 4 * 6
    assert {row["domain"] for row in rows} == {"parity"}
    for row in rows:
        (verdict,) = row["verdicts"]
        assert verdict["verifier"] == "parity"
        if row["stop_reason"] == "end":
            assert verdict["outcome"] == ("correct" if int(verdict["reason"].split()[0]) % 2 == 0 else "wrong")
        else:
            assert verdict["outcome"] == "unfinished"


def test_the_run_is_evaluated_on_the_tasks_test_rows(trained):
    results = json.loads((trained / "results.json").read_text())
    (name,) = results["stages"][-1]["evals"]
    assert "parity" in name and results["stages"][-1]["evals"][name]["n"] == 8


def test_qwq_eval_takes_the_same_file_with_the_tasks_protocol(trained, folder):
    done = qwq(folder, "eval", "runs/own", "parity.py:Parity", "--n", "5", "--out", "evals")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout.splitlines()[-1])
    assert scores["parity"]["n"] == 5
    samples = [
        json.loads(line) for path in (folder / "evals").rglob("*.jsonl") for line in path.read_text().splitlines()
    ]
    assert "double" in json.dumps(samples) or len(samples) >= 5


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("parity.py:Party", "did you mean 'Parity'?"),
        ("nofile.py:Parity", "no file at nofile.py"),
        ("parity.py:Doubler", "give a class made from qwq.Task"),
    ],
)
def test_a_wrong_reference_is_one_line(folder, reference, words):
    done = qwq(
        folder, "train", "own.toml", f'--stages.rl1.sources=[{{kind = "task", path = "{reference}"}}]', "--dry-run"
    )
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert words in done.stderr
