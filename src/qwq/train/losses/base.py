"""What a loss is: a function of one micro-batch's tokens, and how the tokens of a batch are summed.
The registry of losses.

A loss in a file of your own, named `loss = "file.py:name"` in a recipe:

    from qwq.train.losses import LossInput, TokenLoss, clipped_surrogate, register_loss

    @register_loss("name", summed="tokens")
    def name(x: LossInput) -> TokenLoss:
        return clipped_surrogate(x, x.ratio_N)

The normaliser of a batch is fixed before any group or completion is left out, whatever the loss
(`Loss.normaliser`): the step depends neither on the share of prompts that teach nothing nor on the
division into micro-batches.

Dimensions: N flat tokens, S completions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from qwq.common.imports import import_object, is_reference, user_code
from qwq.config.rl_config import LOSS_CLIPS
from qwq.errors import ConfigError, nearest

# constant: every token weighs 1 / (prompts x samples x max_new_tokens) of the recipe; tokens: 1 /
# (sampled tokens of the batch); completions: 1 / (prompts x samples x sampled tokens of its own
# completion).
Summed = Literal["constant", "tokens", "completions"]


@dataclass(frozen=True, slots=True)
class LossInput:
    """One micro-batch of whole completions: their sampled tokens, flat; all tensors (N,).

    `logprob_N` are log-probabilities in nats under the weights in training and carry the gradient.
    `old_logprob_N` are those before the batch's first update, by the trainer's own forward pass;
    without gradient. `advantage_N` is each token's completion's. `sequence_N` numbers each token's
    completion within the micro-batch, from 0 (int64). `clip_low`, `clip_high` and `dual_clip` are
    the recipe's; None where the recipe does not set one and the loss has no default.
    """

    logprob_N: Tensor
    old_logprob_N: Tensor
    advantage_N: Tensor
    sequence_N: Tensor
    clip_low: float | None = 0.2
    clip_high: float | None = 0.28
    dual_clip: float | None = None

    @property
    def ratio_N(self) -> Tensor:
        """Probability of each token over the one it was sampled with; exactly 1 in a batch's first
        update.
        """
        return (self.logprob_N - self.old_logprob_N).exp()

    def mean_of_completion(self, x_N: Tensor) -> Tensor:
        """For each token, the mean of `x_N` over the tokens of its completion."""
        lengths_S = completion_lengths(self.sequence_N)
        sums_S = x_N.new_zeros(len(lengths_S)).index_add(0, self.sequence_N, x_N)
        return (sums_S / lengths_S)[self.sequence_N]


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """Per-token parts; all tensors (N,).

    `clipped_N` is 1 where a clip took the gradient away or bounded it.
    """

    loss_N: Tensor
    ratio_N: Tensor
    clipped_N: Tensor


@dataclass(frozen=True, slots=True)
class BatchSize:
    """A step's batch before anything is left out of it: what the recipe asks for, and the tokens
    sampled.
    """

    prompts: int
    samples: int
    max_new_tokens: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Loss:
    """A named loss: its function and how tokens are summed; `where` names a user's own,
    `file.py:name` or the name it is registered by.
    """

    name: str
    terms: Callable[[LossInput], TokenLoss]
    summed: Summed = "constant"
    where: str = ""

    def __call__(self, x: LossInput) -> TokenLoss:
        """ConfigError where a user's own function raises, or does not give a TokenLoss with one
        number for each token.
        """
        if not self.where:
            return self.terms(x)
        with user_code(f"loss {self.where}", self.terms):
            found = self.terms(x)
        parts = (found.loss_N, found.ratio_N, found.clipped_N) if isinstance(found, TokenLoss) else ()
        if not parts or any(not isinstance(p, Tensor) or p.shape != x.logprob_N.shape for p in parts):
            kind = [list(getattr(p, "shape", ())) for p in parts] or type(found).__name__
            raise ConfigError(
                f"loss {self.where} gave {kind} for {len(x.logprob_N)} tokens: a TokenLoss of tensors with one "
                "number a token is wanted"
            )
        return found

    def normaliser(self, size: BatchSize) -> float:
        """What the weighted sum over all tokens of the batch is divided by."""
        completions = size.prompts * size.samples
        if self.summed == "constant":
            return float(completions * size.max_new_tokens)
        return float(max(1, size.num_tokens) if self.summed == "tokens" else completions)

    def weights(self, sequence_N: Tensor) -> Tensor | None:
        """Weight of each token in the sum (N,); None: all 1."""
        return (1 / completion_lengths(sequence_N))[sequence_N] if self.summed == "completions" else None


def completion_lengths(sequence_N: Tensor) -> Tensor:
    """Sampled tokens of each completion (S,), as floats."""
    return torch.bincount(sequence_N).float()


LOSSES: dict[str, Loss] = {}
DEFAULT_CLIP = (0.2, 0.28)


def register_loss(name: str, *, summed: Summed = "constant") -> Callable[[Callable[[LossInput], TokenLoss]], Loss]:
    """Make a function a loss under `name`, which recipes read in this process may then give.

    ConfigError where the name is one of this package's own.
    """

    def register(terms: Callable[[LossInput], TokenLoss]) -> Loss:
        known = LOSSES.get(name)
        if known and known.terms.__module__.startswith(f"{__package__}.") and terms is not known.terms:
            raise ConfigError(
                f"a loss {name!r} is registered already ({known.terms.__module__}): give yours another name"
            )
        own = terms.__module__.startswith(f"{__package__}.")
        LOSSES[name] = loss = Loss(name, terms, summed, "" if own else name)
        LOSS_CLIPS.setdefault(name, DEFAULT_CLIP)
        return loss

    return register


def load_loss(name: str) -> Loss:
    """A registered loss, or `file.py:name`: a registered loss of that file, or a plain function,
    summed as "constant".

    ConfigError where there is none.
    """
    if is_reference(name):
        found = import_object(name, "loss")
        return (
            replace(found, where=name) if isinstance(found, Loss) else Loss(name.rpartition(":")[2], found, where=name)
        )
    if name not in LOSSES:
        raise ConfigError(f"no loss {name!r} (one of your own is file.py:function): {nearest(name, LOSSES)}")
    return LOSSES[name]
