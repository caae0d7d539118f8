"""Adapters start at nothing, train alone, merge exactly, and are PEFT's own on disk."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwq.errors import ModelError
from qwq.model import lora
from qwq.model.config import preset
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model, save_model


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(seed: int = 0) -> Transformer:
    return Transformer(preset("tiny", vocab_size=300)).init_weights(torch.Generator().manual_seed(seed))


IDS = torch.arange(3, 25)


def logits(model: Transformer) -> torch.Tensor:
    return model.logits(model(IDS, Packed([10, 12])))


def trained(rank: int = 4, alpha: float | None = None) -> Transformer:
    """A model with adapters whose B is not zero."""
    model = lora.add(make(), rank=rank, alpha=alpha, seed=1)
    generator = torch.Generator().manual_seed(2)
    for m in lora.adapters(model).values():
        m.lora_b.data.normal_(0, 0.1, generator=generator)
    return model


def test_a_fresh_adapter_changes_nothing_and_trains_alone():
    plain = logits(make())
    model = lora.add(make(), rank=4)
    assert torch.equal(logits(model), plain)
    logits(model).square().mean().backward()
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names and all(n.rsplit(".", 1)[1] in ("lora_a", "lora_b") for n in names)
    assert all(p.grad is None for n, p in model.named_parameters() if n not in names)
    assert any(m.lora_b.grad.abs().sum() > 0 for m in lora.adapters(model).values())
    per_layer = 4 * sum(
        m.lora_a.shape[1] * len(m.sizes) + m.lora_b.shape[0]
        for n, m in lora.adapters(model).items()
        if n.startswith("blocks.0")
    )
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == per_layer * model.config.num_layers


def test_the_plan_counts_the_same_parameters():
    from qwq.model.footprint import lora_parameters

    model = lora.add(make(), rank=6)
    assert lora_parameters(model.config, 6) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_the_change_by_hand():
    """One matrix of 2 x 2: W x + (alpha / rank) B (A x)."""
    from qwq.model.linear import Linear

    base = Linear(2, 2, bias=False)
    base.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    m = lora.LoraLinear(base, [2], rank=1, alpha=3.0)
    m.lora_a.data, m.lora_b.data = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0], [0.0]])
    assert m(torch.tensor([[1.0, 1.0]])).tolist() == [[1 + 3 * 5 * 3, 1.0]]
    assert m.change().tolist() == [[15.0, 30.0], [0.0, 0.0]]


@pytest.mark.parametrize("sizes", [[6], [3, 2, 4]])
def test_gradients_of_a_matrix_with_its_change_are_those_of_the_formula(sizes):
    """y = x W^T + b + scale (x A^T) B^T part by part, with PyTorch's own derivatives."""
    from qwq.model.linear import Linear

    generator = torch.Generator().manual_seed(0)
    base = Linear(5, sum(sizes)).requires_grad_(False)
    m = lora.LoraLinear(base, sizes, rank=2, alpha=3.0)
    for parameter in (m.lora_a, m.lora_b):
        parameter.data.normal_(generator=generator)
    x, upstream = torch.randn(7, 5, generator=generator), torch.randn(7, sum(sizes), generator=generator)

    def formula(x):
        inner = (x @ m.lora_a.T).split(2, -1)
        parts = [h @ b.T for h, b in zip(inner, m.lora_b.split(sizes), strict=True)]
        return x @ base.weight.T + base.bias + 1.5 * torch.cat(parts, -1)

    found = []
    for function in (m, formula):
        own = x.clone().requires_grad_()
        m.zero_grad()
        out = function(own)
        (out * upstream).sum().backward()
        found.append([out.detach(), own.grad, m.lora_a.grad.clone(), m.lora_b.grad.clone()])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(m(x), found[0][0], rtol=0, atol=0)


def test_merged_equals_unmerged_and_all_trains_again():
    model = trained()
    before = logits(model).detach()
    assert not torch.allclose(before, logits(make()), atol=1e-3)
    lora.merge(model)
    torch.testing.assert_close(logits(model).detach(), before, atol=1e-5, rtol=1e-5)
    assert not lora.adapters(model) and all(p.requires_grad for p in model.parameters())


def test_switched_off_is_the_start_and_comes_back_also_after_an_error():
    model = trained()
    on = logits(model)
    with lora.switched_off(model):
        assert torch.equal(logits(model), logits(make()))
    with pytest.raises(RuntimeError), lora.switched_off(model):
        raise RuntimeError
    assert torch.equal(logits(model), on)


def test_an_adapter_comes_back_from_disk(tmp_path):
    model = trained(rank=3, alpha=5.0)
    lora.save_adapter(model, tmp_path / "a", base="somewhere")
    again = lora.load_adapter(make(), tmp_path / "a")
    assert torch.equal(logits(again), logits(model))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_reads_our_adapter_and_we_read_peft_s(tmp_path):
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model = trained()
    save_model(make(), tmp_path / "base")
    lora.save_adapter(model, tmp_path / "a", base=str(tmp_path / "base"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    with_adapter = peft.PeftModel.from_pretrained(theirs, tmp_path / "a")
    with torch.no_grad():
        got = with_adapter(IDS[None, :10]).logits[0]
    torch.testing.assert_close(got, logits(model).detach()[:10], atol=1e-4, rtol=1e-4)
    config = peft.LoraConfig(
        r=2, lora_alpha=7, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    other = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32), config
    )
    other.save_pretrained(tmp_path / "theirs")
    mine = lora.load_adapter(load_model(tmp_path / "base"), tmp_path / "theirs")
    with torch.no_grad():
        torch.testing.assert_close(logits(mine)[:10], other(IDS[None, :10]).logits[0], atol=1e-4, rtol=1e-4)


def test_what_cannot_be_an_adapter_here_is_said(tmp_path):
    with pytest.raises(ModelError, match="holds no adapter"):
        lora.load_adapter(make(), tmp_path)
    lora.save_adapter(trained(), tmp_path / "a")
    with pytest.raises(ModelError, match="has adapters already"):
        lora.load_adapter(trained(), tmp_path / "a")
    tensors = load_file(tmp_path / "a" / lora.WEIGHTS)
    name = sorted(tensors)[0]
    short = dict(tensors)
    short.pop(name)
    save_file(short, tmp_path / "a" / lora.WEIGHTS)
    with pytest.raises(ModelError, match="is missing"):
        lora.load_adapter(make(), tmp_path / "a")
    save_file(tensors | {name: tensors[name][:, :-1].contiguous()}, tmp_path / "a" / lora.WEIGHTS)
    with pytest.raises(ModelError, match="the model asks for"):
        lora.load_adapter(make(), tmp_path / "a")
    save_file(tensors | {"another.weight": torch.zeros(2)}, tmp_path / "a" / lora.WEIGHTS)
    with pytest.raises(ModelError, match="1 tensors fit no matrix"):
        lora.load_adapter(make(), tmp_path / "a")
    config = json.loads((tmp_path / "a" / lora.CONFIG).read_text()) | {"use_dora": True}
    (tmp_path / "a" / lora.CONFIG).write_text(json.dumps(config))
    with pytest.raises(ModelError, match="only plain LoRA"):
        lora.load_adapter(make(), tmp_path / "a")
