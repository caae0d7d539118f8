"""Rotary position embedding, and YaRN, which stretches it beyond the length a model was trained on.

RoPE: Su et al. 2021 (arXiv 2104.09864), in the half-split form of Hugging Face weights. YaRN: Peng
et al. 2023 (arXiv 2309.00071), section 3.2 (interpolation by wavelength) and 3.4 (attention scale).

Dimensions: N tokens, E head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qwq.model.config import ModelConfig, YarnScaling


def inverse_frequencies(head_dim: int, theta: float) -> Tensor:
    """Angle per position of each of the E/2 pairs, float32."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def yarn_frequencies(head_dim: int, theta: float, yarn: YarnScaling) -> Tensor:
    """The same under YaRN: a pair that turns often within the original length keeps its angle, one
    that turns less than once is slowed `factor` times, between them a linear ramp.
    """

    def pair_that_turns(times: float) -> float:
        return head_dim * math.log(yarn.original_max_positions / (times * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(yarn.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(yarn.beta_slow)), head_dim - 1)
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low if high != low else 0.001)
    slowed = ramp.clamp(0, 1)
    kept = inverse_frequencies(head_dim, theta)
    return kept / yarn.factor * slowed + kept * (1 - slowed)


def rope_tables(positions_N: Tensor, config: ModelConfig, yarn_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cosine and sine (N, 1, E/2) of each position's angles, computed in float32.

    `yarn_N` says for each token whether YaRN is on; None: on for all where the config has it. Under
    YaRN both tables are scaled by 0.1 ln(factor) + 1, which scales the attention logits by its
    square.
    """
    device, yarn = positions_N.device, config.rope_scaling
    plain = inverse_frequencies(config.head_dim, config.rope_theta).to(device)
    scale: Tensor | float | None
    if yarn is None or (yarn_N is not None and not bool(yarn_N.any())):
        angle_NE, scale = positions_N[:, None].float() * plain[None, :], None
    else:
        stretched = yarn_frequencies(config.head_dim, config.rope_theta, yarn).to(device)
        if yarn_N is None:
            angle_NE, scale = positions_N[:, None].float() * stretched[None, :], yarn.attention_scale
        else:
            angle_NE = positions_N[:, None].float() * torch.where(yarn_N[:, None], stretched[None], plain[None])
            scale = torch.where(yarn_N, yarn.attention_scale, 1.0)[:, None, None]
    cos, sin = angle_NE.cos()[:, None, :], angle_NE.sin()[:, None, :]
    return (cos, sin) if scale is None else (cos * scale, sin * scale)


def apply_rope(x_NHE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each head's pairs (i, i + E/2) by their position's angle."""
    half = x_NHE.shape[-1] // 2
    a, b = x_NHE[..., :half], x_NHE[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
