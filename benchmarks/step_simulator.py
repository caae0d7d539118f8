"""The simulator of `qwq explain --simulate` against runs that were measured.

    python benchmarks/step_simulator.py runs/tiny runs/small    # folders of runs with RL stages

Of each RL stage, every other step calibrates the costs of this machine (seconds of a decoding step,
of a sequence in it, of a token held; seconds of training a completion token) from its lengths in
`rollouts/` and its times in `metrics.jsonl`. The steps between are then predicted from their
lengths alone, with one engine of `compute.max_rows` slots. The last lines are JSON `{"name",
"ours", "theirs", "ratio"}`: predicted and measured seconds of those steps, predicted / measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arguments import run_folder

from qwq.pipeline.plan.simulate import DecodeCost, Decoded, decode


@dataclass(frozen=True, slots=True)
class Measured:
    """One step: its work as the simulator counts it, and the seconds that it took."""

    work: Decoded
    trained: int
    sampling_s: float
    training_s: float


def _steps(run: Path, stage: str, slots: int) -> list[Measured]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = []
    for row in [r for r in rows if r["stage"] == stage and r.get("trained_tokens") and "sampling_s" in r]:
        file = run / "rollouts" / stage / f"step-{row['step']:05d}.jsonl"
        if not file.is_file():
            continue
        rollouts: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
        lengths = [len(r["completion_ids"]) for r in rollouts]
        prompt = statistics.fmean(len(r["prompt_ids"]) for r in rollouts)
        steps.append(
            Measured(decode(lengths, slots, prompt), row["trained_tokens"], row["sampling_s"], row["training_s"])
        )
    return steps


def _fit(steps: Sequence[Measured]) -> tuple[DecodeCost, float]:
    """Costs that are not negative: a part that comes out negative is taken as 0."""
    features = [[s.work.steps, s.work.rows, s.work.held] for s in steps]
    wanted = np.array([s.sampling_s for s in steps])
    kept = [0, 1, 2]
    while True:
        found, *_ = np.linalg.lstsq(np.array(features, dtype=float)[:, kept], wanted, rcond=None)
        if (found >= 0).all() or len(kept) == 1:
            break
        kept.pop(int(np.argmin(found)))
    costs = [0.0, 0.0, 0.0]
    for index, value in zip(kept, found, strict=True):
        costs[index] = max(0.0, float(value))
    return DecodeCost(*costs), sum(s.training_s for s in steps) / sum(s.trained for s in steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=run_folder)
    lines = []
    for run in parser.parse_args().runs:
        slots = tomllib.loads((run / "recipe.toml").read_text())["compute"]["max_rows"]
        if not (run / "rollouts").is_dir():
            print(f"{run.name}: no RL stage of it has begun")
            continue
        for stage in [p.name for p in sorted((run / "rollouts").iterdir())]:
            steps = _steps(run, stage, slots)
            known, new = steps[::2], steps[1::2]
            if len(known) < 3 or not new:
                print(f"{run.name} {stage}: {len(steps)} steps that trained; at least 6 are needed")
                continue
            cost, token_s = _fit(known)
            ratios = [s.work.seconds(cost) / s.sampling_s for s in new]
            for what, ours, theirs in (
                ("sampling", sum(s.work.seconds(cost) for s in new), sum(s.sampling_s for s in new)),
                ("training", sum(s.trained * token_s for s in new), sum(s.training_s for s in new)),
            ):
                lines.append(
                    {"name": f"{run.name} {stage} {what}", "ours": ours, "theirs": theirs, "ratio": ours / theirs}
                )
            print(
                f"{run.name} {stage}: {len(known)} steps calibrate, {len(new)} are predicted; a decoding step "
                f"{1e3 * cost.step_s:.2f} ms, a sequence in it {1e3 * cost.row_s:.4f}, a trained token "
                f"{1e3 * token_s:.3f}; sampling of one step, predicted / measured: median "
                f"{statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
            )
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
