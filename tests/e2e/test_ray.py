"""A run whose processes Ray places, on a Ray of this machine that lasts as long as the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import RECIPE, differences, finish, rows

pytest.importorskip("ray", reason="ray is not installed")
PRETRAIN = ("--until", "pretrain")
QWQ = (sys.executable, "-c", "import sys; from qwq.cli import main; sys.exit(main())")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("alone")
    status, err = finish(runs, 1, "fixed", *PRETRAIN)
    assert status == 0, err
    return runs / "cluster"


def on_ray(runs: Path, *options: str) -> subprocess.Popen[str]:
    command = [*QWQ, "train", str(RECIPE), "--runs", str(runs), "--processes", "2", "--launcher", "ray"]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"OMP_NUM_THREADS": "1"}
    environment |= {"HOME": str(runs), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        [*command, "--cluster.reduction=fixed", *options, *PRETRAIN], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def process_of(rank: int, runs: Path) -> int:
    """The process of this run with this rank."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(runs).encode() in words and f"RANK={rank}".encode() in variables.split(b"\0"):
            return int(entry.name)
    raise AssertionError(f"no process of rank {rank}")


def test_a_run_on_ray_is_that_of_one_process(alone, tmp_path):
    process = on_ray(tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert differences(alone, tmp_path / "cluster") == (0.0, 0.0, 0)
    assert "pretrain" in out and f"report   {tmp_path / 'cluster' / 'report.html'}" in out


def test_a_lost_process_is_placed_again_and_the_run_ends_in_the_same_bits(alone, tmp_path):
    process = on_ray(tmp_path, "--cluster.restarts=1")
    until = time.monotonic() + 240
    while len(rows(tmp_path / "cluster")) < 2 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(process_of(1, tmp_path), signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "process 1 of 2 was ended by SIGKILL" in err and "started again, 0 restarts left" in err
    assert "resuming from step" in err
    assert differences(alone, tmp_path / "cluster") == (0.0, 0.0, 0)
    assert json.loads((tmp_path / "cluster" / "results.json").read_text())["stages"]
