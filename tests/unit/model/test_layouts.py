"""Layouts: however tokens are packed, shared or cached, each sequence computes what it computes
alone.
"""

from dataclasses import replace

import pytest
import torch

from qwq.model.config import ModelConfig
from qwq.model.footprint import DENSE_MASK
from qwq.model.layouts import Decode, JoinedPrefix, KVCache, Packed, Prefill, SharedPrefix, shared_prefix
from qwq.model.transformer import Transformer

BASE = ModelConfig("qwen2", 40, 24, 32, 2, 4, 2, 8, rope_theta=1e4)
SHAPES = [
    BASE,
    replace(BASE, num_kv_heads=4),
    replace(BASE, num_kv_heads=1, family="llama", qkv_bias=False),
    replace(BASE, family="qwen3", qkv_bias=False, qk_norm=True),
]


@pytest.fixture(scope="module", params=SHAPES, ids=["gqa", "mha", "mqa", "qk-norm"])
def model(request) -> Transformer:
    model = Transformer(request.param)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.3, generator=generator)
    return model


def tokens(*lengths: int, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 40, (n,), generator=generator) for n in lengths]


def alone(model: Transformer, ids: torch.Tensor) -> torch.Tensor:
    return model(ids, Packed([len(ids)]))


def assert_close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_attention_by_hand():
    """One head of width 2, values one-hot: each output row is the softmax over the tokens so
    far.
    """
    q = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]]])
    out = Packed([1, 2]).attend(0, q, q, torch.eye(2)[[0, 1, 0]].unsqueeze(1))
    # Row 2 has scores 1/sqrt(2) to itself's neighbour and 2/sqrt(2) to itself; row 0 is another
    # sequence.
    a, b = torch.tensor([0.5**0.5, 2 * 0.5**0.5]).softmax(0)
    assert_close(out, torch.tensor([[1.0, 0.0], [0.0, 1.0], [float(b), float(a)]]))


@pytest.mark.parametrize("lengths", [(5,), (4, 4, 4), (1, 7, 3, 2)])
def test_packed_sequences_equal_the_same_sequences_alone(model, lengths):
    seqs = tokens(*lengths)
    out = model(torch.cat(seqs), Packed(lengths))
    assert_close(out, torch.cat([alone(model, s) for s in seqs]))


def test_no_gradient_crosses_packed_sequences(model):
    seqs = tokens(4, 6)
    embedded = []
    handle = model.embed.register_forward_hook(lambda m, i, out: embedded.append(out.requires_grad_(True)) or out)
    out = model(torch.cat(seqs), Packed([4, 6]))
    handle.remove()
    (grad,) = torch.autograd.grad(out[4:].square().sum(), embedded[0])
    assert torch.equal(grad[:4], torch.zeros_like(grad[:4])) and grad[4:].abs().sum() > 0
    # Nor does it come from a later token of the same sequence.
    out = model(torch.cat(seqs), Packed([4, 6]))
    ids = torch.cat(seqs)
    ids[9] = (ids[9] + 1) % 40
    assert torch.equal(model(ids, Packed([4, 6]))[:9], out[:9])


@pytest.mark.parametrize(
    ("prompts", "completions"),
    [
        ((5,), ((3, 3),)),
        ((4, 2), ((3, 1, 2), (5,))),
        ((0, 3), ((2,), (2, 4))),
        ((0,), ((3, 2),)),
        ((6, 1, 3), ((1,), (2,), (3,))),
    ],
)
@pytest.mark.parametrize("layout", [SharedPrefix, JoinedPrefix])
def test_shared_prefix_equals_each_whole_sequence_alone(model, prompts, completions, layout):
    flat, expected, weights = [], [], []
    for g, (p_len, c_lens) in enumerate(zip(prompts, completions, strict=True)):
        prompt, *rest = tokens(p_len, *c_lens, seed=g + 3)
        flat += [prompt, *rest]
        wholes = [alone(model, torch.cat((prompt, c))) for c in rest]
        expected += [wholes[0][:p_len], *(w[p_len:] for w in wholes)]
    out = model(torch.cat(flat), layout(prompts, completions))
    assert_close(out, torch.cat(expected))
    # Same loss on the completions, same gradient: what a completion sends into its prompt arrives.
    weights = [
        torch.ones(len(e)) if i else torch.zeros(len(e))
        for e, i in zip(expected, _is_completion(completions), strict=True)
    ]
    weight = torch.cat(weights)[:, None]
    params = list(model.parameters())
    shared = torch.autograd.grad((out.square() * weight).sum(), params, allow_unused=True)
    apart = torch.autograd.grad((torch.cat(expected).square() * weight).sum(), params, allow_unused=True)
    for a, b in zip(shared, apart, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_long_groups_build_no_mask():
    """4 completions of c tokens over a prompt of 1,000: a mask of 4 c (1,000 + c) entries."""
    for c, layout in ((1600, SharedPrefix), (1700, JoinedPrefix)):
        assert (4 * c * (1000 + c) <= DENSE_MASK) == (layout is SharedPrefix)
        made = shared_prefix([1000], [[c] * 4])
        assert type(made) is layout
        assert made.positions_N.tolist() == [*range(1000), *[*range(1000, 1000 + c)] * 4]


def _is_completion(completions) -> list[bool]:
    return [flag for c_lens in completions for flag in (False, *[True] * len(c_lens))]


@torch.no_grad()
def test_prefill_and_decode_equal_the_whole_forward(model):
    """Rows of different lengths, placed out of order, then six tokens one by one."""
    prompts, new = tokens(3, 7, 5), tokens(6, 6, 6, seed=9)
    place = torch.tensor([2, 0, 1])
    cache = KVCache(model.config, 4, 16)
    first = model(torch.cat(prompts), Prefill([3, 7, 5], cache, place))
    assert_close(first, torch.cat([alone(model, p) for p in prompts]))
    of_place = [1, 2, 0]  # which sequence stands in each row
    wholes = [alone(model, torch.cat((prompts[s], new[s]))) for s in of_place]
    for t in range(6):
        position = torch.tensor([len(prompts[s]) + t for s in of_place])
        ids = torch.stack([new[s][t] for s in of_place])
        out = model(ids, Decode(cache, position, width=int(position.max()) + 1 + t % 3))
        assert_close(out, torch.stack([w[p] for w, p in zip(wholes, position, strict=True)]))


@torch.no_grad()
def test_decoding_from_nothing_equals_the_whole_forward(model):
    (ids,) = tokens(8)
    cache = KVCache(model.config, 1, 8)
    steps = [model(ids[t : t + 1], Decode(cache, torch.tensor([t]), 8)) for t in range(8)]
    assert_close(torch.cat(steps), alone(model, ids))


def test_cache_bytes_per_token():
    cache = KVCache(BASE, 3, 10)
    assert cache.k.nbytes + cache.v.nbytes == 3 * 10 * KVCache.bytes_per_token(BASE)
