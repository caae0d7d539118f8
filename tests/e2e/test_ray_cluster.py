"""`qwq cluster up --launcher ray`: engines and trainer that Ray places, starts and starts again, on
a Ray of this machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleets import ending_model, recipe
from ray_nodes import RayNode, environment, free_port

pytest.importorskip("ray", reason="ray is not installed")
PATIENCE_S = 180.0
QWQ = (sys.executable, "-c", "import sys; from qwq.cli import main; sys.exit(main())")


@pytest.fixture(scope="module")
def head() -> Iterator[RayNode]:
    node = RayNode(f"127.0.0.1:{free_port()}", "127.0.0.1", head=True, cpus=4)
    try:
        node.wait()
        yield node
    finally:
        node.close()


def qwq(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    env = environment() | {"QWQ_API_KEY": "a-key-of-the-tests"} | variables
    return subprocess.run([*QWQ, *map(str, words)], env=env, capture_output=True, text=True, timeout=300, check=False)


def wait_for(true: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.2)


def state(folder: Path) -> dict[str, dict[str, object]]:
    return {m["name"]: m for m in json.loads((folder / "cluster" / "state.json").read_text())["members"]}


def steps(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def runs_still(pid: object) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_ray_starts_again_what_dies_and_down_leaves_nothing(head, tmp_path):
    recipe(tmp_path, ending_model(tmp_path / "model"))
    folder = tmp_path / "runs" / "fleet"
    words = ["cluster", "up", tmp_path / "fleet.toml", "--launcher", "ray", "--restarts", 1, "--engines", 1]
    words += ["--port", free_port(), "--runs", tmp_path / "runs", "--stages.rl1.steps=100000", "--rollout.rejoin_s=0.1"]
    try:
        first = qwq(*words, RAY_ADDRESS=head.address)
        assert first.returncode == 0, first.stderr
        assert "started: engine-1, trainer" in first.stdout
        before = state(folder)
        wait_for(lambda: steps(folder) >= 2, "two steps")
        for name in ("engine-1", "trainer"):
            os.kill(int(before[name]["pid"]), signal.SIGKILL)
        wait_for(lambda: all(state(folder)[n]["pid"] != before[n]["pid"] for n in before), "both started again")
        done = steps(folder)
        wait_for(lambda: steps(folder) >= done + 2, "two more steps")
        numbers = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert numbers == list(range(len(numbers)))  # none lost, none twice
        seen = qwq("cluster", "status", folder)  # it knows where Ray is
        assert seen.returncode == 0 and seen.stdout.count("  running\n") == 2, seen.stdout + seen.stderr
        assert "started: nothing, all runs" in qwq(*words, RAY_ADDRESS=head.address).stdout
        after = state(folder)
        plain = qwq(*words[:3], *words[7:], "--model", tmp_path / "model")
        assert plain.returncode == 2 and "at ray" in plain.stderr and "qwq cluster down" in plain.stderr

        os.kill(int(after["engine-1"]["pid"]), signal.SIGKILL)  # a second time: one was asked for
        wait_for(lambda: "engine-1" in qwq("cluster", "status", folder).stdout.partition(" gone: ")[0], "its end")
        ended = qwq("cluster", "down", folder)
        assert ended.returncode == 0 and ended.stdout == "ended: trainer\n", ended.stdout + ended.stderr
        assert not any(runs_still(m["pid"]) for m in after.values())
        assert not (folder / "cluster" / "state.json").exists()
    finally:
        if (folder / "cluster" / "state.json").exists():
            qwq("cluster", "down", folder, "--grace-s", 5)


def test_what_does_not_go_together_is_one_line(tmp_path):
    recipe(tmp_path, ending_model(tmp_path / "model"))
    words = ["cluster", "up", tmp_path / "fleet.toml", "--launcher", "ray", "--runs", tmp_path / "runs"]
    nowhere = qwq(*words)
    assert nowhere.returncode == 2 and "RAY_ADDRESS is ''" in nowhere.stderr and "ray start --head" in nowhere.stderr
    hosts = qwq(*words, "--hosts", "a,b", RAY_ADDRESS="127.0.0.1:1")
    assert hosts.returncode == 2 and "--hosts a,b is for plain processes" in hosts.stderr
    dead = qwq(*words, RAY_ADDRESS="127.0.0.1:1")
    assert dead.returncode == 70 and "Ray at 127.0.0.1:1 does not answer" in dead.stderr
    assert all(len(said.stderr.strip().splitlines()) == 1 for said in (nowhere, hosts, dead))
