"""How many runs a second the sandbox gives, against a bare interpreter and against bubblewrap, in one run.

    python benchmarks/sandbox.py                       five repetitions, about a minute
    python benchmarks/sandbox.py --repeat 2 --runs 40  a quick look

Every contestant runs `print(1)` from as many threads as there are cores, in turns, so that a noisy minute hits all.
1. "jail": the strongest level of this machine, through the library.
2. "subprocess": the same interpreter with -I, without any protection.
3. "bwrap": that interpreter in bubblewrap with all namespaces, a tmpfs and a read-only view of the system.
4. "http": a server process of its own, verdicts on stdin/stdout tests, client and server sharing the cores.
Overhead is the time of one verdict through HTTP, one after the other, of a program that does nothing.
The last lines are JSON: {"name", "ours", "theirs", "ratio"}.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qwq.sandbox import Sandbox
from qwq.sandbox.client import RemoteSandbox
from qwq.sandbox.policy import interpreter_files

CORES = os.cpu_count() or 1
PROGRAM = "print(1)"
SERVE = [
    sys.executable,
    "-c",
    "import sys; from qwq.cli import main; sys.exit(main())",
    "sandbox",
    "serve",
    "--port",
    "0",
]


def rate(run: Callable[[int], object], runs: int) -> float:
    """Runs a second of `run` from one thread per core."""
    with ThreadPoolExecutor(CORES) as pool:
        started = time.perf_counter()
        list(pool.map(run, range(runs)))
        return runs / (time.perf_counter() - started)


def bwrap_command(python: str, program: str) -> list[str] | None:
    """bubblewrap with all namespaces, showing what the interpreter needs; None where it is not installed."""
    tool = shutil.which("bwrap")
    if tool is None:
        return None
    command = [tool, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--tmpfs", "/tmp"]
    for path in ("/usr", "/lib", "/lib64", "/bin"):
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            command += ["--ro-bind", path, path]
    prefix = os.path.realpath(sys.base_prefix)
    if not prefix.startswith("/usr"):
        command += ["--ro-bind", prefix, prefix]
    return [*command, "--ro-bind", program, "/tmp/program.py", python, "-I", "/tmp/program.py"]


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def check(output: bytes) -> None:
    if output != b"1\n":
        raise SystemExit(f"a contestant printed {output!r}")


class Server:
    """`qwq sandbox serve` as a process of its own."""

    def __enter__(self) -> RemoteSandbox:
        self.process = subprocess.Popen(SERVE, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        first = self.process.stderr.readline()
        found = re.search(r"http://\S+", first)
        if found is None:
            raise SystemExit(f"the server did not start: {first}")
        self.client = RemoteSandbox(found[0])
        return self.client

    def __exit__(self, *exc: object) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait()


def verdicts(remote: RemoteSandbox, runs: int, tag: str) -> float:
    """Verdicts a second of programs that all differ, so that none comes from the verdict cache."""
    tests = {"kind": "stdio", "cases": [{"input": "", "output": "1"}]}
    started = time.perf_counter()
    found = list(remote.verify_many([{"code": f"print(1) # {tag} {n}", "tests": tests} for n in range(runs)]))
    seconds = time.perf_counter() - started
    assert all(verdict["outcome"] == "correct" for _, verdict in found), found[:3]
    return runs / seconds


def single(remote: RemoteSandbox, tag: str) -> float:
    tests = {"kind": "stdio", "cases": [{"input": "", "output": "1"}]}
    started = time.perf_counter()
    ((_, verdict),) = remote.verify_many([{"code": f"print(1) # {tag}", "tests": tests}])
    assert verdict["outcome"] == "correct", verdict
    return 1000 * (time.perf_counter() - started)


def measure(repeat: int, runs: int) -> tuple[dict[str, list[float]], list[float], list[float]]:
    """Rates by contestant, and milliseconds of single verdicts and of single bare processes."""
    python = interpreter_files().executable
    rates: dict[str, list[float]] = {"jail": [], "subprocess": [], "bwrap": [], "http": []}
    ours_ms: list[float] = []
    bare_ms: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Sandbox() as box, Server() as remote:
        program = Path(folder) / "program.py"
        program.write_text(PROGRAM)
        bare = [python, "-I", str(program)]
        wrapped = bwrap_command(python, str(program))
        print(
            f"{CORES} cores, level {box.level}, load {os.getloadavg()[0]:.1f}, bwrap {'found' if wrapped else 'NOT INSTALLED'}"
        )
        rate(lambda _: check(box.run(PROGRAM).stdout), 2 * CORES)  # slots start at their first use
        verdicts(remote, 2 * CORES, "warm")
        for turn in range(repeat):
            rates["jail"].append(rate(lambda _: check(box.run(PROGRAM).stdout), runs))
            rates["subprocess"].append(
                rate(lambda _: check(subprocess.run(bare, stdout=subprocess.PIPE).stdout), runs // 2)
            )
            if wrapped:
                rates["bwrap"].append(
                    rate(lambda _: check(subprocess.run(wrapped, stdout=subprocess.PIPE).stdout), runs // 2)
                )
            rates["http"].append(verdicts(remote, runs, f"{turn}"))
            for n in range(runs // 2):
                ours_ms.append(single(remote, f"one {turn} {n}"))
                started = time.perf_counter()
                subprocess.run(bare, stdout=subprocess.PIPE)
                bare_ms.append(1000 * (time.perf_counter() - started))
    return rates, ours_ms, bare_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--runs", type=int, default=400, help="runs a repetition")
    asked = parser.parse_args()
    rates, ours_ms, bare_ms = measure(asked.repeat, asked.runs)
    for name, values in rates.items():
        if values:
            print(f"{name:<11} {statistics.median(values):7.1f} runs/s, from {min(values):.1f} to {max(values):.1f}")
    for name, values in (("http", ours_ms), ("subprocess", bare_ms)):
        p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
        print(f"{name:<11} p50 {p50:.1f} ms, p99 {p99:.1f} ms, one at a time ({len(values)} runs)")

    def line(name: str, ours: float, theirs: float) -> None:
        print(
            json.dumps(
                {"name": name, "ours": round(ours, 2), "theirs": round(theirs, 2), "ratio": round(ours / theirs, 3)}
            )
        )

    median = {name: statistics.median(values) for name, values in rates.items() if values}
    line("sandbox_runs_per_s_vs_subprocess", median["jail"], median["subprocess"])
    if "bwrap" in median:
        line("sandbox_runs_per_s_vs_bwrap", median["jail"], median["bwrap"])
    line("sandbox_http_verdicts_per_s_per_core_vs_subprocess", median["http"] / CORES, median["subprocess"] / CORES)
    line("sandbox_http_overhead_p50_ms_vs_subprocess", percentile(ours_ms, 0.5), percentile(bare_ms, 0.5))
    line("sandbox_http_overhead_p99_ms_vs_subprocess", percentile(ours_ms, 0.99), percentile(bare_ms, 0.99))


if __name__ == "__main__":
    main()
