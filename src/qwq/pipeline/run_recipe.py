"""A recipe run for a user: `qwq train` and `qwq.train` are this function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwq.common.files import writing_to
from qwq.common.run_folder import RunFolder
from qwq.config import Recipe
from qwq.errors import DataError
from qwq.pipeline.progress import LiveProgress
from qwq.pipeline.run import RecipeRun
from qwq.pipeline.run_report import write_report
from qwq.train.checkpoint import Progress, StopFlag


def run_recipe(
    recipe: Recipe,
    runs: Path,
    *,
    until: str | None,
    fresh: bool,
    max_minutes: float | None,
    progress: bool,
    command: str,
) -> dict[str, Any]:
    """Run what is not done yet and write the report; what results.json holds.

    Ctrl-C, SIGTERM and `max_minutes` stop it after the step, state saved: Interrupted, which names
    `command` as the way to resume.
    """
    stop = StopFlag(after_s=None if max_minutes is None else 60 * max_minutes)
    with _shown(recipe, runs, progress) as shown, stop.on_signals():
        run = RecipeRun(recipe, runs, progress=shown, stop=stop, command=command)
        results = run.run(until=until, fresh=fresh)
    with writing_to(run.folder):
        write_report(run.folder)
    return results


@contextmanager
def _shown(recipe: Recipe, runs: Path, progress: bool) -> Iterator[Progress]:
    """Progress on standard error, or none."""
    if not progress:
        yield Progress()
        return
    with LiveProgress(expected_s=_expected_seconds(recipe, runs)) as shown:
        yield shown


def _expected_seconds(recipe: Recipe, runs: Path) -> dict[str, float]:
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
