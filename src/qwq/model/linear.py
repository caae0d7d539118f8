"""Matrix products on a CPU, where training and decoding spend their time.

A BLAS picks its kernel by shape, and `x @ W.T` with 1 to 24 rows of x falls between matrix-vector
and matrix-matrix code. On AMD's CPUs it reads W at 5 to 17 GB/s where memory gives 30; the same
product written `W @ x.T` has the long side in front and comes close to memory's rate, a single row
best as two equal ones. On Intel's CPUs with AVX-512 MKL reads W at memory's rate for up to three
rows of float32, and `W @ x.T` helps from eight rows on, and in bfloat16 up to eight. The numbers
behind the limits below are printed by `python benchmarks/narrow_products.py`. Only products on CPUs
without gradients go this way.

torch multiplies float32 by MKL, which uses half of the vector width of AMD's CPUs with AVX-512.
oneDNN, which torch brings along for the kernels of its compiler, uses all of it: twice the rate,
forward and backward, for any number of rows (`python benchmarks/products.py`). Large weights go
through it there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwq.common.cpu import has_tiles, mkl_is_fast, mkl_is_slow
from qwq.model.packed import PackedWeight

MOST_ROWS = 24  # beyond it F.linear is as fast
AT_ONCE = 7  # rows of one product; up to SPLIT_ROWS, blocks of 4 are faster than one product
SPLIT_ROWS = 12
ONEDNN = mkl_is_slow() and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
LEAST_WIDTH = 512  # of a weight's sides, for oneDNN
MKL_IS_FAST, TILES = mkl_is_fast(), has_tiles()
TURNED_ROWS, TURNED_WIDTH = 8, 768  # least rows and inputs with which W x^T is faster in float32 where MKL is fast
TILE_ROWS = 8  # up to here it is faster in bfloat16 on tiles, for weights of LEAST_WIDTH inputs
FEW_ROWS = 4  # up to here the way of few rows is as fast, or faster, where a weight has more outputs than inputs


def _by_onednn(x_ND: Tensor, weight_OD: Tensor) -> bool:
    return (
        ONEDNN
        and x_ND.dtype is torch.float32
        and weight_OD.dtype is torch.float32
        and x_ND.device.type == "cpu"
        and x_ND.ndim == 2
        and min(weight_OD.shape) >= LEAST_WIDTH
        and len(x_ND) > 0
    )


def product(x_ND: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`F.linear` without a gradient, by the faster library.

    Transposed matrices are read as they lie.
    """
    if _by_onednn(x_ND, weight_OD):
        return torch.ops.mkldnn._linear_pointwise(x_ND, weight_OD, bias_O, "none", [], "")
    return F.linear(x_ND, weight_OD, bias_O)


class _Product(torch.autograd.Function):
    """x W^T + b with both of its gradients by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_OD: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_ND, weight_OD)
        return product(x_ND, weight_OD, bias_O)

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor):
        x_ND, weight_OD = ctx.saved_tensors
        grad_NO = grad_NO.contiguous()
        grad_x = product(grad_NO, weight_OD.t()) if ctx.needs_input_grad[0] else None
        grad_weight = (
            torch.ops.mkldnn._linear_pointwise(grad_NO.t(), x_ND.t(), None, "none", [], "")
            if ctx.needs_input_grad[1]
            else None
        )
        return grad_x, grad_weight, grad_NO.sum(0) if ctx.needs_input_grad[2] else None


def linear(x_ND: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`F.linear` for flat tokens: (N, O)."""
    num_rows = x_ND.shape[0]
    learning = torch.is_grad_enabled() and (x_ND.requires_grad or weight_OD.requires_grad)
    widening = weight_OD.shape[0] > weight_OD.shape[1]
    if _by_onednn(x_ND, weight_OD) and (learning or num_rows > FEW_ROWS or not widening):
        return _Product.apply(x_ND, weight_OD, bias_O) if learning else product(x_ND, weight_OD, bias_O)
    if not _by_transposed_product(x_ND, weight_OD):
        return F.linear(x_ND, weight_OD, bias_O)
    if num_rows == 1:
        out_NO = torch.mm(weight_OD, torch.cat((x_ND, x_ND)).t()).t()[:1]
    elif MKL_IS_FAST or (num_rows <= AT_ONCE and (widening or num_rows < 6)) or num_rows > SPLIT_ROWS:
        out_NO = torch.mm(weight_OD, x_ND.t()).t()
    elif widening:
        chunks = x_ND.tensor_split(-(-num_rows // 4))
        out_NO = torch.cat([torch.mm(weight_OD, chunk.t()).t() for chunk in chunks])
    else:
        return F.linear(x_ND, weight_OD, bias_O)
    out_NO = out_NO.contiguous()
    return out_NO if bias_O is None else out_NO.add_(bias_O)


def _by_transposed_product(x_ND: Tensor, weight_OD: Tensor) -> bool:
    """Whether W x^T may be quicker than x W^T: a few rows on a CPU, without gradients."""
    num_rows, width, dtype = len(x_ND), weight_OD.shape[1], x_ND.dtype
    if x_ND.ndim != 2 or not 0 < num_rows <= MOST_ROWS or x_ND.device.type != "cpu" or torch.is_grad_enabled():
        return False
    if dtype is torch.bfloat16:
        return TILES and weight_OD.dtype is dtype and num_rows <= TILE_ROWS and width >= LEAST_WIDTH
    return dtype is torch.float32 and (not MKL_IS_FAST or (num_rows >= TURNED_ROWS and width >= TURNED_WIDTH))


class Linear(nn.Linear):
    """nn.Linear by `linear`, or by a packed copy of its weight while there is one."""

    packed: PackedWeight | None = None  # see `packed.packed_weights`

    def forward(self, input: Tensor) -> Tensor:
        if self.packed is not None and self.packed.holds(self.weight):
            return self.packed.product(input, self.bias)
        return linear(input, self.weight, self.bias)
