"""The shape of a model, as Hugging Face's config.json states it, and presets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qwq.errors import ModelError, nearest
from qwq.model.families import FAMILIES, ModelFamily


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (Peng et al. 2023, arXiv 2309.00071): `factor` times the original length.

    Hugging Face's defaults.
    """

    factor: float
    original_max_positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    @property
    def attention_scale(self) -> float:
        """What cosine and sine are multiplied with: 0.1 ln(factor) + 1 unless the config states
        it.
        """
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

    @property
    def max_positions(self) -> int:
        return int(self.factor * self.original_max_positions)


QWQ_YARN = YarnScaling(factor=4.0, original_max_positions=32768)  # the model card of QwQ-32B


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of one dense decoder-only transformer.

    Families (`model/families/`) differ in `qkv_bias`, a bias on the query, key and value
    projections (Qwen2), and in `qk_norm`, an RMSNorm over each head of queries and keys (Qwen3).
    Llama has neither.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    tie_embeddings: bool = False
    qkv_bias: bool = True
    max_positions: int = 32768
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    rope_scaling: YarnScaling | None = None
    qk_norm: bool = False

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ModelError(
                f"model family {self.family!r} is not one of {', '.join(FAMILIES)}: {nearest(self.family, FAMILIES)}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ModelError(
                f"{self.num_heads} attention heads cannot share {self.num_kv_heads} key/value heads: make the first "
                "a multiple of the second"
            )

    @property
    def spec(self) -> ModelFamily:
        """What the family states about itself."""
        return FAMILIES[self.family]

    @property
    def num_parameters(self) -> int:
        """Weights in total; a tied head counts once."""
        d, qkv = self.hidden_size, (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        layer = d * qkv + (qkv if self.qkv_bias else 0) + self.num_heads * self.head_dim * d
        layer += 3 * d * self.intermediate_size + 2 * d + (2 * self.head_dim if self.qk_norm else 0)
        return self.vocab_size * d * (1 if self.tie_embeddings else 2) + self.num_layers * layer + d

    def flops_per_token(self, context: int = 0) -> int:
        """Forward floating-point operations for one token with `context` tokens before it (2 per
        multiply-add).
        """
        matmul = self.num_parameters - (0 if self.tie_embeddings else self.vocab_size * self.hidden_size)
        return 2 * matmul + 4 * self.num_layers * context * self.num_heads * self.head_dim

    def to_hf(self) -> dict[str, Any]:
        """The config.json that transformers reads."""
        return {
            "architectures": [self.spec.architecture],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "rope_theta": self.rope_theta,
            "rope_parameters": self._rope_parameters(),
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": False,
            "mlp_bias": False,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_positions,
            "initializer_range": self.initializer_range,
            "use_sliding_window": False,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            "dtype": "float32",
        }

    def _rope_parameters(self) -> dict[str, Any]:
        if (yarn := self.rope_scaling) is None:
            return {"rope_type": "default", "rope_theta": self.rope_theta}
        out = {
            "rope_type": "yarn", "rope_theta": self.rope_theta, "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_positions,
            "beta_fast": yarn.beta_fast, "beta_slow": yarn.beta_slow,
        }  # fmt: skip
        return out if yarn.attention_factor is None else out | {"attention_factor": yarn.attention_factor}

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """Read a config.json.

        Raises ModelError for a family or feature this module does not compute.
        """
        family = hf.get("model_type", "")
        if family not in FAMILIES:
            raise ModelError(f"{where}: model_type {family!r} is not supported; supported: {', '.join(FAMILIES)}")
        spec = FAMILIES[family]
        rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        refused = {
            "rope type": (rope_type if rope_type != "yarn" else "default", "default"),
            "hidden_act": (hf.get("hidden_act", "silu"), "silu"),
            "use_sliding_window": (bool(hf.get("use_sliding_window", False)), False),
            "mlp_bias": (bool(hf.get("mlp_bias", False)), False),
        }
        refused |= {key: (hf.get(key, only) or only, only) for key, only in spec.refused.items()}
        for key, (found, wanted) in refused.items():
            if found != wanted:
                raise ModelError(f"{where}: {key} is {found!r}, this model computes {wanted!r} only")
        try:
            heads = hf["num_attention_heads"]
            bos, eos, pad = (_token_id(hf, f"{name}_token_id", where) for name in ("bos", "eos", "pad"))
            yarn = _yarn(rope, hf, where) if rope_type == "yarn" else None
            positions = hf.get("max_position_embeddings", 32768)
            return cls(
                family=family,
                vocab_size=hf["vocab_size"],
                hidden_size=hf["hidden_size"],
                intermediate_size=hf["intermediate_size"],
                num_layers=hf["num_hidden_layers"],
                num_heads=heads,
                num_kv_heads=hf.get("num_key_value_heads") or heads,
                head_dim=hf.get("head_dim") or spec.head_dim or hf["hidden_size"] // heads,
                rope_theta=float(hf.get("rope_theta") or rope.get("rope_theta") or 1e4),
                rms_norm_eps=hf.get("rms_norm_eps", 1e-6),
                tie_embeddings=bool(hf.get("tie_word_embeddings", False)),
                qkv_bias=spec.qkv_bias,
                qk_norm=spec.qk_norm,
                max_positions=max(positions, yarn.max_positions) if yarn else positions,
                rope_scaling=yarn,
                initializer_range=hf.get("initializer_range", 0.02),
                bos_token_id=bos,
                eos_token_id=eos,
                pad_token_id=pad,
            )
        except KeyError as missing:
            raise ModelError(f"{where}: no {missing.args[0]!r}; a {family} config.json needs it") from None


SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def stated_sampling(generation: Mapping[str, Any]) -> dict[str, int | float]:
    """The sampling defaults that a generation_config.json states: finite numbers; `top_k` is a
    whole one of 32 bits. Other values say nothing.
    """
    found: dict[str, int | float] = {}
    for name in SAMPLING:
        value = generation.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**31:
            continue
        if name != "top_k":
            found[name] = value
        elif value == int(value):
            found[name] = int(value)
    return found


def _token_id(hf: Mapping[str, Any], key: str, where: str) -> int | None:
    """A token's id, the first of a list. None for one that is no row of the embedding: old Llama
    files write -1 for no token.
    """
    found = hf.get(key)
    if isinstance(found, list):
        found = next(iter(found), None)
    if found is not None and type(found) is not int:
        raise ModelError(f"{where}: {key} is {str(found)[:40]!r}, a whole number is expected: mend it there")
    return found if found is not None and 0 <= found < hf["vocab_size"] else None


def _yarn(rope: Mapping[str, Any], hf: Mapping[str, Any], where: str) -> YarnScaling:
    unknown = {k for k in rope if rope[k] is not None} - {
        "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow",
        "attention_factor", "truncate",
    }  # fmt: skip
    if unknown or rope.get("truncate", True) is not True:
        raise ModelError(f"{where}: YaRN with {', '.join(sorted(unknown)) or 'truncate false'} is not computed here")
    factor = rope.get("factor")
    if not isinstance(factor, int | float) or not 1 <= factor < 1e4:
        raise ModelError(f"{where}: YaRN's factor is {factor!r}: it must be a number of at least 1, QwQ's is 4.0")
    original = rope.get("original_max_position_embeddings") or hf.get("max_position_embeddings", 32768)
    return YarnScaling(
        float(factor),
        int(original),
        rope.get("beta_fast") or 32.0,
        rope.get("beta_slow") or 1.0,
        rope.get("attention_factor"),
    )


PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(
        family="qwen2", vocab_size=512, hidden_size=192, intermediate_size=512, num_layers=2, num_heads=6,
        num_kv_heads=2, head_dim=32, rope_theta=1e4, tie_embeddings=True, max_positions=1024, initializer_range=0.06,
    ),
    "small": ModelConfig(
        family="qwen2", vocab_size=768, hidden_size=256, intermediate_size=704, num_layers=3, num_heads=8,
        num_kv_heads=2, head_dim=32, rope_theta=1e4, tie_embeddings=True, max_positions=1024, initializer_range=0.06,
    ),
    "3m": ModelConfig(
        family="qwen2", vocab_size=512, hidden_size=256, intermediate_size=688, num_layers=4, num_heads=8,
        num_kv_heads=2, head_dim=32, rope_theta=1e4, tie_embeddings=True, max_positions=1024, initializer_range=0.06,
    ),
    "9m": ModelConfig(
        family="qwen2", vocab_size=512, hidden_size=384, intermediate_size=1024, num_layers=6, num_heads=12,
        num_kv_heads=2, head_dim=32, rope_theta=1e4, tie_embeddings=True, max_positions=1024, initializer_range=0.05,
    ),
    "18m": ModelConfig(
        family="qwen2", vocab_size=512, hidden_size=512, intermediate_size=1536, num_layers=6, num_heads=16,
        num_kv_heads=2, head_dim=32, rope_theta=1e4, tie_embeddings=True, max_positions=1024, initializer_range=0.04,
    ),
    "smollm2-135m": ModelConfig(
        family="llama", vocab_size=49152, hidden_size=576, intermediate_size=1536, num_layers=30, num_heads=9,
        num_kv_heads=3, head_dim=64, rope_theta=1e5, rms_norm_eps=1e-5, tie_embeddings=True, qkv_bias=False,
        max_positions=8192, initializer_range=0.0416666666, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    ),
    "qwen2.5-0.5b": ModelConfig(
        family="qwen2", vocab_size=151936, hidden_size=896, intermediate_size=4864, num_layers=24, num_heads=14,
        num_kv_heads=2, head_dim=64, rope_theta=1e6, rms_norm_eps=1e-6, tie_embeddings=True, max_positions=32768,
        bos_token_id=151643, eos_token_id=151645, pad_token_id=151643,
    ),
    "qwen3-0.6b": ModelConfig(
        family="qwen3", vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_layers=28, num_heads=16,
        num_kv_heads=8, head_dim=128, rope_theta=1e6, rms_norm_eps=1e-6, tie_embeddings=True, qkv_bias=False,
        qk_norm=True, max_positions=40960, bos_token_id=151643, eos_token_id=151645, pad_token_id=151643,
    ),
    "qwen2.5-7b": ModelConfig(
        family="qwen2", vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_layers=28, num_heads=28,
        num_kv_heads=4, head_dim=128, rope_theta=1e6, rms_norm_eps=1e-6, tie_embeddings=False, max_positions=32768,
        bos_token_id=151643, eos_token_id=151645, pad_token_id=151643,
    ),
    "qwq-32b": ModelConfig(
        family="qwen2", vocab_size=152064, hidden_size=5120, intermediate_size=27648, num_layers=64, num_heads=40,
        num_kv_heads=8, head_dim=128, rope_theta=1e6, rms_norm_eps=1e-5, tie_embeddings=False, max_positions=40960,
        bos_token_id=151643, eos_token_id=151645, pad_token_id=151643,
    ),
}  # fmt: skip


def preset(name: str, **overrides: Any) -> ModelConfig:
    """A named shape, with fields replaced (`preset("tiny", vocab_size=640)`)."""
    if name not in PRESETS:
        raise ModelError(f"no model preset {name!r}: {nearest(name, PRESETS)}")
    return replace(PRESETS[name], **overrides)
