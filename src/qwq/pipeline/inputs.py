"""What a run reads from outside: problem sets, files of conversations and pairs, reward functions.

Each is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwq.common.run_folder import RunFolder
from qwq.config import CustomReward, Recipe, Source
from qwq.data.examples import FileUse
from qwq.errors import ConfigError
from qwq.reward.functions import RewardFunction, load_function
from qwq.tasks.registry import get
from qwq.tasks.sources import load_source, task_of
from qwq.types import Problem


class RunInputs:
    """The inputs of one recipe, each read once. `folder` is the run's."""

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self.recipe, self.folder = recipe, folder
        self.own: dict[str, Any] = {}  # by stage, what `Stage.read_data` made of its own file
        self._benchmarks: dict[str, list[Problem]] = {}
        self._functions: dict[tuple[str, ...], list[RewardFunction]] = {}
        self._sources: dict[str, tuple[list[Problem], FileUse]] = {}

    def functions(self, specs: Sequence[CustomReward]) -> list[RewardFunction]:
        """The user's own reward functions."""
        key = tuple(spec.model_dump_json() for spec in specs)
        if key not in self._functions:
            self._functions[key] = [load_function(f.function, f.style, f.weight) for f in specs]
        return self._functions[key]

    def problems_of(self, source: Source) -> tuple[list[Problem], FileUse]:
        """The problems of a source, and what became of its rows."""
        key = source.model_dump_json(exclude={"weight"})
        if key not in self._sources:
            use = FileUse(source.path, noun="problems")
            self._sources[key] = load_source(source, use), use
        return self._sources[key]

    def benchmarks(self) -> dict[str, list[Problem]]:
        """The recipe's benchmarks by the names they have in results."""
        if not self._benchmarks:
            for name, num in self.recipe.eval.counts().items():
                problems = get(name).fixed("test", num)
                if len(problems) < num:
                    raise ConfigError(
                        f"eval.{name} is {num:,}, and the task has {len(problems):,} test problems: lower the number"
                    )
                self._benchmarks[self._new_name(get(name).label)] = problems
            for source in self.recipe.eval.sources:
                label = task_of(source).label if source.kind == "task" else source.kind
                self._benchmarks[self._new_name(label)] = self.problems_of(source)[0]
        return self._benchmarks

    def _new_name(self, label: str) -> str:
        """What results call a benchmark: its label, if no other one has it."""
        names = (label, f"{label}-real", *(f"{label}-real-{i}" for i in range(2, 99)))
        return next(name for name in names if name not in self._benchmarks)

    def use_of(self, name: str) -> FileUse | None:
        """What became of the rows of a stage's own file, where it was read."""
        made = self.own.get(self.recipe.stages[name].data_owner(name))
        return made.use if made else None
