"""How the batch of a step is divided into passes, and how their gradients become one.

A batch is divided into logical shards, item i into shard i modulo `cluster.shards`; a shard is one
forward and backward pass, or several micro-batches. Their number is the recipe's, so what a pass
computes does not depend on the number of processes, which take the shards in turn. Gradients are
added in float64, figures in the order of the shards.

    WholeBatch      one process without [cluster]: the batch is one shard
    Fixed      whole copies of the weights; the gradients of all shards are gathered and added in
               the order of the shards: bit for bit the same on any number of processes. Each
               process receives as many gradients as there are shards: a checking mode
    Scatter    FSDP2 (`sharded.py`): weights, gradients and moments divided, reduce-scatter

With a context group (`ulysses.py`) its processes compute the same shards, each its own tokens of
every pass: their gradients add up to the pass's.

A part is whatever a caller makes a pass of; P below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from qwq.cluster.ulysses import ContextGroup
from qwq.cluster.world import RankWorld

T = TypeVar("T")
P = TypeVar("P")
Sums = Mapping[str, float]
MESSAGE = 1 << 22  # gradients that a process sends at once, 16 MiB in float32
LARGEST = "_max"  # ending of the names of figures of which the largest counts; others are added


def combined(sums: Sequence[Sums]) -> dict[str, Any]:
    """The figures of all passes, in their order."""
    out: dict[str, Any] = {}
    for one in sums:
        for name, value in one.items():
            out[name] = _larger(out.get(name, value), value) if name.endswith(LARGEST) else out.get(name, 0) + value
    return out


def _larger(a: float, b: float) -> float:
    """The larger number; NaN where one is, which `max` keeps or drops by their order."""
    return b if b > a or math.isnan(b) else a


class WholeBatch:
    """The batch as one shard, on one process; and what the other divisions share.

    `model` has whole weights: it is sampled from, evaluated and saved. `module` is what is trained,
    here the same. `context` are the processes that divide each pass's tokens; None: this one has
    all of them.
    """

    context: ContextGroup | None = None

    def __init__(self, model: nn.Module) -> None:
        self.model = self.module = model

    def shards(self, items: Sequence[T]) -> list[list[T]]:
        """The shards that this process computes, in order; those without items are left out."""
        return [list(items)]

    def blocks(self, num_items: int) -> list[range]:
        """The ranges of items that this process samples, each in one go."""
        return [range(num_items)]

    def masters(self, params: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
        """What the optimiser updates for each of the model's trained parameters: itself, or its
        float32 copy.
        """
        return [p if p.dtype == torch.float32 else nn.Parameter(p.detach().float()) for p in params.values()]

    def gradient(
        self, shards: Sequence[Sequence[P]], one: Callable[[P], Sums], masters: Sequence[nn.Parameter]
    ) -> dict[str, Any]:
        """Compute every pass of the batch, of which `shards` are this process's own; the gradient
        is then in `masters`. Returns the figures of all passes.

        `one` does forward and backward pass of a part and returns its figures.
        """
        return self.figures([[one(part) for part in shard] for shard in shards])

    def figures(self, own: Sequence[Sequence[Sums]]) -> dict[str, Any]:
        """The figures of all shards, from those of this process's own."""
        return combined([part for shard in own for part in shard])

    def clip(self, masters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Scale the gradient to at most this norm; returns the norm that it had."""
        return nn.utils.clip_grad_norm_(masters, max_norm)

    def holds(self, master: Tensor) -> bool:
        """Whether a tensor of the optimiser is whole in every process."""
        return True

    def full(self, value: Tensor) -> Tensor:
        """A tensor of the optimiser, whole; every process takes part."""
        return value

    def own(self, value: Tensor, master: Tensor) -> Tensor:
        """A copy of this process's part of a whole tensor, as `master` is divided."""
        return value.to(master.device, copy=True)


class Fixed(WholeBatch):
    """WholeBatch weights in every process; gradients of shards gathered and added in order."""

    def __init__(
        self, model: nn.Module, world: RankWorld, num_shards: int, context: ContextGroup | None = None
    ) -> None:
        super().__init__(model)
        self.world, self.num_shards, self.context = world, num_shards, context

    def shards(self, items: Sequence[T]) -> list[list[T]]:
        each = self.context.size if self.context else 1
        return [
            list(items[shard :: self.num_shards])
            for shard in range(self.world.rank // each, min(self.num_shards, len(items)), self.world.size // each)
        ]

    def blocks(self, num_items: int) -> list[range]:
        """Consecutive shards of consecutive items; one by one where every bit has to be the same,
        since what is computed together shares its rounding, else as one.
        """
        w = self.world
        first, last = (n * self.num_shards // w.size for n in (w.rank, w.rank + 1))
        edges = [shard * num_items // self.num_shards for shard in range(first, last + 1)]
        if w.config is None or w.config.reduction != "fixed":
            edges = [edges[0], edges[-1]]
        return [range(a, b) for a, b in pairwise(edges) if a < b]

    def gradient(
        self, shards: Sequence[Sequence[P]], one: Callable[[P], Sums], masters: Sequence[nn.Parameter]
    ) -> dict[str, Any]:
        totals = [torch.zeros_like(m, dtype=torch.float64) for m in masters]
        given = torch.zeros(len(masters))
        own: list[list[Sums]] = []
        for turn in range(max(self.world.gather(len(shards)))):
            own.append([one(part) for part in shards[turn]] if turn < len(shards) else [])
            marks = torch.tensor([float(m.grad is not None) for m in masters])
            given = torch.maximum(given, self.world.stack(marks).amax(0))
            for bucket in _buckets(masters):
                self._add(bucket, totals, masters)
        for m, total, mark in zip(masters, totals, given.tolist(), strict=True):
            m.grad = total.to(m.dtype) if mark else None
        return self.figures(own)

    def _add(self, bucket: list[int], totals: list[Tensor], masters: Sequence[nn.Parameter]) -> None:
        """Add the gradients that all processes have of some parameters, and clear this one's."""
        own = []
        for i in bucket:
            own.append((torch.zeros_like(masters[i]) if (g := masters[i].grad) is None else g).flatten())
            masters[i].grad = None
        for row in self.world.stack(torch.cat(own)):
            for i, part in zip(bucket, row.split([len(g) for g in own]), strict=True):
                totals[i] += part.view_as(totals[i])

    def figures(self, own: Sequence[Sequence[Sums]]) -> dict[str, Any]:
        if self.context and self.context.rank:  # the first process of the group has the same ones
            own = [[] for _ in own]
        ranks: list[list[list[Sums]]] = self.world.gather([[dict(part) for part in shard] for shard in own])
        longest = max(map(len, ranks))
        ordered = [rank[turn] for turn in range(longest) for rank in ranks if turn < len(rank)]
        return combined([part for shard in ordered for part in shard])

    def clip(self, masters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        squares = self.squares([m.grad for m in masters if m.grad is not None])
        norm = squares.sqrt()
        scale = max_norm / (float(norm) + 1e-6)
        if scale < 1:
            for m in masters:
                if m.grad is not None:
                    m.grad.mul_(scale)
        return norm

    def squares(self, gradients: Sequence[Tensor]) -> Tensor:
        """The sum of squares of the whole gradient, in float64."""
        found = [g.double().square().sum() for g in gradients]
        return torch.stack(found).sum() if found else torch.zeros((), dtype=torch.float64)


def _buckets(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Places of tensors that go into one message: at most `MESSAGE` numbers, or a single tensor."""
    out: list[list[int]] = []
    room = 0
    for i, tensor in enumerate(tensors):
        if not out or tensor.numel() > room:
            out.append([])
            room = MESSAGE
        out[-1].append(i)
        room -= tensor.numel()
    return out
