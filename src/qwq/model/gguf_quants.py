"""The block encodings of GGUF weights: bytes to float32, and floats to the simple ones.

A row of weights is cut into blocks of 32 or 256, each with its own scale. Dimensions: N blocks, B
bytes of a block; a decoder takes (N, B) bytes and gives (N, weights of a block) float32. The work
is done where the bytes lie, a GPU too.

Covers every encoding that models are published in; those with large tables (IQ, TQ and MXFP4) are
decoded by the `gguf` package, which must be installed for them. Written are F32, F16, BF16, Q8_0
and Q4_0; the K-quants are written by llama.cpp's own kernels (`release/k_quants.py`).

Layouts: ggml's block structs (ggml-common.h). The order of the multiplications is that of the
`gguf` package, so the results are the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qwq.errors import ModelError, install_hint


def _half(x_NB: Tensor, at: int) -> Tensor:
    """The float16 at byte `at` of every block, as float32 (N, 1)."""
    return x_NB[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(x_NB: Tensor, group: int) -> Tensor:
    """Each `group` bytes as 2 * `group` values: their low halves, then their high halves. uint8 (N,
    2 B).
    """
    x = x_NB.reshape(len(x_NB), -1, 1, group)
    return torch.cat((x & 15, x >> 4), dim=2).flatten(1)


def _shifted(x: Tensor, step: int, mask: int) -> Tensor:
    """(..., 1, k) bytes to (..., 8 / step, k): bit fields of `step` bits, lowest first."""
    shifts = torch.arange(0, 8, step, dtype=torch.uint8, device=x.device)
    return (x >> shifts[:, None]) & mask


def _five_bits(high_NB: Tensor, low_NB: Tensor) -> Tensor:
    """32 values of five bits: the fifth of value i is bit i of four little-endian bytes."""
    bits = _shifted(high_NB[:, :, None, None], 1, 1).flatten(1)
    return _nibbles(low_NB, 16) | (bits << 4)


def _k_scales(x_NB: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight minima of six bits, packed in twelve bytes."""
    a, b, mixed = x_NB.reshape(len(x_NB), 3, 4).unbind(1)
    scales = torch.cat((a & 63, (mixed & 15) | (a >> 6 << 4)), dim=1)
    minima = torch.cat((b & 63, (mixed >> 4) | (b >> 6 << 4)), dim=1)
    return scales, minima


def _k_values(x_NB: Tensor, values: Tensor) -> Tensor:
    """Values of eight sub-blocks of 32, each with its scale and minimum.

    Computed in place: this is the hot loop.
    """
    scales, minima = _k_scales(x_NB[:, 4:16])
    out = values.view(-1, 8, 32).float()
    out *= (_half(x_NB, 0) * scales)[:, :, None]
    out -= (_half(x_NB, 2) * minima)[:, :, None]
    return out


def _q4_0(x_NB: Tensor) -> Tensor:
    return _half(x_NB, 0) * (_nibbles(x_NB[:, 2:], 16).float() - 8)


def _q4_1(x_NB: Tensor) -> Tensor:
    return _half(x_NB, 0) * _nibbles(x_NB[:, 4:], 16) + _half(x_NB, 2)


def _q5_0(x_NB: Tensor) -> Tensor:
    return _half(x_NB, 0) * (_five_bits(x_NB[:, 2:6], x_NB[:, 6:]).float() - 16)


def _q5_1(x_NB: Tensor) -> Tensor:
    return _half(x_NB, 0) * _five_bits(x_NB[:, 4:8], x_NB[:, 8:]) + _half(x_NB, 2)


def _q8_0(x_NB: Tensor) -> Tensor:
    return _half(x_NB, 0) * x_NB[:, 2:].view(torch.int8)


def _q4_k(x_NB: Tensor) -> Tensor:
    return _k_values(x_NB, _nibbles(x_NB[:, 16:], 32))


def _q5_k(x_NB: Tensor) -> Tensor:
    fifth = _shifted(x_NB[:, None, 16:48], 1, 1).flatten(1)
    return _k_values(x_NB, _nibbles(x_NB[:, 48:], 32) | (fifth << 4))


def _q6_k(x_NB: Tensor) -> Tensor:
    """Sixteen sub-blocks of 16, a signed scale each; four low bits and two high bits of a value
    stand apart.
    """
    high = _shifted(x_NB[:, 128:192].reshape(-1, 2, 1, 32), 2, 3).flatten(1)
    values = (_nibbles(x_NB[:, :128], 64) | (high << 4)).float() - 32
    scales = _half(x_NB, 208) * x_NB[:, 192:208].view(torch.int8)
    return values.view(-1, 16, 16) * scales[:, :, None]


def _q2_k(x_NB: Tensor) -> Tensor:
    """Sixteen sub-blocks of 16, each with a scale and a minimum of four bits."""
    packed = x_NB[:, :16]
    values = _shifted(x_NB[:, 16:80].reshape(-1, 2, 1, 32), 2, 3).reshape(-1, 16, 16).float()
    scales, minima = _half(x_NB, 80) * (packed & 15), _half(x_NB, 82) * (packed >> 4)
    return scales[:, :, None] * values - minima[:, :, None]


def _q3_k(x_NB: Tensor) -> Tensor:
    """Sixteen sub-blocks of 16, scales of six bits; a third bit that is not set means 4 less."""
    high = _shifted(x_NB[:, None, :32], 1, 1).reshape(-1, 16, 16)
    low = _shifted(x_NB[:, 32:96].reshape(-1, 2, 1, 32), 2, 3).reshape(-1, 16, 16)
    four = _shifted(x_NB[:, None, 96:104], 4, 15).flatten(1)
    two = _shifted(x_NB[:, None, 104:108], 2, 3).flatten(1)
    scales = _half(x_NB, 108) * ((four | (two << 4)).float() - 32)
    return scales[:, :, None] * (low.float() - 4 * (1 - high.float()))


# The sixteen values that IQ4_NL chooses from (ggml-common.h, kvalues_iq4nl).
NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _iq4_nl(x_NB: Tensor) -> Tensor:
    table = torch.tensor(NONLINEAR, dtype=torch.float32, device=x_NB.device)
    return _half(x_NB, 0) * table[_nibbles(x_NB[:, 2:], 16).int()]


def _by_package(name: str, number: int) -> Callable[[Tensor], Tensor]:
    """A decoder of the `gguf` package, which has the large tables of these encodings."""

    def decode(x_NB: Tensor) -> Tensor:
        try:
            from gguf import GGMLQuantizationType, quants
        except ImportError:
            raise ModelError(
                f"weights are stored as {name}, which the package gguf decodes, and it is not installed: "
                f"{install_hint('gguf')}"
            ) from None
        with np.errstate(all="ignore"):  # a NaN of a damaged scale is reported where weights are checked
            decoded = quants.dequantize(x_NB.cpu().numpy(), GGMLQuantizationType(number))
        return torch.from_numpy(decoded).float().to(x_NB.device)

    return decode


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a tensor's weights are stored: ggml's number for it, the size of a block, and what
    decodes it.
    """

    name: str
    number: int
    block_weights: int
    block_bytes: int
    decode: Callable[[Tensor], Tensor]

    def num_bytes(self, num_weights: int) -> int:
        return num_weights // self.block_weights * self.block_bytes


# Decoded by the package gguf: ggml's number, weights and bytes of a block.
PACKAGE_ENCODINGS = {
    "IQ2_XXS": (16, 256, 66), "IQ2_XS": (17, 256, 74), "IQ3_XXS": (18, 256, 98), "IQ1_S": (19, 256, 50),
    "IQ3_S": (21, 256, 110), "IQ2_S": (22, 256, 82), "IQ4_XS": (23, 256, 136), "IQ1_M": (29, 256, 56),
    "TQ1_0": (34, 256, 54), "TQ2_0": (35, 256, 66), "MXFP4": (39, 32, 17),
}  # fmt: skip
ENCODINGS: dict[str, Encoding] = {
    e.name: e
    for e in (
        Encoding("F32", 0, 1, 4, lambda x: x.view(torch.float32)),
        Encoding("F16", 1, 1, 2, lambda x: x.view(torch.float16).float()),
        Encoding("BF16", 30, 1, 2, lambda x: x.view(torch.bfloat16).float()),
        Encoding("Q4_0", 2, 32, 18, _q4_0),
        Encoding("Q4_1", 3, 32, 20, _q4_1),
        Encoding("Q5_0", 6, 32, 22, _q5_0),
        Encoding("Q5_1", 7, 32, 24, _q5_1),
        Encoding("Q8_0", 8, 32, 34, _q8_0),
        Encoding("Q2_K", 10, 256, 84, _q2_k),
        Encoding("Q3_K", 11, 256, 110, _q3_k),
        Encoding("Q4_K", 12, 256, 144, _q4_k),
        Encoding("Q5_K", 13, 256, 176, _q5_k),
        Encoding("Q6_K", 14, 256, 210, _q6_k),
        Encoding("IQ4_NL", 20, 32, 18, _iq4_nl),
        *(Encoding(name, *sizes, _by_package(name, sizes[0])) for name, sizes in PACKAGE_ENCODINGS.items()),
    )
}
BY_NUMBER = {e.number: e for e in ENCODINGS.values()}
# Named in messages only.
OTHER_ENCODINGS = {
    9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip


def encoding(name: str) -> Encoding:
    """ModelError, with the names of those that are decoded here, for any other."""
    if name not in ENCODINGS:
        raise ModelError(
            f"weights are stored as {name}; {', '.join(ENCODINGS)} are read here: use a Q4_K_M or Q8_0 file"
        )
    return ENCODINGS[name]


def dequantise(data: Tensor, name: str) -> Tensor:
    """Whole blocks as a flat uint8 tensor to their weights, float32, flat, on the same device.

    ModelError for a part of a block.
    """
    e = encoding(name)
    if data.numel() % e.block_bytes:
        raise ModelError(
            f"{data.numel()} bytes are no whole number of {name} blocks of {e.block_bytes} bytes: fetch or write it "
            "again"
        )
    return e.decode(data.view(-1, e.block_bytes)).flatten()


# -- encoding --------------------------------------------------------------------------------------


def quantise(weights: Tensor, name: str) -> Tensor:
    """Floats to the bytes of F32, F16, BF16, Q8_0 or Q4_0, flat uint8.

    ModelError for another, or where no blocks fit.
    """
    if name not in _ENCODERS:
        raise ModelError(f"{name} is not written here: give one of {', '.join(_ENCODERS)}, or bytes")
    size = ENCODINGS[name].block_weights
    if weights.shape[-1] % size:
        raise ModelError(
            f"rows of {weights.shape[-1]} weights are no whole number of {name} blocks of {size}: write them as F16"
        )
    return _ENCODERS[name](weights.detach().float().reshape(-1, size)).contiguous().view(torch.uint8).flatten()


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0.0, 1.0 / scale)


def _to_q8_0(x: Tensor) -> Tensor:
    scale = x.abs().amax(1, keepdim=True) / 127
    scaled = x * _inverse(scale)
    whole = scaled.abs().floor()
    rounded = scaled.sign() * (whole + (2 * (scaled.abs() - whole)).floor())  # halves away from zero
    return torch.cat((scale.half().view(torch.uint8), rounded.to(torch.int8).view(torch.uint8)), dim=1)


def _to_q4_0(x: Tensor) -> Tensor:
    """The weight farthest from zero becomes exactly -8 of its scale."""
    scale = x.gather(1, x.abs().argmax(1, keepdim=True)) / -8
    low, high = (x * _inverse(scale) + 8.5).clamp(0, 15).to(torch.uint8).chunk(2, dim=1)
    return torch.cat((scale.half().view(torch.uint8), low | (high << 4)), dim=1)


_ENCODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "F32": lambda x: x,
    "F16": lambda x: x.half(),
    "BF16": lambda x: x.bfloat16(),
    "Q8_0": _to_q8_0,
    "Q4_0": _to_q4_0,
}
