"""The memory that `qwq explain` plans beside the peak that training reaches, shape by shape.

    python benchmarks/plan_memory.py                   # fourteen shapes, minutes
    python benchmarks/plan_memory.py --shapes rl-tiny  # those with this in their name
    python benchmarks/plan_memory.py --steps 1 --json    # the lines of JSON alone

Each shape is a stage of a recipe: pretraining, SFT with all weights or adapters, or one RL update
(groups x samples x new tokens), of the tiny model and of SmolLM2-135M's shape with random weights.
Its plan is the stage's own (`Stage.memory`, what `qwq explain` and the check before a stage read).
Its peak is that of a process of its own in which the trainer's own step runs `--steps` times on
tokens of the planned lengths: the kernel's high-water mark of resident memory. `over` is the ratio
of the two without the process as it is behind a first step of four tokens. The last lines are JSON
`{"name", "ours", "theirs", "ratio"}`: planned bytes, measured bytes, planned / measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from arguments import at_least

from qwq.common.memory import GIB
from qwq.config import Optim, Recipe, RlConfig
from qwq.data.examples import FileUse
from qwq.model import lora
from qwq.model.config import ModelConfig, preset
from qwq.model.transformer import Transformer
from qwq.pipeline.plan.counts import PlanContext
from qwq.pipeline.plan.lengths import document_lengths
from qwq.pipeline.plan.shape import model_config
from qwq.pipeline.stage import Stage, stage_of
from qwq.train.groups import Group
from qwq.train.optim import Optimizer
from qwq.train.policy_update import PolicyUpdater
from qwq.train.reference import ReferenceModel
from qwq.train.supervised import supervised_step
from qwq.types import Rollout, StopReason

TINY, SMOL = "tiny", "smollm2-135m"
Step = Callable[[int], Any]


def _rl(model: str, prompts: int, samples: int, new: int, micro: int, *, recompute: bool = False, **keys: Any) -> dict:
    stage = {"kind": "rl1", "steps": 9, "prompts": prompts, "samples": samples, "max_new_tokens": new}
    compute = {"micro_batch_tokens": micro, "recompute": recompute}
    return {"model": model, "compute": compute, "stage": stage | {"mix": {"math": 1.0}} | keys}


def _supervised(model: str, kind: str, tokens: int, *, recompute: bool = False, **keys: Any) -> dict:
    stage: dict[str, Any] = {"kind": kind, "batch_tokens": tokens}
    stage |= {"tokens": 10**6, "mix": {"math": 1.0}} if kind == "pretrain" else {"path": "documents.jsonl"}
    return {"model": model, "compute": {"recompute": recompute}, "stage": stage | keys}


SHAPES: dict[str, dict[str, Any]] = {
    "pretrain-tiny-1024": _supervised(TINY, "pretrain", 1024),
    "pretrain-tiny-16384": _supervised(TINY, "pretrain", 16384),
    "pretrain-smol-2048": _supervised(SMOL, "pretrain", 2048),
    "sft-tiny-4x4096": _supervised(TINY, "sft", 12286) | {"document": 4096},
    "sft-smol-4x1024": _supervised(SMOL, "sft", 3070) | {"document": 1024},
    "sft-smol-lora-2x2048": _supervised(SMOL, "sft", 2048, lora={"rank": 8}) | {"document": 2048},
    "sft-smol-recompute-2x4096": _supervised(SMOL, "sft", 4096, recompute=True) | {"document": 4096},
    "rl-tiny-16x16x64": _rl(TINY, 16, 16, 64, 8192),
    "rl-tiny-1x16x2048": _rl(TINY, 1, 16, 2048, 2048),
    "rl-tiny-1x16x8192": _rl(TINY, 1, 16, 8192, 8192),
    "rl-smol-4x8x64": _rl(SMOL, 4, 8, 64, 512),
    "rl-smol-1x4x1024": _rl(SMOL, 1, 4, 1024, 2048),
    "rl-smol-recompute-1x4x2048": _rl(SMOL, 1, 4, 2048, 4096, recompute=True),
    "rl-smol-kl-2x4x256": _rl(SMOL, 2, 4, 256, 1024, kl=0.01),
}


def _status(key: str) -> int:
    """A field of /proc/self/status in bytes: VmRSS is resident now, VmHWM its high-water mark."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(key))
    return int(line.split()[1]) * 1024


def _tokens(n: int, config: ModelConfig, generator: torch.Generator) -> list[int]:
    return torch.randint(config.vocab_size, (n,), generator=generator).tolist()


def _documents(stage: Any, context: PlanContext, document: int | None) -> list[tuple[list[int], list[float]]]:
    """The largest batch that the stage can draw: full but for one token, and a longest document."""
    generator = torch.Generator().manual_seed(1)
    if document is None:
        lengths = document_lengths(stage.mix.weights(), context.config.vocab_size)
        cycle = [round(2 * lengths.mean) - lengths.longest, lengths.longest]  # of the planned mean
    else:
        cycle = [document]
    documents: list[tuple[list[int], list[float]]] = []
    total = 0
    while total < stage.batch_tokens - 1:
        length = min(cycle[len(documents) % len(cycle)], stage.batch_tokens - total)
        documents.append((_tokens(length, context.config, generator), [1.0] * length))
        total += length - 1
    documents.append((_tokens(cycle[-1], context.config, generator), [1.0] * cycle[-1]))
    return documents


def _groups(stage: RlConfig, prompt: int, config: ModelConfig) -> list[Group]:
    """A step of full-length completions; half of each group are better than its mean."""
    generator = torch.Generator().manual_seed(1)
    groups = []
    for number in range(stage.prompts):
        ids, n = _tokens(prompt, config, generator), stage.max_new_tokens
        rollouts = [
            Rollout(
                problem_id=f"p{number}", domain="math", group=number, prompt_ids=ids,
                completion_ids=_tokens(n, config, generator), sampled_mask=[1] * n,
                sampler_logprobs=torch.zeros(n).tolist(), weight_versions=[0] * n, stop_reason=StopReason.END,
            )
            for _ in range(stage.samples)
        ]  # fmt: skip
        groups.append(Group(rollouts, [1.0 if i % 2 else -1.0 for i in range(stage.samples)]))
    return groups


def _step_of(recipe: Recipe, stage: Stage, context: PlanContext, model: Transformer, document: int | None) -> Step:
    optimizer = Optimizer(model, stage.optim, 9)
    if not isinstance(stage, RlConfig):
        documents = _documents(stage, context, document)
        return lambda index: supervised_step(model, optimizer, documents, index)
    reference = ReferenceModel(model)
    if stage.kl > 0:
        reference.keep()
    updater = PolicyUpdater(model, stage, recipe.compute, optimizer, reference)
    updater._hold = lambda *_: None  # type: ignore[method-assign]  # the sampler's log-probabilities are made up
    groups = _groups(stage, stage.prompt_lengths(context).longest, context.config)  # type: ignore[attr-defined]
    return lambda index: updater.update(index, groups)


def _warm_up() -> None:
    """One small step: what torch loads and imports with the first is the program's."""
    model = Transformer(preset(TINY)).init_weights(torch.Generator().manual_seed(0))
    supervised_step(model, Optimizer(model, Optim(), 1), [([1, 2, 3, 4], [1.0] * 4)], 0)


def alone(name: str, steps: int, threads: int) -> dict[str, Any]:
    """Plan and measured peak of one shape, in this process."""
    shape = SHAPES[name]
    torch.set_num_threads(threads)
    fresh = shape["stage"]["kind"] == "pretrain"
    source = {"preset": shape["model"]} if fresh else {"path": "random/weights", "shape": shape["model"]}
    recipe = Recipe.model_validate(
        {"name": "x", "model": source, "compute": shape["compute"], "stages": {"own": shape["stage"]}}
    )
    stage, document = stage_of(recipe, "own"), shape.get("document")
    use = FileUse("documents.jsonl", rows=9, used=9, lengths=[document] * 9) if document else None
    context = PlanContext(recipe, "own", model_config(recipe), use)
    plan = stage.memory(context)
    _warm_up()
    before = _status("VmRSS")
    model = Transformer(context.config).init_weights(torch.Generator().manual_seed(0))
    model.recompute = recipe.compute.recompute
    if adapters := stage.adapters(recipe):
        lora.add(model, rank=adapters.rank, alpha=adapters.alpha)
    step = _step_of(recipe, stage, context, model, document)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    started = time.perf_counter()
    for index in range(steps):
        step(index)
    seconds = (time.perf_counter() - started) / steps
    program = plan.parts.get("program", 0)
    return {
        "plan": plan.total, "peak": _status("VmHWM"), "before": before, "program": program, "seconds": seconds,
        "parts": plan.parts,
    }  # fmt: skip


def _measure(name: str, steps: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--alone", name, "--steps", str(steps), "--threads", str(threads)]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(made.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=[""], help="parts of names")
    parser.add_argument(
        "--steps", type=at_least(1), default=2, help="of each shape; AdamW's moments come with the first"
    )
    parser.add_argument("--threads", type=at_least(1), default=2)
    parser.add_argument("--parts", action="store_true", help="print the parts of each plan")
    parser.add_argument("--json", action="store_true", help="print the lines of JSON alone")
    parser.add_argument("--alone", choices=SHAPES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(alone(args.alone, args.steps, args.threads)))
        return
    lines = []
    for part in args.shapes:
        if not any(part in name for name in SHAPES):
            parser.error(f"--shapes {part}: it is in none of {', '.join(SHAPES)}")
    for name in [n for n in SHAPES if any(part in n for part in args.shapes)]:
        r = _measure(name, args.steps, args.threads)
        over = (r["plan"] - r["program"]) / (r["peak"] - r["before"])
        lines.append({"name": name, "ours": r["plan"], "theirs": r["peak"], "ratio": r["plan"] / r["peak"]})
        if not args.json:
            print(
                f"{name:28} plan {r['plan'] / GIB:5.2f} GiB   measured {r['peak'] / GIB:5.2f}   ratio "
                f"{r['plan'] / r['peak']:.2f}   over {over:.2f}   {r['seconds']:6.1f} s a step",
                flush=True,
            )
        if args.parts:
            print("   ", ", ".join(f"{k} {v / 2**20:,.0f}" for k, v in r["parts"].items()), "MiB", flush=True)
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
