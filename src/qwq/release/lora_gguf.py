"""A LoRA adapter as a GGUF file, which llama.cpp puts on a base model when it runs (`--lora`).

Layout: llama.cpp's adapters (src/llama-adapter.cpp): A (rank, columns) and B (rows, rank) of each
matrix under the matrix's own name, and alpha in the metadata.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from qwq.errors import ConfigError
from qwq.model import lora
from qwq.model.gguf import gguf_name
from qwq.model.gguf_file import write_gguf
from qwq.model.model_folder import read_json
from qwq.model.names import fused_parts
from qwq.model.transformer import Transformer
from qwq.model.weights import check_model
from qwq.release.to_gguf import to_file_rows


def is_adapter(model: str) -> bool:
    """Whether `model` is the folder of an adapter and of no model."""
    folder = Path(model).expanduser()
    return (folder / lora.CONFIG).is_file() and not (folder / "config.json").is_file()


def export_adapter(folder: Path, out: Path, base: str) -> None:
    """Write the adapter in `folder` as the file `out`, float32. `base` is the model it was trained
    on; "" takes the name in the adapter's own config.

    ConfigError where neither names it, ModelError where it does not fit the adapter.
    """
    settings = read_json(folder / lora.CONFIG)
    base = base or str(settings.get("base_model_name_or_path") or "")
    if not base:
        raise ConfigError(f"{folder} does not name the model that it was trained on: give it with --base MODEL")
    config = check_model(base)
    with torch.device("meta"):
        model = Transformer(config)
    for name, module in model.named_modules():  # what has an adapter beside it needs no memory, its own weights do
        if name.endswith(tuple(f".{kind}" for kind in lora.FUSED)):
            module.weight = torch.nn.Parameter(torch.zeros(1).expand(module.weight.shape), requires_grad=False)
    lora.load_adapter(model, folder)
    parts = {ours: [name for name, _ in names] for ours, names in fused_parts(config)}
    tensors: dict[str, Tensor] = {}
    for name, adapter in lora.adapters(model).items():
        a, b = adapter.lora_a.detach().split(adapter.rank), adapter.lora_b.detach().split(adapter.sizes)
        for matrix, down, up in zip(parts[f"{name}.weight"], a, b, strict=True):
            tensors[f"{gguf_name(matrix)}.lora_a"] = down
            tensors[f"{gguf_name(matrix)}.lora_b"] = to_file_rows(config, matrix, up)
    metadata = {
        "general.architecture": config.family,
        "general.type": "adapter",
        "general.name": folder.resolve().name,
        "adapter.type": "lora",
        "adapter.lora.alpha": float(settings["lora_alpha"]),
    }
    write_gguf(out, metadata, tensors)
