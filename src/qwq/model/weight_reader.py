"""A model's weights one tensor at a time, under Hugging Face's names: what writes other formats
holds one of them, not the model.

`open_weights` checks everything that headers say (names, shapes, types) before the first byte of
weights is read; each tensor's values are checked when it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from qwq.errors import ModelError
from qwq.model.config import ModelConfig
from qwq.model.gguf import check_tensors, gguf_config, gguf_name, row_order
from qwq.model.gguf_file import GGUFFile
from qwq.model.model_folder import resolve_folder
from qwq.model.names import state_to_hf
from qwq.model.transformer import Transformer
from qwq.model.weights import checked_folder, stored_dtype


@dataclass(frozen=True, slots=True)
class WeightReader:
    """A model's shape and its tensors.

    `dtype` is the type that most weights are stored in; None where they are quantised. `stored`
    reads a tensor as it is stored, float32 where that is quantised.
    """

    where: str
    config: ModelConfig
    dtype: torch.dtype | None
    stored: Callable[[str], Tensor]

    def read(self, name: str) -> Tensor:
        """The tensor that Hugging Face calls `name`. ModelError for NaN and infinite values."""
        tensor = self.stored(name)
        low, high = tensor.aminmax()  # a NaN is passed on
        if not (low.isfinite() and high.isfinite()):
            raise ModelError(f"{self.where}: {name} holds NaN or infinite weights: fetch or write the model again")
        return tensor


def open_weights(model: str | Path) -> WeightReader:
    """The weights of a folder, a hub's model or a GGUF file. ModelError for what is wrong with
    it.
    """
    if str(model).endswith(".gguf"):
        return _of_gguf(GGUFFile.open(model))
    folder = resolve_folder(model)
    config, stored = checked_folder(folder)
    files = {f: ExitStack().enter_context(safe_open(f, framework="pt")) for f in {t.file for t in stored.values()}}
    return WeightReader(
        str(folder), config, stored_dtype(folder), lambda name: files[stored[name].file].get_tensor(name)
    )


def weights_in_memory(model: Transformer, where: str, dtype: torch.dtype | None) -> WeightReader:
    """The weights of a loaded model, written as `dtype`."""
    state = state_to_hf(model.config, model.state_dict())
    return WeightReader(
        where, model.config, dtype, lambda name: state[name] if dtype is None else state[name].to(dtype)
    )


def _of_gguf(file: GGUFFile) -> WeightReader:
    config = gguf_config(file)
    check_tensors(file, config)

    def stored(name: str) -> Tensor:
        tensor, order = file.read(gguf_name(name)), row_order(config, name)
        if order is None:
            return tensor
        out = torch.empty_like(tensor)
        out[order] = tensor
        return out

    return WeightReader(str(file.path), config, stored_dtype(file.path), stored)
