"""What a run reads from outside: problem sets, files of conversations and pairs, reward functions, losses, the model folder.

`check` reads all that the stages left to run need and raises for the first thing that is wrong, before anything is written, moved,
downloaded as weights, or trained. What it has read is kept, so that the stages read nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from qwq.common.memory import check_device
from qwq.config import ControlStage, PairsStage, Recipe, RewardModelStage, Rl2Stage, RlStage, SftStage, Source
from qwq.data.examples import FileUse
from qwq.envs.base import environment_class
from qwq.errors import ConfigError, DataError
from qwq.model.config import ModelConfig
from qwq.model.weights import check_model
from qwq.pipeline.plan import check_capacity, model_config, position_notes
from qwq.pipeline.preflight import chat_format, check_lengths, missing_files, own_data, require_files
from qwq.reward.functions import RewardFunction, load_function
from qwq.tasks.mix import allot
from qwq.tasks.procedural import family
from qwq.tasks.sets import load_source
from qwq.text.template import ChatFormat
from qwq.train.contract import can_breach
from qwq.train.losses.advantages import load_advantage
from qwq.train.losses.base import load_loss
from qwq.train.reward_model import make_pairs
from qwq.train.supervised import sft_documents
from qwq.types import Problem

Tell = Callable[[FileUse], None]


class RunInputs:
    """The inputs of one recipe, each read once. `folder` is the run's."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.own: dict[str, Any] = {}  # what SFT and reward-model stages make of files of their own
        self._benchmarks: dict[str, list[Problem]] = {}
        self._functions: dict[str, list[RewardFunction]] = {}
        self._sources: dict[str, tuple[list[Problem], FileUse]] = {}

    # -- checking ---------------------------------------------------------------------------------------------------

    def check(self, left: Sequence[str], *, fresh: bool = False, machine: bool = True) -> list[str]:
        """Read and check what the stages `left` need; returns what a user should know besides. UsageError for what is wrong; nothing is written.

        With `fresh` the run's folder is not that of the run to come. Without `machine` neither device nor memory is looked at.
        """
        recipe = self.recipe
        evaluates = recipe.eval.start or any(
            s.evaluate and not isinstance(s, RewardModelStage) for s in map(recipe.stages.__getitem__, left)
        )
        if machine:
            check_device(recipe.compute.device)
        require_files(missing_files(recipe, left, evaluation=evaluates))
        config = model_config(recipe)
        check_lengths(recipe, config, left)
        notes: list[str] = []
        for name in left:
            if isinstance(stage := recipe.stages[name], RlStage):
                load_loss(stage.loss)
                load_advantage(stage.advantage)
                if stage.environment:
                    environment_class(stage.environment)
                self.functions(name)
                self.pools(stage)
                if isinstance(stage, Rl2Stage):
                    notes += [
                        f"{name}: the contract measures {held} on {len(rows):,} problems, {stage.contract.problems:,} are asked for: more are not held out"
                        for held, rows in self.held(stage).items()
                        if len(rows) < stage.contract.problems
                    ]
        if evaluates:
            self.benchmarks()
        # A plan by `shape` needs neither the hub nor the network.
        if machine or not recipe.model.shape or Path(recipe.model.path or "").expanduser().exists():
            self._check_model_and_own_data(left, config, fresh)
        if not machine:
            return []
        for name in left:
            check_capacity(recipe, name, self.folder, self.use_of(name))
        return notes + position_notes(recipe, config, left)

    def _check_model_and_own_data(self, left: Sequence[str], config: ModelConfig, fresh: bool) -> None:
        """The model folder as far as its headers go, tokenizer and template, and the files of conversations and pairs, in tokens."""
        own = [name for name in own_data(self.recipe, left) if name not in self.own]
        if self.recipe.model.preset and not own:
            return  # the tokenizer of a preset is trained when the run begins
        chat = chat_format(self.recipe, None if fresh else self.folder / "tokenizer")
        if self.recipe.model.path:
            config = check_model(self.recipe.model.path)
            chat.tokenizer.check_fits(config)
            self._check_template(chat, left)
        for name in own:
            stage = self.recipe.stages[name]
            if isinstance(stage, SftStage):
                self.own[name] = sft_documents(chat, stage, name, self.recipe.seed, max_positions=config.max_positions)
            elif isinstance(stage, PairsStage):
                self.own[name] = make_pairs(chat, stage, self.recipe.seed, max_positions=config.max_positions)

    def _check_template(self, chat: ChatFormat, left: Iterable[str]) -> None:
        """That the chat template writes a prompt of each kind that the RL stages draw, and continues after a tool's result where there are tools."""
        for stage in (self.recipe.stages[name] for name in left):
            if isinstance(stage, RlStage):
                pools, _ = self.pools(stage)
                for problem in [family(d).problem(0, "train", 0) for d in stage.mix.weights()] + [
                    problems[0] for _, problems in pools.values()
                ]:
                    chat.prompt_ids(problem.messages, problem.tools)
                    if problem.tools:
                        chat.tool_result_ids(["1"])

    # -- reading ----------------------------------------------------------------------------------------------------

    def functions(self, name: str) -> list[RewardFunction]:
        """The user's own reward functions of RL stage `name`."""
        if name not in self._functions:
            stage = self.recipe.stages[name]
            assert isinstance(stage, RlStage)
            self._functions[name] = [load_function(f.function, f.style, f.weight) for f in stage.rewards]
        return self._functions[name]

    def pools(
        self, stage: RlStage, tell: Tell | None = None
    ) -> tuple[dict[str, tuple[float, list[Problem]]], dict[str, list[Problem]]]:
        """Training problems of each source with its weight, and validation problems of each where the stage looks at them.

        `tell` hears what became of each source's rows.
        """
        pools: dict[str, tuple[float, list[Problem]]] = {}
        watched: dict[str, list[Problem]] = {}
        for source in stage.sources:
            name = source.label
            problems, use = self.problems_of(source)
            pools[name] = (source.weight, problems)
            if tell and use.rows:
                tell(use)
            if stage.validation.every:
                watched[name] = self.held_out(stage, source)[: stage.validation.problems]
        return pools, watched

    def held(self, stage: Rl2Stage) -> dict[str, list[Problem]]:
        """Validation problems that the contract of `stage` looks at, by what it holds: `contract.problems` of each, shared evenly by the families
        and sources that replay it. Preference, whose hidden rule watches the reward model, is looked at where it is trained on.
        """
        num, sources = stage.contract.problems, {s.label: s for s in stage.sources}
        watched: dict[str, list[Problem]] = {}
        for held, labels in stage.replays().items():
            try:
                rows = {label: self.held_out(stage, sources[label]) for label in labels if label in sources}
            except DataError as error:
                raise DataError(
                    f"{error}; the contract measures {held} on such rows: bring some, or leave {held} out of contract.domains"
                ) from None
            given = allot(num, [len(rows[label]) if label in rows else num for label in labels])
            watched[held] = [
                p
                for label, n in zip(labels, given, strict=True)
                if n
                for p in (rows[label][:n] if label in rows else family(label).fixed("validation", n))
            ]
        for held, problems in watched.items():
            if not can_breach(stage.contract, len(problems)):
                raise ConfigError(
                    f"the contract measures {held} on {len(problems)} problems ({num} are asked for): even the loss of all of them would be no breach beyond "
                    f"{stage.contract.max_drop:.0%}; bring a file with more rows to hold out, add the family to mix, or leave {held} out of contract.domains"
                )
        if stage.mix.preference and "preference" not in watched:
            watched["preference"] = family("preference").fixed("validation", num)
        return watched

    def held_out(self, stage: RlStage, source: Source) -> list[Problem]:
        """The validation problems of one of the stage's sources, without those that the stage trains on. ConfigError where that leaves none."""
        rows, _ = self.problems_of(source.model_copy(update={"split": "validation", "limit": None}))
        trained = {p.canonical for s in stage.sources for p in self.problems_of(s)[0]}
        kept = [p for p in rows if p.canonical not in trained]
        if not kept:
            raise ConfigError(
                f'source {source.label}: all of its validation rows are trained on as well, so nothing can be measured on them: set split = "train"'
            )
        return kept

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
        stage = self.recipe.stages[name]
        made = self.own.get(stage.of if isinstance(stage, ControlStage) else name)
        return made.use if made else None
