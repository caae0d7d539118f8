"""Weights laid out as the CPU's matrix units read them, for decoding in bfloat16.

A CPU with AMX or AVX-512 BF16 multiplies blocks of a matrix. oneDNN lays a plain weight out again
for every product, which for few rows takes as long as the product; a packed weight is laid out
once. The results are the same within bfloat16's rounding. A packed copy takes as much memory as the
weight, so it is made for a time of decoding and dropped behind it:

    with packed_weights(model): ...      # products without gradients read the packed copies

A copy knows the version of its weight and is passed by once the weight has changed.
`python benchmarks/packed_products.py` measures both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from qwq.common.cpu import has_bfloat16

ROWS = 32  # oneDNN chooses the layout for about so many rows
CAN_PACK = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
)


class PackedWeight:
    """A copy of a weight (out, in) as oneDNN reads it."""

    def __init__(self, weight_OD: Tensor) -> None:
        self.version = weight_OD._version
        self.blocks = torch.ops.mkldnn._reorder_linear_weight(weight_OD.detach(), ROWS)

    def holds(self, weight_OD: Tensor) -> bool:
        """Whether a product may read this copy of `weight_OD`: it has not changed since, and no
        gradient is wanted.
        """
        return self.version == weight_OD._version and not torch.is_grad_enabled()

    def product(self, x_ND: Tensor, bias_O: Tensor | None) -> Tensor:
        """x W^T + b."""
        return torch.ops.mkldnn._linear_pointwise(x_ND, self.blocks, bias_O, "none", [], "")


class HasMatrix(Protocol):
    """A layer's matrix (`linear.Linear`)."""

    weight: Tensor
    packed: PackedWeight | None


class HasMatrices(Protocol):
    """A model (`transformer.Transformer`)."""

    packed_head: PackedWeight | None

    @property
    def head_weight(self) -> Tensor: ...
    def matrices(self) -> Sequence[HasMatrix]: ...


def can_pack(weight: Tensor) -> bool:
    """Whether packing makes products with this weight faster: a whole bfloat16 matrix on a CPU with
    instructions for it.
    """
    # FSDP's weights are in parts, and an inference tensor does not tell when it has changed.
    whole = not hasattr(weight, "device_mesh") and not weight.is_inference()
    return CAN_PACK and whole and weight.device.type == "cpu" and weight.dtype is torch.bfloat16 and has_bfloat16()


@contextmanager
def packed_weights(model: HasMatrices) -> Iterator[None]:
    """While the block runs, the model's products without gradients read packed copies, where that
    is faster. Blocks may be nested; the outermost one makes and drops the copies.
    """
    if model.packed_head is not None or not can_pack(model.head_weight):
        yield
        return
    holders = model.matrices()
    try:
        for holder in holders:
            holder.packed = PackedWeight(holder.weight)
        model.packed_head = PackedWeight(model.head_weight)
        yield
    finally:
        model.packed_head = None
        for holder in holders:
            holder.packed = None
