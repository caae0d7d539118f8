"""`qwq export` writes one plain folder that transformers and this project read, adapters merged."""

import pytest
import torch

from qwq.errors import ConfigError
from qwq.model import lora
from qwq.model.config import preset
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model, save_model
from qwq.release.export import ExportOptions, export
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe


@pytest.fixture
def base(tmp_path):
    tokenizer = train_bpe(["some words to learn from"] * 20, 300)
    chat = ChatFormat(tokenizer, default_template())
    model = Transformer(preset("tiny", vocab_size=tokenizer.vocab_size)).init_weights(torch.Generator().manual_seed(0))
    save_model(model, tmp_path / "base")
    chat.save(tmp_path / "base")
    return tmp_path / "base"


def logits(model):
    return model.logits(model(torch.arange(3, 9), Packed([6]))).detach()


def test_adapters_are_merged_in_turn_and_the_chat_format_comes_along(base, tmp_path):
    expected = load_model(base)
    folders = []
    for seed in (1, 2):
        lora.add(expected, rank=2, seed=seed)
        for m in lora.adapters(expected).values():
            m.lora_b.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
        folders.append(tmp_path / f"adapter{seed}")
        lora.save_adapter(expected, folders[-1])
        lora.merge(expected)
    export(str(base), out := tmp_path / "out", ExportOptions(adapters=folders, dtype="float32"))
    torch.testing.assert_close(logits(load_model(out)), logits(expected), atol=1e-6, rtol=1e-6)
    assert ChatFormat.from_folder(out).prompt_ids([{"role": "user", "content": "hi"}])
    assert not list(tmp_path.glob(".*partial"))


def test_a_place_where_nothing_can_be_written(base, tmp_path):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "out", tmp_path / "file" / "a" / "b"):
        with pytest.raises(ConfigError, match="cannot be written .*give another folder with OUT"):
            export(str(base), out)


def test_a_tied_head_as_a_tensor_of_its_own(base, tmp_path):
    export(str(base), out := tmp_path / "out", ExportOptions(untie=True))
    model = load_model(out)
    assert not model.config.tie_embeddings and torch.equal(model.head.weight, model.embed.weight)
    torch.testing.assert_close(logits(model), logits(load_model(base)), atol=0, rtol=0)
    with pytest.raises(ConfigError, match="--untie goes with --format hf, this is gguf F16"):
        export(str(base), tmp_path / "out.gguf", ExportOptions(untie=True))


def test_half_the_size_in_bfloat16_and_no_folder_is_overwritten(base, tmp_path):
    export(str(base), out := tmp_path / "small", ExportOptions(dtype="bfloat16"))
    sizes = [sum(f.stat().st_size for f in folder.glob("*.safetensors")) for folder in (out, base)]
    assert sizes[0] < 0.55 * sizes[1]
    with pytest.raises(ConfigError, match="is there already"):
        export(str(base), out, ExportOptions(dtype="float32"))
