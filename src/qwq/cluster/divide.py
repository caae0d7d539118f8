"""Which division a run's recipe asks for."""

from __future__ import annotations

from torch import nn

from qwq.cluster.division import Fixed, WholeBatch
from qwq.cluster.world import RankWorld


def divide(model: nn.Module, world: RankWorld) -> WholeBatch:
    """The division of the batches that `model` is trained on."""
    config = world.config
    if config is None:
        return WholeBatch(model)
    if config.reduction == "fixed" or world.size == 1:
        return Fixed(model, world, config.shards)
    from qwq.cluster.sharded import Scatter  # FSDP2 is imported where it is used

    return Scatter(model, world, config.shards)
