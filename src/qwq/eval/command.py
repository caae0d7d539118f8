"""`qwq eval MODEL FAMILY...` or `KIND=PATH` without a results folder: one pass over all problems, scored at once.

    qwq eval runs/tiny math code --n 200
    qwq eval DIR gsm8k=../shared/data/gsm8k/test.jsonl mbpp=../shared/data/mbpp/mbpp.jsonl --n 50 --greedy

A benchmark is a family (math, code, instructions, tools, preference) or a real set with its data (`gsm8k=PATH`, `mbpp=PATH`,
`math=PATH` for rows in MATH's format; `--data FILE` does for one). Sampled by the trainer's model as a run's own evaluations are.
Progress goes to standard error; the figures are returned. Published benchmarks by name: `session.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwq.common.memory import free_memory, require
from qwq.config import Source
from qwq.engine.sampler import SamplingParams
from qwq.errors import ConfigError, nearest
from qwq.eval.runner import EVAL_SEED, BenchmarkResult, evaluate, write_transcripts
from qwq.model.folder import resolve_folder
from qwq.model.footprint import inference_memory
from qwq.model.layouts import Decode
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model
from qwq.tasks.procedural import family
from qwq.tasks.sets import HUB_SETS, load_source
from qwq.text.template import ChatFormat
from qwq.types import DOMAINS, Problem

REAL = ("gsm8k", "mbpp", "math")
DEFAULT_N = 500  # problems of a family, which are endless; a real set is taken whole
REPORT_S = 10.0


class _Meter:
    """Counts what the sampler decodes, and says so on standard error now and then."""

    def __init__(self, model: Transformer, label: str) -> None:
        self.label, self.tokens = label, 0
        self.started = self.last = self.said = time.perf_counter()
        self.handle = model.register_forward_hook(self._forward)

    def _forward(self, model: Any, args: tuple[Any, ...], output: Any) -> None:
        self.last = time.perf_counter()
        if isinstance(args[1], Decode):
            self.tokens += len(args[0])
        if self.last - self.said > REPORT_S:
            self.said = self.last
            print(
                f"{self.label}: {self.tokens:,} tokens, {self.tokens / self.seconds:.1f} tokens/s",
                file=sys.stderr,
                flush=True,
            )

    @property
    def seconds(self) -> float:
        """From the start to the last forward pass: sampling, without what grading took after it."""
        return max(self.last - self.started, 1e-9)


def benchmark_problems(name: str, n: int | None, data: str | Path | None = None) -> tuple[str, list[Problem]]:
    """Label and problems of one benchmark as the command line names it. ConfigError for an unknown one."""
    kind, equals, path = name.partition("=")
    if equals and kind not in REAL:
        raise ConfigError(f"benchmark {name!r}: only {', '.join(REAL)} are read from a path")
    if equals and not path:
        raise ConfigError(f"benchmark {name!r} has no path: write {kind}=PATH")
    if not equals and data is None and kind in DOMAINS:
        return kind, family(kind).fixed("test", n or DEFAULT_N)
    if kind not in (*DOMAINS, *REAL):
        raise ConfigError(f"no benchmark {kind!r}: {nearest(kind, {*DOMAINS, *REAL})}")
    source = Source.model_validate(
        {"kind": kind, "path": str(path or data or HUB_SETS[kind]), "split": "test", "limit": n}
    )
    return name if equals and kind in DOMAINS else kind, load_source(source)


def _chosen(benchmarks: Sequence[str], n: int | None, data: str | Path | None) -> dict[str, list[Problem]]:
    if not benchmarks:
        raise ConfigError(
            f"name at least one benchmark: {', '.join(DOMAINS)}, gsm8k, mbpp, or KIND=PATH for {', '.join(REAL)}"
        )
    if n is not None and n < 1:
        raise ConfigError(f"--n is {n}: give at least 1")
    takers = [b for b in benchmarks if b in ("gsm8k", "mbpp")] or [b for b in benchmarks if b == "math"]
    if data is not None and len(takers) != 1:
        raise ConfigError(
            f"--data {data} goes with one real benchmark, {len(takers)} are named: "
            f"write KIND=PATH for each, such as gsm8k={data}"
        )
    out: dict[str, list[Problem]] = {}
    for name in benchmarks:
        label, problems = benchmark_problems(name, n, data if name in takers else None)
        if label in out:
            raise ConfigError(f"benchmark {label} is named twice: name each once")
        out[label] = problems
    return out


def eval_command(
    model: str,
    benchmarks: Sequence[str],
    *,
    n: int | None = None,
    data: str | Path | None = None,
    greedy: bool = False,
    temperature: float = 1.0,
    seed: int = EVAL_SEED,
    max_new_tokens: int = 512,
    device: str = "cpu",
    max_rows: int = 32,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Scores of `model` (a model folder or hub id) by benchmark, each with its 95% interval, lengths and tokens/s.

    `n` problems of each (None: 500 of a family, the whole test split of a real set); `greedy` overrides
    `temperature`; `tokens_per_s` counts completion tokens over the time of sampling, prompts included. `out` gets the
    transcripts, one JSON line a problem. Raises ConfigError, DataError, ModelError, CapacityError.
    """
    params = SamplingParams(temperature=0.0 if greedy else temperature, max_new_tokens=max_new_tokens)
    problems = _chosen(benchmarks, n, data)
    folder = resolve_folder(model)
    chat = ChatFormat.from_folder(folder)
    transformer = load_model(folder, device=device)
    chat.tokenizer.check_fits(transformer.config)
    longest = max(len(chat.prompt_ids(p.messages, p.tools)) for group in problems.values() for p in group)
    rows = min(max_rows, max(map(len, problems.values())))
    require(
        inference_memory(transformer.config, rows, longest, max_new_tokens, device),
        free_memory(device),
        "the evaluation",
    )
    results: dict[str, BenchmarkResult] = {}
    figures: dict[str, Any] = {}
    for name, group in problems.items():
        meter = _Meter(transformer, name)
        print(
            f"{name}: {len(group)} problems, {'greedy' if params.temperature == 0 else f'T={params.temperature:g}'}",
            file=sys.stderr,
            flush=True,
        )
        results |= evaluate(transformer, chat, {name: group}, params, max_rows=max_rows, seed=seed)
        meter.handle.remove()
        summary = results[name].summary()
        tokens = sum(len(r.completion_ids) for r in results[name].rollouts)
        summary |= {"seconds": round(meter.seconds, 4), "tokens_per_s": round(tokens / meter.seconds, 2)}
        figures[name] = summary
        print(describe(name, summary), file=sys.stderr, flush=True)
    if out is not None:
        write_transcripts(Path(out), results, problems)
    return {
        "model": str(model),
        "temperature": params.temperature,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
        "evals": figures,
    }


def describe(name: str, figures: dict[str, Any]) -> str:
    """One benchmark in one line, for people."""
    low, high = figures["ci95"]
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in figures["outcomes"].items())
    score = f"{100 * figures['score']:.1f}% [{100 * low:.1f}, {100 * high:.1f}] of {figures['n']} ({outcomes})"
    lengths = f"{figures['mean_tokens']:.0f} tokens an answer, {figures['mean_thinking_tokens']:.0f} of them thinking"
    return f"{name}: {score}; {lengths}; {figures['tokens_per_s']:.1f} tokens/s"
