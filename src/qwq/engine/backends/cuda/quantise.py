"""Weights in 8 or 4 bits, activations as they are: a decode step reads every weight once, so fewer
bytes are less time.

int8: w = q * scale, one scale a row of the matrix (LLM.int8's absmax rule, Dettmers et al. 2022,
arXiv 2208.07339). int4: w = (q - zero) * scale, one scale and zero for `group` inputs of a row (the
grid of GPTQ, Frantar et al. 2022, arXiv 2210.17323, with plain rounding). Either way a weight moves
by at most half a scale.

Two 4-bit numbers share a byte: of each group, byte j holds input j in its low half and input j +
group/2 in its high half, so that a kernel multiplies both halves without shuffling.

Dimensions: M rows of activations, I inputs, O outputs, P = I / group groups.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwq.engine.backends.cuda import dot_dtype, launch, wants_kernels
from qwq.errors import ConfigError
from qwq.model.transformer import Transformer

GROUP = 128
KERNEL_ROWS = 64  # beyond it, one pass that dequantises the matrix and a plain product are faster
TILE_M, TILE_O, TILE_I = 16, 32, 128
tl: Any = None  # triton.language, once a kernel is compiled


class QuantLinear(nn.Module):
    """A linear layer of quantised weights, made from `weight_OI` and an optional `bias_O`, in the
    dtype it will run in. Not trainable.

    `symmetric` (int4 only) fixes zero at 8; otherwise a group's grid spans from its least to its
    greatest weight.
    """

    q: Tensor
    scale: Tensor
    zero: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight_OI: Tensor,
        bias_O: Tensor | None = None,
        *,
        bits: int = 4,
        group: int = GROUP,
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        if bits not in (4, 8):
            raise ConfigError(f"quantisation to {bits} bits is not computed here: choose 8 or 4")
        self.bits, self.dtype = bits, weight_OI.dtype
        self.out_features, self.in_features = weight_OI.shape
        # A narrow layer gets smaller groups: the greatest power of two that divides its width.
        self.group = math.gcd(group, self.in_features) if bits == 4 else self.in_features
        if bits == 4 and (group & (group - 1) or self.group % 2):
            raise ConfigError(
                f"{self.in_features} inputs in groups of {group}: 4 bits need an even width and a power of two; "
                "or use 8 bits"
            )
        packed = _quantise_int8(weight_OI) if bits == 8 else _quantise_int4(weight_OI, self.group, symmetric)
        for name, tensor in zip(("q", "scale", "zero"), packed, strict=True):
            self.register_buffer(name, tensor)
        self.register_buffer("bias", None if bias_O is None else bias_O.detach().clone())

    @property
    def weight(self) -> Tensor:
        """The matrix (O, I) that the layer multiplies with, in the original dtype."""
        if self.bits == 8:
            return (self.q * self.scale[:, None]).to(self.dtype)
        q_OPJ = self.q.view(self.out_features, -1, self.group // 2)
        q_OPI = torch.cat((q_OPJ & 15, q_OPJ >> 4), -1).float() - self.zero[:, :, None]
        return (q_OPI * self.scale[:, :, None]).view(self.out_features, self.in_features).to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.numel() // self.in_features
        tiles = self.bits == 8 or self.group >= 32  # half a group must fill a tensor-core tile
        if wants_kernels(x) and tiles and rows <= KERNEL_ROWS:
            return quant_matmul(x.reshape(rows, self.in_features), self).view(*x.shape[:-1], self.out_features)
        return F.linear(x, self.weight.to(x.dtype), self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, group={self.group}"


def _quantise_int8(weight_OI: Tensor) -> tuple[Tensor, Tensor, None]:
    w_OI = weight_OI.detach().float()
    scale_O = w_OI.abs().amax(1) / 127
    scale_O = torch.where(scale_O > 0, scale_O, 1.0)
    return (w_OI / scale_O[:, None]).round().clamp(-127, 127).to(torch.int8), scale_O, None


def _quantise_int4(weight_OI: Tensor, group: int, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    w_OPI = weight_OI.detach().float().unflatten(1, (-1, group))
    span_OP = w_OPI.amax(2).clamp(min=0) - w_OPI.amin(2).clamp(max=0)
    scale_OP = w_OPI.abs().amax(2) / 7 if symmetric else span_OP / 15
    scale_OP = torch.where(scale_OP > 0, scale_OP, 1.0).to(weight_OI.dtype)
    scale_OP1 = scale_OP.float()[:, :, None]  # as stored, so that its own rounding costs the weights nothing
    zero_OP1 = (
        torch.full_like(scale_OP1, 8) if symmetric else (-w_OPI.amin(2, keepdim=True).clamp(max=0) / scale_OP1).round()
    )
    q_OPI = ((w_OPI / scale_OP1).round() + zero_OP1).clamp(0, 15).to(torch.uint8)
    low_OPJ, high_OPJ = q_OPI.chunk(2, dim=2)
    return (low_OPJ | high_OPJ << 4).flatten(1), scale_OP, zero_OP1[:, :, 0].to(torch.uint8)


def quantise_model(model: Transformer, bits: int, *, head: bool = False, group: int = GROUP) -> Transformer:
    """Replace the linear layers of all blocks, and the head if asked, in place, one at a time.
    Norms and embedding stay.
    """
    if head and model.head is None:
        raise ConfigError("the head is the embedding itself in this model: quantise without head")
    places = [(block, name) for block in model.blocks for name in ("qkv", "o", "gate_up", "down")]
    for owner, name in places + ([(model, "head")] if head else []):
        linear = getattr(owner, name)
        setattr(owner, name, QuantLinear(linear.weight, linear.bias, bits=bits, group=group))
    return model


def quant_matmul(x_MI: Tensor, layer: QuantLinear) -> Tensor:
    """x w^T + bias by a kernel that dequantises in registers: (M, O). Tiles are fixed, so a row
    does not depend on M.
    """
    x_MI = x_MI.contiguous()
    M, I, O = len(x_MI), layer.in_features, layer.out_features  # noqa: E741
    out_MO = torch.empty((M, O), device=x_MI.device, dtype=x_MI.dtype)
    grid = (-(-M // TILE_M), -(-O // TILE_O))
    tiles = {"TILE_M": TILE_M, "TILE_O": TILE_O, "HAS_BIAS": layer.bias is not None, "DOT": dot_dtype(x_MI.dtype)}
    bias = layer.scale if layer.bias is None else layer.bias  # a pointer that is not read
    if layer.bits == 8:
        launch(
            _int8_kernel, grid, x_MI, layer.q, layer.scale, bias, out_MO, M, O, I,
            TILE_I=TILE_I, **tiles, unspecialised=("num_rows",),
        )  # fmt: skip
    else:
        launch(
            _int4_kernel, grid, x_MI, layer.q, layer.scale, layer.zero, bias, out_MO, M, O, I,
            GROUP=layer.group, **tiles, unspecialised=("num_rows",),
        )  # fmt: skip
    return out_MO


def _int8_kernel(
    x, q, scale, bias, out, num_rows, num_out, num_in,
    TILE_M: tl.constexpr, TILE_O: tl.constexpr, TILE_I: tl.constexpr, HAS_BIAS: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """One program: TILE_M rows times TILE_O outputs. 8-bit integers are exact in bfloat16; the
    scale comes last.
    """
    m = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    o = tl.program_id(1) * TILE_O + tl.arange(0, TILE_O)
    acc_MO = tl.zeros((TILE_M, TILE_O), tl.float32)
    for first in range(0, num_in, TILE_I):
        i = first + tl.arange(0, TILE_I)
        x_MI = tl.load(
            x + m[:, None] * num_in + i[None, :], mask=(m[:, None] < num_rows) & (i[None, :] < num_in), other=0.0
        )
        at_IO = o[None, :].to(tl.int64) * num_in + i[:, None]
        q_IO = tl.load(q + at_IO, mask=(o[None, :] < num_out) & (i[:, None] < num_in), other=0)
        acc_MO = tl.dot(x_MI.to(DOT), q_IO.to(DOT), acc_MO, input_precision="ieee")
    acc_MO = acc_MO * tl.load(scale + o, mask=o < num_out, other=0.0)[None, :]
    if HAS_BIAS:
        acc_MO += tl.load(bias + o, mask=o < num_out, other=0.0).to(tl.float32)[None, :]
    inside = (m[:, None] < num_rows) & (o[None, :] < num_out)
    tl.store(out + m[:, None] * num_out + o[None, :], acc_MO.to(out.dtype.element_ty), mask=inside)


def _int4_kernel(
    x, q, scale, zero, bias, out, num_rows, num_out, num_in,
    TILE_M: tl.constexpr, TILE_O: tl.constexpr, GROUP: tl.constexpr, HAS_BIAS: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """The same over groups of inputs: q - zero is a small integer, exact in bfloat16; each group's
    sum is scaled.
    """
    HALF: tl.constexpr = GROUP // 2
    m = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    o = tl.program_id(1) * TILE_O + tl.arange(0, TILE_O)
    j = tl.arange(0, HALF)
    num_groups = num_in // GROUP
    in_rows, in_out = m[:, None] < num_rows, o < num_out
    acc_MO = tl.zeros((TILE_M, TILE_O), tl.float32)
    for p in range(0, num_groups):
        at_MJ = m[:, None] * num_in + p * GROUP + j[None, :]
        low_x_MJ = tl.load(x + at_MJ, mask=in_rows, other=0.0).to(DOT)
        high_x_MJ = tl.load(x + at_MJ + HALF, mask=in_rows, other=0.0).to(DOT)
        at_JO = o[None, :].to(tl.int64) * (num_in // 2) + p * HALF + j[:, None]
        bytes_JO = tl.load(q + at_JO, mask=in_out[None, :], other=0)
        zero_O = tl.load(zero + o * num_groups + p, mask=in_out, other=0).to(tl.float32)[None, :]
        scale_O = tl.load(scale + o * num_groups + p, mask=in_out, other=0.0).to(tl.float32)
        low_JO = ((bytes_JO & 15).to(tl.float32) - zero_O).to(DOT)
        high_JO = ((bytes_JO >> 4).to(tl.float32) - zero_O).to(DOT)
        part_MO = tl.dot(low_x_MJ, low_JO, input_precision="ieee")
        part_MO = tl.dot(high_x_MJ, high_JO, part_MO, input_precision="ieee")
        acc_MO += part_MO * scale_O[None, :]
    if HAS_BIAS:
        acc_MO += tl.load(bias + o, mask=in_out, other=0.0).to(tl.float32)[None, :]
    tl.store(out + m[:, None] * num_out + o[None, :], acc_MO.to(out.dtype.element_ty), mask=in_rows & in_out[None, :])
