"""kill -9 at random moments of a run, then compare its weights, bit for bit, with an undisturbed
run's. `make test-kills`.

    python tests/slow/kills.py                                   # the small recipe of the tests, every kind of stage, 20 kills
    python tests/slow/kills.py RECIPE --kills 20 --model.path=DIR --stages.rl1.steps=4      # another recipe, with its overrides

The undisturbed run comes first; then each start of the command is killed after a random time. A run
that reaches its end before all kills are spent is compared, and another one begins. Prints one line
a kill and ends with JSON; the exit status is 1 where a weight differs. One thread, so that sums
have one order.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

QWQ = str(Path(sys.executable).with_name("qwq"))


def command(args: argparse.Namespace, runs: Path, rest: list[str]) -> list[str]:
    return [QWQ, "train", str(args.recipe), "--runs", str(runs), "--compute.threads=1", *rest]


def weights(runs: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(runs.glob("*/checkpoints/*/final/*.safetensors")):
        for name, tensor in load_file(path).items():
            found[f"{path.parent.parent.name}/{path.name}/{name}"] = tensor
    return found


def reached(runs: Path) -> str:
    """Where a run was when it was killed, by its last whole line of metrics."""
    for path in runs.glob("*/metrics.jsonl"):
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        if lines:
            row = json.loads(lines[-1])
            return f"{row['stage']} step {row['step']}"
    return "before the first step"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=Path(__file__).parents[1] / "e2e" / "mini.toml")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args, rest = parser.parse_known_args()
    rng = random.Random(args.seed)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        calm = Path(folder) / "calm"
        started = time.monotonic()
        subprocess.run(
            command(args, calm, rest), check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        whole = time.monotonic() - started
        expected, kills, rounds, different = weights(calm), 0, 0, []
        while kills < args.kills:
            wild, rounds = Path(folder) / f"wild{rounds}", rounds + 1
            while kills < args.kills:
                process = subprocess.Popen(
                    command(args, wild, rest), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                # Long enough to get somewhere after the start, short enough for several kills
                # before the end.
                wait = rng.uniform(0.15, 1.0) * max(10.0, 0.4 * whole)
                try:
                    process.wait(wait)
                    break
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                kills += 1
                print(f"kill {kills} after {wait:.1f} s: {reached(wild)}", flush=True)
            subprocess.run(
                command(args, wild, rest), check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            found = weights(wild)
            different += sorted(
                n
                for n in expected.keys() | found.keys()
                if n not in expected or n not in found or not torch.equal(expected[n], found[n])
            )
    summary = {
        "kills": kills,
        "runs": rounds,
        "tensors": len(expected),
        "different": len(different),
        "first": different[:1],
    }
    print(json.dumps(summary | {"undisturbed_s": round(whole, 1)}))
    sys.exit(bool(different) or not expected)


if __name__ == "__main__":
    main()
