"""A quantised export as this project's own module: what was written, dequantised in float32."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from qwq.model.config import ModelConfig
from qwq.model.gguf import load_gguf
from qwq.model.model_folder import stored_tensors
from qwq.model.names import fused_parts
from qwq.model.transformer import Transformer
from qwq.release.to_compressed import SCHEMES, from_compressed, is_linear
from qwq.release.to_mlx import from_mlx


def read_back(path: Path, kind: str, config: ModelConfig, bits: int) -> Transformer:
    """The model in the file or folder `path`, which was written as `kind`."""
    if kind == "gguf":
        return load_gguf(path)
    with ExitStack() as stack:
        places = stored_tensors(path)
        files = {f: stack.enter_context(safe_open(f, framework="pt")) for f in {t.file for t in places.values()}}

        def read(name: str) -> Tensor:
            return files[places[name].file].get_tensor(name)

        return _model(config, lambda name: _weight(read, name, kind, bits, places.__contains__))


def _weight(read: Callable[[str], Tensor], name: str, kind: str, bits: int, has: Callable[[str], bool]) -> Tensor:
    if kind == "mlx" and has(f"{name.removesuffix('.weight')}.scales"):
        return from_mlx(read, name, bits)
    if kind in SCHEMES and is_linear(name):
        return from_compressed(read, name, SCHEMES[kind])
    return read(name).float()


def _model(config: ModelConfig, read: Callable[[str], Tensor]) -> Transformer:
    with torch.device("meta"):
        model = Transformer(config)
    state = {ours: torch.cat([read(name) for name, _ in parts]) for ours, parts in fused_parts(config)}
    model.load_state_dict(state, assign=True)
    return model
