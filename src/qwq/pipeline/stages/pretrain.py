"""Pretraining: next-token prediction on an endless stream of documents of the procedural
families.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from qwq.common.memory import Memory
from qwq.config import Mix, Positive, Unit, register_stage
from qwq.pipeline.plan.counts import PlanContext, StagePlan, count
from qwq.pipeline.plan.lengths import document_lengths
from qwq.pipeline.plan.peak import documents_phase, peak, training_base
from qwq.pipeline.stage import Stage
from qwq.tasks.mix import ProblemMix
from qwq.tasks.procedural.base import digest

if TYPE_CHECKING:
    from qwq.model.transformer import Transformer
    from qwq.pipeline.job import StageJob
    from qwq.train.documents import Document


@dataclass
class Cursor:
    """Where the stream of documents resumes; part of the stage's state."""

    next_document: int = 0


@register_stage("pretrain")
class PretrainStage(Stage):
    """Next-token prediction on an endless stream of documents."""

    takes_fresh_weights: ClassVar[bool] = True

    tokens: Positive = Field(description="training tokens")
    batch_tokens: Positive = Field(1024, description="tokens a step, at least (documents are not cut)")
    mix: Mix = Field(default_factory=Mix)
    noise: Unit = Field(0.0, description="share of documents with a mistake")
    drills: Unit = Field(0.0, description="share of documents that are pages of single-step exercises")
    prompt_weight: Unit = Field(0.1, description="weight of prompt tokens in the loss")

    def has_data(self) -> bool:
        return bool(self.mix.weights())

    def demonstrations(self) -> tuple[dict[str, float], float]:
        return self.mix.weights(), self.noise

    def plan(self, context: PlanContext) -> StagePlan:
        steps = math.ceil(self.tokens / self.batch_tokens)
        flops = 3.0 * self.tokens * context.config.flops_per_token()
        return StagePlan(steps, f"{count(self.batch_tokens)} tokens a step", self.tokens, flops)

    def memory(self, context: PlanContext) -> Memory:
        recipe, config = context.recipe, context.config
        lengths = document_lengths(self.mix.weights(), config.vocab_size)
        trained = self.trained_parameters(recipe, config)
        option = f"stages.{context.name}.batch_tokens (now {self.batch_tokens})"
        update = documents_phase(recipe, config, self.batch_tokens, lengths, trained)
        return peak(training_base(recipe, config, trained), [(update, {"activations": option})])

    def train(self, model: Transformer, job: StageJob) -> None:
        """`tokens` tokens of the stream. The number of steps is fixed before the first."""
        from qwq.train.documents import batches, demonstration, drill
        from qwq.train.optim import Optimizer
        from qwq.train.supervised import supervised_step

        run, chat = job.run, job.chat
        mix = ProblemMix(job.seed, job.name, self.mix.weights())

        def document(index: int) -> Document:
            # Every index has one number in 0..1 of its own, which decides whether it is a page of
            # exercises.
            if digest(f"{job.seed}/{job.name}/kind/{index}") / 2**64 < self.drills and (
                page := drill(mix, chat, index, self.prompt_weight)
            ):
                return page
            return demonstration(mix, chat, index, self.noise, self.prompt_weight)

        # A step closes with the document that fills it, so it holds half a document more than
        # batch_tokens on average.
        sample = [len(document(i)[0]) for i in range(200)]
        steps = max(1, round(self.tokens / (self.batch_tokens + 0.5 * sum(sample) / len(sample))))
        optimizer = Optimizer(model, self.optim, steps, division=run.divide(model, tokens=True))
        cursor = run.state.part(Cursor)
        run.resume(model, optimizer)
        stream = batches(document, cursor.next_document, self.batch_tokens)

        def step(index: int) -> dict[str, Any]:
            documents, cursor.next_document = next(stream)
            return supervised_step(model, optimizer, documents, index)

        run.run(steps, model, optimizer, step)
