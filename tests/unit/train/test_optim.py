"""The schedule by hand, the skipped step, and a state that goes on bit for bit."""

import gc
import math

import pytest
import torch
from torch import nn

from qwq.config import Optim
from qwq.errors import ConfigError, InfraError
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.train.checkpoint import load_trained, trained_weights
from qwq.train.losses import token_logprobs
from qwq.train.optim import MAX_SKIPPED, Optimizer, learning_rate
from qwq.train.packing import pack


def test_warm_up_and_linear_decay_by_hand():
    """10 steps, 2 of warm-up: half, full, then 8 equal steps from 1 towards 0.2 (which step 10
    would reach).
    """
    config = Optim(lr=1.0, warmup=0.2, decay="linear", final_lr=0.2)
    rates = [learning_rate(config, s, 10) for s in range(11)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])


def test_cosine_and_constant_by_hand():
    cosine = Optim(lr=2.0, warmup=0.0, decay="cosine", final_lr=0.0)
    # No warm-up still makes the first step a full one; then 4 quarters of half a cosine.
    assert learning_rate(cosine, 0, 5) == 2.0
    expected = [2.0 * 0.5 * (1 + math.cos(math.pi * q / 4)) for q in range(4)]
    assert [learning_rate(cosine, s, 5) for s in range(1, 5)] == pytest.approx(expected)
    constant = Optim(lr=3.0, warmup=0.5, decay="constant")
    assert [learning_rate(constant, s, 4) for s in range(4)] == [1.5, 3.0, 3.0, 3.0]


def make(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def backward(model: nn.Module, index: int) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(index))
    model(x).square().sum().backward()


def test_first_step_by_hand():
    """Adam's first step is lr * g / (|g| + eps) after decay by 1 - lr * weight_decay, on matrices
    only.
    """
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 2.0)
    nn.init.constant_(model.bias, 2.0)
    optimizer = Optimizer(model, Optim(lr=0.1, warmup=0.0, decay="constant", weight_decay=0.5, grad_clip=100.0), 10)
    (3 * model.weight.sum() - 4 * model.bias.sum()).backward()
    report = optimizer.step(0)
    assert report == {"lr": 0.1, "grad_norm": pytest.approx(5.0), "skipped": 0.0}
    assert model.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1, abs=1e-6)
    assert model.bias.item() == pytest.approx(2.0 + 0.1, abs=1e-6)
    assert model.weight.grad is None


def test_the_gradient_is_clipped_to_its_largest_norm():
    """Norm 5 clipped to 1: the second moments are (1 - beta2) of the squares of 0.6 and 0.8."""
    model = nn.Linear(1, 1)
    optimizer = Optimizer(model, Optim(grad_clip=1.0, beta2=0.9), 10)
    (3 * model.weight.sum() - 4 * model.bias.sum()).backward()
    assert optimizer.step(0)["grad_norm"] == pytest.approx(5.0)
    state = optimizer.state()
    assert float(state["weight/exp_avg_sq"]) == pytest.approx(0.1 * 0.36, rel=1e-4)
    assert float(state["bias/exp_avg_sq"]) == pytest.approx(0.1 * 0.64, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_skipped_and_said(bad):
    model = make()
    optimizer = Optimizer(model, Optim(), 10)
    backward(model, 0)
    optimizer.step(0)
    before = [p.detach().clone() for p in model.parameters()]
    moments = {k: v.clone() for k, v in optimizer.state().items()}
    backward(model, 1)
    model[0].weight.grad[0, 0] = bad
    report = optimizer.step(1)
    assert report["skipped"] == 1.0 and not math.isfinite(report["grad_norm"])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(torch.equal(moments[k], v) for k, v in optimizer.state().items())
    backward(model, 2)
    assert optimizer.step(2)["skipped"] == 0.0
    assert not torch.equal(before[0], model[0].weight)


def test_a_saved_state_goes_on_bit_for_bit():
    config = Optim(weight_decay=0.1)
    whole = make()
    optimizer = Optimizer(whole, config, 8)
    for step in range(8):
        backward(whole, step)
        optimizer.step(step)

    first = make()
    optimizer = Optimizer(first, config, 8)
    for step in range(4):
        backward(first, step)
        optimizer.step(step)
    saved = {k: v.clone() for k, v in optimizer.state().items()}
    assert sorted({k.split("/")[1] for k in saved}) == ["exp_avg", "exp_avg_sq", "step"]
    weights = {k: v.clone() for k, v in first.state_dict().items()}
    second = make(seed=99)
    second.load_state_dict(weights)
    optimizer = Optimizer(second, config, 8)
    optimizer.load_state(saved)
    for step in range(4, 8):
        backward(second, step)
        optimizer.step(step)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_extra_parameters_are_trained_and_saved():
    model, extra = make(), nn.Parameter(torch.ones(2))
    optimizer = Optimizer(model, Optim(lr=0.1), 10, [extra])
    extra.sum().backward()
    optimizer.step(0)
    assert float(extra[0].detach()) < 1.0
    assert {k for k in optimizer.state() if k.startswith("extra.0/")} == {
        "extra.0/exp_avg",
        "extra.0/exp_avg_sq",
        "extra.0/step",
    }


def test_a_run_of_bad_gradients_stops_and_leaves_the_weights():
    model = make()
    optimizer = Optimizer(model, Optim(lr=0.1), 20)
    before = [p.detach().clone() for p in model.parameters()]

    def bad() -> None:
        for p in model.parameters():
            p.grad = torch.full_like(p, float("nan"))

    for index in range(MAX_SKIPPED - 1):
        bad()
        assert optimizer.step(index)["skipped"] == 1.0
    backward(model, 0)
    assert optimizer.step(10)["skipped"] == 0.0  # a good one between starts the count anew
    before = [p.detach().clone() for p in model.parameters()]
    for index in range(MAX_SKIPPED - 1):
        bad()
        optimizer.step(index)
    bad()
    with pytest.raises(InfraError, match=f"{MAX_SKIPPED} gradients in a row.*lower optim.lr"):
        optimizer.step(11)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("lr", "words"),
    [
        (1e30, "step 1 made weights as large as 6e+30 (0.weight is the first)"),
        (3e38, "made weights NaN or infinite (0.weight is the first)"),
    ],
)
def test_a_step_that_makes_weights_infinite_stops_at_once(lr, words):
    """Adam's first step moves each weight by about lr, and decay by 10 lr times the weight: 3e38
    leaves float32, and products of 1e30 do.
    """
    model = make()
    optimizer = Optimizer(model, Optim(lr=lr, warmup=0.0, decay="constant", weight_decay=10.0), 10)
    with pytest.raises(ConfigError) as caught:
        for index in range(10):
            backward(model, index)
            optimizer.step(index)
    assert f"lower optim.lr (now {lr:g})" in str(caught.value) and words in str(caught.value)


def test_one_infinite_weight_among_many_is_found():
    """Decay of 1 - lr * weight_decay = -1e38 takes a weight of 10 beyond float32's 3.4e38, and one
    of 1 not.
    """
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 10.0]]))
        model.bias.zero_()
    optimizer = Optimizer(model, Optim(lr=1e19, warmup=0.0, decay="constant", weight_decay=1e19), 10)
    (model.weight.sum() * 0 + model.bias.sum() * 0).backward()
    with pytest.raises(
        ConfigError, match=r"step 1 made weights NaN or infinite \(weight is the first\) at a learning rate of 1e\+19"
    ):
        optimizer.step(0)


def test_sixteen_bit_weights_are_trained_through_a_float32_copy():
    """Steps of 1e-4 vanish beside a weight of 1 in bfloat16 (its steps are 1/128), but not in the
    copy.
    """
    model = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.constant_(model.weight, 1.0)
    optimizer = Optimizer(model, Optim(lr=1e-4, warmup=0.0, decay="constant", grad_clip=100.0), 100)
    for index in range(50):
        model.weight.sum().backward()
        optimizer.step(index)
    assert model.weight.dtype == torch.bfloat16
    assert optimizer.masters[0].item() == pytest.approx(1 - 50e-4, abs=1e-5)
    assert model.weight.item() == torch.tensor(1 - 50e-4).bfloat16().item() != 1.0
    state = {k: v.clone() for k, v in optimizer.state().items()}
    other = nn.Linear(1, 1, bias=False).bfloat16()
    fresh = Optimizer(other, optimizer.config, 100)
    fresh.load_state(state)
    assert torch.equal(fresh.masters[0], optimizer.masters[0])


def test_sixteen_bit_weights_that_are_put_back_are_trained_from_there():
    """A roll-back of 16-bit weights holds: the next step is taken from them, not from where the
    float32 copy was.
    """
    model = nn.Linear(2, 1, bias=False).bfloat16()
    nn.init.constant_(model.weight, 1.0)
    optimizer = Optimizer(
        model, Optim(lr=0.25, warmup=0.0, decay="constant", beta1=0.0, beta2=0.0, grad_clip=100.0), 100
    )
    good = {k: v.clone() for k, v in trained_weights(model).items()}
    for index in range(3):
        model.weight.sum().backward()
        optimizer.step(index)
    assert model.weight.tolist() == [[0.25, 0.25]]  # three steps of 0.25 down from 1
    load_trained(model, good)
    model.weight.sum().backward()
    optimizer.step(3)
    assert model.weight.tolist() == [[0.75, 0.75]]


def test_frozen_parameters_are_left_out():
    model = make()
    model[0].requires_grad_(False)
    optimizer = Optimizer(model, Optim(lr=0.1), 10)
    before = model[0].weight.clone()
    backward(model, 0)
    optimizer.step(0)
    assert torch.equal(model[0].weight, before) and all(name.startswith("2.") for name in optimizer.names)


def summed_gradient(dtype: torch.dtype, parts: int) -> torch.Tensor:
    """The gradient that the optimizer is about to use, of 256 rows in `parts` backward passes;
    clipping out of reach.
    """
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(64, 32, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(32, 64, generator=generator) * 0.1)
    x = torch.randn(256, 64, generator=generator)
    model.to(dtype)
    optimizer = Optimizer(model, Optim(grad_clip=1e9), 1)
    for rows in x.to(dtype).chunk(parts):
        (model(rows).float().square().sum() / 256).backward()
    return optimizer.masters[0].grad.clone()


def test_a_16_bit_gradient_is_summed_in_float32():
    """The sum of 256 bfloat16 parts is as near to float32 as one part is; summed in bfloat16 it is
    several times farther off.
    """
    exact = summed_gradient(torch.float32, 1)

    def error(parts: int) -> float:
        return float((summed_gradient(torch.bfloat16, parts) - exact).norm() / exact.norm())

    assert error(1) < 0.006 and error(256) < 0.006
    assert float((summed_gradient(torch.float32, 256) - exact).norm() / exact.norm()) < 1e-5


def test_many_parts_that_rounding_would_swallow_are_all_counted():
    """1 + 100 times 1/1024: in bfloat16 each of the 100 is below half a step of 1 (1/128), and
    their sum would stay 1.
    """
    model = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.constant_(model.weight, 0.0)
    optimizer = Optimizer(model, Optim(lr=1e-6, grad_clip=100.0), 10)
    model.weight.sum().backward()
    for _ in range(100):
        (model.weight.sum() / 1024).backward()
    assert model.weight.grad is None  # no second copy of the gradient is kept
    assert optimizer.step(0)["grad_norm"] == pytest.approx(1 + 100 / 1024, rel=1e-6)
    assert optimizer.masters[0].grad is None


def test_an_optimizer_that_is_gone_takes_no_gradient_from_the_next_one():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    Optimizer(model, Optim(), 1)
    gc.collect()
    optimizer = Optimizer(model, Optim(lr=0.1, grad_clip=100.0), 1)
    (3 * model.weight.sum()).backward()
    assert optimizer.step(0)["grad_norm"] == 3.0


def test_a_bfloat16_models_gradient_does_not_depend_on_micro_batches():
    """64 sequences in one pass and in 64, against float32.

    Summed in bfloat16 the second error was several times the first.
    """
    generator = torch.Generator().manual_seed(0)
    exact = Transformer(preset("tiny", vocab_size=128))
    with torch.no_grad():
        for p in exact.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.06)
            else:
                p.fill_(1.0)
    small = Transformer(exact.config)
    small.load_state_dict(exact.state_dict())
    small.to(torch.bfloat16)
    sequences = [torch.randint(0, 128, (16,), generator=generator).tolist() for _ in range(64)]

    def gradient(model: Transformer, size: int) -> torch.Tensor:
        optimizer = Optimizer(model, Optim(), 1)
        for at in range(0, 64, size):
            part = sequences[at : at + size]
            batch = pack(part, [[1.0] * 16 for _ in part])
            hidden = model(batch.ids_N, batch.layout).index_select(0, batch.where_M)
            (-token_logprobs(hidden, model.head_weight, batch.targets_M)[0].sum() / (64 * 15)).backward()
        return torch.cat([m.grad.flatten() for m in optimizer.masters])

    wanted = gradient(exact, 64)
    errors = [float((gradient(small, size) - wanted).norm() / wanted.norm()) for size in (64, 1)]
    assert max(errors) < 0.01 and errors[1] < 1.2 * errors[0]


@pytest.mark.parametrize(("rate", "refused"), [(1e30, True), (2e19, True), (1e19, False)])
def test_weights_whose_products_overflow_are_refused(rate, refused):
    """AdamW's first step has the size of the rate; 1.8e19 squared is float32's largest number."""
    model = torch.nn.Linear(1, 1, bias=False)
    optimizer = Optimizer(model, Optim(lr=rate, warmup=0.0, weight_decay=0.0), 2)
    model(torch.ones(1)).sum().backward()
    if not refused:
        optimizer.step(0)
        return
    with pytest.raises(
        ConfigError,
        match=r"step 1 made weights as large as [12]e\+(30|19) \(weight is the first\) at a learning rate of .*: "
        r"lower optim.lr",
    ):
        optimizer.step(0)
