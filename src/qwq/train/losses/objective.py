"""The whole policy objective of a micro-batch: a loss, the correction for the sampler, and a KL
term.

Truncated importance correction: IMPALA's truncation (Espeholt et al. 2018, arXiv 1802.01561,
section 4.1), as Yao et al. 2025 ("Your Efficient RL Framework Secretly Brings You Off-Policy RL
Training") use it where sampler and trainer differ. Masked: tokens, or whole completions, whose
weight is out of range are left out (Ling team 2025, arXiv 2510.18855, "IcePop"; by completion: Liu
et al. 2025, "When Speed Kills Stability").

With weights several steps old this is decoupled PPO (Hilton et al. 2021, arXiv 2110.00641; AReaL,
arXiv 2505.24298): `old_logprob_N` are the proximal policy's, computed by the trainer before the
batch's first update, the clip is around those, and the sampler's weight multiplies it from outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qwq.train.losses.base import Loss, LossInput
from qwq.train.losses.clipped import dr_grpo
from qwq.train.losses.kl import kl_term


@dataclass(frozen=True, slots=True)
class PolicyTerms:
    """Per-token parts of the policy objective; all tensors (N,).

    `importance_N` are the sampler's weights before their cap, `beyond_N` is True where that, or
    the floor, changed them; None without.
    """

    loss_N: Tensor
    kl_N: Tensor
    ratio_N: Tensor
    clipped_N: Tensor
    importance_N: Tensor | None = None
    beyond_N: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ImportanceRule:
    """How the sampler's weights are bounded: see `config.RlConfig`, whose keys these are."""

    cap: float = 2.0
    level: Literal["token", "sequence"] = "token"
    beyond: Literal["truncate", "mask"] = "truncate"
    floor: float = 0.0

    def weights(self, log_N: Tensor, sequence_N: Tensor) -> Tensor:
        """Weights (N,) before their bounds, from log-ratios of single tokens."""
        if self.level == "token":
            return log_N.exp()
        sums_S = log_N.new_zeros(int(sequence_N.max()) + 1 if len(sequence_N) else 0).index_add(0, sequence_N, log_N)
        return sums_S.exp()[sequence_N]

    def bounded(self, weight_N: Tensor) -> tuple[Tensor, Tensor]:
        """The weights as the loss takes them (N,), and where a bound changed them (N,)."""
        beyond_N = weight_N > self.cap
        if self.beyond == "truncate":
            return weight_N.clamp(max=self.cap), beyond_N
        beyond_N = beyond_N | (weight_N < self.floor)
        return weight_N.masked_fill(beyond_N, 0.0), beyond_N


TRUNCATED_AT_2 = ImportanceRule()


def policy_terms(
    logprob_N: Tensor,
    advantage_N: Tensor,
    *,
    loss: Loss = dr_grpo,
    sequence_N: Tensor | None = None,
    old_logprob_N: Tensor | None = None,
    sampler_logprob_N: Tensor | None = None,
    reference_logprob_N: Tensor | None = None,
    clip_low: float | None = 0.2,
    clip_high: float | None = 0.28,
    dual_clip: float | None = None,
    importance: ImportanceRule = TRUNCATED_AT_2,
    kl: float = 0.0,
    kl_estimator: str = "k3",
) -> PolicyTerms:
    """`loss` with optional KL and sampler correction, token by token.

    `old_logprob_N` are the trainer's own log-probabilities when the batch was sampled; None means
    this is the batch's first update, where they are `logprob_N` itself and the ratio is exactly 1.
    `sampler_logprob_N` is given where the sampler's may differ from the trainer's: the loss is then
    weighted by exp(old - sampler) within the bounds of `importance`, which carries no gradient; the
    KL term is not. `sequence_N` numbers each token's completion, from 0; None: all are of one.
    """
    old_N = logprob_N.detach() if old_logprob_N is None else old_logprob_N
    if sequence_N is None:
        sequence_N = torch.zeros_like(logprob_N, dtype=torch.int64)
    terms = loss(LossInput(logprob_N, old_N, advantage_N, sequence_N, clip_low, clip_high, dual_clip))
    loss_N, kl_N, importance_N, beyond_N = terms.loss_N, torch.zeros_like(logprob_N), None, None
    if sampler_logprob_N is not None:
        importance_N = importance.weights(old_N - sampler_logprob_N, sequence_N)
        bounded_N, beyond_N = importance.bounded(importance_N)
        loss_N = loss_N * bounded_N
    if reference_logprob_N is not None:
        kl_N = kl_term(logprob_N, reference_logprob_N, kl_estimator, old_N)
        loss_N = loss_N + kl * kl_N
    return PolicyTerms(loss_N, kl_N.detach(), terms.ratio_N.detach(), terms.clipped_N, importance_N, beyond_N)
