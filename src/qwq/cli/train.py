"""`qwq train`: runs a recipe with live progress, then prints its table and says where everything
is.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwq import api
from qwq.common.run_folder import RunFolder
from qwq.config import Recipe
from qwq.pipeline.run import RecipeRun
from qwq.pipeline.table import contract_lines, paired_columns, table


def train_recipe(
    recipe: Recipe, runs: Path, *, until: str | None, fresh: bool, command: str, max_minutes: float | None = None
) -> None:
    """`qwq.train` with progress on standard error; then the table, and where everything is."""
    folder = RunFolder(runs / recipe.run_name)
    before = None if fresh else folder.results()
    results = api.train(
        recipe, runs=runs, until=until, fresh=fresh, max_minutes=max_minutes, progress=True, command=command
    )
    if before and before["finished"]:
        print(f"{folder} was finished before; --fresh starts it over and keeps this one beside it", file=sys.stderr)
    print(format_results(results))
    print(f"\nresults  {folder.results_file}\nreport   {folder.report}")
    if results["finished"]:
        scorer = not any(recipe.stages[stage["name"]].trains_policy for stage in results["stages"])
        place = shlex.quote(str(folder))
        print(f"score    qwq reward score FILE --model {place}" if scorer else f"talk     qwq chat {place}")
    else:
        print(f"resume   {command}" if until is None else f"resume   {_without_until(command, until)}")


def check_recipe(recipe: Recipe, runs: Path, *, until: str | None, fresh: bool) -> None:
    """Read and check what the recipe needs, but for the machine, and write nothing."""
    RecipeRun(recipe, runs).check(until, fresh=fresh, machine=False)


def _without_until(command: str, until: str) -> str:
    return command.replace(f" --until {shlex.quote(until)}", "")


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
