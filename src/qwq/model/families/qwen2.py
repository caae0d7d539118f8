"""Qwen2, Qwen2.5, QwQ (arXiv 2407.10671, 2412.15115): a bias on the query, key and value
projections.
"""

from __future__ import annotations

from qwq.model.families.base import ModelFamily

QWEN2 = ModelFamily("qwen2", "Qwen2ForCausalLM", qkv_bias=True)
