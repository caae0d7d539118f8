"""The engine's GPU half: paged cache, kernels, graphs, quantised weights.

All of it runs on a CPU too, through plain PyTorch, or kernel by kernel through Triton's interpreter
(TRITON_INTERPRET=1, set before anything imports triton). Kernels are written as plain functions
that name `tl`; `jit` compiles one when it is first needed, so nothing here imports triton before
that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from qwq.errors import ConfigError


def interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def wants_kernels(x: Tensor) -> bool:
    """Kernels run where the tensor is on a GPU, or anywhere under the interpreter."""
    return x.is_cuda or interpreting()


@cache
def jit(kernel: Callable[..., None], unspecialised: tuple[str, ...] = ()) -> Any:
    """`kernel` compiled by Triton. Arguments in `unspecialised` change with the batch: one binary
    serves all their values, so a row's arithmetic cannot depend on them.
    """
    try:
        import triton
        import triton.language as tl
    except ImportError:
        raise ConfigError(
            f"kernel {kernel.__name__} needs triton, which is not installed: pip install triton"
        ) from None
    kernel.__globals__["tl"] = tl
    return triton.jit(kernel, do_not_specialize=list(unspecialised))


def launch(
    kernel: Callable[..., None],
    grid: tuple[int, ...],
    *args: Any,
    unspecialised: tuple[str, ...] = (),
    **constants: Any,
) -> None:
    """Run one program of `kernel` for each place of `grid`."""
    # Fused multiply-adds are asked for: their default differs between versions of Triton.
    options = {} if interpreting() else {"enable_fp_fusion": True}
    jit(kernel, unspecialised)[grid](*args, **constants, **options)


def dot_dtype(dtype: torch.dtype) -> Any:
    """What matrix products inside kernels multiply (they add in float32). The interpreter has no
    product of bfloat16.
    """
    import triton.language as tl

    if dtype == torch.float32 or interpreting():
        return tl.float32
    return {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[dtype]


def power_of_two(n: int, least: int = 16) -> int:
    """The power of two at or above n; 16 is the least side of a tensor-core tile."""
    return max(least, 1 << (n - 1).bit_length())
