"""Matrix products of few rows on a CPU, where decoding spends its time.

A BLAS picks its kernel by shape, and `x @ W.T` with 1 to 24 rows of x falls between matrix-vector and matrix-matrix code: on
the machines of `docs/lab_log.md` it reads W at 5 to 17 GB/s where memory gives 30. The same product written `W @ x.T` has the
long side in front and comes close to memory's rate, a single row best as two equal ones. The numbers behind
the limits below are printed by `python benchmarks/narrow_products.py`. Only float32 on CPUs without gradients goes
this way; everything else is F.linear.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_ROWS = 24  # beyond it F.linear is as fast
AT_ONCE = 7  # rows of one product; up to SPLIT_ROWS, lots of 4 are faster than one product
SPLIT_ROWS = 12


def linear(x_ND: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`F.linear` for flat tokens: (N, O)."""
    num_rows = x_ND.shape[0]
    if (
        num_rows > MOST_ROWS or num_rows == 0 or x_ND.ndim != 2 or torch.is_grad_enabled()
        or x_ND.dtype is not torch.float32 or x_ND.device.type != "cpu"
    ):  # fmt: skip
        return F.linear(x_ND, weight_OD, bias_O)
    widening = weight_OD.shape[0] > weight_OD.shape[1]
    if num_rows == 1:
        out_NO = torch.mm(weight_OD, torch.cat((x_ND, x_ND)).t()).t()[:1]
    elif num_rows <= AT_ONCE and (widening or num_rows < 6) or num_rows > SPLIT_ROWS:
        out_NO = torch.mm(weight_OD, x_ND.t()).t()
    elif widening:
        lots = -(-num_rows // 4)
        out_NO = torch.cat([torch.mm(weight_OD, lot.t()).t() for lot in x_ND.tensor_split(lots)])
    else:
        return F.linear(x_ND, weight_OD, bias_O)
    out_NO = out_NO.contiguous()
    return out_NO if bias_O is None else out_NO.add_(bias_O)


class Linear(nn.Linear):
    """nn.Linear by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
