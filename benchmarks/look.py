"""`qwq look` on 100,000 rollouts (the first opening, later ones, filters), and `qwq watch` on
10,000 steps.

    python benchmarks/look.py                     # 100,000 rollouts of 256 tokens, in a temporary folder
    python benchmarks/look.py --rollouts 20000 --tokens 64

Each rollout is a line as an RL stage writes it, with token ids, log-probabilities and a text of its
own. A figure is the median of five, the file cache warm; before a first opening its index is
removed. `theirs` is the aim: 1 s to open, 0.2 s to filter, and 0.01 s for a look at the metrics, which
is 1% of one core at one look a second.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arguments import at_least

from qwq.look.index import AnswerIndex, open_index
from qwq.look.live import RunWatch
from qwq.look.query import Query, select

ROUNDS, GROUPS, SAMPLES = 5, 32, 8
OUTCOMES = ("correct", "wrong", "no_answer", "unfinished")
WORDS = [
    "so",
    "then",
    "we",
    "add",
    "the",
    "number",
    "therefore",
    "check",
    "again",
    "because",
    "it",
    "is",
    "equal",
    "to",
    "sum",
]
AIM_OPEN_S, AIM_FILTER_S, AIM_WATCH_S = 1.0, 0.2, 0.01
STEPS = 10_000


def write_run(folder: Path, rollouts: int, tokens: int) -> None:
    """A run's folder with `rollouts` rollouts in steps of 256."""
    draw = random.Random(1)
    (folder / "recipe.toml").write_text('name = "bench"\n[stages.rl1]\nkind = "rl1"\n')
    stage = folder / "rollouts" / "rl1"
    stage.mkdir(parents=True)
    columns = {
        "prompt_ids": list(range(1000, 1060)),
        "completion_ids": [draw.randrange(150_000) for _ in range(tokens)],
        "sampled_mask": [1] * tokens,
        "sampler_logprobs": [-draw.random() * 3 for _ in range(tokens)],
        "weight_versions": [7] * tokens,
    }
    tail = json.dumps(columns)[1:]
    for step in range(-(-rollouts // (GROUPS * SAMPLES))):
        lines = []
        for number in range(min(GROUPS * SAMPLES, rollouts - step * GROUPS * SAMPLES)):
            group = number // SAMPLES
            text = " ".join(draw.choices(WORDS, k=tokens)) + f" </think> \\boxed{{{draw.randrange(10**6)}}}"
            outcome = draw.choice(OUTCOMES)
            head = {
                "problem_id": f"p{step}-{group}", "domain": "math", "group": group,
                "prompt": f"What is {step} times {group}? " * 6, "expected": str(step * group), "text": text,
                "verdicts": [{"outcome": outcome, "reason": "numbers differ", "verifier": "math", "seconds": 0.001}],
                "rewards": {"accuracy": float(outcome == "correct")}, "reward": float(outcome == "correct"),
                "stop_reason": "end",
            }  # fmt: skip
            lines.append(json.dumps(head)[:-1] + ", " + tail)
        (stage / f"step-{step:05d}.jsonl").write_text("\n".join(lines) + "\n")


def timed(action: Callable[[], Any], rounds: int = ROUNDS) -> tuple[float, Any]:
    """Median seconds, and what the last call gave."""
    seconds, result = [], None
    for _ in range(rounds):
        start = time.perf_counter()
        result = action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def page(index: AnswerIndex, rows: Any) -> None:
    """What a list needs of its first page: 100 whole answers."""
    for row in rows[:100]:
        index.entry(int(row))


def watch_cost(folder: Path) -> float:
    """Seconds to read a new step of a run of `STEPS` steps and to make up its state."""
    metrics = folder / "metrics.jsonl"
    row = {"stage": "rl1", "seconds": 1.0, "tokens": 9000, "reward": 0.5, "loss": 0.1, "length": 300.0, "entropy": 0.4}
    metrics.write_text("".join(json.dumps(row | {"step": step}) + "\n" for step in range(STEPS)))
    run = RunWatch(folder)
    run.state()

    def one_more() -> None:
        with metrics.open("a") as file:
            file.write(json.dumps(row | {"step": STEPS}) + "\n")
        run.state()

    return timed(one_more, 50)[0]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rollouts", type=at_least(1), default=100_000)
    arguments.add_argument("--tokens", type=at_least(1), default=256)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder, options.rollouts, options.tokens)
        size = sum(p.stat().st_size for p in folder.rglob("*.jsonl"))
        print(f"{options.rollouts:,} rollouts, {size / 2**20:,.0f} MiB")
        saved = folder / ".look.index"
        firsts = []
        for _ in range(ROUNDS):
            saved.unlink(missing_ok=True)
            seconds, index = timed(lambda: open_index(folder), 1)
            firsts.append(seconds)
            assert len(index) == options.rollouts
            assert index.saving is not None
            index.saving.join()
        first, kept = statistics.median(firsts), saved.stat().st_size
        print("open, first, each: " + " ".join(f"{1000 * seconds:,.0f}" for seconds in firsts) + " ms")
        print(f"open, first   {1000 * first:8,.0f} ms; index of {kept / 2**20:,.0f} MiB")
        again, index = timed(lambda: open_index(folder))
        print(f"open, again   {1000 * again:8,.0f} ms")
        shown, _ = timed(lambda: page(index, select(index, Query())))
        print(f"first page    {1000 * shown:8,.0f} ms")
        figures = [
            ("look open 100k, first", first, AIM_OPEN_S),
            ("look open 100k", again + shown, AIM_OPEN_S),
        ]
        for label, query in (
            ("outcome", Query(outcome="wrong")),
            ("reward and step", Query(min_reward=0.5, step="100:200")),
            ("sorted", Query(outcome="correct", sort="tokens", reverse=True)),
            ("rare text", Query(text="boxed{1234")),
            ("common text", Query(text="THEREFORE")),
            ("no such text", Query(text="zebra")),
        ):
            seconds, rows = timed(lambda query=query: select(index, query))
            print(f"{label:13} {1000 * seconds:8,.0f} ms, {len(rows):,} answers")
            figures.append((f"look filter: {label}", seconds, AIM_FILTER_S))
        figures.append(("watch, a look at 10k steps", watch_cost(folder), AIM_WATCH_S))
        print(f"watch         {1000 * figures[-1][1]:8,.1f} ms a look")
        for label, seconds, aim in figures:
            ours, ratio = round(seconds, 4), round(aim / seconds, 2)
            print(json.dumps({"name": label, "ours": ours, "theirs": aim, "ratio": ratio, "unit": "s"}))


if __name__ == "__main__":
    main()
