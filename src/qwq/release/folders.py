"""Model folders in the layout of Hugging Face, written tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwq.common.files import write_atomic
from qwq.model.names import EMBEDDING, HEAD, hf_shapes
from qwq.model.weights import write_shards
from qwq.release.model_source import ModelSource


def write_folder(
    source: ModelSource,
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Everything of a model folder into `folder`, which is there: `tensors`, config.json with
    `extra` keys, generation_config.json, tokenizer and template.

    `dtype` is what config.json says of the weights that are not quantised.
    """
    config = source.weights.config.to_hf() | {"dtype": str(dtype).removeprefix("torch.")} | dict(extra or {})
    write_shards(folder, tensors)
    write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_atomic(folder / "generation_config.json", json.dumps(source.generation, indent=2) + "\n")
    source.chat.save(folder)


def plain_tensors(source: ModelSource, dtype: torch.dtype, *, untie: bool = False) -> Iterable[tuple[str, Tensor]]:
    """All tensors under Hugging Face's names, as `dtype`; `untie`: a tied head, too."""
    stored = {name: name for name in hf_shapes(source.weights.config)}
    if untie:
        stored.setdefault(HEAD, EMBEDDING)
    for name, read in stored.items():
        yield name, source.weights.read(read).to(dtype, copy=True).contiguous()
