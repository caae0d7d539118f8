"""`qwq bench engine`: how fast a model runs here, and how near that is to what the memory allows.

A decoded token reads all weights once (for one request), so bytes moved per second over the
machine's measured read bandwidth say how much of the possible is reached (the roofline of Williams
et al. 2009, in its memory-bound part).
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from qwq.engine.load import context_length, load_engine
from qwq.engine.options import EngineOptions
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.errors import ConfigError

BANDWIDTH_BYTES = 1 << 30


def read_bandwidth(device: str = "cpu", size: int = BANDWIDTH_BYTES) -> float:
    """Bytes per second of reading memory: the best of several passes over `size` bytes, by
    whichever of three kernels is the fastest here.
    """
    side = int((size / 4) ** 0.5)
    matrix, one, two = (torch.ones(side, n, device=device) for n in (side, 1, 2))
    best = 0.0
    for read in (matrix.sum, lambda: matrix @ one[:, 0], lambda: matrix @ two):
        for _ in range(4):
            started = time.perf_counter()
            read()
            if device != "cpu":
                torch.cuda.synchronize()
            best = max(best, 4 * side * side / (time.perf_counter() - started))
    return best


def measure(engine: Engine, prompt_tokens: int, new_tokens: int, requests: int, seed: int) -> dict[str, Any]:
    """Run `requests` random prompts at once, greedily and to full length."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(
        0, min(engine.backend.vocab_size, 1000), (requests, prompt_tokens), generator=generator
    ).tolist()
    params = SamplingParams(temperature=0, max_new_tokens=new_tokens)
    started = time.perf_counter()
    samples = [s for (s,) in engine.run([GenerationRequest(p, params) for p in prompts])]
    took = time.perf_counter() - started
    engine.forget()
    gaps = sorted(b - a for s in samples for a, b in zip(s.times[1:], s.times[2:], strict=False))
    first = sorted(s.first_token_s or 0.0 for s in samples)
    return {
        "requests": requests,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "tokens_per_s": round(requests * new_tokens / took, 2),
        "decode_tokens_per_s": round(
            requests
            * (new_tokens - 1)
            / max(max(s.times[-1] for s in samples) - min(s.times[1] for s in samples), 1e-9),
            2,
        ),
        "first_token_s": {
            "p50": round(statistics.median(first), 4),
            "p99": round(first[int(0.99 * (len(first) - 1))], 4),
        },
        "inter_token_s": {"p50": round(statistics.median(gaps), 5), "p99": round(gaps[int(0.99 * (len(gaps) - 1))], 5)},
    }


def check(model: str, prompt_tokens: int, new_tokens: int, requests: Sequence[int]) -> None:
    """ConfigError where there is nothing to measure, or more than the model reads."""
    for option, counts, least in (
        ("--requests", requests, 1),
        ("--prompt-tokens", [prompt_tokens], 1),
        ("--new-tokens", [new_tokens], 2),
    ):
        if any(c < least for c in counts):
            raise ConfigError(f"{option} {min(counts)}: give {least} or more")
    limit = context_length(model)
    if prompt_tokens + new_tokens > limit:
        raise ConfigError(
            f"--prompt-tokens {prompt_tokens} and --new-tokens {new_tokens} are {prompt_tokens + new_tokens} tokens, "
            f"this model reads {limit}: lower one of them"
        )


def bench_engine(
    model: str, options: EngineOptions, *, prompt_tokens: int, new_tokens: int, requests: tuple[int, ...], seed: int
) -> None:
    """Print one JSON line for each number of requests; for one alone with its share of the memory's
    rate.
    """
    check(model, prompt_tokens, new_tokens, requests)
    length = max(prompt_tokens + new_tokens, 32)
    most = max(requests)
    options = replace(
        options, max_num_seqs=most, kv_tokens=most * 2 * length + 4096, max_model_len=length,
        cache_repair=f"--requests (now {most}), --prompt-tokens (now {prompt_tokens})",
    )  # fmt: skip
    opened = load_engine(model, options)
    measure(opened.engine, 16, 4, 1, seed)  # warm up
    bandwidth = read_bandwidth(options.device)
    weights = opened.memory.parts["weights"]
    for count in requests:
        found = measure(opened.engine, prompt_tokens, new_tokens, count, seed)
        if count == 1:
            moved = found["decode_tokens_per_s"] * weights
            found |= {
                "read_gb_per_s": round(moved / 1e9, 2),
                "of_bandwidth": round(moved / bandwidth, 3),
                "bandwidth_gb_per_s": round(bandwidth / 1e9, 2),
            }
        print(json.dumps({"model": opened.name, **found}), flush=True)
