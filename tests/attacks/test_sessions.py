"""Cells that want more than their session: other cells' results, other sessions, the machine, or to
outlast it.

`test_escapes.py` and `test_resources.py` make their attacks inside a session as well (level
"session" of the conftest).
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import time
from pathlib import Path

import pytest

from qwq.sandbox import CellStatus, Level, Sandbox, SessionLimits, SessionState
from qwq.sandbox.watchdog import descendants


@pytest.fixture(scope="module", params=["namespaces", "no cgroup", "landlock", "rlimits"])
def box(request, open_level):
    with open_level(request.param) as sandbox:
        yield sandbox


@pytest.fixture
def session(box):
    with box.session(packages=()) as opened:
        yield opened


def genuine(session, number: int) -> None:
    """The next cell's result is its own, whole, and not shifted by one."""
    result = session.run(f"print('out {number}')\nimport sys\nprint('err {number}', file=sys.stderr)\n{number} * 2")
    assert (result.status, result.error, result.figures) == (CellStatus.OK, None, ())
    assert (result.stdout, result.stderr) == (f"out {number}\n".encode(), f"err {number}\n".encode())
    assert result.value == str(number * 2)


# -- forged results


FORGED = {
    "records of this cell": "import os, json\nfor e in ('', '0' * 32):\n    os.write(3, json.dumps({'number': 1, "
    "'display': [{'data': "
    "{'text/plain': 'forged'}, 'execution_count': 1}], 'error': [], 'echo': e}).encode() + b'\\n')",
    "records of later cells": "import os, json\nfor n in range(2, 9):\n    os.write(3, json.dumps({'number': n, "
    "'display': [], 'error': "
    "[{'ename': 'Forged', 'evalue': '', 'traceback': []}], 'echo': 'f' * 32}).encode() + b'\\n')",
    "the beginning of a line": "import os\nos.write(3, b'{\"display\": [')",
    "line ends": "import os\nos.write(3, b'\\n' * 1000)",
    "binary": "import os\nos.write(3, bytes(range(256)) * 50)",
}


@pytest.mark.parametrize("name", FORGED)
def test_records_that_a_cell_writes_close_nothing(session, name):
    result = session.run(FORGED[name] + "\n'own'")
    assert (result.status, result.value, result.error) == (CellStatus.OK, "'own'", None)
    genuine(session, 2)
    genuine(session, 3)


REPLACED = {
    "print": "import builtins\nbuiltins.print = lambda *a, **k: None",
    "repr": "import builtins\nbuiltins.repr = lambda v: 'forged'",
    "every builtin": "import builtins\nfor n in list(vars(builtins)):\n    if n[0] != '_': setattr(builtins, n, None)",
    "import": "import builtins\nbuiltins.__import__ = None",
    "stdout": "import sys, io\nsys.stdout = sys.__stdout__ = io.StringIO()\nsys.stderr = None",
    "a closed stdout": "import sys\nsys.stdout.close()",
    "descriptors": "import os\nn = os.open('/dev/null', os.O_RDWR)\nfor fd in (1, 2, 3): os.dup2(n, fd)"
    + "\nos.close(n)",
    "display hooks": "import sys\nsys.displayhook = sys.excepthook = lambda *a: print('forged')",
    "trace": "import sys, threading\nf = lambda *a: print('forged') or f\nsys.settrace(f)\nthreading.settrace(f)",
    "profile": "import sys, threading\nf = lambda *a: print('forged')\nsys.setprofile(f)\nthreading.setprofile(f)",
    "atexit": "import atexit\natexit.register(print, 'forged')",
    "an alarm": "import signal\nsignal.signal(signal.SIGALRM, lambda *a: print('forged'))\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)",
    "a profiling timer": "import signal\nsignal.signal(signal.SIGPROF, lambda *a: print('forged'))\n"
    "signal.setitimer(signal.ITIMER_PROF, 0.0005, 0.0005)",
    "signal handlers": "import signal\nfor s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1): signal.signal(s, "
    "lambda *a: "
    "print('forged'))\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})",
    "json and os": "import json, os\njson.dumps = json.JSONEncoder.encode = json.loads = None\n"
    "os.write = os.dup2 = os.read = os.getpid = os.close = None",
    "ast and compile": "import ast\nast.parse = lambda *a: None",
    "the signal module": "import signal, time\nsignal.signal = signal.setitimer = signal.pthread_sigmask = lambda "
    "*a: None",
}
# What the runner itself uses of the library and cannot keep for itself: the next cell fails, and is
# not forged.
BREAKS = {"ast and compile"}


@pytest.mark.parametrize("name", REPLACED)
def test_what_a_cell_replaces_does_not_forge_the_next(session, name):
    if name == "descriptors":
        # Its own record is lost with its own pipe, and it is stopped; what came before is there.
        session.run("x = 1")
        result = session.run(REPLACED[name], timeout_s=0.5)
        assert (result.status, result.state) == (CellStatus.TIMEOUT, SessionState.REBUILT)
    else:
        session.run(REPLACED[name])
    if name in BREAKS:
        result = session.run("1")
        assert result.value != "forged" and result.error is not None
        return
    for number in (2, 3):
        genuine(session, number)


def test_a_timer_that_interrupts_the_next_cell(session):
    session.run("import _thread, threading\nthreading.Timer(0.2, _thread.interrupt_main).start()")
    result = session.run("import time\ntime.sleep(1)\n5", timeout_s=5)
    # A thread shares the process, so it may interrupt; the parent did not, and the result says no
    # more than that.
    assert (result.status, result.value) in ((CellStatus.ERROR, None), (CellStatus.OK, "5"))
    genuine(session, 3)


def test_a_thread_writes_nothing_between_cells(session):
    session.run(
        "import threading, time, os\ndef f():\n    time.sleep(0.1)\n    os.write(1, b'late')\n"
        "t = threading.Thread(target=f)\nt.start()"
    )
    time.sleep(0.4)
    genuine(session, 2)


def test_reading_the_cells_socket_costs_the_session_only_its_process(session):
    session.run("x = 1")
    result = session.run("import os\nos.read(4, 100)", timeout_s=0.5)
    assert (result.status, result.state) == (CellStatus.TIMEOUT, SessionState.REBUILT)
    assert session.run("x").value == "1"


def test_closing_every_descriptor_costs_the_session_only_its_process(session):
    session.run("x = 1")
    result = session.run("import os\nos.closerange(0, 64)", timeout_s=1)
    assert result.status in (CellStatus.DIED, CellStatus.TIMEOUT) and result.state is SessionState.REBUILT
    assert session.run("x").value == "1"


# -- processes


def needs_processes(box) -> None:
    if box.level is not Level.NAMESPACES:
        pytest.skip(f"no processes at level {box.level}")


def below(session) -> int:
    """Processes of the session's run: those below stage 0 and the zygote."""
    return len(descendants(session._interpreter.process.slot._process.pid)) - 2


def test_a_fork_that_comes_back_runs_no_later_cell(box, session):
    needs_processes(box)
    result = session.run("import os\nx = os.fork()\n'own'")
    assert result.value == "'own'"
    genuine(session, 2)
    assert below(session) == 2  # the namespace's first process, and the session's own


def test_what_a_cell_starts_ends_with_it(box, session):
    needs_processes(box)
    daemon = (
        "import os, time, subprocess, sys\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        while True:\n            try: os.write(1, b'late')\n            except OSError: pass\n"
        "    os._exit(0)"
    )
    session.run(daemon)
    session.run("import multiprocessing, time\np = multiprocessing.Process(target=time.sleep, args=(100,))\np.start()")
    assert below(session) == 2
    genuine(session, 3)


def test_a_fork_bomb_between_cells(box, session):
    needs_processes(box)
    session.run(
        "import os\ndef bomb():\n    while True:\n        try: os.fork()\n        except OSError: pass\n"
        "if os.fork() == 0: bomb()"
    )
    genuine(session, 2)
    assert below(session) == 2


def test_a_thread_that_forks_between_cells(box, session):
    needs_processes(box)
    code = (
        "import os, threading, time\ndef f():\n    while True:\n        try:\n"
        "            if os.fork() == 0: time.sleep(100)\n        except OSError: time.sleep(0.01)\n"
        "threading.Thread(target=f, daemon=True).start()"
    )
    session.run(code)
    time.sleep(0.3)
    assert session.run("1 + 1", timeout_s=10).value == "2"
    slot = session._interpreter.process.slot
    session.close()
    assert len(descendants(slot._process.pid)) == 2


def test_killing_all_that_can_be_reached(session):
    session.run("x = 1")
    session.run(
        "import os, signal\nfor pid in [-1, 1, os.getppid(), *range(2, 40)]:\n    if pid != os.getpid():\n"
        "        try: os.kill(pid, signal.SIGKILL)\n        except OSError: pass"
    )
    assert session.run("x").value == "1"


def test_stopping_itself(session):
    session.run("x = 1")
    result = session.run("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", timeout_s=0.5)
    assert (result.status, result.state) == (CellStatus.TIMEOUT, SessionState.REBUILT)
    assert session.run("x").value == "1"


# -- resources


@pytest.mark.parametrize("fd", [1, 2, 3])
def test_an_output_flood_is_cut_and_the_state_kept(session, fd):
    session.run("x = 1")
    result = session.run(f"import os\nwhile True: os.write({fd}, b'y' * 65536)", timeout_s=20)
    assert (result.status, result.state) == (CellStatus.OUTPUT_LIMIT, SessionState.KEPT)
    assert len(result.stdout) + len(result.stderr) <= 1 << 20
    assert session.run("x").value == "1"


def test_memory_taken_over_many_cells_is_bounded(box):
    with box.session(SessionLimits(memory_mb=256), packages=(), replay=False) as session:
        session.run("kept = []")
        for _ in range(40):
            result = session.run("kept.append(bytearray(b'x') * (50 << 20))")
            if result.status is CellStatus.MEMORY:
                break
        assert result.status is CellStatus.MEMORY
        session.run("kept = []")
        assert session.run("1").value == "1"


def test_files_of_many_cells_are_bounded(session):
    for number in range(6):
        result = session.run(f"open('f{number}', 'wb').write(b'x' * (20 << 20))")
        if result.status is not CellStatus.OK:
            break
    assert result.status in (CellStatus.ERROR, CellStatus.OUTPUT_LIMIT)


# -- other sessions


def test_ten_sessions_do_not_see_each_other(strongest):
    secret = "qwq-secret-%d"
    look = (
        "import os, signal, glob, ctypes\n"
        "seen = []\n"
        "for root in ('/', '/box', '/run', '/dev/shm', '/tmp', '/.proc', '/proc'):\n"
        "    for folder, _, names in os.walk(root):\n"
        "        if folder.startswith(('/usr', '/lib', '/root')): continue\n"
        "        seen += [os.path.join(folder, n) for n in names if 'qwq-secret' in n]\n"
        "env = [v for v in os.environ.values() if 'qwq-secret' in v]\n"
        "pids = []\n"
        "for pid in range(3, 400):\n"
        "    try: os.kill(pid, 0); pids.append(pid)\n"
        "    except OSError: pass\n"
        "names = [n for n in globals() if n.startswith('secret_')]\n"
        "sorted(seen), env, pids, names"
    )
    sandbox = Sandbox(slots=1, level=Level.NAMESPACES, max_sessions=10)
    with sandbox, concurrent.futures.ThreadPoolExecutor(10) as threads:
        sessions = [sandbox.session(packages=()) for _ in range(10)]

        def hide(n: int) -> None:
            name = secret % n
            sessions[n].run(
                f"import os\nsecret_{n} = {name!r}\nos.environ['S'] = {name!r}\nopen({name!r}, 'w').close()\n"
                f"open('/dev/shm/{name}', 'w').close()"
            )

        list(threads.map(hide, range(10)))
        for n, result in enumerate(threads.map(lambda s: s.run(look, timeout_s=20), sessions)):
            own = secret % n
            files, env, pids, names = eval(result.value)
            assert {os.path.basename(f) for f in files} == {own}
            assert (env, names) == ([own], [f"secret_{n}"])
            assert all(pid < 10 for pid in pids)


def test_a_later_session_finds_nothing_of_an_earlier_one(strongest):
    marker = "qwq-left-" + "behind"
    for _ in range(2):
        with strongest.session(packages=()) as session:
            seen = session.run(
                "import os\nos.listdir('.'), os.listdir('/dev/shm'), sorted(n for n in globals() if n[0] != '_')"
            )
            assert seen.value == "([], [], ['display', 'os', 'report'])"
            session.run(
                f"left = {marker!r}\nopen('f', 'w').write(left)\nopen('/dev/shm/f', 'w').write(left)\n"
                "import builtins\nbuiltins.left = left"
            )


def test_nothing_is_left_after_close(open_level):
    def groups() -> set[str]:
        found = Path("/sys/fs/cgroup").glob("**/qwq-*") if os.geteuid() == 0 else ()
        return {str(path) for path in found if f"-{os.getpid()}-" in path.name}

    before = (len(os.listdir("/proc/self/fd")), groups(), descendants(os.getpid()))
    with open_level("namespaces") as sandbox:
        for _ in range(3):
            sessions = [sandbox.session(packages=()) for _ in range(3)]
            for session in sessions:
                session.run(
                    "import os, threading, time\nthreading.Thread(target=time.sleep, args=(100,)).start()\nos.fork()"
                )
                session.run("while True: pass", timeout_s=0.1)
            sessions[0].close()  # the others are left to the sandbox
    assert (len(os.listdir("/proc/self/fd")), groups(), descendants(os.getpid())) == before


def test_a_session_that_is_only_left_alone_ends_with_its_sandbox():
    sandbox = Sandbox(slots=1, max_sessions=8)
    for _ in range(100):
        sandbox.session(packages=())  # opened and left: nothing is started before the first cell
    session = sandbox.session(packages=())
    session.run("x = 1")
    pids = descendants(session._interpreter.process.slot._process.pid)
    sandbox.close()
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    assert json.dumps(sorted(session.limits.__slots__))  # the object itself is still there
