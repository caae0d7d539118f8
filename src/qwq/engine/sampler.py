"""From logits to a token and its log-probability, row by row.

Each row draws from its own stream of random numbers, a hash of (the row's seed, the number of the
token), so what a request samples does not depend on who shares its batch, beyond float rounding.

Dimensions: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qwq.errors import ConfigError

NEAR_GREEDY = (
    1e-4  # below it logits divided by the temperature may leave float32, and only the likeliest token is drawn anyhow
)

# Logits that a CPU samples from at once: 5 MB in float32. Of larger pieces every operation maps new
# memory, which costs more than the operation; a row's result does not depend on its piece.
SAMPLED_AT_ONCE = 5 << 18
FIRST_LOOK = 1024  # tokens that a nucleus is first looked for in
TIES = 64  # and beyond top-k: as likely tokens as the last one are kept too


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample. `temperature` 0 is greedy, and so is one below `NEAR_GREEDY`. `top_k` 0,
    `top_p` 1 and `min_p` 0 switch those cuts off.

    `repetition_penalty` (Keskar et al. 2019, arXiv 1909.05858) divides positive and multiplies
    negative logits of tokens of prompt or output; `presence_penalty` and
    `frequency_penalty` are subtracted from those of the output (once; times their count), as
    OpenAI's API defines them. `logit_bias` pairs of token id and what is added.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_new_tokens: int = 256
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        checks = {
            "temperature": (0 <= self.temperature < math.inf, "from 0"),
            "top_k": (self.top_k >= 0, "from 0"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
            "max_new_tokens": (self.max_new_tokens >= 1, "from 1"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "above 0"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "from -2 to 2"),
            "frequency_penalty": (-2 <= self.frequency_penalty <= 2, "from -2 to 2"),
            "logit_bias": (all(math.isfinite(bias) for _, bias in self.logit_bias), "of finite numbers"),
        }
        for name, (fits, limits) in checks.items():
            if not fits:
                raise ConfigError(f"sampling: {name}={getattr(self, name)} is out of range: give one {limits}")
        if 0 < self.temperature < NEAR_GREEDY:
            object.__setattr__(self, "temperature", 0.0)

    @property
    def needs_history(self) -> bool:
        """Whether penalties make a token's logit depend on the tokens before it."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


# Odd constants of the splitmix64 generator (Steele, Lea and Flood 2014), as signed 64-bit numbers.
_GAMMA, _MIX1, _MIX2 = (
    c - (1 << 64) if c >> 63 else c for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def stream_seed(seed: int, sample: int) -> int:
    """The seed of one sample's stream: splitmix64's output for (seed, sample), so that near seeds
    give unrelated streams.
    """
    return int(uniform(seed % (1 << 62), sample) * 2**53)


def uniforms(seeds_B: Tensor, counters_B: Tensor) -> Tensor:
    """One float64 in [0, 1) for each pair of seed and counter (both int64)."""
    z = seeds_B + (counters_B + 1) * _GAMMA
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return _shift(z ^ _shift(z, 31), 11).double() * 2.0**-53


def uniform(seed: int, counter: int) -> float:
    """`uniforms` for one pair, in plain integers."""
    mask = (1 << 64) - 1
    z = (seed + (counter + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def truncate(probs_BV: Tensor, params: SamplingParams, mass_B1: Tensor | None = None) -> Tensor:
    """Zero what top-k, top-p and min-p cut, in that order, on the tempered distribution. Not
    renormalised.

    `mass_B1`: what top-p is a share of, where `probs_BV` are not all; default: what top-k left.
    """
    if params.top_k and params.top_k < probs_BV.shape[-1]:
        kth = probs_BV.topk(params.top_k, dim=-1).values[:, -1:]
        probs_BV = probs_BV.masked_fill(probs_BV < kth, 0.0)
    if params.top_p < 1:
        ordered, index = probs_BV.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        # A token stays while the mass before it is under top_p (of what top-k left), so the first
        # one always stays.
        cut = before >= params.top_p * (ordered.sum(-1, keepdim=True) if mass_B1 is None else mass_B1)
        cut[:, 0] = False  # also where so small a top_p rounds to 0
        probs_BV = probs_BV.masked_fill(torch.zeros_like(cut).scatter(-1, index, cut), 0.0)
    if params.min_p > 0:
        probs_BV = probs_BV.masked_fill(probs_BV < params.min_p * probs_BV.amax(-1, keepdim=True), 0.0)
    return probs_BV


def sample(logits_BV: Tensor, params: SamplingParams, seeds_B: Tensor, counters_B: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids (B,) and their log-probabilities (B,) under softmax(logits / temperature).

    The log-probability is that of the tempered distribution before any cut, which is what a policy
    gradient differentiates. Greedy rows report it at temperature 1. It is NaN if a row's logits
    hold NaN or plus infinity; a token of minus infinity is never drawn.
    """
    assert not params.needs_history and not params.logit_bias, "penalties and bias need `penalise`, row by row"
    rows = max(1, SAMPLED_AT_ONCE // logits_BV.shape[-1])
    if len(logits_BV) <= rows or logits_BV.device.type != "cpu":
        return _sample(logits_BV, params, seeds_B, counters_B)
    parts = zip(logits_BV.split(rows), seeds_B.split(rows), counters_B.split(rows), strict=True)
    tokens, logprobs = zip(*(_sample(logits, params, *draw) for logits, *draw in parts), strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def _sample(logits_BV: Tensor, params: SamplingParams, seeds_B: Tensor, counters_B: Tensor) -> tuple[Tensor, Tensor]:
    logits_BV = logits_BV.float()
    if params.temperature == 0:
        tokens_B = logits_BV.argmax(-1)
        return tokens_B, logits_BV.gather(-1, tokens_B[:, None])[:, 0] - logits_BV.logsumexp(-1)
    if params.temperature != 1:
        logits_BV = logits_BV / params.temperature
    logprobs_BV = logits_BV.log_softmax(-1)
    probs_BV = logprobs_BV.exp()
    # On CPUs log_softmax is off by up to 1e-5 over a large vocabulary, always to the same side;
    # what the masses sum to says by how much.
    excess_B = probs_BV.sum(-1).log()
    tokens_B = _draw_rows(probs_BV, params, uniforms(seeds_B, counters_B))
    return tokens_B, logprobs_BV.gather(-1, tokens_B[:, None])[:, 0] - excess_B


def _draw_rows(probs_BV: Tensor, params: SamplingParams, draw_B: Tensor) -> Tensor:
    """Token ids (B,) of the numbers `draw_B` in [0, 1), from what `truncate` leaves.

    Top-k and top-p need an order. Sorting a large vocabulary takes longer than decoding a token, so
    only the most likely tokens are ordered; a row of which they do not hold all that is kept is
    sorted whole.
    """
    first = params.top_k + TIES if params.top_k else FIRST_LOOK if params.top_p < 1 else probs_BV.shape[-1]
    if first >= probs_BV.shape[-1]:
        return _first_above(truncate(probs_BV, params), draw_B)
    probs_BC, ids_BC = probs_BV.topk(first, dim=-1)
    if params.top_k:
        mass_B1, beyond_B = None, probs_BC[:, -1] >= probs_BC[:, params.top_k - 1]
    else:
        mass_B1 = probs_BV.sum(-1, keepdim=True)
        beyond_B = probs_BC.sum(-1) < params.top_p * mass_B1[:, 0]
    ids_BC, order_BC = ids_BC.sort(dim=-1)  # the order of the vocabulary, in which masses are added up
    kept_BC = truncate(probs_BC, params, mass_B1).gather(-1, order_BC)
    tokens_B = ids_BC.gather(-1, _first_above(kept_BC, draw_B)[:, None])[:, 0]
    if bool(beyond_B.any()):
        tokens_B[beyond_B] = _first_above(truncate(probs_BV[beyond_B], params), draw_B[beyond_B])
    return tokens_B


def _first_above(mass_BC: Tensor, draw_B: Tensor) -> Tensor:
    """The first place of each row whose cumulative mass exceeds the draw's share of the whole; a
    place of mass zero is never the first.
    """
    cdf_BC = mass_BC.cumsum(-1)
    draw_B1 = (draw_B[:, None] * cdf_BC[:, -1:]).to(cdf_BC.dtype)
    draw_B1 = torch.minimum(draw_B1, torch.nextafter(cdf_BC[:, -1:], torch.zeros_like(draw_B1)))
    at_B = torch.searchsorted(cdf_BC, draw_B1, right=True)[:, 0]
    return at_B.clamp_(max=mass_BC.shape[-1] - 1)  # of NaN none is found; the log-probability says so


# -- one row with everything a request may ask for -------------------------------------------------


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A sampled token. `raw` is its log-probability under the model, `processed` under what it was
    drawn from before any cut (penalties, bias and temperature applied; greedy at temperature 1);
    both None unless asked for. `top` holds the most likely tokens under the model with their
    log-probabilities.
    """

    id: int
    raw: float | None = None
    processed: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def penalise(logits_V: Tensor, params: SamplingParams, prompt_ids: Tensor, output_ids: Tensor) -> Tensor:
    """Logits after penalties and bias; the tensor itself where there are none. Ids are int64
    tensors, repeats counted.
    """
    if not params.needs_history and not params.logit_bias:
        return logits_V
    logits_V = logits_V.clone()
    if params.repetition_penalty != 1:
        seen = torch.cat((prompt_ids, output_ids)).unique()
        at = logits_V[seen]
        logits_V[seen] = torch.where(at > 0, at / params.repetition_penalty, at * params.repetition_penalty)
    if len(output_ids) and (params.presence_penalty or params.frequency_penalty):
        seen, counts = output_ids.unique(return_counts=True)
        logits_V[seen] -= params.presence_penalty + params.frequency_penalty * counts.to(logits_V.dtype)
    for token, bias in params.logit_bias:
        logits_V[token] += bias
    return logits_V


def sample_token(
    logits_V: Tensor, params: SamplingParams, draw: float, *, raw_V: Tensor | None = None, top: int | None = None
) -> SampledToken:
    """Sample one token from float32 logits (V,) with the random number `draw` in [0, 1): the token
    that `sample` draws.

    `raw_V` are the model's own logits (V,), given with `top` when log-probabilities are wanted
    (`top` alternatives, 0 for none).
    """
    if params.temperature == 0:
        token = int(logits_V.argmax())
    else:
        scaled_V = logits_V if params.temperature == 1 else logits_V / params.temperature
        draw_1 = torch.tensor([draw], dtype=torch.float64, device=logits_V.device)
        token = int(_draw_rows(scaled_V.log_softmax(-1).exp()[None], params, draw_1))
    if top is None or raw_V is None:
        return SampledToken(token)
    raw_logprobs_V = raw_V - raw_V.logsumexp(-1)
    processed_V = logits_V if params.temperature in (0, 1) else logits_V / params.temperature
    processed = float(processed_V[token] - processed_V.logsumexp(-1))
    values, ids = raw_logprobs_V.topk(min(top, len(raw_V)))
    return SampledToken(
        token, float(raw_logprobs_V[token]), processed, tuple(zip(ids.tolist(), values.tolist(), strict=True))
    )
