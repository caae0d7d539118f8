"""GGUF files for llama.cpp, Ollama and LM Studio, written tensor by tensor: memory for one tensor,
whatever the size of the model.

F32, F16, BF16, Q8_0 and Q4_0 are encoded here (`model/gguf_quants.py`); the K-quants by llama.cpp's
own kernels with the mix of encodings that llama.cpp itself chooses (`k_quants.py`). As in
llama.cpp's converter:

1. Vectors (norms, biases) are float32 in every file.
2. Rows of q and k of a llama are reordered, because llama.cpp rotates pairs (2i, 2i + 1).
3. A matrix whose rows are no whole number of blocks is F16.

Departures: Q8_0 and Q4_0 keep the output matrix (a tied embedding too) in Q8_0, and F16 keeps a
matrix as BF16 where float16 would change its bfloat16 weights, so that F16 loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwq.model.config import ModelConfig
from qwq.model.families import FAMILIES
from qwq.model.gguf import gguf_name, rope_rows
from qwq.model.gguf_file import WRITE_CHUNK_BYTES, Encoded, write_gguf
from qwq.model.gguf_metadata import FILE_TYPES, config_metadata, sampling_metadata
from qwq.model.gguf_quants import encoding, quantise
from qwq.model.names import hf_shapes
from qwq.model.weight_reader import WeightReader
from qwq.release import k_quants
from qwq.release.model_source import ModelSource
from qwq.text.gguf_tokenizer import tokenizer_metadata

PLAIN = ("F32", "F16", "BF16")
OWN = (*PLAIN, "Q8_0", "Q4_0")
Importance = Mapping[str, np.ndarray]  # mean square of each input column, by GGUF's name of the matrix


def export_gguf(
    source: ModelSource,
    out: Path,
    quant: str,
    *,
    importance: Importance | None = None,
    importance_of: str = "",
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write a model as one GGUF file, whole or not at all.

    `importance` weighs the columns of the K-quants; `importance_of` says what it was made from.
    `check` sees the finished file before it takes its place.
    """
    weights = source.weights
    names = {gguf_name(name): name for name in hf_shapes(weights.config)}
    kinds = encodings(weights, quant)
    tensors = {gguf: _encoded(weights, name, kinds[gguf], (importance or {}).get(gguf)) for gguf, name in names.items()}
    metadata = file_metadata(source, quant)
    if importance:
        metadata |= {
            "quantize.imatrix.dataset": importance_of,
            "quantize.imatrix.entries_count": np.int32(len(importance)),
        }
    write_gguf(out, metadata, tensors, check=check)


def file_metadata(source: ModelSource, quant: str) -> dict[str, Any]:
    """All metadata of a model's file: shape, YaRN, tokenizer, template, sampling, licence."""
    config, chat = source.weights.config, source.chat
    general: dict[str, Any] = {
        "general.type": "model",
        "general.name": source.name,
        "general.file_type": FILE_TYPES[quant],
    }
    if quant not in PLAIN:
        general["general.quantization_version"] = 2
    if source.licence:
        general["general.license"] = source.licence
    # Special tokens that config.json does not name are those of the tokenizer.
    out = tokenizer_metadata(chat.tokenizer, config.vocab_size, source.name)
    out |= config_metadata(config) | general | sampling_metadata(source.generation)
    # llama.cpp stops at this token; it knows the other end tokens by their text.
    return out | {"tokenizer.ggml.eos_token_id": chat.eos_ids[0], "tokenizer.chat_template": chat.template.source}


def encodings(weights: WeightReader, quant: str) -> dict[str, str]:
    """How each tensor of a file is stored, by its name in GGUF."""
    shapes = {gguf_name(name): shape for name, shape in hf_shapes(weights.config).items()}
    if quant not in OWN:
        return k_quants.mix(weights.config, shapes, FILE_TYPES[quant])
    head = "output.weight" if "output.weight" in shapes else "token_embd.weight"
    kinds = dict.fromkeys(shapes, quant)
    if quant == "Q4_0":
        kinds[head] = "Q8_0"
    for name, shape in shapes.items():
        if len(shape) == 1:
            kinds[name] = "F32"
        elif shape[-1] % encoding(kinds[name]).block_weights:
            kinds[name] = "F16"
    hf = {gguf_name(name): name for name in hf_shapes(weights.config)}
    rounded = [name for name, kind in kinds.items() if kind == "F16" and _loses(weights.read(hf[name]))]
    return kinds | dict.fromkeys(rounded, "BF16")


def _loses(weight: Tensor) -> bool:
    """Whether float16 would change bfloat16 weights: larger than 65504, or small with bits to
    lose.
    """
    return weight.dtype == torch.bfloat16 and not torch.equal(weight.half().bfloat16(), weight)


def _encoded(weights: WeightReader, name: str, kind: str, importance: np.ndarray | None) -> Encoded:
    """One tensor, read when its turn to be written comes."""
    shape = hf_shapes(weights.config)[name]

    def chunks() -> Iterator[np.ndarray]:
        weight = to_file_rows(weights.config, name, weights.read(name))
        if kind not in OWN:
            yield from k_quants.quantised(weight, kind, importance)
            return
        rows = weight.reshape(-1, weight.shape[-1])
        for part in rows.split(max(1, WRITE_CHUNK_BYTES // 4 // rows.shape[1])):
            yield quantise(part, kind).numpy()

    return Encoded(kind, shape, chunks())


def to_file_rows(config: ModelConfig, name: str, weight: Tensor) -> Tensor:
    """The rows of a weight in the order of a GGUF file."""
    if not FAMILIES[config.family].gguf_rope_pairs or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return weight
    return weight[rope_rows(config.num_heads if "q_proj" in name else config.num_kv_heads, config.head_dim)]
