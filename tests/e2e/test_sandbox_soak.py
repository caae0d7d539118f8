"""Many runs through the server, a tenth of them hostile: nothing is left over, and the server's
memory stays flat.

QWQ_SOAK_RUNS=10000 for the whole (`make soak-sandbox`).
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from sandbox_process import Server

from qwq.sandbox.http.client import RemoteSandbox
from qwq.sandbox.watchdog import descendants

RUNS = int(os.environ.get("QWQ_SOAK_RUNS", "200"))
CALL = {"kind": "call", "entry_point": "f", "cases": [{"args": [3], "expected": 4}]}
FORK = "import os, time\n"
HOSTILE = [
    FORK + "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(100)\n    os._exit(0)\n",
    FORK + "for _ in range(20):\n    if os.fork() == 0: time.sleep(100)\n",
    FORK + "while True:\n    try: os.fork()\n    except OSError: pass\n",
    "import threading, time\nfor _ in range(500): threading.Thread(target=time.sleep, args=(100,)).start()\n",
    "for i in range(2000): open(str(i), 'w').write('x' * 100000)\n",
    "while True: print('x' * 100000)\n",
    "import os\nwhile True: os.write(3, b'x\\n' * 30000)\n",
    "x = [bytearray(1 << 20) for _ in range(4000)]\n",
    "import os\nos.kill(-1, 9)\nos._exit(0)\n",
    "import ctypes\nctypes.string_at(0)\n",
    "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwhile True: pass\n",
    "import os\nos.closerange(0, 1000)\n",
    "import os\nfor i in range(60): os.mkdir('d'); os.chdir('d')\nos.symlink('/', 'link')\n",
    "raise SystemExit(0)\n",
]


def memory_kib(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def groups(pid: int) -> set[str]:
    """The control groups that process `pid` made; other tests and programs beside this one make
    theirs.
    """
    return {
        str(p) for c in ("memory", "pids") for p in Path(f"/sys/fs/cgroup/{c}").glob(f"**/qwq-{pid}-*") if p.is_dir()
    }


def around() -> tuple[set[str], str]:
    """What could be left over outside the server: temporary folders (not those of test sessions and
    chat pages beside this one), mounts.
    """
    mounts = Path("/proc/self/mountinfo").read_text()
    return {
        path.name
        for path in Path(tempfile.gettempdir()).iterdir()
        if path.name.startswith("qwq-") and not path.name.startswith(("qwq-tests-", "qwq-page-"))
    }, mounts


def lines(first: int, count: int) -> list[dict]:
    made = []
    for n in range(first, first + count):
        hostile = HOSTILE[n // 10 % len(HOSTILE)] if n % 10 == 0 else ""
        code = f"{hostile}def f(x): return x + {1 if n % 2 else 2} # {n}"
        made.append({"code": code, "tests": CALL, "timeout_s": 1.0 if hostile else 20.0, "memory_mb": 256})
    return made


def check(first: int, found: dict[int, dict]) -> None:
    for index, verdict in found.items():
        n = first + index
        if n % 10:
            assert verdict["outcome"] == ("correct" if n % 2 else "wrong"), (n, verdict)
        else:
            assert verdict["outcome"] in ("wrong", "timeout"), (n, verdict)


def test_nothing_is_left_over_and_memory_stays_flat():
    before = around()
    server = Server()
    pid = server.process.pid
    try:
        with RemoteSandbox(server.url) as box:
            warm = max(150, RUNS // 5)  # every hostile program has run once
            check(0, dict(box.verify_many(lines(0, warm))))
            start = memory_kib(pid), len(list(Path(f"/proc/{pid}/fd").iterdir())), len(descendants(pid))
            slot_groups = groups(pid)
            for first in range(warm, warm + RUNS, 500):
                count = min(500, warm + RUNS - first)
                check(first, dict(box.verify_many(lines(first, count))))
            end = memory_kib(pid), len(list(Path(f"/proc/{pid}/fd").iterdir())), len(descendants(pid))
            assert box.health()["held"] == 0
        print(f"{RUNS} runs: memory {start[0]} -> {end[0]} KiB, descriptors {start[1]} -> {end[1]}")
        assert end[1] <= start[1] + 2 and end[2] == start[2]
        assert groups(pid) == slot_groups
        assert end[0] < start[0] * 1.2 + 16384
    finally:
        assert server.stop() == 0
    # What a server killed before us had left may have been cleared away by ours: nothing is there
    # that was not before.
    folders, mounts = around()
    assert folders <= before[0] and mounts == before[1] and not groups(pid)
