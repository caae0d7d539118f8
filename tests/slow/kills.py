"""kill -9 at random moments of a run, then compare its weights, bit for bit, with an undisturbed run's. `make test-kills`.

    python tests/slow/kills.py                                   # the small recipe of the tests, every kind of stage, 20 kills
    python tests/slow/kills.py RECIPE --kills 20 --model.path=DIR --stages.rl1.steps=4      # another recipe, with its overrides

The undisturbed run comes first and its time is the clock of the kills: each start of the command is killed after a random
share of it. Prints one line a kill and ends with JSON; the exit status is 1 where a weight differs. One thread, so that
sums have one order.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=Path(__file__).parents[1] / "e2e" / "mini.toml")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args, rest = parser.parse_known_args()
    rng = random.Random(args.seed)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        calm, wild = Path(folder) / "calm", Path(folder) / "wild"
        started = time.monotonic()
        subprocess.run(command(args, calm, rest), check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        whole = time.monotonic() - started
        kills, finished = 0, False
        while kills < args.kills:
            process = subprocess.Popen(command(args, wild, rest), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            # The later a kill, the more is done, so short spells keep the run from ending before all kills are spent.
            wait = rng.uniform(0.3, 1.0) * max(4.0, 2 * whole / args.kills)
            try:
                process.wait(wait)
                finished = True
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            kills += 1
            last = ""
            for path in wild.glob("*/metrics.jsonl"):
                lines = path.read_text().splitlines()
                row = json.loads(lines[-1]) if lines and lines[-1].endswith("}") else {}
                last = f"{row.get('stage')} step {row.get('step')}"
            print(f"kill {kills} after {wait:.1f} s: {last or 'before the first step'}", flush=True)
        if not finished:
            subprocess.run(command(args, wild, rest), check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        a, b = weights(calm), weights(wild)
        different = sorted(n for n in a.keys() | b.keys() if n not in a or n not in b or not torch.equal(a[n], b[n]))
    print(json.dumps({"kills": kills, "tensors": len(a), "different": len(different), "first": different[:1], "undisturbed_s": round(whole, 1)}))
    sys.exit(bool(different) or not a)


if __name__ == "__main__":
    main()
