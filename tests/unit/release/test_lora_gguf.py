"""An adapter as a GGUF file: llama.cpp's names and alpha, and the same logits as the merged
model's.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from qwq.errors import ConfigError
from qwq.model import lora
from qwq.model.config import preset
from qwq.model.gguf_file import GGUFFile
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model, save_model
from qwq.release.export import ExportOptions, export
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe


@pytest.fixture(params=["qwen2", "llama"])
def trained(request, tmp_path):
    """A base model and an adapter of rank 2 with alpha 6 on it."""
    tokenizer = train_bpe(["some words to learn from"] * 20, 300)
    shape = {"family": request.param, "qkv_bias": request.param == "qwen2"}
    config = replace(preset("tiny", vocab_size=tokenizer.vocab_size), **shape)
    model = Transformer(config).init_weights(torch.Generator().manual_seed(0))
    save_model(model, tmp_path / "base")
    ChatFormat(tokenizer, default_template()).save(tmp_path / "base")
    lora.add(model, rank=2, alpha=6.0, seed=1)
    for m in lora.adapters(model).values():
        m.lora_b.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(2))
    lora.save_adapter(model, tmp_path / "adapter", base=str(tmp_path / "base"))
    return tmp_path, model


def test_names_shapes_and_alpha(trained):
    folder, model = trained
    export(str(folder / "adapter"), folder / "a.gguf")
    file = GGUFFile.open(folder / "a.gguf")
    assert file.metadata["general.type"] == "adapter" and file.metadata["adapter.lora.alpha"] == 6.0
    assert len(file.tensors) == 2 * 2 * 7
    assert file.tensors["blk.1.ffn_up.weight.lora_a"].shape == (2, 192)
    assert file.tensors["blk.1.ffn_up.weight.lora_b"].shape == (512, 2)
    up = model.blocks[1].gate_up
    assert torch.equal(file.read("blk.1.ffn_up.weight.lora_b"), up.lora_b.detach()[512:])
    assert torch.equal(file.read("blk.1.ffn_up.weight.lora_a"), up.lora_a.detach()[2:])


def test_llama_cpp_adds_it_as_we_do(trained):
    llama_cpp = pytest.importorskip("llama_cpp", reason="the peer needs llama-cpp-python (make install-gguf)")
    folder, model = trained
    export(str(folder / "adapter"), folder / "a.gguf")
    export(str(folder / "base"), folder / "m.gguf", ExportOptions(quant="F32"))
    ids = list(range(5, 25))
    with torch.no_grad():
        expected = model.logits(model(torch.tensor(ids), Packed([len(ids)]))).numpy()
        plain = load_model(folder / "base")
        without = plain.logits(plain(torch.tensor(ids), Packed([len(ids)]))).numpy()
    llama = llama_cpp.Llama(
        str(folder / "m.gguf"), lora_path=str(folder / "a.gguf"), n_ctx=64, logits_all=True, verbose=False
    )
    llama.eval(ids)
    found = llama._scores[: len(ids)].copy()
    llama.close()
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected - without).max()


def test_an_adapter_that_names_no_base(trained):
    folder, model = trained
    lora.save_adapter(model, folder / "lost")
    with pytest.raises(ConfigError, match="lost does not name the model that it was trained on: give it with --base"):
        export(str(folder / "lost"), folder / "a.gguf")
    export(str(folder / "lost"), folder / "a.gguf", ExportOptions(base=str(folder / "base")))
    with pytest.raises(ConfigError, match="an adapter alone is written as one GGUF file in float32"):
        export(str(folder / "adapter"), folder / "out")
