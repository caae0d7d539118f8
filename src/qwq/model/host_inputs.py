"""Layer inputs kept in host memory while a pass computes, for sequences whose inputs alone fill a
GPU.

With `recompute` a layer keeps its input and computes the rest again in the backward pass. Under
`kept_on_host` that input is copied to the host, its place on the device is free for the next
layers, and it comes back when the backward pass reaches the layer. Copies run in the order of the
device's stream, so nothing is read or freed too early; they do not overlap with products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Kept = Tensor | tuple[torch.device, Tensor]


@contextmanager
def kept_on_host(x: Tensor) -> Iterator[None]:
    """What autograd saves of `x` in the block lies in host memory; all else stays where it is."""

    place, shape = x.data_ptr(), x.shape
    del x  # autograd keeps these functions, and with them what they name

    def pack(saved: Tensor) -> Kept:
        if saved.data_ptr() != place or saved.shape != shape:
            return saved
        copy = torch.empty(saved.shape, dtype=saved.dtype, pin_memory=saved.is_cuda)
        return saved.device, copy.copy_(saved, non_blocking=True)

    def unpack(kept: Kept) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        device, copy = kept
        return copy.to(device, non_blocking=True)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
