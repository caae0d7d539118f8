"""Programs as people and models write them: each of these is right in CPython, so it is right
here.
"""

from __future__ import annotations

import signal

import pytest

from qwq.sandbox import RunStatus, Sandbox
from qwq.types import Outcome
from qwq.verify.code import verify


@pytest.fixture(scope="module")
def box():
    with Sandbox(slots=1) as made:
        yield made


def printed(box, program, stdin=b"", **options):
    result = box.run(program, stdin=stdin, **options)
    assert (result.status, result.exit_code) == (RunStatus.OK, 0), result
    return result.stdout.decode()


def asserts(*lines, setup=""):
    return {"kind": "asserts", "setup": setup, "asserts": list(lines)}


def call(*cases, entry_point="f", **more):
    return {
        "kind": "call",
        "entry_point": entry_point,
        "cases": [{"args": list(a), "expected": e} for a, e in cases],
        **more,
    }


# -- ending


@pytest.mark.parametrize("end", ["exit()", "quit()", "exit(0)", "raise SystemExit", "import sys; sys.exit(None)"])
def test_a_program_may_end_itself(box, end):
    assert printed(box, f"print(int(input()) + 1)\n{end}\nprint('not reached')", b"1\n") == "2\n"
    assert verify(f"def f(x): return x + 1\nprint(f(1))\n{end}", call(([3], 4)), sandbox=box).correct
    assert verify(f"def f(x): return x + 1\n{end}", asserts("assert f(3) == 4"), sandbox=box).correct


@pytest.mark.parametrize("end", ["exit(3)", "quit('sorry')"])
def test_an_end_with_a_status_is_a_failure(box, end):
    assert box.run(f"print(1)\n{end}").exit_code in (1, 3)
    assert not verify(f"def f(x): return x + 1\n{end}", call(([3], 4)), sandbox=box).correct


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGALRM, signal.SIGUSR1])
def test_a_program_that_kills_itself_ends_with_that_signal(box, number):
    result = box.run(f"import os\nprint(1, flush=True)\nos.kill(os.getpid(), {int(number)})\nprint(2)")
    assert (result.status, result.exit_code, result.stdout) == (RunStatus.ERROR, -number, b"1\n")
    tests = {"kind": "stdio", "cases": [{"input": "", "output": "1\n"}]}
    code = f"import os\nprint(1, flush=True)\nos.kill(os.getpid(), {int(number)})"
    assert verify(code, tests, sandbox=box).outcome is Outcome.WRONG


def test_a_timer_without_a_handler_ends_the_program(box):
    result = box.run("import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.1)\nwhile True: pass")
    assert (result.status, result.exit_code) == (RunStatus.ERROR, -signal.SIGALRM)


def test_a_child_that_is_killed_does_not_end_its_parent(box):
    program = (
        "import os, signal\npid = os.fork()\nif not pid: signal.pause()\nos.kill(pid, 9)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    assert printed(box, program) == "-9\n"


def test_many_orphans_do_not_use_up_the_processes(box):
    program = (
        "import os, time\nfor _ in range(100):\n    pid = os.fork()\n    if not pid:\n        os.fork()\n"
        "        os._exit(0)\n    os.waitpid(pid, 0)\n    time.sleep(0.002)\nprint('done')"
    )
    assert printed(box, program) == "done\n"


def test_a_process_that_the_kernel_killed_for_memory_is_told_from_one_that_killed_itself():
    with Sandbox(slots=1) as alone:
        if alone.level != "namespaces":
            pytest.skip("one process cannot outgrow its address space below namespaces")
        assert (
            alone.run("x = b'x' * (500 << 20)\nprint(len(x))", memory_mb=128, timeout_s=10).status is RunStatus.MEMORY
        )
        assert alone.run("import os\nos.kill(os.getpid(), 9)").status is RunStatus.ERROR


# -- annotations


def test_annotations_are_objects_as_in_a_file_without_a_future_import(box):
    assert (
        printed(box, "def f(x: int) -> str: return str(x)\nprint(f.__annotations__)")
        == "{'x': <class 'int'>, 'return': <class 'str'>}\n"
    )
    checked = (
        "def typed(fn):\n    def run(x):\n        assert isinstance(x, fn.__annotations__['x'])\n"
        "        return fn(x)\n    return run\n@typed\ndef f(x: int): return x"
    )
    assert verify(checked, asserts("assert f(1) == 1"), sandbox=box).correct
    local = (
        "from functools import singledispatch\ndef f():\n    class A: pass\n    @singledispatch\n"
        "    def g(x): return 0\n    @g.register\n    def _(x: A): return 1\n    return g(A())"
    )
    assert verify(local, call(([], 1)), sandbox=box).correct


def test_a_future_import_of_the_program_s_own_holds(box):
    program = "from __future__ import annotations\ndef f(x: nowhere): return x\nprint(f.__annotations__)"
    assert printed(box, program) == "{'x': 'nowhere'}\n"


@pytest.mark.parametrize("tests", [asserts("assert f([1]) == 1"), call(([[1]], 1))])
def test_a_missing_import_in_an_annotation_is_an_error(box, tests):
    verdict = verify("def f(a: List[int]) -> Optional[int]: return a[0]", tests, sandbox=box)
    assert verdict.outcome is Outcome.WRONG and "name 'List' is not defined" in verdict.reason
    assert verify("from typing import *\ndef f(a: List[int]) -> Optional[int]: return a[0]", tests, sandbox=box).correct


# -- LeetCode's form

CLASHES = (
    "merge search sample copy mode floor reduce filter range next open contains sorted pow hash median fsum".split()
)


@pytest.mark.parametrize("name", CLASHES)
def test_a_method_of_solution_comes_before_names_of_the_prelude(box, name):
    code = f"class Solution:\n    def {name}(self, a):\n        return [x * 2 for x in a]\n"
    tests = call(([[3, 1]], [6, 2]), entry_point=name, compare="livecodebench")
    assert verify(code, tests, sandbox=box).correct
    assert verify(
        f"from heapq import *\nfrom bisect import *\n{code}", call(([[3, 1]], [6, 2]), entry_point=name), sandbox=box
    ).correct


def test_a_function_beside_a_solution_without_that_method(box):
    code = "class Solution:\n    def other(self): return 0\ndef merge(a): return a[0]\n"
    assert verify(code, call(([[3, 1]], 3), entry_point="merge", compare="livecodebench"), sandbox=box).correct


# -- streams

WAYS = [
    ("python", "print(open('/dev/stdin').read().strip())"),
    ("python", "open('/dev/stdout', 'w').write(open('/dev/fd/0').read())"),
    ("python", "import sys\nprint(input())\nprint('x', file=open('/dev/stderr', 'w'))"),
    ("javascript", "console.log(require('fs').readFileSync('/dev/stdin', 'utf8').trim())"),
    (
        "cpp",
        '#include <cstdio>\nint main() { freopen("/dev/stdin", "r", stdin); char s[9]; scanf("%8s", s); puts(s); }',
    ),
    ("bash", "cat /dev/stdin"),
    ("bash", "read x < /dev/stdin\necho $x > /dev/stdout"),
    ("bash", "while read x; do echo $x; done < <(cat)"),
    ("bash", "cat | cat /dev/stdin"),
]


@pytest.mark.parametrize("language, program", WAYS)
def test_standard_streams_by_name(box, language, program):
    if language != "python":
        from qwq.sandbox.languages import available

        if not available()[language].startswith("/"):
            pytest.skip(f"{language} is not installed here")
    for text in ("ab", "cd"):  # nothing of an earlier run is in the way
        assert printed(box, program, f"{text}\n".encode(), language=language, timeout_s=20).strip() == text


def test_input_that_is_not_utf_8_and_halves_of_surrogate_pairs_go_in_and_out_as_they_are(box):
    assert box.run("print(input(), end='')", stdin=b"\xff\xfea\n").stdout == b"\xff\xfea"
    tests = {"kind": "stdio", "cases": [{"input": "a\ud800b\n", "output": "3 a\ud800b\n"}]}
    assert verify("s = input()\nprint(len(s), s)", tests, sandbox=box).correct
