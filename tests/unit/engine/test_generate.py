"""Generation on the model that is trained: same tokens as step by step, same log-probabilities as the trainer."""

import pytest
import torch

from qwq.engine import batch as module
from qwq.engine.batch import Completion, Request, generate
from qwq.engine.sampler import SamplingParams
from qwq.errors import CapacityError
from qwq.model.config import ModelConfig
from qwq.model.layouts import Decode, Packed, Prefill
from qwq.model.transformer import Transformer
from qwq.train.losses import token_logprobs
from qwq.train.packing import pack, pack_groups
from qwq.types import StopReason

VOCAB = 40
NEVER = [VOCAB + 1]  # an end token that no model of this vocabulary can emit


def make(max_positions: int = 256) -> Transformer:
    model = Transformer(ModelConfig("qwen2", VOCAB, 24, 32, 2, 4, 2, 8, rope_theta=1e4, max_positions=max_positions))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.25, generator=generator)
    return model


@pytest.fixture(scope="module")
def model() -> Transformer:
    return make()


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(100 + seed)).tolist()


def full_logits(model: Transformer, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(torch.tensor(ids), Packed([len(ids)])))


def trainer_logprobs(
    model: Transformer, prompt_ids: list[int], c: Completion, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probabilities of the sampled tokens by a plain forward pass over the whole sequence."""
    ids = [*prompt_ids, *c.ids]
    logp = (full_logits(model, ids[:-1]) / temperature).log_softmax(-1)
    each = logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])][len(prompt_ids) - 1 :]
    return each[torch.tensor(c.sampled_mask).bool()]


def sampled(c: Completion) -> torch.Tensor:
    return torch.tensor([x for x, m in zip(c.logprobs, c.sampled_mask, strict=True) if m])


@pytest.mark.parametrize("length", [1, 2, 9])
def test_greedy_equals_full_forward_argmax(model, length):
    ids = prompt(length)
    ((c,),) = generate(model, [Request(ids)], SamplingParams(temperature=0, max_new_tokens=20), NEVER)
    expected = list(ids)
    for _ in range(20):
        expected.append(int(full_logits(model, expected)[-1].argmax()))
    assert c.ids == expected[length:]
    assert c.sampled_mask == [1] * 20 and c.stop_reason is StopReason.LENGTH
    assert float((sampled(c) - trainer_logprobs(model, ids, c)).abs().max()) < 1e-4


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_equal_the_trainers_in_both_packings(model, temperature):
    """Promise 1, over many rows that end at different times and move in the cache."""
    requests = [Request(prompt(n, n), 5, seed=n) for n in (1, 3, 12, 7)]
    groups = generate(
        model, requests, SamplingParams(temperature=temperature, max_new_tokens=30), [0, 1, 2], max_rows=6
    )
    ours = torch.cat([sampled(c) for g in groups for c in g])
    assert len({len(c.ids) for g in groups for c in g}) > 3, "the rows should end at different times"

    whole = [
        ([*r.prompt_ids, *c.ids], [0.0] * len(r.prompt_ids) + [1.0] * len(c.ids))
        for r, g in zip(requests, groups, strict=True)
        for c in g
    ]
    batches = [
        pack([ids for ids, _ in whole], [weights for _, weights in whole]),
        pack_groups(
            [r.prompt_ids for r in requests],
            [[c.ids for c in g] for g in groups],
            [[c.sampled_mask for c in g] for g in groups],
            {},
        ),
    ]
    for batch in batches:
        with torch.no_grad():
            hidden = model(batch.ids_N, batch.layout)[batch.where_M]
            theirs, _ = token_logprobs(hidden, model.head_weight, batch.targets_M, temperature=temperature)
        assert float((ours - theirs).abs().max()) < 1e-4


@pytest.mark.parametrize("max_rows", [64, 11])
def test_a_prompt_is_read_once_for_all_its_samples(model, monkeypatch, max_rows):
    """Prompts of other lengths, groups of other sizes, rows that end, move and are filled again."""
    requests = [Request(prompt(n, n), k, seed=n) for n, k in ((12, 7), (9, 5), (20, 4))]
    params = SamplingParams(max_new_tokens=30)
    plain = generate(model, requests, params, [0, 1, 2], max_rows=max_rows)
    seen, inner = [], Decode._attend_siblings
    monkeypatch.setattr(Decode, "_attend_siblings", lambda self, *a: (seen.append(self.siblings), inner(self, *a))[1])
    monkeypatch.setattr(module, "LONG_PROMPT", 8)
    monkeypatch.setattr(module, "MANY_SAMPLES", 2)
    joined = generate(model, requests, params, [0, 1, 2], max_rows=max_rows)
    assert {s.length for s in seen} >= {8} and len({(s.num_groups, s.most) for s in seen}) > 1
    for r, a, b in zip(requests, plain, joined, strict=True):
        assert [c.ids for c in a] == [c.ids for c in b]
        for c in b:
            assert float((sampled(c) - trainer_logprobs(model, r.prompt_ids, c)).abs().max()) < 1e-4


def test_a_request_does_not_depend_on_its_batch_mates(model):
    requests = [Request(prompt(n, n), 3, seed=50 + n) for n in (2, 11, 5, 5, 20)]
    params = SamplingParams(max_new_tokens=25)
    wide = generate(model, requests, params, [0, 1], max_rows=64)
    narrow = generate(model, requests, params, [0, 1], max_rows=2)
    alone = [generate(model, [r], params, [0, 1], max_rows=1)[0] for r in requests]
    for a, b, c in zip(wide, narrow, alone, strict=True):
        assert [x.ids for x in a] == [x.ids for x in b] == [x.ids for x in c]
        assert [x.stop_reason for x in a] == [x.stop_reason for x in b] == [x.stop_reason for x in c]


def test_samples_of_a_group_and_other_seeds_differ(model):
    params = SamplingParams(max_new_tokens=20)
    ((first, second),) = generate(model, [Request(prompt(5), 2, seed=1)], params, NEVER)
    ((again,),) = generate(model, [Request(prompt(5), 1, seed=1)], params, NEVER)
    ((other,),) = generate(model, [Request(prompt(5), 1, seed=2)], params, NEVER)
    assert first.ids == again.ids
    assert first.ids != second.ids and first.ids != other.ids


def test_an_end_token_ends_and_is_kept(model):
    ends = list(range(0, VOCAB, 4))
    (group,) = generate(model, [Request(prompt(5), 12)], SamplingParams(max_new_tokens=40), ends)
    for c in group:
        if c.stop_reason is StopReason.END:
            assert c.ids[-1] in ends and not set(c.ids[:-1]) & set(ends)
        else:
            assert len(c.ids) == 40 and not set(c.ids) & set(ends)
    assert sum(c.stop_reason is StopReason.END for c in group) > 6


def test_an_end_token_in_the_last_place_is_an_end(model):
    """A completion of one token: END if the token ends, LENGTH if it does not."""
    (group,) = generate(model, [Request(prompt(5), 30)], SamplingParams(max_new_tokens=1), list(range(20)))
    for c in group:
        assert len(c.ids) == 1
        assert c.stop_reason is (StopReason.END if c.ids[0] < 20 else StopReason.LENGTH)
    assert {c.stop_reason for c in group} == {StopReason.END, StopReason.LENGTH}


def test_no_end_tokens_at_all(model):
    ((c,),) = generate(model, [Request(prompt(3))], SamplingParams(max_new_tokens=4), [])
    assert len(c.ids) == 4 and c.stop_reason is StopReason.LENGTH


def test_a_full_context_is_its_own_reason():
    """Context 12, prompt 8: positions 8 to 11 can still be fed; the last token of all is only emitted."""
    small = make(max_positions=12)
    (a,), (b,) = generate(small, [Request(prompt(8)), Request(prompt(3))], SamplingParams(max_new_tokens=6), NEVER)
    assert (len(a.ids), a.stop_reason) == (5, StopReason.CONTEXT)
    assert (len(b.ids), b.stop_reason) == (6, StopReason.LENGTH)
    assert float((sampled(a) - trainer_logprobs(small, prompt(8), a)).abs().max()) < 1e-4


def test_a_prompt_that_fills_the_context_is_refused():
    with pytest.raises(CapacityError, match="12 tokens, the model reads at most 12"):
        generate(make(max_positions=12), [Request(prompt(12))], SamplingParams(), NEVER)


def test_no_requests_no_completions(model):
    assert generate(model, [], SamplingParams(), NEVER) == []


def test_a_group_computes_its_prompt_once(model):
    fed: list[tuple[type, int]] = []
    handle = model.register_forward_pre_hook(lambda module, args: fed.append((type(args[1]), len(args[0]))))
    generate(model, [Request(prompt(10), 6), Request(prompt(4, 1), 2)], SamplingParams(max_new_tokens=3), NEVER)
    handle.remove()
    assert sum(n for kind, n in fed if kind is Prefill) == 9 + 3
    assert [n for kind, n in fed if kind is Decode] == [8, 8, 8]


# --- continue_with ----------------------------------------------------------------------------------------------

ENDS = list(range(0, VOCAB, 2))
FORCED = [5, 0, 7]  # 0 is an end token: what the environment writes ends nothing


def test_forced_tokens_are_marked_and_the_row_goes_on(model):
    asked: list[tuple[int, int, list[int]]] = []

    def go_on(request: int, sample: int, ids: list[int]):
        asked.append((request, sample, ids))
        return FORCED if sum(a[:2] == (request, sample) for a in asked) == 1 else None

    requests = [Request(prompt(n, n), 4, seed=n) for n in (6, 1)]
    groups = generate(model, requests, SamplingParams(max_new_tokens=80), ENDS, max_rows=3, continue_with=go_on)
    for r, group in enumerate(groups):
        for s, c in enumerate(group):
            first, second = [ids for a, b, ids in asked if (a, b) == (r, s)]
            n = len(first)
            assert c.ids[:n] == first and first[-1] in ENDS
            assert c.ids[n : n + 3] == FORCED and c.ids == second and len(c.ids) > n + 3
            assert c.sampled_mask == [1] * n + [0] * 3 + [1] * (len(c.ids) - n - 3)
            assert c.logprobs[n : n + 3] == [0.0] * 3 and 0.0 not in c.logprobs[:n] + c.logprobs[n + 3 :]
            assert c.stop_reason is StopReason.END
            # What follows is conditioned on what was forced.
            assert float((sampled(c) - trainer_logprobs(model, requests[r].prompt_ids, c)).abs().max()) < 1e-4


def test_forcing_leaves_the_other_rows_as_they_are(model):
    requests = [Request(prompt(4, i), 1, seed=i) for i in range(4)]
    params = SamplingParams(max_new_tokens=60)
    plain = generate(model, requests, params, ENDS)
    turns = iter([FORCED])
    forced = generate(
        model, requests, params, ENDS, continue_with=lambda r, s, ids: next(turns, None) if r == 2 else None
    )
    for r in range(4):
        a, b = plain[r][0].ids, forced[r][0].ids
        assert (b[: len(a)] == a and len(b) > len(a)) if r == 2 else a == b


def test_continue_with_may_name_the_reason(model):
    ((c,),) = generate(
        model, [Request(prompt(6))], SamplingParams(max_new_tokens=80), ENDS, continue_with=lambda *_: StopReason.TURNS
    )
    assert c.stop_reason is StopReason.TURNS and c.ids[-1] in ENDS


def test_forced_tokens_that_do_not_fit_stop_the_row(model):
    """Room for the forced tokens and at least one sampled after them, or the row is unfinished."""
    ((plain,),) = generate(model, [Request(prompt(6))], SamplingParams(max_new_tokens=80), ENDS)
    n = len(plain.ids)
    for room, more in ((3, False), (4, True)):
        params = SamplingParams(max_new_tokens=n + room)
        ((c,),) = generate(
            model, [Request(prompt(6))], params, ENDS, continue_with=lambda r, s, ids: FORCED if len(ids) == n else None
        )
        assert (c.ids[n : n + 3] == FORCED) is more
        assert more or (c.ids == plain.ids and c.stop_reason is StopReason.LENGTH)


def test_a_thinking_budget_closes_the_thought_and_is_never_exceeded(model):
    """The closing is fed like any tokens, marked as not sampled; the sampled tokens keep the trainer's log-probabilities."""

    class Control:  # what `engine.thinking.Thinking` offers, without a tokenizer
        closing_ids = [7, 8, 9]

        def __init__(self, budget: int) -> None:
            self.left, self.closed = budget, False

        def due(self) -> bool:
            return not self.closed and self.left <= 0

        def push(self, token: int, *, forced: bool = False) -> None:
            if forced:
                self.closed = True
            elif not self.closed:
                self.left -= 1

    budgets = [0, 4, None]
    prompts = [prompt(5, seed=i) for i in range(3)]
    groups = generate(
        model, [Request(p, 3, i) for i, p in enumerate(prompts)], SamplingParams(max_new_tokens=12), NEVER, max_rows=4,
        thinking=lambda request: None if budgets[request] is None else Control(budgets[request]),
    )  # fmt: skip
    for budget, p, group in zip(budgets, prompts, groups, strict=True):
        for c in group:
            assert len(c.ids) == 12
            if budget is None:
                assert c.sampled_mask == [1] * 12
            else:
                assert c.sampled_mask == [1] * budget + [0] * 3 + [1] * (9 - budget)
                assert c.ids[budget : budget + 3] == [7, 8, 9]
            torch.testing.assert_close(sampled(c), trainer_logprobs(model, p, c), rtol=1e-5, atol=1e-5)


def test_samples_are_heard_of_as_they_end(model):
    heard = []
    groups = generate(
        model, [Request(prompt(4, seed=i), 2, i) for i in range(3)], SamplingParams(max_new_tokens=6), NEVER, max_rows=2,
        on_done=lambda request, number, c: heard.append((request, number, c.ids)),
    )  # fmt: skip
    assert sorted(heard) == [(r, n, groups[r][n].ids) for r in range(3) for n in range(2)]
    assert [r for r, _, _ in heard] == [0, 0, 1, 1, 2, 2]  # two places, so the first group ends before the last begins
