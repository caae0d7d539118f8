"""How long training waits for its checkpoints: written before the next step, and written beside it
(`compute.background_checkpoints`).

    python benchmarks/checkpoints.py             # preset 18m, 12 steps, a checkpoint after each

Both kinds train the same steps in turn, `--rounds` times; printed are the seconds that training
waited a checkpoint, those of a step, and those of the whole, at the median. The weights at the end
are compared bit for bit. The last lines are JSON `{"name", "ours", "theirs", "ratio"}`; theirs is
the writing before the next step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from arguments import at_least

from qwq.config import Optim
from qwq.model.config import PRESETS, preset
from qwq.model.transformer import Transformer
from qwq.train.checkpoint import StageRun
from qwq.train.optim import Optimizer
from qwq.train.supervised import supervised_step


def one(name: str, steps: int, tokens: int, background: bool) -> tuple[dict[str, float], Transformer]:
    """Seconds of one run, and its model."""
    model = Transformer(preset(name)).init_weights(torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (steps, 256), generator=draw).tolist()
    documents = [[(row, [1.0] * len(row))] * max(1, tokens // 256) for row in ids]
    with tempfile.TemporaryDirectory(prefix="checkpoints-") as folder:
        run = StageRun(Path(folder), "sft", "sft", interval_s=0, background=background)
        optimizer = Optimizer(model, Optim(), steps, division=run.divide(model, tokens=True))
        started = time.perf_counter()
        run.run(steps, model, optimizer, lambda i: supervised_step(model, optimizer, documents[i], i))
        whole = time.perf_counter() - started
        step, writer = run.state.seconds / steps, run.writer
    return {"waited": writer.waited_s / writer.num_written, "step": step, "whole": whole}, model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="18m", choices=sorted(PRESETS))
    parser.add_argument("--steps", type=at_least(2), default=12)
    parser.add_argument("--tokens", type=at_least(1), default=1024, help="of a step")
    parser.add_argument("--rounds", type=at_least(1), default=3)
    args = parser.parse_args()
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    models = {}
    for _ in range(args.rounds):
        for background in found:
            figures, models[background] = one(args.preset, args.steps, args.tokens, background)
            found[background].append(figures)
    same = all(torch.equal(a, b) for a, b in zip(models[False].parameters(), models[True].parameters(), strict=True))
    medians = {
        background: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for background, rows in found.items()
    }
    size = 12 * models[True].config.num_parameters / 2**20
    print(
        f"{args.preset}: {size:,.0f} MiB a checkpoint, {args.steps - 1} checkpoints; weights equal bit for bit: {same}"
    )
    for background, row in medians.items():
        print(
            f"{'beside the next steps' if background else 'before the next step '}: training waited "
            f"{row['waited']:.3f} s a checkpoint, step {row['step']:.3f} s, all {row['whole']:.2f} s"
        )
    for name, key in (("seconds waited a checkpoint", "waited"), ("seconds of the whole", "whole")):
        ours, theirs = medians[True][key], medians[False][key]
        print(json.dumps({"name": name, "ours": ours, "theirs": theirs, "ratio": theirs / ours}))


if __name__ == "__main__":
    main()
