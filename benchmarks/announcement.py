"""The announcement in miniature: does a small model with RL equal a larger one without?

    python benchmarks/announcement.py                        # `make announcement`, two cores
    python benchmarks/announcement.py --max-minutes 30       # a piece; the same command continues
    python benchmarks/announcement.py --stages.rl1.steps=60  # keys for all of its recipes

Models of 0.9M, 3M, 9M and 18M parameters read the same data (recipes/announcement.toml: pretraining
and SFT); those of 0.9M and 3M go on with RL in two stages, and the 3M one is also distilled from
the better of these two (recipes/distilled-3m.toml). Learning rates fall with the size.
One seed. The score is the mean of the five domains, sampled at T=1 and greedily, on problems that
no stage trains on; its interval is that of independent shares. FLOPs: three forward passes for a
token that is trained on, one for a token that is sampled. runs/announcement gets table.md and
plot.svg (score against parameters, with and without RL). The last line is JSON `{"name", "ours",
"theirs", "ratio"}`: the best model with RL, the largest without.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arguments import at_least, positive

from qwq import api
from qwq.cli.commands import split_overrides
from qwq.common.run_folder import RunFolder
from qwq.config import load_recipe, parse_value
from qwq.distill.run import DistillPlan, TeacherSampling, distill
from qwq.errors import ConfigError, Interrupted, QwqError
from qwq.model.config import preset
from qwq.report import plots
from qwq.rollout.policies.local import open_policy

RECIPES = Path(__file__).parents[1] / "recipes"
SIZES = {"0.9m": ("tiny", 1.5e-3), "3m": ("3m", 1e-3), "9m": ("9m", 8e-4), "18m": ("18m", 6e-4)}  # preset, lr
WITH_RL = ("0.9m", "3m")
DISTILLED = "3m"
SOURCES = ("math", "code", "instructions", "preference")  # answers with tools are no rows of distillation
RL = ("rl1", "rl2")


@dataclass(frozen=True, slots=True)
class Row:
    """A model after its last stage. Scores are shares; `half` is half of the interval's width."""

    size: str
    how: str
    parameters: int
    sampled: float
    half: float
    greedy: float
    flops: float
    seconds: float
    num_bytes: int


def mean_score(entries: Mapping[str, Mapping[str, Any]]) -> tuple[float, float]:
    """Mean of the domains, and half of its 95% interval."""
    scores = [(e["score"], e["n"]) for e in entries.values()]
    variance = sum(s * (1 - s) / n for s, n in scores) / len(scores) ** 2
    return sum(s for s, _ in scores) / len(scores), 1.96 * math.sqrt(variance)


def cost(folder: RunFolder, stages: Sequence[str], flops_per_token: int) -> float:
    """FLOPs of the stages, by the tokens that metrics.jsonl states."""
    total = 0.0
    for line in folder.metrics.read_text().splitlines():
        row = json.loads(line)
        if row["stage"] in stages:
            if row["stage"] in RL:
                total += row["tokens"] + 3 * row.get("fed_tokens", 0)
            else:
                total += 3 * row["tokens"]
    return total * flops_per_token


def row_of(runs: Path, name: str, size: str, how: str, stage: str) -> Row:
    """The model after `stage` of a run that is done that far."""
    folder = RunFolder(runs / name)
    results = folder.results()
    assert results is not None
    records = {record["name"]: record for record in results["stages"]}
    names = list(records)[: list(records).index(stage) + 1]
    config = preset(SIZES[size][0])
    sampled, half = mean_score(records[stage]["evals"])
    return Row(
        size, how, config.num_parameters, sampled, half, mean_score(records[stage]["evals_greedy"])[0],
        cost(folder, names, config.flops_per_token()), sum(records[n]["train_s"] for n in names),
        (folder.final(stage) / "model.safetensors").stat().st_size,
    )  # fmt: skip


def total(first: Row, *others: Row) -> Row:
    """`first` with the cost of what it was made from added."""
    flops, seconds = (sum(getattr(r, key) for r in (first, *others)) for key in ("flops", "seconds"))
    return Row(
        first.size, first.how, first.parameters, first.sampled, first.half, first.greedy, flops, seconds,
        first.num_bytes,
    )  # fmt: skip


def rows(runs: Path) -> list[Row]:
    """One row a model."""
    plain = {size: row_of(runs, f"announcement-{size}", size, "without RL", "sft") for size in SIZES}
    taught = [row_of(runs, f"announcement-{size}", size, "with RL", "rl2") for size in WITH_RL]
    best = max(taught, key=lambda r: r.sampled)
    student = row_of(runs, "distilled-3m", DISTILLED, f"distilled from {best.size} with RL", "sft")
    return [*plain.values(), *taught, total(student, plain[DISTILLED], best)]


def table(made: Sequence[Row]) -> str:
    head = "| model | parameters | how | sampled | greedy | FLOPs | seconds | MB |\n|---|---|---|---|---|---|---|---|"
    lines = [
        f"| {r.size} | {r.parameters:,} | {r.how} | {100 * r.sampled:.1f} ± {100 * r.half:.1f} | {100 * r.greedy:.1f} "
        f"| {r.flops:.2g} | {r.seconds:.0f} | {r.num_bytes / 1e6:.1f} |"
        for r in made
    ]
    return "\n".join([head, *lines])


def plot(made: Sequence[Row]) -> str:
    """Score against parameters, as SVG."""
    fig, ax = plots.figure("announcement", height=3.2, width=4.6)
    for how, colour in (("without RL", "#d55e00"), ("with RL", "#0072b2"), ("distilled", "#009e73")):
        points = [r for r in made if r.how.startswith(how)]
        x, y, half = ([getattr(r, k) for r in points] for k in ("parameters", "sampled", "half"))
        ax.errorbar(
            x, [100 * v for v in y], yerr=[100 * v for v in half], color=colour, marker="o", capsize=2, label=how
        )
    ax.set_xscale("log")
    ax.set_xlabel("parameters")
    ax.set_ylabel("% right, mean of five domains")
    ax.legend(frameon=False, fontsize=9)
    return plots.svg(fig, "score against parameters, with and without RL")


def read_stages(recipe: str) -> list[str]:
    return list(tomllib.loads((RECIPES / f"{recipe}.toml").read_text())["stages"])


class Pieces:
    """Runs recipes until the time is over."""

    def __init__(self, runs: Path, given: Mapping[str, Any], minutes: float | None) -> None:
        self.runs, self.given = runs, given
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    def train(self, recipe: str, overrides: Mapping[str, Any], until: str | None = None) -> None:
        """Continue a run to the end of `until`, or to its end."""
        loaded = load_recipe(RECIPES / f"{recipe}.toml", dict(overrides))
        known = {k: v for k, v in self.given.items() if k.split(".")[0] != "stages" or k.split(".")[1] in loaded.stages}
        loaded = load_recipe(RECIPES / f"{recipe}.toml", {**known, **overrides})
        left = None if self.end is None else max(0.01, (self.end - time.monotonic()) / 60)
        print(f"== {loaded.run_name}{f' until {until}' if until else ''}", file=sys.stderr, flush=True)
        api.train(loaded, runs=self.runs, until=until, max_minutes=left, progress=True, command="the same command")


def run_all(pieces: Pieces, problems: int, samples: int) -> None:
    for size, (shape, lr) in SIZES.items():
        named = {"name": f"announcement-{size}", "model.preset": shape, "stages.pretrain.optim.lr": lr}
        pieces.train("announcement", named, None if size in WITH_RL else "sft")
    runs, out = pieces.runs, pieces.runs / "announcement" / "distilled.jsonl"
    taught = [row_of(runs, f"announcement-{size}", size, "", "rl2") for size in WITH_RL]
    best = max(taught, key=lambda r: r.sampled)
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        teacher = open_policy(str(RunFolder(runs / f"announcement-{best.size}").final("rl2")), max_new_tokens=128)
        try:
            sampling = TeacherSampling(1.0, 1.0, 128)
            distill(DistillPlan(SOURCES, num=problems, samples=samples), teacher, sampling, out)
        finally:
            teacher.close()
    start = RunFolder(runs / f"announcement-{DISTILLED}").final("sft")
    pieces.train("distilled-3m", {"model.path": str(start), "stages.sft.path": str(out)})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--max-minutes", type=positive, help="stop after so many minutes, state saved")
    parser.add_argument("--problems", type=at_least(1), default=1000, help="of each domain to distil")
    parser.add_argument("--samples", type=at_least(1), default=2, help="answers of the teacher to each")
    try:
        options, keys = split_overrides(sys.argv[1:])
    except ConfigError as error:
        parser.error(str(error))
    args, given = parser.parse_args(options), {key: parse_value(text) for key, text in keys.items()}
    known = {name for recipe in ("announcement", "distilled-3m") for name in read_stages(recipe)}
    for key in given:
        section, _, rest = key.partition(".")
        if section == "stages" and rest.partition(".")[0] not in known:
            parser.error(f"--{key}: no recipe here has this stage, they have {', '.join(sorted(known))}")
    if "name" in given:
        parser.error(f"--name={given['name']}: the runs have names of their own; --runs DIR puts them elsewhere")
    try:
        run_all(Pieces(args.runs, given, args.max_minutes), args.problems, args.samples)
    except QwqError as error:
        print(error if isinstance(error, Interrupted) else f"error: {error}", file=sys.stderr)
        return error.exit_status
    made = rows(args.runs)
    out = args.runs / "announcement"
    (out / "table.md").write_text(table(made) + "\n", encoding="utf-8")
    (out / "plot.svg").write_text(plot(made), encoding="utf-8")
    print(table(made))
    ours = max((r for r in made if r.how == "with RL"), key=lambda r: r.sampled)
    theirs = max((r for r in made if r.how == "without RL"), key=lambda r: r.parameters)
    name = f"announcement: {ours.size} with RL beside {theirs.size} without"
    print(
        json.dumps(
            {"name": name, "ours": ours.sampled, "theirs": theirs.sampled, "ratio": ours.sampled / theirs.sampled}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
