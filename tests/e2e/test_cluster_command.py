"""`qwq cluster up|status|down` as a user runs it: two engines and a run of RL, one engine killed
and brought back, and nothing left behind.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import run
from fleets import ending_model, recipe

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists() or not shutil.which("setsid"), reason="needs Linux's /proc and setsid"
)
PATIENCE_S = 120.0
Command = Callable[..., subprocess.CompletedProcess[str]]


def qwq(*words: object) -> subprocess.CompletedProcess[str]:
    return run(*words, env=os.environ | {"OMP_NUM_THREADS": "1"})


def free_ports(num: int) -> int:
    """The first of `num` ports in a row that nobody listens on."""
    for first in range(20_000 + os.getpid() % 20_000, 60_000, num):
        try:
            for port in range(first, first + num):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def state(folder: Path) -> dict[str, dict[str, object]]:
    return {m["name"]: m for m in json.loads((folder / "cluster" / "state.json").read_text())["members"]}


def runs_still(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def wait_for(true: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.1)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Command]:
    """`qwq cluster up` of a run that takes as long as the test; it ends with the test."""
    model = ending_model(tmp_path / "model")
    recipe(tmp_path, model)
    port = free_ports(3)

    def command(*options: str) -> subprocess.CompletedProcess[str]:
        words = ["--runs", tmp_path / "runs", "--port", port, "--stages.rl1.steps=100000", "--rollout.rejoin_s=0.1"]
        return qwq("cluster", "up", tmp_path / "fleet.toml", *words, *options)

    yield command
    if (tmp_path / "runs" / "fleet" / "cluster" / "state.json").exists():
        qwq("cluster", "down", tmp_path / "runs" / "fleet", "--grace-s", "5")


def test_a_killed_engine_comes_back_and_down_leaves_nothing(up, tmp_path):
    folder = tmp_path / "runs" / "fleet"
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        first = up()
        assert first.returncode == 0, first.stderr
        assert "started: engine-1, engine-2, trainer" in first.stdout
        before = state(folder)
        metrics = folder / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2, "two steps")
        seen = qwq("cluster", "status", folder)
        assert seen.returncode == 0, seen.stdout + seen.stderr
        assert seen.stdout.count("  running\n") == 3
        assert len(re.findall(r"rl1: http://127.0.0.1:\d+ \w+, weights of step \d+; leases \d+ open", seen.stdout)) == 2
        assert re.search(r"last step: rl1 \d+, [\d.]+ s, lag 0 mean, 0 at most", seen.stdout)

        os.kill(int(before["engine-2"]["pid"]), signal.SIGKILL)
        wait_for(lambda: not runs_still(int(before["engine-2"]["pid"])), "the engine's end")
        gone = qwq("cluster", "status", folder)
        assert gone.returncode == 1 and re.search(r"engine-2 .* gone: ", gone.stdout)
        again = up()
        assert again.returncode == 0, again.stderr
        assert "started: engine-2\n" in again.stdout
        after = state(folder)
        assert {n for n in after if after[n]["pid"] != before[n]["pid"]} == {"engine-2"}
        assert "started: nothing, all runs" in up().stdout

        other = up("--stages.rl1.samples=5")
        assert other.returncode == 2 and "trainer runs as" in other.stderr and "qwq cluster down" in other.stderr
        assert state(folder) == after

        done = qwq("cluster", "down", folder)
        assert done.returncode == 0, done.stderr
        assert set(done.stdout.strip().removeprefix("ended: ").split(", ")) == {"engine-1", "engine-2", "trainer"}
        assert not any(runs_still(int(m["pid"])) for m in after.values())
        assert bystander.poll() is None and not (folder / "cluster" / "state.json").exists()
        refused = qwq("cluster", "status", folder)
        assert refused.returncode == 2 and "`qwq cluster up RECIPE` starts them" in refused.stderr
    finally:
        bystander.kill()
        bystander.wait()


def test_a_killed_engine_is_started_again_by_itself(up, tmp_path):
    folder = tmp_path / "runs" / "fleet"
    first = up("--restarts", "1")
    assert first.returncode == 0 and "started: engine-1, engine-2, trainer, watcher" in first.stdout, first.stderr
    before = state(folder)
    for name in ("engine-2", "trainer"):
        os.kill(int(before[name]["pid"]), signal.SIGKILL)
    wait_for(
        lambda: {n for n, m in state(folder).items() if m["pid"] != before[n]["pid"]} == {"engine-2", "trainer"}, "both"
    )
    metrics = folder / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2, "two steps")
    after = state(folder)
    log = (folder / "cluster" / "watcher.log").read_text()
    assert all(
        re.search(rf"{n} had ended .* started again as process \d+, 0 restarts left", log)
        for n in ("engine-2", "trainer")
    )
    os.kill(int(after["engine-2"]["pid"]), signal.SIGKILL)
    wait_for(
        lambda: (
            "engine-2: it has ended, and was started again 1 times" in (folder / "cluster" / "watcher.log").read_text()
        ),
        "the end",
    )
    assert state(folder) == after
    done = qwq("cluster", "down", folder)
    assert set(done.stdout.strip().removeprefix("ended: ").split(", ")) == {"engine-1", "trainer", "watcher"}, (
        done.stderr
    )
    assert not any(runs_still(int(m["pid"])) for m in after.values())


def test_an_engine_that_does_not_start_is_told_with_its_last_line(up, tmp_path):
    failed = up("--model", str(tmp_path / "nowhere"))
    assert failed.returncode == 70
    assert "engine-1 ended at its start" in failed.stderr and "nowhere" in failed.stderr
