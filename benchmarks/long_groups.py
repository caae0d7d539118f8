"""One group of long completions through an RL update: peak memory and time as the length grows, and
the gradient beside that of the undivided group.

    python benchmarks/long_groups.py         # tiny model, 16 completions of up to 8,192 tokens
    python benchmarks/long_groups.py --lengths 256 512
    python benchmarks/long_groups.py --lengths 4096 --samples 2 --context 2   # on two processes

Each length runs in a process of its own, one micro-batch a completion. Up to `--whole` tokens the
undivided group runs as well (a dense mask), and the largest difference of any gradient is printed
beside the largest gradient. With `--context` each length also runs on so many processes that divide
every pass's tokens, one thread each: their peaks, and the largest difference of any gradient from
that of one process. The last lines are JSON `{"name", "ours", "theirs", "ratio"}`: peak
bytes a token of the longest beside those of the shortest, and the estimate of `qwq explain` beside
the measured peak.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from arguments import at_least

from qwq.cluster.divide import divide
from qwq.cluster.place import RankPlace, place_of
from qwq.cluster.world import RankWorld, join
from qwq.config import ClusterSection, ComputeSection, Optim
from qwq.model.config import preset
from qwq.model.footprint import (
    FLOAT,
    PROGRAM,
    allocator_bytes,
    exchanged_values,
    shared_copies,
    update_parts,
)
from qwq.model.transformer import Transformer
from qwq.pipeline.stages.rl1 import Rl1Stage
from qwq.train.groups import Group
from qwq.train.optim import Optimizer
from qwq.train.policy_update import PolicyUpdater
from qwq.train.reference import ReferenceModel
from qwq.types import Rollout, StopReason

PROMPT = 128
EXACT = 8  # bytes of a float64 sum of gradients, of several processes
GIB = 2**30


def group(length: int, samples: int, vocab_size: int) -> Group:
    """`samples` random completions of one prompt; half of them are better than the mean."""
    generator = torch.Generator().manual_seed(length)

    def tokens(n: int) -> list[int]:
        return torch.randint(vocab_size, (n,), generator=generator).tolist()

    prompt = tokens(PROMPT)
    rollouts = [
        Rollout(
            problem_id="p", domain="math", group=0, prompt_ids=prompt, completion_ids=tokens(length),
            sampled_mask=[1] * length, sampler_logprobs=[0.0] * length, weight_versions=[0] * length,
            stop_reason=StopReason.END,
        )
        for _ in range(samples)
    ]  # fmt: skip
    return Group(rollouts, [1.0 if i % 2 else -1.0 for i in range(samples)])


def gradients(
    model: Transformer, length: int, samples: int, micro_batch_tokens: int, world: RankWorld
) -> list[torch.Tensor]:
    config = Rl1Stage(
        kind="rl1", steps=1, prompts=1, samples=samples, max_new_tokens=length, optim=Optim(lr=1e-6),
        mix={"math": 1.0},  # type: ignore[arg-type]
    )  # fmt: skip
    compute = ComputeSection(micro_batch_tokens=micro_batch_tokens)
    optimizer = Optimizer(model, config.optim, 1, division=divide(model, world, tokens=True))
    updater = PolicyUpdater(model, config, compute, optimizer, ReferenceModel(model))
    updater._hold = lambda *_: None  # type: ignore[method-assign]  # the log-probabilities are made up
    kept: list[torch.Tensor] = []

    def keep(_step: int) -> dict[str, float]:
        kept.extend(p.grad.clone() for p in model.parameters() if p.grad is not None)
        model.zero_grad()
        return {}

    updater.optimizer.step = keep  # type: ignore[method-assign, assignment]
    updater.update(0, [group(length, samples, model.config.vocab_size)])
    return kept


def alone(length: int, samples: int, world: RankWorld, *, whole: bool) -> dict[str, float]:
    """Peak, time and estimate of one length, in this process."""
    torch.set_num_threads(max(1, 2 // world.size))
    config = preset("tiny")
    model = Transformer(config).init_weights(torch.Generator().manual_seed(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    parts = gradients(model, length, samples, 1, world)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    held = 2 * FLOAT * config.num_parameters  # weights, and the gradients kept for comparison
    held += EXACT * config.num_parameters if world.size > 1 else 0
    tokens = math.ceil((PROMPT + length) / world.size)
    copies = math.ceil(shared_copies(config, 1, length, 1, PROMPT) / world.size)
    copies += exchanged_values(config, tokens, world.size)
    estimated = update_parts(config, tokens, laid_out=copies)
    estimate = PROGRAM + held + sum(estimated.values()) + allocator_bytes(config, tokens)
    result = {"length": length, "seconds": seconds, "peak": peak, "before": before, "estimate": estimate}
    if whole or world.size > 1:
        undivided = gradients(model, length, samples, samples * length if whole else 1, RankWorld())
        result["difference"] = max(float((a - b).abs().max()) for a, b in zip(parts, undivided, strict=True))
        result["largest"] = max(float(b.abs().max()) for b in undivided)
    return result


def one_of(place: RankPlace, length: int, samples: int) -> dict[str, float]:
    """The same in one of several processes that divide the tokens."""
    config = ClusterSection(processes=place.size, context=place.size, reduction="fixed")
    with join(config, place) as world:
        return alone(length, samples, world, whole=False)


def on_processes(size: int, length: int, samples: int) -> None:
    """Run and print one length on so many processes."""
    with tempfile.TemporaryDirectory(prefix="long-groups-") as folder:
        meet = str(Path(folder) / "meet")
        command = [sys.executable, __file__, "--alone", str(length), "--samples", str(samples)]
        places = [RankPlace(rank, size, rank, size, meet) for rank in range(size)]
        started = [
            subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True,
                env={"GLOO_SOCKET_IFNAME": "lo"} | os.environ | place.variables(),
            )
            for place in places
        ]  # fmt: skip
        printed = [process.communicate()[0] for process in started]
    found = [json.loads(text.splitlines()[-1]) for text in printed]
    peaks = ", ".join(f"{r['peak'] / GIB:.2f}" for r in found)
    r = found[0]
    print(
        f"{samples} x {length:>6,} on {size} processes: {r['seconds']:7.1f} s   peaks {peaks} GiB   estimate "
        f"{r['estimate'] / GIB:5.2f}   gradient within {r['difference']:.1e} of one process's (largest "
        f"{r['largest']:.1e})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=at_least(1), default=[256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--whole", type=at_least(0), default=1024, help="undivided up to this length")
    parser.add_argument("--samples", type=at_least(2), default=16, help="completions of the group")
    parser.add_argument("--context", type=at_least(2), help="also on so many processes, which divide the tokens")
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        place = place_of()
        whole = args.alone <= args.whole
        found = (
            one_of(place, args.alone, args.samples)
            if place
            else alone(args.alone, args.samples, RankWorld(), whole=whole)
        )
        print(json.dumps(found))
        return
    results = []
    for length in args.lengths:
        command = [sys.executable, __file__, "--alone", str(length), "--whole", str(args.whole)]
        command += ["--samples", str(args.samples)]
        made = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if made.returncode:
            sys.exit(f"error: {length} tokens: its process ended with status {made.returncode}")
        r = json.loads(made.stdout.splitlines()[-1])
        results.append(r)
        compared = (
            f"   gradient within {r['difference']:.1e} of the undivided one (largest {r['largest']:.1e})"
            if "difference" in r
            else ""
        )
        print(
            f"{args.samples} x {length:>6,}: {r['seconds']:7.1f} s   peak {r['peak'] / GIB:5.2f} GiB   estimate "
            f"{r['estimate'] / GIB:5.2f}{compared}",
            flush=True,
        )
        if args.context:
            on_processes(args.context, length, args.samples)
    first, last = results[0], results[-1]
    per_token = [(r["peak"] - r["before"]) / r["length"] for r in (first, last)]
    for name, ours, theirs in (
        ("peak bytes a token of the longest completion, longest beside shortest", per_token[1], per_token[0]),
        ("measured peak beside the estimate, longest", last["peak"], last["estimate"]),
    ):
        print(json.dumps({"name": name, "ours": ours, "theirs": theirs, "ratio": theirs / ours}))


if __name__ == "__main__":
    main()
