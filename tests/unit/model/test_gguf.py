"""GGUF files: the same model and the same tokens as from a folder, bit for bit, and every bad file
has its one line.
"""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from qwq.errors import ModelError
from qwq.model import gguf_file
from qwq.model.config import ModelConfig, YarnScaling
from qwq.model.gguf import Encoded, GGUFFile, encode, gguf_config, gguf_name, load_gguf, rope_rows, write_gguf
from qwq.model.gguf_quants import ENCODINGS, dequantise, quantise
from qwq.model.layouts import Packed
from qwq.model.model_folder import read_config
from qwq.model.names import hf_shapes, state_to_hf
from qwq.model.transformer import Transformer
from qwq.model.weights import stored_dtype
from qwq.text.gguf_tokenizer import PRE_TOKENIZERS, chat_format_from_gguf, tokenizer_from_gguf
from qwq.text.template import ChatFormat
from qwq.text.tokenizer import Tokenizer, train_bpe
from qwq.types import Message

QWEN = ModelConfig(
    "qwen2", 96, 64, 32, 2, 4, 2, 16, rope_theta=1e6, rms_norm_eps=1e-6, tie_embeddings=True, max_positions=64,
    bos_token_id=1, eos_token_id=3, pad_token_id=2,
)  # fmt: skip
LLAMA = replace(QWEN, family="llama", qkv_bias=False, tie_embeddings=False, rms_norm_eps=1e-5, rope_theta=5e5)
SHAPES = {
    "qwen2-tied": QWEN,
    "qwen2-untied-wide-heads": replace(QWEN, tie_embeddings=False, head_dim=32),
    "qwen3-own-head-dim": replace(QWEN, family="qwen3", qkv_bias=False, qk_norm=True, head_dim=24),
    "llama": LLAMA,
    "llama-tied-mha": replace(LLAMA, tie_embeddings=True, num_kv_heads=4),
    "llama-yarn": replace(LLAMA, rope_scaling=YarnScaling(4.0, 64), max_positions=256),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors only: on a machine with other work, two threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(config: ModelConfig, seed: int = 0) -> Transformer:
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.3, generator=generator)
    return model


def metadata(config: ModelConfig) -> dict:
    keys = {
        "block_count": config.num_layers,
        "context_length": config.rope_scaling.original_max_positions if config.rope_scaling else config.max_positions,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "rope.freq_base": config.rope_theta,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }
    if config.head_dim * config.num_heads != config.hidden_size:
        keys |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if yarn := config.rope_scaling:
        keys |= {"rope.scaling.type": "yarn", "rope.scaling.factor": yarn.factor}
        keys |= {"rope.scaling.original_context_length": yarn.original_max_positions}
    out = {"general.architecture": config.family} | {f"{config.family}.{k}": v for k, v in keys.items()}
    ids = {"bos": config.bos_token_id, "eos": config.eos_token_id, "padding": config.pad_token_id}
    return out | {f"tokenizer.ggml.{k}_token_id": v for k, v in ids.items()}


def interleaved(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """What llama.cpp's converter does to q and k of a llama (the `permute` of the GGUF
    specification).
    """
    return weight.reshape(num_heads, 2, len(weight) // num_heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def tensors(model: Transformer) -> dict[str, torch.Tensor]:
    out = {}
    for name, weight in state_to_hf(model.config, model.state_dict()).items():
        if model.config.family == "llama" and re.search("[qk]_proj", name):
            weight = interleaved(weight, model.config.num_heads if "q_proj" in name else model.config.num_kv_heads)
        out[gguf_name(name)] = weight
    return out


def assert_same(a: Transformer, b: Transformer) -> None:
    assert a.config == b.config
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture
def saved(tmp_path):
    write_gguf(tmp_path / "m.gguf", metadata(QWEN), tensors(make(QWEN)))
    return tmp_path / "m.gguf"


# -- models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_round_trip_is_exact(tmp_path, config):
    model = make(config)
    write_gguf(tmp_path / "m.gguf", metadata(config), tensors(model))
    loaded = load_gguf(tmp_path / "m.gguf")
    assert_same(loaded, model)
    ids, layout = torch.arange(20), Packed([20])
    with torch.inference_mode():
        assert torch.equal(loaded.logits(loaded(ids, layout)), model.logits(model(ids, layout)))
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]  # no partial file left


def test_rope_rows_by_hand():
    # One head of six: rows of the pairs (0, 3), (1, 4), (2, 5) stand side by side in the file.
    assert rope_rows(1, 6).tolist() == [0, 3, 1, 4, 2, 5]
    assert rope_rows(2, 4).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    w = torch.arange(8.0)[:, None]
    assert interleaved(w, 2).flatten().tolist() == rope_rows(2, 4).tolist()


def test_interleaved_rope_in_the_file_is_half_split_rope_here():
    """The rows a file holds, turned in pairs (2i, 2i + 1) as llama.cpp does, are ours turned in
    pairs (i, i + E/2).
    """
    x, angle = torch.randn(8), torch.rand(4)
    stored = interleaved(x[:, None], 1)[:, 0].view(4, 2)
    turned = torch.stack(
        (
            stored[:, 0] * angle.cos() - stored[:, 1] * angle.sin(),
            stored[:, 1] * angle.cos() + stored[:, 0] * angle.sin(),
        ),
        1,
    )
    a, b = x[:4], x[4:]
    ours = torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()))
    back = torch.empty(8)
    back[rope_rows(1, 8)] = turned.flatten()
    torch.testing.assert_close(back, ours)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("chunk", [1 << 20, 100])
def test_encoded_weights_are_decoded_some_rows_at_a_time(tmp_path, monkeypatch, kind, chunk):
    """All matrices of a llama encoded, vectors in float32, as files in use are.

    The same whatever the size of a chunk.
    """
    model = make(LLAMA)
    weights = tensors(model)
    coded = {k: encode(w, kind) if w.ndim == 2 else w for k, w in weights.items()}
    write_gguf(tmp_path / "m.gguf", metadata(LLAMA), coded)
    # What a model made of it is written in: a quantised file has no number type of its own.
    assert stored_dtype(tmp_path / "m.gguf") is {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind)
    monkeypatch.setattr(gguf_file, "CHUNK_WEIGHTS", chunk)
    loaded = load_gguf(tmp_path / "m.gguf", dtype=torch.bfloat16)
    assert loaded.norm.weight.dtype == torch.bfloat16
    for name, got in tensors(loaded).items():
        w = weights[name]
        want = dequantise(quantise(w, kind), kind).view(w.shape) if w.ndim == 2 else w
        assert torch.equal(got, want.bfloat16()), name
    file = GGUFFile.open(tmp_path / "m.gguf")
    assert torch.equal(
        file.read("output.weight"), dequantise(quantise(weights["output.weight"], kind), kind).view(96, 64)
    )
    assert file.read("output_norm.weight").shape == (64,)


def test_progress_counts_bytes_of_the_file(saved):
    seen = []
    load_gguf(saved, progress=lambda done, total: seen.append((done, total)))
    total = sum(t.num_bytes for t in GGUFFile.open(saved).tensors.values())
    assert [t for _, t in seen] == [total] * len(hf_shapes(QWEN))
    assert [d for d, _ in seen] == sorted(d for d, _ in seen) and seen[-1] == (total, total)


def test_loaded_model_trains_and_the_file_stays(saved):
    before = saved.read_bytes()
    model = load_gguf(saved)
    model.logits(model(torch.tensor([1, 2, 3]), Packed([3]))).sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            assert p.grad is not None and p.is_leaf
            p.zero_()
    assert saved.read_bytes() == before


def test_floats_are_the_decimals_that_were_meant(saved):
    stored = GGUFFile.open(saved).metadata["qwen2.attention.layer_norm_rms_epsilon"]
    assert stored == float(np.float32(1e-6)) != 1e-6
    assert gguf_config(GGUFFile.open(saved)).rms_norm_eps == 1e-6


def fails(path: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_gguf(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def changed(path: Path, keys: dict | None = None, weights: dict | None = None, config: ModelConfig = QWEN) -> Path:
    """The small model with some metadata or tensors replaced, or left out where the value is
    None.
    """
    meta = {k: v for k, v in (metadata(config) | (keys or {})).items() if v is not None}
    parts = {k: v for k, v in (tensors(make(config)) | (weights or {})).items() if v is not None}
    write_gguf(path / "m.gguf", meta, parts)
    return path / "m.gguf"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"general.architecture": "x" * 10**6}, "architecture 'x+\\.\\.\\. is not supported"),
        ({"general.architecture": "gemma2"}, "architecture 'gemma2' is not supported; supported: qwen2, qwen3, llama"),
        ({"general.architecture": [1, 2]}, r"general.architecture is \[1, 2\], a text is expected"),
        ({"general.architecture": None}, "no metadata general.architecture, a model needs it"),
        ({"qwen2.block_count": None}, "no metadata qwen2.block_count"),
        (
            {"qwen2.block_count": 3},
            r"do not match its metadata .qwen2, 3 layers.: 12 missing .blk.2.attn_norm.weight, .*",
        ),
        ({"qwen2.block_count": 1}, "12 unexpected .blk.1"),
        ({"qwen2.block_count": 2**31}, "block_count is 2147483648, the file's 26 tensors are too few"),
        ({"qwen2.embedding_length": 0}, "embedding_length is 0, one whole number from 1 to"),
        ({"qwen2.embedding_length": "64"}, "embedding_length is '64', one whole number"),
        ({"qwen2.embedding_length": 128}, r"token_embd.weight is \[96, 64\], its metadata asks for \[96, 128\]"),
        ({"qwen2.attention.head_count": 5}, "head_count is 5, a divisor of embedding_length 64"),
        ({"qwen2.attention.head_count_kv": 3}, "head_count_kv is 3, a divisor of head_count 4"),
        ({"qwen2.attention.head_count_kv": [2, 2]}, r"head_count_kv is \[2, 2\], one whole number"),
        ({"qwen2.attention.key_length": 15}, "key_length is 15, an even number"),
        ({"qwen2.rope.freq_base": float("nan")}, "rope.freq_base is nan, a number above 0"),
        ({"qwen2.attention.layer_norm_rms_epsilon": -1.0}, "epsilon is -1.0, a number above 0"),
        ({"qwen2.rope.freq_base": np.float64(1e300)}, "rope.freq_base is 1e.300, a number above 0"),
        (
            {"qwen2.rope.dimension_count": "a\nb" * 99},
            r"rope.dimension_count is 'a\\nba\\n.*\.\.\., this model computes 16",
        ),
        ({"qwen2.rope.dimension_count": 8}, "rope.dimension_count is 8, this model computes 16 only"),
        ({"qwen2.expert_count": 8}, "expert_count is 8, this model computes 0 only"),
        ({"qwen2.rope.scaling.type": "linear"}, "rope.scaling.type is 'linear', none and yarn are computed"),
        ({"qwen2.rope.scaling.type": "yarn"}, "no metadata qwen2.rope.scaling.factor"),
        ({"tokenizer.ggml.eos_token_id": 96}, "eos_token_id is 96, one whole number from 0 to 95"),
        ({"split.count": 3}, "one of 3 files of a model, a whole one is read here: join them with"),
    ],
)
def test_bad_metadata_shows_both_sides(tmp_path, keys, message):
    fails(changed(tmp_path, keys), message)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"token_embd.weight": None}, "no tensor 'token_embd.weight'"),
        ({"output_norm.weight": None}, "1 missing .output_norm.weight.: fetch"),
        ({"blk.0.attn_q.bias": None, "a": torch.zeros(1)}, "1 missing .blk.0.attn_q.bias. and 1 unexpected .a.: fetch"),
        ({"output_norm.weight": torch.zeros(65)}, r"output_norm.weight is \[65\], its metadata asks for \[64\]"),
        ({"rope_freqs.weight": torch.ones(8)}, "rope_freqs.weight scales its rope as Llama 3.1 does"),
        (
            {"output_norm.weight": torch.full((64,), torch.nan)},
            "output_norm.weight holds values that are no finite float32",
        ),
        (
            {"blk.1.ffn_up.weight": torch.full((32, 64), -torch.inf)},
            "blk.1.ffn_up.weight holds values that are no finite",
        ),
    ],
)
def test_bad_tensors_are_named(tmp_path, weights, message):
    fails(changed(tmp_path, weights=weights), message)


def test_weights_too_large_for_the_dtype_are_refused(tmp_path):
    path = changed(tmp_path, weights={"output_norm.weight": torch.full((64,), 1e5)})
    load_gguf(path)
    with pytest.raises(ModelError, match="output_norm.weight holds values that are no finite float16"):
        load_gguf(path, dtype=torch.float16)


def test_missing_files_and_names(tmp_path, saved):
    fails(tmp_path / "no.gguf", "no GGUF file at .*no.gguf: give the path of a .gguf file")
    fails(tmp_path, "no GGUF file at")
    with pytest.raises(ModelError, match="no tensor 'x' among its 26"):
        GGUFFile.open(saved).read("x")


# -- encodings -------------------------------------------------------------------------------------


def test_blocks_by_hand():
    half = np.float16(0.5).tobytes()
    data = np.frombuffer(half + bytes(range(32)), np.uint8)
    assert dequantise(torch.tensor(data), "Q8_0").tolist() == [0.5 * i for i in range(32)]
    # Byte i holds value i low and value i + 16 high, both around 8.
    data = np.frombuffer(half + bytes(i | (15 - i) << 4 for i in range(16)), np.uint8)
    want = [0.5 * (i - 8) for i in range(16)] + [0.5 * (7 - i) for i in range(16)]
    assert dequantise(torch.tensor(data), "Q4_0").tolist() == want
    # Q4_K: scale 0.5, minimum 2; of the eight sub-blocks the second has scale 3 and minimum 1, the
    # sixth 0x25 and 0x12. The sixth's high bits, 2 and 1, stand above the second's values, and its
    # low ones, 5 and 2, in byte 9.
    scales = bytes([0, 3 | 2 << 6, 0, 0, 0, 1 | 1 << 6, 0, 0, 0, 5 | 2 << 4, 0, 0])
    data = np.frombuffer(half + np.float16(2).tobytes() + scales + b"\x71" * 128, np.uint8)
    got = dequantise(torch.tensor(data), "Q4_K").view(8, 32)
    assert (got == got[:, :1]).all()
    # Even sub-blocks are low halves (1), odd ones high halves (7).
    assert got[:, 0].tolist() == [0, 0.5 * 3 * 7 - 2 * 1, 0, 0, 0, 0.5 * 0x25 * 7 - 2 * 0x12, 0, 0]


@pytest.mark.parametrize("kind", ENCODINGS)
def test_decoders_equal_the_peer_bit_for_bit(kind):
    gguf = pytest.importorskip("gguf", reason="the peer needs gguf (pip install gguf)")
    e = ENCODINGS[kind]
    data = np.random.default_rng(0).integers(0, 256, (64, 4 * e.block_bytes), np.uint8)
    with np.errstate(all="ignore"):
        theirs = gguf.dequantize(data, gguf.GGMLQuantizationType[kind]).flatten()
    ours = dequantise(torch.from_numpy(data).flatten(), kind).numpy()
    finite = np.isfinite(theirs)  # random scales may be NaN
    assert finite.mean() > 0.9 and np.array_equal(np.isfinite(ours), finite)
    assert np.array_equal(ours[finite].view(np.uint32), theirs[finite].view(np.uint32))
    assert (e.number, (e.block_weights, e.block_bytes)) == (
        gguf.GGMLQuantizationType[kind],
        gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]],
    )


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_encoders_equal_the_peer_bit_for_bit(kind):
    gguf = pytest.importorskip("gguf", reason="the peer needs gguf (pip install gguf)")
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 64)[:, None]
    x[3] = 0
    theirs = gguf.quantize(x.numpy(), gguf.GGMLQuantizationType[kind]).view(np.uint8).flatten()
    assert np.array_equal(quantise(x, kind).numpy(), theirs)


def test_the_peer_reads_our_file_and_we_its(tmp_path, saved):
    gguf = pytest.importorskip("gguf", reason="the peer needs gguf (pip install gguf)")
    odd = {
        "a.flag": True,
        "a.neg": -3,
        "a.big": 2**40,
        "a.texts": ["é", ""],
        "a.ids": [1, -2],
        "a.reals": [0.5],
        "a.raw": np.arange(3, dtype="<u2"),
        "a.flags": [True, False],
    }
    raw = os.urandom(144 * 6)
    write_gguf(
        saved, metadata(QWEN) | odd, tensors(make(QWEN)) | {"raw": Encoded("Q4_K", (3, 512), [raw[:100], raw[100:]])}
    )
    theirs, ours = gguf.GGUFReader(saved), GGUFFile.open(saved)
    for key, value in (metadata(QWEN) | odd).items():
        found = theirs.fields[key].contents()
        assert (
            found == pytest.approx(value)
            if isinstance(value, float)
            else list(np.atleast_1d(found)) == list(np.atleast_1d(value))
        )
        mine = ours.metadata[key]
        assert mine == found if isinstance(mine, str | float | int) else list(mine) == list(found)
    assert [(t.name, tuple(t.shape[::-1].tolist()), t.data_offset, t.n_bytes) for t in theirs.tensors] == [
        (t.name, t.shape, t.offset, t.num_bytes) for t in ours.tensors.values()
    ]
    assert ours.raw(ours.tensors["raw"]).tobytes() == raw

    writer = gguf.GGUFWriter(tmp_path / "w.gguf", "llama")
    writer.add_custom_alignment(64)
    for key, value in metadata(LLAMA).items():
        if key != "general.architecture":
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
            add(key, value)
    for name, weight in tensors(make(LLAMA)).items():
        writer.add_tensor(name, weight.contiguous().numpy())
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    assert GGUFFile.open(tmp_path / "w.gguf").alignment == 64
    assert_same(load_gguf(tmp_path / "w.gguf"), make(LLAMA))


# -- writing ---------------------------------------------------------------------------------------


def test_a_large_file_is_streamed(tmp_path):
    """Random Q4_K and Q6_K blocks, piece by piece, with pieces that do not fall on blocks."""
    rng = np.random.default_rng(0)
    sizes = {"Q4_K": 144, "Q6_K": 210}

    def pieces(total):
        while total:
            yield rng.integers(0, 256, n := min(1000, total), np.uint8)
            total -= n

    parts = {kind: Encoded(kind, (40, 512), pieces(80 * size)) for kind, size in sizes.items()}
    write_gguf(tmp_path / "m.gguf", {}, parts)
    file = GGUFFile.open(tmp_path / "m.gguf")
    assert {t.name: (t.shape, t.num_bytes) for t in file.tensors.values()} == {
        kind: ((40, 512), 80 * size) for kind, size in sizes.items()
    }
    assert file.read("Q6_K").shape == (40, 512)


def test_a_write_that_fails_leaves_the_old_file(saved):
    before = saved.read_bytes()
    with pytest.raises(ModelError, match="pieces of x give 143 bytes, its shape needs 144: give them all"):
        write_gguf(saved, {}, {"x": Encoded("Q4_K", (256,), [bytes(143)])})
    with pytest.raises(ModelError, match="metadata a is {'b': 1}, of no type that GGUF has"):
        write_gguf(saved, {"a": {"b": 1}}, {})
    with pytest.raises(ModelError, match="rows of 5 weights|blocks of 32 weights"):
        write_gguf(saved, {}, {"x": encode(torch.zeros(3, 5), "Q8_0")})
    with pytest.raises(ModelError, match="Q4_K is not written here: give one of F32, F16"):
        write_gguf(saved, {}, {"x": encode(torch.zeros(3, 256), "Q4_K")})
    with pytest.raises(ModelError, match="stored as Q8_K; F32, .* are read here"):
        write_gguf(saved, {}, {"x": Encoded("Q8_K", (256,), [])})
    assert saved.read_bytes() == before and len(list(saved.parent.iterdir())) == 1


# -- tokenizer -------------------------------------------------------------------------------------

TEXTS = [
    "def f(x):\n\treturn x**2  # 1234 567\n\n\n    if x:\n", "你好，世界。今天是2024年", "3.14159 1,000,000", "½ ²",
    "   ½  7", "🙂👩‍👩‍👧 é e\u0301 naïve ЖЖ", "   \n\n  x \t\t y\r\n\r\n z   ", "it's I'LL we'Re 'ſ don't",
    "\x00\x7f a", "", " ", "<|im_start|>user\nhi<|im_end|><|endoftext|>", "<tool_call>{}</tool_call> <think>",
    "ﬁ ＡＢＣ ١٢٣ ª",
]  # fmt: skip


def vocabulary(tokenizer: Tokenizer, pre: str = "qwen2") -> dict:
    """The metadata that llama.cpp's converter writes for a byte-level BPE, with two unused tokens
    at the end.
    """
    data = json.loads(tokenizer._inner.to_str())
    added = {t["id"]: (t["content"], 3 if t["special"] else 4) for t in data["added_tokens"]}
    by_id = {i: (t, 1) for t, i in data["model"]["vocab"].items()} | added
    tokens, types = zip(*(by_id[i] for i in sorted(by_id)), strict=True)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, "[PAD0]", "[PAD1]"],
        "tokenizer.ggml.token_type": np.array([*types, 5, 5], np.int32),
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": tokenizer.eos_ids[0],
        "tokenizer.ggml.padding_token_id": tokenizer.token_id("<|endoftext|>"),
        "tokenizer.chat_template": tokenizer.chat_template,
    }


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe(
        [f"There are {n} boxes with {n + 3} nuts, isn't it so?\n" for n in range(60)] * 2, 300
    )  # 292 come of it


def with_keys(bpe: Tokenizer, **changes):
    keys = vocabulary(bpe) | {f"tokenizer.ggml.{k}": v for k, v in changes.items()}
    return SimpleNamespace(path=Path("m.gguf"), metadata={k: v for k, v in keys.items() if v is not None})


def test_tokenizer_round_trip(tmp_path, bpe):
    write_gguf(tmp_path / "t.gguf", vocabulary(bpe), {})
    file = GGUFFile.open(tmp_path / "t.gguf")
    again = tokenizer_from_gguf(file)
    for text in [*TEXTS, "There are 12 boxes, isn't it so?"]:
        for allow in (False, True):
            assert again.encode(text, allow_special=allow) == bpe.encode(text, allow_special=allow), text
        assert again.decode(again.encode(text)) == text
    assert (again.vocab_size, again.eos_ids, again.chat_template) == (bpe.vocab_size, bpe.eos_ids, bpe.chat_template)
    assert (again.added_tokens, again.special_tokens) == (bpe.added_tokens, bpe.special_tokens)
    assert again.named_specials == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    messages = [Message("user", "12 <|im_end|> boxes"), Message("assistant", "15")]
    bpe.save(tmp_path / "folder")
    ours, theirs = chat_format_from_gguf(file), ChatFormat.from_folder(tmp_path / "folder")
    assert ours.training_example(messages) == theirs.training_example(messages)
    again.save(tmp_path / "again")
    assert Tokenizer.from_folder(tmp_path / "again").encode(TEXTS[0]) == again.encode(TEXTS[0])


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("qwen2", ["Don", "'T", " stop", "  ", " a", ",b", " ", "1", "2", "3", "4", "5", "!?\n", " ", " x"]),
        ("llama-bpe", ["Don", "'T", " stop", "  ", " a", ",b", " ", "123", "45", "!?\n", " ", " x"]),
        ("smollm", ["Don", "'", "T", " stop", "  ", " a", ",", "b", " ", "1", "2", "3", "4", "5", "!?", "\n ", " x"]),
        ("gpt-2", ["Don", "'", "T", " stop", "  ", " a", ",", "b", " 12345", "!?", "\n ", " x"]),
        ("default", ["Don", "'", "T", " stop", "  ", " a", ",", "b", " ", "123", "45", "!?", "\n ", " x"]),
    ],
)  # fmt: skip
def test_words_are_split_as_the_file_says(bpe, pre, pieces):
    inner = tokenizer_from_gguf(with_keys(bpe, pre=pre))._inner
    found = [
        p.replace("Ġ", " ").replace("Ċ", "\n")
        for p, _ in inner.pre_tokenizer.pre_tokenize_str("Don'T stop   a,b 12345!?\n  x")
    ]
    assert found == pieces and pre in PRE_TOKENIZERS


def test_llama_takes_whole_words(bpe):
    """A token that no merges lead to is still taken where it is a whole word, for llama-bpe
    only.
    """
    keys = vocabulary(bpe)
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    changes = {"tokens": ["zebra", *tokens], "token_type": np.array([1, *types]), "eos_token_id": None}
    assert tokenizer_from_gguf(with_keys(bpe, pre="llama-bpe", **changes)).encode("zebra") == [0]
    assert len(tokenizer_from_gguf(with_keys(bpe, pre="qwen2", **changes)).encode("zebra")) == 5


def test_end_tokens_in_order(bpe):
    end, text = bpe.token_id("<|im_end|>"), bpe.token_id("<|endoftext|>")
    start = bpe.token_id("<|im_start|>")
    wanted = (
        ({}, (end, text)),
        ({"eos_token_id": text}, (text, end)),
        ({"eos_token_id": None}, (end, text)),
        ({"eot_token_id": start}, (end, start, text)),
    )
    for changes, ids in wanted:
        assert tokenizer_from_gguf(with_keys(bpe, **changes)).eos_ids == ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "llama", "pre": None},
            "tokenizer 'llama' is no byte-level BPE: use a model of the Qwen or Llama 3 kind",
        ),
        ({"model": "x" * 10**6, "pre": None}, "tokenizer 'x{40}' is no byte-level BPE"),
        ({"pre": "x" * 10**6}, "pre-tokenizer 'x{40}' is not known here"),
        ({"model": None}, "no metadata tokenizer.ggml.model, a tokenizer needs it"),
        ({"model": np.zeros(3)}, "tokenizer.ggml.model is a ndarray, a text is expected"),
        ({"pre": None}, "no metadata tokenizer.ggml.pre"),
        ({"pre": "tekken"}, "pre-tokenizer 'tekken' is not known here, valid names: deepseek-r1-qwen, default, gpt-2"),
        ({"tokens": np.zeros(3)}, "tokenizer.ggml.tokens is a ndarray, a list of texts is expected"),
        ({"tokens": ["a"]}, "1 tokens have 294 token types, one for each is expected"),
        ({"token_type": None}, "no metadata tokenizer.ggml.token_type"),
        ({"token_type": 3}, "294 tokens have 1 token types"),
        ({"token_type": np.full(294, 9)}, "token type 9, whole numbers from 0 to 6 are expected"),
        (
            {"token_type": np.full(294, 5)},
            "the vocabulary has no token for '!', byte-level BPE has one for every letter",
        ),
        ({"tokens": ["x\ny"] * 294, "token_type": np.full(294, 1)}, r"tokens 0 and 293 are both 'x\\ny', all differ"),
        ({"merges": ["a b c"]}, "merge 'a b c' is not of two tokens"),
        ({"merges": ["a \u4e00"]}, "the merges do not go with the vocabulary .*Token `\u4e00` out of vocabulary"),
        ({"eos_token_id": 292}, "tokenizer.ggml.eos_token_id is 292, a token from 0 to 291 is expected"),
        ({"eot_token_id": "x"}, "tokenizer.ggml.eot_token_id is x, a token from 0"),
    ],
)
def test_bad_vocabularies_show_both_sides(bpe, changes, message):
    with pytest.raises(ModelError, match=message) as caught:
        tokenizer_from_gguf(with_keys(bpe, **changes))
    assert "\n" not in str(caught.value)


def test_a_file_without_a_template_has_no_chat(bpe):
    file = with_keys(bpe)
    del file.metadata["tokenizer.chat_template"]
    with pytest.raises(
        ModelError, match="no chat template .tokenizer.chat_template.: use the file of an instruct model"
    ):
        chat_format_from_gguf(file)
    file.metadata["tokenizer.chat_template"] = 5
    with pytest.raises(ModelError, match="chat_template is a int, a text is expected"):
        chat_format_from_gguf(file)


# -- real files ------------------------------------------------------------------------------------

MODELS = Path(os.environ.get("QWQ_MODELS", "QWQ_MODELS is not set")).expanduser()
REAL = ["qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct"]


@pytest.fixture(params=REAL)
def real(request) -> tuple[Path, GGUFFile]:
    folder = MODELS / request.param
    path = folder / f"{request.param}.gguf"
    if not path.is_file() or not (folder / "model.safetensors").is_file():
        pytest.skip(
            f"needs {path} and the folder of the same model beside it: `make test-engine` runs this, in the folder "
            "QWQ_MODELS"
        )
    return folder, GGUFFile.open(path)


def test_real_config_is_the_folders(real):
    folder, file = real
    ours, theirs = gguf_config(file), read_config(folder)
    # A GGUF file has no initializer_range, and names the tokenizer's padding where a config.json
    # may not. This Qwen's stores its head a second time, in a finer encoding, though the two are
    # tied in the folder.
    apart = {"initializer_range": theirs.initializer_range}
    if "qwen" in folder.name:
        assert (ours.pad_token_id, ours.tie_embeddings) == (151643, False)
        apart |= {"pad_token_id": None, "tie_embeddings": True}
    assert replace(ours, **apart) == theirs


def test_real_weights_are_the_folders(real):
    """Decoded weights, rounded to bfloat16, are those of the safetensors: SmolLM's all, of Qwen's
    every encoding it uses.
    """
    folder, file = real
    with safe_open(folder / "model.safetensors", framework="pt") as stored:
        if "smollm" in folder.name:
            mine = state_to_hf(gguf_config(file), load_gguf(file.path, dtype=torch.bfloat16).state_dict())
            assert mine.keys() == set(stored.keys())
            assert all(torch.equal(weight, stored.get_tensor(name)) for name, weight in mine.items())
            return
        names = [n for n in hf_shapes(gguf_config(file)) if re.match(r"model\.layers\.(0|12|23)\.|model\.norm", n)]
        for name in names:
            assert torch.equal(file.read(gguf_name(name)).bfloat16(), stored.get_tensor(name)), name
        assert {file.tensors[gguf_name(n)].encoding for n in names} == {t.encoding for t in file.tensors.values()}
        head = file.read("output.weight").bfloat16()
        assert torch.equal(head, stored.get_tensor("model.embed_tokens.weight"))


def test_real_tokenizer_is_the_folders(real):
    """The same ids.

    In SmolLM's folder, digits are not split from the blanks before them, so its texts go without
    those.
    """
    folder, file = real
    ours, theirs = chat_format_from_gguf(file), ChatFormat.from_folder(folder)
    mine, other = ours.tokenizer, theirs.tokenizer
    source = Path(gguf_file.__file__).read_text()
    for text in [*TEXTS, source]:
        if "smollm" in folder.name:
            text = re.sub(r"\s+(?=[0-9])", "", re.sub("[½²١٢٣]", "", text))
        for allow in (False, True):
            assert mine.encode(text, allow_special=allow) == other.encode(text, allow_special=allow), text
        assert mine.decode(mine.encode(text)) == other.decode(other.encode(text))
    assert (mine.added_tokens, mine.special_tokens) == (other.added_tokens, other.special_tokens)
    assert mine.chat_template == other.chat_template and mine.eos_ids[0] == other.eos_ids[0]
    assert set(other.eos_ids) <= set(mine.eos_ids)
    messages = [Message("user", "Sum 1 and 2 <|im_end|>"), Message("assistant", "3")]
    assert ours.training_example(messages) == theirs.training_example(messages)
    mine.check_fits(gguf_config(file))
    if "smollm" in folder.name:  # as llama.cpp splits it, and the tokenizer.json that was published with it
        assert [mine.decode([i]) for i in mine.encode("   12")] == ["   ", "1", "2"]
