"""Log-probabilities and entropies of tokens under a large vocabulary, and the supervised loss made
of them.

Dimensions: N flat tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qwq.model.linear import product

CHUNK_LOGITS = (
    1 << 24
)  # logits held at once by token_logprobs: 64 MB in float32; fewer would read a large head's matrix too often
KEPT_PROBS = (
    1 << 26
)  # probabilities that the forward pass keeps, 256 MB in float32: a batch that needs no more computes its logits once


class _ChunkedLogprobs(torch.autograd.Function):
    """log softmax(h W^T / T) at the targets, and the entropy, without ever holding more than
    `KEPT_PROBS` of the N x V logits.

    A small batch keeps its probabilities for the backward pass. A larger one keeps one number a
    token, and the backward pass computes each chunk's logits again. The entropy carries no
    gradient.
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
    """Log-probability (N,) of each target under softmax(hidden @ weight.T / temperature), and the
    entropy (N,), in nats.
    """
    chunk = chunk or max(1, CHUNK_LOGITS // weight_VD.shape[0])
    return _ChunkedLogprobs.apply(hidden_ND, weight_VD, targets_N, temperature, chunk)


def weighted_nll(logprob_N: Tensor, weight_N: Tensor, total: Tensor | None = None) -> Tensor:
    """Negative log-likelihood, averaged over the weights: over `total` where they are a part of a
    batch whose weights sum to that.
    """
    total = weight_N.sum() if total is None else total
    return -(logprob_N * weight_N).sum() / total.clamp(min=1e-9)
