"""A recipe run for a user: `qwq train` and `qwq.train` are this function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwq.cluster.place import place_of
from qwq.cluster.world import join
from qwq.common.files import writing_to
from qwq.common.run_folder import RunFolder
from qwq.config import ClusterSection, Recipe
from qwq.errors import DataError
from qwq.pipeline.progress import LiveProgress
from qwq.pipeline.run import RecipeRun
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

    In a process that a launcher has started (`cluster.place`) it takes part in the run of all of
    them, and the first one alone shows progress and writes.
    """
    place = place_of()
    if place and recipe.cluster is None:
        recipe = recipe.model_copy(update={"cluster": ClusterSection(processes=place.size, shards=max(8, place.size))})
    stop = StopFlag(after_s=None if max_minutes is None else 60 * max_minutes)
    leads = place is None or place.rank == 0
    with (
        _shown(recipe, runs, progress and leads) as shown,
        stop.on_signals(),
        join(recipe.cluster, place, recipe.compute.device) as world,
    ):
        run = RecipeRun(recipe, runs, progress=shown, stop=stop, command=command, world=world)
        results = run.run(until=until, fresh=fresh)
        from qwq.pipeline.run_report import write_report  # matplotlib, which a run needs at its end alone

        with writing_to(run.folder):
            world.alone(lambda: str(write_report(run.folder)))
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
