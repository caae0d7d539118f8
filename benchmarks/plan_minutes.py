"""How far the minutes of `qwq explain` are from a finished run's: predicted and measured seconds of
each stage, and their ratio.

    qwq train recipes/tiny.toml --runs /tmp/m
    python benchmarks/plan_minutes.py /tmp/m/tiny            # this machine, measured now
"""

from __future__ import annotations

import argparse
import json

from arguments import positive, run_folder

from qwq.config import load_recipe
from qwq.pipeline.plan.counts import PlanContext
from qwq.pipeline.plan.explain import machine_of
from qwq.pipeline.plan.minutes import evaluation_seconds
from qwq.pipeline.plan.shape import model_config
from qwq.pipeline.stage import stage_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=run_folder, help="folder of a finished run on this machine")
    parser.add_argument("--tflops", type=positive, help="as for `qwq explain`; with --gb-s, instead of measuring")
    parser.add_argument("--gb-s", type=positive)
    args = parser.parse_args()
    recipe = load_recipe(args.run / "recipe.toml")
    if (args.tflops is None) != (args.gb_s is None):
        parser.error("give both --tflops and --gb-s, or neither to measure this machine")
    config, machine = model_config(recipe), machine_of(recipe, args.tflops, args.gb_s, None)
    if machine is None:
        parser.error(f"the recipe's device {recipe.compute.device} is not here: give --tflops and --gb-s")
    print(f"{machine.flops_s / 1e9:.0f} GFLOP/s, {machine.bytes_s / 1e9:.1f} GB/s")
    read = evaluation_seconds(PlanContext(recipe, next(iter(recipe.stages)), config), machine)
    total = [0.0, 0.0]
    for path in sorted((args.run / "stages").glob("*.json"), key=lambda p: list(recipe.stages).index(p.stem)):
        record = json.loads(path.read_text())
        name, span = (
            record["name"],
            stage_of(recipe, path.stem).seconds(PlanContext(recipe, path.stem, config), machine),
        )
        evaluated = recipe.stages[name].evaluate and recipe.stages[name].trains_policy
        pairs = [] if span is None else [("steps", span.expected, record["train_s"])]
        pairs += [("evaluation", read.expected, record["wall_s"] - record["train_s"])] if evaluated else []
        for part, predicted, measured in pairs:
            print(f"{name:14} {part:10} {predicted:7.1f} s, measured {measured:7.1f}, ratio {predicted / measured:.2f}")
            total = [total[0] + predicted, total[1] + measured]
    print(json.dumps({"name": "plan_minutes", "ours": total[0], "theirs": total[1], "ratio": total[0] / total[1]}))


if __name__ == "__main__":
    main()
