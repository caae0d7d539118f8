"""What a GGUF file says about a model: the keys that `gguf.gguf_config` reads, written.

Sampling defaults are the keys `general.sampling.*`, which llama.cpp takes as its own defaults for
the file. Sources: the GGUF specification (docs/gguf.md) and llama.cpp (src/llama-arch.cpp).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from qwq.errors import ModelError
from qwq.model.config import ModelConfig, stated_sampling

# generation_config.json's name of each sampling default, and GGUF's.
SAMPLING = {
    "temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}  # fmt: skip
# llama.cpp's number of each kind of file (llama.h, llama_ftype).
FILE_TYPES = {
    "F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q3_K_M": 12, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18,
}  # fmt: skip


def config_metadata(config: ModelConfig) -> dict[str, Any]:
    """The shape of a model as metadata: `gguf_config` of a file with it gives `config` again.

    ModelError for an attention factor of YaRN that is not the usual one, which is not read back.
    """
    c = config
    keys: dict[str, Any] = {
        "block_count": c.num_layers,
        "context_length": c.max_positions,
        "embedding_length": c.hidden_size,
        "feed_forward_length": c.intermediate_size,
        "vocab_size": c.vocab_size,
        "attention.head_count": c.num_heads,
        "attention.head_count_kv": c.num_kv_heads,
        "attention.key_length": c.head_dim,
        "attention.value_length": c.head_dim,
        "attention.layer_norm_rms_epsilon": float(c.rms_norm_eps),
        "rope.dimension_count": c.head_dim,
        "rope.freq_base": float(c.rope_theta),
    }
    if yarn := c.rope_scaling:
        usual = 0.1 * math.log(yarn.factor) + 1.0 if yarn.factor > 1 else 1.0
        if not math.isclose(yarn.attention_scale, usual, rel_tol=1e-6):
            raise ModelError(
                f"YaRN's attention_factor is {yarn.attention_scale:g}, a GGUF file is written with {usual:g} only: "
                "leave it out of config.json, or export a folder"
            )
        keys |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(yarn.factor),
            "rope.scaling.original_context_length": yarn.original_max_positions,
            "rope.scaling.yarn_beta_fast": float(yarn.beta_fast),
            "rope.scaling.yarn_beta_slow": float(yarn.beta_slow),
        }
    ids = {"bos": c.bos_token_id, "eos": c.eos_token_id, "padding": c.pad_token_id}
    out = {"general.architecture": c.family} | {f"{c.family}.{key}": value for key, value in keys.items()}
    return out | {f"tokenizer.ggml.{name}_token_id": i for name, i in ids.items() if i is not None}


def sampling_metadata(generation: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling defaults of a generation_config.json. llama.cpp asks for a signed `top_k`."""
    return {
        f"general.sampling.{SAMPLING[name]}": np.int32(value) if name == "top_k" else float(value)
        for name, value in stated_sampling(generation).items()
    }


def sampling_defaults(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling defaults of a GGUF file under generation_config.json's names."""
    found = {name: metadata.get(f"general.sampling.{gguf}") for name, gguf in SAMPLING.items()}
    return {name: _shortest(value) for name, value in found.items() if isinstance(value, int | float)}


def _shortest(value: float) -> float:
    """The shortest decimal that means the same float32."""
    return value if isinstance(value, int) else float(str(np.float32(value)))
