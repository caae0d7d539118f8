"""A finished run's folder as the runner writes it, with figures drawn by a fixed generator."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from qwq.common.stats import paired_difference, wilson

HOSTILE = '</pre><script>alert("x")</script><img src=http://example.invalid/x onerror=y>\x1b[31m\u202eabc'
SHARES = {  # of problems solved by stage
    "pretrain": {"math": 0.05, "code": 0.12, "preference": 0.1},
    "sft": {"math": 0.3, "code": 0.4, "preference": 0.2},
    "rl1": {"math": 0.6, "code": 0.7, "preference": 0.2},
    "control": {"math": 0.32, "code": 0.4, "preference": 0.2},
    "rl2": {"math": 0.58, "code": 0.7, "preference": 0.6},
}
STAGES = {
    "pretrain": "pretrain",
    "sft": "sft",
    "rl1": "rl1",
    "control": "control",
    "reward_model": "reward_model",
    "rl2": "rl2",
}
STARTS = {"sft": "pretrain", "rl1": "sft", "control": "sft", "rl2": "rl1"}
NUM = 60


def make_run(folder: Path, *, until: str = "rl2", steps: int = 12, hostile: str = HOSTILE) -> Path:
    """A run folder as the runner writes it, with figures drawn by a fixed generator."""
    folder.mkdir(parents=True)
    lines = ['name = "fake"', "seed = 3", "[model]", 'preset = "tiny"', "[compute]", 'device = "cpu"']
    for name, kind in STAGES.items():
        lines += [f"[stages.{name}]", f'kind = "{kind}"']
    lines += ["[stages.rl2.contract]", "max_drop = 0.03"]
    (folder / "recipe.toml").write_text("\n".join(lines) + "\n")
    (folder / "stages").mkdir()
    done = list(STAGES)[: list(STAGES).index(until) + 1]
    with (folder / "metrics.jsonl").open("w") as f:
        for name in done:
            for step in range(steps):
                f.write(json.dumps(metric_row(name, step, steps, hostile)) + "\n")
    for name in done:
        record = {
            "name": name,
            "kind": STAGES[name],
            "train_s": 40.0,
            "wall_s": 50.0,
            "steps": steps,
            "evals": {},
            "evals_greedy": {},
        }
        if name == "reward_model":
            record["evals"] = {
                "pair_accuracy": {
                    "score": 0.9,
                    "ci95": [0.87, 0.92],
                    "n": 500,
                    "mean_tokens": 20.0,
                    "mean_thinking_tokens": 0.0,
                    "matched_length": {"score": 0.8, "ci95": [0.7, 0.87], "n": 100},
                }
            }
        else:
            record |= evaluations(folder, name, hostile)
        if name == "rl2":
            record["contract"] = [contract_entry(4, 0.01, "ok"), contract_entry(9, -0.06, "breach")]
        (folder / "stages" / f"{name}.json").write_text(json.dumps(record))
    return folder


def metric_row(name: str, step: int, steps: int, hostile: str) -> dict:
    rng, t = random.Random(f"{name}{step}"), step / steps
    row = {"stage": name, "step": step, "seconds": 1.25, "tokens": 1000, "grad_norm": 1.0}
    if not name.startswith("rl"):
        row["loss"] = 3.0 * math.exp(-4 * t) + 0.4 + rng.gauss(0, 0.05)
        return row | ({"pair_accuracy": 0.5 + 0.4 * t} if name == "reward_model" else {})
    reward = min(0.95, 0.3 + 0.5 * t + rng.gauss(0, 0.04))
    row |= {
        "reward": reward,
        "reward_by_domain": {"math": reward, "code": min(1.0, reward + 0.1)},
        "pass_rate": reward,
        "length": 30 + 8 * t,
    }
    row |= {
        "entropy": 0.8 - 0.4 * t,
        "zero_signal": 0.3,
        "kl": 1e-3 * t,
        "mismatch_max": 3e-6,
        "outcomes": {"correct": 6, "wrong": 2},
    }
    if step == 5:
        row["alarms"] = [f"3.1% of verdicts are timeout {hostile}"]
    return row


def contract_entry(step: int, change: float, state: str) -> dict:
    finding = {"domain": "math", "change": change, "ci95": [change - 0.02, change + 0.02], "state": state}
    entry = {"step": step, "validation": {"math": 0.6, "preference": 0.4}, "findings": [finding], "reward_model": 0.7}
    entry["canaries"] = {"praise": 0.5, "repetition": 0.0}
    return entry | ({"action": "mix now math 0.40"} if state == "breach" else {})


def evaluations(folder: Path, name: str, hostile: str) -> dict:
    out: dict = {"evals": {}, "evals_greedy": {}}
    path = folder / "evals" / name
    path.mkdir(parents=True)
    passed = {b: [float(i < round(share * NUM)) for i in range(NUM)] for b, share in SHARES[name].items()}
    if name == "rl2":
        passed["math"][0] = 0.0  # solved by every stage before
    with (path / "sampled.jsonl").open("w") as f:
        for b, values in passed.items():
            for i, value in enumerate(values):
                verdict = {
                    "outcome": "correct" if value else "wrong",
                    "reason": f"numbers {i} {hostile}",
                    "verifier": b,
                    "seconds": 0.0,
                }
                row = {
                    "benchmark": b,
                    "problem_id": f"{b}/{i}",
                    "canonical": f"{b}/{i}",
                    "level": 1,
                    "prompt": f"{b} problem {i} {hostile}",
                }
                row |= {
                    "text": f"{name} thinks {hostile}\n</think>\n\\boxed{{{i}}}",
                    "verdict": verdict,
                    "stop_reason": "end",
                    "tokens": 20 + i,
                }
                f.write(json.dumps(row) + "\n")
    (path / "sampled.passed.json").write_text(json.dumps(passed))
    for b, values in passed.items():
        n = int(sum(values))
        e = {"score": n / NUM, "ci95": wilson(n, NUM), "n": NUM, "mean_tokens": 30.0, "mean_thinking_tokens": 10.0}
        e["outcomes"] = {"correct": n, "wrong": NUM - n}
        if name in STARTS:
            before = json.loads((folder / "evals" / STARTS[name] / "sampled.passed.json").read_text())[b]
            mean, low, high = paired_difference(before, values)
            e |= {"change": mean, "change_ci95": [low, high], "against": STARTS[name]}
        out["evals"][b] = e
        out["evals_greedy"][b] = dict(e)
    return out
