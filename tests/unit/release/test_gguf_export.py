"""`qwq export MODEL out.gguf`: what llama.cpp reads is the model, its tokenizer and its defaults,
and what cannot be written leaves one line and nothing else.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from qwq.errors import ConfigError, ModelError
from qwq.model.config import YarnScaling, preset
from qwq.model.gguf import gguf_config
from qwq.model.gguf_file import GGUFFile, write_gguf
from qwq.model.gguf_metadata import FILE_TYPES
from qwq.model.gguf_quants import quantise
from qwq.model.transformer import Transformer
from qwq.model.weights import save_model
from qwq.release.assemble import ReleaseOptions, release
from qwq.release.export import ExportOptions, export
from qwq.release.k_quants import quantise_file
from qwq.release.model_source import open_source
from qwq.release.to_gguf import encodings, export_gguf
from qwq.text.gguf_tokenizer import chat_format_from_gguf
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe

SAMPLING = {"temperature": 0.6, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.05}
YARN = YarnScaling(4.0, 64)
FAMILIES = {
    "qwen2": {},
    "qwen2-untied-yarn": {"tie_embeddings": False, "rope_scaling": YARN, "max_positions": 256},
    "qwen3": {"family": "qwen3", "qkv_bias": False, "qk_norm": True, "head_dim": 16},
    "llama": {"family": "llama", "qkv_bias": False, "rms_norm_eps": 1e-5},
}


def make(folder, dtype=torch.bfloat16, **shape):
    """A folder with weights from 2^-20, which float16 rounds in bfloat16, to 8."""
    tokenizer = train_bpe(["some words to learn from, 12 of them"] * 20, 300)
    config = replace(preset("tiny", vocab_size=tokenizer.vocab_size + 5), bos_token_id=None, **shape)
    model = Transformer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=generator)
            p.mul_(torch.exp2(torch.randint(-20, 2, p.shape, generator=generator).float()))
    eos = [tokenizer.token_id(token) for token in ("<|im_end|>", "<|endoftext|>")]
    save_model(model, folder, dtype=dtype, generation=SAMPLING | {"eos_token_id": eos})
    ChatFormat(tokenizer, default_template()).save(folder)
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    return folder


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "model")


@pytest.mark.parametrize("shape", FAMILIES.values(), ids=FAMILIES)
def test_folder_to_f16_to_folder_keeps_every_bit(tmp_path, shape):
    source = make(tmp_path / "model", **shape)
    export(str(source), tmp_path / "m.gguf", ExportOptions(quant="f16"))
    export(str(tmp_path / "m.gguf"), tmp_path / "back", ExportOptions(dtype="bfloat16"))
    before, after = (load_file(f / "model.safetensors") for f in (source, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k].view(torch.int16), after[k].view(torch.int16)) for k in before)
    configs = [json.loads((f / "config.json").read_text()) for f in (source, tmp_path / "back")]
    for c in configs:
        c.pop("initializer_range"), c.pop("eos_token_id")
    # The file names the tokenizer's padding where the folder's config.json names none.
    padding = ChatFormat.from_folder(source).tokenizer.token_id("<|endoftext|>")
    assert (configs[0].pop("pad_token_id", None), configs[1].pop("pad_token_id")) == (None, padding)
    assert configs[0] == configs[1]
    generation = json.loads((tmp_path / "back" / "generation_config.json").read_text())
    assert {k: generation[k] for k in SAMPLING} == SAMPLING


def test_f16_holds_float16_where_that_loses_nothing(tmp_path):
    """Weights of bfloat16 from 2^-17 up are multiples of 2^-24, float16's finest step; 2^-20 times
    1 + 1/128 is none.
    """
    source = make(tmp_path / "model")
    weights = load_file(source / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    weights = {k: torch.full_like(v, 2.0**-17 * (1 + 1 / 128)) for k, v in weights.items()}
    weights[name][0, 0] = 2.0**-20 * (1 + 1 / 128)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    export(str(source), tmp_path / "m.gguf")
    kinds = {n: t.encoding for n, t in GGUFFile.open(tmp_path / "m.gguf").tensors.items()}
    assert kinds.pop("blk.0.ffn_up.weight") == "BF16"
    assert all(kind == ("F32" if "norm" in n or "bias" in n else "F16") for n, kind in kinds.items())


def test_what_the_file_says(folder, tmp_path):
    """Metadata by llama.cpp's names, read by the peer's reader."""
    gguf = pytest.importorskip("gguf", reason="the peer needs gguf (pip install gguf)")
    (file,) = export(str(folder), tmp_path / "m.gguf", ExportOptions(quant="Q8_0", name="Small One")).files
    assert file.path == tmp_path / "m.gguf" and file.num_bytes == file.path.stat().st_size
    fields = {k: f.contents() for k, f in gguf.GGUFReader(file.path).fields.items()}
    chat = ChatFormat.from_folder(folder)
    expected = {
        "general.architecture": "qwen2", "general.name": "Small One", "general.file_type": 7,
        "general.license": "apache-2.0", "general.quantization_version": 2, "general.sampling.top_k": 40,
        "general.sampling.temp": pytest.approx(0.6), "general.sampling.top_p": pytest.approx(0.95),
        "general.sampling.penalty_repeat": pytest.approx(1.05), "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.eos_token_id": chat.tokenizer.token_id("<|im_end|>"),
        "tokenizer.ggml.padding_token_id": chat.tokenizer.token_id("<|endoftext|>"),
        "tokenizer.chat_template": chat.template.source, "tokenizer.ggml.add_bos_token": False,
        "qwen2.block_count": 2, "qwen2.attention.head_count_kv": 2,
    }  # fmt: skip
    assert {k: fields[k] for k in expected} == expected
    rows = len(fields["tokenizer.ggml.tokens"])
    assert (
        rows == gguf_config(GGUFFile.open(file.path)).vocab_size and fields["tokenizer.ggml.token_type"][-5:] == [5] * 5
    )


def test_tokenizer_and_template_come_back(folder, tmp_path):
    export(str(folder), tmp_path / "m.gguf")
    before, after = ChatFormat.from_folder(folder), chat_format_from_gguf(GGUFFile.open(tmp_path / "m.gguf"))
    messages = [{"role": "user", "content": "some words\n 12 ünïcode <|im_end|>"}]
    assert before.prompt_ids(messages) == after.prompt_ids(messages) and after.eos_ids == before.eos_ids
    assert before.template.source == after.template.source


def test_a_split_that_llama_cpp_has_no_name_for(folder, tmp_path):
    data = json.loads((folder / "tokenizer.json").read_text())
    data["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ModelError, match="model: llama.cpp has no name for how this tokenizer splits text"):
        export(str(folder), tmp_path / "m.gguf")
    assert not list(tmp_path.glob("*.gguf"))


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0"])
def test_blocks_of_32_are_encoded_row_by_row(folder, tmp_path, quant):
    """The output matrix stays in Q8_0, vectors in float32."""
    export(str(folder), tmp_path / "m.gguf", ExportOptions(quant=quant))
    file, weights = GGUFFile.open(tmp_path / "m.gguf"), load_file(folder / "model.safetensors")
    down = weights["model.layers.1.mlp.down_proj.weight"]
    assert np.array_equal(file.raw(file.tensors["blk.1.ffn_down.weight"]), quantise(down, quant).numpy())
    assert file.tensors["token_embd.weight"].encoding == "Q8_0"
    assert {t.encoding for t in file.tensors.values() if len(t.shape) == 1} == {"F32"}


WIDE = {
    "qwen2": {"hidden_size": 256, "num_heads": 4, "head_dim": 64, "intermediate_size": 512, "num_layers": 9},
    "llama": {
        "family": "llama", "qkv_bias": False, "hidden_size": 256, "num_heads": 8, "head_dim": 32, "num_layers": 4,
        "intermediate_size": 288, "tie_embeddings": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", WIDE.values(), ids=WIDE)
@pytest.mark.parametrize("weighed", [False, True])
def test_k_quants_are_llama_cpps_own_byte_for_byte(tmp_path, shape, weighed):
    """Our tensor-by-tensor file against `llama_model_quantize` of the whole file in float32; a
    width of 288 makes it fall back.
    """
    pytest.importorskip("llama_cpp", reason="the peer needs llama-cpp-python (make install-gguf)")
    from qwq.engine.backends.llama_cpp import llama_cpp

    source = open_source(str(make(tmp_path / "model", torch.float32, **shape)))
    export_gguf(source, tmp_path / "whole.gguf", "F32")
    importance = {}
    if weighed:
        rng = np.random.default_rng(0)
        for name, tensor in GGUFFile.open(tmp_path / "whole.gguf").tensors.items():
            if name.startswith("blk.") and len(tensor.shape) == 2:
                importance[name] = rng.uniform(0.1, 10, tensor.shape[1]).astype(np.float32)
    for quant in ("Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K"):
        export_gguf(source, tmp_path / "ours.gguf", quant, importance=importance)
        quantise_file(llama_cpp(), tmp_path / "whole.gguf", tmp_path / "theirs.gguf", FILE_TYPES[quant], importance)
        ours, theirs = (GGUFFile.open(tmp_path / f"{name}.gguf") for name in ("ours", "theirs"))
        kinds = {name: t.encoding for name, t in theirs.tensors.items()}
        assert {name: t.encoding for name, t in ours.tensors.items()} == kinds == encodings(source.weights, quant)
        assert len(set(kinds.values())) > (1 if quant == "Q6_K" else 2)  # Q6_K stores all matrices alike
        for name in kinds:
            assert np.array_equal(ours.raw(ours.tensors[name]), theirs.raw(theirs.tensors[name])), (quant, name)


# -- what cannot be written ------------------------------------------------------------------------


def test_options_that_do_not_go_together(folder, tmp_path):
    cases = {
        ("m.gguf", ExportOptions(quant="Q4KM")): "--quant Q4KM: did you mean 'Q4_K_M'",
        ("out", ExportOptions(quant="Q8_0")): "--format gguf writes one file, and .*out does not end in .gguf",
        ("m.gguf", ExportOptions(format="hf")): "--format hf writes a folder, and m.gguf means a GGUF file",
        (
            "m.gguf",
            ExportOptions(dtype="bfloat16"),
        ): "--dtype goes with --format hf, .* this is gguf F16: leave",
        ("out", ExportOptions(format="onnx")): "--format onnx: ",
    }
    for (out, options), message in cases.items():
        with pytest.raises(ConfigError, match=message):
            export(str(folder), tmp_path / out, options)
    (tmp_path / "m.gguf").write_text("x")
    with pytest.raises(ConfigError, match="m.gguf is there already: name a file that is not"):
        export(str(folder), tmp_path / "m.gguf")


def test_a_check_that_fails_leaves_no_file(tmp_path):
    def check(path):
        assert GGUFFile.open(path).tensors
        raise ModelError("not good enough")

    with pytest.raises(ModelError, match="not good enough"):
        write_gguf(tmp_path / "m.gguf", {}, {"x": torch.zeros(4)}, check=check)
    assert not list(tmp_path.iterdir())


def test_a_release_holds_the_files_that_gguf_names(folder, tmp_path):
    release(str(folder), tmp_path / "out", ReleaseOptions("small", ggufs=("Q8_0",)))
    file = GGUFFile.open(tmp_path / "out" / "small-Q8_0.gguf")
    assert (file.metadata["general.name"], file.metadata["general.license"]) == ("small", "apache-2.0")
    assert "FROM ./small-Q8_0.gguf" in (tmp_path / "out" / "Modelfile").read_text()
    with pytest.raises(ConfigError, match="--gguf Q9: valid names: BF16, F16"):
        ReleaseOptions(ggufs=("Q9",))
