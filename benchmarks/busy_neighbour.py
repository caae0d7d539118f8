"""What one busy neighbour process costs the training of the tiny model, with torch's own waiting
and with ours.

    python benchmarks/busy_neighbour.py

Each figure is the median of three measurements of three seconds, in tokens a second, taken in turn;
the last line is JSON (`theirs`: libgomp's default spin, `ours`: the package's GOMP_SPINCOUNT, both
beside one busy process).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

ROUNDS, SECONDS = 3, 3.0

MEASURE = f"""
import time, torch
from qwq.config import Optim
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.train.optim import Optimizer
from qwq.train.supervised import supervised_step
model = Transformer(preset("tiny")).init_weights(torch.Generator().manual_seed(0))
optimizer = Optimizer(model, Optim(), 1000)
documents = [(torch.randint(0, 512, (75,)).tolist(), [1.0] * 75) for _ in range(7)]
for step in range(5):
    supervised_step(model, optimizer, documents, step)
start, tokens = time.perf_counter(), 0
while time.perf_counter() - start < {SECONDS}:
    tokens += supervised_step(model, optimizer, documents, 5)["tokens"]
print(tokens / (time.perf_counter() - start))
"""


def measure(spin: str | None) -> float:
    """Tokens a second in a fresh process; `spin` None leaves libgomp its default (300,000 rounds or
    more).
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment["GOMP_SPINCOUNT"] = spin or "300000"
    done = subprocess.run([sys.executable, "-c", MEASURE], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    results: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for state in ("quiet", "busy"):
            neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if state == "busy" else None
            try:
                for name, spin in (("default", None), ("qwq", "1000")):
                    results.setdefault((state, name), []).append(measure(spin))
            finally:
                if neighbour:
                    neighbour.kill()
                    neighbour.wait()
    for (state, name), values in results.items():
        low, high = min(values), max(values)
        print(f"{state:5} {name:8} {statistics.median(values):9,.0f} tokens/s  ({low:,.0f} to {high:,.0f})")
    ours, theirs = (statistics.median(results["busy", name]) for name in ("qwq", "default"))
    print(json.dumps({"name": "busy_neighbour_training", "ours": ours, "theirs": theirs, "ratio": ours / theirs}))


if __name__ == "__main__":
    main()
