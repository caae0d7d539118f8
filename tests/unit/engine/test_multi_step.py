"""Generation on the model that is trained: same tokens as step by step, same log-probabilities as
the trainer.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from qwq.engine.backends import dense
from qwq.engine.backends.dense import DenseBackend
from qwq.engine.backends.torch import TorchBackend
from qwq.engine.multi_step import batches
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.engine.sequence import TokenSequence
from qwq.errors import CapacityError, ModelError
from qwq.model.config import ModelConfig
from qwq.model.layouts import Decode, Packed, Prefill
from qwq.model.transformer import Transformer
from qwq.text.tokenizer import Tokenizer, train_bpe
from qwq.train.losses import token_logprobs
from qwq.train.packing import pack, pack_groups
from qwq.types import StopReason

VOCAB = 40
NEVER = [VOCAB + 1]  # an end token that no model of this vocabulary can emit
GOLDEN = Path(__file__).parents[2] / "golden" / "rollouts.json"
TOKENIZER = train_bpe([f"the {a} of {b} is {a + b}; think about it\n" for a in range(30) for b in range(9)], 320)


@dataclass
class Request:
    """A prompt and how many samples of it."""

    prompt_ids: list[int]
    num_samples: int = 1
    seed: int = 0


@dataclass
class Completion:
    ids: list[int]
    sampled_mask: list[int]
    logprobs: list[float]
    stop_reason: StopReason | None


def engine_of(
    model: Transformer, tokenizer: Tokenizer, *, max_rows: int = 256, prefix_cache=False, **options
) -> Engine:
    backend = DenseBackend(model, max_slots=max_rows)
    return Engine(backend, tokenizer, max_running=max_rows, prefix_cache=prefix_cache, **options)


def submit(engine: Engine, r: Request, params: SamplingParams, ends: list[int]) -> list[TokenSequence]:
    request = GenerationRequest(
        r.prompt_ids, params, r.num_samples, r.seed, eos_ids=tuple(ends), plain_sampling=True, drawn_logprobs=True
    )
    return engine.submit(request)


def generate(
    model: Transformer, requests: list[Request], params: SamplingParams, ends: list[int], *, max_rows: int = 256
) -> list[list[Completion]]:
    engine = engine_of(model, TOKENIZER, max_rows=max_rows)
    groups = [submit(engine, r, params, ends) for r in requests]
    while engine.has_work:
        engine.step()
    assert not engine.cache.slots and not engine.backend.cache.num_places  # the memory is given back
    return [[Completion(s.ids, [1 - f for f in s.forced], s.drawn_logprobs, s.stop_reason) for s in g] for g in groups]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return TOKENIZER


def make(max_positions: int = 256, vocab: int = VOCAB) -> Transformer:
    model = Transformer(ModelConfig("qwen2", vocab, 24, 32, 2, 4, 2, 8, rope_theta=1e4, max_positions=max_positions))
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
    monkeypatch.setattr(dense, "LONG_PROMPT", 8)
    monkeypatch.setattr(dense, "MANY_SAMPLES", 2)
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
    """Context 12, prompt 8: four more tokens."""
    small = make(max_positions=12)
    (a,), (b,) = generate(small, [Request(prompt(8)), Request(prompt(3))], SamplingParams(max_new_tokens=6), NEVER)
    assert (len(a.ids), a.stop_reason) == (4, StopReason.CONTEXT)
    assert (len(b.ids), b.stop_reason) == (6, StopReason.LENGTH)
    assert float((sampled(a) - trainer_logprobs(small, prompt(8), a)).abs().max()) < 1e-4


def test_a_prompt_that_fills_the_context_is_refused():
    with pytest.raises(CapacityError, match="12 tokens, the model's context is 12"):
        generate(make(max_positions=12), [Request(prompt(12))], SamplingParams(), NEVER)


def test_a_group_computes_its_prompt_once(model):
    fed: list[tuple[type, int]] = []
    handle = model.register_forward_pre_hook(lambda module, args: fed.append((type(args[1]), len(args[0]))))
    generate(model, [Request(prompt(10), 6), Request(prompt(4, 1), 2)], SamplingParams(max_new_tokens=3), NEVER)
    handle.remove()
    assert sum(n for kind, n in fed if kind is Prefill) == 9 + 3
    assert [n for kind, n in fed if kind is Decode] == [8, 8, 8]


# --- later turns, thinking, loops, other company --------------------------------------------------

ENDS = list(range(0, VOCAB, 2))
FORCED = [5, 0, 7]  # 0 is an end token: what the environment writes ends nothing


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_later_turn_continues_from_the_tokens_of_the_first(model, tokenizer, prefix_cache):
    """In the slot of the turn before it, or computed again: the same tokens, with the trainer's
    log-probabilities.
    """
    engine = engine_of(model, tokenizer, max_rows=3, prefix_cache=prefix_cache)
    params = SamplingParams(max_new_tokens=80)
    firsts = [s for n in (12, 9) for s in submit(engine, Request(prompt(n, n), 4, seed=n), params, ENDS)]
    laters = {}
    while engine.has_work:
        for s in engine.step():
            if s.done and s in firsts:
                assert s.stop_reason is StopReason.END and s.ids[-1] in ENDS
                r = s.request
                later = replace(r, prompt_ids=[*s.tokens, *FORCED], n=1, stream=s.number, offset=len(s.ids) + 3)
                (laters[s],) = engine.submit(later)
    for s in firsts:
        later = laters[s]
        c = Completion(
            s.ids + FORCED + later.ids, [1] * len(s.ids) + [0] * 3 + [1] * len(later.ids),
            s.drawn_logprobs + [0.0] * 3 + later.drawn_logprobs, later.stop_reason,
        )  # fmt: skip
        assert float((sampled(c) - trainer_logprobs(model, s.request.prompt_ids, c)).abs().max()) < 1e-4
        assert later.num_cached == (len(s.tokens) - 1 if prefix_cache else 0)
        # The stream goes on at its offset: the same draws as one row that was forced to write the
        # tokens.
        ((whole,),) = engine.run([replace(later.request)])
        assert whole.ids == later.ids


def test_a_later_turn_of_one_row_leaves_the_others_as_they_are(model, tokenizer):
    requests = [Request(prompt(4, i), 1, seed=i) for i in range(4)]
    params = SamplingParams(max_new_tokens=60)
    plain = generate(model, requests, params, ENDS)
    engine = engine_of(model, tokenizer, max_rows=64, prefix_cache=True)
    rows = [submit(engine, r, params, ENDS)[0] for r in requests]
    while engine.has_work:
        for s in engine.step():
            if s is rows[2]:
                engine.submit(replace(s.request, prompt_ids=[*s.tokens, *FORCED], n=1, offset=len(s.ids) + 3))
    assert [s.ids for s in rows] == [c.ids for (c,) in plain]


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_thinking_budget_closes_the_thought_and_is_never_exceeded(tokenizer, temperature):
    """As in steps of one token, by the scheduler's own path on the other backend."""
    model = make(vocab=tokenizer.vocab_size)
    requests = [
        GenerationRequest(
            prompt(5, seed=i), SamplingParams(temperature=temperature, max_new_tokens=90), 3, i, eos_ids=(3, 9),
            thinking_open=opened, thinking_budget=budget, plain_sampling=True, drawn_logprobs=True, loop_tokens=loop,
        )
        for i, (budget, opened, loop) in enumerate(
            [(0, True, 0), (4, True, 0), (None, True, 0), (7, False, 0), (40, True, 20), (None, False, 32)]
        )
    ]  # fmt: skip
    many, single = engine_of(model, tokenizer, max_rows=4), Engine(TorchBackend(model, kv_tokens=1 << 14), tokenizer)
    groups = many.run(requests)
    assert many.stats.steps * 4 >= many.stats.output_tokens
    for request, ours, theirs in zip(requests, groups, single.run(requests), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a.ids, a.forced, a.stop_reason, a.stopped_by) == (b.ids, b.forced, b.stop_reason, b.stopped_by)
            assert (a.text, a.num_thinking, a.loop_in_thinking) == (b.text, b.num_thinking, b.loop_in_thinking)
            assert a.drawn_logprobs == pytest.approx(b.drawn_logprobs, abs=1e-4)
            assert request.thinking_budget is None or a.num_thinking <= request.thinking_budget
    if not temperature:
        assert {s.stop_reason for g in groups for s in g} >= {StopReason.LOOP, StopReason.LENGTH}


def test_others_in_the_batch_change_the_way_and_not_the_tokens(model, tokenizer):
    """A sequence with a stop string, then one of another temperature, then an abort: rows leave the
    tensors and come back.
    """
    engine = engine_of(model, tokenizer, max_rows=8)
    expected = generate(model, [Request(prompt(6, 1), 4, seed=1)], SamplingParams(max_new_tokens=70), NEVER)[0]
    plain = submit(engine, Request(prompt(6, 1), 4, seed=1), SamplingParams(max_new_tokens=70), NEVER)
    (short,) = submit(engine, Request(prompt(3)), SamplingParams(max_new_tokens=4), NEVER)
    engine.step()
    assert short.done and not plain[0].ids  # its tokens are in the tensors
    engine.sync()
    assert plain[0].ids == expected[0].ids[:4]
    (stopped,) = engine.submit(GenerationRequest(prompt(5), SamplingParams(max_new_tokens=9), stop=("never said",)))
    (warm,) = engine.submit(GenerationRequest(prompt(5), SamplingParams(temperature=0.5, max_new_tokens=9)))
    for _ in range(3):
        engine.step()
    assert plain[0].ids == expected[0].ids[:7]
    engine.abort(plain[3])
    while engine.has_work:
        engine.step()
    assert plain[3].stop_reason is StopReason.ABORT and plain[3].ids == expected[3].ids[:7]
    for s, c in zip(plain[:3], expected[:3], strict=True):
        assert s.ids == c.ids and s.drawn_logprobs == pytest.approx(c.logprobs, abs=1e-4)
    assert len(stopped.ids) == len(warm.ids) == 9 and not engine.cache.slots


def test_an_abort_between_steps_leaves_the_other_rows(model, tokenizer):
    engine = engine_of(model, tokenizer, max_rows=8)
    expected = generate(model, [Request(prompt(6, 1), 4, seed=1)], SamplingParams(max_new_tokens=30), NEVER)[0]
    rows = submit(engine, Request(prompt(6, 1), 4, seed=1), SamplingParams(max_new_tokens=30), NEVER)
    submit(engine, Request(prompt(3)), SamplingParams(max_new_tokens=4), NEVER)
    engine.step()
    engine.abort(rows[0])
    while engine.has_work:
        engine.step()
    assert rows[0].ids == expected[0].ids[:4] and [s.ids for s in rows[1:]] == [c.ids for c in expected[1:]]


def test_logits_that_are_no_numbers_end_in_one_line(tokenizer):
    damaged = make()
    with torch.no_grad():
        damaged.norm.weight[3] = float("nan")
    engine = engine_of(damaged, tokenizer, name="the policy of rl1")
    submit(engine, Request(prompt(5), 3), SamplingParams(max_new_tokens=4), NEVER)
    with pytest.raises(ModelError, match=r"^the policy of rl1: its logits are not finite numbers.* learning rate"):
        engine.step()


@pytest.mark.parametrize("max_rows", [6, 64])
@pytest.mark.parametrize("temperature", ["1.0", "0.6"])
def test_tokens_are_those_of_the_generator_before_the_engine(model, max_rows, temperature):
    """Golden values: groups of samples whose rows end at different times, move in the cache and are
    filled again.
    """
    golden = json.loads(GOLDEN.read_text())["groups"][temperature]
    requests = [Request(prompt(n, n), 5, seed=n) for n in (1, 3, 12, 7, 20)]
    params = SamplingParams(temperature=float(temperature), max_new_tokens=30)
    for group, expected in zip(generate(model, requests, params, [0, 1, 2], max_rows=max_rows), golden, strict=True):
        for c, e in zip(group, expected, strict=True):
            assert (c.ids, c.stop_reason) == (e["ids"], e["stop"])
            assert c.logprobs == pytest.approx(e["logprobs"], abs=1e-4)


def test_samples_are_heard_of_as_they_end(model, tokenizer):
    engine = engine_of(model, tokenizer, max_rows=2)
    groups = [
        submit(engine, Request(prompt(4, seed=i), 2, i), SamplingParams(max_new_tokens=6), NEVER) for i in range(3)
    ]
    heard = []
    while engine.has_work:
        heard += [next(i for i, g in enumerate(groups) if s in g) for s in engine.step() if s.done]
    assert heard == [0, 0, 1, 1, 2, 2]  # two places, so the first group ends before the last begins


def test_prefills_are_cut_into_batches():
    assert batches([3, 3, 3, 9, 1], 6) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
    assert batches([], 6) == []
