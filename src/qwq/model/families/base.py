"""What one family states about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """One family of dense decoders: names, parts of a block, and defaults of its config.json.

    `name` is `model_type` in config.json and `general.architecture` in GGUF. `refused` are config
    keys that are computed with one value only: key -> that value, which is also what a missing key
    means.
    """

    name: str
    architecture: str
    qkv_bias: bool = False  # a bias on the query, key and value projections
    qk_norm: bool = False  # RMSNorm over each head of queries and keys, before RoPE
    head_dim: int | None = None  # where config.json leaves it out; hidden_size / heads otherwise
    gguf_rope_pairs: bool = False  # llama.cpp rotates pairs (2i, 2i + 1): its converter reorders the rows of q and k
    refused: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classifier(self) -> str:
        """The architecture of its reward models."""
        return self.architecture.replace("ForCausalLM", "ForSequenceClassification")
