"""The sizes of a recipe's model, without its weights."""

from __future__ import annotations

from pathlib import Path

from qwq.config import Recipe
from qwq.errors import ModelError
from qwq.model.config import ModelConfig, preset
from qwq.model.model_folder import is_hub_name, read_config, resolve_folder


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
    if not is_hub_name(path):
        return read_config(resolve_folder(path))  # which says that it is not there
    from huggingface_hub import errors, hf_hub_download

    try:
        return read_config(Path(hf_hub_download(str(model.path), "config.json")).parent)
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"no model folder at {model.path}, and the hub does not give it ({type(error).__name__}: {reason}): "
            "check the name and the network, or set --model.path to a local folder"
        ) from None
