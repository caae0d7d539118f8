"""`qwq export`: any model that qwq reads, as one plain Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import torch

from qwq.common.files import atomic_folder, writing_to
from qwq.errors import ConfigError
from qwq.model import lora
from qwq.model.gguf_file import GGUFFile
from qwq.model.model_folder import resolve_folder
from qwq.model.weights import inherited_generation, load_model, save_model, stored_dtype
from qwq.text.gguf_tokenizer import chat_format_from_gguf
from qwq.text.template import ChatFormat


def export(model: str, out: Path, *, adapters: list[Path], dtype: str | None = None) -> Path:
    """Write `model` (a folder, hub id or GGUF file), with `adapters` merged in turn, to the new
    folder `out`.

    Weights are written in `dtype`; None: as `model` has them on disk, float32 where that is
    quantised. The model's sampling defaults and special tokens (generation_config.json) come along.
    ConfigError where `out` is there already.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already: name a folder that is not")
    if model.endswith(".gguf"):
        chat = chat_format_from_gguf(GGUFFile.open(Path(model)))
    else:
        chat = ChatFormat.from_folder(resolve_folder(model))
    with writing_to(out, at="OUT"):  # before the weights are read, which takes longer
        out.parent.mkdir(parents=True, exist_ok=True)
    loaded = load_model(model)
    for adapter in adapters:
        lora.merge(lora.load_adapter(loaded, adapter))
    written = getattr(torch, dtype) if dtype else stored_dtype(model) or torch.float32
    with writing_to(out, at="OUT"), atomic_folder(out) as partial:
        save_model(loaded, partial, generation=inherited_generation(model, loaded.config, chat.eos_ids), dtype=written)
        chat.save(partial)
    return out
