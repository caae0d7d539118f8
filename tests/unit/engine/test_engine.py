"""The engine on our own module: the same tokens as one request alone by full forward passes,
whatever else is going on.
"""

from __future__ import annotations

import pytest
import torch
from tiny import random_model

from qwq.engine import output
from qwq.engine.backends.cuda.backend import PagedBackend
from qwq.engine.backends.torch import TorchBackend
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.engine.sequence import TokenSequence
from qwq.errors import CapacityError, ModelError, UsageError
from qwq.model.config import YarnScaling
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.text.tokenizer import Tokenizer, train_bpe
from qwq.types import StopReason

GREEDY = SamplingParams(temperature=0, max_new_tokens=24)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A model this small is slower on two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [f"the {a} of {b} is {a + b}; think about it, then say so\n" for a in range(30) for b in range(9)]
    return train_bpe(texts, 320)


def make(tokenizer: Tokenizer, **change) -> Transformer:
    fields = {"vocab_size": tokenizer.vocab_size, "max_positions": 1024, **change}
    return random_model(**fields, scale=0.3).eval()


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    return make(tokenizer)


def engine_of(
    model: Transformer, tokenizer: Tokenizer, *, kv_tokens: int = 1 << 14, deterministic: bool = False, **options
) -> Engine:
    return Engine(TorchBackend(model, kv_tokens=kv_tokens, deterministic=deterministic), tokenizer, **options)


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 280, (length,), generator=torch.Generator().manual_seed(7 + seed)).tolist()


@torch.inference_mode()
def alone(model: Transformer, ids: list[int], new: int) -> list[int]:
    """Greedy by a full forward pass for every token: nothing cached, nothing shared."""
    ids, start = list(ids), len(ids)
    for _ in range(new):
        ids.append(int(model.logits(model(torch.tensor(ids), Packed([len(ids)]))[-1:]).argmax()))
    return ids[start:]


def paged(model: Transformer, tokenizer: Tokenizer, *, kv_tokens: int = 1 << 14, **options) -> Engine:
    """The GPU's backend, without kernels and graphs."""
    return Engine(PagedBackend(model, kv_tokens=kv_tokens, max_length=1024, max_running=8), tokenizer, **options)


LENGTHS = [1, 2, 5, 130, 17, 64, 65, 200, 33, 3, 300, 129]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("budget", [64, 512])
def test_mixed_requests_write_what_each_would_write_alone(model, tokenizer, budget, deterministic) -> None:
    engine = engine_of(model, tokenizer, token_budget=budget, max_running=5, deterministic=deterministic)
    prompts = [prompt(n, n) for n in LENGTHS]
    done = engine.run([GenerationRequest(p, GREEDY) for p in prompts])
    for p, (sample,) in zip(prompts, done, strict=True):
        assert sample.ids == alone(model, p, 24), len(p)
        assert sample.stop_reason is StopReason.LENGTH
    assert all(r.owner is None for r in engine.cache.slots.values()) and not engine.has_work


def test_preempted_samples_come_back_and_lose_nothing(model, tokenizer) -> None:
    prompts = [prompt(100, n) for n in range(6)]
    params = SamplingParams(temperature=0, max_new_tokens=60)
    engine = engine_of(model, tokenizer, kv_tokens=5 * 128 + 256, prefix_cache=False)
    done = engine.run([GenerationRequest(p, params) for p in prompts])
    assert engine.stats.preemptions > 0
    for p, (sample,) in zip(prompts, done, strict=True):
        assert sample.ids == alone(model, p, 60)


def test_what_can_never_fit_is_refused_with_both_numbers(model, tokenizer) -> None:
    with pytest.raises(CapacityError, match="200 tokens, the key/value cache holds 128"):
        engine_of(model, tokenizer, kv_tokens=128).submit(GenerationRequest(prompt(200), GREEDY))
    with pytest.raises(CapacityError, match="1100 tokens, the model's context is 1024"):
        engine_of(model, tokenizer).submit(GenerationRequest(prompt(1100), GREEDY))
    with pytest.raises(UsageError, match="the prompt is empty"):
        engine_of(model, tokenizer).submit(GenerationRequest([], GREEDY))
    with pytest.raises(UsageError, match="token id 99999 is outside the vocabulary"):
        engine_of(model, tokenizer).submit(GenerationRequest([1, 99999], GREEDY))


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_sample_that_fills_the_cache_ends_there(model, tokenizer, deterministic) -> None:
    """And the engine goes on with the others."""
    engine = engine_of(model, tokenizer, kv_tokens=150, deterministic=deterministic)
    long = GenerationRequest(prompt(100), SamplingParams(temperature=0, max_new_tokens=400))
    ((a,), (b,)) = engine.run([long, GenerationRequest(prompt(20), GREEDY)])
    assert a.stop_reason is StopReason.CONTEXT and a.ids == alone(model, prompt(100), 50)
    assert b.ids == alone(model, prompt(20), 24)


def test_a_groups_prompt_and_a_chats_past_are_computed_once(model, tokenizer) -> None:
    engine = engine_of(model, tokenizer, token_budget=128)
    p = prompt(150)
    (group,) = engine.run([GenerationRequest(p, SamplingParams(max_new_tokens=10), n=8, seed=3)])
    assert engine.stats.cached_tokens == 7 * 149
    assert len({tuple(s.ids) for s in group}) > 4  # independent streams
    follow_up = [*p, *group[0].ids, *prompt(20, 5)]
    ((second,),) = engine.run([GenerationRequest(follow_up, GREEDY)])
    assert second.num_cached >= 150 + 9 and second.ids == alone(model, follow_up, 24)


def test_the_cache_off_gives_the_same_tokens(model, tokenizer) -> None:
    requests = [
        GenerationRequest(prompt(90, n % 2) + prompt(n + 1, n), SamplingParams(max_new_tokens=12), n=3, seed=n)
        for n in range(4)
    ]
    on = engine_of(model, tokenizer).run(requests)
    off = engine_of(model, tokenizer, prefix_cache=False).run(requests)
    assert [[s.ids for s in g] for g in on] == [[s.ids for s in g] for g in off]


def test_an_aborted_sample_gives_its_place_back_at_once(model, tokenizer) -> None:
    engine = engine_of(model, tokenizer, max_running=1)
    (first,) = engine.submit(GenerationRequest(prompt(20), SamplingParams(max_new_tokens=500)))
    (second,) = engine.submit(GenerationRequest(prompt(20, 1), GREEDY))
    (third,) = engine.submit(GenerationRequest(prompt(20, 2), GREEDY))
    for _ in range(5):
        engine.step()
    engine.abort(first)
    engine.abort(third)
    while engine.has_work:
        engine.step()
    assert first.stop_reason is StopReason.ABORT and len(first.ids) == 5 and not third.ids
    assert second.ids == alone(model, prompt(20, 1), 24)


def logprobs(sample: TokenSequence) -> list[float]:
    return [c.processed for c in sample.outputs]


def test_deterministic_mode_is_the_same_bit_for_bit_in_any_company(model, tokenizer) -> None:
    params = SamplingParams(temperature=0.8, max_new_tokens=40)
    target = GenerationRequest(prompt(77), params, seed=5, logprobs=2)
    ((lonely,),) = engine_of(model, tokenizer, deterministic=True).run([target])
    for budget, others, cache in (
        (64, [3, 300, 64, 20, 5, 150], True),
        (512, list(range(1, 40, 3)), True),
        (256, [77] * 9, False),
    ):
        engine = engine_of(model, tokenizer, deterministic=True, token_budget=budget, max_running=7, prefix_cache=cache)
        company = [GenerationRequest(prompt(n, n), SamplingParams(max_new_tokens=9 + n % 50), seed=n) for n in others]
        done = engine.run([*company[: len(company) // 2], target, *company[len(company) // 2 :], target])
        for (sample,) in (done[len(company) // 2], done[-1]):
            assert sample.ids == lonely.ids
            assert [c.raw for c in sample.outputs] == [c.raw for c in lonely.outputs]  # the very same bits
            assert logprobs(sample) == logprobs(lonely)


def test_without_it_log_probabilities_move_by_rounding_only(model, tokenizer) -> None:
    target = GenerationRequest(prompt(77), GREEDY, logprobs=0)
    ((lonely,),) = engine_of(model, tokenizer).run([target])
    done = engine_of(model, tokenizer, token_budget=100).run(
        [*(GenerationRequest(prompt(n, n), GREEDY) for n in LENGTHS), target]
    )
    assert done[-1][0].ids == lonely.ids
    assert max(abs(a - b) for a, b in zip(logprobs(done[-1][0]), logprobs(lonely), strict=True)) < 1e-3


FEW = (11, 12, 13)  # with everything else biased away the model repeats itself, so there is something to look up
ONLY_FEW = tuple((t, 60.0) for t in FEW)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guess as often as there is anything to guess, whatever this machine's steps cost."""
    monkeypatch.setattr("qwq.engine.speculative.StepCosts.best_length", lambda self, right, others: 5)


@pytest.mark.parametrize("temperature", [0, 1])
def test_speculation_writes_the_same_tokens(model, tokenizer, temperature, eager) -> None:
    params = SamplingParams(temperature=temperature, max_new_tokens=60, logit_bias=ONLY_FEW)
    requests = [GenerationRequest(prompt(12, n) + list(FEW) * 3, params, seed=n) for n in range(8)]
    plain = engine_of(model, tokenizer, deterministic=True).run(requests)
    engine = engine_of(model, tokenizer, deterministic=True, speculate=True)
    quick = engine.run(requests)
    assert [s.ids for (s,) in quick] == [s.ids for (s,) in plain]
    assert engine.stats.accepted > 10
    if temperature:
        assert engine.stats.drafted > engine.stats.accepted


def test_speculation_samples_from_the_same_distribution(model, tokenizer, eager) -> None:
    """A chi-squared test of tokens 2 to 4 over 1,500 streams against their exact probabilities,
    drafts on.
    """
    p = list(FEW) * 4
    exact: dict[tuple[int, ...], float] = {(): 1.0}
    with torch.inference_mode():
        for _ in range(4):
            wider = {}
            for ids, mass in exact.items():
                logits = model.logits(model(torch.tensor([*p, *ids]), Packed([len(p) + len(ids)]))[-1])
                probs = logits[list(FEW)].div(2.0).softmax(-1).tolist()
                wider |= {(*ids, t): mass * q for t, q in zip(FEW, probs, strict=True)}
            exact = wider
    params = SamplingParams(temperature=2.0, max_new_tokens=8, logit_bias=tuple((t, 200.0) for t in FEW))
    engine = engine_of(model, tokenizer, speculate=True, max_running=64)
    samples = [s for seed in range(3) for s in engine.run([GenerationRequest(p, params, n=500, seed=seed)])[0]]
    assert engine.stats.drafted > 500 and 0.1 < engine.stats.accepted / engine.stats.drafted < 0.9
    chi2, freedom = 0.0, 0
    for tail in sorted({ids[1:] for ids in exact}):
        want = 1500 * sum(mass for ids, mass in exact.items() if ids[1:] == tail)
        if want >= 5:
            chi2 += (sum(tuple(s.ids[1:4]) == tail for s in samples) - want) ** 2 / want
            freedom += 1
    assert freedom >= 5 and chi2 < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_draft_model_changes_nothing_but_the_number_of_steps(model, tokenizer, temperature) -> None:
    params = SamplingParams(temperature=temperature, max_new_tokens=40)
    requests = [GenerationRequest(prompt(30 + n, n), params, seed=n) for n in range(5)]
    plain = engine_of(model, tokenizer, deterministic=True).run(requests)
    other = make(tokenizer, num_layers=1)
    for draft, share in ((model, 0.95), (other, 0.0)):
        engine = engine_of(model, tokenizer, deterministic=True, draft=TorchBackend(draft, kv_tokens=4096))
        done = engine.run(requests)
        assert [s.ids for (s,) in done] == [s.ids for (s,) in plain]
        assert engine.stats.drafted > 30 and engine.stats.accepted >= share * engine.stats.drafted
        assert not engine.draft.cache.place_of  # every draft row was given back
    with pytest.raises(UsageError, match="they must share a tokenizer"):
        engine_of(model, tokenizer, draft=TorchBackend(make(tokenizer, vocab_size=400), kv_tokens=256))


def test_stop_strings_are_cut_off_also_across_tokens(model, tokenizer) -> None:
    ((free,),) = engine_of(model, tokenizer).run([GenerationRequest(prompt(9), GREEDY)])
    text = tokenizer.decode(free.ids)
    assert free.text == text
    stop = text[len(text) // 2 : len(text) // 2 + 5]
    ((cut,),) = engine_of(model, tokenizer).run([GenerationRequest(prompt(9), GREEDY, stop=("never there", stop))])
    assert cut.text == text[: text.index(stop)] and cut.stop_reason is StopReason.STOP and cut.stopped_by == stop
    engine = engine_of(model, tokenizer)
    (sample,) = engine.submit(GenerationRequest(prompt(9), GREEDY, stop=(stop,)))
    shown = ""
    while engine.has_work:
        engine.step()
        assert sample.text.startswith(shown) and stop not in sample.text
        shown = sample.text


def test_end_tokens_end_and_stay_out_of_the_text(model, tokenizer) -> None:
    free = alone(model, prompt(9), 24)
    end = free[10]
    at = free.index(end)
    ((sample,),) = engine_of(model, tokenizer).run([GenerationRequest(prompt(9), GREEDY, eos_ids=(end,))])
    assert sample.ids == free[: at + 1] and sample.stop_reason is StopReason.END
    assert sample.text == tokenizer.decode(free[:at])
    ((later,),) = engine_of(model, tokenizer).run(
        [GenerationRequest(prompt(9), GREEDY, eos_ids=(end,), min_new_tokens=at + 3)]
    )
    assert end not in later.ids[: at + 3]


def test_prompt_logprobs_are_the_models(model, tokenizer) -> None:
    p = prompt(150)
    ((sample,),) = engine_of(model, tokenizer).run([GenerationRequest(p, GREEDY, prompt_logprobs=3)])
    with torch.inference_mode():
        want = model.logits(model(torch.tensor(p), Packed([150]))).log_softmax(-1)
    assert sample.prompt_outputs[0] is None and len(sample.prompt_outputs) == 150
    for i, choice in enumerate(sample.prompt_outputs[1:]):
        assert choice.id == p[i + 1] and choice.raw == pytest.approx(float(want[i, p[i + 1]]), abs=1e-4)
        assert [t for t, _ in choice.top] == want[i].topk(3).indices.tolist()


def test_yarn_is_fixed_at_admission_and_the_cache_knows_it(tokenizer) -> None:
    stretched = make(tokenizer, rope_scaling=YarnScaling(4.0, 256), max_positions=1024)
    p = prompt(200)
    engine = engine_of(stretched, tokenizer)
    ((on,),) = engine.run([GenerationRequest(p, GREEDY, yarn=True)])
    ((off,),) = engine.run([GenerationRequest(p, GREEDY, yarn=False)])
    assert off.num_cached == 0 and on.ids != off.ids
    assert on.ids == alone(stretched, p, 24)
    plain = make(tokenizer)
    assert off.ids == alone(plain, p, 24)
    both = engine.run([GenerationRequest(p, GREEDY, yarn=True), GenerationRequest(p, GREEDY, yarn=False)])
    assert [s.ids for (s,) in both] == [on.ids, off.ids]
    with pytest.raises(UsageError, match="this model has none"):
        engine_of(plain, tokenizer).submit(GenerationRequest(p, GREEDY, yarn=True))


def test_yarn_by_length(tokenizer) -> None:
    long = make(tokenizer, rope_scaling=YarnScaling(4.0, 32768), max_positions=131072)
    engine = engine_of(long, tokenizer)
    cases = [(8192, 100, False), (8193, 100, True), (5000, 27768, False), (5000, 27769, True)]
    for length, new, want in cases:
        (sample,) = engine.submit(GenerationRequest(prompt(length), SamplingParams(max_new_tokens=new)))
        assert sample.yarn is want, (length, new)


def test_a_long_chunk_equals_a_short_one(model, tokenizer) -> None:
    """Attention in two parts merged by log-sum-exp against one masked call."""
    from qwq.engine.backends import torch as torch_backend

    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(s, generator=generator) for s in ((50, 4, 8), (2, 400, 8), (2, 400, 8)))
    want = torch_backend.attend_chunk(q, k, v, 300)
    limit, torch_backend.MASK_LIMIT = torch_backend.MASK_LIMIT, 0
    try:
        got = torch_backend.attend_chunk(q, k, v, 300)
    finally:
        torch_backend.MASK_LIMIT = limit
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kv_tokens", [1 << 14, 420])
def test_paged_rows_write_the_same(model, tokenizer, kv_tokens, eager) -> None:
    """All lengths at once, a group, and a chat that goes on; with little memory some of them are
    preempted.
    """
    engine = paged(model, tokenizer, kv_tokens=kv_tokens, token_budget=64, max_running=5, speculate=True)
    prompts = [prompt(n, n) for n in LENGTHS]
    for p, (sample,) in zip(prompts, engine.run([GenerationRequest(p, GREEDY) for p in prompts]), strict=True):
        assert sample.ids == alone(model, p, 24), len(p)
    (group,) = engine.run([GenerationRequest(prompt(150), GREEDY, n=4)])
    assert {tuple(s.ids) for s in group} == {tuple(alone(model, prompt(150), 24))}
    follow_up = [*prompt(150), *group[0].ids, *prompt(20, 5)]
    ((second,),) = engine.run([GenerationRequest(follow_up, GREEDY)])
    assert second.ids == alone(model, follow_up, 24)
    assert engine.stats.cached_tokens > 3 * 140 and (kv_tokens > 1000 or engine.stats.preemptions > 0)
    engine.backend.cache.check()
    engine.forget()
    assert engine.backend.cache.num_available == engine.backend.cache.num_blocks - 1


def test_paged_yarn(tokenizer) -> None:
    stretched = make(tokenizer, rope_scaling=YarnScaling(4.0, 256), max_positions=1024)
    engine = paged(stretched, tokenizer)
    requests = [GenerationRequest(prompt(200), GREEDY, yarn=yarn) for yarn in (True, False)]
    ((on,), (off,)) = engine.run(requests)
    assert on.ids == alone(stretched, prompt(200), 24) and off.ids == alone(make(tokenizer), prompt(200), 24)


def test_sampling_in_one_call_draws_the_same_tokens(model, tokenizer, monkeypatch) -> None:
    """As on a GPU: plain sequences of a kind together, others row by row, prompts in chunks beside
    them.
    """
    requests = [
        GenerationRequest(prompt(n, n), SamplingParams(temperature=t, top_k=k, top_p=p, max_new_tokens=20), 2, n,
                          eos_ids=(5, 9), drawn_logprobs=True, stop=stop)
        for n, t, k, p, stop in [
            (5, 1.0, 0, 1.0, ()), (40, 1.0, 0, 1.0, ()), (9, 0.7, 0, 0.9, ()), (130, 0.7, 8, 0.9, ()),
            (7, 0.0, 0, 1.0, ()), (8, 1.0, 0, 1.0, ("never",)),
        ]
    ]  # fmt: skip
    alone = paged(model, tokenizer, max_running=8, token_budget=48).run(requests)
    calls, inner = [], output.sample
    monkeypatch.setattr(output, "sample", lambda logits, *more: (calls.append(len(logits)), inner(logits, *more))[1])
    monkeypatch.setattr(Engine, "_batch_sampling", staticmethod(lambda logits: True))
    together = paged(model, tokenizer, max_running=8, token_budget=48).run(requests)
    assert max(calls) >= 3
    for a, b in zip((s for g in alone for s in g), (s for g in together for s in g), strict=True):
        assert (a.ids, a.stop_reason, a.text) == (b.ids, b.stop_reason, b.text)
        assert a.drawn_logprobs == pytest.approx(b.drawn_logprobs, abs=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_no_numbers_end_in_one_line(tokenizer, value, temperature) -> None:
    """Named with the model and the repair; sampling from NaN would draw any token at all."""
    damaged = make(tokenizer)
    with torch.no_grad():
        damaged.norm.weight[3] = value
    engine = engine_of(damaged, tokenizer, name="runs/x/final")
    engine.submit(GenerationRequest(prompt(5), SamplingParams(temperature=temperature, max_new_tokens=4)))
    with pytest.raises(ModelError, match=r"^runs/x/final: its logits are not finite numbers.* earlier checkpoint"):
        engine.step()
