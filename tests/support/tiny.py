"""Models of a few thousand random weights, for tests that need numbers and no sense."""

from __future__ import annotations

from typing import Any

import torch

from qwq.model.config import ModelConfig
from qwq.model.transformer import Transformer


def random_model(vocab_size: int, *, scale: float = 0.25, seed: int = 0, **changes: Any) -> Transformer:
    """Two layers of 24 dimensions; `changes` are fields of the model's config.

    `scale` is the weights' standard deviation: large enough that the model prefers some tokens.
    """
    shape = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
    }
    config = ModelConfig(**{"family": "qwen2", "vocab_size": vocab_size, "rope_theta": 1e4, **shape, **changes})
    return randomised(Transformer(config), scale, seed)


def randomised(model: Transformer, scale: float, seed: int = 0) -> Transformer:
    """The model with all weights, norms included, drawn from a normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, scale, generator=generator)
    return model
