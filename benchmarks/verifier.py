"""The math verifier beside Math-Verify: speed, tails, accuracy and memory, both sides in one run.

    python benchmarks/verifier.py                    # all sets, three rounds, about ten minutes
    python benchmarks/verifier.py --limit 40 --rounds 1    # a quick look, under a minute

Needs the labelled cases and problem sets beside the project (`--data`, default ../shared/data).
Sets:

- short: model-like responses around GSM8K and MATH gold answers, half of them with another
  problem's answer;
- mixed: the labelled cases (without the contested lines).

Each round grades every set with each side in a new process, so caches are cold, one pair after
another in one thread. Imports and the first pair are not counted. Math-Verify runs in the main
thread with its own limits, as its signal.alarm needs; a pair that outlives 20 s is stopped by
ending its process, and counts as undecided. Ours uses a worker process for symbolic pairs, and
waits for it, so both keep one core busy.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from arguments import at_least

PATIENCE_S = 20.0
OWN_TESTS = "math-verify/"  # cases that Math-Verify was developed on
OPENERS = ("Adding up, we get", "So the total is", "Therefore", "This gives", "Hence the answer is")


def short_pairs(data: Path, num: int) -> list[dict[str, Any]]:
    """Responses around gold answers; every other one holds the answer of another problem."""
    golds = []
    for name in ("gsm8k/test.jsonl", "math/train.jsonl"):
        rows = [json.loads(line) for line in (data / name).read_text(encoding="utf-8").splitlines()]
        golds += [str(r["answer"]).rpartition("####")[2].strip().replace(",", "") for r in rows][: 10 * num]
    rng = random.Random(0)
    golds = [g for g in rng.sample(golds, num) if g]
    pairs = []
    for i, gold in enumerate(golds):
        answer = gold if i % 2 else golds[(i + 7) % len(golds)]
        thinking = f"<think>\nFirst I try {rng.randint(2, 99)}, then I check it.\n</think>\n"
        pred = f"{thinking}{rng.choice(OPENERS)} $\\boxed{{{answer}}}$."
        pairs.append({"gold": gold, "pred": pred, "form": "response"})
    return pairs


def mixed_pairs(data: Path) -> list[dict[str, Any]]:
    lines = (data / "math_verdicts" / "cases.jsonl").read_text(encoding="utf-8").splitlines()
    return [case for line in lines if not (case := json.loads(line)).get("contested")]


# -- the two sides, each in a process of its own: one JSON line in, one out ------------------------


def serve_ours() -> None:
    from qwq.verify import math

    math.warm()
    math.verify("\\boxed{x+1}", "1+x", form="extract")
    math.verify("\\boxed{\\oint_1^2 q}", "\\oint_1^3 q", form="extract")  # the worker's imports
    for line in sys.stdin:
        case = json.loads(line)
        started = time.perf_counter()
        verdict = math.verify(case["pred"], case["gold"], form=case["form"])
        seconds = time.perf_counter() - started
        print(
            json.dumps({"outcome": verdict.outcome.value, "seconds": seconds, "worker_mb": _peak_mb(math)}), flush=True
        )


def _peak_mb(math: Any) -> float:
    """Largest resident size that any living worker has had."""
    peaks = [0.0]
    for pid in math._pool.pids():
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        peaks += [int(row.split()[1]) / 1024 for row in status.splitlines() if row.startswith("VmHWM")]
    return max(peaks)


def serve_theirs() -> None:
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    verify(parse("$x+1$"), parse("$1+x$"))
    for line in sys.stdin:
        case = json.loads(line)
        # A bare answer is handed over in dollars, as Math-Verify's README has it; other texts as
        # they are.
        gold = case["gold"] if "$" in case["gold"] or "\\boxed" in case["gold"] else f"${case['gold']}$"
        pred = f"${case['pred']}$" if case["form"] == "bare" and "$" not in case["pred"] else case["pred"]
        started = time.perf_counter()
        try:
            outcome = "correct" if verify(parse(gold), parse(pred)) else "wrong"
        except Exception:  # noqa: BLE001  # the peer's failures are its own to count
            outcome = "undecided"
        print(json.dumps({"outcome": outcome, "seconds": time.perf_counter() - started, "worker_mb": 0}), flush=True)


class Side:
    """A child that grades; it is replaced where a pair ends or outlives it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.restarts = -1
        self._start()

    def _start(self) -> None:
        self.restarts += 1
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", self.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def grade(self, case: dict[str, Any]) -> dict[str, Any]:
        import select

        line = json.dumps({k: case[k] for k in ("gold", "pred", "form")}) + "\n"
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
            # The first answer of a child waits for its imports too.
            if select.select([self.process.stdout], [], [], PATIENCE_S + 60)[0] and (
                answer := self.process.stdout.readline()
            ):
                return json.loads(answer)
        except BrokenPipeError:
            pass
        self.close()
        self._start()
        return {"outcome": "undecided", "seconds": PATIENCE_S, "worker_mb": 0}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def measure(name: str, cases: list[dict[str, Any]]) -> dict[str, Any]:
    side = Side(name)
    try:
        graded = [side.grade(case) for case in cases]
    finally:
        side.close()
    seconds = sorted(g["seconds"] for g in graded)
    return {
        "rate": len(cases) / sum(seconds),
        "p50": seconds[len(seconds) // 2],
        "p99": seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))],
        "max": seconds[-1],
        "worker_mb": max(g["worker_mb"] for g in graded),
        "restarts": side.restarts,
        "outcomes": [g["outcome"] for g in graded],
    }


def accuracy(cases: list[dict[str, Any]], outcomes: list[str], *, only_foreign: bool = False) -> tuple[float, int, int]:
    """Share right, false labels passed, false labels; `only_foreign`: no identities, mutants,
    Math-Verify's own tests.
    """
    right = total = passed = false = 0
    for case, outcome in zip(cases, outcomes, strict=True):
        if only_foreign and case["source"].startswith((OWN_TESTS, "identity:", "mutant:")):
            continue
        total += 1
        right += (outcome == "correct") == case["expected"]
        false += not case["expected"]
        passed += outcome == "correct" and not case["expected"]
    return right / max(1, total), passed, false


def describe(name: str, runs: list[dict[str, Any]]) -> str:
    rates = [r["rate"] for r in runs]
    return (
        f"  {name:<12} {statistics.median(rates):9.1f} pairs/s ({min(rates):.1f} to {max(rates):.1f})"
        f"  p50 {1e3 * statistics.median(r['p50'] for r in runs):8.2f} ms"
        f"  p99 {1e3 * statistics.median(r['p99'] for r in runs):8.1f} ms"
        f"  max {max(r['max'] for r in runs):6.2f} s  replaced {max(r['restarts'] for r in runs)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--limit", type=at_least(1), default=800, help="pairs a set, at most")
    parser.add_argument("--serve", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve_ours() if args.serve == "ours" else serve_theirs()
    if not (args.data / "math_verdicts").is_dir():
        sys.exit(f"error: no math_verdicts/, gsm8k/ and math/ under {args.data}: give their folder with --data")
    mixed = mixed_pairs(args.data)
    stride = max(1, -(-len(mixed) // args.limit))
    sets = {"short": short_pairs(args.data, args.limit), "mixed": mixed[::stride]}
    lines = []
    for label, cases in sets.items():
        print(f"{label}: {len(cases)} pairs, {args.rounds} rounds", flush=True)
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(measure("ours", cases))
            theirs.append(measure("theirs", cases))
        print(describe("qwq", ours))
        print(describe("Math-Verify", theirs))
        print(
            f"  our worker's resident memory: at most {max(r['worker_mb'] for r in ours):.0f} MB (limit of its "
            "address space 512 MB)"
        )
        for key, ratio in (
            ("pairs/s", lambda a, b: a / b),
            ("p99 s", lambda a, b: b / a),
            ("max s", lambda a, b: b / a),
        ):
            field = {"pairs/s": "rate", "p99 s": "p99", "max s": "max"}[key]
            a, b = (statistics.median(r[field] for r in runs) for runs in (ours, theirs))
            lines.append(
                {
                    "name": f"verifier {label} {key}",
                    "ours": round(a, 5),
                    "theirs": round(b, 5),
                    "ratio": round(ratio(a, b), 2),
                }
            )
        if label == "mixed":
            for subset, flag in (("all", False), ("not their tests", True)):
                (a, passed, false), (b, their_passed, _) = (
                    accuracy(cases, r[0]["outcomes"], only_foreign=flag) for r in (ours, theirs)
                )
                print(
                    f"  right, {subset}: qwq {a:.2%}, Math-Verify {b:.2%}; false labels passed: {passed} and "
                    f"{their_passed} of {false}"
                )
                lines.append(
                    {
                        "name": f"verifier accuracy {subset}",
                        "ours": round(a, 4),
                        "theirs": round(b, 4),
                        "ratio": round(a / b, 3),
                    }
                )
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
