"""One recipe from start to end: stages in order, evaluation after each, everything in the run's
folder.

What is finished is never done again: a stage leaves `stages/NAME.json` and its `final` folder
behind, and a run asked for again continues after the last of them.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from qwq.cluster.world import RankWorld
from qwq.common.cpu import has_bfloat16
from qwq.common.files import write_atomic, writing_to
from qwq.common.run_folder import RunFolder, size_of
from qwq.config import START, Recipe, dump_recipe
from qwq.errors import ConfigError, Interrupted
from qwq.pipeline.benchmarks import StageEvaluation
from qwq.pipeline.check import check_capacity, check_run
from qwq.pipeline.inputs import RunInputs
from qwq.pipeline.job import StageJob
from qwq.pipeline.models import RunModels
from qwq.pipeline.same_recipe import check_same_recipe
from qwq.pipeline.stage import Stage, StageResult, stage_of
from qwq.pipeline.trackers import TrackedProgress
from qwq.text.template import ChatFormat
from qwq.train.checkpoint import Progress, StageRun, StopFlag

_log = logging.getLogger(__name__)


class RecipeRun:
    """One run of one recipe, in `runs/NAME` (seed 0) or `runs/NAME-sSEED`."""

    def __init__(
        self,
        recipe: Recipe,
        runs: Path,
        *,
        progress: Progress | None = None,
        stop: StopFlag | None = None,
        command: str = "",
        world: RankWorld | None = None,
    ):
        self.recipe, self.folder = recipe, runs / recipe.run_name
        self.files = RunFolder(self.folder)
        self.world = world or RankWorld(recipe.cluster)
        self.progress, self.stop = (progress if self.world.leads else None) or Progress(), stop or StopFlag()
        if recipe.report_to and self.world.leads:
            self.progress = TrackedProgress(recipe, self.folder, self.progress)
        self.command = command or "run the same command again"
        self.inputs = RunInputs(recipe, self.files)
        self.models = RunModels(recipe, self.files, self.progress.note, self.world)
        self.evaluation = StageEvaluation(self.inputs, self.files, self.progress.note, self._check_stop)

    # -- the run's folder --------------------------------------------------------------------------

    def run(self, *, until: str | None = None, fresh: bool = False) -> dict[str, Any]:
        """Run what is not done yet, up to and including stage `until`; returns what results.json
        holds.

        With several processes every one calls it, and the first alone writes the run's folder,
        which all of them have to see.
        """
        if until is not None and until not in self.recipe.stages:
            raise ConfigError(f"--until {until}: the recipe's stages are {', '.join(self.recipe.stages)}")
        if (cluster := self.recipe.compute.cluster) and cluster.gpus > 1:
            raise ConfigError(
                f"{self.recipe.name} is planned for {cluster.gpus} GPUs and `qwq train` runs on one device: `qwq "
                "explain` prints the plan; without [compute.cluster] the recipe runs here, if it fits"
            )
        with writing_to(self.folder), ExitStack() as held:
            held.callback(self.progress.end)
            self._set_up_torch()
            finished = self.world.alone(lambda: self._take_folder(held, until, fresh))
            if finished:
                return finished
            self._check_shared()
            if self.recipe.eval.start and not self._has_record(START):
                self.world.alone(self._read_start)
            for name in self.recipe.stages:
                if not self._has_record(name):
                    self._stage(name)
                if name == until:
                    break
            return self.world.alone(self._write_results)

    def _take_folder(self, held: ExitStack, until: str | None, fresh: bool) -> dict[str, Any] | None:
        """Lock the run's folder, check what is to run, and write the recipe and a preset's
        tokenizer; what results.json holds where all is done.
        """
        if self.folder.is_dir():
            held.enter_context(self.files.lock())
        if not fresh:
            check_same_recipe(self.files, self.recipe)
            if (finished := self.files.results()) and finished["finished"]:
                return finished
        self.check(until, fresh=fresh)  # from here on the run's folder is touched
        if fresh and (old := self.files.move_aside()):
            self.progress.note(
                f"the run before is kept in {old} ({size_of(old) / 2**20:,.0f} MiB): delete it when it is no "
                "longer needed"
            )
        if not self.folder.is_dir():
            held.enter_context(self.files.lock())
        write_atomic(self.files.recipe_file, dump_recipe(self.recipe))
        if self.world.size > 1:
            self.models.chat()
        return None

    def _check_shared(self) -> None:
        """ConfigError where this process does not see what the first has written."""
        if not self.files.recipe_file.is_file():
            raise ConfigError(
                f"process {self.world.rank} of {self.world.size} finds no {self.files.recipe_file}, which the first "
                "one has written: give --runs a folder that all hosts share"
            )

    def _has_record(self, name: str) -> bool:
        return self.world.agree(self.world.leads and self.files.record(name) is not None)

    def _set_up_torch(self) -> None:
        compute = self.recipe.compute
        torch.set_num_threads(self.world.threads(compute.threads))
        if compute.device == "cpu" and compute.dtype == "bfloat16" and not has_bfloat16():
            _log.warning(
                "compute.dtype is bfloat16, and this CPU is not known to have instructions for it (avx512_bf16, "
                "amx_bf16): without them float32 is faster"
            )

    def check(self, until: str | None = None, *, fresh: bool = False, machine: bool = True) -> None:
        """Read and check what the stages that are left need, up to and including `until`; with
        `fresh` none counts as done. Nothing is written.

        Without `machine` neither device nor memory is looked at: the plan may be for another one.
        """
        names = list(self.recipe.stages)
        left = [
            name
            for name in names[: None if until is None else names.index(until) + 1]
            if fresh or not self.files.record(name)
        ]
        for note in check_run(self.inputs, left, fresh=fresh, machine=machine):
            self.progress.note(note)

    def _write_results(self) -> dict[str, Any]:
        records = [r for name in self.recipe.stages if (r := self.files.record(name))]
        results = {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "device": self.recipe.compute.device,
            "wall_s": round(sum(r["wall_s"] for r in records), 1),
            "finished": len(records) == len(self.recipe.stages),
            "stages": records,
        }
        if start := self.files.record(START):
            results |= {"start": start, "wall_s": round(results["wall_s"] + start["wall_s"], 1)}
        self.files.keep_results(results)
        return results

    # -- stages ------------------------------------------------------------------------------------

    def _stage(self, name: str) -> None:
        stage, chat = stage_of(self.recipe, name), self.models.chat()
        if self.world.leads:
            check_capacity(self.recipe, name, self.files, self.inputs.use_of(name), self.world.local_size)
        run = StageRun(
            self.folder, name, stage.kind, progress=self.progress, stop=self.stop, resume_hint=self.command,
            interval_s=self.recipe.compute.checkpoint_interval_s,
            background=self.recipe.compute.background_checkpoints, world=self.world,
        )  # fmt: skip
        torch.manual_seed(self.recipe.seed)
        result = stage.run(StageJob(self.recipe, name, chat, self.models, self.inputs, run, self.files.record))
        self.world.alone(lambda: self._keep(name, stage, chat, run, result))
        run.clear()
        later = list(self.recipe.stages)[list(self.recipe.stages).index(name) + 1 :]
        if not any(self.recipe.stages[other].data_owner(other) == name for other in later):
            self.inputs.own.pop(name, None)

    def _keep(self, name: str, stage: Stage, chat: ChatFormat, run: StageRun, result: StageResult) -> None:
        """Evaluate what a stage has left, and write its record."""
        record: dict[str, Any] = {"name": name, "kind": stage.kind, "train_s": round(run.state.seconds, 2)}
        record |= {"steps": run.state.step, "evals": result.evals, "evals_greedy": {}} | result.record
        record |= {"data": run.state.data} if run.state.data else {}
        started = time.perf_counter()
        if stage.evaluate and result.policy is not None:
            record |= self.evaluation.read(name, result.policy, chat)
        record["wall_s"] = round(run.state.seconds + time.perf_counter() - started, 2)
        self.files.keep_record(name, record)

    def _read_start(self) -> None:
        """The benchmarks of the checkpoint that the recipe starts from."""
        began, chat = time.perf_counter(), self.models.chat()
        first = next(iter(self.recipe.stages))
        evals = self.evaluation.read(START, self.models.start_of(first, chat), chat)
        record = {"name": START, "kind": START, "evals": {}, "evals_greedy": {}} | evals
        self.files.keep_record(START, record | {"wall_s": round(time.perf_counter() - began, 2)})

    def _check_stop(self, name: str) -> None:
        if self.stop.raised:
            saved = "" if name == START else ", its training is saved"
            raise Interrupted(
                f"stopped before the evaluation of {'the start' if name == START else f'stage {name}'}{saved}: "
                f"{self.command}"
            )
