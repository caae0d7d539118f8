"""Programs that want a right verdict without the right answer. One property each."""

from __future__ import annotations

import time

import pytest

from qwq.sandbox import Sandbox
from qwq.types import Outcome
from qwq.verify.code import clear_cache, verify

CALLS = {
    "kind": "call",
    "entry_point": "f",
    "cases": [{"args": [n], "expected": 1000 + 37 * n} for n in (1, 2, 3)],
}
ASSERTS = {"kind": "asserts", "setup": "", "asserts": [f"assert f({n}) == {1000 + 37 * n}" for n in (1, 2, 3)]}
NEAR = {
    "kind": "asserts",
    "setup": "import math",
    "asserts": ["assert math.isclose(f(1), 1037.5)", "assert abs(f(2) - 1074.25) < 1e-6"],
}
STDIO = {"kind": "stdio", "cases": [{"input": "1\n", "output": "1037\nend"}, {"input": "2\n", "output": "1074\nend"}]}


@pytest.fixture(autouse=True)
def _fresh():
    clear_cache()


def judged(box: Sandbox, code: str, tests: dict, **options):
    return verify(code, tests, sandbox=box, timeout_s=options.pop("timeout_s", 3.0), **options)


def assert_refused(box: Sandbox, code: str, *kinds: dict, **options) -> None:
    for tests in kinds or (CALLS, ASSERTS, NEAR):
        verdict = judged(box, code, tests, **options)
        assert verdict.outcome is Outcome.WRONG, verdict
        assert verdict.passed == 0
        assert not verdict.forgeable


def test_the_right_program_passes_all_kinds(jail):
    right = "def f(n):\n    return 1000 + 37 * n"
    assert judged(jail, right, CALLS).correct
    assert judged(jail, right, ASSERTS).correct
    near = "def f(n):\n    return {1: 1037.5, 2: 1074.25}[n]"
    assert judged(jail, near, NEAR).correct
    assert judged(jail, "n = int(input())\nprint(1000 + 37 * n)\nprint('end')", STDIO).correct


def test_sys_exit_at_load(jail):
    assert_refused(jail, "import sys\nsys.exit(0)")


def test_sys_exit_inside_the_function(jail):
    assert_refused(jail, "import sys\ndef f(n):\n    sys.exit(0)")


def test_os_exit_inside_the_function(jail):
    assert_refused(jail, "import os\ndef f(n):\n    os._exit(0)")


def test_os_exit_fails_the_remaining_cases_only(jail):
    verdict = judged(jail, "import os\ndef f(n):\n    if n == 2: os._exit(0)\n    return 1000 + 37 * n", CALLS)
    assert (verdict.outcome, verdict.passed, verdict.total) == (Outcome.WRONG, 1, 3)


def test_system_exit_in_atexit(jail):
    code = "import atexit\n@atexit.register\ndef g():\n    raise SystemExit(0)\ndef f(n):\n    return 0"
    assert_refused(jail, code)
    assert_refused(jail, "import atexit, sys\natexit.register(lambda: sys.exit(0))\nprint(1)", STDIO)


LIARS = """
class Int(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    __lt__ = __le__ = __gt__ = __ge__ = __eq__
    def __sub__(self, other): return 0
    __rsub__ = __sub__
class Str(str):
    def __eq__(self, other): return True
    def __hash__(self): return 0
    def strip(self, *a): return "1037"
class Float(float):
    def __eq__(self, other): return True
    def __float__(self): return 1037.5
    def __sub__(self, other): return 0.0
    def __abs__(self): return 0.0
    __rsub__ = __sub__
    __hash__ = None
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __sub__(self, other): return self
    def __abs__(self): return self
    def __float__(self): return 1037.5
class List(list):
    def __eq__(self, other): return True
    def __iter__(self): return iter([1037])
"""


@pytest.mark.parametrize("kind", ["Int(5)", "Str('x')", "Float(2.5)", "Any()", "List([1])"])
def test_objects_with_lying_methods(jail, kind):
    assert_refused(jail, f"{LIARS}\ndef f(n):\n    return {kind}")


def test_class_property_and_metaclass_do_not_disguise_a_type(jail):
    code = (
        "class Meta(type):\n"
        "    def mro(cls): return [cls, object]\n"
        "    def __eq__(cls, other): return True\n"
        "    def __hash__(cls): return hash(int)\n"
        "class X(metaclass=Meta):\n"
        "    __class__ = property(lambda self: int)\n"
        "    def __index__(self): return 1037\n"
        "    def __eq__(self, other): return True\n"
        "def f(n): return X()"
    )
    assert_refused(jail, code)


SEARCH = """
import sys, gc
mark = "=" * 2 + " 1"
def search(value, depth=0):
    if depth > 4 or value is globals(): return None
    if type(value) is int and 1000 < value < 1200: return value
    if type(value) is str and mark in value: return int(value[value.index(mark) + 3:][:4])
    parts = list(value.values()) if type(value) is dict else value if type(value) in (list, tuple, set) else ()
    for part in parts:
        found = search(part, depth + 1)
        if found: return found
"""


def test_the_search_of_these_attacks_finds_what_is_there(jail):
    program = SEARCH + "print(search([{'a': (1, 'assert f(1) ' + '== 1037')}]), search({'b': [1000 + 37]}))"
    assert jail.run(program).stdout == b"1037 1037\n"


def test_frame_walk_for_expected_values(jail):
    code = (
        SEARCH
        + """
def f(n):
    frame = sys._getframe(1)
    while frame:
        found = search(dict(frame.f_locals)) or search(frame.f_code.co_consts)
        if found: return found
        frame = frame.f_back
"""
    )
    assert_refused(jail, code, CALLS, ASSERTS)


def test_gc_scan_for_expected_values(jail):
    code = (
        SEARCH
        + """
def f(n):
    gc.unfreeze()
    for thing in gc.get_objects():
        if type(thing) in (dict, list, tuple) and len(thing) < 50:
            found = search(thing, 4) or search(thing, 3)
            if found in (1000 + n * 37, 1000 + n * 36 + n): return found
"""
    )
    assert_refused(jail, code, CALLS, ASSERTS)


def test_patched_builtins_json_and_modules(jail):
    code = """
import builtins, json, sys, operator
class Yes(int):
    def __eq__(self, other): return True
for name in ('all', 'any', 'isinstance', 'type', 'repr', 'str', 'len', 'print'):
    setattr(builtins, name, lambda *a, **k: True)
json.dumps = lambda *a, **k: '{"i": 0, "t": true}'
json.loads = lambda *a, **k: {}
operator.eq = lambda a, b: True
for name in list(sys.modules):
    if 'codec' in name:
        sys.modules[name].encode = lambda v: ["o", "x"]
def f(n): return Yes(0)
"""
    assert_refused(jail, code, CALLS, ASSERTS)


def test_patched_comparison_helpers_of_the_setup(jail):
    code = (
        "import math\nmath.isclose = lambda *a, **k: True\nabs = lambda x: 0\nsorted = lambda x: 0\n"
        "def f(n): return 0.5"
    )
    assert_refused(jail, code, NEAR)


def test_forged_results_on_every_descriptor(jail):
    code = """
import os
for fd in range(64):
    for text in (b'{"i": 0, "ok": true}\\n{"i": 0, "t": true}\\n{"passed": 3}\\nPASSED\\nR\\n', b'\\xff\\x00\\n', b'[' * 5000 + b'\\n'):
        try: os.write(fd, text)
        except OSError: pass
def f(n): return None
"""
    assert_refused(jail, code)


def test_success_marker_printed(jail):
    assert_refused(jail, "def f(n):\n    print('OK', 'PASSED', 'True', '{\"outcome\": \"correct\"}')")


def test_all_descriptors_closed(jail):
    assert_refused(jail, "import os\nos.closerange(0, 256)\ndef f(n): return 1000 + 37 * n", CALLS)


def test_fork_with_the_parent_returning(jail):
    code = (
        "import os, time\ndef f(n):\n    if os.fork() == 0:\n        time.sleep(0.1)\n        return 1000 + 37 * n\n"
        "    return 0"
    )
    assert_refused(jail, code, CALLS)


def test_truth_is_taken_but_not_of_a_broken_bool(jail):
    tests = {"kind": "asserts", "asserts": ["assert f(1)", "assert not f(2)"]}
    assert judged(jail, "def f(n): return object() if n == 1 else []", tests).correct
    broken = "class X:\n    def __bool__(self): raise ValueError\ndef f(n): return X()"
    assert_refused(jail, broken, tests)


def test_state_left_for_the_next_test(jail):
    first = "import builtins\nbuiltins.secret = 1\nopen('left', 'w').write('x')\nprint('done')"
    assert jail.run(first).stdout == b"done\n"
    second = "import builtins, os\nprint(hasattr(builtins, 'secret'), os.listdir('.'))"
    assert jail.run(second).stdout == b"False []\n"


def test_first_line_only_against_several(jail):
    assert_refused(jail, "print(1000 + 37 * int(input()))", STDIO)


def test_no_output_against_expected_output(jail):
    assert_refused(jail, "pass", STDIO)


def test_empty_against_empty_is_right_and_any_output_is_not(jail):
    empty = {"kind": "stdio", "cases": [{"input": "", "output": ""}]}
    assert judged(jail, "pass", empty).correct
    assert_refused(jail, "print(0)", empty)


def test_negative_zero_and_large_integers_are_told_apart(jail):
    tests = {"kind": "stdio", "cases": [{"input": "", "output": "0"}]}
    assert_refused(jail, "print('-0')", tests)
    large = {"kind": "stdio", "cases": [{"input": "", "output": "50000000000000001"}]}
    assert_refused(jail, "print(50000000000000000)", large)
    assert judged(jail, "print(50000000000000000)", large, tolerance=1e-6).outcome is Outcome.WRONG
    call = {"kind": "call", "entry_point": "f", "cases": [{"args": [], "expected": 50000000000000001}]}
    assert_refused(jail, "def f(): return 50000000000000000", call)


HOSTILE_VALUES = {
    "deep": "x = []\n    for _ in range(100000): x = [x]\n    return x",
    "cycle": "x = []\n    x.append(x)\n    return x",
    "nan": "return float('nan')",
    "surrogate": "return '\\ud800'",
    "huge integer": "return 1 << 4000000",
    "wide": "return [0] * 3000000",
    "shared doubling": "x = [0]\n    for _ in range(40): x = [x, x]\n    return x",
}


@pytest.mark.parametrize("name", HOSTILE_VALUES)
def test_values_that_would_hurt_the_grader(strongest, name):
    assert_refused(strongest, f"def f(n):\n    {HOSTILE_VALUES[name]}", CALLS)


def test_colliding_keys_that_would_take_the_grader_quadratic_time(strongest):
    code = (
        "import json, os\nnodes = [['s', 100000]] + [['i', format(k * (2 ** 61 - 1) << 10, 'x')] for k in "
        "range(100000)]\n"
        "data = json.dumps({'i': 0, 'v': nodes}).encode() + b'\\n'\n"
        "while data: data = data[os.write(3, data):]\n"
        "def f(n): return 0"
    )
    started = time.process_time()  # the grader is in this process
    assert_refused(strongest, code, CALLS)
    assert time.process_time() - started < 4


def test_raw_json_that_would_hurt_the_grader(strongest):
    for text in (
        '{"i": 0, "v": [1e400]}',
        '{"i": 0, "v": [NaN]}',
        '{"i": 0, "v": ' + "[" * 100000,
        '{"i": 0, "v": [["l", 1000000000]]}',
    ):
        code = f"import os\nos.write(3, {text!r}.encode() + b'\\n')\ndef f(n): return 0"
        assert_refused(strongest, code, CALLS)


def test_a_message_of_lone_surrogates_does_not_hurt_the_grader(strongest):
    code = "def f(n):\n    raise ValueError('\\ud800\\x1b[2J\\x00')"
    verdict = judged(strongest, code, CALLS)
    assert verdict.outcome is Outcome.WRONG and "raised ValueError" in verdict.reason
    assert verdict.reason.encode() and "\x1b" not in verdict.reason and "\x00" not in verdict.reason
    forged = 'import os\nos.write(3, b\'{"i": 0, "v": [["o", "\\\\ud800"]]}\\n\')\ndef f(n): return 0'
    assert judged(strongest, forged, CALLS).reason.encode()


def test_huge_numbers_under_a_tolerance_cost_no_time(strongest):
    for value in ("1 << 4000000", "-(1 << 100000)", "10 ** 400", "1e308 * 10", "float('nan')"):
        for expected in (1, 1.5):
            tests = {"kind": "call", "entry_point": "f", "cases": [{"args": [], "expected": expected}]}
            started = time.monotonic()
            assert_refused(strongest, f"def f(): return {value}", tests, tolerance=1e-6)
            assert time.monotonic() - started < 2


def test_a_flood_of_lines_costs_the_grader_no_memory(strongest):
    import tracemalloc

    from qwq.sandbox.limits import RunStatus as Status
    from qwq.sandbox.runner import parse_records

    flood = b"\n" * (31 << 20)
    tracemalloc.start()
    cases, _ = parse_records(flood, 3, Status.OK)
    assert tracemalloc.get_traced_memory()[1] < 80 << 20
    tracemalloc.stop()
    assert all(case.fault for case in cases)
    wide, _ = parse_records(b'{"i": 0, "v": [' + b"0," * (12 << 20) + b"0]}", 1, Status.OK)
    assert wide[0].fault


def test_the_prelude_of_published_tests_does_not_help(strongest):
    tests = {**CALLS, "compare": "livecodebench"}
    assert_refused(strongest, f"{LIARS}\ndef f(n): return Any()", tests)
    assert_refused(strongest, "import sys\nsys.modules['builtins'].tuple = list\ndef f(n): return ()", tests)


def test_keys_that_call_themselves_different(jail):
    """One key with two values would be equal to a dict with either of them."""
    for base in ("str", "int", "bytes"):
        key = {"str": "'a'", "int": "5", "bytes": "b'a'"}[base]
        keys = (
            f"class K({base}):\n    def __eq__(self, other): return self is other\n"
            "    def __hash__(self): return id(self)\n"
        )
        mapping = f"{keys}def f(): return {{K({key}): 1, K({key}): 2}}"
        assert_refused(jail, mapping, {"kind": "asserts", "asserts": [f"assert f() == {{{key}: 2}}"]})
        tests = {
            "kind": "call",
            "entry_point": "f",
            "cases": [{"args": [], "expected": {"a": 2} if base == "str" else {}}],
        }
        assert_refused(jail, mapping, tests)
        assert_refused(
            jail,
            f"{keys}def f(): return {{K({key}), K({key})}}",
            {"kind": "asserts", "asserts": [f"assert f() == {{{key}}}"]},
        )


def test_a_key_that_calls_itself_another_one(jail):
    code = (
        "class K(str):\n    def __eq__(self, other): return True\n    def __hash__(self): return hash('a')\n"
        "def f(): return {K('z'): 1}"
    )
    assert_refused(jail, code, {"kind": "asserts", "asserts": ["assert f() == {'a': 1}"]})


def test_a_program_that_kills_itself_after_the_right_output(jail):
    for number in (9, 15, 11, 6, 14):
        tests = {"kind": "stdio", "cases": [{"input": "", "output": "1\n"}]}
        assert_refused(jail, f"import os\nprint(1, flush=True)\nos.kill(os.getpid(), {number})", tests)
