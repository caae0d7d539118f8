"""What a run reads from outside: problem sets, files of conversations and pairs, reward functions. Each is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwq.common.run_folder import RunFolder
from qwq.config import Function, Recipe, Source
from qwq.data.examples import FileUse
from qwq.reward.functions import RewardFunction, load_function
from qwq.tasks.procedural import family
from qwq.tasks.sources import load_source
from qwq.types import Problem


class RunInputs:
    """The inputs of one recipe, each read once. `folder` is the run's."""

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self.recipe, self.folder = recipe, folder
        self.own: dict[str, Any] = {}  # by stage, what `Stage.read_data` made of its own file
        self._benchmarks: dict[str, list[Problem]] = {}
        self._functions: dict[tuple[str, ...], list[RewardFunction]] = {}
        self._sources: dict[str, tuple[list[Problem], FileUse]] = {}

    def functions(self, specs: Sequence[Function]) -> list[RewardFunction]:
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
            self._benchmarks = {d: family(d).fixed("test", n) for d, n in self.recipe.eval.counts().items()}
            for source in self.recipe.eval.sources:
                problems, _ = self.problems_of(source)
                label = problems[0].domain if source.kind == "task" else source.kind
                names = (label, f"{label}-real", *(f"{label}-real-{i}" for i in range(2, 99)))
                self._benchmarks[next(name for name in names if name not in self._benchmarks)] = problems
        return self._benchmarks

    def use_of(self, name: str) -> FileUse | None:
        """What became of the rows of a stage's own file, where it was read."""
        made = self.own.get(self.recipe.stages[name].data_owner(name))
        return made.use if made else None
