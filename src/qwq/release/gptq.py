"""GPTQ: integers chosen one column after the other, each column's error made up for by those that
follow (Frantar et al. 2022, arXiv 2210.17323).

Departures from the paper: 1. blocks are calibrated in order on the outputs of the quantised blocks
before them, the four matrices of a block together. 2. Scales are those of rounding to nearest, of a
group when its first column's turn comes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwq.model.layouts import Packed
from qwq.model.names import fused_parts
from qwq.model.rope import rope_tables
from qwq.model.transformer import Transformer
from qwq.release.activations import MATRICES, watching
from qwq.release.affine import from_symmetric, symmetric_scales

COLUMNS = 128  # corrected at a time
DAMPING = 0.01  # of the Hessian's mean diagonal


@torch.no_grad()
def gptq(
    model: Transformer, windows: Sequence[Sequence[int]], bits: int, group: int | None, dtype: torch.dtype
) -> dict[str, tuple[Tensor, Tensor]]:
    """Integers and scales (of type `dtype`) of every linear layer by Hugging Face's name.

    `windows` are the calibration's token ids. The model's own weights are replaced by the quantised
    ones on the way.
    """
    parts = {ours: names for ours, names in fused_parts(model.config)}
    layouts = [Packed([len(ids)]) for ids in windows]
    tables = [rope_tables(layout.positions_N, model.config, None) for layout in layouts]
    states = [model.embed(torch.tensor(ids)) for ids in windows]
    out: dict[str, tuple[Tensor, Tensor]] = {}
    for i, block in enumerate(model.blocks):
        matrices = [getattr(block, kind) for kind in MATRICES]
        hessians = [torch.zeros(m.in_features, m.in_features) for m in matrices]

        def see(j: int, x: Tensor, hessians: list[Tensor] = hessians) -> None:
            hessians[j].addmm_(x.T, x)

        with watching(matrices, see):
            for state, table, layout in zip(states, tables, layouts, strict=True):
                block(state, *table, layout)
        for kind, matrix, hessian in zip(MATRICES, matrices, hessians, strict=True):
            names = parts[f"blocks.{i}.{kind}.weight"]
            sizes = [shape[0] for _, shape in names]
            values, scales = quantise_columns(matrix.weight, hessian, bits, group, dtype)
            matrix.weight.copy_(from_symmetric(values, scales))
            pieces = zip(names, values.split(sizes), scales.split(sizes), strict=True)
            out |= {name: (v, s) for (name, _), v, s in pieces}
        states = [block(state, *table, layout) for state, table, layout in zip(states, tables, layouts, strict=True)]
    return out


def quantise_columns(
    weight_OI: Tensor, hessian_II: Tensor, bits: int, group: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Integers (O, I) and scales (O, G) of one matrix, given the sum of x x^T over its inputs."""
    w, hessian = weight_OI.detach().float().clone(), hessian_II.clone()
    num_columns, half = w.shape[1], 1 << (bits - 1)
    group = group or num_columns
    idle = hessian.diagonal() == 0  # columns whose input is always zero
    hessian.diagonal()[idle] = 1
    w[:, idle] = 0
    hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    values = torch.empty(w.shape, dtype=torch.int8)
    scales = torch.empty(len(w), num_columns // group, dtype=dtype)
    for start in range(0, num_columns, COLUMNS):
        end = min(start + COLUMNS, num_columns)
        errors = torch.empty(len(w), end - start)
        for column in range(start, end):
            if column % group == 0:
                scales[:, column // group] = symmetric_scales(w[:, column : column + group], bits, group)[:, 0].to(
                    dtype
                )
            scale = scales[:, column // group].float()
            q = (w[:, column] / scale).round().clamp(-half, half - 1)
            values[:, column] = q.to(torch.int8)
            error = (w[:, column] - q * scale) / inverse[column, column]
            w[:, column:end] -= error[:, None] * inverse[column, column:end]
            errors[:, column - start] = error
        w[:, end:] -= errors @ inverse[start:end, end:]
    return values, scales
