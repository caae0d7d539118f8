"""Folders that `mlx_lm` loads: matrices in 4 or 8 bits, groups of 64 columns with a scale and a
bias each.

The embedding is quantised as `mlx_lm.convert` does it; a matrix whose rows are no whole groups
keeps its type, which mlx_lm sees by the absence of its scales. Names are Hugging Face's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from qwq.model.config import ModelConfig
from qwq.model.names import hf_shapes
from qwq.release.affine import Affine, affine, from_affine
from qwq.release.model_source import ModelSource

GROUP = 64
BITS = (4, 8)


def is_quantised(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[1] % GROUP == 0


def mlx_tensors(source: ModelSource, bits: int, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the folder; scales, biases and what is not quantised as `dtype`."""
    for name, shape in hf_shapes(source.weights.config).items():
        weight = source.weights.read(name).to(dtype)
        if not is_quantised(name, shape):
            yield name, weight.clone().contiguous()
            continue
        q, stem = affine(weight, bits, GROUP), name.removesuffix(".weight")
        yield name, q.words.view(torch.uint32)
        yield f"{stem}.scales", q.scales.contiguous()
        yield f"{stem}.biases", q.biases.contiguous()


def mlx_config(config: ModelConfig, bits: int) -> dict[str, Any]:
    """Keys of config.json beside the usual ones."""
    quantised = {"group_size": GROUP, "bits": bits}
    out: dict[str, Any] = {"quantization": quantised, "quantization_config": quantised}
    if yarn := config.rope_scaling:  # mlx_lm reads the older key
        out["rope_scaling"] = {
            "type": "yarn", "factor": yarn.factor, "original_max_position_embeddings": yarn.original_max_positions,
            "beta_fast": yarn.beta_fast, "beta_slow": yarn.beta_slow,
        }  # fmt: skip
    return out


def from_mlx(read: Any, name: str, bits: int) -> Tensor:
    """A weight of such a folder, float32; `read` gives its tensors by name."""
    stem = name.removesuffix(".weight")
    return from_affine(Affine(read(name).view(torch.int32), read(f"{stem}.scales"), read(f"{stem}.biases")), bits)
