"""Weights as small integers: rounding to nearest, and the packings of MLX and compressed-tensors.

Dimensions: O rows and I columns of a matrix, G groups of columns that share a scale. A 32-bit word
holds 32 / bits values, the first in its lowest bits, in both formats.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-7  # MLX's smallest scale


def pack_words(values_OI: Tensor, bits: int) -> Tensor:
    """Unsigned values below 2^bits, packed: int32 (O, I * bits / 32)."""
    per_word = 32 // bits
    shifts = torch.arange(per_word, dtype=torch.int64) * bits
    words = (values_OI.long().unflatten(-1, (-1, per_word)) << shifts).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """Inverse of `pack_words`: int64 values."""
    shifts = torch.arange(32 // bits, dtype=torch.int64) * bits
    return (((words.long() & 0xFFFFFFFF)[..., None] >> shifts) & ((1 << bits) - 1)).flatten(-2)


# -- MLX: a scale and a bias a group ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Affine:
    """w = scale * q + bias by group: `words` int32 (O, I * bits / 32), scales and biases (O, G)."""

    words: Tensor
    scales: Tensor
    biases: Tensor


def affine(weight_OI: Tensor, bits: int, group: int) -> Affine:
    """MLX's affine quantisation (`mx.quantize`): the end of a group's range that is farther from
    zero is met exactly, and zero too where it lies inside.

    Scales and biases have the weight's own type.
    """
    levels = (1 << bits) - 1
    w = weight_OI.float().unflatten(-1, (-1, group))
    low, high = w.aminmax(dim=-1, keepdim=True)
    from_low = low.abs() > high.abs()
    scale = ((high - low) / levels).clamp(min=EPS)
    scale = torch.where(from_low, scale, -scale)
    edge = torch.where(from_low, low, high)
    steps = (edge / scale).round()
    scale = torch.where(steps != 0, edge / steps, scale)
    bias = torch.where(steps != 0, edge, 0.0)
    values = ((w - bias) / scale).round().clamp(0, levels).flatten(-2)
    dtype = weight_OI.dtype
    return Affine(pack_words(values, bits), scale.squeeze(-1).to(dtype), bias.squeeze(-1).to(dtype))


def from_affine(q: Affine, bits: int) -> Tensor:
    """The weights that the integers stand for, float32 (O, I)."""
    values = unpack_words(q.words, bits).float().unflatten(-1, (q.scales.shape[-1], -1))
    return (values * q.scales.float()[..., None] + q.biases.float()[..., None]).flatten(-2)


# -- compressed-tensors: a scale a group, symmetric ------------------------------------------------


def symmetric_scales(weight_OI: Tensor, bits: int, group: int) -> Tensor:
    """Scales (O, G), float32: the largest weight of a group is the largest integer of the smaller
    side's range plus a half.

    compressed-tensors' rule for min-max observers: twice the largest magnitude over 2^bits - 1.
    """
    largest = weight_OI.float().unflatten(-1, (-1, group)).abs().amax(-1)
    return (2 * largest / ((1 << bits) - 1)).clamp(min=torch.finfo(torch.float32).eps)


def symmetric_values(weight_OI: Tensor, scales_OG: Tensor, bits: int) -> Tensor:
    """Signed integers, int8 (O, I), by rounding to nearest."""
    half = 1 << (bits - 1)
    w = weight_OI.float().unflatten(-1, (scales_OG.shape[-1], -1))
    return (w / scales_OG.float()[..., None]).round().clamp(-half, half - 1).to(torch.int8).flatten(-2)


def from_symmetric(values_OI: Tensor, scales_OG: Tensor) -> Tensor:
    """The weights that the integers stand for, float32 (O, I)."""
    values = values_OI.float().unflatten(-1, (scales_OG.shape[-1], -1))
    return (values * scales_OG.float()[..., None]).flatten(-2)
