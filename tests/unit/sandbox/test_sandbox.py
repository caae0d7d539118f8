"""The sandbox as a library: what runs give, limits, threads, replacement of a dead slot."""

from __future__ import annotations

import math
import os
import signal
import threading
from pathlib import PurePosixPath
from uuid import UUID

import pytest

from qwq.errors import DataError, InfraError, UsageError
from qwq.sandbox import Item, Level, RunStatus, Sandbox, default_sandbox
from qwq.sandbox.doctor import doctor, run_file


@pytest.fixture(scope="module")
def box():
    with Sandbox(slots=1) as made:
        yield made


def test_run_gives_output_and_exit_code(box):
    result = box.run("import sys\nprint(input()[::-1])\nprint('e', file=sys.stderr)\nsys.exit(3)", stdin=b"abc\n")
    assert (result.status, result.exit_code) == (RunStatus.ERROR, 3)
    assert (result.stdout, result.stderr) == (b"cba\n", b"e\n")
    assert 0 < result.seconds < 5


def test_an_uncaught_exception_prints_its_traceback(box):
    result = box.run("def f():\n    raise KeyError('x')\nf()")
    assert (result.status, result.exit_code) == (RunStatus.ERROR, 1)
    assert result.stderr.decode().splitlines()[-1] == "KeyError: 'x'"
    assert "child.py" not in result.stderr.decode()


def test_a_program_ends_as_in_python(box):
    program = (
        "import atexit, threading, time\natexit.register(print, 'last')\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\nprint(__name__)"
    )
    assert box.run(program).stdout == b"__main__\nthread\nlast\n"


def test_a_signal_is_a_negative_exit_code(box):
    result = box.run("import ctypes\nctypes.string_at(0)")
    assert (result.status, result.exit_code) == (RunStatus.ERROR, -signal.SIGSEGV)


def test_binary_streams(box):
    result = box.run("import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])", stdin=bytes(range(256)))
    assert result.stdout == bytes(range(255, -1, -1))


def test_large_input_and_output(box):
    data = b"x" * 900_000
    assert box.run("import sys\nsys.stdout.write(sys.stdin.read())", stdin=data).stdout == data


def test_files_can_be_written_in_the_working_folder(box):
    program = (
        "import tempfile\nopen('a', 'w').write('1')\nwith tempfile.TemporaryFile() as f: f.write(b'2'); f.seek(0); "
        "print(open('a').read(), f.read())"
    )
    assert box.run(program).stdout == b"1 b'2'\n"


def test_common_modules_are_there(box):
    program = (
        "import asyncio, sqlite3, numpy as np, heapq, xml.dom, decimal\nasyncio.run(asyncio.sleep(0))\n"
        "print(int(np.arange(4).sum()))"
    )
    assert box.run(program).stdout == b"6\n"


VALUES = [
    (1, 2), [1, 2], {1, 2}, frozenset({1}), {1: "a", (2, 3): [None]}, {}, [], "", 0, -0.0, 1e300, True, None, 10**40,
    -(10**40), 2**63, -(2**63), b"\x00\xff", bytearray(b"x"), 1 + 2j, range(1, 9, 2), "\ud800 ü \n", float("inf"),
    float("-inf"), 0.1, [[[[]]]],
]  # fmt: skip


def test_values_keep_their_exact_type_both_ways(box):
    result = box.call("def f(x): return x", "f", [{"args": [value]} for value in VALUES])
    for value, case in zip(VALUES, result.cases, strict=True):
        assert case.value == value and type(case.value) is type(value)
    assert math.copysign(1, result.cases[VALUES.index(0.0, 9)].value) == -1


def test_values_of_the_standard_library(box):
    program = (
        "from decimal import Decimal\nfrom fractions import Fraction\nfrom datetime import date\n"
        "def f(): return [Decimal('1.50'), Fraction(1, 3), date(2024, 2, 29), float('nan')]"
    )
    values = box.call(program, "f", [{}]).cases[0].value
    assert [str(v) for v in values] == ["1.50", "1/3", "2024-02-29", "nan"]


def test_subclasses_come_back_as_the_plain_value_they_are_made_of(box):
    program = (
        "from collections import Counter, namedtuple\nimport enum, numpy\nP = namedtuple('P', 'x y')\n"
        "class E(enum.IntEnum): A = 4\ndef f(): return [Counter('aab'), P(1, 2), E.A, numpy.float64(0.5), "
        "numpy.int64(7), numpy.bool_(True)]"
    )
    values = box.call(program, "f", [{}]).cases[0].value
    assert values == [{"a": 2, "b": 1}, (1, 2), 4, 0.5, 7, True]
    assert [type(v) for v in values] == [dict, tuple, int, float, int, bool]


def test_an_object_without_a_plain_form_equals_nothing(box):
    first, second = box.call("class X: pass\nx = X()\ndef f(): return x", "f", [{}, {}]).cases
    assert first.value != second.value
    assert repr(first.value) == "<object of type X>"


def test_kwargs_errors_and_missing_functions(box):
    result = box.call("def f(a, b=2): return a / b", "f", [{"args": [1]}, {"kwargs": {"a": 3, "b": 0}}, {}])
    assert result.cases[0].value == 0.5
    assert result.cases[1].error == ("ZeroDivisionError", "division by zero")
    assert result.cases[2].error[0] == "TypeError"
    assert box.call("x = 1", "f", [{}]).cases[0].error == ("NameError", "the program defines no 'f'")


def test_a_method_of_solution_is_an_entry_point(box):
    assert box.call("class Solution:\n    def g(self, x): return x + 1", "g", [{"args": [1]}]).cases[0].value == 2


def test_a_program_that_does_not_load(box):
    result = box.call("def f(:", "f", [{}, {}])
    assert result.load_error[0] == "SyntaxError"
    assert [case.error for case in result.cases] == [result.load_error] * 2


def test_user_output_is_apart_from_results(box):
    result = box.call("def f():\n    print('hello')\n    return 1", "f", [{}, {}])
    assert [case.value for case in result.cases] == [1, 1]
    assert result.stdout == b"hello\nhello\n"


def test_main_guard_is_not_run_for_calls(box):
    result = box.call("def f(): return 1\nif __name__ == '__main__':\n    raise SystemExit", "f", [{}])
    assert result.cases[0].value == 1


def test_evaluate_items(box):
    items = [Item("g(x)", "value", {"x": (1, 2)}), Item("g([])", "truth"), Item("assert g([1]) == [1]", "exec")]
    cases = box.evaluate(["import math", "def g(x): return x"], items).cases
    assert (cases[0].value, cases[1].truth, cases[2].truth) == ((1, 2), False, True)


def test_results_before_a_timeout_are_kept(box):
    result = box.call(
        "def f(n):\n    while n > 1: pass\n    return n", "f", [{"args": [n]} for n in (0, 1, 2, 3)], timeout_s=0.5
    )
    assert result.status is RunStatus.TIMEOUT
    assert [case.value for case in result.cases] == [0, 1, None, None]
    assert "time limit" in result.cases[2].fault


def test_memory_error_is_memory(box):
    assert box.run("x = [0] * (1 << 28)", memory_mb=64).status is RunStatus.MEMORY


def test_a_dead_slot_is_replaced_and_the_run_repeated():
    with Sandbox(slots=1) as box:
        assert box.run("print(1)").stdout == b"1\n"
        first = next(iter(box._slot_pool.live))
        os.kill(first._process.pid, signal.SIGKILL)
        first._process.wait()
        assert box.run("print(2)").stdout == b"2\n"
        assert first.dead and first not in box._slot_pool.live


def test_a_closed_sandbox_refuses():
    box = Sandbox(slots=1)
    box.run("print(1)")
    box.close()
    box.close()
    with pytest.raises(InfraError, match="closed"):
        box.run("print(1)")


def test_threads_share_the_slots():
    with Sandbox(slots=2) as box:
        found: list[int] = []

        def work(start: int) -> None:
            for n in range(start, start + 10):
                found.append(int(box.run(f"print({n} * 2)").stdout))

        threads = [threading.Thread(target=work, args=(k * 10,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [2 * n for n in range(40)]
        assert len(box._slot_pool.live) <= 2


def test_a_program_finds_imported_what_it_names():
    with Sandbox(1) as box:
        seen = "import sys; print('num' + 'py' in sys.modules, 'asy' + 'ncio' in sys.modules)"
        assert box.run(seen).stdout == b"False False\n"
        assert box.run(f"{seen}  # numpy").stdout == b"True True\n"
        assert len(box._slot_pool.live) == 2
        assert box.run(seen).stdout == b"False False\n"
        assert len(box._slot_pool.live) == 2  # both kinds are used again


def test_values_of_modules_that_a_slot_has_not_imported():
    program = (
        "def f(n):\n    m = __import__({0: 'path' + 'lib', 1: 'uu' + 'id', 2: 'num' + 'py'}[n])\n"
        "    return m.PurePosixPath('a/b') if n == 0 else m.UUID(int=5) if n == 1 else m.arange(3)\n"
        "async def g(n):\n    return n + 1\n"
    )
    with Sandbox(1) as box:
        values = [
            c.value for c in box.call(program.replace("async ", ""), "f", [{"args": [n]} for n in range(3)]).cases
        ]
        assert values[:2] == [PurePosixPath("a/b"), UUID(int=5)] and list(values[2]) == [0, 1, 2]
        assert [c.value for c in box.call(program, "g", [{"args": [1]}]).cases] == [2]


def test_hashes_repeat_between_slots():
    program = "print(list({'a', 'b', 'c', 'd', 'e'}))"
    outputs = set()
    for _ in range(2):
        with Sandbox(slots=1) as box:
            outputs.add(box.run(program).stdout)
    assert len(outputs) == 1


def test_a_forked_process_gets_its_own_default_sandbox():
    mine = default_sandbox()
    assert mine.run("print(1)").stdout == b"1\n"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            other = default_sandbox()
            code = 0 if other is not mine and other.run("print(2)").stdout == b"2\n" else 2
            other.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert mine.run("print(3)").stdout == b"3\n"


def test_bad_limits_and_arguments_are_refused(box):
    with pytest.raises(UsageError, match="timeout_s is 0"):
        box.run("", timeout_s=0)
    with pytest.raises(UsageError, match="memory_mb is 1"):
        box.run("", memory_mb=1)
    with pytest.raises(UsageError, match="object has no plain form|no plain form"):
        box.call("def f(x): pass", "f", [{"args": [object()]}])


def test_doctor_names_every_level_with_a_reason():
    report = doctor()
    assert set(report["levels"]) == {level.value for level in Level}
    assert report["level"] in ("namespaces", "landlock", None)
    assert all(report["levels"].values())


def test_run_file(tmp_path):
    program, data = tmp_path / "p.py", tmp_path / "in"
    program.write_text("print(int(input()) + 1)")
    data.write_text("41\n")
    assert run_file(program, data).stdout == b"42\n"
    with pytest.raises(DataError, match="no file"):
        run_file(tmp_path / "absent.py")


def test_every_unsafe_result_is_marked(box):
    from qwq.verify.code import clear_cache, verify

    tests = {"kind": "call", "entry_point": "f", "cases": [{"args": [], "expected": 1}]}
    clear_cache()
    with Sandbox(slots=1, level=Level.RLIMITS, unsafe=True) as open_box:
        assert open_box.run("print(1)").unsafe and open_box.call("def f(): return 1", "f", [{}]).unsafe
        verdict = verify("def f(): return 1", tests, sandbox=open_box)
        assert verdict.unsafe and verdict.to_dict()["unsafe"] is True
    clear_cache()
    assert not box.run("print(1)").unsafe
    assert "unsafe" not in verify("def f(): return 1", tests, sandbox=box).to_dict()


def test_files_go_in_and_come_out(box):
    program = (
        "import os\nopen('out', 'wb').write(open('a/in', 'rb').read()[::-1])\nos.symlink('/etc/passwd', 'link')\n"
        "os._exit(7)"
    )
    result = box.run(program, files={"a/in": bytes(range(256))}, fetch=["out", "absent", "link", "a"])
    assert (result.exit_code, result.files) == (7, {"out": bytes(range(255, -1, -1))})
    outside = box.run("print(1)", files={"../x": b""})
    assert outside.status is RunStatus.ERROR and b"outside the working folder" in outside.stderr


def test_a_run_is_given_up_from_another_thread(box):
    from qwq.sandbox import Cancel, Cancelled

    cancel = Cancel()
    threading.Timer(0.3, cancel.set).start()
    with pytest.raises(Cancelled):
        box.cancellable(cancel).run("while True: pass", timeout_s=20)
    with pytest.raises(Cancelled):
        box.cancellable(cancel).run("print(1)")
    assert box.run("print('well')").stdout == b"well\n"


def test_the_watchdog_bounds_a_tree_of_processes_without_a_group():
    with Sandbox(slots=1, cgroups=False) as alone:
        if alone.level is not Level.NAMESPACES:
            pytest.skip("one process a run at this level")
        program = (
            "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n        x = bytes([1]) * (100 << 20)\n"
            "        time.sleep(50)\ntime.sleep(50)"
        )
        assert alone.run(program, memory_mb=128, timeout_s=10).status is RunStatus.MEMORY
        quiet = (
            "import os, time\nfor _ in range(6):\n    if os.fork() == 0: time.sleep(0.3); os._exit(0)\n"
            "time.sleep(0.4)\nprint(1)"
        )
        assert alone.run(quiet, memory_mb=128).stdout == b"1\n"
