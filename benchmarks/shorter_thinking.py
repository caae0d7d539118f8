"""Does a reward for length shorten the thinking where RL without it does not, and at what cost?

    python benchmarks/shorter_thinking.py                   # recipes/shorter.toml on one core
    python benchmarks/shorter_thinking.py --seeds 0 1 2
    python benchmarks/shorter_thinking.py --stages.weighted.length_weight=0.25

Two RL stages start at one model and take the same steps, one with `length_weight` (`weighted`) and
one without (`control`). Printed of each and of the model before: accuracy, thinking tokens (mean,
median, 99th percentile by nearest rank), and their change against the model before; then `weighted`
against `control` over the same test problems: thinking in percent of the control's mean, and
accuracy in points, both with paired 95% intervals. BAR says what is asked for. The last lines, one
a seed, are JSON `{"name", "ours", "theirs", "ratio"}`: mean thinking tokens with and without the
weight. A run that is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arguments import at_least

from qwq import api
from qwq.cli.commands import split_overrides
from qwq.common.estimates import paired, share_interval
from qwq.common.run_folder import RunFolder
from qwq.config import Recipe, load_recipe, parse_value
from qwq.errors import ConfigError, Interrupted, QwqError

RECIPE = Path(__file__).parents[1] / "recipes" / "shorter.toml"
BEFORE, CONTROL, WEIGHTED = STAGES = ("sft", "control", "weighted")
LESS, LOST = 0.30, 0.01  # BAR: at least so much less thinking, at most so much accuracy lost
BAR = f"at least {LESS:.0%} less thinking than the control, at no more than {100 * LOST:.0f} point of accuracy"


@dataclass(frozen=True, slots=True)
class Answers:
    """A stage's answers to the test problems, in their order."""

    right: list[float]
    thinking: list[float]

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.right)

    @property
    def mean(self) -> float:
        return sum(self.thinking) / len(self.thinking)

    def quantile(self, q: float) -> float:
        """By nearest rank."""
        return sorted(self.thinking)[math.ceil(q * len(self.thinking)) - 1]


def answers(folder: RunFolder, stage: str) -> Answers:
    """What the run's evaluation after `stage` stored."""
    with folder.answers(stage, "sampled").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return Answers([r["score"] for r in rows], [r["thinking_tokens"] for r in rows])


def change(now: Answers, before: Answers) -> float:
    """Of the mean thinking, as a share of what it was before."""
    return now.mean / before.mean - 1


def compared(control: Answers, weighted: Answers) -> dict[str, Any]:
    """`weighted` against `control`, problem by problem: `thinking` as a share of the control's
    mean, `accuracy` as a share; each with its 95% interval. `met` says whether the bar is.
    """
    tokens, points = paired(control.thinking, weighted.thinking), paired(control.right, weighted.right)
    thinking, *interval = (x / control.mean for x in (tokens["difference"], *tokens["ci95"]))
    return {
        "thinking": thinking, "thinking_ci95": interval,
        "accuracy": points["difference"], "accuracy_ci95": points["ci95"],
        "met": thinking <= -LESS and points["difference"] >= -LOST,
    }  # fmt: skip


def report(made: dict[str, Answers]) -> list[str]:
    """The table, and the comparison in two lines."""
    lines = [f"{'stage':<9} {'accuracy':>23} {'thinking':>9} {'median':>7} {'99%':>5} {'change':>8}"]
    for name, a in made.items():
        low, high = share_interval(a.right)
        score = f"{100 * a.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        moved = "" if name == BEFORE else f"{100 * change(a, made[BEFORE]):+.1f}%"
        lines.append(
            f"{name:<9} {score:>23} {a.mean:>9.1f} {a.quantile(0.5):>7.0f} {a.quantile(0.99):>5.0f} {moved:>8}"
        )
    c = compared(made[CONTROL], made[WEIGHTED])
    (low, high), (worst, best) = c["thinking_ci95"], c["accuracy_ci95"]
    return [
        *lines,
        f"weighted against control, {len(made[CONTROL].right):,} problems: thinking {100 * c['thinking']:+.1f}% "
        f"[{100 * low:+.1f}, {100 * high:+.1f}], accuracy {100 * c['accuracy']:+.1f} points [{100 * worst:+.1f}, "
        f"{100 * best:+.1f}]",
        f"{BAR}: {'met' if c['met'] else 'not met'}",
    ]


def run(recipe: Recipe, runs: Path) -> dict[str, Answers]:
    api.train(recipe, runs=runs, progress=True, command="the same command")
    folder = RunFolder(runs / recipe.run_name)
    return {stage: answers(folder, stage) for stage in STAGES}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0])
    try:
        options, keys = split_overrides(sys.argv[1:])
    except ConfigError as error:
        parser.error(str(error))
    args, given = parser.parse_args(options), {key: parse_value(text) for key, text in keys.items()}
    rows = []
    for seed in args.seeds:
        try:
            made = run(load_recipe(RECIPE, {"compute.threads": 1, **given, "seed": seed}), args.runs)
        except QwqError as error:
            print(error if isinstance(error, Interrupted) else f"error: {error}", file=sys.stderr)
            return error.exit_status
        print(f"seed {seed}", *report(made), sep="\n", end="\n\n", flush=True)
        ours, theirs = made[WEIGHTED].mean, made[CONTROL].mean
        name = f"shorter thinking: mean tokens with length_weight beside without, seed {seed}"
        rows.append(
            {"name": name, "ours": round(ours, 2), "theirs": round(theirs, 2), "ratio": round(ours / theirs, 3)}
        )
    print(*map(json.dumps, rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
