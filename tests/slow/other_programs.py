"""Folders that `qwq export` writes, loaded by the programs that they are for: the same greedy text,
and the perplexity that this project reads from the same folder.

    python tests/slow/other_programs.py MODEL [--program mlx=PYTHON] [--program transformers=PYTHON]
                                              [--program vllm=PYTHON] [--tokens 4000]

MODEL is a folder or a hub id; PYTHON is the interpreter of an environment that has the program
(`make test-programs` makes them). Everything is float32 on a CPU, but for vLLM's w4a16 (bfloat16).

- Not quantised (`--format hf`): the first 20 greedy tokens of six prompts equal ours. They may part
  only where our two best logits are within 1e-2.
- Quantised (mlx 4 and 8 bits; w8a8, w8a16 and w4a16, this one by GPTQ): perplexity within 3% of our
  own reading of the folder. What quantising itself costs is shown beside it.

The last lines are JSON: a program, a folder, theirs, ours.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NEW_TOKENS, WINDOW, CLOSE, MOST = 20, 256, 1e-2, 0.03
PROMPTS = (
    "What is 17 times 23?", "Name three primary colours.", "Write a Python function that reverses a list.",
    "Why is the sky blue?", "List the first ten prime numbers.", "Solve x + 5 = 12.",
)  # fmt: skip
FOLDERS: dict[str, dict[str, Any]] = {
    "hf": {"format": "hf"},
    "mlx 8 bits": {"format": "mlx", "bits": 8},
    "mlx 4 bits": {"format": "mlx", "bits": 4},
    "w8a8": {"format": "w8a8"},
    "w8a16": {"format": "w8a16"},
    "w4a16": {"format": "w4a16", "gptq": True},
}
READS = {
    "mlx": ("hf", "mlx 8 bits", "mlx 4 bits"),
    "transformers": ("hf", "w8a8", "w8a16", "w4a16"),
    "vllm": ("hf", "w8a8", "w4a16"),  # its CPU build has no kernel for w8a16
}


# -- inside the other program's environment: nothing of qwq is there -------------------------------


def inside(program: str, folder: str, prompts: list[list[int]], windows: list[list[int]]) -> dict[str, Any]:
    """Greedy tokens of each prompt, and the mean loss over the windows."""
    return {"mlx": in_mlx, "transformers": in_transformers, "vllm": in_vllm}[program](folder, prompts, windows)


def in_mlx(folder: str, prompts: list[list[int]], windows: list[list[int]]) -> dict[str, Any]:
    import mlx.core as mx
    import mlx.nn as nn
    import mlx_lm
    from mlx_lm.generate import generate_step

    mx.set_default_device(mx.cpu)
    model, _ = mlx_lm.load(folder)
    replies = [[int(t) for t, _ in generate_step(mx.array(ids), model, max_tokens=NEW_TOKENS)] for ids in prompts]
    total = 0.0
    for ids in windows:
        logits = model(mx.array([ids[:-1]]))[0].astype(mx.float32)
        total += float(nn.losses.cross_entropy(logits, mx.array(ids[1:]), reduction="sum"))
    version = f"mlx {mx.__version__}, mlx-lm {mlx_lm.__version__}"
    return {"version": version, "replies": replies, "loss": total / sum(len(ids) - 1 for ids in windows)}


def in_transformers(folder: str, prompts: list[list[int]], windows: list[list[int]]) -> dict[str, Any]:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    replies, total = [], 0.0
    with torch.inference_mode():
        for ids in prompts:
            out = model.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
                max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, repetition_penalty=1.0, use_cache=True,
            )  # fmt: skip
            replies.append(out[0, len(ids) :].tolist())
        for ids in windows:
            logits = model(torch.tensor([ids])).logits[0, :-1]
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
    version = f"transformers {transformers.__version__}"
    return {"version": version, "replies": replies, "loss": total / sum(len(ids) - 1 for ids in windows)}


def in_vllm(folder: str, prompts: list[list[int]], windows: list[list[int]]) -> dict[str, Any]:
    import vllm

    packed = "pack-quantized" in (Path(folder) / "config.json").read_text()
    dtype = "bfloat16" if packed else "float32"  # its CPU kernel of int4 takes no float32
    model = vllm.LLM(folder, dtype=dtype, enforce_eager=True, max_model_len=2 * WINDOW, seed=0)
    greedy = vllm.SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    tokens = [{"prompt_token_ids": ids} for ids in prompts]
    replies = [list(r.outputs[0].token_ids) for r in model.generate(tokens, greedy)]
    read = vllm.SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    total = 0.0
    for ids, result in zip(windows, model.generate([{"prompt_token_ids": w} for w in windows], read), strict=True):
        total -= sum(place[i].logprob for i, place in zip(ids[1:], result.prompt_logprobs[1:], strict=True))
    version = f"vllm {vllm.__version__}, {dtype}"
    return {"version": version, "replies": replies, "loss": total / sum(len(ids) - 1 for ids in windows)}


# -- our side --------------------------------------------------------------------------------------


def asked(python: str, program: str, folder: Path, prompts: list[list[int]], windows: list[list[int]]) -> Any:
    """What the program says, in its own environment."""
    request = folder.parent / "request.json"
    request.write_text(json.dumps([program, str(folder), prompts, windows]))
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    # vLLM's defaults for CPUs take most of the memory and bind threads to cores.
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    environment = clean | small | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run([python, __file__, "--inside", request], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{program} failed on {folder.name}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"version"')))


def parted(model: Any, prompt: list[int], reply: list[int]) -> float | None:
    """None where the reply is our greedy text; else the gap of our two best logits where it
    parts.
    """
    import torch

    from qwq.model.layouts import Packed

    with torch.inference_mode():
        ids = torch.tensor([*prompt, *reply])
        logits = model.logits(model(ids, Packed([len(ids)])))[len(prompt) - 1 : -1]
    places = (logits.argmax(1) != torch.tensor(reply)).nonzero()
    if not len(places):
        return None
    best = logits[int(places[0])].topk(2).values
    return float(best[0] - best[1])


def check(model: str, programs: dict[str, str], num_tokens: int, only: list[str]) -> list[dict[str, Any]]:
    """Rows of every program and folder. AssertionError where one is not as it has to be."""
    from qwq.model.weights import load_model
    from qwq.release.activations import task_windows
    from qwq.release.export import ExportOptions, export
    from qwq.release.model_source import open_source
    from qwq.release.quality import QualityOptions, mean_loss
    from qwq.release.read_back import read_back

    source, ours = open_source(model), load_model(model)
    chat = source.chat
    prompts = [chat.prompt_ids([{"role": "user", "content": text}]) for text in PROMPTS]
    windows = task_windows("math", "test", chat, num_tokens, WINDOW)
    before, rows = mean_loss(ours, windows), []
    for name, options in FOLDERS.items():
        readers = {program: python for program, python in programs.items() if name in READS[program]}
        if not readers or (only and name not in only):
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "model"
            export(model, folder, ExportOptions(**options, dtype="float32", quality=QualityOptions(skip=True)))
            after = before
            if name != "hf":
                after = mean_loss(
                    read_back(folder, options["format"], source.weights.config, options.get("bits", 4)), windows
                )
            for program, python in readers.items():
                said = asked(python, program, folder, prompts, windows)
                row = {
                    "name": f"{said['version']}, {name}: perplexity", "ours": math.exp(after),
                    "theirs": math.exp(said["loss"]), "ratio": math.exp(said["loss"] - after),
                    "quantising_costs": math.exp(after - before) - 1,
                }  # fmt: skip
                assert abs(row["ratio"] - 1) < MOST, row
                if name == "hf":
                    gaps = [parted(ours, p, r) for p, r in zip(prompts, said["replies"], strict=True)]
                    assert all(gap is None or gap < CLOSE for gap in gaps), (program, gaps)
                    row |= {"greedy_same": gaps.count(None), "greedy_parted": len(gaps) - gaps.count(None)}
                print(json.dumps(row), flush=True)
                rows.append(row)
    print(f"{sum(len(w) - 1 for w in windows)} tokens of math's test split, float32 perplexity {math.exp(before):.4f}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--program", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--tokens", type=int, default=4_000)
    parser.add_argument("--only", action="append", default=[], choices=FOLDERS, help="such a folder alone")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(inside(*json.loads(args.inside.read_text()))))
        return
    programs = dict(item.split("=", 1) for item in args.program)
    if not args.models or not programs or programs.keys() - READS.keys():
        parser.error(f"give a model and --program NAME=PYTHON, NAME one of {', '.join(READS)}")
    sys.path.insert(0, str(ROOT / "src"))
    rows = [row for model in args.models for row in check(model, programs, args.tokens, args.only)]
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
