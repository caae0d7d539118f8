"""GGUF files made or broken to crash, fill memory or lie: what comes is a model that was checked,
or one ModelError in one line.
"""

from __future__ import annotations

import random
import resource
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from qwq.errors import ModelError
from qwq.model import gguf_file
from qwq.model.config import ModelConfig
from qwq.model.gguf import GGUFFile, encode, gguf_name, load_gguf, write_gguf
from qwq.model.names import state_to_hf
from qwq.model.transformer import Transformer
from qwq.text.gguf_tokenizer import tokenizer_from_gguf

CONFIG = ModelConfig("llama", 130, 32, 32, 1, 2, 1, 16, tie_embeddings=True, qkv_bias=False, max_positions=64)
ROOM_BYTES = 256 << 20  # more address space than this is a huge allocation; the whole file has some 30 KB
LIMIT_S = 10.0  # a hang, whatever else the machine does
EXTREMES = [
    0,
    1,
    2**7,
    2**8 - 1,
    2**15,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**61,
    2**63 - 1,
    2**63,
    2**64 - 32,
    2**64 - 1,
]


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> bytes:
    """A model of one layer with a vocabulary, each kind of metadata value and three encodings among
    its tensors.
    """
    model = Transformer(CONFIG).init_weights(torch.Generator().manual_seed(0))
    letters = [chr(b) for b in range(0x21, 0x7F)]
    tokens = ["Ġ", "Ċ", *letters, "he", "ll", "hell", "<think>", "<|im_end|>"]
    tokens += [f"[PAD{i}]" for i in range(CONFIG.vocab_size - len(tokens))]
    types = [1] * 99 + [4, 3] + [5] * (len(tokens) - 101)
    metadata = {
        "general.architecture": "llama", "general.alignment": 32, "a.flag": True, "a.flags": [True, False],
        "llama.block_count": 1, "llama.context_length": 64, "llama.embedding_length": 32,
        "llama.feed_forward_length": 32, "llama.attention.head_count": 2, "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-6, "llama.rope.freq_base": 1e6, "a.wide": 2**40, "a.negative": -1,
        "a.double": np.float64(0.5), "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": ["h e", "l l", "he ll"], "tokenizer.ggml.eos_token_id": 100,
        "tokenizer.chat_template": "{{ messages }}",
    }  # fmt: skip
    tensors = {}
    for i, (name, weight) in enumerate(state_to_hf(CONFIG, model.state_dict()).items()):
        tensors[gguf_name(name)] = encode(weight, ("Q8_0", "Q4_0", "F16")[i % 3]) if weight.ndim == 2 else weight
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    write_gguf(path, metadata, tensors)
    return path.read_bytes()


@contextmanager
def little_memory() -> Iterator[None]:
    """ROOM_BYTES of new address space: an allocation of a size that a file made up fails, as a
    MemoryError or a RuntimeError.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def attempt(path: Path) -> set[str]:
    """What could be read of the file. Anything but a ModelError of one line is a failure."""
    done = set()
    try:
        file = GGUFFile.open(path)
        done.add("file")
    except ModelError as error:
        check_line(error, path)
        return done
    for what, read in (
        ("tokenizer", lambda: tokenizer_from_gguf(file).encode("hello hell")),
        ("model", lambda: load_gguf(path)),
    ):
        try:
            read()
            done.add(what)
        except ModelError as error:
            check_line(error, path)
    return done


def check_line(error: ModelError, path: Path) -> None:
    text = str(error)
    assert "\n" not in text and str(path) in text and len(text) < 600, text


def broken(data: bytes, header_bytes: int, rng: random.Random) -> bytes:
    """One to three wounds to the header: flipped, extreme, missing, doubled or foreign bytes, or
    the end of the file.
    """
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(4 if rng.random() < 0.95 else 0, max(5, min(header_bytes, len(out))))
        kind = rng.randrange(7)
        if kind == 0:
            out[at : at + 1] = bytes([out[at] ^ 1 << rng.randrange(8)]) if at < len(out) else b""
        elif kind == 1:
            out[at : at + 1] = rng.randbytes(1)
        elif kind == 2:
            out[at : at + 8] = struct.pack("<Q", rng.choice(EXTREMES))
        elif kind == 3:
            out[at : at + 4] = struct.pack("<I", rng.choice(EXTREMES) & 0xFFFFFFFF)
        elif kind == 4:
            del out[at : at + rng.choice((1, 4, 8, 32, 100))]
        elif kind == 5:
            out[at:at] = rng.choice((rng.randbytes(rng.choice((1, 4, 8, 32))), bytes(out[at : at + 40])))
        else:
            del out[rng.randrange(len(out) + 1) :]
    return bytes(out)


def test_no_damage_to_a_header_gets_past(valid, tmp_path):
    """2,500 broken headers, the same every time.

    Many still parse; what they then say is checked against the file.
    """
    path = tmp_path / "m.gguf"
    path.write_bytes(valid)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert attempt(path) == {"file", "tokenizer", "model"}
    header_bytes = min(t.offset for t in GGUFFile.open(path).tensors.values())
    rng = random.Random(0)
    seen = dict.fromkeys(("", "file", "tokenizer", "model"), 0)
    with little_memory(), path.open("wb", buffering=0) as f:
        for _ in range(2500):
            f.truncate(0)
            f.seek(0)
            f.write(broken(valid, header_bytes, rng))
            start = time.perf_counter()
            for what in attempt(path) or {""}:
                seen[what] += 1
            assert time.perf_counter() - start < LIMIT_S
    torch.set_num_threads(before)
    assert min(seen.values()) > 100, seen  # the wounds are of every depth


def test_every_length_of_a_cut_file_is_told(valid, tmp_path):
    path = tmp_path / "m.gguf"
    for keep in [*range(200), *range(200, len(valid) - 31, 97), len(valid) - 33]:
        path.write_bytes(valid[:keep])
        with pytest.raises(ModelError, match="cut short or damaged|at least 24") as caught:
            GGUFFile.open(path)
        check_line(caught.value, path)


# -- headers made by hand --------------------------------------------------------------------------


def text(value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def header(num_tensors: int, num_keys: int, body: bytes = b"", version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, num_tensors, num_keys) + body


def entry(name: str = "t", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def key(name: bytes | str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, body: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + body


U32, BIG = struct.pack("<I", 1), 2**63
ROOM = bytes(4096)
HEADERS = {
    "empty": (b"", "m.gguf: 0 bytes, a GGUF header has at least 24: fetch or write it again"),
    "other kind": (header(0, 0, magic=b"PK\3\4"), r"begins with b'PK\\x03\\x04', b'GGUF' is expected"),
    "version 1": (header(0, 0, version=1), "is version 1, little-endian GGUF of version 2 or 3 is read here"),
    "big-endian": (header(0, 0, version=3 << 24), "is a big-endian file, little-endian"),
    "keys": (header(0, BIG, ROOM), f"4096 bytes are left at byte 24, {14 * BIG} are needed for {BIG} metadata keys"),
    "tensors": (header(BIG, 0, ROOM), f"4096 bytes are left at byte 24, {33 * BIG} are needed for {BIG} tensors"),
    "all tensors": (header(2**64 - 1, 2**64 - 1), f"are needed for {2**64 - 1} metadata keys"),
    "many keys": (header(0, 70000, bytes(70000 * 14)), "has 70000 metadata keys, at most 65536 are expected"),
    "many tensors": (header(70000, 0, bytes(70000 * 33)), "has 70000 tensors, at most 65536 are expected"),
    "empty key": (header(0, 1, key("", 4, U32) + ROOM), "has 0 bytes for metadata key 0, 1 to 65535 are expected"),
    "long key": (header(0, 1, key(b"k" * 65536, 4, U32)), "has 65536 bytes for metadata key 0, 1 to 65535"),
    "absurd key": (header(0, 1, struct.pack("<Q", BIG) + ROOM), f"has {BIG} bytes for metadata key 0, 1 to 65535"),
    "no UTF-8": (header(0, 1, key(b"k\xff\n", 4, U32)), "has a byte at 33 in metadata key 0 that is no UTF-8, text is"),
    "a key twice": (header(0, 2, key("k", 4, U32) * 2), "has metadata key 'k' twice, once is expected"),
    "no such type": (header(0, 1, key("k", 13, U32)), "gives 'k' the value type 13, 0 to 12 are expected"),
    "no truth": (header(0, 1, key("k", 7, b"\2")), "has 2 for a truth value of 'k', 0 or 1 is expected"),
    "no truths": (header(0, 1, key("k", 9, array(7, 2, b"\1\7"))), "has 7 for a truth value of 'k', 0 or 1"),
    "absurd text": (header(0, 1, key("k", 8, struct.pack("<Q", BIG)) + ROOM), f"{BIG} are needed for 'k'"),
    "absurd numbers": (
        header(0, 1, key("k", 9, array(12, 2**61)) + ROOM),
        f"{2**64} are needed for {2**61} numbers of",
    ),
    "absurd texts": (header(0, 1, key("k", 9, array(8, 2**61)) + ROOM), f"{2**64} are needed for {2**61} texts of 'k'"),
    "text in texts": (
        header(0, 1, key("k", 9, array(8, 2, text("a") + struct.pack("<Q", BIG)))),
        f"0 bytes are left .*, {BIG} are needed for a text of 'k'",
    ),
    "texts run out": (
        header(0, 1, key("k", 9, array(8, 2, text("abcdefgh")))),
        "0 bytes are left .*, 8 are needed for a text",
    ),
    "bad text in texts": (header(0, 1, key("k", 9, array(8, 1, text(b"\xc3")))), "in 'k' that is no UTF-8"),
    "nested": (
        header(0, 1, key("k", 9, array(9, 1, array(9, 1))) + ROOM),
        "gives items of 'k' the value type 9, numbers or texts",
    ),
    "deeply nested": (header(0, 1, key("k", 9, array(9, 1) * 100_000)), "gives items of 'k' the value type 9"),
    "a line break": (
        header(0, 1, key("a\nb", 4, U32)),
        r"has 'a\\nb' for metadata key 0, printable characters are expected",
    ),
    "a terminal command": (
        header(1, 0, entry("a\x1b[2J") + ROOM),
        r"has 'a\\x1b\[2J' for the name of tensor 0, printable",
    ),
    "long name": (header(1, 0, entry("n" * 65)), "has 65 bytes for the name of tensor 0, 1 to 64 are expected"),
    "no dimension": (header(1, 0, entry(dims=()) + ROOM), "gives 't' 0 dimensions, 1 to 4 are expected"),
    "many dimensions": (header(1, 0, entry(dims=(1,) * 5)), "gives 't' 5 dimensions, 1 to 4"),
    "no rows": (
        header(1, 0, entry(dims=(4, 0)) + ROOM),
        r"has tensor 't' of \[0, 4\] in F32, no empty dimension is expected",
    ),
    "half a block": (
        header(1, 0, entry(dims=(48,), kind=8) + ROOM),
        r"has tensor 't' of \[48\] in Q8_0, a row of whole blocks of 32 weights is expected",
    ),
    "absurd shape": (
        header(1, 0, entry(dims=(BIG, BIG, BIG, BIG)) + ROOM),
        r"cut short or damaged: 4\d+ bytes are there, \d{70,} are needed for tensor 't'",
    ),
    "wraps to small": (header(1, 0, entry(dims=(2**32, 2**32)) + ROOM), f"{2**66 + 96} are needed"),
    "absurd offset": (
        header(1, 0, entry(offset=2**64 - 32) + ROOM),
        f"{2**64 - 32 + 64 + 128} are needed for tensor 't'",
    ),
    "crooked offset": (
        header(1, 0, entry(offset=4) + ROOM),
        "has tensor 't' at offset 4, a multiple of 32 is expected",
    ),
    "unknown encoding": (
        header(1, 0, entry(kind=99) + ROOM),
        "tensor 't' is stored as type 99; F32, F16, .* are read here",
    ),
    "other encoding": (
        header(1, 0, entry(kind=15) + ROOM),
        "stored as Q8_K; .*Q6_K, .* are read here: use a Q4_K_M or Q8_0 file",
    ),
    "a tensor twice": (header(2, 0, entry() * 2 + ROOM), "has tensor 't' twice, once is expected"),
    "overlap": (
        header(2, 0, entry("a") + entry("b", offset=96) + ROOM),
        "has tensor 'b' at byte 192, inside 'a', 224 or later is expected",
    ),
    "overlap unsorted": (
        header(2, 0, entry("b", offset=64) + entry("a") + ROOM),
        "has tensor 'b' at byte 160, inside 'a'",
    ),
}
ALIGNMENTS = [(4, 0), (4, 4), (4, 33), (4, 2**31), (10, 2**63), (5, -32), (8, "32"), (6, 32.0)]


def refused(path: Path, data: bytes, message: str) -> None:
    path.write_bytes(data)
    with little_memory(), pytest.raises(ModelError, match=message) as caught:
        GGUFFile.open(path)
    check_line(caught.value, path)
    assert "again" in str(caught.value) or "use a" in str(caught.value)


@pytest.mark.parametrize("name", HEADERS)
def test_absurd_headers_are_refused(tmp_path, name):
    data, message = HEADERS[name]
    refused(tmp_path / "m.gguf", data, message)


@pytest.mark.parametrize(("kind", "value"), ALIGNMENTS)
def test_absurd_alignments_are_refused(tmp_path, kind, value):
    code = {4: "<I", 10: "<Q", 5: "<i", 6: "<f"}
    packed = text(value) if kind == 8 else struct.pack(code[kind], value)
    data = header(1, 1, key("general.alignment", kind, packed) + entry() + ROOM)
    refused(tmp_path / "m.gguf", data, f"has alignment {value!r}, a power of two from 8 to 1048576 is expected")


def test_a_header_larger_than_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_file, "MAX_HEADER_BYTES", 1 << 20)
    body = key("k", 9, array(0, 1 << 20, bytes(1 << 20)))
    refused(tmp_path / "m.gguf", header(0, 1, body), "has a header of more than 1 MiB, at most 1 MiB are expected")


def test_a_flood_of_texts_is_refused(tmp_path, monkeypatch):
    """Empty texts take eight bytes in a file and more in memory; two arrays share one limit."""
    monkeypatch.setattr(gguf_file, "MAX_STRINGS", 1000)
    body = b"".join(key(k, 9, array(8, 600, bytes(8 * 600))) for k in "ab")
    refused(tmp_path / "m.gguf", header(0, 2, body), "has more than 1000 texts, at most 1000 are expected")


def test_the_largest_header_allowed_takes_bounded_time_and_memory(tmp_path):
    """Four million empty texts: the most that the limits let through."""
    count = gguf_file.MAX_STRINGS
    path = tmp_path / "m.gguf"
    path.write_bytes(header(0, 1, key("k", 9, array(8, count, bytes(8 * count)))))
    start = time.perf_counter()
    with little_memory():
        assert len(GGUFFile.open(path).metadata["k"]) == count
    assert time.perf_counter() - start < 3 * LIMIT_S


def test_devices_and_folders_are_no_files(tmp_path):
    for path in (Path("/dev/zero"), tmp_path):
        with pytest.raises(ModelError, match="no GGUF file at"):
            GGUFFile.open(path)
