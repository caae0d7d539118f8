"""`qwq train` on several processes, as a user starts it: the run, its processes, its weights."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import torch
from commands import Command
from safetensors.torch import load_file

RECIPE = Path(__file__).parents[1] / "e2e" / "cluster.toml"
PATIENCE_S = 900.0


def start(runs: Path, processes: int, reduction: str, *options: str, recipe: Path = RECIPE) -> Command:
    words = ["train", recipe, "--runs", runs, "--processes", processes, f"--cluster.reduction={reduction}", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return Command(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def finish(runs: Path, processes: int, reduction: str, *options: str, recipe: Path = RECIPE) -> tuple[int, str]:
    """Exit status and standard error."""
    process = start(runs, processes, reduction, *options, recipe=recipe)
    try:
        _, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.terminate()
    return process.returncode, err


def ranks(launcher: int) -> dict[int, int]:
    """Process ids of a launcher's processes by their rank."""
    found = {}
    for pid in map(int, Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"RANK="):
                found[int(entry[5:])] = pid
    return found


def rows(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def wait_for(process: Command, folder: Path, num_rows: int) -> bool:
    """Wait until so many steps are logged; False where the run ended before."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        if len(rows(folder)) >= num_rows:
            return True
        time.sleep(0.01)
    return False


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that all stages have left."""
    return {
        f"{path.parent.parent.name}/{name}": tensor
        for path in sorted(folder.glob("checkpoints/*/final/model.safetensors"))
        for name, tensor in load_file(path).items()
    }


def differences(one: Path, other: Path) -> tuple[float, float, int]:
    """Largest difference of a loss and of a weight between two runs, and how many tensors are not
    equal bit for bit. The steps and tensors are the same ones.
    """
    a, b = rows(one), rows(other)
    assert [(r["stage"], r["step"]) for r in a] == [(r["stage"], r["step"]) for r in b]
    loss = max(abs(x["loss"] - y["loss"]) for x, y in zip(a, b, strict=True))
    v, w = weights(one), weights(other)
    assert v and v.keys() == w.keys()
    return (
        loss,
        max(float((v[k] - w[k]).abs().max()) for k in v),
        sum(not torch.equal(v[k], w[k]) for k in v),
    )
