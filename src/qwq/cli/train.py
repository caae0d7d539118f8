"""`qwq train`: runs a recipe with live progress, then prints its table and says where everything
is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwq.common.files import writing_to
from qwq.common.run_folder import RunFolder
from qwq.config import Recipe
from qwq.errors import DataError
from qwq.pipeline.progress import LiveProgress
from qwq.pipeline.run import RecipeRun
from qwq.pipeline.run_report import write_report
from qwq.pipeline.table import contract_lines, paired_columns, table
from qwq.train.checkpoint import StopFlag


def train_recipe(
    recipe: Recipe, runs: Path, *, until: str | None, fresh: bool, command: str, max_minutes: float | None = None
) -> None:
    """Run what is not done yet, write the report, print the table. After `max_minutes` it stops as
    Ctrl-C would.
    """
    stop = StopFlag(after_s=None if max_minutes is None else 60 * max_minutes)
    with LiveProgress(expected_s=expected_seconds(recipe, runs)) as progress:
        run = RecipeRun(recipe, runs, progress=progress, stop=stop, command=command)
        before = None if fresh else run.files.results()
        stop.install()
        results = run.run(until=until, fresh=fresh)
    if before and before["finished"]:
        print(f"{run.folder} was finished before; --fresh starts it anew and keeps this one beside it", file=sys.stderr)
    with writing_to(run.folder):
        path = write_report(run.folder)
    print(format_results(results))
    print(f"\nresults  {run.files.results_file}\nreport   {path}")
    if results["finished"]:
        scorer = not any(run.recipe.stages[stage["name"]].trains_policy for stage in results["stages"])
        print(f"score    qwq reward score FILE --model {run.folder}" if scorer else f"talk     qwq chat {run.folder}")
    else:
        print(f"go on    {command}" if until is None else f"go on    {_without_until(command, until)}")


def check_recipe(recipe: Recipe, runs: Path, *, until: str | None, fresh: bool) -> None:
    """Read and check what the recipe needs, but for the machine, and write nothing."""
    RecipeRun(recipe, runs).check(until, fresh=fresh, machine=False)


def _without_until(command: str, until: str) -> str:
    return command.replace(f" --until {until}", "")


def expected_seconds(recipe: Recipe, runs: Path) -> dict[str, float]:
    """Seconds of each stage as another seed of the same recipe took them; empty where there is no
    such run.
    """
    for folder in sorted(runs.glob(f"{recipe.name}*/")):
        if folder.name == recipe.run_name:
            continue
        try:
            results = RunFolder(folder).results()
        except DataError:
            continue  # another run's damage, which does not matter here
        if results and results["recipe"] == recipe.name and results["finished"]:
            return {s["name"]: s["wall_s"] for s in results["stages"]}
    return {}


def format_results(results: Mapping[str, Any]) -> str:
    """The table by stage and the paired changes, as aligned text."""
    header, rows = table(results)
    text = align([list(header), *rows])
    if paired := paired_columns(results):
        text += "\n\nchange in points, problem by problem, with its 95% interval\n" + align(
            [_cells(line) for line in paired]
        )
    if lines := contract_lines(results):
        text += "\n\n" + "\n".join(lines)
    return "scores in percent, sampled at T=1 (greedy in brackets)\n" + text


def _cells(line: str) -> list[str]:
    """`rl1 math +12.1 [+9.0, +15.2] against sft` as five cells."""
    start, _, against = line.partition("] ")
    return [*f"{start}]".split(" ", 3), against]


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: the first to the left, the others to the right unless they are
    last.
    """
    widths = [max(len(row[i]) if i < len(row) else 0 for row in rows) for i in range(max(map(len, rows)))]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=False))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
