"""What a fleet of rollout engines costs: new weights on an engine, and tokens a second through the
fleet beside an engine that is asked directly.

    python benchmarks/fleet.py --model DIR                      # SmolLM2-135M: some minutes
    python benchmarks/fleet.py --model DIR --groups 4 --new 32  # shorter

Sync: from the trainer's tensors to an engine that has passed its probe: save, pause, load, name,
resume, probe; in bfloat16 (269 MB) and in float32, the best of `--rounds`. Throughput: `--groups`
prompts x `--samples` samples of `--new` tokens; one `qwq serve --rollout-engine` with one thread
asked directly, then two of them through the fleet with leases. Theirs is the direct engine, ours
the fleet's tokens a second for each of its engines. The last lines are JSON `{"name", "ours",
"theirs", "ratio"}`; of the sync, theirs is the bar of 2 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from arguments import at_least, model_folder

from qwq.engine.sampler import SamplingParams
from qwq.model.weights import load_model, save_model
from qwq.rollout.accepted import AcceptedGroups
from qwq.rollout.collect import collect
from qwq.rollout.fleet import Fleet, GroupTask
from qwq.rollout.fleet_engine import open_engines
from qwq.rollout.leases import GroupKey
from qwq.rollout.policies.remote import RemotePolicy
from qwq.rollout.roster import FleetSettings, Weights
from qwq.text.template import ChatFormat
from qwq.train.fleet_sampler import PROBE_TEXT
from qwq.train.packing import batch_logprobs, pack_groups
from qwq.types import Message, Problem

PROMPTS = [json.loads(line)["prompt"] for line in (Path(__file__).parent / "rl_prompts.jsonl").read_text().splitlines()]
QWQ = str(Path(sys.executable).with_name("qwq"))


def serve(model: Path, dtype: str, held: ExitStack) -> str:
    """The URL of an engine of one thread, which ends with `held`."""
    process = subprocess.Popen(
        [QWQ, "serve", str(model), "--port", "0", "--threads", "1", "--rollout-engine", "--no-page", "--dtype", dtype],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    held.callback(process.kill)
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(r"ready on (http://[\d.:]+)/v1", line):
            return match[1]
    raise SystemExit("the engine did not start")


class Bench:
    """One model, its engines, and a fleet on them."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.chat = ChatFormat.from_folder(args.model)
        self.params = SamplingParams(max_new_tokens=args.new)
        self.prompt = self.chat.prompt_ids([Message("user", PROBE_TEXT)])[:96]

    def fleet(self, urls: list[str]) -> Fleet:
        place = self.folder / f"fleet{time.monotonic_ns()}"
        settings = FleetSettings(place / "weights", place, concurrency=4 * self.args.samples, probe_limit=0.5)
        return Fleet(open_engines(urls, "qwq", concurrency=64), self.chat, self.params, settings, prompt=self.prompt)

    def weights(self, model: torch.nn.Module, version: int) -> Weights:
        @torch.no_grad()
        def score(prompt, ids):
            batch = pack_groups([prompt], [[ids]], [[[1] * len(ids)]], {}, model.device)
            return batch_logprobs(model, batch, 1.0)[0].tolist()

        return Weights(version, lambda folder: save_model(model, folder, durable=False), score)

    def sync_s(self, dtype: torch.dtype) -> tuple[float, float]:
        """Seconds from tensors to an engine that is ready, and the size in MB."""
        model = load_model(self.args.model, dtype=dtype)
        best = float("inf")
        with ExitStack() as held:
            fleet = self.fleet([serve(self.args.model, str(dtype).removeprefix("torch."), held)])
            for version in range(self.args.rounds + 1):
                began = time.perf_counter()
                fleet.publish(self.weights(model, version))
                log = AcceptedGroups(fleet.settings.log_folder, version)
                key = GroupKey("bench", version, 0, 1, 0)
                ready: list[float] = []
                probed = fleet.roster.probed
                fleet.roster.probed = lambda s, probed=probed, ready=ready: (
                    probed(s),
                    ready.append(time.perf_counter()),
                )
                fleet.sample([GroupTask(key, self.problems(1)[0])], log, lambda _: None)
                fleet.roster.probed = probed
                log.close()
                seconds = ready[0] - began
                print(f"sync {dtype}: {seconds:.2f} s (engine {fleet.figures()['sync_s']:.2f} s)", flush=True)
                best = min(best, seconds) if version else best  # the first one also opens connections
            fleet.close()
        return best, sum(t.nbytes for t in model.parameters()) / 1e6

    def problems(self, count: int) -> list[Problem]:
        return [
            Problem(f"bench/{i}", "math", (Message("user", PROMPTS[i % len(PROMPTS)]),), {}, f"{i}")
            for i in range(count)
        ]

    def direct(self, url: str) -> float:
        """Tokens a second of one engine without a fleet."""
        (engine,) = open_engines([url], "qwq", concurrency=64)
        engine.client.say_version("direct", 60)
        count = self.args.groups
        policy = RemotePolicy(
            engine.client, self.chat, name="direct", version=0, number_of=lambda _: 0,
            deadline=time.monotonic() + 3600, concurrency=4 * self.args.samples,
        )  # fmt: skip
        began = time.perf_counter()
        rollouts, _ = collect(policy, self.problems(count), self.params, samples=self.args.samples)
        seconds = time.perf_counter() - began
        engine.client.close()
        return sum(r.num_sampled for r in rollouts) / seconds

    def through(self, urls: list[str], model: torch.nn.Module) -> float:
        """Tokens a second through the fleet, once its engines are ready."""
        fleet, count = self.fleet(urls), self.args.groups * len(urls)
        fleet.publish(self.weights(model, 0))
        log = AcceptedGroups(fleet.settings.log_folder, 0)
        warm = [GroupTask(GroupKey("bench", 0, 10_000 + i, 1, 0), p) for i, p in enumerate(self.problems(1))]
        while len(fleet.roster.ready) < len(urls):
            fleet.sample(warm, log, lambda _: None)
            warm = [GroupTask(GroupKey("bench", 0, warm[0].key.group + 1, 1, 0), warm[0].problem)]
        keys = [GroupKey("bench", 0, i, self.args.samples, 0) for i in range(count)]
        tasks = [GroupTask(k, p) for k, p in zip(keys, self.problems(count), strict=True)]
        began = time.perf_counter()
        groups = fleet.sample(tasks, log, lambda _: None)
        seconds = time.perf_counter() - began
        log.close()
        fleet.close()
        return sum(r.num_sampled for g in groups for r in g.rollouts) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=model_folder, required=True)
    parser.add_argument("--groups", type=at_least(1), default=8, help="prompts for each engine")
    parser.add_argument("--samples", type=at_least(1), default=4)
    parser.add_argument("--new", type=at_least(1), default=64)
    parser.add_argument("--rounds", type=at_least(1), default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        bench, lines = Bench(args, Path(place)), []
        for dtype in (torch.bfloat16, torch.float32):
            seconds, size = bench.sync_s(dtype)
            name = f"weight sync, {size:.0f} MB {str(dtype).removeprefix('torch.')}, seconds"
            lines.append({"name": name, "ours": round(seconds, 2), "theirs": 2.0, "ratio": round(2.0 / seconds, 2)})
        with ExitStack() as held:
            urls = [serve(args.model, "float32", held) for _ in range(2)]
            bench.direct(urls[0])  # warm
            direct = bench.direct(urls[0])
            fleet = bench.through(urls, load_model(args.model)) / 2
            print(f"one engine {direct:.1f} tokens/s, two through the fleet {2 * fleet:.1f}", flush=True)
            name = f"rollouts of {args.samples} x {args.new} tokens, tokens/s an engine: fleet of two, one alone"
            lines.append(
                {"name": name, "ours": round(fleet, 1), "theirs": round(direct, 1), "ratio": round(fleet / direct, 3)}
            )
        for line in lines:
            print(json.dumps(line))


if __name__ == "__main__":
    main()
