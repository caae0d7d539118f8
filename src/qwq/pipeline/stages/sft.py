"""The SFT stage: a supervised cold start on demonstrations, procedural ones or conversations of a
file.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from qwq.common.memory import Memory
from qwq.config import Lora, Mix, Positive, Source, Unit, register_stage
from qwq.data.examples import Example, FileUse, conversation_examples
from qwq.errors import UsageError
from qwq.model.config import ModelConfig
from qwq.pipeline.plan.counts import PlanContext, StagePlan, count, times
from qwq.pipeline.plan.lengths import ASSUMED_DOCUMENT, Lengths, document_lengths, file_lengths
from qwq.pipeline.plan.peak import documents_phase, peak, training_base
from qwq.pipeline.preview import DataSummary, rendered
from qwq.pipeline.stage import Stage
from qwq.report.view import StageView
from qwq.tasks.mix import ProblemMix
from qwq.tasks.procedural import arithmetic
from qwq.tasks.procedural.base import digest
from qwq.text.template import ChatFormat

if TYPE_CHECKING:
    from qwq.model.transformer import Transformer
    from qwq.pipeline.job import StageJob
    from qwq.train.documents import Document

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """The documents of an SFT stage; `use` says what became of a file's rows, where they come from
    one.
    """

    documents: list[Document]
    use: FileUse | None = None


@register_stage("sft")
class SftStage(Stage):
    """Supervised cold start on demonstrations; the loss counts the assistant's tokens only."""

    documents: Positive | None = Field(
        None, description="demonstrations; default: 1,000, or with path all rows; with path, the first so many rows"
    )
    epochs: Positive = Field(1, description="passes over them")
    batch_tokens: Positive = Field(1024, description="tokens a step, at least")
    lora: Lora | None = Field(None, description="train adapters instead of all weights")
    mix: Mix = Field(default_factory=Mix)
    path: str | None = Field(
        None,
        description="conversations instead of procedural demonstrations: JSON lines or parquet, or a hub id, in "
        "any shape of docs/data.md",
    )
    max_tokens: Positive = Field(
        8192,
        description="longest conversation of the file; longer ones, and those beyond the model's positions, are "
        "left out and counted",
    )
    recheck: Unit = Field(
        0.0,
        description="share of procedural demonstrations that think everything twice before they answer, as models that "
        "overthink do",
    )
    source: Source | None = Field(None, description="arithmetic of a level instead: its training sums, each worked out")

    @model_validator(mode="after")
    def _one_source(self) -> SftStage:
        if self.source and (self.source.kind != "arithmetic" or self.path):
            raise ValueError(
                f"source of kind {self.source.kind!r} with path {self.path!r}: demonstrations come from one of mix, "
                "path, or arithmetic"
            )
        if self.recheck and (self.path or self.source):
            raise ValueError(
                f"recheck is {self.recheck:g}, and demonstrations come from {self.path or 'arithmetic'}: only those of "
                "mix are thought twice; leave it out, or give the task in mix"
            )
        if self.documents is None and not self.path:
            self.documents = 1000
        return self

    @classmethod
    def view(cls, config: Mapping[str, Any], record: Mapping[str, Any] | None) -> StageView:
        return replace(super().view(config, record), is_baseline=True)

    @property
    def data_file(self) -> str | None:
        return self.path

    def has_data(self) -> bool:
        return bool(self.path or self.source or self.mix.weights())

    # -- plan --------------------------------------------------------------------------------------

    def plan(self, context: PlanContext) -> StagePlan:
        documents = context.use.used if context.use else self.documents
        if documents is None:  # the rows of a file that is not here
            work = f"all rows of {self.path} x {times(self.epochs, 'epoch')}, {count(self.batch_tokens)} tokens a step"
            return StagePlan(None, work, None, None)
        tokens = round(documents * self.epochs * self.lengths(context).mean)
        work = f"{count(documents)} demonstrations x {times(self.epochs, 'epoch')}"
        work += f", {count(self.batch_tokens)} tokens a step"
        flops = 3.0 * tokens * context.config.flops_per_token()
        return StagePlan(math.ceil(tokens / self.batch_tokens), work, tokens, flops)

    def memory(self, context: PlanContext) -> Memory:
        recipe, config = context.recipe, context.config
        trained = self.trained_parameters(recipe, config)
        option = f"stages.{context.name}.batch_tokens (now {self.batch_tokens})"
        update = documents_phase(recipe, config, self.batch_tokens, self.lengths(context), trained)
        return peak(training_base(recipe, config, trained), [(update, {"activations": option})])

    def lengths(self, context: PlanContext) -> Lengths:
        """Tokens of a demonstration."""
        if context.use and context.use.lengths:
            return file_lengths(context.use, self.max_tokens)
        if self.source:
            return Lengths(ASSUMED_DOCUMENT // 4, ASSUMED_DOCUMENT / 8)
        if self.path:
            return file_lengths(None, self.max_tokens)
        return document_lengths(self.mix.weights(), context.config.vocab_size)

    # -- demonstrations ----------------------------------------------------------------------------

    def preview(self, chat: ChatFormat, *, max_positions: int | None = None, rows: int = 1) -> list[DataSummary]:
        if not self.path:
            return []
        examples, use = self._file_examples(chat, max_positions)
        return [DataSummary("sft", use, rendered(chat, examples[:rows]))]

    def read_data(self, chat: ChatFormat, name: str, seed: int, max_positions: int) -> Demonstrations:
        return self.make_documents(chat, name, seed, max_positions)

    def make_documents(
        self, chat: ChatFormat, name: str, seed: int, max_positions: int | None = None
    ) -> Demonstrations:
        """The demonstrations of stage `name`, clean, as tokens; only the assistant's tokens weigh.

        None is longer than the model has positions.
        """
        if self.path:
            examples, use = self._file_examples(chat, max_positions)
            return Demonstrations([(e.ids, e.weights) for e in examples], use)
        documents = self._procedural(chat, name, seed)
        short = [d for d in documents if max_positions is None or len(d[0]) <= max_positions]
        if not short:
            raise UsageError(
                f"stage {name}: all {len(documents):,} demonstrations are longer than the model's {max_positions:,} "
                "positions: take easier ones or another model"
            )
        if len(short) < len(documents):
            _log.warning(
                "%s: %d of %d demonstrations are over %d tokens, the model's positions, and left out",
                name,
                len(documents) - len(short),
                len(documents),
                max_positions,
            )
        return Demonstrations(short)

    def _file_examples(self, chat: ChatFormat, max_positions: int | None) -> tuple[list[Example], FileUse]:
        assert self.path
        return conversation_examples(
            chat, self.path, documents=self.documents, max_tokens=self.max_tokens, max_positions=max_positions
        )

    def _procedural(self, chat: ChatFormat, name: str, seed: int) -> list[Document]:
        from qwq.train.documents import demonstration

        assert self.documents is not None, "the recipe sets it where there is no file"
        if self.source:
            problems = arithmetic.problems(self.source.level, "train")
            random.Random(digest(f"{seed}/{name}/sums")).shuffle(problems)
            made = [chat.training_example((*p.messages, arithmetic.demonstrate(p))) for p in problems[: self.documents]]
            return [(ids, [float(m) for m in mask]) for ids, mask in made]
        mix = ProblemMix(seed, name, self.mix.weights())
        recheck = [digest(f"{seed}/{name}/recheck/{i}") / 2**64 < self.recheck for i in range(self.documents)]
        return [demonstration(mix, chat, i, 0.0, 0.0, twice=recheck[i]) for i in range(self.documents)]

    # -- run ---------------------------------------------------------------------------------------

    def documents_of(self, name: str, job: StageJob, config: ModelConfig) -> list[Document]:
        """The documents of SFT stage `name`, as they were read before or now; what is taken of a
        file is told.
        """
        made = job.data(name) or self.make_documents(job.chat, name, job.seed, config.max_positions)
        if made.use:
            job.run.tell_data(made.use)
        return made.documents

    def train(self, model: Transformer, job: StageJob) -> None:
        """`epochs` passes over the demonstrations."""
        from qwq.train.supervised import EpochStream, train_on_stream

        documents = self.documents_of(job.name, job, model.config)
        stream = EpochStream(documents, self.batch_tokens, f"{job.seed}/{job.name}")
        train_on_stream(model, self.optim, stream, stream.num_steps(self.epochs), job.run)
