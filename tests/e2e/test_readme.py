"""Every command of the README, run as written in a fresh clone.

The commands are read out of the README's indented blocks, so one that is added is run too. What a
test cannot wait for is cut short by an option that is added behind the command (`CUTS`), and a
server is asked for its health and then stopped. Words in capitals stand for what a reader has: a
model, a file, a folder.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_endpoint import FakeEndpoint

ROOT = Path(__file__).resolve().parents[2]
CHINESE = ROOT / "README.zh-CN.md"
DATA = ROOT.parent / "shared" / "data"
COMMANDS = [
    line.split("  #")[0].strip()
    for line in re.findall(r"^    (\S.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
]
QWQ_COMMANDS = [c for c in COMMANDS if c.startswith(".venv/bin/qwq ")]
MAKE_TARGETS = sorted(
    set(re.findall(r"(?:`|^    )make ([a-z][a-z-]*)", (ROOT / "README.md").read_text(encoding="utf-8"), re.M))
)
# Trains for a moment, then stops with its state saved (status 130).
CUTS = {"train": ["--max-minutes=0.02"], "eval": ["--n=1", "--max-new-tokens=8"]}
SERVERS = ("serve", "sandbox serve")


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A clone with `.venv/bin/qwq` of this interpreter, and a small finished run where `make demo`
    would leave its own.
    """
    folder = tmp_path_factory.mktemp("readme") / "qwq"
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in tracked:
        source = ROOT / name
        if source.is_file() or source.is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name, follow_symlinks=False)
    qwq = folder / ".venv" / "bin" / "qwq"
    qwq.parent.mkdir(parents=True)
    qwq.write_text(
        f"#!/bin/sh\nPYTHONPATH='{folder}/src' exec '{sys.executable}' -c 'import sys; from qwq.cli import main; "
        'sys.exit(main())\' "$@"\n'
    )
    qwq.chmod(0o755)
    done = run(folder, [".venv/bin/qwq", "train", "tests/e2e/mini.toml", "--name=tiny"])
    assert done.returncode == 0, done.stderr
    (folder / "FILE.jsonl").write_text('{"gold": "5", "pred": "5"}\n')
    (folder / "sales.csv").write_text("what,sold\npens,3\n")
    servers = {"qwq": {"command": str(qwq), "args": ["mcp"]}}
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    return folder


@pytest.fixture(scope="module")
def endpoint() -> Iterator[FakeEndpoint]:
    """The model of the README's agent."""
    with FakeEndpoint(lambda body: "Pens.", models=[{"id": "m", "max_model_len": 8192}]) as server:
        yield server


def run(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_DATA_HOME": str(folder.parent / "home")}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        input="What is 2 + 3?\n",
    )


def test_the_readme_has_its_commands():
    assert len(QWQ_COMMANDS) >= 11, QWQ_COMMANDS
    assert {"demo", "test"} <= set(MAKE_TARGETS)


def test_the_chinese_readme_has_the_same_commands_outputs_and_figures():
    """So that what is run here holds for both."""

    def parts(path: Path) -> tuple[list[str], list[str], list[str], list[str]]:
        text = path.read_text(encoding="utf-8")
        commands = [line.split("  #")[0].strip() for line in re.findall(r"^    (\S.*)$", text, re.M)]
        rows = [row for row in text.splitlines() if re.match(r"\| \d+ \|", row)]
        return commands, re.findall(r"```text\n(.*?)```", text, re.S), rows, re.findall(r"\]\(([^)\s]+)\)", text)

    english, chinese = parts(ROOT / "README.md"), parts(CHINESE)
    assert chinese[:3] == english[:3] and len(english[1]) == 1 and len(english[2]) == 3
    other = {"README.md", "README.zh-CN.md"}
    assert [link for link in chinese[3] if link not in other] == [link for link in english[3] if link not in other]
    figures = [
        sorted(set(re.findall(r"\d+\.\d+", path.read_text(encoding="utf-8")))) for path in (ROOT / "README.md", CHINESE)
    ]
    assert figures[0] == figures[1]


def test_files_and_pictures_that_the_readme_names_are_there_and_small():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\((\S+?\.png)\)", text)
    assert len(pictures) == 3
    for name in pictures:
        assert (ROOT / name).read_bytes().startswith(b"\x89PNG") and (ROOT / name).stat().st_size < 300_000
    named = re.findall(r"`((?:docs|src|recipes)/[\w./-]*)`", text)
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("target", MAKE_TARGETS)
def test_a_make_target_of_the_readme_exists(target):
    # Printed, not run: this test is itself inside `make test`.
    words = ["make", "-n", target, "MODEL=DIR", "LLAMA_SERVER=PATH"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def words_of(command: str, folder: Path) -> list[str]:
    """The command with a reader's own things in place of the words in capitals, cut short where it
    would take long.
    """
    words = shlex.split(command)
    verb = words[1]
    if "--model.path=DIR" in words:
        words[words.index("--model.path=DIR")] = "--model.path=runs/tiny/checkpoints/rl2/final"
    if verb == "eval":
        if not DATA.is_dir():
            pytest.skip("benchmark data (../shared/data) is not on this machine")
        words = [{"MODEL": "runs/tiny"}.get(w, w) for w in words]
        words[words.index("--data") + 1] = str(DATA / "agent" if "dabench" in words else DATA)
        if "--out" in words:
            words[words.index("--out") + 1] = str(folder / "runs" / "results")
    if words[1:3] == ["agent", "resume"]:
        (words[3],) = map(str, sorted((folder / "runs" / "agent").iterdir()))
    return words + ([] if "--help" in words else CUTS.get(verb, []))


@pytest.mark.parametrize(
    "command", [c for c in QWQ_COMMANDS if not c.removeprefix(".venv/bin/qwq ").startswith(SERVERS)]
)
def test_a_command_of_the_readme_runs_as_written(clone, endpoint, command):
    words = words_of(command, clone)
    if words[1:4] == ["agent", "run", "MODEL"]:
        words[3:4] = ["--endpoint", endpoint.url]
    done = run(clone, words)
    assert "Traceback" not in done.stderr, done.stderr
    if words[1] == "train" and done.returncode == 130:
        assert "state saved" in done.stderr
    else:
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("command", [c for c in QWQ_COMMANDS if c.removeprefix(".venv/bin/qwq ").startswith(SERVERS)])
def test_a_server_of_the_readme_answers(clone, command):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_DATA_HOME": str(clone.parent / "home")}
    server = subprocess.Popen(
        [*shlex.split(command), f"--port={port}"],
        cwd=clone,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(600):
            time.sleep(0.1)
            assert server.poll() is None, server.stderr.read() if server.stderr else ""
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                continue
        else:
            pytest.fail("no answer within a minute")
    finally:
        server.send_signal(signal.SIGTERM)
        _, stderr = server.communicate(timeout=60)
    assert server.returncode == 0, stderr
