"""Layer inputs that wait in host memory: which tensors, what becomes of the others, the gradient.
The host is the device here; a GPU's copies run in the same calls.
"""

from __future__ import annotations

import weakref

import pytest
import torch

from qwq.config import ComputeSection, load_recipe
from qwq.errors import ConfigError
from qwq.model import transformer
from qwq.model.config import preset
from qwq.model.footprint import update_parts
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer

CONFIG = preset("tiny", num_layers=3)
IDS = torch.arange(20)


def gradient(*, offload: bool) -> list[torch.Tensor]:
    model = Transformer(CONFIG).init_weights(torch.Generator().manual_seed(0))
    model.recompute, model.offload = True, offload
    model(IDS, Packed([12, 8])).square().sum().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_the_gradient_is_the_same_bit_for_bit():
    kept, moved = gradient(offload=False), gradient(offload=True)
    assert len(kept) == len(moved) > 10
    assert all(torch.equal(a, b) for a, b in zip(kept, moved, strict=True))


def test_the_inputs_of_all_layers_are_let_go_after_the_forward_pass(monkeypatch):
    """A weak reference to each layer's input is dead once the next layer has it copied."""
    inputs: list[weakref.ref] = []
    real = transformer.kept_on_host

    def watched(x):
        inputs.append(weakref.ref(x))
        return real(x)

    monkeypatch.setattr(transformer, "kept_on_host", watched)
    model = Transformer(CONFIG).init_weights(torch.Generator().manual_seed(0))
    model.recompute = model.offload = True
    hidden = model(IDS, Packed([20]))
    assert len(inputs) == 3 and all(x() is None for x in inputs)
    hidden.sum().backward()


def test_the_plan_leaves_them_out():
    tokens, d = 1000, CONFIG.hidden_size
    kept = update_parts(CONFIG, tokens, head=False, recompute=True)["activations"]
    moved = update_parts(CONFIG, tokens, head=False, recompute=True, offload=True)["activations"]
    assert kept - moved == 4 * tokens * d * (CONFIG.num_layers - 1)


@pytest.mark.parametrize("options", [{"device": "cpu", "recompute": True}, {"device": "cuda"}])
def test_it_wants_a_gpu_and_recompute(options, tmp_path):
    with pytest.raises(ValueError, match="set recompute to true and device to a GPU, or leave offload out"):
        ComputeSection(offload=True, **options)
    assert ComputeSection(offload=True, device="cuda", recompute=True).offload
    (tmp_path / "r.toml").write_text(
        'name = "r"\n[model]\npreset = "tiny"\n[compute]\noffload = true\n[stages.pretrain]\nkind = "pretrain"\n'
        "tokens = 100\nmix = { math = 1.0 }\n"
    )
    with pytest.raises(ConfigError, match="device is 'cpu' and recompute false"):
        load_recipe(tmp_path / "r.toml")
