"""Long contexts: memory by length up to 131,072 tokens, and needles in a haystack for a model whose
context was stretched.

    python benchmarks/long_context.py                              # ten minutes on two cores
    python benchmarks/long_context.py --model runs/tiny            # and needles for what `make demo` trained

Reading: a model of 2 layers and small width with QwQ's rope settings (head width 128, theta 1e6,
YaRN of factor 4 over 32,768) and random weights reads prompts of growing length in chunks of 512;
every length is a process of its own, whose peak of resident memory is taken. Needles: the context
of a trained model is stretched 4 times by YaRN; a line `key 37 value 5281` is put at some depth of
filler, and `key 37 value` is asked at the end, with YaRN and without. The score is the share of
needles whose first digit is the likeliest digit (chance is 10%). The last lines are JSON `{"name",
"ours", "theirs", "ratio"}`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from qwq.engine.backends.torch import TorchBackend
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.model.config import QWQ_YARN, ModelConfig, YarnScaling
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model
from qwq.pipeline.resolve import model_folder
from qwq.text.template import ChatFormat
from qwq.text.tokenizer import train_bpe

LENGTHS = (1024, 16384, 32768, 65536, 131071)
SHAPE = ModelConfig(
    "qwen2",
    512,
    256,
    512,
    2,
    2,
    1,
    128,
    rope_theta=1e6,
    max_positions=131072,
    tie_embeddings=True,
    rope_scaling=QWQ_YARN,
)


def read(length: int) -> None:
    """Child process: one prompt of `length` tokens and one token after it; prints seconds and peak
    bytes as JSON.
    """
    tokenizer = train_bpe(["a b c d e f g"] * 4, 280)
    model = Transformer(SHAPE).init_weights(torch.Generator().manual_seed(0))
    engine = Engine(TorchBackend(model, kv_tokens=131072), tokenizer, token_budget=512)
    ids = torch.randint(0, 512, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    started = time.perf_counter()
    ((sample,),) = engine.run([GenerationRequest(ids, SamplingParams(temperature=0, max_new_tokens=1), yarn=True)])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": time.perf_counter() - started, "peak": peak, "tokens": len(sample.ids)}))


def reading() -> list[dict]:
    found = {}
    for length in LENGTHS:
        out = subprocess.run(
            [sys.executable, __file__, "--read", str(length)], capture_output=True, text=True, check=True
        ).stdout
        found[length] = json.loads(out)
        base = found[LENGTHS[0]]["peak"]
        more = (found[length]["peak"] - base) / length
        print(
            f"{length:7d} tokens: {found[length]['seconds']:7.1f} s, {found[length]['peak'] / 2**20:7.0f} MiB at "
            f"the peak, {more:6.0f} bytes a token beyond {LENGTHS[0]}",
            flush=True,
        )
    per_token = {n: (found[n]["peak"] - found[LENGTHS[0]]["peak"]) / n for n in LENGTHS[1:]}
    a, b = per_token[LENGTHS[-1]], per_token[32768]
    return [
        {
            "name": "peak bytes a token, 131,071 tokens beside 32,768",
            "ours": round(a, 1),
            "theirs": round(b, 1),
            "ratio": round(a / b, 3),
        }
    ]


def needles(path: str, trials: int, seed: int) -> list[dict]:
    folder = model_folder(path)
    chat, trained = ChatFormat.from_folder(folder), load_model(folder)
    plain_length = trained.config.max_positions
    config = replace(trained.config, rope_scaling=YarnScaling(4.0, plain_length), max_positions=4 * plain_length)
    trained.config = config
    engine = Engine(TorchBackend(trained, kv_tokens=8 * plain_length), chat.tokenizer, max_running=4)
    digits = [chat.tokenizer.encode(str(d))[0] for d in range(10)]
    draw, rows = random.Random(seed), []
    for length in (plain_length // 4, plain_length, 2 * plain_length, 4 * plain_length - 32):
        for depth in (0.1, 0.5, 0.9):
            right = {True: 0, False: 0}
            for _ in range(trials):
                key, value = draw.randrange(10, 100), draw.randrange(1000, 10000)
                needle = chat.tokenizer.encode(f"key {key} value {value}\\n")
                question = chat.tokenizer.encode(f"key {key} value ")
                filler: list[int] = []
                while len(filler) < length:
                    a, b = draw.randrange(10, 100), draw.randrange(10, 100)
                    filler += chat.tokenizer.encode(f"There are {a} boxes and {b} more, which makes {a + b}.\\n")
                at = int(depth * (length - len(needle) - len(question)))
                ids = [*filler[:at], *needle, *filler[at : length - len(needle) - len(question)], *question]
                for yarn in (True, False):
                    ((s,),) = engine.run(
                        [
                            GenerationRequest(
                                ids, SamplingParams(temperature=0, max_new_tokens=1), yarn=yarn, logprobs=10_000
                            )
                        ]
                    )
                    logprob = dict(s.outputs[0].top)
                    right[yarn] += max(digits, key=lambda d: logprob[d]) == digits[value // 1000]
                engine.forget()
            print(
                f"{length:6d} tokens, depth {depth:.0%}: YaRN {right[True] / trials:5.0%}, plain "
                f"{right[False] / trials:5.0%} of {trials}",
                flush=True,
            )
            rows.append(
                {
                    "name": f"needle at {depth:.0%} of {length} tokens",
                    "ours": right[True] / trials,
                    "theirs": right[False] / trials,
                    "ratio": round(right[True] / max(right[False], 1), 2),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a trained model for the needles: a run's folder or a model folder")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-reading", action="store_true")
    parser.add_argument("--read", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    if args.read:
        return read(args.read)
    rows = [] if args.no_reading else reading()
    if args.model:
        if not Path(args.model).exists():
            sys.exit(f"no model at {args.model}: `make demo` trains runs/tiny")
        rows += needles(args.model, args.trials, args.seed)
    for row in rows:
        print(json.dumps(row))
    return None


if __name__ == "__main__":
    main()
