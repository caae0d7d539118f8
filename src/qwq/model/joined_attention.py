"""Attention over two sets of keys, a shared prefix and a row's own tokens, without a mask.

Each part is computed by a kernel of its own, and the parts are joined by their log-sum-exps, as in
FlashAttention's split over keys (Dao 2023, arXiv 2307.08691) and ring attention (Liu et al. 2023,
arXiv 2310.01889). The backward pass gives each part's kernel the joined output and log-sum-exp:
with them the kernel's softmax is the one over all keys, so its gradients are exact. Memory is
linear in the number of tokens.

Dimensions: R rows, C tokens of a row, P tokens of the prefix, H query heads, K key/value heads,
G = H / K, E head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_LSE_BLOCK = 32  # the CUDA kernel pads its log-sum-exps to so many queries


def _forward(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention output (B, H, L, E) and log-sum-exp (B, H, L) in float32; as many heads of keys as
    of queries.
    """
    if q.is_cuda:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, causal)
        return out, lse[..., : q.shape[2]]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal)


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; `out` and `lse` may be those of attention over more keys than k."""
    if q.is_cuda:
        padded = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % _LSE_BLOCK), value=float("inf"))
        zero = torch.zeros((), dtype=torch.long, device=q.device)  # no dropout, so no random state
        grads = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
            grad, q, k, v, None, out, padded, zero, zero, 0.0, [True, True, True, False], causal
        )
        return grads[0], grads[1], grads[2]
    # The kernel reads (rows, tokens, heads).
    laid = lse.transpose(1, 2).contiguous().transpose(1, 2)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(grad, q, k, v, out, laid, 0.0, causal)


def _by_prefix(x_RHCE: Tensor, heads: int) -> Tensor:
    """(R, H, C, ...) as one row (1, K, R*G*C, ...): all queries that share a key/value head."""
    R, H, C = x_RHCE.shape[:3]
    return (
        x_RHCE.view(R, heads, H // heads, C, *x_RHCE.shape[3:])
        .transpose(0, 1)
        .reshape(1, heads, R * (H // heads) * C, *x_RHCE.shape[3:])
    )


def _by_row(x: Tensor, rows: int, C: int) -> Tensor:
    """`_by_prefix` undone."""
    heads = x.shape[1]
    groups = x.shape[2] // (rows * C)
    return x.view(heads, rows, groups, C, *x.shape[3:]).transpose(0, 1).reshape(rows, heads * groups, C, *x.shape[3:])


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_RHCE: Tensor, k_RKCE: Tensor, v_RKCE: Tensor, prefix_k_KPE: Tensor, prefix_v_KPE: Tensor
    ) -> Tensor:
        R, H, C, _ = q_RHCE.shape
        K = k_RKCE.shape[1]
        own, own_lse = _forward(
            q_RHCE, k_RKCE.repeat_interleave(H // K, 1), v_RKCE.repeat_interleave(H // K, 1), causal=True
        )
        shared, shared_lse = _forward(_by_prefix(q_RHCE, K), prefix_k_KPE[None], prefix_v_KPE[None], causal=False)
        shared, shared_lse = _by_row(shared, R, C), _by_row(shared_lse, R, C)
        weight = torch.sigmoid(shared_lse - own_lse)[..., None]
        out = torch.lerp(own.float(), shared.float(), weight).to(q_RHCE.dtype)
        ctx.save_for_backward(
            q_RHCE, k_RKCE, v_RKCE, prefix_k_KPE, prefix_v_KPE, out, torch.logaddexp(own_lse, shared_lse)
        )
        return out

    @staticmethod
    def backward(ctx: Any, grad_RHCE: Tensor):
        q, k, v, prefix_k, prefix_v, out, lse = ctx.saved_tensors
        (R, H, C, E), K = q.shape, k.shape[1]
        G = H // K
        grad = grad_RHCE.contiguous()
        grad_q, grad_k, grad_v = _backward(
            grad, q, k.repeat_interleave(G, 1), v.repeat_interleave(G, 1), out, lse, causal=True
        )
        prefix_q, prefix_grad_k, prefix_grad_v = _backward(
            _by_prefix(grad, K), _by_prefix(q, K), prefix_k[None], prefix_v[None], _by_prefix(out, K),
            _by_prefix(lse, K), causal=False,
        )  # fmt: skip
        return (
            grad_q + _by_row(prefix_q, R, C),
            grad_k.view(R, K, G, C, E).sum(2),
            grad_v.view(R, K, G, C, E).sum(2),
            prefix_grad_k[0],
            prefix_grad_v[0],
        )


def joined_attention(
    q_RHCE: Tensor, k_RKCE: Tensor, v_RKCE: Tensor, prefix_k_KPE: Tensor, prefix_v_KPE: Tensor
) -> Tensor:
    """Attention (R, H, C, E) of rows that attend to all of one prefix, and causally to
    themselves.
    """
    return _Joined.apply(q_RHCE, k_RKCE, v_RKCE, prefix_k_KPE, prefix_v_KPE)
