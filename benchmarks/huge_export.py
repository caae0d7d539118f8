"""QwQ-32B's shape with random weights exported as a GGUF file: how much memory, time and disk?

    python benchmarks/huge_export.py --folder PLACE [--quant Q4_K_M] [--layers N] [--keep]

PLACE has 20 GB free for 64 layers. Weights are drawn in bfloat16 when the exporter asks for a
tensor, so no 65 GB source lies on the disk; from there on it is what `qwq export` runs. Afterwards
three matrices of the file are decoded and compared with their weights drawn again, and llama.cpp
loads the file (memory-mapped, without its repacked copies) and reads four tokens, unless
--skip-load. --layers writes so many layers of the 64; embedding and output matrix are whole.
--limit-gib (16) is the most memory that the conversion may take. Prints size, seconds and peak
resident memory; the last lines are JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from arguments import at_least, positive
from torch import Tensor

from qwq.model.config import ModelConfig, preset
from qwq.model.gguf import gguf_name
from qwq.model.gguf_file import GGUFFile
from qwq.model.names import hf_shapes
from qwq.model.weight_reader import WeightReader
from qwq.release.model_source import ModelSource
from qwq.release.to_gguf import export_gguf
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe

STD = 0.02  # of the weights, as `Transformer.init_weights` draws them
MOST_ERROR = {"Q4_K_M": 0.1, "Q5_K_M": 0.05, "Q6_K": 0.03, "Q8_0": 0.01, "F16": 1e-3}  # relative, root mean square


def random_weights(config: ModelConfig, report: bool = True) -> WeightReader:
    """Weights that are a function of their name: norms 1, all else normal."""
    shapes, started = hf_shapes(config), time.perf_counter()

    def draw(name: str) -> Tensor:
        if report and name.endswith("q_proj.weight"):
            seconds, cpu = time.perf_counter() - started, time.process_time()
            print(f"{name}: {seconds:.0f} s, {cpu:.0f} s of processor time, peak {peak_gib():.2f} GiB", flush=True)
        if name.endswith("norm.weight"):
            return torch.ones(shapes[name], dtype=torch.bfloat16)
        source = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        weight = torch.empty(shapes[name], dtype=torch.bfloat16)
        for part in weight.split(1024):  # float32 is drawn several times as fast as bfloat16
            part.copy_(torch.randn(part.shape, generator=source).mul_(STD))
        return weight

    return WeightReader("random weights", config, torch.bfloat16, draw)


def peak_gib() -> float:
    """The most memory that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def relative_error(file: GGUFFile, weights: WeightReader, name: str) -> float:
    """Root mean square of what the file changes in a matrix, as a share of the matrix's own."""
    expected = weights.read(name).float()
    return float((file.read(gguf_name(name)) - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def load_in_llama_cpp(path: Path, vocab_size: int) -> float:
    """Seconds until llama.cpp has loaded the file and read four tokens; their logits are finite."""
    import llama_cpp as L

    started = time.perf_counter()
    params = L.llama_model_default_params()
    params.n_gpu_layers, params.use_extra_bufts = 0, False
    model = L.llama_model_load_from_file(str(path).encode(), params)
    assert model, f"llama.cpp cannot load {path}"
    shape = L.llama_context_default_params()
    shape.n_ctx = shape.n_batch = shape.n_ubatch = 64
    shape.n_threads = shape.n_threads_batch = torch.get_num_threads()
    context = L.llama_init_from_model(model, shape)
    tokens = (L.llama_token * 4)(1, 2, 3, 4)
    assert L.llama_decode(context, L.llama_batch_get_one(tokens, 4)) == 0
    logits = np.ctypeslib.as_array(L.llama_get_logits_ith(context, -1), (vocab_size,))
    assert np.isfinite(logits).all() and logits.std() > 0
    seconds = time.perf_counter() - started
    L.llama_free(context)
    L.llama_model_free(model)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--quant", default="Q4_K_M", choices=MOST_ERROR)
    parser.add_argument("--layers", type=at_least(1), default=64)
    parser.add_argument("--limit-gib", type=positive, default=16.0)
    parser.add_argument("--skip-load", action="store_true")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    config = replace(preset("qwq-32b"), num_layers=args.layers)
    chat = ChatFormat(train_bpe(["a b c"] * 4, 270), default_template())
    weights = random_weights(config)
    path = args.folder / f"qwq-32b-random-{args.layers}-{args.quant.lower()}.gguf"
    started = time.perf_counter()
    export_gguf(ModelSource("QwQ-32B shape", weights, chat, {}), path, args.quant)
    seconds, cpu = time.perf_counter() - started, time.process_time()
    peak, size = peak_gib(), path.stat().st_size
    source = 2 * config.num_parameters
    print(
        f"{config.num_parameters / 1e9:.2f} billion weights ({args.layers} layers), {source / 1e9:.1f} GB in bfloat16: "
        f"{size / 1e9:.2f} GB as {args.quant}, {seconds:.0f} s with {torch.get_num_threads()} threads ({cpu:.0f} s of "
        f"processor time), peak {peak:.2f} GiB resident",
        flush=True,
    )
    assert peak < args.limit_gib, f"{peak:.2f} GiB resident, at most {args.limit_gib} are allowed"
    file, plain = GGUFFile.open(path), random_weights(config, report=False)
    last = args.layers - 1
    for name in (
        "model.layers.0.self_attn.q_proj.weight", f"model.layers.{last // 2}.mlp.gate_proj.weight",
        f"model.layers.{last}.mlp.down_proj.weight",
    ):  # fmt: skip
        error = relative_error(file, plain, name)
        print(f"{name}: {file.tensors[gguf_name(name)].encoding}, relative error {error:.4f}", flush=True)
        assert error < MOST_ERROR[args.quant]
    del file
    if not args.skip_load:
        print(f"loaded by llama.cpp, four tokens read: {load_in_llama_cpp(path, config.vocab_size):.1f} s")
    if not args.keep:
        path.unlink()
    name = f"qwq-32b shape, {args.layers} layers, as {args.quant}"
    rows = {"peak resident bytes beside bfloat16's": (int(peak * 2**30), source), "file bytes": (size, source)}
    for what, (ours, theirs) in rows.items():
        print(json.dumps({"name": f"{name}: {what}", "ours": ours, "theirs": theirs, "ratio": round(ours / theirs, 4)}))
    for what, value in {"seconds": seconds, "seconds of processor time": cpu}.items():
        print(json.dumps({"name": f"{name}: {what}", "ours": round(value, 1), "theirs": None, "ratio": None}))


if __name__ == "__main__":
    main()
