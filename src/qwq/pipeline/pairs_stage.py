"""What stages on preference pairs share: their keys, their pairs, their plan.

Imports without torch.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import Field, model_validator

from qwq.common.memory import Memory
from qwq.config import Positive
from qwq.data.examples import FileUse, PairExample, pair_of, pair_splits
from qwq.model.config import ModelConfig
from qwq.model.footprint import FLOAT, SCORED_TOKENS, inference_values
from qwq.pipeline.plan.counts import PlanContext, StagePlan, count, times
from qwq.pipeline.plan.lengths import Lengths, document_lengths, file_lengths
from qwq.pipeline.plan.peak import peak, training_base
from qwq.pipeline.preview import DataSummary, rendered_pairs
from qwq.pipeline.stage import Stage
from qwq.report.view import Panel
from qwq.tasks.procedural.base import digest
from qwq.tasks.procedural.preference import Preference
from qwq.text.template import ChatFormat

if TYPE_CHECKING:
    from qwq.pipeline.job import StageJob

VALIDATION_PAIRS = (50, 300)  # least and most of the preference family, for the calibration


class MadePairs(NamedTuple):
    """Pairs by split, and what became of a file's rows, where they come from one."""

    splits: dict[str, list[PairExample]]
    use: FileUse | None = None


class PairsStage(Stage):
    """What stages on preference pairs share."""

    rows_hold: ClassVar[str] = "`prompt`, `chosen` and `rejected`"
    passes_before: ClassVar[int] = 0  # forward passes over all pairs before the first step
    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("loss", "loss"),
        Panel("pairs in the right order", "pair_accuracy", unit=True),
    )

    pairs: Positive | None = Field(
        None, description="training pairs; default: 2,000, or with path all of the file's 70%"
    )
    test_pairs: Positive | None = Field(
        None, description="held-out pairs for its accuracy; default: 500, or with path all of the file's 20%"
    )
    epochs: Positive = Field(1, description="passes over the pairs")
    batch_pairs: Positive = Field(16, description="pairs a step")
    path: str | None = Field(
        None,
        description="pairs instead of procedural ones: JSON lines or parquet, or a hub id, with chosen and rejected "
        "answers (docs/data.md)",
    )
    max_tokens: Positive = Field(
        4096,
        description="longest prompt and answer together; pairs with a longer one, or one beyond the model's "
        "positions, are left out and counted",
    )
    micro_batch_tokens: Positive = Field(8192, description="tokens of one forward and backward pass")

    @model_validator(mode="after")
    def _procedural_numbers(self) -> PairsStage:
        if not self.path:
            self.pairs, self.test_pairs = self.pairs or 2000, self.test_pairs or 500
        return self

    @property
    def data_file(self) -> str | None:
        return self.path

    # -- plan --------------------------------------------------------------------------------------

    def plan(self, context: PlanContext) -> StagePlan:
        pairs = context.use.splits["train"] if context.use else self.pairs
        if pairs is None:
            epochs = times(self.epochs, "epoch")
            work = f"{self.batch_pairs} pairs a step, 70% of the rows of {self.path} x {epochs}"
            return StagePlan(None, work, None, None)
        steps = math.ceil(pairs / self.batch_pairs) * self.epochs
        passed = round(2 * pairs * self._lengths(context).mean)  # tokens of one pass
        work = f"{self.batch_pairs} pairs a step, {count(pairs)} pairs x {times(self.epochs, 'epoch')}"
        passes = 3.0 * self.epochs + self.passes_before
        computed = passes * passed + passed * self.held_out_passes(context) / pairs
        return StagePlan(steps, work, passed * self.epochs, computed * context.config.flops_per_token())

    def held_out_passes(self, context: PlanContext) -> int:
        """Held-out pairs whose answers it reads, as often as it does so."""
        return 0

    def num_held_out(self, context: PlanContext, split: str) -> int:
        """Pairs of `split`, "validation" or "test"."""
        if context.use:
            return context.use.splits[split]
        return self.num_validation or 0 if split == "validation" else self.test_pairs or 0

    @property
    def num_validation(self) -> int | None:
        """Validation pairs at most; None: all of a file's."""
        if self.path or self.pairs is None:
            return None
        least, most = VALIDATION_PAIRS
        return min(most, max(least, self.pairs // 5))

    def memory(self, context: PlanContext) -> Memory:
        pair = 2 * self._lengths(context).longest
        scoring = {"activations": FLOAT * inference_values(context.config, SCORED_TOKENS)}
        tokens = min(self.batch_pairs * pair, max(self.micro_batch_tokens, pair))
        keys = f"stages.{context.name}.batch_pairs (now {self.batch_pairs}), micro_batch_tokens or max_tokens"
        base = training_base(context.recipe, context.config, self.trained_parameters(context.recipe, context.config))
        return peak(base, [(self.update(context, tokens), {"activations": keys}), (scoring, {})])

    def update(self, context: PlanContext, tokens: int) -> dict[str, int]:
        """Parts of one forward and backward pass over `tokens` tokens."""
        raise NotImplementedError

    def _lengths(self, context: PlanContext) -> Lengths:
        if self.path:
            return file_lengths(context.use, self.max_tokens)
        return document_lengths({Preference.domain: 1.0}, context.config.vocab_size)

    # -- pairs -------------------------------------------------------------------------------------

    def preview(self, chat: ChatFormat, *, max_positions: int | None = None, rows: int = 1) -> list[DataSummary]:
        if not self.path:
            return []
        splits, use = self._file_pairs(chat, max_positions)
        return [DataSummary("reward", use, rendered_pairs(chat, splits, rows))]

    def read_data(self, chat: ChatFormat, name: str, seed: int, max_positions: int) -> MadePairs:
        return self.make_pairs(chat, seed, max_positions)

    def make_pairs(self, chat: ChatFormat, seed: int, max_positions: int | None = None) -> MadePairs:
        """Pairs for training, validation (the calibration) and test: of the file in `path`, with
        what became of its rows, or of the preference family.
        """
        if self.path:
            return MadePairs(*self._file_pairs(chat, max_positions))
        assert self.pairs and self.test_pairs and self.num_validation, "the recipe sets them where there is no file"
        out: dict[str, list[PairExample]] = {}
        family = Preference()
        for split, num in (("train", self.pairs), ("validation", self.num_validation), ("test", self.test_pairs)):
            problems = (
                family.fixed(split, num) if split != "train" else [family.problem(seed, "train", i) for i in range(num)]
            )
            out[split] = []
            for i, problem in enumerate(problems):
                chosen, rejected = family.pair(problem, random.Random(digest(f"{seed}/pairs/{split}/{i}")))
                out[split].append(pair_of(chat, problem.messages, (chosen,), (rejected,)))
        return MadePairs(out)

    def _file_pairs(self, chat: ChatFormat, max_positions: int | None) -> tuple[dict[str, list[PairExample]], FileUse]:
        assert self.path
        return pair_splits(
            chat,
            self.path,
            pairs=self.pairs,
            test_pairs=self.test_pairs,
            validation_pairs=self.num_validation,
            max_tokens=self.max_tokens,
            max_positions=max_positions,
        )

    def pairs_of(self, job: StageJob, config: ModelConfig) -> dict[str, list[PairExample]]:
        """The stage's pairs by split, as they were read before or now; what was taken of a file is
        told.
        """
        made: Any = job.data() or self.make_pairs(job.chat, job.seed, config.max_positions)
        if made.use:
            job.run.tell_data(made.use)
        return made.splits

    def num_steps(self, num_pairs: int) -> int:
        return math.ceil(num_pairs / self.batch_pairs) * self.epochs

    def pairs_of_step(self, step: int, num_pairs: int, seed: str) -> list[int]:
        """Which pairs step `step` takes: each epoch has an order of its own."""
        epoch, at = divmod(step, math.ceil(num_pairs / self.batch_pairs))
        order = list(range(num_pairs))
        random.Random(digest(f"{seed}/{epoch}")).shuffle(order)
        return order[at * self.batch_pairs : (at + 1) * self.batch_pairs]
