"""Losses against values worked out by hand, and against torch's own softmax where the sum is
long.
"""

import math

import pytest
import torch

from qwq.config import ADVANTAGES as ADVANTAGE_NAMES
from qwq.config import LOSS_CLIPS
from qwq.config import rl_config as config
from qwq.errors import ConfigError
from qwq.pipeline.stages.rl1 import Rl1Stage
from qwq.train.losses import (
    ADVANTAGES,
    LOSSES,
    BatchSize,
    ImportanceRule,
    base,
    group_advantages,
    kl_term,
    load_loss,
    logprobs,
    policy_terms,
    preference_loss,
    register_loss,
    token_logprobs,
    weighted_nll,
)


def assert_close(a, b, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(
        torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance, check_dtype=False
    )


# --- token_logprobs -------------------------------------------------------------------------------


def test_logprob_and_entropy_by_hand():
    """Logits ln 1, ln 2, ln 5: probabilities 1/8, 2/8, 5/8."""
    weight_VD = torch.tensor([[math.log(1.0)], [math.log(2.0)], [math.log(5.0)]])
    logprob, entropy = token_logprobs(torch.ones(2, 1), weight_VD, torch.tensor([2, 0]))
    assert_close(logprob, [math.log(5 / 8), math.log(1 / 8)])
    by_hand = -(1 / 8 * math.log(1 / 8) + 2 / 8 * math.log(2 / 8) + 5 / 8 * math.log(5 / 8))
    assert_close(entropy, [by_hand, by_hand])


def test_temperature_divides_the_logits():
    """At temperature 1/2 the same odds are squared: 1, 4, 25 of 30."""
    weight_VD = torch.tensor([[math.log(1.0)], [math.log(2.0)], [math.log(5.0)]])
    logprob, _ = token_logprobs(torch.ones(1, 1), weight_VD, torch.tensor([1]), temperature=0.5)
    assert_close(logprob, [math.log(4 / 30)])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 3, 4, 12, 13, 100, None])
@pytest.mark.parametrize("kept", [0, 1 << 26])
def test_values_and_gradients_equal_plain_log_softmax(chunk, temperature, kept, monkeypatch):
    """12 tokens: chunks that divide them, that do not, of exactly them, and larger than them;
    probabilities kept, or computed again.
    """
    monkeypatch.setattr(logprobs, "KEPT_PROBS", kept)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(12, 5, generator=generator)
    weight = torch.randn(17, 5, generator=generator)
    targets = torch.randint(0, 17, (12,), generator=generator)
    upstream = torch.randn(12, generator=generator)

    def run(function):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        logprob, entropy = function(h, w)
        (logprob * upstream).sum().backward()
        return logprob.detach(), entropy.detach(), h.grad, w.grad

    def plain(h, w):
        logp = (h @ w.T / temperature).log_softmax(-1)
        return logp[torch.arange(12), targets], -(logp.exp() * logp).sum(-1)

    ours = run(lambda h, w: token_logprobs(h, w, targets, temperature=temperature, chunk=chunk))
    for a, b in zip(ours, run(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("entries", [1, 4, 6, 17, 100])
@pytest.mark.parametrize("tokens", [1, 5, 12, 50])
def test_blocks_of_the_vocabulary_give_what_whole_rows_give(tokens, entries, monkeypatch):
    """A large vocabulary on a CPU: blocks that divide 12 tokens and 17 entries, that do not, and
    larger ones.
    """
    generator = torch.Generator().manual_seed(0)
    hidden, weight = 3 * torch.randn(12, 5, generator=generator), 3 * torch.randn(17, 5, generator=generator)
    targets, upstream = torch.randint(0, 17, (12,), generator=generator), torch.randn(12, generator=generator)

    def run():
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        logprob, entropy = token_logprobs(h, w, targets, temperature=0.7)
        (logprob * upstream).sum().backward()
        return logprob.detach(), entropy, h.grad, w.grad

    whole = run()
    monkeypatch.setattr(logprobs, "WHOLE_VOCABULARY", 0)
    monkeypatch.setattr(logprobs, "BLOCK_TOKENS", tokens)
    monkeypatch.setattr(logprobs, "BLOCK_ENTRIES", entries)
    monkeypatch.setattr(logprobs._ChunkedLogprobs, "apply", None)  # the other way is not taken
    for a, b in zip(run(), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_blocks_in_bfloat16_round_logits_as_the_sampler_does(monkeypatch):
    """The sampler's log-probability comes of logits in bfloat16: the trainer's too, in blocks or
    not.
    """
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 64, generator=generator).bfloat16() for n in (9, 300))
    whole = token_logprobs(hidden, weight, torch.arange(9), chunk=100)
    monkeypatch.setattr(logprobs, "WHOLE_VOCABULARY", 0)
    monkeypatch.setattr(logprobs, "BLOCK_ENTRIES", 64)
    for a, b in zip(token_logprobs(hidden, weight, torch.arange(9)), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_blocks_leave_a_frozen_head_alone_and_take_no_tokens(monkeypatch):
    monkeypatch.setattr(logprobs, "WHOLE_VOCABULARY", 0)
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(6, 4)
    token_logprobs(hidden, weight, torch.tensor([0, 1, 5]))[0].sum().backward()
    assert hidden.grad is not None and weight.grad is None
    logprob, entropy = token_logprobs(torch.zeros(0, 4), weight, torch.zeros(0, dtype=torch.long))
    assert logprob.shape == entropy.shape == (0,)


def test_kept_probabilities_give_the_gradient_of_computed_ones_bit_for_bit(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(9, 6, generator=generator), torch.randn(31, 6, generator=generator)
    grads = []
    for kept in (0, 9 * 31):
        monkeypatch.setattr(logprobs, "KEPT_PROBS", kept)
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        token_logprobs(h, w, torch.arange(9), temperature=0.9, chunk=4)[0].square().sum().backward()
        grads.append((h.grad, w.grad))
    assert torch.equal(grads[0][0], grads[1][0]) and torch.equal(grads[0][1], grads[1][1])


def test_entropy_carries_no_gradient():
    hidden = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    logprob, entropy = token_logprobs(hidden, torch.eye(4), torch.tensor([0, 1, 2]))
    assert logprob.requires_grad and not entropy.requires_grad


@pytest.mark.parametrize("whole", [0, 8192])
def test_large_logits_stay_finite(whole, monkeypatch):
    monkeypatch.setattr(logprobs, "WHOLE_VOCABULARY", whole)
    monkeypatch.setattr(logprobs, "BLOCK_ENTRIES", 1)
    logprob, entropy = token_logprobs(torch.tensor([[1000.0]]), torch.tensor([[1.0], [-1.0]]), torch.tensor([1]))
    assert_close(logprob, [-2000.0])
    assert_close(entropy, [0.0])


# --- supervised and preference losses -------------------------------------------------------------


def test_weighted_nll_by_hand():
    """(1 * 1 + 0.5 * 2 + 0 * 9) / 1.5."""
    assert_close(weighted_nll(torch.tensor([-1.0, -2.0, -9.0]), torch.tensor([1.0, 0.5, 0.0])), 2 / 1.5)


def test_preference_loss_by_hand():
    """A tie costs ln 2; a lead of ln 3 costs -ln(3/4)."""
    assert_close(preference_loss(torch.tensor([2.0]), torch.tensor([2.0])), math.log(2))
    chosen, rejected = torch.tensor([0.0, math.log(3)]), torch.tensor([0.0, 0.0])
    assert_close(preference_loss(chosen, rejected), (math.log(2) - math.log(3 / 4)) / 2)
    assert_close(preference_loss(torch.tensor([-500.0]), torch.tensor([500.0])), 1000.0)


# --- advantages -----------------------------------------------------------------------------------


def test_group_advantages_by_hand():
    rewards_G = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    assert_close(group_advantages(rewards_G), [0.6, -0.4, -0.4, 0.6, -0.4])
    # The population deviation of two ones and three zeros is sqrt(0.4 * 0.6).
    deviation = math.sqrt(0.24)
    assert_close(group_advantages(rewards_G, scale=True), [a / deviation for a in (0.6, -0.4, -0.4, 0.6, -0.4)], 1e-5)


def test_equal_rewards_have_no_advantage_even_when_scaled():
    for scale in (False, True):
        assert_close(group_advantages(torch.ones(4), scale=scale), [0.0] * 4)


# --- policy terms ---------------------------------------------------------------------------------


def test_the_first_update_has_ratio_exactly_one_and_the_policy_gradient():
    logprob = torch.tensor([-0.3, -1.7, -4.0], requires_grad=True)
    advantage = torch.tensor([0.5, -1.0, 2.0])
    terms = policy_terms(logprob, advantage)
    assert terms.ratio_N.tolist() == [1.0, 1.0, 1.0]
    assert terms.clipped_N.tolist() == [0.0, 0.0, 0.0]
    assert terms.loss_N.tolist() == [-0.5, 1.0, -2.0]
    terms.loss_N.sum().backward()
    assert logprob.grad.tolist() == [-0.5, 1.0, -2.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped", "gradient"),
    [
        (1.1, 2.0, -2.2, 0, -2.2),  # inside
        (1.5, 2.0, -2.56, 1, 0.0),  # above 1.28 with a good action: no more to gain
        (0.5, 2.0, -1.0, 0, -1.0),  # below 0.8 with a good action: the pull back stays
        (0.5, -2.0, 1.6, 1, 0.0),  # below 0.8 with a bad action: no more to gain
        (1.5, -2.0, 3.0, 0, 3.0),  # above 1.28 with a bad action: the pull back stays
        (0.9, -2.0, 1.8, 0, 1.8),  # inside
    ],
)
def test_clip_by_hand(ratio, advantage, loss, clipped, gradient):
    """Low 0.2, high 0.28.

    Where the clip acts the gradient is zero, elsewhere it is -ratio * advantage.
    """
    logprob = torch.tensor([-1.0 + math.log(ratio)], requires_grad=True)
    terms = policy_terms(logprob, torch.tensor([advantage]), old_logprob_N=torch.tensor([-1.0]))
    assert_close(terms.ratio_N, [ratio])
    assert_close(terms.loss_N, [loss])
    assert terms.clipped_N.tolist() == [clipped]
    terms.loss_N.sum().backward()
    assert_close(logprob.grad, [gradient])


def test_the_clip_range_is_the_one_that_is_asked_for():
    logprob, old = torch.tensor([math.log(1.5)]), torch.zeros(1)
    assert_close(policy_terms(logprob, torch.ones(1), old_logprob_N=old, clip_high=0.1).loss_N, [-1.1])
    assert_close(policy_terms(-logprob, -torch.ones(1), old_logprob_N=old, clip_low=0.1).loss_N, [0.9])


def test_importance_weight_is_capped_and_carries_no_gradient():
    """Trainer over sampler: e^ln1.5 = 1.5 counts, 8 is cut to 2, 0.25 stays."""
    logprob = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    sampler = -1.0 - torch.tensor([1.5, 8.0, 0.25]).log()
    terms = policy_terms(logprob, torch.ones(3), sampler_logprob_N=sampler)
    assert_close(terms.loss_N, [-1.5, -2.0, -0.25])
    assert terms.ratio_N.tolist() == [1.0, 1.0, 1.0]
    terms.loss_N.sum().backward()
    assert_close(logprob.grad, [-1.5, -2.0, -0.25])
    assert_close(
        policy_terms(logprob, torch.ones(3), sampler_logprob_N=sampler, importance=ImportanceRule(4.0)).loss_N,
        [-1.5, -4.0, -0.25],
    )


def test_kl_estimators_by_hand():
    """Policy twice as sure as the reference: d = ln 2."""
    p, q = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert_close(kl_term(p, q, "k2"), [math.log(2) ** 2 / 2])
    assert_close(kl_term(p, q, "k3"), [0.5 - 1 + math.log(2)])
    assert_close(kl_term(q, p, "k3"), [2 - 1 - math.log(2)])


def test_k3_is_unbiased_in_value_and_k2_in_gradient():
    """Expectations over the policy's own distribution, summed exactly over three tokens."""
    logits = torch.tensor([0.2, -0.4, 1.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    logp = logits.log_softmax(-1)
    exact = (logp.exp() * (logp - reference)).sum()
    assert_close((logp.exp() * kl_term(logp, reference, "k3")).sum().detach(), exact.detach(), 1e-12)
    (wanted,) = torch.autograd.grad(exact, logits, retain_graph=True)
    (got,) = torch.autograd.grad((logp.exp().detach() * kl_term(logp, reference, "k2")).sum(), logits)
    assert_close(got, wanted, 1e-12)


def test_kl_enters_the_loss_with_its_weight():
    logprob = torch.tensor([math.log(0.5)], requires_grad=True)
    reference = torch.tensor([math.log(0.25)])
    terms = policy_terms(logprob, torch.tensor([3.0]), reference_logprob_N=reference, kl=0.1)
    k3 = 0.5 - 1 + math.log(2)
    assert_close(terms.kl_N, [k3])
    assert_close(terms.loss_N, [-3.0 + 0.1 * k3])
    terms.loss_N.sum().backward()
    # d k3 / d logprob = 1 - e^-d = 1/2.
    assert_close(logprob.grad, [-3.0 + 0.1 * 0.5])


# --- the registered losses ------------------------------------------------------------------------


def summed(terms, loss, sequence, normaliser):
    """What the trainer makes of per-token terms."""
    weights = loss.weights(sequence)
    return (terms.loss_N if weights is None else terms.loss_N * weights).sum() / normaliser


def test_the_registry_is_what_recipes_are_checked_against():
    assert set(LOSSES) == set(LOSS_CLIPS) and set(ADVANTAGES) == set(ADVANTAGE_NAMES)
    assert {name: loss.summed for name, loss in LOSSES.items()} == {
        "dr_grpo": "constant", "dapo": "tokens", "grpo": "completions", "gspo": "completions", "cispo": "tokens",
    }  # fmt: skip


def test_what_a_batch_is_divided_by():
    """3 prompts x 2 samples of at most 10 tokens, 21 sampled: 60, 21, 6."""
    size = BatchSize(prompts=3, samples=2, max_new_tokens=10, num_tokens=21)
    found = {name: loss.normaliser(size) for name, loss in LOSSES.items()}
    assert found == {"dr_grpo": 60.0, "dapo": 21.0, "grpo": 6.0, "gspo": 6.0, "cispo": 21.0}


@pytest.mark.parametrize(
    ("name", "value", "gradient"),
    [
        # -(1*1 + 3*(-2)) / (2 * 4), and each token -A / 8
        ("dr_grpo", 5 / 8, [-1 / 8, 2 / 8, 2 / 8, 2 / 8]),
        ("dapo", 5 / 4, [-1 / 4, 2 / 4, 2 / 4, 2 / 4]),
        # the mean of -1 and of the three 2s' mean
        ("grpo", 0.5, [-1 / 2, 1 / 3, 1 / 3, 1 / 3]),
        ("gspo", 0.5, [-1 / 2, 1 / 3, 1 / 3, 1 / 3]),
        # -A log p: (1 * 0.3 - 2 * (0.5 + 0.7 + 1.1)) / 4
        ("cispo", (0.3 - 4.6) / 4, [-1 / 4, 2 / 4, 2 / 4, 2 / 4]),
    ],
)
def test_the_first_update_of_each_loss_by_hand(name, value, gradient):
    """Two completions, of 1 token with advantage 1 and of 3 with advantage -2; one prompt, two
    samples, at most 4 tokens.
    """
    loss, low, high = LOSSES[name], *LOSS_CLIPS[name]
    logprob = torch.tensor([-0.3, -0.5, -0.7, -1.1], requires_grad=True)
    sequence = torch.tensor([0, 1, 1, 1])
    terms = policy_terms(
        logprob, torch.tensor([1.0, -2.0, -2.0, -2.0]), loss=loss, sequence_N=sequence, clip_low=low, clip_high=high
    )
    total = summed(terms, loss, sequence, loss.normaliser(BatchSize(1, 2, 4, 4)))
    total.backward()
    assert_close(total, value)
    assert_close(logprob.grad, gradient)
    assert terms.ratio_N.tolist() == [1.0] * 4 and terms.clipped_N.tolist() == [0.0] * 4


def test_gspo_by_hand():
    """Ratios 1.2 and 0.9: s = sqrt(1.08), over 1.02, so both tokens are clipped. Ratios 1.01, 1, 1:
    s = 1.01^(1/3), inside.

    The second completion's loss is 2 s, with 2 s / 3 of gradient for each of its three tokens.
    """
    ratio = torch.tensor([1.2, 0.9, 1.01, 1.0, 1.0])
    logprob = ratio.log().requires_grad_()
    sequence, gspo = torch.tensor([0, 0, 1, 1, 1]), LOSSES["gspo"]
    terms = policy_terms(
        logprob,
        torch.tensor([1.0, 1.0, -2.0, -2.0, -2.0]),
        loss=gspo,
        sequence_N=sequence,
        old_logprob_N=torch.zeros(5),
        clip_low=0.01,
        clip_high=0.02,
    )
    s = 1.01 ** (1 / 3)
    assert_close(terms.ratio_N, [math.sqrt(1.08)] * 2 + [s] * 3)
    assert_close(terms.loss_N, [-1.02] * 2 + [2 * s] * 3)
    assert terms.clipped_N.tolist() == [1, 1, 0, 0, 0]
    summed(terms, gspo, sequence, 1.0).backward()
    assert_close(logprob.grad, [0.0, 0.0] + [2 * s / 3] * 3)


def test_cispo_by_hand():
    """Weights 8 and 2 cut at 5, 0.01 left as it is; each token keeps the gradient -weight x A."""
    logprob = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    old = -1.0 - torch.tensor([8.0, 2.0, 0.01]).log()
    terms = policy_terms(
        logprob, torch.tensor([2.0, -1.0, -1.0]), loss=LOSSES["cispo"], old_logprob_N=old, clip_low=None, clip_high=4.0
    )
    assert_close(terms.loss_N, [10.0, -2.0, -0.01])
    assert terms.clipped_N.tolist() == [1, 0, 0]
    terms.loss_N.sum().backward()
    assert_close(logprob.grad, [-10.0, 2.0, 0.01])


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "loss", "clipped", "gradient"),
    [
        (4.0, -1.0, 3.0, 1, 0.0),  # e^4 = 54.6 without it
        (math.log(2.0), -1.0, 2.0, 0, 2.0),
        (math.log(0.5), -1.0, 0.8, 1, 0.0),  # the ordinary clip is unchanged
        (4.0, 1.0, -1.28, 1, 0.0),
        (4.0, -0.5, 1.5, 1, 0.0),
    ],
)
def test_dual_clip_by_hand(log_ratio, advantage, loss, clipped, gradient):
    """c = 3: a token with a negative advantage costs at most 3 |A|."""
    logprob = torch.tensor([log_ratio], requires_grad=True)
    terms = policy_terms(logprob, torch.tensor([advantage]), old_logprob_N=torch.zeros(1), dual_clip=3.0)
    assert_close(terms.loss_N, [loss])
    assert terms.clipped_N.tolist() == [clipped]
    terms.loss_N.sum().backward()
    assert_close(logprob.grad, [gradient])


def test_k3_ratio_by_hand():
    """Policy 0.5, reference 0.25, sampled with 0.4: 1.25 k3, and d/dlogp = 1.25 (k3 + 1 - e^-d) =
    1.25 ln 2.
    """
    p, q, old = (torch.tensor([math.log(x)]) for x in (0.5, 0.25, 0.4))
    p.requires_grad_()
    k3 = 0.5 - 1 + math.log(2)
    assert_close(kl_term(p, q, "k3_ratio", old).detach(), [1.25 * k3])
    assert_close(kl_term(p, q, "k3_ratio").detach(), [k3])
    (gradient,) = torch.autograd.grad(kl_term(p, q, "k3_ratio", old).sum(), p)
    assert_close(gradient, [1.25 * math.log(2)])


@pytest.mark.parametrize("on_policy", [True, False])
def test_k3_ratio_is_unbiased_in_value_and_gradient(on_policy):
    """Summed exactly over five tokens, drawn from the policy itself or from an older one; k3's
    gradient is neither.
    """
    generator = torch.Generator().manual_seed(4)
    logits, other, reference = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    logp, q = logits.log_softmax(-1), reference.log_softmax(-1)
    old = logp.detach() if on_policy else other.log_softmax(-1)
    exact = (logp.exp() * (logp - q)).sum()
    (wanted,) = torch.autograd.grad(exact, logits, retain_graph=True)
    estimate = (old.exp() * kl_term(logp, q, "k3_ratio", old)).sum()
    assert_close(estimate.detach(), exact.detach(), 1e-12)
    (got,) = torch.autograd.grad(estimate, logits, retain_graph=True)
    assert_close(got, wanted, 1e-12)
    (biased,) = torch.autograd.grad((old.exp() * kl_term(logp, q, "k3")).sum(), logits)
    assert float(torch.cosine_similarity(biased, wanted, dim=0)) < 0.99


# --- losses of a user's own -----------------------------------------------------------------------


@pytest.fixture
def own_registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(base, "LOSSES", dict(LOSSES))
    monkeypatch.setattr(base, "LOSS_CLIPS", dict(LOSS_CLIPS))
    monkeypatch.setattr(config, "LOSS_CLIPS", base.LOSS_CLIPS)


def test_a_loss_of_this_process_is_a_name_in_recipes(own_registry):
    def stage(loss):
        return Rl1Stage(kind="rl1", steps=1, mix={"math": 1.0}, loss=loss)

    with pytest.raises(ValueError, match="loss 'mine' is none of"):
        stage("mine")
    mine = register_loss("mine", summed="tokens")(LOSSES["dapo"].terms)
    assert load_loss("mine") is mine and (stage("mine").clip_low, stage("mine").clip_high) == (0.2, 0.28)


def test_a_loss_from_a_file(tmp_path, own_registry):
    """Decorated, with its own way to sum; and a plain function, summed as "constant"."""
    file = tmp_path / "own.py"
    file.write_text(
        "from qwq.train.losses import LossInput, TokenLoss, register_loss\n"
        "def plain(x):\n    return TokenLoss(-2 * x.ratio_N * x.advantage_N, x.ratio_N, 0 * x.ratio_N)\n"
        "@register_loss('named', summed='tokens')\ndef named(x):\n    return plain(x)\n"
        "def broken(x):\n    return x.no_such_thing\n"
        "def short(x):\n    return TokenLoss(x.ratio_N[:1], x.ratio_N, x.ratio_N)\n"
    )
    size, x = BatchSize(1, 2, 4, 5), (torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 3.0]))
    plain, named = load_loss(f"{file}:plain"), load_loss(f"{file}:named")
    assert (plain.normaliser(size), named.normaliser(size)) == (8.0, 5.0)
    for loss in (plain, named):
        assert_close(policy_terms(*x, loss=loss).loss_N, [-2.0, -6.0])
    with pytest.raises(ConfigError, match=r"own.py:broken raised AttributeError: .*no_such_thing.* \(own.py, line 8\)"):
        policy_terms(*x, loss=load_loss(f"{file}:broken"))
    with pytest.raises(ConfigError, match=r"own.py:short gave \[\[1\], \[2\], \[2\]\] for 2 tokens"):
        policy_terms(*x, loss=load_loss(f"{file}:short"))
    with pytest.raises(ConfigError, match="has no function 'nmaed': did you mean 'named'"):
        load_loss(f"{file}:nmaed")
    with pytest.raises(ConfigError, match="did you mean 'gspo'"):
        load_loss("gspp")


def test_no_loss_takes_the_name_of_another():
    with pytest.raises(ConfigError, match="'dapo' is registered already"):
        register_loss("dapo")(lambda x: None)
    assert LOSSES["dapo"].summed == "tokens"


@pytest.mark.parametrize(
    ("rule", "expected", "beyond"),
    [
        # Ratios of the tokens: 1/2, 3 | 4, 1/4, 2: of the completions 3/2 and 2.
        (ImportanceRule(2.5), [-0.5, -2.5, -2.5, -0.25, -2.0], [0, 1, 1, 0, 0]),
        (ImportanceRule(2.5, beyond="mask", floor=0.3), [-0.5, 0.0, 0.0, 0.0, -2.0], [0, 1, 1, 1, 0]),
        (ImportanceRule(1.75, level="sequence"), [-1.5, -1.5, -1.75, -1.75, -1.75], [0, 0, 1, 1, 1]),
        (ImportanceRule(1.75, level="sequence", beyond="mask"), [-1.5, -1.5, 0.0, 0.0, 0.0], [0, 0, 1, 1, 1]),
    ],
)
def test_weights_of_the_sampler_by_hand(rule, expected, beyond):
    logprob = torch.tensor([1 / 2, 3, 4, 1 / 4, 2]).log()  # the sampler gave each token probability 1
    terms = policy_terms(
        logprob, torch.ones(5), sequence_N=torch.tensor([0, 0, 1, 1, 1]), sampler_logprob_N=torch.zeros(5),
        importance=rule,
    )  # fmt: skip
    torch.testing.assert_close(terms.loss_N, torch.tensor(expected))
    assert terms.beyond_N is not None and terms.beyond_N.tolist() == [bool(b) for b in beyond]


def test_decoupled_ppo_clips_around_the_trainers_own_and_weighs_by_the_sampler():
    """Ratio to the proximal policy 1.5, clipped at 1.28; proximal over sampler 2."""
    now, proximal, sampler = torch.tensor([0.6]).log(), torch.tensor([0.4]).log(), torch.tensor([0.2]).log()
    terms = policy_terms(now, torch.ones(1), old_logprob_N=proximal, sampler_logprob_N=sampler)
    torch.testing.assert_close(terms.loss_N, torch.tensor([-1.28 * 2.0]))
    assert terms.ratio_N.item() == pytest.approx(1.5) and terms.clipped_N.item() == 1


@pytest.mark.parametrize("target", [-1, 17])
def test_a_target_beyond_the_vocabulary_is_an_error_in_blocks_too(target, monkeypatch):
    """No block has it: its logit was taken as 0."""
    hidden, weight, targets = torch.randn(2, 3), torch.randn(17, 3), torch.tensor([16, target])
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        token_logprobs(hidden, weight, targets)
    monkeypatch.setattr(logprobs, "WHOLE_VOCABULARY", 0)
    with pytest.raises(IndexError, match=rf"targets are {min(16, target)} to {max(16, target)}, .* has 17 entries"):
        token_logprobs(hidden, weight, targets)
