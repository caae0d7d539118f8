"""The tokens of a pass divided over several processes, for sequences that one of them cannot hold.

Each process of a context group computes consecutive tokens. Everything but attention treats tokens
one by one. For attention one all-to-all gives each process all tokens of its share of the heads,
and another one takes the outputs back (DeepSpeed Ulysses, Jacobs et al. 2023, arXiv 2309.14509). A
layout therefore attends as it does on one process, over fewer heads, and its gradient is exact.
Activations are 1 / size of those of one process; heads and key/value heads have to divide by it.

Dimensions: N tokens of a pass, n of them in this process, C processes of the group, H query heads,
K key/value heads, E head width, M predicted tokens, W any width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from qwq.model.transformer import Layout


class ContextGroup:
    """The `size` processes that divide the tokens of a pass; this one has place `rank` in it."""

    def __init__(self, rank: int, size: int, group: Any) -> None:
        self.rank, self.size, self.group = rank, size, group

    def bounds(self, num_tokens: int) -> list[int]:
        """Where each process's tokens begin, and the end: C + 1 numbers."""
        return [num_tokens * rank // self.size for rank in range(self.size + 1)]

    def own(self, num_tokens: int) -> slice:
        """The tokens of this process."""
        bounds = self.bounds(num_tokens)
        return slice(bounds[self.rank], bounds[self.rank + 1])

    def share(self, places_M: Tensor, num_tokens: int) -> tuple[slice, list[int]]:
        """Which of the ascending `places_M` among the `num_tokens` of a pass are this process's
        tokens, and how many each process has.
        """
        bounds = torch.tensor(self.bounds(num_tokens), device=places_M.device)
        ends = torch.searchsorted(places_M, bounds).tolist()
        return slice(ends[self.rank], ends[self.rank + 1]), [b - a for a, b in pairwise(ends)]

    def joined(self, own_WM: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all processes, (W, M) in the order of the tokens, from this one's own and
        how many columns each has. Only this process's own carry a gradient.
        """
        sent = own_WM.new_zeros(len(own_WM), max(counts))
        sent[:, : counts[self.rank]] = own_WM.detach()
        parts = [torch.empty_like(sent) for _ in counts]
        dist.all_gather(parts, sent, group=self.group)
        whole = [part[:, :count] for part, count in zip(parts, counts, strict=True)]
        whole[self.rank] = own_WM
        return torch.cat(whole, 1)


class DividedLayout:
    """The layout of all N tokens, of which this process has its own n."""

    def __init__(self, whole: Layout, context: ContextGroup) -> None:
        self.whole, self.context = whole, context
        num_tokens = len(whole.positions_N)
        self.positions_N = whole.positions_N[context.own(num_tokens)]
        self.counts = [b - a for a, b in pairwise(context.bounds(num_tokens))]

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        size = self.context.size
        shares = [x.unflatten(1, (size, x.shape[1] // size)) for x in (q_NHE, k_NKE, v_NKE)]
        heads = [x.shape[2] for x in shares]
        # Queries, keys and values in one message: exchanges come in the same order everywhere.
        own_NhE = _Exchange.apply(torch.cat(shares, 2).flatten(2), self.counts, self.context, True).unflatten(
            1, (sum(heads), q_NHE.shape[2])
        )
        out = self.whole.attend(layer, *own_NhE.split(heads, 1))
        return _Exchange.apply(out, self.counts, self.context, False).flatten(1)


class _Exchange(torch.autograd.Function):
    """Own tokens with all shares of the heads, (n, C, W), to all tokens with this process's share,
    (N, W); or back. Each direction is the other's gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int], context: ContextGroup, to_heads: bool) -> Tensor:
        ctx.counts, ctx.context, ctx.to_heads = counts, context, to_heads
        return (_to_heads if to_heads else _to_tokens)(x, counts, context)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        return (_to_tokens if ctx.to_heads else _to_heads)(grad, ctx.counts, ctx.context), None, None, None


def _to_heads(x_nCW: Tensor, counts: list[int], context: ContextGroup) -> Tensor:
    n, C, W = x_nCW.shape
    received_NW = x_nCW.new_empty(sum(counts), W)
    sent = x_nCW.transpose(0, 1).contiguous().view(C * n, W)
    dist.all_to_all_single(received_NW, sent, counts, [n] * C, group=context.group)
    return received_NW


def _to_tokens(x_NW: Tensor, counts: list[int], context: ContextGroup) -> Tensor:
    n, C, W = counts[context.rank], context.size, x_NW.shape[1]
    received = x_NW.new_empty(C * n, W)
    dist.all_to_all_single(received, x_NW.contiguous(), [n] * C, counts, group=context.group)
    return received.view(C, n, W).transpose(0, 1)
