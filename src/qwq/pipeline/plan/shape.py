"""The sizes of a recipe's model, without its weights."""

from __future__ import annotations

from pathlib import Path

from qwq.common.hub_files import download, parse_hub_name
from qwq.config import Recipe
from qwq.model.config import ModelConfig, preset
from qwq.model.model_folder import read_config, resolve_folder


def model_config(recipe: Recipe) -> ModelConfig:
    """Shape of the recipe's model: the preset, or config.json of its path (from the hub, that file
    alone).
    """
    model = recipe.model
    if model.preset:
        config = preset(model.preset)
        return preset(model.preset, vocab_size=model.vocab_size) if model.vocab_size else config
    path = Path(model.path or "").expanduser()
    if path.suffix == ".gguf":
        from qwq.model.gguf import gguf_config
        from qwq.model.gguf_file import GGUFFile

        return gguf_config(GGUFFile.open(path))
    if path.exists() or path.parent.exists():
        return read_config(resolve_folder(path))
    if model.shape:
        return preset(model.shape)
    name = parse_hub_name(str(model.path))
    return read_config(download(name, ["config.json"]) if name else resolve_folder(path))
