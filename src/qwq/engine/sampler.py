"""From logits to a token and its log-probability, row by row.

Each row draws from its own stream of random numbers, a hash of (the row's seed, the number of the
token), so what a request samples does not depend on who shares its batch, beyond float rounding.

Dimensions: B rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qwq.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample. `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 switch those cuts off."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        checks = {
            "temperature": self.temperature >= 0,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "max_new_tokens": self.max_new_tokens >= 1,
        }
        for name, ok in checks.items():
            if not ok:
                raise ConfigError(f"sampling: {name}={getattr(self, name)} is out of range")


# Odd constants of the splitmix64 generator (Steele, Lea and Flood 2014), as signed 64-bit numbers.
_GAMMA, _MIX1, _MIX2 = (c - (1 << 64) if c >> 63 else c for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def stream_seed(seed: int, sample: int) -> int:
    """The seed of one sample's stream: splitmix64's output for (seed, sample), so that near seeds give unrelated streams."""
    state = torch.tensor([seed % (1 << 62)]), torch.tensor([sample])
    return int(uniforms(*state)[0] * 2**53)


def uniforms(seeds_B: Tensor, counters_B: Tensor) -> Tensor:
    """One float64 in [0, 1) for each pair of seed and counter (both int64)."""
    z = seeds_B + (counters_B + 1) * _GAMMA
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return _shift(z ^ _shift(z, 31), 11).double() * 2.0**-53


def truncate(probs_BV: Tensor, params: SamplingParams) -> Tensor:
    """Zero what top-k, top-p and min-p cut, in that order, on the tempered distribution. Not renormalised."""
    if params.top_k and params.top_k < probs_BV.shape[-1]:
        kth = probs_BV.topk(params.top_k, dim=-1).values[:, -1:]
        probs_BV = probs_BV.masked_fill(probs_BV < kth, 0.0)
    if params.top_p < 1:
        ordered, index = probs_BV.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        # A token stays while the mass before it is under top_p (of what top-k left), so the first one always stays.
        cut = before >= params.top_p * ordered.sum(-1, keepdim=True)
        probs_BV = probs_BV.masked_fill(torch.zeros_like(cut).scatter(-1, index, cut), 0.0)
    if params.min_p > 0:
        probs_BV = probs_BV.masked_fill(probs_BV < params.min_p * probs_BV.amax(-1, keepdim=True), 0.0)
    return probs_BV


def sample(logits_BV: Tensor, params: SamplingParams, seeds_B: Tensor, counters_B: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids (B,) and their log-probabilities (B,) under softmax(logits / temperature).

    The log-probability is that of the tempered distribution before any cut, which is what a
    policy gradient differentiates. Greedy rows report it at temperature 1.
    """
    logits_BV = logits_BV.float()
    if params.temperature == 0:
        tokens_B = logits_BV.argmax(-1)
        return tokens_B, logits_BV.log_softmax(-1).gather(-1, tokens_B[:, None])[:, 0]
    if params.temperature != 1:
        logits_BV = logits_BV / params.temperature
    logprobs_BV = logits_BV.log_softmax(-1)
    cdf_BV = truncate(logprobs_BV.exp(), params).cumsum(-1)
    # The first token whose cumulative mass exceeds the draw; a token of mass zero is never the first.
    draw_B1 = (uniforms(seeds_B, counters_B)[:, None] * cdf_BV[:, -1:]).to(cdf_BV.dtype)
    draw_B1 = torch.minimum(draw_B1, torch.nextafter(cdf_BV[:, -1:], torch.zeros_like(draw_B1)))
    tokens_B = torch.searchsorted(cdf_BV, draw_B1, right=True)[:, 0]
    return tokens_B, logprobs_BV.gather(-1, tokens_B[:, None])[:, 0]
