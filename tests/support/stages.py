"""Stages on their own: one stage's job without a recipe's whole run, and plans by the name of a
stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwq.common.memory import Memory
from qwq.common.run_folder import RunFolder
from qwq.config import Recipe, StageConfig
from qwq.model.config import ModelConfig
from qwq.pipeline.inputs import RunInputs
from qwq.pipeline.job import StageJob
from qwq.pipeline.models import RunModels
from qwq.pipeline.plan.counts import PlanContext, StagePlan
from qwq.pipeline.stage import stage_of
from qwq.train.checkpoint import StageRun


def stage_job(run: StageRun, stage: StageConfig, chat: Any = None, *, made: Any = None) -> StageJob:
    """The job of one stage of seed 0; `made` is what was made of its own file."""
    recipe = Recipe.model_construct(name="x", seed=0, stages={run.name: stage})
    inputs = RunInputs(recipe, RunFolder(Path("nowhere")))
    if made is not None:
        inputs.own[run.name] = made
    models = RunModels(recipe, RunFolder(Path("nowhere")), run.progress.note)
    return StageJob(recipe, run.name, chat, models, inputs, run, lambda name: None)


def stage_plan(recipe: Recipe, name: str, config: ModelConfig, use: Any = None) -> StagePlan:
    return stage_of(recipe, name).plan(PlanContext(recipe, name, config, use))


def stage_memory(recipe: Recipe, name: str, config: ModelConfig, use: Any = None) -> Memory:
    return stage_of(recipe, name).memory(PlanContext(recipe, name, config, use))
