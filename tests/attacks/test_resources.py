"""Programs that want more than their share, or that do not want to end. One property each."""

from __future__ import annotations

import os
import time

from qwq.sandbox import RunStatus
from qwq.types import Outcome
from qwq.verify.code import verify

ONE = {"kind": "call", "entry_point": "f", "cases": [{"args": [], "expected": 1}]}


# What ignored its limit would take 100 seconds or never end; a busy machine takes some of its own.
PATIENCE_S = 20.0


def still_works(box) -> bool:
    return box.run("print('well')").stdout == b"well\n"


def timed(box, program: str, limit_s: float = 0.6, **options):
    started = time.monotonic()
    result = box.run(program, timeout_s=limit_s, **options)
    return result, time.monotonic() - started


def test_endless_loop_is_a_timeout(jail):
    verdict = verify("def f():\n    while True: pass", ONE, sandbox=jail, timeout_s=0.5)
    assert verdict.outcome is Outcome.TIMEOUT
    assert still_works(jail)


def test_huge_power_is_a_timeout(jail):
    verdict = verify("def f(): return 9**9**9", ONE, sandbox=jail, timeout_s=0.5)
    assert verdict.outcome is Outcome.TIMEOUT


def test_catastrophic_regex_is_a_timeout(jail):
    result, seconds = timed(jail, "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')")
    assert result.status is RunStatus.TIMEOUT
    assert seconds < PATIENCE_S


def test_long_sleep_is_a_timeout(jail):
    result, seconds = timed(jail, "import time\ntime.sleep(100)")
    assert result.status is RunStatus.TIMEOUT
    assert seconds < PATIENCE_S


def test_all_signals_ignored_while_spinning(jail):
    program = (
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass"
    )
    result, seconds = timed(jail, program)
    assert result.status is RunStatus.TIMEOUT
    assert seconds < PATIENCE_S
    assert still_works(jail)


def test_sigstop_to_itself_does_not_outlast_the_limit(jail):
    result, seconds = timed(jail, "import os, signal, time\nos.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(100)")
    assert result.status is RunStatus.TIMEOUT
    assert seconds < PATIENCE_S


def test_exceptions_swallowed_forever(jail):
    result, _ = timed(jail, "while True:\n    try:\n        while True: pass\n    except BaseException: pass")
    assert result.status is RunStatus.TIMEOUT


def test_two_gigabytes_are_refused(jail):
    result = jail.run("x = bytearray(2 << 30)", memory_mb=256)
    assert result.status is RunStatus.MEMORY
    assert still_works(jail)


def test_memory_grown_step_by_step_is_refused(jail):
    verdict = verify(
        "def f():\n    x = []\n    while True: x.append(bytearray(1 << 20))", ONE, sandbox=jail, memory_mb=128
    )
    assert verdict.outcome is Outcome.WRONG
    assert "Memory" in verdict.reason or "memory" in verdict.reason


def no_processes(result) -> bool:
    """Whether the level refused the first fork: then there is nothing to bound."""
    return result.status is RunStatus.ERROR and b"PermissionError" in result.stderr


def test_eight_children_of_150_mb(jail):
    # Each child says when it has its memory; those that neither said so nor ended are not counted
    # as alive.
    program = (
        "import os, time\nr, w = os.pipe()\nos.set_blocking(r, False)\nfor _ in range(8):\n    if os.fork() == 0:\n"
        "        x = bytes([1]) * (150 << 20)\n        os.write(w, b'x')\n        time.sleep(100)\n"
        "have = dead = 0\nend = time.time() + 3\nwhile dead < 8 and time.time() < end:\n"
        "    time.sleep(0.05)\n    try: have += len(os.read(r, 8))\n    except BlockingIOError: pass\n"
        "    while os.waitpid(-1, os.WNOHANG)[0]: dead += 1\n"
        "print(min(have, 8 - dead))"
    )
    result = jail.run(program, memory_mb=200, timeout_s=6)
    assert no_processes(result) or result.status is RunStatus.MEMORY or int(result.stdout) <= 2
    assert still_works(jail)


def test_fork_bomb_is_bounded(jail):
    program = (
        "import os\nn = 0\ntry:\n    while True:\n        if os.fork() == 0:\n"
        "            import time; time.sleep(50)\n        n += 1\nexcept OSError: print(n)"
    )
    result = jail.run(program, timeout_s=3)
    assert 0 <= int(result.stdout) <= 40
    assert still_works(jail)


def test_exponential_fork_bomb(jail):
    result, seconds = timed(jail, "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")
    assert result.status in (RunStatus.TIMEOUT, RunStatus.MEMORY)
    assert seconds < PATIENCE_S
    assert still_works(jail)


def test_thread_bomb_is_bounded(jail):
    program = (
        "import threading, time\nn = 0\ntry:\n    while n < 2000:\n        threading.Thread(target=time.sleep, "
        "args=(50,), daemon=True).start(); n += 1\nexcept (RuntimeError, MemoryError): pass\nprint(n, flush=True)\n"
        "import os; os._exit(0)"
    )
    result = jail.run(program, timeout_s=4)
    assert 0 < int(result.stdout or -1) < 200, result
    assert still_works(jail)


def test_endless_stdout_is_cut(jail):
    result = jail.run("while True: print('x' * 10000)", output_limit_bytes=100_000)
    assert result.status is RunStatus.OUTPUT_LIMIT
    assert len(result.stdout) == 100_000


def test_endless_stderr_is_cut(jail):
    result = jail.run("import os\nwhile True: os.write(2, b'x' * 10000)", output_limit_bytes=100_000)
    assert result.status is RunStatus.OUTPUT_LIMIT
    assert len(result.stderr) == 100_000


def test_endless_writes_to_the_result_channel_are_cut(jail):
    result, seconds = timed(jail, "import os\nwhile True: os.write(3, b'x' * 65536)", limit_s=PATIENCE_S)
    assert result.status is RunStatus.OUTPUT_LIMIT
    assert seconds < PATIENCE_S


def test_daemon_holding_stdout_does_not_delay_the_result(jail):
    program = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(100)\n"
        "    os._exit(0)\nprint('main')"
    )
    started = time.monotonic()
    result = jail.run(program)
    assert no_processes(result) or (result.status, result.stdout) == (RunStatus.OK, b"main\n")
    assert time.monotonic() - started < PATIENCE_S


def test_box_filled_by_bytes(jail):
    program = (
        "n = 0\ntry:\n    for i in range(100):\n        with open(f'f{i}', 'wb') as f:\n"
        "            for _ in range(32): f.write(bytes(1 << 20)); f.flush(); n += 1\n"
        "except OSError as e: print(n, e.errno)"
    )
    result = jail.run(program, timeout_s=6)
    if result.status is not RunStatus.OUTPUT_LIMIT:  # a folder on disk is watched from outside
        megabytes, errno = map(int, result.stdout.split())
        assert megabytes <= 64 and errno == 28
    assert still_works(jail)


def test_box_filled_by_files(jail):
    program = (
        "n = 0\ntry:\n    while n < 500000:\n        open(f'f{n}', 'w').close(); n += 1\n"
        "except OSError as e: print(n, e.errno)"
    )
    result = jail.run(program)
    if result.status is not RunStatus.OUTPUT_LIMIT:
        count, errno = map(int, result.stdout.split())
        assert count <= 1024 and errno == 28
    assert still_works(jail)


def test_recursion_limit_raised_and_used(jail):
    result = jail.run(
        "import sys\nsys.setrecursionlimit(10**9)\ndef g(n): return g(n + 1)\ng(0)", timeout_s=1, memory_mb=64
    )
    assert result.status is not RunStatus.OK
    assert still_works(jail)


def test_segfault_is_the_programs_error(jail):
    verdict = verify("import ctypes\ndef f(): ctypes.string_at(0)", ONE, sandbox=jail)
    assert verdict.outcome is Outcome.WRONG
    assert still_works(jail)


def test_limits_cannot_be_raised(jail):
    program = (
        "import resource\ntry:\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); print('raised')\n"
        "except (ValueError, OSError): print('refused')"
    )
    assert jail.run(program).stdout == b"refused\n"


def test_deep_and_closed_folders_do_not_stop_the_slot(jail):
    program = (
        "import os\nfor i in range(400):\n    os.mkdir('d'); os.chdir('d')\n"
        "    if i % 100 == 99: os.mkdir('closed', 0)\nprint('made')"
    )
    jail.run(program, timeout_s=4)
    for _ in range(2):
        assert jail.run("import os; print(os.listdir('.'))").stdout == b"[]\n"


def test_nothing_is_left_over(strongest):
    from qwq.sandbox import Sandbox

    def counts():
        return len(os.listdir("/proc/self/fd")), len([p for p in os.listdir("/proc") if p.isdigit()])

    before = counts()[0]
    with Sandbox(slots=2) as box:
        box.run("import os\nfor _ in range(5): os.fork()", timeout_s=1)
        pids = [slot._process.pid for slot in box._slot_pool.live]
        groups = [folder for slot in box._slot_pool.live if slot.group for folder in slot.group._folders]
        for _ in range(20):
            box.run("print(1)")
    assert counts()[0] == before
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not any(folder.exists() for folder in groups)
