"""Runs a second of the sandbox, beside a plain subprocess and bubblewrap, and through its HTTP
server, in one run.

    python benchmarks/sandbox.py                         # about two minutes
    python benchmarks/sandbox.py --runs 60 --rounds 1    # a quick look

Each way runs `print(int(input()) + 1)` with an input and looks at the output, from as many threads
as there are cores. The ways take turns, round after round; a figure is the median of the rounds,
with the smallest and the largest. The latency is what a verdict through the server takes, one at a
time, start to end. bubblewrap is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from arguments import at_least

from qwq.sandbox import Sandbox
from qwq.sandbox.http.client import RemoteSandbox
from qwq.verify.code import verify

PROGRAM = "print(int(input()) + 1)"
CORES = os.cpu_count() or 1
INTERPRETER = os.path.realpath(sys.executable)
BWRAP = [
    "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib",
    "/lib", "--symlink", "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin", "--ro-bind",
    str(Path(INTERPRETER).parents[1]), str(Path(INTERPRETER).parents[1]), "--tmpfs", "/tmp", "--chdir", "/tmp",
]  # fmt: skip


def rate(run: Callable[[int], bool], count: int) -> float:
    """Right answers a second from as many threads as cores.

    Stops where one is wrong: a benchmark of failures is none.
    """
    with ThreadPoolExecutor(CORES) as threads:
        started = time.perf_counter()
        right = sum(threads.map(run, range(count)))
        seconds = time.perf_counter() - started
    if right != count:
        sys.exit(f"error: {count - right} of {count} runs gave no right answer")
    return count / seconds


def subprocess_way(prefix: list[str], file: str) -> Callable[[int], bool]:
    def run(n: int) -> bool:
        done = subprocess.run(
            [*prefix, INTERPRETER, "-I", *(["-c", PROGRAM] if prefix else [file])],
            input=f"{n}\n",
            capture_output=True,
            text=True,
        )
        return done.stdout == f"{n + 1}\n"

    return run


class HttpServer:
    """`qwq sandbox serve` in a process of its own, as users run it."""

    def __init__(self) -> None:
        start = "import sys; from qwq.cli import main; sys.exit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", start, "sandbox", "serve", "--port", "0"], stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr
        self.url = self.process.stderr.readline().split()[2]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def http_rate(box: RemoteSandbox, count: int) -> float:
    """Verdicts a second of one batch, graded on the server."""
    unique = time.perf_counter_ns()
    lines = [
        {
            "code": f"{PROGRAM}  # {unique} {n}",
            "tests": {"kind": "stdio", "cases": [{"input": f"{n}\n", "output": f"{n + 1}\n"}]},
        }
        for n in range(count)
    ]
    started = time.perf_counter()
    right = sum(verdict.get("outcome") == "correct" for _, verdict in box.verify_many(lines))
    seconds = time.perf_counter() - started
    if right != count:
        sys.exit(f"error: {count - right} of {count} verdicts are wrong")
    return count / seconds


def latencies(box: RemoteSandbox, count: int) -> list[float]:
    """Seconds of single verdicts through the server, sorted."""
    out = []
    for n in range(count):
        tests = {"kind": "stdio", "cases": [{"input": f"{n}\n", "output": f"{n + 1}\n"}]}
        started = time.perf_counter()
        verdict = verify(f"{PROGRAM}  # {started} {n}", tests, sandbox=box)
        out.append(time.perf_counter() - started)
        assert verdict.correct, verdict.reason
    return sorted(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=at_least(1), default=400)
    parser.add_argument("--rounds", type=at_least(1), default=5)
    args = parser.parse_args()
    server = HttpServer()
    with tempfile.TemporaryDirectory() as folder, Sandbox(CORES) as box, RemoteSandbox(server.url) as remote:
        file = Path(folder, "p.py")
        file.write_text(PROGRAM)

        def jailed(n: int) -> bool:
            return box.run(PROGRAM, stdin=f"{n}\n".encode()).stdout == f"{n + 1}\n".encode()

        ways: dict[str, Callable[[int], float]] = {
            "jail": lambda count: rate(jailed, count),
            "http": lambda count: http_rate(remote, count),
            "subprocess": lambda count: rate(subprocess_way([], str(file)), count),
        }
        if shutil.which("bwrap"):
            ways["bwrap"] = lambda count: rate(subprocess_way(BWRAP, str(file)), count)
        else:
            print("bwrap is not installed: left out")
        for way in ways.values():
            way(2 * CORES)  # slots and caches begin warm
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                found[name].append(way(args.runs))
        latency = latencies(remote, args.runs)
        print(f"level {box.level}, {CORES} cores, {args.runs} runs a round, {args.rounds} rounds")
    server.stop()
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    for name, rates in found.items():
        print(f"  {name:<11} {medians[name]:7.1f} runs/s ({min(rates):.1f} to {max(rates):.1f})")
    p50, p99 = latency[len(latency) // 2], latency[int(0.99 * (len(latency) - 1))]
    print(
        f"  one verdict through the server: p50 {1e3 * p50:.1f} ms, p99 {1e3 * p99:.1f} ms; "
        f"{medians['http'] / CORES:.0f} verdicts/s a core"
    )
    for ours, theirs in (("jail", "subprocess"), ("jail", "bwrap"), ("http", "subprocess")):
        if theirs in medians:
            a, b = medians[ours], medians[theirs]
            print(
                json.dumps(
                    {
                        "name": f"sandbox {ours} against {theirs}, runs/s",
                        "ours": round(a, 1),
                        "theirs": round(b, 1),
                        "ratio": round(a / b, 2),
                    }
                )
            )


if __name__ == "__main__":
    main()
