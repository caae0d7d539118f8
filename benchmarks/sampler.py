"""Sampling rows of logits over a large vocabulary on a CPU: a few rows at a time beside all at
once, and top-k and top-p among the likeliest tokens beside a sorted vocabulary
(`engine/sampler.py`).

    python benchmarks/sampler.py [--rows 16 64] [--vocabulary 151936]

Both ways in turn, several rounds. The last lines are JSON `{"name", "ours", "theirs", "ratio"}`:
milliseconds a row (ratio: theirs / ours), medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from arguments import at_least

from qwq.engine import sampler
from qwq.engine.sampler import SamplingParams, sample

CUTS = {"no cut": {}, "top-k 40": {"top_k": 40}, "top-p 0.95": {"top_p": 0.95}, "both": {"top_k": 40, "top_p": 0.95}}
OURS = (sampler.SAMPLED_AT_ONCE, sampler.FIRST_LOOK, sampler.TIES)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=at_least(1), default=[16, 64])
    parser.add_argument("--vocabulary", type=at_least(2), default=151_936)
    parser.add_argument("--threads", type=at_least(1), default=2)
    parser.add_argument("--rounds", type=at_least(1), default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    whole = (max(args.rows) * args.vocabulary, args.vocabulary, args.vocabulary)
    lines = []
    for rows in args.rows:
        logits = (3 * torch.randn(rows, args.vocabulary, generator=torch.Generator().manual_seed(0))).bfloat16()
        seeds, counters = torch.arange(rows), torch.zeros(rows, dtype=torch.long)
        for name, cut in CUTS.items():
            params, taken = SamplingParams(temperature=0.6, **cut), {OURS: [], whole: []}
            for round_number in range(args.rounds + 1):
                for way, found in taken.items():
                    sampler.SAMPLED_AT_ONCE, sampler.FIRST_LOOK, sampler.TIES = way
                    began = time.perf_counter()
                    sample(logits, params, seeds, counters)
                    if round_number:  # the first round warms up
                        found.append(1e3 * (time.perf_counter() - began) / rows)
            ours, theirs = (statistics.median(found) for found in taken.values())
            print(f"{rows} rows, {name}: {ours:.2f} ms a row, {theirs:.2f} at once and sorted")
            line = {"name": f"sampling, {rows} rows, {name}", "ours": ours, "theirs": theirs, "ratio": theirs / ours}
            lines.append(json.dumps(line))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
