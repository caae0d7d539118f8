"""The folder of a run of a recipe: where each of its files is, and what of it is whole.

    recipe.toml             the resolved recipe            metrics.jsonl          one line a step
    rollouts/STAGE/         one file a step of RL          tokenizer/             a preset's own
    checkpoints/STAGE/      step-N while it trains, then final (and adapter)
    stages/STAGE.json       the record of a finished stage, written last: a stage with a record is done
    evals/STAGE/            answers and outcomes of each reading of the benchmarks
    results.json            all records                    report.html            the page
    fleet/STAGE/            events of the engines that sample it, and the groups of the step under way
    cluster/                processes that `qwq cluster up` started, and their output
    .lock                   held by the process that writes
    trackers/               what `report_to` writes here   .look.index            what `qwq look` keeps

These names are a contract: other programs read them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from qwq.common import files
from qwq.common.files import locked, read_record, write_atomic
from qwq.common.jsonl import without_nonfinite

LOCK = ".lock"


class RunFolder:
    """The folder `path` of a run, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    # -- places ------------------------------------------------------------------------------------

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def results_file(self) -> Path:
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def all_rollouts(self) -> Path:
        return self.path / "rollouts"

    def rollouts(self, stage: str) -> Path:
        return self.all_rollouts / stage

    def fleet(self, stage: str) -> Path:
        return self.path / "fleet" / stage

    @property
    def cluster(self) -> Path:
        return self.path / "cluster"

    @property
    def evals(self) -> Path:
        return self.path / "evals"

    def checkpoints(self, stage: str) -> Path:
        return self.path / "checkpoints" / stage

    def final(self, stage: str) -> Path:
        """The stage's result as a model folder."""
        return self.checkpoints(stage) / "final"

    def finals(self) -> list[Path]:
        """The model folders of all stages that have one."""
        return sorted(self.path.glob("checkpoints/*/final"))

    def adapter(self, stage: str) -> Path:
        return self.checkpoints(stage) / "adapter"

    def record_file(self, stage: str) -> Path:
        return self.path / "stages" / f"{stage}.json"

    def answers(self, stage: str, reading: str) -> Path:
        """Answers of one reading ("sampled" or "greedy") of the benchmarks after a stage, one a
        line.
        """
        return self.evals / stage / f"{reading}.jsonl"

    def outcomes_file(self, stage: str, reading: str) -> Path:
        return self.answers(stage, reading).with_suffix(".passed.json")

    # -- contents ----------------------------------------------------------------------------------

    @property
    def holds_a_run(self) -> bool:
        return self.recipe_file.is_file()

    def recipe(self) -> dict[str, Any]:
        """The tables of recipe.toml as they are there. DataError if it is damaged."""
        return read_record(self.recipe_file)

    def record(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage left; None for one that is not finished.

        DataError if it is damaged.
        """
        path = self.record_file(stage)
        return read_record(path) if path.exists() else None

    def keep_record(self, stage: str, record: Mapping[str, Any]) -> None:
        """Write a finished stage's record.

        NaN and infinity become null, and an alarm names their fields.
        """
        self.record_file(stage).parent.mkdir(exist_ok=True)
        finite, missing = without_nonfinite(record)
        if missing:
            finite["alarms"] = [*finite.get("alarms", []), f"not finite, written as null: {', '.join(missing)}"]
        write_atomic(self.record_file(stage), json.dumps(finite, allow_nan=False))

    def results(self) -> dict[str, Any] | None:
        return read_record(self.results_file) if self.results_file.exists() else None

    def keep_results(self, results: Mapping[str, Any]) -> None:
        write_atomic(self.results_file, json.dumps(without_nonfinite(results)[0], indent=1, allow_nan=False))

    def outcomes(self, stage: str, reading: str) -> dict[str, list[float]] | None:
        """1 or 0 for each problem, by benchmark; None where the stage was not evaluated."""
        path = self.outcomes_file(stage, reading)
        return read_record(path) if path.is_file() else None

    def keep_outcomes(self, stage: str, reading: str, outcomes: Mapping[str, list[float]]) -> None:
        write_atomic(self.outcomes_file(stage, reading), json.dumps(outcomes))

    def last_finished(self, fits: Callable[[str], bool]) -> str | None:
        """The last stage of the recipe that is finished and whose kind `fits`."""
        stages = self.recipe().get("stages", {})
        names = [name for name, stage in stages.items() if fits(stage.get("kind", ""))]
        # The record is written last, so it says that the checkpoint is the finished one.
        return next(
            (name for name in reversed(names) if (record := self.record(name)) and record["name"] == name), None
        )

    # -- as a whole --------------------------------------------------------------------------------

    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder, made where absent. ConfigError while another process does."""
        return locked(self.path, f"{self.path} is in use by another run: wait for it, or use another --seed")

    def move_aside(self) -> Path | None:
        """Rename it to NAME.1, or the next number that is free; None where it holds nothing.

        Nothing in it changes, and its lock goes along.
        """
        if not self.path.is_dir() or all(path.name == LOCK for path in self.path.iterdir()):
            return None
        return files.move_aside(self.path)

    def size(self) -> int:
        """Bytes of all files below it."""
        return size_of(self.path)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
