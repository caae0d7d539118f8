"""Log-probabilities and entropies of tokens under a large vocabulary, and the supervised loss made
of them.

On a CPU the logits of a large vocabulary never exist as whole rows: they come block by block of the
vocabulary, with a running maximum and sum (online softmax, Milakov and Gimelshein 2018, arXiv
1805.02867), and the gradient computes them again (as in Cut Cross-Entropy, Wijmans et al. 2024,
arXiv 2411.09009). A block fits the caches, and is so small that the allocator keeps its memory:
rows of 152k logits are mapped again for every operation, which costs more than the operation.
`python benchmarks/head_loss.py` measures both ways.

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
# Above so many entries a CPU takes the vocabulary in blocks, for so many tokens at a time
# (benchmarks/head_loss.py).
WHOLE_VOCABULARY = 8192
BLOCK_TOKENS, BLOCK_ENTRIES = 512, 4096


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


class _BlockedLogprobs(torch.autograd.Function):
    """What `_ChunkedLogprobs` computes, over blocks of `BLOCK_TOKENS` tokens and `BLOCK_ENTRIES`
    of the vocabulary. Nothing is kept but one number a token.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, temperature: float):
        size = len(weight_VD)
        if bool(((targets_N < 0) | (targets_N >= size)).any()):  # no block has them: they would weigh as a logit of 0
            raise IndexError(
                f"targets are {int(targets_N.min())} to {int(targets_N.max())}, the vocabulary has {size:,} entries"
            )
        found = [
            _blocked_statistics(h, weight_VD, targets, temperature)
            for h, targets in zip(hidden_ND.split(BLOCK_TOKENS), targets_N.split(BLOCK_TOKENS), strict=True)
        ]
        logprob_N, norm_N, entropy_N = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, norm_N)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_N)
        return logprob_N, entropy_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, _entropy_grad: Tensor):
        hidden_ND, weight_VD, targets_N, norm_N = ctx.saved_tensors
        # A frozen head (LoRA) needs no gradient of its own.
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        grads = []
        for s in range(0, len(hidden_ND), BLOCK_TOKENS):
            rows = slice(s, s + BLOCK_TOKENS)
            h, targets, norm = hidden_ND[rows], targets_N[rows], norm_N[rows, None]
            g = grad_N[rows, None] / ctx.temperature
            grad_h = torch.zeros(h.shape, dtype=torch.float32, device=h.device)
            for v in range(0, len(weight_VD), BLOCK_ENTRIES):
                weight = weight_VD[v : v + BLOCK_ENTRIES]
                # d logprob / d logits = onehot(target) - probs
                grad_logits = _logits(h, weight, ctx.temperature).sub_(norm).exp_().mul_(-g)
                inside = ((targets >= v) & (targets < v + len(weight))).nonzero()[:, 0]
                grad_logits[inside, targets[inside] - v] += g[inside, 0]
                grad_logits = grad_logits.to(h.dtype)
                grad_h += product(grad_logits, weight.t())
                if grad_weight is not None:
                    grad_weight[v : v + BLOCK_ENTRIES].addmm_(grad_logits.t().float(), h.float())
            grads.append(grad_h.to(h.dtype))
        return torch.cat(grads), None if grad_weight is None else grad_weight.to(weight_VD.dtype), None, None


def _logits(hidden_ND: Tensor, weight_VD: Tensor, temperature: float) -> Tensor:
    """Tempered logits in float32."""
    logits = product(hidden_ND, weight_VD).float()
    return logits if temperature == 1 else logits.div_(temperature)


def _blocked_statistics(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, log-sum-exp and entropy of each token: (N,) each.

    `mass_N` is the sum of exp(logit - highest), `spread_N` that of exp(logit - highest) (logit -
    highest); both are scaled where a block brings a higher logit. The entropy is log(mass) -
    spread / mass.
    """
    highest_N = torch.full(targets_N.shape, torch.finfo(torch.float32).min, device=hidden_ND.device)
    mass_N, spread_N, target_N = (torch.zeros_like(highest_N) for _ in range(3))
    for v in range(0, len(weight_VD), BLOCK_ENTRIES):
        logits = _logits(hidden_ND, weight_VD[v : v + BLOCK_ENTRIES], temperature)
        at = (targets_N - v).clamp(0, logits.shape[1] - 1)
        inside = (targets_N >= v) & (targets_N < v + logits.shape[1])
        target_N = torch.where(inside, logits.gather(-1, at[:, None])[:, 0], target_N)
        before, highest_N = highest_N, torch.maximum(highest_N, logits.amax(-1))
        logits -= highest_N[:, None]
        probs = logits.exp()
        fell_N = before - highest_N
        scale_N = fell_N.exp()
        spread_N = scale_N * (spread_N + fell_N * mass_N) + logits.mul_(probs).sum(-1)
        mass_N = scale_N * mass_N + probs.sum(-1)
    log_mass_N = mass_N.log()
    norm_N = highest_N + log_mass_N
    return target_N - norm_N, norm_N, log_mass_N - spread_N / mass_N


def token_logprobs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probability (N,) of each target under softmax(hidden @ weight.T / temperature), and the
    entropy (N,), in nats; both in float32. Only the log-probability has a gradient.

    `hidden_ND` and `weight_VD` have one dtype, `targets_N` is int64 in [0, V): another one is an
    IndexError or, whole rows at a time, torch's own error. `chunk`: how many tokens have whole rows
    of logits at a time; None leaves the way to the vocabulary's size and the device.
    """
    if chunk is None and weight_VD.shape[0] > WHOLE_VOCABULARY and hidden_ND.device.type == "cpu" and len(hidden_ND):
        return _BlockedLogprobs.apply(hidden_ND, weight_VD, targets_N, temperature)
    chunk = chunk or max(1, CHUNK_LOGITS // weight_VD.shape[0])
    return _ChunkedLogprobs.apply(hidden_ND, weight_VD, targets_N, temperature, chunk)


def weighted_nll(logprob_N: Tensor, weight_N: Tensor, total: Tensor | None = None) -> Tensor:
    """Negative log-likelihood, averaged over the weights: over `total` where they are a part of a
    batch whose weights sum to that.
    """
    total = weight_N.sum() if total is None else total
    return -(logprob_N * weight_N).sum() / total.clamp(min=1e-9)
