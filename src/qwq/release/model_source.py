"""What an export reads: the weights one by one, tokenizer and template, sampling defaults,
licence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwq.model import lora
from qwq.model.gguf_file import GGUFFile
from qwq.model.model_folder import inherited_generation, resolve_folder
from qwq.model.weight_reader import WeightReader, open_weights, weights_in_memory
from qwq.model.weights import load_model, stored_dtype
from qwq.text.gguf_tokenizer import chat_format_from_gguf
from qwq.text.template import ChatFormat


@dataclass(frozen=True, slots=True)
class ModelSource:
    """An opened model.

    `name` is what people call it, `generation` its generation_config.json, `licence` the short name
    of its licence ("" where nothing says it).
    """

    name: str
    weights: WeightReader
    chat: ChatFormat
    generation: dict[str, Any]
    licence: str = ""


def open_source(model: str, *, adapters: Sequence[Path] = (), name: str = "", licence: str = "") -> ModelSource:
    """A folder, hub id or GGUF file, with `adapters` merged in turn.

    Without adapters, weights stay on disk until they are read; with them the model is held in
    memory. ModelError for whatever is wrong with the model.
    """
    if model.endswith(".gguf"):
        file = GGUFFile.open(Path(model))
        chat, said = chat_format_from_gguf(file), str(file.metadata.get("general.license", ""))
    else:
        folder = resolve_folder(model)
        chat, said = ChatFormat.from_folder(folder), _licence_of(folder)
    weights = open_weights(model)
    chat.tokenizer.check_fits(weights.config)
    if adapters:
        loaded = load_model(model)
        for adapter in adapters:
            lora.merge(lora.load_adapter(loaded, adapter))
        weights = weights_in_memory(loaded, model, stored_dtype(model))
    generation = inherited_generation(model, weights.config, chat.eos_ids)
    return ModelSource(name or _name_of(model), weights, chat, generation, licence or said)


def _name_of(model: str) -> str:
    """RUN-STAGE for a checkpoint of a run, else the last part of the path or hub id."""
    path = Path(model)
    if path.name == "final" and path.parent.parent.name == "checkpoints":
        return f"{path.parents[2].resolve().name}-{path.parent.name}"
    return path.stem if path.suffix == ".gguf" else path.resolve().name


def _licence_of(folder: Path) -> str:
    """The licence that the head of a model card names."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    head = text[4:].partition("\n---")[0] if text.startswith("---\n") else ""
    match = re.search(r"^license:\s*['\"]?([\w.+-]+)", head, re.MULTILINE)
    return match.group(1) if match else ""
