"""What `compute.dtype = "bfloat16"` gains on this machine: the RL step of `rl_step.py` in float32
and in bfloat16, in turn.

    python benchmarks/dtypes.py --model DIR --shape 4x8x64 --threads 2

CPUs with AVX-512 BF16 or AMX multiply bfloat16 faster than float32, others much slower: look before
a long run. The first step of each is a warm-up. The last lines are JSON `{"name", "ours", "theirs",
"ratio"}`: tokens a second in bfloat16, in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile

import torch
from arguments import at_least, model_folder, sizes
from rl_step import Case, Step, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=model_folder, required=True)
    parser.add_argument("--shape", type=sizes(1, 2, 1), default="4x8x64", help="prompts x samples x new tokens")
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--threads", type=at_least(1), default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    case = Case(options.shape, "forced")
    taken: dict[str, list[Step]] = {"bfloat16": [], "float32": []}
    with tempfile.TemporaryDirectory() as folder:
        steps = {name: ours(case, options.model, f"{folder}/{name}", getattr(torch, name)) for name in taken}
        for number in range(options.rounds + 1):
            for name, step in steps.items():
                done = step()
                if number:
                    taken[name].append(done)
    rows = []
    for part in ("sampling", "training"):
        rate = {name: [s.tokens / getattr(s, part) for s in done] for name, done in taken.items()}
        middle = {name: statistics.median(r) for name, r in rate.items()}
        print(
            f"{part}, tokens/s: "
            + "; ".join(f"{name} {middle[name]:.1f} ({min(r):.1f} to {max(r):.1f})" for name, r in rate.items())
        )
        a, b = middle["bfloat16"], middle["float32"]
        rows.append(
            {
                "name": f"{part}, bfloat16 beside float32, tokens/s",
                "ours": round(a, 1),
                "theirs": round(b, 1),
                "ratio": round(a / b, 2),
            }
        )
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
