"""Packed weights give a plain weight's products, are passed by once the weight has changed, and are
gone behind their block.
"""

import pytest
import torch
import torch.nn.functional as F

from qwq.model import lora, packed
from qwq.model.config import preset
from qwq.model.layouts import Packed
from qwq.model.packed import PackedWeight, packed_weights
from qwq.model.transformer import Transformer

CAN_RUN = packed.CAN_PACK and torch.ops.mkldnn._is_mkldnn_bf16_supported()
pytestmark = pytest.mark.skipif(not CAN_RUN, reason="no oneDNN, or a CPU on which it packs no bfloat16 (AVX2 alone)")
IDS = torch.arange(3, 25)


@pytest.fixture(autouse=True)
def packs(monkeypatch):
    """Also on a CPU without the instructions, where it would not pay."""
    monkeypatch.setattr(packed, "has_bfloat16", lambda: True)


def make(dtype=torch.bfloat16) -> Transformer:
    return Transformer(preset("tiny", vocab_size=300)).init_weights(torch.Generator().manual_seed(0)).to(dtype)


def logits(model: Transformer) -> torch.Tensor:
    return model.logits(model(IDS, Packed([10, 12])))


def assert_same(a: torch.Tensor, b: torch.Tensor) -> None:
    """Within bfloat16's rounding: a CPU may add sums up in another order."""
    torch.testing.assert_close(a.float(), b.float(), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("rows", [1, 2, 7, 32, 33, 64, 100, 513])
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 32), (96, 200), (33, 17), (1024, 896)])
def test_products_are_those_of_the_plain_weight(rows, outputs, inputs):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, inputs, generator=generator).bfloat16() for n in (rows, outputs))
    bias = torch.randn(outputs, generator=generator).bfloat16()
    copy = PackedWeight(weight)
    assert_same(copy.product(x, bias), F.linear(x, weight, bias))
    assert_same(copy.product(x, None), F.linear(x, weight))
    wide = torch.cat((x, x), 1)[:, inputs:]  # as it lies in a wider tensor
    assert_same(copy.product(wide, None), F.linear(x, weight))


@pytest.mark.parametrize("adapted", [False, True])
def test_a_model_decodes_the_same_with_packed_weights(adapted):
    model = make()
    if adapted:
        lora.add(model, rank=4)
        for m in lora.adapters(model).values():
            m.lora_b.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        plain = logits(model)
        with packed_weights(model):
            assert model.packed_head is not None and all(m.packed is not None for m in model.matrices())
            assert_same(logits(model), plain)
    assert model.packed_head is None and all(m.packed is None for m in model.matrices())


def test_a_weight_that_changed_is_read_itself():
    """Also the head and its embedding, which are one tensor here."""
    model = make()
    with torch.no_grad(), packed_weights(model):
        for parameter in model.parameters():
            parameter.mul_(1.5)
        changed = logits(model)
        assert not model.packed_head.holds(model.head_weight)
    with torch.no_grad():
        assert torch.equal(changed, logits(model))


def test_gradients_go_through_the_weights_themselves():
    model = make()
    with packed_weights(model):
        logits(model).float().square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_a_block_within_a_block_leaves_the_copies_and_an_error_drops_them():
    model = make()
    with pytest.raises(ZeroDivisionError), packed_weights(model):
        held = model.packed_head
        with packed_weights(model):
            assert model.packed_head is held
        assert model.packed_head is held
        raise ZeroDivisionError
    assert model.packed_head is None and all(m.packed is None for m in model.matrices())


def test_float32_inference_tensors_and_cpus_without_the_instructions_are_left_alone(monkeypatch):
    with torch.inference_mode():
        made = make()
    with packed_weights(made):
        assert made.packed_head is None
    with packed_weights(plain := make(torch.float32)):
        assert plain.packed_head is None
    monkeypatch.setattr(packed, "has_bfloat16", lambda: False)
    with packed_weights(model := make()):
        assert model.packed_head is None
