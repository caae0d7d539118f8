"""Runs of the small recipe, as a user starts them: the `qwq` command in a process of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from commands import Command

from qwq.cli import main
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.model.weights import save_model
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe

RECIPE = Path(__file__).with_name("mini.toml")
PATIENCE_S = 600.0  # for one start of the command, on a machine however busy


@dataclass
class Ending:
    """How one start of the command ended."""

    stage: str
    step: int
    signal: int
    status: int
    stderr: str
    finished_stages: set[str]


@dataclass
class Run:
    """A run's folder, what was done to it and what its last start printed."""

    folder: Path
    endings: list[Ending] = field(default_factory=list)
    stdout: str = ""
    stderr: str = ""

    def rows(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def results(self) -> dict:
        return json.loads((self.folder / "results.json").read_text())


def start(runs: Path, *options: str) -> Command:
    # Every warning is an error, as in the tests that run inside pytest.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return Command("train", RECIPE, "--runs", runs, *options, env=environment, **pipes)


def finish(runs: Path, *options: str) -> tuple[int, str, str]:
    process = start(runs, *options)
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def reached(path: Path, stage: str, step: int) -> bool:
    """True where metrics.jsonl shows that the step was taken."""
    return any(line.startswith(f'{{"stage": "{stage}", "step": {step},') for line in path.read_text().splitlines())


def stop_at(run: Run, stage: str, step: int, number: int, delay_s: float) -> None:
    """Start the recipe and send it signal `number` a moment after it has taken the step."""
    metrics = run.folder / "metrics.jsonl"
    before, begun = inode(metrics), False
    process = start(run.folder.parent)
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        # A start that goes on writes the file anew; until then it shows the steps of the start
        # before.
        begun = begun or inode(metrics) not in (0, before)
        if begun and reached(metrics, stage, step):
            break
        time.sleep(0.003)
    time.sleep(delay_s)
    if process.poll() is None:
        process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    done = {p.stem for p in (run.folder / "stages").glob("*.json")}
    run.endings.append(Ending(stage, step, number, process.returncode, err, done))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The recipe from start to end, in one go."""
    runs = tmp_path_factory.mktemp("undisturbed")
    status, out, err = finish(runs)
    assert status == 0, err
    return Run(runs / "mini", stdout=out, stderr=err)


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory, undisturbed: Run) -> Run:
    """The same recipe, killed at random moments in each stage, stopped by Ctrl-C in one, and gone
    on with each time.
    """
    run = Run(tmp_path_factory.mktemp("killed") / "mini")
    rng = random.Random(5)
    for stage in undisturbed.results()["stages"]:
        steps = stage["steps"]
        first = stage["name"] == "pretrain"
        for i, step in enumerate(sorted(rng.sample(range(steps - 1), 3 if first else 2))):
            number = signal.SIGINT if first and i == 0 else signal.SIGKILL
            # The delay is a part of a step, so that the signal falls before, in and after the
            # writing of checkpoints.
            delay_s = 0.0 if number == signal.SIGINT else rng.random() * stage["train_s"] / steps
            stop_at(run, stage["name"], step, number, delay_s)
    status, run.stdout, run.stderr = finish(run.folder.parent)
    assert status == 0, run.stderr
    return run


@pytest.fixture
def keep_signals() -> Iterator[None]:
    """Puts back the handlers and the number of threads that `qwq train` sets when it runs inside
    pytest.
    """
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def error(capsys):
    """Runs a command and returns its error; asserts that it is one line, and nothing else but
    `status`.
    """

    def check(*words: str, status: int = 2) -> str:
        assert main([str(w) for w in words]) == status
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and captured.err.rstrip().endswith(lines[0]), captured.err
        assert "Traceback" not in captured.err
        return lines[0]

    return check


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A whole model folder: tiny weights, a tokenizer that fits, the default template."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_bpe(["What is 2 + 2? It is 4. " * 3], 280)
    config = preset(
        "tiny",
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
    )
    chat = ChatFormat(tokenizer, default_template())
    save_model(Transformer(config).init_weights(torch.Generator().manual_seed(0)), folder)
    chat.save(folder)
    return folder
