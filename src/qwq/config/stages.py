"""Stages on documents and on preference pairs, and what all stages share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qwq.config.base import Positive, Section, Unit
from qwq.config.sources import Mix, Source
from qwq.config.training import Lora, Optim


class Stage(Section):
    """What all stages share."""

    start_from: str | None = Field(
        None, description="stage whose result to start from; default: the last one that changed the policy"
    )
    evaluate: bool = Field(True, description="run the benchmarks after the stage")
    optim: Optim = Field(default_factory=Optim)


class PretrainStage(Stage):
    """Next-token prediction on an endless stream of documents."""

    kind: Literal["pretrain"]
    tokens: Positive = Field(description="training tokens")
    batch_tokens: Positive = Field(1024, description="tokens a step, at least (documents are not cut)")
    mix: Mix = Field(default_factory=Mix)
    noise: Unit = Field(0.0, description="share of documents with a mistake")
    drills: Unit = Field(0.0, description="share of documents that are pages of single-step exercises")
    prompt_weight: Unit = Field(0.1, description="weight of prompt tokens in the loss")


class SftStage(Stage):
    """Supervised cold start on demonstrations; the loss counts the assistant's tokens only."""

    kind: Literal["sft"]
    documents: Positive | None = Field(
        None, description="demonstrations; default: 1,000, or with path all rows; with path, the first so many rows"
    )
    epochs: Positive = Field(1, description="passes over them")
    batch_tokens: Positive = Field(1024, description="tokens a step, at least")
    lora: Lora | None = Field(None, description="train adapters instead of all weights")
    mix: Mix = Field(default_factory=Mix)
    path: str | None = Field(
        None,
        description="conversations instead of procedural demonstrations: JSON lines or parquet, or a hub id, in any shape of docs/data.md",
    )
    max_tokens: Positive = Field(
        8192,
        description="longest conversation of the file; longer ones, and those beyond the model's positions, are left out and counted",
    )
    recheck: Unit = Field(
        0.0,
        description="share of procedural demonstrations that think everything twice before they answer, as models that overthink do",
    )
    source: Source | None = Field(None, description="arithmetic of a level instead: its training sums, each worked out")

    @model_validator(mode="after")
    def _one_source(self) -> SftStage:
        if self.source and (self.source.kind != "arithmetic" or self.path):
            raise ValueError(
                f"source of kind {self.source.kind!r} with path {self.path!r}: demonstrations come from one of mix, path, or arithmetic"
            )
        if self.documents is None and not self.path:
            self.documents = 1000
        return self


class ControlStage(Stage):
    """The SFT stage continued on its own demonstrations for as long as another stage trained."""

    kind: Literal["control"]
    of: str = Field("sft", description="SFT stage to continue")
    match: str = Field("rl1", description="stage whose training seconds to match")
    steps: Positive | None = Field(None, description="fixed number of steps instead of matching seconds")


class PairsStage(Stage):
    """What stages on preference pairs share."""

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
        description="pairs instead of procedural ones: JSON lines or parquet, or a hub id, with chosen and rejected answers (docs/data.md)",
    )
    max_tokens: Positive = Field(
        4096,
        description="longest prompt and answer together; pairs with a longer one, or one beyond the model's positions, are left out and counted",
    )
    micro_batch_tokens: Positive = Field(8192, description="tokens of one forward and backward pass")

    @model_validator(mode="after")
    def _procedural_numbers(self) -> PairsStage:
        if not self.path:
            self.pairs, self.test_pairs = self.pairs or 2000, self.test_pairs or 500
        return self


class RewardModelStage(PairsStage):
    """Bradley-Terry reward model on preference pairs (Bradley and Terry 1952; Ouyang et al. 2022)."""

    kind: Literal["reward_model"]


class DpoStage(PairsStage):
    """The policy itself trained on preference pairs, without a reward model (DPO, Rafailov et al. 2023, arXiv 2305.18290)."""

    kind: Literal["dpo"]
    beta: float = Field(
        0.1,
        gt=0,
        description="weight of the log-probability ratio to the stage's start: larger keeps the policy nearer to it",
    )
    lora: Lora | None = Field(None, description="train adapters instead of all weights")
