"""The commands on a small run of their own: training that is stopped and resumed, chat, logits."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import Command

from qwq.cli import commands as cli

MINI = """
name = "mini"
[model]
preset = "tiny"
[compute]
threads = 1
[eval]
math = 4
max_new_tokens = 24
greedy = false
[stages.pretrain]
kind = "pretrain"
tokens = 30_000
batch_tokens = 512
mix = { math = 1.0 }
evaluate = false
[stages.sft]
kind = "sft"
documents = 20
mix = { math = 1.0 }
"""


def qwq(*argv: str, cwd: Path) -> Command:
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    return Command(*argv, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, list[tuple[int, str, str]]]:
    """A run that was stopped by Ctrl-C in its first stage, went on with the command that it
    printed, and was asked for again.
    """
    folder = tmp_path_factory.mktemp("work")
    (folder / "mini.toml").write_text(MINI)
    seen = []
    process = qwq("train", "mini.toml", "--fresh", "--stages.sft.documents=25", cwd=folder)
    metrics, deadline = folder / "runs" / "mini" / "metrics.jsonl", time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    seen.append((process.returncode, out, err))
    go_on = shlex.split(err.splitlines()[-1].partition("qwq ")[2])
    for argv in (
        go_on,
        [*go_on, "--until", "pretrain"],
        ["train", "mini.toml"],
    ):
        process = qwq(*argv, cwd=folder)
        out, err = process.communicate(timeout=300)
        seen.append((process.returncode, out, err))
    return folder, seen


def test_ctrl_c_saves_the_state_and_prints_the_command_to_go_on(trained):
    status, out, err = trained[1][0]
    last = err.splitlines()[-1]
    assert (status, out) == (130, "") and "Traceback" not in err
    assert re.fullmatch(
        r"stopped in stage pretrain after step \d+ of \d+, state saved: qwq train mini\.toml "
        r"--stages\.sft\.documents=25",
        last,
    ), last


def test_a_run_ends_with_its_table_and_the_way_to_its_report(trained):
    folder, seen = trained
    status, out, err = seen[1]
    assert status == 0, err
    assert re.search(r"^pretrain: resuming from step \d+$", err, re.MULTILINE)
    assert re.search(r"^stage +seconds +math$", out, re.MULTILINE) and re.search(
        r"^sft +\d+ +\d+\.\d$", out, re.MULTILINE
    )
    assert "runs/mini/results.json" in out and "runs/mini/report.html" in out and "qwq chat runs/mini" in out
    assert (folder / "runs" / "mini" / "report.html").stat().st_size > 10_000
    assert json.loads((folder / "runs" / "mini" / "results.json").read_text())["finished"] is True
    assert re.search(r"^sft 1/1|^sft \d+/\d+ loss", err, re.MULTILINE)


def test_a_finished_run_prints_its_table_again_and_says_so(trained):
    status, out, err = trained[1][2]
    assert status == 0 and "was finished before; --fresh starts it over" in err
    assert re.search(r"^stage +seconds +math$", out, re.MULTILINE)


def test_a_finished_run_refuses_another_recipe_rather_than_ignore_it(trained):
    status, out, err = trained[1][3]
    assert (status, out) == (2, "") and "stages.sft.documents was 25, now 20" in err and err.count("\n") == 1


def test_chat_answers_one_question_with_the_answer_alone(trained, capsys, monkeypatch):
    def call(*argv: str) -> tuple[int, str]:
        return cli.main(list(argv)), capsys.readouterr().out

    monkeypatch.chdir(trained[0])
    first = call("chat", "runs/mini", "--prompt", "What is 2 plus 3?", "--seed", "1", "--max-new-tokens", "40")
    again = call("chat", "runs/mini", "--prompt", "What is 2 plus 3?", "--seed", "1", "--max-new-tokens", "40")
    assert first[0] == 0 and first == again and first[1].endswith("\n") and "<think>" not in first[1]


def test_logits_are_printed_for_every_position(trained, capfdbinary, tmp_path):
    file = tmp_path / "ids.jsonl"
    file.write_text('{"ids": [5, 6, 7]}\n{"ids": [8]}\n')
    assert cli.main(["logits", str(trained[0] / "runs" / "mini"), str(file)]) == 0
    rows = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [(r["index"], len(r["logits"])) for r in rows] == [(0, 3), (1, 1)]
