"""A file of QwQ-32B's shape with random weights in Q4_K_M's layout (about 20 GB), loaded and
decoded once: does it fit, how fast is it?

    python benchmarks/huge_gguf.py --folder /somewhere/with/25GB      # writes, measures, deletes (--keep keeps it)

Blocks are random with small scales, so the text means nothing; sizes, layout and reads are those of
the real file. Prints the file's size, resident memory after loading and after decoding, and tokens
per second; the last lines are JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from arguments import at_least

from qwq.engine.backends.llama_cpp import LlamaBackend
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.model.config import preset
from qwq.model.gguf_file import Encoded, write_gguf
from qwq.text.tokenizer import train_bpe

BLOCK = {"Q4_K": 144, "Q6_K": 210}  # bytes of 256 weights
CHUNK_BLOCKS = 1 << 16


def random_blocks(kind: str, weights: int, seed: int) -> Iterator[np.ndarray]:
    """Random quantised blocks whose scales are small and finite, so that activations stay so
    too.
    """
    draw, left = np.random.default_rng(seed), weights // 256
    pattern = draw.integers(0, 256, (min(left, CHUNK_BLOCKS), BLOCK[kind]), dtype=np.uint8)
    scale = np.frombuffer(np.float16(2e-5 if kind == "Q4_K" else 1e-5).tobytes(), np.uint8)
    if kind == "Q4_K":
        pattern[:, 0:2], pattern[:, 2:4] = scale, scale
    else:
        pattern[:, 208:210] = scale
    while left:
        take = min(left, len(pattern))
        yield pattern[:take].reshape(-1)
        left -= take


def write(path: Path) -> None:
    c = preset("qwq-32b")
    keys = {
        "general.architecture": "qwen2", "qwen2.block_count": c.num_layers, "qwen2.context_length": c.max_positions,
        "qwen2.embedding_length": c.hidden_size, "qwen2.feed_forward_length": c.intermediate_size,
        "qwen2.attention.head_count": c.num_heads, "qwen2.attention.head_count_kv": c.num_kv_heads,
        "qwen2.rope.freq_base": c.rope_theta, "qwen2.attention.layer_norm_rms_epsilon": c.rms_norm_eps,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(c.vocab_size)],
        "tokenizer.ggml.token_type": np.ones(c.vocab_size, np.int32), "tokenizer.ggml.merges": ["t 0"],
        "tokenizer.ggml.eos_token_id": c.eos_token_id,
    }  # fmt: skip
    tensors: dict[str, Encoded] = {}

    def matrix(name: str, rows: int, columns: int, kind: str = "Q4_K") -> None:
        tensors[name] = Encoded(kind, (rows, columns), random_blocks(kind, rows * columns, len(tensors)))

    def vector(name: str, size: int, value: float) -> None:
        tensors[name] = Encoded("F32", (size,), [np.full(size, value, np.float32)])

    d, f, kv = c.hidden_size, c.intermediate_size, c.num_kv_heads * c.head_dim
    matrix("token_embd.weight", c.vocab_size, d)
    for i in range(c.num_layers):
        # llama.cpp's recipe keeps v and down of half of the layers in 6 bits.
        fine = (
            "Q6_K"
            if i < c.num_layers // 8 or i >= 7 * c.num_layers // 8 or (i - c.num_layers // 8) % 3 == 2
            else "Q4_K"
        )
        at = f"blk.{i}."
        for name, rows, columns, kind in (
            ("attn_q", d, d, "Q4_K"), ("attn_k", kv, d, "Q4_K"), ("attn_v", kv, d, fine), ("attn_output", d, d, "Q4_K"),
            ("ffn_gate", f, d, "Q4_K"), ("ffn_up", f, d, "Q4_K"), ("ffn_down", d, f, fine),
        ):  # fmt: skip
            matrix(f"{at}{name}.weight", rows, columns, kind)
        for name, size in (("attn_q", d), ("attn_k", kv), ("attn_v", kv)):
            vector(f"{at}{name}.bias", size, 0.0)
        vector(f"{at}attn_norm.weight", d, 1.0)
        vector(f"{at}ffn_norm.weight", d, 1.0)
    vector("output_norm.weight", d, 1.0)
    matrix("output.weight", c.vocab_size, d, "Q6_K")
    write_gguf(path, keys, tensors)


def resident() -> dict[str, int]:
    fields = (
        line.split()
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(("VmRSS", "RssAnon"))
    )
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in fields}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--new-tokens", type=at_least(1), default=16)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / "qwq-32b-random-q4_k_m.gguf"
    if not path.exists():
        started = time.perf_counter()
        write(path)
        print(f"written in {time.perf_counter() - started:.0f} s")
    size = path.stat().st_size
    started = time.perf_counter()
    backend = LlamaBackend(path, kv_tokens=2048, max_slots=2)
    print(
        f"{size / 1e9:.2f} GB, loaded in {time.perf_counter() - started:.1f} s, {resident()['VmRSS'] / 2**30:.2f} "
        "GiB resident",
        flush=True,
    )
    engine = Engine(backend, train_bpe(["a b c"] * 4, 270))
    ((sample,),) = engine.run(
        [GenerationRequest([1, 2, 3, 4], SamplingParams(temperature=0, max_new_tokens=args.new_tokens))]
    )
    rate = (len(sample.ids) - 1) / (sample.times[-1] - sample.times[1])
    held = resident()
    print(
        f"first token after {sample.times[1] - sample.times[0]:.1f} s, then {rate:.3f} tokens/s "
        f"({rate * size / 1e9:.1f} GB/s), {held['VmRSS'] / 2**30:.2f} GiB resident, {held['RssAnon'] / 2**30:.2f} "
        "of it not the file's pages"
    )
    print(
        json.dumps(
            {"name": "qwq-32b shape, Q4_K_M layout, tokens/s", "ours": round(rate, 3), "theirs": None, "ratio": None}
        )
    )
    print(
        json.dumps(
            {
                "name": "qwq-32b shape, resident bytes beside the file's",
                "ours": held["VmRSS"],
                "theirs": size,
                "ratio": round(held["VmRSS"] / size, 3),
            }
        )
    )
    if not args.keep:
        path.unlink()


if __name__ == "__main__":
    main()
