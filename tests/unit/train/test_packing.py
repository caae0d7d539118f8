"""Packing changes the cost of a batch, never its result."""

import pytest
import torch
from tiny import random_model

from qwq.model.transformer import Transformer
from qwq.train.losses import policy_terms, token_logprobs
from qwq.train.packing import PackedBatch, micro_batches, pack, pack_groups

VOCAB = 40


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model(VOCAB)


def ragged(prompt_lengths: list[int], completion_lengths: list[list[int]], seed: int = 1):
    """Prompts, completions, masks (with forced stretches) and advantages of the given lengths."""
    g = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(0, VOCAB, (n,), generator=g).tolist() for n in prompt_lengths]
    completions = [[torch.randint(0, VOCAB, (n,), generator=g).tolist() for n in group] for group in completion_lengths]
    masks = [[[int(i % 5 != 3) for i in range(n)] for n in group] for group in completion_lengths]
    advantages = [[[float(torch.randn(1, generator=g))] * n for n in group] for group in completion_lengths]
    return prompts, completions, masks, advantages


def logprobs(model: Transformer, batch: PackedBatch) -> torch.Tensor:
    hidden = model(batch.ids_N, batch.layout)[batch.where_M]
    return token_logprobs(hidden, model.head_weight, batch.targets_M)[0]


def gradient(model: Transformer, batches: list[PackedBatch], normaliser: float) -> torch.Tensor:
    model.zero_grad()
    for batch in batches:
        terms = policy_terms(logprobs(model, batch), batch.extra["advantage"])
        (terms.loss_N.sum() / normaliser).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_pack_by_hand():
    batch = pack([[1, 2, 3], [4, 5]], [[0.0, 0.0, 1.0], [0.5, 0.5]])
    assert batch.ids_N.tolist() == [1, 2, 4] and batch.num_tokens == 3
    assert batch.layout.positions_N.tolist() == [0, 1, 0]
    # The weight of a sequence's first token counts for nothing: nothing predicts it.
    assert batch.where_M.tolist() == [1, 2]
    assert batch.targets_M.tolist() == [3, 5] and batch.weights_M.tolist() == [1.0, 0.5]


def test_pack_groups_by_hand():
    """One prompt 1 2 3, completions 4 5 and 6; the middle token is the environment's."""
    batch = pack_groups([[1, 2, 3]], [[[4, 5, 6], [7]]], [[[1, 0, 1], [1]]], {"x": [[[0.1, 0.2, 0.3], [0.4]]]})
    assert batch.ids_N.tolist() == [1, 2, 3, 4, 5, 3]
    assert batch.layout.positions_N.tolist() == [0, 1, 2, 3, 4, 2]
    assert batch.where_M.tolist() == [2, 4, 5] and batch.targets_M.tolist() == [4, 6, 7]
    assert batch.extra["x"].tolist() == pytest.approx([0.1, 0.3, 0.4])


SHAPES = [
    ([6], [[5, 5, 5]]),
    ([6, 3], [[5, 1, 9], [2, 4]]),
    ([1, 7, 1], [[4, 2], [3, 3], [6]]),
    ([1], [[4, 2]]),
    ([9, 2], [[1], [12, 1, 1, 3]]),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_groups_equal_whole_sequences_in_logprobs_and_gradient(model, shape):
    prompts, completions, masks, advantages = ragged(*shape)
    shared = pack_groups(prompts, completions, masks, {"advantage": advantages})
    flat = [
        (p + c, [0.0] * len(p) + [float(x) for x in m])
        for p, cs, ms in zip(prompts, completions, masks, strict=True)
        for c, m in zip(cs, ms, strict=True)
    ]
    whole = pack([ids for ids, _ in flat], [weights for _, weights in flat])
    whole.extra["advantage"] = shared.extra["advantage"]
    assert whole.targets_M.tolist() == shared.targets_M.tolist()
    torch.testing.assert_close(logprobs(model, shared), logprobs(model, whole), rtol=1e-5, atol=1e-5)
    assert relative(gradient(model, [shared], 10.0), gradient(model, [whole], 10.0)) < 1e-5
    if max(shape[0]) > 1 and max(map(len, shape[1])) > 1:
        assert shared.num_tokens < whole.num_tokens


def test_one_batch_of_eight_equals_eight_batches_of_one(model):
    parts = ragged([5, 3, 8, 2, 1, 4, 6, 7], [[3, 6], [2, 2], [9, 1], [4], [5, 5], [1, 8], [7, 2, 3], [6, 6]])
    names = ("prompts", "completions", "masks", "advantages")

    def batch(where: slice) -> PackedBatch:
        p = {name: part[where] for name, part in zip(names, parts, strict=True)}
        return pack_groups(p["prompts"], p["completions"], p["masks"], {"advantage": p["advantages"]})

    together = gradient(model, [batch(slice(0, 8))], 64.0)
    apart = gradient(model, [batch(slice(i, i + 1)) for i in range(8)], 64.0)
    assert float(together.norm()) > 1e-3
    assert relative(apart, together) < 1e-5


@pytest.mark.parametrize(
    ("lengths", "limit", "lots"),
    [
        ([3, 1, 2], 100, [[1, 2, 0]]),
        ([3, 1, 2], 3, [[1, 2], [0]]),
        ([5, 5, 5, 5], 10, [[0, 1], [2, 3]]),
        ([4, 50, 4], 10, [[0, 2], [1]]),  # the long one stands alone
        ([7], 1, [[0]]),
        ([], 10, []),
    ],
)
def test_micro_batches_by_hand(lengths, limit, lots):
    assert micro_batches(lengths, limit) == lots


def test_micro_batches_cover_all_within_the_limit():
    lengths = torch.randint(1, 60, (200,), generator=torch.Generator().manual_seed(2)).tolist()
    lots = micro_batches(lengths, 128)
    assert sorted(i for lot in lots for i in lot) == list(range(200))
    assert all(sum(lengths[i] for i in lot) <= 128 for lot in lots)
