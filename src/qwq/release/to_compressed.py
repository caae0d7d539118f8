"""Folders of compressed-tensors, which vLLM, SGLang and transformers load.

    w8a8    int8 weights, one scale a row; activations are made int8 token by token when it runs
    w8a16   int8 weights, one scale a row; activations stay as they are
    w4a16   int4 weights, a scale a group of 128 columns (64 or 32 where 128 does not divide)

The embedding and the output matrix keep their type. Weights are rounded to nearest, or chosen by
GPTQ (`gptq.py`). Layout: the package compressed-tensors, formats int-quantized and pack-quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qwq.errors import ModelError
from qwq.model.config import ModelConfig
from qwq.model.names import hf_shapes
from qwq.release.affine import from_symmetric, pack_words, symmetric_scales, symmetric_values, unpack_words
from qwq.release.model_source import ModelSource

GROUPS = (128, 64, 32)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the linear layers of a folder are stored. `packed`: several integers in a word."""

    bits: int
    packed: bool
    grouped: bool
    int8_activations: bool = False


SCHEMES = {
    "w8a8": Scheme(8, packed=False, grouped=False, int8_activations=True),
    "w8a16": Scheme(8, packed=True, grouped=False),
    "w4a16": Scheme(4, packed=True, grouped=True),
}
# From a weight's name, the weight, bits and columns of a group to integers (O, I) and scales (O, G)
# of the type that they are stored in.
Quantiser = Callable[[str, Tensor, int, int], tuple[Tensor, Tensor]]


def nearest(dtype: torch.dtype) -> Quantiser:
    """Rounding to nearest, with scales of type `dtype`."""

    def quantise(name: str, weight: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
        scales = symmetric_scales(weight, bits, group).to(dtype)
        return symmetric_values(weight, scales, bits), scales

    return quantise


def is_linear(name: str) -> bool:
    return name.endswith("_proj.weight")


def group_size(config: ModelConfig, scheme: Scheme) -> int | None:
    """Columns that share a scale; None: the whole row. ModelError where no size fits all rows."""
    if not scheme.grouped:
        return None
    widths = {shape[1] for name, shape in hf_shapes(config).items() if is_linear(name)}
    size = next((g for g in GROUPS if all(width % g == 0 for width in widths)), None)
    if size is None:
        raise ModelError(
            f"rows of {', '.join(map(str, sorted(widths)))} weights are no whole groups of 32, int4 needs them: "
            "use --format w8a8"
        )
    return size


def compressed_tensors(
    source: ModelSource, scheme: Scheme, dtype: torch.dtype, quantise: Quantiser
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the folder; scales and what is not quantised as `dtype`."""
    group = group_size(source.weights.config, scheme)
    for name, shape in hf_shapes(source.weights.config).items():
        weight = source.weights.read(name)
        if not is_linear(name):
            yield name, weight.to(dtype, copy=True).contiguous()
            continue
        values, scales = quantise(name, weight, scheme.bits, group or shape[1])
        stem = name.removesuffix(".weight")
        if scheme.packed:
            half = 1 << (scheme.bits - 1)
            yield f"{stem}.weight_packed", pack_words(values.int() + half, scheme.bits)
            yield f"{stem}.weight_shape", torch.tensor(shape, dtype=torch.int64)
        else:
            yield name, values.contiguous()
        yield f"{stem}.weight_scale", scales.contiguous()


def compressed_config(config: ModelConfig, scheme: Scheme) -> dict[str, Any]:
    """`quantization_config` of config.json."""
    common = {
        "type": "int", "symmetric": True, "block_structure": None, "actorder": None, "observer_kwargs": {},
    }  # fmt: skip
    group = group_size(config, scheme)
    weights = common | {
        "num_bits": scheme.bits,
        "strategy": "group" if group else "channel",
        "group_size": group,
        "dynamic": False,
        "observer": "minmax",
    }
    activations = common | {
        "num_bits": 8, "strategy": "token", "group_size": None, "dynamic": True, "observer": None,
    }  # fmt: skip
    kind = "pack-quantized" if scheme.packed else "int-quantized"
    entry = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": activations if scheme.int8_activations else None,
        "output_activations": None,
        "format": kind,
    }
    return {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": kind,
            "quantization_status": "compressed",
            "config_groups": {"group_0": entry},
            "ignore": ["lm_head"],
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }
    }


def from_compressed(read: Callable[[str], Tensor], name: str, scheme: Scheme) -> Tensor:
    """A weight of such a folder, float32; `read` gives its tensors by name."""
    stem = name.removesuffix(".weight")
    scales = read(f"{stem}.weight_scale")
    if not scheme.packed:
        return from_symmetric(read(name), scales)
    values = unpack_words(read(f"{stem}.weight_packed"), scheme.bits) - (1 << (scheme.bits - 1))
    return from_symmetric(values, scales)
