"""The model: one nn.Module that is trained and sampled from (design promise 1).

Tokens come flat: N tokens of one or many sequences, one after the other, with their positions.
Everything but attention treats tokens one by one, so no padding is ever computed there. What a
token may attend to is the business of a `Layout` (layouts.py): packed training sequences, or rows
with a key/value cache. The model does not know which of them it is run with.

Dimensions in names: N tokens, D hidden width, H query heads, K key/value heads, E head width,
F feed-forward width, V vocabulary.

Sources: RoPE (Su et al. 2021, arXiv 2104.09864, in the half-split form of Hugging Face weights),
RMSNorm (Zhang and Sennrich 2019), SwiGLU (Shazeer 2020), grouped-query attention (Ainslie et al.
2023), Qwen2 and Qwen3 technical reports (arXiv 2407.10671, 2505.09388).
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qwq.model.config import ModelConfig
from qwq.model.host_inputs import kept_on_host
from qwq.model.linear import Linear, linear
from qwq.model.packed import PackedWeight
from qwq.model.rope import apply_rope, rope_tables


class Layout(Protocol):
    """Gives the position of each of the N tokens and lets it attend.

    A layout may have a `yarn_N` (bool): for which tokens YaRN is on. Without it, the model's config
    decides for all.
    """

    positions_N: Tensor

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        """Attention output (N, H*E) of layer `layer`."""
        ...


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x_ND: Tensor) -> Tensor:
        return F.rms_norm(x_ND, (x_ND.shape[-1],), self.weight, self.eps)


class Block(nn.Module):
    """One layer.

    The q, k, v projections are one matrix here, and so are gate and up: fewer, larger products.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        c = self.config = config
        self.index = index
        self.q_dim, self.kv_dim = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        self.input_norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.qkv = Linear(c.hidden_size, self.q_dim + 2 * self.kv_dim, bias=c.qkv_bias)
        self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm else None
        self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm else None
        self.o = Linear(self.q_dim, c.hidden_size, bias=False)
        self.post_norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.gate_up = Linear(c.hidden_size, 2 * c.intermediate_size, bias=False)
        self.down = Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x_ND: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> Tensor:
        E = self.config.head_dim
        qkv = self.qkv(self.input_norm(x_ND))
        qk = qkv[:, : self.q_dim + self.kv_dim].unflatten(1, (-1, E))
        if self.q_norm is not None and self.k_norm is not None:
            heads = self.config.num_heads
            qk = torch.cat((self.q_norm(qk[:, :heads]), self.k_norm(qk[:, heads:])), 1)
        # Queries and keys are turned together: one pass over one tensor.
        qk = apply_rope(qk, cos, sin)
        q_NHE, k_NKE = qk[:, : self.config.num_heads], qk[:, self.config.num_heads :]
        v_NKE = qkv[:, self.q_dim + self.kv_dim :].unflatten(1, (-1, E))
        x_ND = x_ND + self.o(layout.attend(self.index, q_NHE, k_NKE, v_NKE))
        gate_NF, up_NF = self.gate_up(self.post_norm(x_ND)).chunk(2, dim=-1)
        return x_ND + self.down(F.silu(gate_NF) * up_NF)


class Transformer(nn.Module):
    """Qwen2, Qwen3 or Llama decoder.

    `forward` gives final hidden states; `logits` maps them to the vocabulary.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False  # keep each block's input only, for less memory in training
        self.offload = False  # and that in host memory
        self.packed_head: PackedWeight | None = None  # see `packed.packed_weights`
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = None if config.tie_embeddings else Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def head_weight(self) -> Tensor:
        """Output matrix (V, D); the embedding itself where they are tied."""
        return self.embed.weight if self.head is None else self.head.weight

    def matrices(self) -> list[Linear]:
        """The layers' matrices, without embedding and head."""
        return [m for block in self.blocks for m in block.modules() if isinstance(m, Linear)]

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    def forward(self, ids_N: Tensor, layout: Layout) -> Tensor:
        """Hidden states (N, D) after the last norm for flat token ids (N,)."""
        cos, sin = rope_tables(layout.positions_N, self.config, getattr(layout, "yarn_N", None))
        x_ND = self.embed(ids_N)
        cos, sin = cos.to(x_ND.dtype), sin.to(x_ND.dtype)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                with kept_on_host(x_ND) if self.offload else nullcontext():
                    x_ND = checkpoint(block, x_ND, cos, sin, layout, use_reentrant=False, preserve_rng_state=False)
            else:
                x_ND = block(x_ND, cos, sin, layout)
        return self.norm(x_ND)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits (N, V) of hidden states."""
        if self.packed_head is not None and self.packed_head.holds(self.head_weight):
            return self.packed_head.product(hidden_ND, None)
        return linear(hidden_ND, self.head_weight)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> Transformer:
        """Fresh weights for pretraining: normal(0, initializer_range), residual outputs scaled by
        1/sqrt(2 layers) (GPT-2).
        """
        std = self.config.initializer_range
        residual = std / math.sqrt(2 * self.config.num_layers)
        for name, p in self.named_parameters():
            if p.ndim == 1:
                p.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                p.normal_(0.0, residual if name.endswith(("o.weight", "down.weight")) else std, generator=generator)
        return self
