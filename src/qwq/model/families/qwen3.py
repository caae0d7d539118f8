"""Qwen3, the dense models (arXiv 2505.09388, section 2): QK norm in place of Qwen2's QKV bias, and
a head width of its own.
"""

from __future__ import annotations

from qwq.model.families.base import ModelFamily

QWEN3 = ModelFamily("qwen3", "Qwen3ForCausalLM", qk_norm=True, head_dim=128, refused={"attention_bias": False})
