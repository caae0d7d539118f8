"""The sampler: what each cut leaves, that frequencies follow probabilities, and that streams are
independent.
"""

import math

import pytest
import torch

from qwq.engine import sampler
from qwq.engine.sampler import SamplingParams, sample, sample_token, stream_seed, truncate, uniforms
from qwq.errors import ConfigError

PROBS = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]])


def draws(probs: list[float], params: SamplingParams, n: int, seed: int = 7) -> torch.Tensor:
    """How often each token is drawn in n draws of one stream."""
    logits = torch.tensor(probs).log().expand(n, -1)
    tokens, _ = sample(logits, params, torch.full((n,), stream_seed(seed, 0)), torch.arange(n))
    return torch.bincount(tokens, minlength=len(probs))


def chi_square(counts: torch.Tensor, probs: list[float]) -> float:
    expected = torch.tensor(probs) * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        (SamplingParams(), [0.1, 0.4, 0.05, 0.3, 0.15]),
        (SamplingParams(top_k=1), [0, 0.4, 0, 0, 0]),
        (SamplingParams(top_k=3), [0, 0.4, 0, 0.3, 0.15]),
        (SamplingParams(top_k=5), [0.1, 0.4, 0.05, 0.3, 0.15]),
        (SamplingParams(top_k=50), [0.1, 0.4, 0.05, 0.3, 0.15]),
        (SamplingParams(top_p=0.01), [0, 0.4, 0, 0, 0]),
        (SamplingParams(top_p=0.39), [0, 0.4, 0, 0, 0]),
        (SamplingParams(top_p=0.41), [0, 0.4, 0, 0.3, 0]),
        (SamplingParams(top_p=0.72), [0, 0.4, 0, 0.3, 0.15]),
        (SamplingParams(top_p=0.9), [0.1, 0.4, 0, 0.3, 0.15]),
        (SamplingParams(min_p=0.3), [0, 0.4, 0, 0.3, 0.15]),  # 0.3 of 0.4 is 0.12
        (SamplingParams(min_p=1.0), [0, 0.4, 0, 0, 0]),
        # top-p counts on what top-k left: 0.6 of 0.7 is 0.42, so the second token stays.
        (SamplingParams(top_k=2, top_p=0.6), [0, 0.4, 0, 0.3, 0]),
        (SamplingParams(top_k=2, top_p=0.5), [0, 0.4, 0, 0, 0]),
        (SamplingParams(top_k=4, top_p=0.95, min_p=0.5), [0, 0.4, 0, 0.3, 0]),
    ],
)
def test_truncate_by_hand(params, kept):
    torch.testing.assert_close(truncate(PROBS, params), torch.tensor([kept]))


def test_truncate_works_row_by_row():
    both = torch.stack((PROBS[0], PROBS[0].flip(0)))
    for params in (SamplingParams(top_k=2), SamplingParams(top_p=0.5), SamplingParams(min_p=0.5)):
        one = truncate(PROBS, params)[0]
        assert torch.equal(truncate(both, params), torch.stack((one, one.flip(0))))


def test_frequencies_follow_the_probabilities():
    """Chi-square with 4 degrees of freedom: above 18.5 once in a thousand."""
    probs = [0.1, 0.4, 0.05, 0.3, 0.15]
    assert chi_square(draws(probs, SamplingParams(), 20_000), probs) < 18.5


def test_temperature_sharpens_the_frequencies():
    """At temperature 1/2 probabilities 0.2 and 0.8 become 1/17 and 16/17; one degree of freedom,
    10.8.
    """
    assert chi_square(draws([0.2, 0.8], SamplingParams(temperature=0.5), 20_000), [1 / 17, 16 / 17]) < 10.8


def test_what_is_cut_shares_its_mass_in_proportion():
    counts = draws([0.1, 0.4, 0.05, 0.3, 0.15], SamplingParams(top_k=2), 20_000)
    assert counts[[0, 2, 4]].tolist() == [0, 0, 0]
    assert chi_square(counts[[1, 3]], [4 / 7, 3 / 7]) < 10.8


def test_tokens_of_zero_probability_are_never_drawn():
    """Zeros first, last and in between; also with the largest and the smallest possible draw."""
    counts = draws([0.0, 0.5, 0.0, 0.5, 0.0], SamplingParams(), 20_000)
    assert counts[[0, 2, 4]].tolist() == [0, 0, 0] and int(counts.sum()) == 20_000


@pytest.mark.parametrize(("draw", "token"), [(0.0, 1), (0.4999, 1), (0.5, 3), (1 - 2**-53, 3)])
def test_the_ends_of_the_unit_interval(monkeypatch, draw, token):
    monkeypatch.setattr(
        "qwq.engine.sampler.uniforms", lambda seeds, counters: torch.full((1,), draw, dtype=torch.float64)
    )
    logits = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).log()
    assert sample(logits, SamplingParams(), torch.zeros(1).long(), torch.zeros(1).long())[0].tolist() == [token]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_logprobs_over_a_large_vocabulary_have_no_bias(temperature: float) -> None:
    """log_softmax of torch on CPUs is off by 4e-6 on average here, all to one side: enough to look
    like a mismatch with the trainer.
    """
    logits = torch.randn(64, 49152, generator=torch.Generator().manual_seed(0)) * 4 + 5
    tokens, logprobs = sample(
        logits, SamplingParams(temperature=temperature), torch.arange(64), torch.zeros(64, dtype=torch.long)
    )
    want = (logits / (temperature or 1)).double().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    assert float((logprobs - want).abs().max()) < 2e-6
    chosen = sample_token(logits[0], SamplingParams(temperature=temperature), 0.5, raw_V=logits[0], top=1)
    assert chosen.raw == pytest.approx(float(logits[0].double().log_softmax(-1)[chosen.id]), abs=2e-6)


def test_logprobs_are_those_of_the_tempered_distribution_before_any_cut():
    logits = torch.tensor([[0.2, 0.8]]).log()
    tokens, logprobs = sample(
        logits, SamplingParams(temperature=0.5, top_k=1), torch.zeros(1).long(), torch.zeros(1).long()
    )
    assert tokens.tolist() == [1]
    assert float(logprobs[0]) == pytest.approx(math.log(16 / 17), abs=1e-6)


def test_temperature_zero_is_greedy_and_reports_temperature_one():
    logits = torch.tensor([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]]).log()
    for counter in range(5):
        tokens, logprobs = sample(
            logits, SamplingParams(temperature=0), torch.tensor([1, 2]), torch.full((2,), counter)
        )
        assert tokens.tolist() == [1, 0]
        torch.testing.assert_close(logprobs, torch.tensor([0.7, 0.6]).log())


@pytest.mark.parametrize("temperature", [1e-40, 1e-10, 9e-5])
def test_a_temperature_near_zero_is_greedy(temperature):
    """2.5 / 1e-40 is no float32, and a softmax of infinities no distribution."""
    logits = torch.tensor([[0.5, 2.5, -1.0]])
    assert sample(logits, SamplingParams(temperature=temperature), torch.tensor([1]), torch.tensor([0]))[
        0
    ].tolist() == [1]
    assert sample_token(logits[0], SamplingParams(temperature=temperature), 0.99).id == 1
    assert SamplingParams(temperature=1e-4).temperature == 1e-4


def test_uniforms_lie_in_the_unit_interval_and_are_uniform():
    u = uniforms(torch.arange(-5000, 5000), torch.zeros(10_000, dtype=torch.long))
    assert u.dtype == torch.float64 and float(u.min()) >= 0.0 and float(u.max()) < 1.0
    # Ten equal bins, 9 degrees of freedom: above 27.9 once in a thousand.
    assert chi_square(torch.bincount((u * 10).long(), minlength=10), [0.1] * 10) < 27.9
    # Mean 1/2 with standard error 0.0029; neighbours of a stream are uncorrelated (standard error
    # 0.01).
    along = uniforms(torch.full((10_000,), 3), torch.arange(10_000))
    assert abs(float(along.mean()) - 0.5) < 0.01
    assert abs(float(torch.corrcoef(torch.stack((along[1:], along[:-1])))[0, 1])) < 0.04


def test_the_first_number_of_splitmix64():
    """Seed 0 gives e220a8397b1dcdaf first (Steele, Lea and Flood's generator); its upper 53 bits
    are the draw.
    """
    value = uniforms(torch.tensor([0]), torch.tensor([0]))
    assert float(value) == (0xE220A8397B1DCDAF >> 11) * 2.0**-53


def test_a_row_draws_the_same_whoever_shares_its_batch():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 50, generator=generator)
    seeds, counters = torch.tensor([stream_seed(9, s) for s in range(6)]), torch.arange(6)
    together, _ = sample(logits, SamplingParams(top_p=0.9), seeds, counters)
    for i in range(6):
        alone, _ = sample(logits[i : i + 1], SamplingParams(top_p=0.9), seeds[i : i + 1], counters[i : i + 1])
        assert alone.tolist() == together[i : i + 1].tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("at_once", [1, 50, 51, 149, 150])
def test_rows_sampled_in_pieces_are_those_of_the_whole_bit_for_bit(temperature, at_once, monkeypatch):
    """Three rows of 50 logits: a row a time, one, two, and all at once."""
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    draw = torch.tensor([5, 6, 7]), torch.tensor([0, 3, 9])
    params = SamplingParams(temperature=temperature, top_p=0.9)
    whole = sample(logits, params, *draw)
    monkeypatch.setattr(sampler, "SAMPLED_AT_ONCE", at_once)
    for ours, theirs in zip(sample(logits, params, *draw), whole, strict=True):
        assert ours.shape == (3,) and torch.equal(ours, theirs)


CUTS = [
    {"top_k": 40}, {"top_p": 0.95}, {"top_k": 40, "top_p": 0.9}, {"top_k": 1}, {"top_p": 0.5, "min_p": 0.02},
    {"top_k": 7, "top_p": 0.3, "min_p": 0.1},
]  # fmt: skip


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("cut", CUTS)
def test_the_most_likely_tokens_alone_give_what_sorting_all_gives(cut, scale, monkeypatch):
    """5,000 tokens; at scale 0.1 the nucleus is wider than the first look."""
    logits = scale * torch.randn(20, 5000, generator=torch.Generator().manual_seed(0))
    draw, params = (torch.arange(20), torch.arange(20)), SamplingParams(temperature=0.8, **cut)
    looked = sample(logits, params, *draw)
    monkeypatch.setattr(sampler, "FIRST_LOOK", 5000)
    monkeypatch.setattr(sampler, "TIES", 5000)
    for ours, sorted_whole in zip(looked, sample(logits, params, *draw), strict=True):
        assert torch.equal(ours, sorted_whole)


def test_tokens_as_likely_as_the_last_of_top_k_are_kept_however_many_they_are():
    """500 equal tokens and top_k 5: any of them may come, as `truncate` says."""
    tokens, _ = sample(torch.zeros(300, 500), SamplingParams(top_k=5), torch.arange(300), torch.zeros(300).long())
    assert tokens.unique().numel() > 150 and tokens.max() > 250


def test_a_flat_row_does_not_change_how_its_neighbour_is_cut():
    """Logits in steps, as bfloat16 gives them: many are equal at the nucleus's edge."""
    peaked = (4 * torch.randn(1, 5000, generator=torch.Generator().manual_seed(1))).round()
    both, params = torch.cat((peaked, torch.zeros(1, 5000))), SamplingParams(top_p=0.95)
    for count in range(50):
        seeds, counters = torch.tensor([9, 9]), torch.tensor([count, count])
        alone, _ = sample(peaked, params, seeds[:1], counters[:1])
        assert sample(both, params, seeds, counters)[0][0] == alone[0]


def test_stream_seeds_are_distinct_and_repeatable():
    seeds = {stream_seed(seed, s) for seed in range(-20, 80) for s in range(20)}
    assert len(seeds) == 100 * 20 and all(0 <= s < 2**53 for s in seeds)
    assert stream_seed(5, 3) == stream_seed(5, 3)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"max_new_tokens": 0},
        {"temperature": math.nan},
        {"temperature": math.inf},
    ],
)
def test_parameters_out_of_range_are_named(bad):
    (name,) = bad
    with pytest.raises(ConfigError, match=f"{name}="):
        SamplingParams(**bad)


@pytest.mark.parametrize(("draw", "token"), [(0.1, 0), (0.5, 1), (0.9, 2)])
@pytest.mark.parametrize("params", [SamplingParams(top_k=1), SamplingParams(top_k=2, min_p=0.5)])
def test_a_request_alone_keeps_tokens_as_likely_as_the_last_one_too(monkeypatch, params, draw, token):
    """As in a batch: the three likeliest of four have one probability, which 16 bits often give."""
    logits = torch.tensor([2.0, 2.0, 2.0, 0.0])
    monkeypatch.setattr(sampler, "uniforms", lambda seeds, counters: torch.full((1,), draw, dtype=torch.float64))
    one = torch.zeros(1, dtype=torch.long)
    assert sample(logits[None], params, one, one)[0].tolist() == [token]
    assert sample_token(logits, params, draw).id == token


CUTS = {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 2, "top_p": 0.5, "min_p": 0.1}, {}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_logits_that_are_no_numbers_give_a_token_whose_logprob_says_so(cut, odd):
    """Those of a drafting model are not looked at before: with a cut they ended the engine."""
    logits = torch.tensor([0.0, odd, 1.0])
    token = sample_token(logits, SamplingParams(**cut), 0.5, raw_V=logits, top=0)
    assert 0 <= token.id < 3 and token.raw is not None and not math.isfinite(token.raw)


@pytest.mark.parametrize(
    ("key", "value", "limits"),
    [
        ("top_p", 0.0, "above 0, at most 1"),
        ("top_k", -1, "from 0"),
        ("temperature", math.nan, "from 0"),
        ("repetition_penalty", math.inf, "above 0"),
        ("presence_penalty", 2.5, "from -2 to 2"),
        ("logit_bias", ((1, math.nan),), "of finite numbers"),
    ],
)
def test_what_is_out_of_range_is_refused_with_the_range(key, value, limits):
    with pytest.raises(ConfigError, match=rf"sampling: {key}=.* is out of range: give one {limits}"):
        SamplingParams(**{key: value})
