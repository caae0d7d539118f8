"""The maths of training: functions of tensors, no models, no data, no state.

Dimensions: N flat tokens, D hidden width, V vocabulary, G rollouts of a group, P pairs.

Sources:
- group-relative advantage: GRPO (Shao et al. 2024, arXiv 2402.03300, section 4.1);
- no division by the deviation, constant normaliser: Dr. GRPO (Liu et al. 2025, arXiv 2503.20783, section 3);
- token mean and the asymmetric clip: DAPO (Yu et al. 2025, arXiv 2503.14476, sections 3.1 and 3.3);
- clipped surrogate: PPO (Schulman et al. 2017, arXiv 1707.06347);
- truncated importance correction for external samplers: IMPALA's truncation (Espeholt et al. 2018), as
  used for sampler/trainer mismatch by Yao et al. 2025;
- KL estimators k2 and k3: Schulman 2020, "Approximating KL divergence";
- preference loss: Bradley and Terry 1952, as in Ouyang et al. 2022 (arXiv 2203.02155, section 3.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qwq.model.linear import product

CHUNK_LOGITS = 1 << 24  # logits held at once by token_logprobs: 64 MB in float32; fewer would read a large head's matrix too often
KEPT_PROBS = 1 << 26  # probabilities that the forward pass keeps, 256 MB in float32: a batch that needs no more computes its logits once


class _ChunkedLogprobs(torch.autograd.Function):
    """log softmax(h W^T / T) at the targets, and the entropy, without ever holding more than `KEPT_PROBS` of the N x V logits.

    A small batch keeps its probabilities for the backward pass. A larger one keeps one number a token, and the backward pass
    computes each chunk's logits again. The entropy carries no gradient.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, temperature: float, chunk: int):
        logprob_N = hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)
        norm_N, entropy_N = torch.empty_like(logprob_N), torch.empty_like(logprob_N)
        keep = any(ctx.needs_input_grad) and len(hidden_ND) * len(weight_VD) <= KEPT_PROBS
        kept = []
        for s in range(0, len(hidden_ND), chunk):
            logits = product(hidden_ND[s : s + chunk], weight_VD).float()
            if temperature != 1:
                logits /= temperature
            norm = logits.logsumexp(-1)
            logprob_N[s : s + chunk] = logits.gather(-1, targets_N[s : s + chunk, None])[:, 0] - norm
            logits -= norm[:, None]
            probs = logits.exp()
            entropy_N[s : s + chunk] = logits.mul_(probs).sum(-1).neg_()
            norm_N[s : s + chunk] = norm
            if keep:
                kept.append(probs)
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, norm_N)
        ctx.temperature, ctx.chunk, ctx.kept = temperature, chunk, kept
        ctx.mark_non_differentiable(entropy_N)
        return logprob_N, entropy_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, _entropy_grad: Tensor):
        hidden_ND, weight_VD, targets_N, norm_N = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden_ND)
        # A frozen head (LoRA) needs no gradient of its own.
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for s in range(0, len(hidden_ND), ctx.chunk):
            h = hidden_ND[s : s + ctx.chunk]
            if ctx.kept:
                probs = ctx.kept.pop(0)
            else:
                probs = product(h, weight_VD).float()
                if ctx.temperature != 1:
                    probs /= ctx.temperature
                probs.sub_(norm_N[s : s + ctx.chunk, None]).exp_()
            # d logprob / d logits = onehot(target) - probs
            g = grad_N[s : s + ctx.chunk, None] / ctx.temperature
            probs.mul_(-g).scatter_add_(1, targets_N[s : s + ctx.chunk, None], g)
            probs = probs.to(h.dtype)
            grad_hidden[s : s + ctx.chunk] = product(probs, weight_VD.t())
            if grad_weight is not None:
                grad_weight.addmm_(probs.t().float(), h.float())
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight_VD.dtype), None, None, None


def token_logprobs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probability (N,) of each target under softmax(hidden @ weight.T / temperature), and the entropy (N,), in nats."""
    chunk = chunk or max(1, CHUNK_LOGITS // weight_VD.shape[0])
    return _ChunkedLogprobs.apply(hidden_ND, weight_VD, targets_N, temperature, chunk)


def weighted_nll(logprob_N: Tensor, weight_N: Tensor) -> Tensor:
    """Negative log-likelihood, averaged over the weights."""
    return -(logprob_N * weight_N).sum() / weight_N.sum().clamp(min=1e-9)


def group_advantages(rewards_G: Tensor, *, scale: bool = False) -> Tensor:
    """Reward minus the group's mean; `scale` divides by the group's standard deviation (original GRPO, biased)."""
    centred = rewards_G - rewards_G.mean()
    return centred / (rewards_G.std(unbiased=False) + 1e-6) if scale else centred


@dataclass(frozen=True, slots=True)
class PolicyTerms:
    """Per-token parts of the policy objective; all tensors (N,)."""

    loss_N: Tensor
    kl_N: Tensor
    ratio_N: Tensor
    clipped_N: Tensor


def policy_terms(
    logprob_N: Tensor,
    advantage_N: Tensor,
    *,
    old_logprob_N: Tensor | None = None,
    sampler_logprob_N: Tensor | None = None,
    reference_logprob_N: Tensor | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    importance_cap: float = 2.0,
    kl: float = 0.0,
    kl_estimator: str = "k3",
) -> PolicyTerms:
    """The clipped surrogate with optional KL and sampler correction, token by token.

    `old_logprob_N` are the trainer's own log-probabilities when the batch was sampled; None means this is
    the batch's first update, where they are `logprob_N` itself and the ratio is exactly 1.
    `sampler_logprob_N` is given only when an external sampler's differ from the trainer's: the loss is then
    weighted by min(exp(old - sampler), importance_cap), which carries no gradient.
    """
    old_N = logprob_N.detach() if old_logprob_N is None else old_logprob_N
    ratio_N = (logprob_N - old_N).exp()
    clipped_ratio_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    surrogate_N = torch.minimum(ratio_N * advantage_N, clipped_ratio_N * advantage_N)
    clipped_N = (clipped_ratio_N * advantage_N < ratio_N * advantage_N).float()
    if sampler_logprob_N is not None:
        surrogate_N = surrogate_N * (old_N - sampler_logprob_N).exp().clamp(max=importance_cap)
    loss_N, kl_N = -surrogate_N, torch.zeros_like(logprob_N)
    if reference_logprob_N is not None:
        kl_N = kl_term(logprob_N, reference_logprob_N, kl_estimator)
        loss_N = loss_N + kl * kl_N
    return PolicyTerms(loss_N, kl_N.detach(), ratio_N.detach(), clipped_N)


def kl_term(logprob_N: Tensor, reference_logprob_N: Tensor, estimator: str) -> Tensor:
    """Per-token estimate of KL(policy || reference) from the policy's own samples. k2: d^2/2; k3: e^-d - 1 + d, d = log p - log q."""
    difference_N = logprob_N - reference_logprob_N
    if estimator == "k2":
        return 0.5 * difference_N.square()
    return (-difference_N).exp() - 1 + difference_N


def preference_loss(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """Bradley-Terry: mean of -log sigmoid(chosen - rejected)."""
    return -F.logsigmoid(chosen_P - rejected_P).mean()
