"""A run's time does not count what the machine takes from it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from qwq.sandbox import RunStatus, Sandbox
from qwq.sandbox.clock import waited_and_used
from qwq.verify.code import clear_cache, verify

SPIN = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\nprint(1)"


@pytest.fixture(scope="module")
def box():
    with Sandbox(slots=1) as made:
        yield made


@pytest.fixture
def load():
    """Eight busy processes for each core."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * (os.cpu_count() or 1))]
    time.sleep(0.2)
    yield
    for process in busy:
        process.kill()
        process.wait()


def test_the_kernel_tells_how_long_a_task_has_waited():
    waited, used = waited_and_used([f"/proc/{os.getpid()}/task/{os.getpid()}"])
    assert waited >= 0 and used > 0
    assert waited_and_used(["/proc/0/task/0"]) == (0.0, 0.0)


def test_a_busy_machine_does_not_fail_a_program(box, load):
    """0.6 s of computing in a limit of 1 s takes several times that by the clock on the wall."""
    for _ in range(2):
        result = box.run(SPIN.format(0.6), timeout_s=1.0)
        assert result.status is RunStatus.OK, result
    call = (
        "import time\ndef f(n):\n    end = time.process_time() + 0.3\n    while time.process_time() < end: pass\n"
        "    return n"
    )
    cases = [{"args": [n], "expected": n} for n in range(3)]
    clear_cache()
    assert verify(call, {"kind": "call", "entry_point": "f", "cases": cases}, timeout_s=1.0, sandbox=box).correct


def test_a_busy_machine_does_not_save_a_program_either(box, load):
    result = box.run(SPIN.format(30), timeout_s=0.5)
    assert result.status is RunStatus.TIMEOUT and result.cpu_s < 2
    started = time.monotonic()
    assert box.run("import time\ntime.sleep(60)", timeout_s=0.5).status is RunStatus.TIMEOUT
    assert time.monotonic() - started < 15


def test_sleeping_counts(box):
    started = time.monotonic()
    result = box.run("import time\ntime.sleep(30)", timeout_s=0.5)
    assert result.status is RunStatus.TIMEOUT and result.cpu_s < 0.4 and time.monotonic() - started < 10


def test_processes_that_wait_for_each_other_are_no_excuse(box):
    """Sixteen busy processes make each other wait; that is the program's own doing."""
    program = "import os\nfor _ in range(16):\n    if not os.fork():\n        break\nwhile True: pass"
    started = time.monotonic()
    assert box.run(program, timeout_s=0.5).status is RunStatus.TIMEOUT
    assert time.monotonic() - started < 20


def test_a_program_that_waits_for_its_own_processes_has_their_time(box, load):
    program = (
        "import os\npid = os.fork()\nif not pid:\n    "
        + SPIN.format(0.4).replace("\n", "\n    ")
        + "\nelse:\n    os.waitpid(pid, 0)\n    print(2)"
    )
    assert box.run(program, timeout_s=1.0).status is RunStatus.OK
