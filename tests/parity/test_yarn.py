"""YaRN as transformers computes it, over the edge of the original length."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

from qwq.model.config import QWQ_YARN, ModelConfig, YarnScaling
from qwq.model.layouts import Packed
from qwq.model.rope import inverse_frequencies, rope_tables, yarn_frequencies
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model, save_model

CONFIG = ModelConfig(
    "qwen2", 97, 64, 96, 2, 4, 2, 16, rope_theta=1e6, tie_embeddings=True, max_positions=256, initializer_range=0.2,
    rope_scaling=YarnScaling(4.0, 64),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("yarn")
    save_model(Transformer(CONFIG).init_weights(torch.Generator().manual_seed(3)), path)
    return path


def test_logits_equal_transformers(folder: Path) -> None:
    ids = torch.randint(0, 97, (200,), generator=torch.Generator().manual_seed(1))
    ours = load_model(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        want = theirs(ids[None]).logits[0]
        got = ours.logits(ours(ids, Packed([200])))
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)
    plain = Transformer(ModelConfig(**{**{f: getattr(CONFIG, f) for f in CONFIG.__slots__}, "rope_scaling": None}))
    plain.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        assert (plain.logits(plain(ids, Packed([200]))) - want).abs().max() > 1e-2  # it does make a difference


def test_a_written_config_reads_back(folder: Path) -> None:
    assert load_model(folder).config == CONFIG


def test_qwqs_own_numbers() -> None:
    """head_dim 128, theta 1e6, factor 4 over 32,768: pairs up to 23 turn 32 times or more, from 40
    on less than once.
    """
    assert QWQ_YARN.attention_scale == pytest.approx(0.1 * math.log(4) + 1)
    assert QWQ_YARN.max_positions == 131072
    ratio = yarn_frequencies(128, 1e6, QWQ_YARN) / inverse_frequencies(128, 1e6)
    # 128 * ln(32768 / (32 * 2 pi)) / (2 ln 1e6) = 23.59 and 128 * ln(32768 / (2 pi)) / (2 ln 1e6) =
    # 39.64
    torch.testing.assert_close(ratio[:24], torch.ones(24))
    torch.testing.assert_close(ratio[40:], torch.full((24,), 0.25))
    assert ratio[31] == pytest.approx(1 - 0.75 * (31 - 23) / (40 - 23), rel=1e-5)


def test_it_is_on_for_the_tokens_that_ask_for_it() -> None:
    positions, on = torch.arange(10), torch.tensor([True, False] * 5)
    mixed = rope_tables(positions, CONFIG, on)
    all_on, all_off = rope_tables(positions, CONFIG), rope_tables(positions, CONFIG, torch.zeros(10, dtype=torch.bool))
    for m, a, b in zip(mixed, all_on, all_off, strict=True):
        assert torch.equal(m[on], a[on]) and torch.equal(m[~on], b[~on])
