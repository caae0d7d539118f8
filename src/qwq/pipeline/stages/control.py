"""The control: an SFT stage continued for as long as another stage trained, so that RL is compared
with more SFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pydantic import Field

from qwq.common.memory import Memory
from qwq.config import Lora, Positive, Recipe, Reference, register_stage
from qwq.pipeline.plan.counts import PlanContext, StagePlan, count
from qwq.pipeline.plan.machine import Machine
from qwq.pipeline.plan.minutes import Span
from qwq.pipeline.plan.peak import documents_phase, peak, training_base
from qwq.pipeline.stage import Stage, stage_of
from qwq.pipeline.stages.sft import SftStage
from qwq.report.view import Comparison, StageView

if TYPE_CHECKING:
    from qwq.model.transformer import Transformer
    from qwq.pipeline.job import StageJob


@register_stage("control")
class ControlStage(Stage):
    """The SFT stage continued on its own demonstrations for as long as another stage trained."""

    in_sequence: ClassVar[bool] = False

    of: str = Field("sft", description="SFT stage to continue")
    match: str = Field("rl1", description="stage whose training seconds to match")
    steps: Positive | None = Field(None, description="fixed number of steps instead of matching seconds")

    @classmethod
    def view(cls, config: Mapping[str, Any], record: Mapping[str, Any] | None) -> StageView:
        steps = config.get("steps")
        comparison = Comparison(config.get("match", "rl1"), "as many seconds" if steps is None else f"{steps} steps")
        return replace(super().view(config, record), comparison=comparison)

    @property
    def start(self) -> str:
        return self.start_from or self.of

    def references(self) -> list[Reference]:
        needs = "an sft stage, whose demonstrations it continues with"
        out = [*super().references(), Reference("of", self.of, lambda stage: isinstance(stage, SftStage), needs)]
        return out if self.steps is not None else [*out, Reference("match", self.match)]

    def data_owner(self, name: str) -> str:
        return self.of

    def _source(self, recipe: Recipe) -> SftStage:
        return cast(SftStage, recipe.stages[self.of])

    def adapters(self, recipe: Recipe) -> Lora | None:
        return self._source(recipe).lora

    def plan(self, context: PlanContext) -> StagePlan:
        if self.steps is None:
            return StagePlan(None, f"{self.of} continues for as long as {self.match} trained", None, None)
        source = self._source(context.recipe)
        tokens = self.steps * source.batch_tokens
        work = f"{self.of} continues, {count(source.batch_tokens)} tokens a step"
        return StagePlan(self.steps, work, tokens, 3.0 * tokens * context.config.flops_per_token())

    def seconds(self, context: PlanContext, machine: Machine) -> Span | None:
        """As long as the matched stage; by its own steps where it has a number of them."""
        if self.steps is not None:
            return super().seconds(context, machine)
        matched = PlanContext(context.recipe, self.match, context.config)
        return stage_of(context.recipe, self.match).seconds(matched, machine)

    def memory(self, context: PlanContext) -> Memory:
        recipe, config, source = context.recipe, context.config, self._source(context.recipe)
        owner = PlanContext(recipe, self.of, config, context.use)
        trained = self.trained_parameters(recipe, config)
        option = f"stages.{self.of}.batch_tokens (now {source.batch_tokens})"
        update = documents_phase(recipe, config, source.batch_tokens, source.lengths(owner), trained)
        return peak(training_base(recipe, config, trained), [(update, {"activations": option})])

    def train(self, model: Transformer, job: StageJob) -> None:
        from qwq.train.supervised import EpochStream, train_on_stream

        source = self._source(job.recipe)
        steps = self.steps or self._matched_steps(job)
        documents = source.documents_of(self.of, job, model.config)
        stream = EpochStream(documents, source.batch_tokens, f"{job.seed}/{self.of}/control")
        train_on_stream(model, self.optim, stream, steps, job.run)

    def _matched_steps(self, job: StageJob) -> int:
        """Steps of SFT that take as long as the matched stage trained, by the speed the SFT stage
        itself had.
        """
        source, matched = job.record_of(self.of), job.record_of(self.match)
        assert source and matched
        return max(1, round(matched["train_s"] / (source["train_s"] / source["steps"])))
