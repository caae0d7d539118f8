"""What a quantisation costs: perplexity on a task's held-out conversations, and the task's score,
before and after.

After: the written file, dequantised into this project's own module in float32. So what is measured
is the weights; a program that also rounds activations (w8a8, llama.cpp's kernels) may differ
slightly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from qwq.common.memory import GIB, free_memory
from qwq.engine.sampler import SamplingParams
from qwq.errors import CapacityError, ConfigError, ModelError
from qwq.eval.run import evaluate
from qwq.model.config import ModelConfig
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.release.activations import task_windows
from qwq.tasks import registry
from qwq.text.template import ChatFormat

LONGEST = 1024  # tokens of a conversation


@dataclass(frozen=True, slots=True)
class QualityOptions:
    """What is measured, and what may be lost.

    `task` gives prompts: its test split for perplexity and score, its training split for
    calibration. `tokens` of conversations are read; `problems` are answered greedily with at most
    `max_new_tokens` (0 problems: no score). `max_loss` is the largest rise of perplexity as a share
    of it, and the largest fall of the score (of 1).
    """

    task: str = "math"
    tokens: int = 8_000
    problems: int = 0
    max_new_tokens: int = 256
    max_loss: float | None = None
    skip: bool = False

    def __post_init__(self) -> None:
        for name in ("tokens", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}: give at least 1")
        if self.max_loss is not None and not self.max_loss >= 0:
            raise ConfigError(f"--max-loss is {self.max_loss}: give a share of 0 or more, such as 0.03")
        if self.skip and self.max_loss is not None:
            raise ConfigError("--skip-quality measures nothing and --max-loss needs the measure: leave one out")


@dataclass(frozen=True, slots=True)
class Reading:
    """A model's perplexity and, where problems were answered, the share of them that is correct."""

    perplexity: float
    score: float | None


@dataclass(frozen=True, slots=True)
class Quality:
    """Two readings on the same tokens and problems."""

    task: str
    num_tokens: int
    num_problems: int
    before: Reading
    after: Reading

    @property
    def loss(self) -> float:
        """The larger of perplexity's rise as a share and the score's fall."""
        rise = self.after.perplexity / self.before.perplexity - 1
        if self.before.score is None or self.after.score is None:
            return rise
        return max(rise, self.before.score - self.after.score)

    def lines(self) -> list[str]:
        change = self.after.perplexity / self.before.perplexity - 1
        out = [
            f"perplexity {self.before.perplexity:.4f} before, {self.after.perplexity:.4f} after ({change:+.2%}), "
            f"{self.num_tokens:,} tokens of {self.task}'s test split"
        ]
        if self.before.score is not None:
            out.append(
                f"score of {self.task} {self.before.score:.1%} before, {self.after.score:.1%} after, "
                f"{self.num_problems} test problems, greedy"
            )
        return out


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The held-out sample of one export: conversations as token ids, and how problems are
    answered.
    """

    options: QualityOptions
    chat: ChatFormat
    windows: list[list[int]]

    @classmethod
    def of(cls, options: QualityOptions, chat: ChatFormat) -> HeldOut:
        return cls(options, chat, task_windows(options.task, "test", chat, options.tokens, LONGEST))

    def read(self, model: Transformer) -> Reading:
        return Reading(math.exp(mean_loss(model, self.windows)), self._score(model))

    def _score(self, model: Transformer) -> float | None:
        if not self.options.problems:
            return None
        name = self.options.task
        problems = registry.get(name).problems("test", self.options.problems)
        params = SamplingParams(temperature=0, max_new_tokens=self.options.max_new_tokens)
        passed = evaluate(model, self.chat, {name: problems}, params, max_rows=32)[name].passed
        return sum(passed) / len(passed)

    def compare(self, before: Reading, after: Reading) -> Quality:
        """ModelError where more is lost than `max_loss`."""
        num_tokens = sum(len(ids) - 1 for ids in self.windows)
        quality = Quality(self.options.task, num_tokens, self.options.problems, before, after)
        limit = self.options.max_loss
        if limit is not None and quality.loss > limit:
            raise ModelError(
                f"{'; '.join(quality.lines())}: more than --max-loss {limit:g} is lost, so nothing is written: take "
                "more bits, --imatrix or --gptq, or a larger --max-loss"
            )
        return quality


def fits(config: ModelConfig, options: QualityOptions) -> bool:
    """Whether the model in float32 fits in memory, so that it can be measured.

    CapacityError where it does not and a limit is to be kept.
    """
    need, free = int(4.4 * config.num_parameters), free_memory()
    if need > free and options.max_loss is not None:
        raise CapacityError(
            f"--max-loss needs the model in float32, {need / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free: leave it "
            "out, or use a machine with more memory"
        )
    return need <= free


@torch.inference_mode()
def mean_loss(model: Transformer, windows: Sequence[Sequence[int]]) -> float:
    """Mean negative log-likelihood of every token but each conversation's first."""
    total, count = 0.0, 0
    for ids in windows:
        if len(ids) < 2:
            continue
        tokens = torch.tensor(ids)
        logits = model.logits(model(tokens, Packed([len(ids)]))[:-1])
        total += float(
            F.cross_entropy(logits.double() if logits.shape[1] < 4096 else logits, tokens[1:], reduction="sum")
        )
        count += len(ids) - 1
    return total / count
