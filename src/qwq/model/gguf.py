"""Models in GGUF files: their shape from the metadata, and their weights in this module's fused
matrices.

    GGUF                                  Hugging Face's name, from which weights.py makes ours
    token_embd.weight                     model.embed_tokens.weight
    blk.I.attn_{q,k,v}.{weight,bias}      model.layers.I.self_attn.{q,k,v}_proj.{weight,bias}
    blk.I.attn_{q,k}_norm.weight          model.layers.I.self_attn.{q,k}_norm.weight
    blk.I.attn_output.weight              model.layers.I.self_attn.o_proj.weight
    blk.I.ffn_{gate,up,down}.weight       model.layers.I.mlp.{gate,up,down}_proj.weight
    blk.I.{attn,ffn}_norm.weight          model.layers.I.{input,post_attention}_layernorm.weight
    output_norm.weight                    model.norm.weight
    output.weight, absent where tied      lm_head.weight

Covers the architectures qwen2, qwen3 and llama (dense). llama.cpp rotates pairs (2i, 2i + 1) for
llama, so its converter has reordered the rows of q and k; they are put back here, because rope here
rotates pairs (i, i + E/2).

Loading holds the model once, plus a few MiB: each matrix is allocated when its turn comes and
filled some rows at a time. Metadata keys: the GGUF specification (github.com/ggml-org/ggml,
docs/gguf.md) and llama.cpp (src/llama-arch.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwq.errors import ModelError
from qwq.model.config import ModelConfig, YarnScaling
from qwq.model.families import FAMILIES
from qwq.model.gguf_file import Encoded, GGUFFile, GGUFTensor, encode, short, write_gguf
from qwq.model.names import few, fused_parts, hf_shapes
from qwq.model.transformer import Transformer

__all__ = [
    "Encoded", "GGUFFile", "GGUFTensor", "encode", "gguf_config", "gguf_name", "load_gguf", "rope_rows", "write_gguf",
]  # fmt: skip

MODULES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
MAX_SIZE = 1 << 31


def gguf_name(name: str) -> str:
    """GGUF's name of a tensor that Hugging Face calls `name`."""
    match = re.fullmatch(r"(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)", name)
    assert match is not None, name
    layer, module, kind = match.groups()
    return f"{'' if layer is None else f'blk.{layer}.'}{MODULES[module]}.{kind}"


def rope_rows(num_heads: int, head_dim: int) -> Tensor:
    """Where each row of a llama file's q or k belongs here: row 2i + j of a head goes to row i + j
    * E/2.
    """
    return torch.arange(num_heads * head_dim).view(num_heads, 2, head_dim // 2).transpose(1, 2).flatten()


# -- shape -----------------------------------------------------------------------------------------


def gguf_config(file: GGUFFile) -> ModelConfig:
    """The model's shape. ModelError for what is missing or contradictory, and for features this
    project does not compute.

    1. `initializer_range` is not in a GGUF file and keeps its default.
    2. Floats are float32 there: the shortest decimal that means the same float32 is taken (1e-06,
       not 9.99999997e-07).
    """
    arch = _Keys(file, "general.").text("architecture")
    if arch not in FAMILIES:
        raise ModelError(f"{file.path}: architecture {short(arch)} is not supported; supported: {', '.join(FAMILIES)}")
    keys = _Keys(file, f"{arch}.")
    hidden, heads, layers = (
        keys.whole("embedding_length"),
        keys.whole("attention.head_count"),
        keys.whole("block_count"),
    )
    if layers > len(file.tensors):
        raise keys.fault("block_count", layers, f"the file's {len(file.tensors)} tensors are too few for it")
    if hidden % heads and "attention.key_length" not in keys:
        raise keys.fault("attention.head_count", heads, f"a divisor of embedding_length {hidden} is expected")
    head_dim = keys.whole("attention.key_length", hidden // heads)
    kv_heads = keys.whole("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise keys.fault("attention.head_count_kv", kv_heads, f"a divisor of head_count {heads} is expected")
    if head_dim % 2:
        raise keys.fault("attention.key_length", head_dim, "an even number is expected")
    _refuse_features(file, keys, head_dim)
    embed = file.tensors.get("token_embd.weight")
    if embed is None:
        raise ModelError(f"{file.path}: no tensor 'token_embd.weight': this is no language model, or fetch it again")
    vocab_size, context = embed.shape[0], keys.whole("context_length")
    yarn = _yarn(keys, context)
    ids = _Keys(file, "tokenizer.ggml.")
    bos, eos, pad = (
        ids.whole(f"{name}_token_id", low=0, high=vocab_size - 1) if f"{name}_token_id" in ids else None
        for name in ("bos", "eos", "padding")
    )
    return ModelConfig(
        family=arch,
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=keys.whole("feed_forward_length"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rope_theta=keys.real("rope.freq_base", 1e4),
        rms_norm_eps=keys.real("attention.layer_norm_rms_epsilon"),
        tie_embeddings="output.weight" not in file.tensors,
        qkv_bias=FAMILIES[arch].qkv_bias,
        qk_norm=FAMILIES[arch].qk_norm,
        max_positions=max(context, yarn.max_positions) if yarn else context,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
        rope_scaling=yarn,
    )


class _Keys:
    """Metadata under one prefix, with types and ranges checked."""

    def __init__(self, file: GGUFFile, prefix: str) -> None:
        self.file, self.prefix = file, prefix

    def __contains__(self, key: str) -> bool:
        return self.prefix + key in self.file.metadata

    def fault(self, key: str, found: Any, expected: str) -> ModelError:
        return ModelError(
            f"{self.file.path}: {self.prefix}{key} is {short(found)}, {expected}: fetch or write it again"
        )

    def get(self, key: str, default: Any) -> Any:
        value = self.file.metadata.get(self.prefix + key, default)
        if value is None:
            raise ModelError(
                f"{self.file.path}: no metadata {self.prefix}{key}, a model needs it: fetch or write it again"
            )
        return value

    def whole(self, key: str, default: int | None = None, low: int = 1, high: int = MAX_SIZE) -> int:
        value = self.get(key, default)
        if type(value) is not int or not low <= value <= high:
            raise self.fault(key, value, f"one whole number from {low} to {high} is expected")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self.fault(key, value, "a text is expected")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if type(value) is not float or not 1e-30 < value < 1e30:
            raise self.fault(key, value, "a number above 0 is expected")
        return float(str(np.float32(value)))


def _refuse_features(file: GGUFFile, keys: _Keys, head_dim: int) -> None:
    """ModelError for what would be computed wrongly rather than not at all."""
    allowed = {
        "expert_count": (0,),
        "rope.dimension_count": (head_dim,),
        "attention.value_length": (head_dim,),
        "attention.sliding_window": (0,),
        "attention.causal": (True,),
        "rope.scale_linear": (1.0,),
        "rope.scaling.attn_factor": (1.0,),
        "rope.scaling.yarn_ext_factor": (1.0,),
    }
    for key, values in allowed.items():
        found = keys.get(key, values[0])
        if isinstance(found, np.ndarray | list) or found not in values:
            raise ModelError(f"{file.path}: {keys.prefix}{key} is {short(found)}, this model computes {values[0]} only")
    if "rope_freqs.weight" in file.tensors:
        raise ModelError(
            f"{file.path}: rope_freqs.weight scales its rope as Llama 3.1 does, which is not computed here: use Llama 3"
        )
    if (parts := _Keys(file, "split.").whole("count", 1, low=0)) > 1:
        raise ModelError(
            f"{file.path}: one of {parts} files of a model, a whole one is read here: join them with "
            "llama-gguf-split --merge"
        )


def _yarn(keys: _Keys, context: int) -> YarnScaling | None:
    kind = keys.text("rope.scaling.type", "none")
    if kind in ("none", ""):
        return None
    if kind != "yarn":
        raise ModelError(
            f"{keys.file.path}: {keys.prefix}rope.scaling.type is {short(kind)}, none and yarn are computed here"
        )
    factor = keys.real("rope.scaling.factor")
    if not 1 <= factor < 1e4:
        raise keys.fault("rope.scaling.factor", factor, "a number from 1 to 10000 is expected")
    return YarnScaling(
        factor=factor,
        original_max_positions=keys.whole("rope.scaling.original_context_length", context),
        beta_fast=keys.real("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.real("rope.scaling.yarn_beta_slow", 1.0),
    )


# -- weights ---------------------------------------------------------------------------------------


def load_gguf(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] | None = None,
) -> Transformer:
    """The causal model in a GGUF file, decoded on `device` and kept there in `dtype`.

    `progress(done_bytes, total_bytes)` is called after every tensor, in bytes of the file.
    ModelError where tensors are missing, unknown, of the wrong shape, or hold a value that is no
    finite number in `dtype`.
    """
    file = GGUFFile.open(path)
    config = gguf_config(file)
    check_tensors(file, config)
    with torch.device("meta"):
        model = Transformer(config)
    total, done = sum(t.num_bytes for t in file.tensors.values()), 0
    state: dict[str, Tensor] = {}
    for ours, parts in fused_parts(config):
        rows = sum(shape[0] for _, shape in parts)
        whole = state[ours] = torch.empty((rows, *parts[0][1][1:]), dtype=dtype, device=device)
        at = 0
        for name, shape in parts:
            tensor = file.tensors[gguf_name(name)]
            _read_into(whole[at : at + shape[0]], file, tensor, row_order(config, name))
            at, done = at + shape[0], done + tensor.num_bytes
            if progress is not None:
                progress(done, total)
    model.load_state_dict(state, assign=True)
    return model


def check_tensors(file: GGUFFile, config: ModelConfig) -> None:
    """ModelError unless the file's tensors are those that its metadata asks for."""
    wanted = {gguf_name(name): shape for name, shape in hf_shapes(config).items()}
    missing = [name for name in wanted if name not in file.tensors]
    unknown = [name for name in file.tensors if name not in wanted]
    if missing or unknown:
        kinds = ((missing, "missing"), (unknown, "unexpected"))
        sides = " and ".join(f"{len(names)} {what} ({few(names)})" for names, what in kinds if names)
        kind = f"{config.family}, {config.num_layers} layers"
        raise ModelError(f"{file.path}: tensors do not match its metadata ({kind}): {sides}: fetch or write it again")
    for name, shape in wanted.items():
        if (found := file.tensors[name].shape) != shape:
            raise ModelError(
                f"{file.path}: {name} is {list(found)}, its metadata asks for {list(shape)}: fetch or write it again"
            )


def row_order(config: ModelConfig, name: str) -> Tensor | None:
    if not config.spec.gguf_rope_pairs or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return None
    return rope_rows(config.num_heads if "q_proj" in name else config.num_kv_heads, config.head_dim)


def _read_into(target: Tensor, file: GGUFFile, tensor: GGUFTensor, order: Tensor | None) -> None:
    """Fill `target`; row i of the file becomes row `order[i]`."""
    rows_of_target = target.view(-1, tensor.shape[-1])
    finite = torch.ones((), dtype=torch.bool, device=target.device)
    for rows, values in file.chunks(tensor, target.device):
        values = values.to(target.dtype)
        low, high = values.aminmax()  # a NaN is passed on; ten times as fast as asking every value
        finite &= low.isfinite() & high.isfinite()
        if order is None:
            rows_of_target[rows] = values
        else:
            rows_of_target[order[rows].to(target.device)] = values
    if not finite:
        kind = str(target.dtype).removeprefix("torch.")
        raise ModelError(
            f"{file.path}: {tensor.name} holds values that are no finite {kind}, weights are finite: fetch or write "
            "it again"
        )
