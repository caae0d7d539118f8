"""`qwq chat` as a command: one question, a pipe, files, what is refused.

A pipe is a process of its own; the others run the same `main` in this one.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import run
from little import make_model

from qwq.cli import main

Chat = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("chat") / "little")


@pytest.fixture
def chat(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], keep_signals: None) -> Chat:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder.parent))

    def run(*options: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        words = ["chat", str(folder), "--seed", "1", *options]
        status = main(words)
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(words, status, captured.out, captured.err)

    return run


def test_a_question_from_standard_input_is_the_one_on_the_command_line(chat: Chat) -> None:
    question = "what is 3\nand 4?"
    given, read = (
        chat("--prompt", question, "--max-new-tokens", "12"),
        chat("--prompt", "-", "--max-new-tokens", "12", stdin=question + "\n"),
    )
    assert given.returncode == read.returncode == 0 and given.stdout == read.stdout and read.stderr.count("\n") <= 1


def test_what_is_piped_is_one_question(folder: Path) -> None:
    done = run(
        "chat", folder, "--seed", "1", "--max-new-tokens", "6",
        input="what is 3\n\nand 4?\n/save " + str(folder.parent / "talk.json") + "\n", timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(folder.parent)},
    )  # fmt: skip
    assert done.returncode == 0 and "2 messages are in" in done.stderr, done.stderr
    assert '"what is 3\\n\\nand 4?"' in (folder.parent / "talk.json").read_text()


def test_files_a_system_message_and_sampling(chat: Chat, tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("3 and 4")
    options = [
        "--file",
        str(tmp_path / "n.txt"),
        "--system",
        "be brief",
        "--temperature",
        "0.5",
        "--top-p",
        "0.9",
        "--top-k",
        "20",
        "--min-p",
        "0.01",
        "--threads",
        "1",
        "--dtype",
        "float32",
    ]
    done = chat(*options, "--max-new-tokens", "4", stdin=f"sum?\n/set\n/save {tmp_path / 'talk.md'}\n")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "talk.md").read_text()
    assert (
        "## System\n\nbe brief" in text
        and "File `n.txt`:\n```txt\n3 and 4\n```\n\nsum?" in text
        and "top_k                20" in done.stderr
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--top-p", "2"], "top_p=2.0 is out of range"), (["--file", "/nope"], "/nope"),
        (["--prompt", ""], "--prompt is empty"), (["--max-model-len", "9k"], "reads 2 to 512"),
        (["--threads", "0"], "--threads 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(folder: Path, chat: Chat, options: list[str], words: str) -> None:
    done = chat(*options)
    lines = [line for line in done.stderr.splitlines() if not line.startswith(str(folder))]
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]
