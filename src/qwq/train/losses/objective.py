"""The whole policy objective of a micro-batch: a loss, the correction for the sampler, and a KL
term.

Truncated importance correction: IMPALA's truncation (Espeholt et al. 2018, arXiv 1802.01561,
section 4.1), as Yao et al. 2025 ("Your Efficient RL Framework Secretly Brings You Off-Policy RL
Training") use it where sampler and trainer differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qwq.train.losses.base import Loss, LossInput
from qwq.train.losses.clipped import dr_grpo
from qwq.train.losses.kl import kl_term


@dataclass(frozen=True, slots=True)
class PolicyTerms:
    """Per-token parts of the policy objective; all tensors (N,).

    `importance_N` are the sampler's weights before their cap, None without.
    """

    loss_N: Tensor
    kl_N: Tensor
    ratio_N: Tensor
    clipped_N: Tensor
    importance_N: Tensor | None = None


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
    importance_cap: float = 2.0,
    kl: float = 0.0,
    kl_estimator: str = "k3",
) -> PolicyTerms:
    """`loss` with optional KL and sampler correction, token by token.

    `old_logprob_N` are the trainer's own log-probabilities when the batch was sampled; None means
    this is the batch's first update, where they are `logprob_N` itself and the ratio is exactly 1.
    `sampler_logprob_N` is given where the sampler's may differ from the trainer's: the loss is then
    weighted by min(exp(old - sampler), importance_cap), which carries no gradient; the KL term is
    not. `sequence_N` numbers each token's completion, from 0; None: all are of one completion.
    """
    old_N = logprob_N.detach() if old_logprob_N is None else old_logprob_N
    if sequence_N is None:
        sequence_N = torch.zeros_like(logprob_N, dtype=torch.int64)
    terms = loss(LossInput(logprob_N, old_N, advantage_N, sequence_N, clip_low, clip_high, dual_clip))
    loss_N, kl_N, importance_N = terms.loss_N, torch.zeros_like(logprob_N), None
    if sampler_logprob_N is not None:
        importance_N = (old_N - sampler_logprob_N).exp()
        loss_N = loss_N * importance_N.clamp(max=importance_cap)
    if reference_logprob_N is not None:
        kl_N = kl_term(logprob_N, reference_logprob_N, kl_estimator, old_N)
        loss_N = loss_N + kl * kl_N
    return PolicyTerms(loss_N, kl_N.detach(), terms.ratio_N.detach(), terms.clipped_N, importance_N)
