"""Long contexts: memory by length up to 131,072 tokens, and needles in a haystack for a model whose
context was stretched.

    python benchmarks/long_context.py                              # ten minutes on two cores
    python benchmarks/long_context.py --model DIR --context 256    # and needles in what a model reads

Reading: a model of 2 layers and small width with QwQ's rope settings (head width 128, theta 1e6,
YaRN of factor 4 over 32,768) and random weights reads prompts of growing length in chunks of 512;
every length is a process of its own, whose peak of resident memory is taken.Needles: a model that
was trained with documents of at most --context tokens is stretched 16 times by YaRN. It is asked
for one of eight keys, at three depths and from half of --context to 16 times as many tokens, with
YaRN and without. A needle is found where the boxed value is the key's; a model that takes any of
the keys is right once in eight. The last lines are JSON `{"name", "ours", "theirs", "ratio"}`.
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
from arguments import at_least

from qwq.engine.backends.torch import TorchBackend
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.model.config import QWQ_YARN, ModelConfig, YarnScaling
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model
from qwq.pipeline.resolve import model_folder
from qwq.tasks.procedural import needle
from qwq.text.template import ChatFormat
from qwq.text.tokenizer import train_bpe

FACTOR, DEPTHS, NUM_KEYS, NEW_TOKENS = 16, (0.1, 0.5, 0.9), 8, 48
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


def haystack(chat: ChatFormat, tokens: int, depth: float, draw: random.Random) -> tuple[list[int], str]:
    """A prompt of about `tokens` tokens whose asked key is at `depth` of its lines, and the value.

    Other keys are in it too, so that what is found is the asked one.
    """
    key, *others = draw.sample(needle.KEYS, NUM_KEYS)
    value = draw.choice(needle.VALUES)
    told = [needle.record(other, draw.choice(needle.VALUES)) for other in others]

    def prompt(lines: int) -> list[int]:
        text = needle.notes(told, lines - 1, draw)
        text.insert(round(depth * (lines - 1)), needle.record(key, value))
        return chat.prompt_ids([{"role": "user", "content": needle.question(text, [key])}])

    few, many = len(prompt(NUM_KEYS)), len(prompt(2 * NUM_KEYS))
    lines = NUM_KEYS + int((tokens - few) * NUM_KEYS / (many - few))
    return prompt(max(lines, NUM_KEYS)), str(value)


def needles(path: str, context: int, trials: int, seed: int) -> list[dict]:
    """Share of values told right, by length and depth, with YaRN and without."""
    folder = model_folder(path)
    chat, model = ChatFormat.from_folder(folder), load_model(folder)
    longest = FACTOR * context
    model.config = replace(
        model.config, rope_scaling=YarnScaling(FACTOR, context), max_positions=longest + NEW_TOKENS + 64
    )
    engine = Engine(TorchBackend(model, kv_tokens=8 * longest), chat.tokenizer, max_running=4)
    params = SamplingParams(temperature=0, max_new_tokens=NEW_TOKENS)
    draw, rows, length = random.Random(seed), [], context // 2
    while length <= longest:
        for depth in DEPTHS:
            right = {True: 0, False: 0}
            for _ in range(trials):
                ids, value = haystack(chat, length, depth, draw)
                for yarn in right:
                    ((sample,),) = engine.run([GenerationRequest(ids, params, yarn=yarn, eos_ids=chat.eos_ids)])
                    right[yarn] += f"\\boxed{{{value}}}" in sample.text
                engine.forget()
            stretched, plain = right[True] / trials, right[False] / trials
            print(
                f"{length:6d} tokens, depth {depth:.0%}: YaRN {stretched:5.0%}, plain {plain:5.0%} of {trials}",
                flush=True,
            )
            name = f"needle at {depth:.0%} of {length} tokens"
            rows.append(
                {
                    "name": name,
                    "ours": stretched,
                    "theirs": plain,
                    "ratio": round(stretched / max(plain, 1 / trials), 2),
                }
            )
        length *= 2
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a trained model for the needles: a run's folder or a model folder")
    parser.add_argument(
        "--context", type=at_least(1), default=256, help="tokens of the longest documents that it was trained on"
    )
    parser.add_argument("--trials", type=at_least(1), default=40)
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
            sys.exit(f"no model at {args.model}: name a run's folder or a model folder")
        rows += needles(args.model, args.context, args.trials, args.seed)
    for row in rows:
        print(json.dumps(row))
    return None


if __name__ == "__main__":
    main()
