"""What a session of the sandbox costs: its start, its cells, its memory, beside a plain Python
subprocess, in one run.

    python benchmarks/agent_session.py                        # half a minute
    python benchmarks/agent_session.py --starts 5 --cells 100 # a quick look

- start: from `Sandbox.session()` to the first cell's result, with a slot that an earlier session
  has left ("warm"), and with a new slot forked from the template ("forked"). Beside it `python -I
  -c "import ..."` of what the session has imported already.
- cell: `x += 1` and its result, one at a time. Beside it the same line sent to a plain `python -u`
  that reads lines from a pipe, evaluates them and answers: no jail, no limits, no record.
- memory: what each of ten sessions holds for itself (Pss of its processes), beside the plain
  subprocess with the same imports.

Figures are medians with the 99th percentile. The last lines are JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from arguments import at_least

from qwq.sandbox import Sandbox, Session
from qwq.sandbox.watchdog import descendants, memory_of

ECHO = "import sys\nspace = {'x': 0}\nfor line in sys.stdin:\n    exec(line, space)\n    print(space['x'], flush=True)"
MEMORY_SESSIONS = 10


def plain_import(modules: list[str]) -> None:
    subprocess.run(
        [sys.executable, "-I", "-c", f"import {', '.join(modules)}; print(1)"], check=True, stdout=subprocess.DEVNULL
    )


def first_cell(box: Sandbox) -> Session:
    session = box.session()
    if session.run("1 + 1").value != "2":
        sys.exit("error: a session gave a wrong answer")
    return session


def milliseconds(run: Callable[[], object], count: int) -> list[float]:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * 1e3)
    return times


def plain_cells(count: int) -> list[float]:
    with subprocess.Popen([sys.executable, "-u", "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        stdin, stdout = process.stdin, process.stdout

        def cell() -> None:
            stdin.write(b"x += 1\n")
            stdin.flush()
            stdout.readline()

        milliseconds(cell, 20)
        times = milliseconds(cell, count)
        stdin.close()
    return times


def pss_mb(pid: int) -> float:
    return sum(map(memory_of, descendants(pid))) / (1 << 20)


def plain_memory_mb(modules: list[str]) -> float:
    code = f"import {', '.join(modules)}\nprint(1, flush=True)\nimport sys\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        return pss_mb(process.pid)


def memory_mb(box: Sandbox) -> float:
    sessions = [first_cell(box) for _ in range(MEMORY_SESSIONS)]
    total = sum(pss_mb(slot._process.pid) for slot in box._slot_pool.live)
    for session in sessions:
        session.close()
    return total / MEMORY_SESSIONS


def report(name: str, ours: list[float], theirs: list[float], unit: str = "ms") -> None:
    def words(times: list[float]) -> str:
        if len(times) == 1:
            return f"{times[0]:.1f} {unit}"
        return f"{statistics.median(times):.3f} {unit} (p99 {statistics.quantiles(times, n=100)[98]:.3f})"

    ratio = statistics.median(theirs) / statistics.median(ours)
    print(f"{name}: session {words(ours)}, plain Python {words(theirs)}, {ratio:.2f} times", file=sys.stderr)
    result = {"name": name, "ours": statistics.median(ours), "theirs": statistics.median(theirs), "ratio": ratio}
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=at_least(3), default=20)
    parser.add_argument("--cells", type=at_least(2), default=1000)
    args = parser.parse_args()
    with Sandbox(slots=1, max_sessions=max(MEMORY_SESSIONS, args.starts)) as box:
        session = first_cell(box)
        imported = session.run(
            "import sys\n[m for m in ('numpy', 'pandas', 'matplotlib.pyplot') if m in sys.modules]"
        ).value
        modules = list(json.loads((imported or "[]").replace("'", '"'))) or ["json"]
        print(f"imported beforehand: {', '.join(modules)}; load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        session.run("x = 0")
        milliseconds(lambda: session.run("x += 1"), 20)
        cells = milliseconds(lambda: session.run("x += 1"), args.cells)
        session.close()
        opened: list[Session] = []
        forked = milliseconds(lambda: opened.append(first_cell(box)), args.starts)[1:]  # the first finds a slot
        for one in opened:
            one.close()
        warm = milliseconds(lambda: first_cell(box).close(), args.starts)
        memory = memory_mb(box)
    plain = milliseconds(lambda: plain_import(modules), max(3, args.starts // 4))
    report("session start, warm slot", warm, plain)
    report("session start, forked slot", forked, plain)
    report("cell", cells, plain_cells(args.cells))
    report("memory of a session", [memory], [plain_memory_mb(modules)], "MB")


if __name__ == "__main__":
    main()
