"""Which division a run's recipe asks for."""

from __future__ import annotations

from torch import nn

from qwq.cluster.division import Fixed, WholeBatch
from qwq.cluster.world import RankWorld


def divide(model: nn.Module, world: RankWorld, *, tokens: bool = False) -> WholeBatch:
    """The division of the batches that `model` is trained on. `tokens`: who computes them divides
    each pass by `division.context`, where the recipe asks for it.
    """
    config = world.config
    if config is None:
        return WholeBatch(model)
    context = world.context if tokens else None
    if config.reduction == "fixed" or world.size == 1:
        return Fixed(model, world, config.shards, context)
    from qwq.cluster.sharded import Scatter  # FSDP2 is imported where it is used

    return Scatter(model, world, config.shards, context)
