"""The scatter reduction: FSDP2's `fully_shard` over the blocks and then the rest, on gloo or NCCL.

A copy of the model in float32 is divided over the processes; it is what is trained. A layer is
gathered for its forward and backward pass, in `compute.dtype`. The whole weights of `model` follow
after each step: every process samples from them, the first one evaluates and saves them. So each
process holds one whole copy of the weights besides its share of weights, gradients and moments.

All processes have to take part in the same number of passes. One with fewer shards than another
computes an idle pass of one token, whose gradient is 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from qwq.cluster.division import Fixed, Sums
from qwq.cluster.ulysses import ContextGroup
from qwq.cluster.world import RankWorld
from qwq.model.layouts import Packed
from qwq.model.transformer import Block, Transformer

P = TypeVar("P")


class Scatter(Fixed):
    """Weights, gradients and moments divided over the processes."""

    def __init__(
        self, model: nn.Module, world: RankWorld, num_shards: int, context: ContextGroup | None = None
    ) -> None:
        super().__init__(model, world, num_shards, context)
        self.module = sharded(model, world.size)
        # On GPUs no process holds a whole gradient; on a CPU one message a step is less to wait
        # for, and gradients of passes are added in float64.
        self.each_pass = next(model.parameters()).device.type != "cpu"

    def masters(self, params: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
        own = dict(self.module.named_parameters())
        return [own[name] for name in params]

    def gradient(
        self, shards: Sequence[Sequence[P]], one: Callable[[P], Sums], masters: Sequence[nn.Parameter]
    ) -> dict[str, Any]:
        module = cast(FSDPModule, self.module)
        passes = [(turn, part) for turn, shard in enumerate(shards) for part in shard]
        num_turns = max(self.world.gather(len(passes)))
        own: list[list[Sums]] = [[] for _ in shards]
        for i in range(num_turns):
            module.set_requires_gradient_sync(i == num_turns - 1 or self.each_pass)
            if i < len(passes):
                turn, part = passes[i]
                own[turn].append(one(part))
            else:
                _idle_pass(self.module)
        return self.figures(own)

    def squares(self, gradients: Sequence[Tensor]) -> Tensor:
        own = super().squares([cast(DTensor, g).to_local() for g in gradients])
        return self.world.summed(own)

    def holds(self, master: Tensor) -> bool:
        return not isinstance(master, DTensor)

    def full(self, value: Tensor) -> Tensor:
        return value.full_tensor() if isinstance(value, DTensor) else value

    def own(self, value: Tensor, master: Tensor) -> Tensor:
        master = cast(DTensor, master)
        if value.shape != master.shape:  # the optimiser's number of steps
            return value.to(master.device, copy=True)
        whole = value.to(master.device, master.dtype, copy=True)
        return distribute_tensor(whole, master.device_mesh, master.placements, src_data_rank=None)


def sharded(model: nn.Module, size: int) -> nn.Module:
    """A copy of `model` divided over `size` processes, float32, computed in the type of `model`."""
    device = next(model.parameters()).device.type
    dtype = next(model.parameters()).dtype
    # Float64 on gloo, so that the order in which processes are added up changes next to nothing.
    reduce = torch.float64 if device == "cpu" else torch.float32
    mesh = init_device_mesh(device, (size,))
    exact = [name for name, m in model.named_modules() if _is_float32(m) and dtype != torch.float32]
    module = copy.deepcopy(model).float()
    for name in exact:
        fully_shard(module.get_submodule(name), mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=reduce))
    policy = MixedPrecisionPolicy(None if dtype == torch.float32 else dtype, reduce)
    for block in [m for m in module.modules() if isinstance(m, Block)]:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)  # losses are parts of the batch's: a sum, not a mean
    return module


def _is_float32(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and all(p.dtype == torch.float32 for p in own)


def _idle_pass(module: nn.Module) -> None:
    """Forward and backward pass of one token with gradient 0, through what a real one goes
    through.
    """
    if not isinstance(module, Transformer):  # a reward model scores sequences
        (module([[0]]).sum() * 0).backward()
        return
    hidden = module(torch.zeros(1, dtype=torch.long, device=module.device), Packed([1], module.device))
    (hidden.sum() * 0 + module.head_weight.sum() * 0).backward()
