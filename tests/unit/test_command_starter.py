"""`commands.Command` does what `subprocess.Popen` of the installed command does, without its
imports.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import pytest

pytestmark = pytest.mark.skipif(not commands.CAN_FORK, reason="no pidfd_open: each start imports for itself")
# A loss of a user's own, which a recipe's check imports in the command's process.
OWN = """
import os, sys, time, warnings
seen = os.getcwd(), os.environ.get("QWQ_OWN"), sys.argv[1:], sys.stdin.read()
seen += (("error", None, Warning, None, 0) in warnings.filters,)
print(*seen, sorted(os.listdir("/proc/self/fd")), os.getsid(0), os.getpgid(0), flush=True)
print("to standard error", file=sys.stderr)
time.sleep(float(os.environ.get("QWQ_OWN_SLEEPS", 0)))
def loss(batch): raise AssertionError
"""
RECIPE = """
name = "own"
[model]
preset = "tiny"
[stages.pretrain]
kind = "pretrain"
tokens = 2000
mix = { math = 1.0 }
[stages.rl1]
kind = "rl1"
steps = 1
mix = { math = 1.0 }
loss = "own.py:loss"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "own.toml").write_text(RECIPE)
    return tmp_path


def test_the_command_sees_what_a_start_by_itself_sees(folder: Path) -> None:
    options = {"cwd": folder, "env": os.environ | {"QWQ_OWN": "7", "PYTHONWARNINGS": "error"}, "input": "hello\n"}
    one = commands.run("train", "own.toml", "--dry-run", **options)
    command = [commands.QWQ, "train", "own.toml", "--dry-run"]
    other = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)
    assert one.stdout.startswith(f"{folder} 7 ['train', 'own.toml', '--dry-run'] hello\n True")
    assert one.stdout.splitlines()[0] == other.stdout.splitlines()[0]
    assert (one.returncode, one.stderr) == (other.returncode, other.stderr) == (0, "to standard error\n")


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)],
)
def test_a_signal_reaches_the_command_itself(folder: Path, number: int, status: int) -> None:
    environment = os.environ | {"QWQ_OWN_SLEEPS": "60"}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with commands.Command("train", "own.toml", "--dry-run", cwd=folder, env=environment, **pipes) as process:
        assert process.stdout.readline() and process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        os.kill(process.pid, number)
        process.communicate(timeout=30)
    assert process.returncode == status and not Path(f"/proc/{process.pid}").exists()


def test_an_error_has_its_status(folder: Path) -> None:
    done = commands.run("train", "own.toml", "--dry-run", "--stages.rl1.loss=own.py:los", cwd=folder, input="")
    assert done.returncode == 2 and "did you mean 'loss'?" in done.stderr


def test_two_starts_after_one_another_have_different_hash_seeds() -> None:
    first, second, third = (commands.STARTERS.next(os.environ) for _ in range(3))
    assert first is third is not second
    other = commands.STARTERS.next(os.environ | {"QWQ_OWN": "7"})
    assert other is second  # not read at import


END = """
import os, sys, time, commands
starter = commands.Starter(os.environ)
print(starter._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_nothing_to_fork_from_outlives_killed_tests() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(commands.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", END], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 60
    while Path(f"/proc/{int(done.stdout)}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
