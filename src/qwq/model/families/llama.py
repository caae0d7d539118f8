"""Llama 2 and 3, SmolLM2 (arXiv 2302.13971, 2407.21783): no biases, no norm on queries and keys."""

from __future__ import annotations

from qwq.model.families.base import ModelFamily

LLAMA = ModelFamily("llama", "LlamaForCausalLM", gguf_rope_pairs=True, refused={"attention_bias": False})
