"""The names of our weights and Hugging Face's: which of their tensors each fused matrix of ours
holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from qwq.model.config import ModelConfig

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# What config.json says beside a tied head that is stored as a tensor of its own.
UNTIED: Mapping[str, bool] = {"tie_word_embeddings": False}


def fused_parts(config: ModelConfig) -> Iterator[tuple[str, list[tuple[str, tuple[int, ...]]]]]:
    """Our name, and the names and shapes of the tensors that are laid one under the other to make
    it.
    """
    d, f, e = config.hidden_size, config.intermediate_size, config.head_dim
    q, kv = config.num_heads * e, config.num_kv_heads * e
    yield "embed.weight", [(EMBEDDING, (config.vocab_size, d))]
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}.", f"model.layers.{i}."
        rows = (("q", q), ("k", kv), ("v", kv))
        yield ours + "input_norm.weight", [(theirs + "input_layernorm.weight", (d,))]
        yield ours + "qkv.weight", [(f"{theirs}self_attn.{n}_proj.weight", (r, d)) for n, r in rows]
        if config.qkv_bias:
            yield ours + "qkv.bias", [(f"{theirs}self_attn.{n}_proj.bias", (r,)) for n, r in rows]
        if config.qk_norm:
            for n in ("q", "k"):
                yield f"{ours}{n}_norm.weight", [(f"{theirs}self_attn.{n}_norm.weight", (e,))]
        yield ours + "o.weight", [(theirs + "self_attn.o_proj.weight", (d, q))]
        yield ours + "post_norm.weight", [(theirs + "post_attention_layernorm.weight", (d,))]
        yield ours + "gate_up.weight", [(f"{theirs}mlp.{n}_proj.weight", (f, d)) for n in ("gate", "up")]
        yield ours + "down.weight", [(theirs + "mlp.down_proj.weight", (d, f))]
    yield "norm.weight", [("model.norm.weight", (d,))]
    if not config.tie_embeddings:
        yield "head.weight", [(HEAD, (config.vocab_size, d))]


def hf_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a Hugging Face folder of this model holds."""
    return {name: shape for _, parts in fused_parts(config) for name, shape in parts}


def state_to_hf(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under Hugging Face's names, fused matrices split. The tensors are views."""
    out: dict[str, Tensor] = {}
    for ours, parts in fused_parts(config):
        pieces = state[ours].detach().split([shape[0] for _, shape in parts])
        out |= {name: piece for (name, _), piece in zip(parts, pieces, strict=True)}
    return out


def few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
