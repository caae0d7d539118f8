"""Right programs that graders often fail, and wrong ones that they often pay: each verdict is
Python's own, worked out by hand.
"""

from __future__ import annotations

import pytest

from qwq.errors import UsageError
from qwq.sandbox import Sandbox
from qwq.types import Outcome, Verdict
from qwq.verify.code import clear_cache, verify


@pytest.fixture(scope="module")
def box():
    with Sandbox(slots=1) as made:
        yield made


def judged(box, code, *asserts, setup="", **options) -> Verdict:
    return verify(code, {"kind": "asserts", "setup": setup, "asserts": list(asserts)}, sandbox=box, **options)


def stdio(box, code, given, output, **more):
    options = {k: more.pop(k) for k in ("timeout_s", "memory_mb", "output_limit_bytes", "tolerance") if k in more}
    return verify(
        code, {"kind": "stdio", "cases": [{"input": given, "output": output}], **more}, sandbox=box, **options
    )


# -- objects

POINT = (
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n    y: int = 0\n"
    "def add(a, b): return P(a.x + b.x, a.y + b.y)"
)
VECTOR = (
    "class V:\n    def __init__(s, *x): s.x = x\n    def __eq__(s, o): return isinstance(o, V) and s.x == o.x\n"
    "    def __add__(s, o): return V(*(a + b for a, b in zip(s.x, o.x)))"
)
COLOUR = "from enum import Enum\nclass C(Enum):\n    R = 1\n    G = 2\ndef f(n): return C.G if n else C.R"
OBJECTS = [
    (POINT, "assert add(P(1), P(2)) == P(3)", "assert add(P(1), P(2)) == P(4)"),
    (POINT, "assert [add(P(1), P(2))] == [P(3)]", "assert [add(P(1), P(2))] == [P(2)]"),
    (POINT, "assert add(P(1), P(2)) in (P(3), P(9))", "assert add(P(1), P(2)) in (P(4), P(9))"),
    (POINT, "assert add(P(1), P(2)) != P(4)", "assert add(P(1), P(2)) != P(3)"),
    (POINT, "assert isinstance(add(P(1), P(2)), P)", "assert isinstance(add(P(1), P(2)).x, P)"),
    (POINT, "assert repr(add(P(1), P(2))) == 'P(x=3, y=0)'", "assert repr(add(P(1), P(2))) == 'P(x=4, y=0)'"),
    (VECTOR, "assert V(1, 2) + V(3, 4) == V(4, 6)", "assert V(1, 2) + V(3, 4) == V(4, 7)"),
    (COLOUR, "assert f(1) == C.G", "assert f(0) == C.G"),
    (COLOUR, "assert f(1) is C.G", "assert f(0) is C.G"),
    (COLOUR, "assert f(1) is not C.R", "assert f(0) is not C.R"),
    (COLOUR, "assert f(1).name == 'G'", "assert f(0).name == 'G'"),
    (COLOUR, "assert {f(1): 2} == {C.G: 2}", "assert {f(1): 2} == {C.R: 2}"),
    ("class E(Exception): pass\ndef f(): return E('x')", "assert type(f()) is E", "assert type(f()) is ValueError"),
    ("def f(): return 1.0", "assert type(f()) is float", "assert type(f()) is int"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "right", "wrong"), OBJECTS)
def test_objects_are_compared_by_their_own_rules(box, code, right, wrong):
    assert judged(box, code, right).correct
    assert judged(box, code, wrong).outcome is Outcome.WRONG


@pytest.mark.parametrize(("code", "right", "wrong"), OBJECTS[:3] + OBJECTS[6:9])
def test_what_is_decided_beside_the_program_says_so(box, code, right, wrong):
    assert judged(box, code, right).forgeable


VALUES = [
    (
        "import datetime\ndef f(): return datetime.datetime(2020, 1, 1, 12, tzinfo=datetime.timezone.utc)",
        "import datetime",
        "f() == datetime.datetime(2020, 1, 1, 12, tzinfo=datetime.timezone.utc)",
        "f() == datetime.datetime(2020, 1, 1, 13, tzinfo=datetime.timezone.utc)",
    ),
    (
        "import datetime as d\ndef f(): return d.datetime(2020, 1, 1, 12, tzinfo=d.timezone(d.timedelta(hours=2)))",
        "import datetime as d",
        "f() == d.datetime(2020, 1, 1, 10, tzinfo=d.timezone.utc)",
        "f() == d.datetime(2020, 1, 1, 12, tzinfo=d.timezone.utc)",
    ),
    (
        "from pathlib import Path\ndef f(): return Path('a') / 'b'",
        "from pathlib import Path",
        "f() == Path('a/b')",
        "f() == Path('a/c')",
    ),
    (
        "from pathlib import *\ndef f(): return [PurePosixPath('a'), Path('b')]",
        "from pathlib import *",
        "f() == [PurePosixPath('a'), Path('b')]",
        "f() == [Path('b')]",
    ),
    (
        "from collections import deque\ndef f(): return deque([1, 2], 5)",
        "from collections import deque",
        "f() == deque([1, 2])",
        "f() == deque([2, 1])",
    ),
    ("from collections import deque\ndef f(): return deque([1, 2])", "", "list(f()) == [1, 2]", "f() == [1, 2]"),
    (
        "import uuid\ndef f(): return uuid.UUID(int=5)",
        "import uuid",
        "f() == uuid.UUID(int=5)",
        "f() == uuid.UUID(int=6)",
    ),
    (
        "from array import array\ndef f(): return array('i', [1, 2])",
        "from array import array",
        "f() == array('i', [1, 2])",
        "f() == array('i', [1])",
    ),
    (
        "from collections import OrderedDict as O\ndef f(): return O(b=1, a=2)",
        "from collections import OrderedDict",
        "f() == OrderedDict(b=1, a=2)",
        "f() == OrderedDict(a=2, b=1)",
    ),
    (
        "from collections import OrderedDict as O\ndef f():\n    d = O(b=1, a=2)\n    d.move_to_end('b')\n    return d",
        "from collections import OrderedDict",
        "f() == OrderedDict(a=2, b=1)",
        "f() == OrderedDict(b=1, a=2)",
    ),
    (
        "from collections import OrderedDict as O\ndef f(): return O(b=1, a=2)",
        "",
        "f() == {'a': 2, 'b': 1}",
        "f() == {'a': 2}",
    ),
    (
        "from collections import Counter\ndef f(): return Counter('aab')",
        "from collections import Counter",
        "f() == Counter(a=2, b=1)",
        "f() == Counter(a=1, b=1)",
    ),
    (
        "import numpy as np\ndef f(a): return np.array(a) / 2",
        "import numpy as np",
        "np.allclose(f([1, 2]), [0.5, 1.0])",
        "np.allclose(f([1, 2]), [0.5, 1.1])",
    ),
    (
        "import numpy as np\ndef f(a): return np.array(a) * 2",
        "import numpy as np",
        "np.array_equal(f([1, 2]), np.array([2, 4]))",
        "np.array_equal(f([1, 2]), np.array([2, 5]))",
    ),
    (
        "import numpy as np\ndef f(a): return np.array(a) * 2",
        "import numpy as np",
        "(f([1, 2]) == np.array([2, 4])).all()",
        "(f([1, 2]) == np.array([2, 5])).all()",
    ),
    (
        "import numpy as np\ndef f(a): return np.eye(2, dtype=int)",
        "import numpy as np",
        "f(1).tolist() == [[1, 0], [0, 1]] and f(1).shape == (2, 2)",
        "f(1).tolist() == [[1, 0], [1, 1]]",
    ),
    ("def f():\n    yield 1\n    yield 2", "", "next(f()) == 1", "next(f()) == 2"),
    ("def f():\n    yield 1\n    yield 2", "", "list(f()) == [1, 2] and sum(f()) == 3", "list(f()) == [1]"),
    (
        "def f():\n    while True: yield 7",
        "import itertools",
        "list(itertools.islice(f(), 3)) == [7, 7, 7]",
        "list(itertools.islice(f(), 3)) == [7]",
    ),
    ("async def f(a): return a + 1", "import asyncio", "asyncio.run(f(1)) == 2", "asyncio.run(f(1)) == 3"),
    ("async def f(a): return a + 1", "", "(await f(1)) == 2", "(await f(1)) == 3"),
]


@pytest.mark.parametrize(("code", "setup", "right", "wrong"), VALUES)
def test_values_of_the_standard_library_and_numpy(box, code, setup, right, wrong):
    good, bad = judged(box, code, f"assert {right}", setup=setup), judged(box, code, f"assert {wrong}", setup=setup)
    assert good.correct, good.reason
    assert bad.outcome is Outcome.WRONG


def test_most_of_these_are_decided_where_the_program_never_is(box):
    beside = ["all()"]
    for code, setup, right, _ in VALUES:
        assert judged(box, code, f"assert {right}", setup=setup).forgeable is any(word in right for word in beside), (
            right
        )


# -- the setup

NODES = """
class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next
def build(values):
    head = None
    for value in reversed(values): head = ListNode(value, head)
    return head
def values(node):
    out = []
    while node: out.append(node.val); node = node.next
    return out
def same(a, b): return values(a) == values(b)
"""
REVERSE = (
    "class Solution:\n    def rev(self, head: ListNode) -> ListNode:\n        before = None\n"
    "        while head: head.next, before, head = before, head, head.next\n        return before"
)


def test_helpers_and_base_classes_of_the_setup(box):
    assert judged(box, REVERSE, "assert values(Solution().rev(build([1, 2, 3]))) == [3, 2, 1]", setup=NODES).correct
    assert judged(box, REVERSE, "assert same(Solution().rev(build([1, 2])), build([2, 1]))", setup=NODES).correct
    assert not judged(box, REVERSE, "assert values(Solution().rev(build([1, 2, 3]))) == [1, 2, 3]", setup=NODES).correct
    assert not judged(box, REVERSE, "assert same(Solution().rev(build([1, 2])), build([1, 2]))", setup=NODES).correct
    base = "class B(Base):\n    def w(self): return self.v + STEP\ndef f(): return B().w()"
    assert judged(box, base, "assert f() == 6", setup="class Base:\n    v = 1\nSTEP = 5").correct
    load = "X = LIMIT + 1\ndef f(): return X"
    assert judged(box, load, "assert f() == 6", setup="LIMIT = 5").correct
    assert not judged(box, load, "assert f() == 6", setup="LIMIT = 4").correct
    decorated = "@register\ndef f(): return 1"
    assert judged(
        box,
        decorated,
        "assert f() == 1",
        "assert 'f' in names",
        setup="names = []\ndef register(fn):\n    names.append(fn.__name__)\n    return fn",
    ).correct


def test_the_reference_in_the_setup_stays_out_of_reach(box):
    setup = "import random\ndef ref(n): return n * 37 + 1000\nTABLE = {3: 1111}\ncases = [(i, ref(i)) for i in (5, 6)]"
    tests = ["assert f(3) == ref(3)", "assert f(3) == TABLE[3]", "assert f(cases[0][0]) == cases[0][1]"]
    right = judged(box, "def f(n): return n * 37 + 1000", *tests, setup=setup)
    assert right.correct and not right.forgeable
    peek = (
        "import sys\ndef f(n):\n    for k, v in list(globals().items()) + "
        "list(vars(sys.modules['__main__']).items()):\n        if callable(v) and k == 'ref': return v(n)\n"
        "        if k == 'TABLE': return v[n]\n    return -1"
    )
    assert judged(box, peek, *tests, setup=setup).passed == 0


SHOWN = [
    ("def f(x):\n    return outs[ins.index(x)]", "ins, outs = [3, 4], [9, 16]", ["assert f(ins[0]) == outs[0]"]),
    ("def f(x): return T.out", "class T:\n    inp = 3\n    out = 9", ["assert f(T.inp) == T.out"]),
    (
        "def f(x):\n    for a, e in CASES:\n        if a == x: return e",
        "CASES = [(3, 9), (4, 16)]",
        ["assert f(CASES[0][0]) == CASES[0][1]", "assert f(4) == CASES[1][1]"],
    ),
    ("def f(x): return ref(x)", "def ref(x): return x * x", ["assert f(3) == ref(3)"]),
    (
        "import sys\ndef f(x): return sys._getframe(1).f_locals['y']",
        "def check(fn, x, y): return fn(x) == y",
        ["assert check(f, 3, 9)"],
    ),
    (
        "class E:\n    def __eq__(s, o): return True\ndef f(x): return E()",
        "def check(fn, x, y): return fn(x) == y",
        ["assert check(f, 3, 9)"],
    ),
    ("class E:\n    def __eq__(s, o): return True\ndef f(x): return E()", "", ["assert (lambda g: g(3) == 9)(f)"]),
    (
        "class E:\n    def __eq__(s, o): return True\nclass S:\n    def f(self, x): return E()",
        "def check(fn, x, y): return fn(x) == y",
        ["assert check(S().f, 3, 9)"],
    ),
    (
        "class E:\n    def __eq__(s, o): return True\ndef f(x): return E()",
        "def check(r, y): return r == y",
        ["assert check(f(3), 9)"],
    ),
    (
        "def f(x): return CONFIG['answer']",
        "CONFIG = {'answer': 42, 'question': 7}",
        ["assert f(CONFIG['question']) == CONFIG['answer']"],
    ),
]


@pytest.mark.parametrize(("code", "setup", "tests"), SHOWN)
def test_what_a_program_is_shown_pays_only_with_a_mark(box, code, setup, tests):
    verdict = judged(box, code, *tests, setup=setup)
    assert not verdict.correct or verdict.forgeable


BUILTIN_CHEATS = [
    ("def isinstance(*a): return True\nclass P: pass\ndef f(): return 3", "assert isinstance(f(), P)"),
    (
        "import builtins\nbuiltins.isinstance = lambda *a: True\nclass P: pass\ndef f(): return 3",
        "assert isinstance(f(), P)",
    ),
    ("def sorted(x): return [1, 2]\ndef f(): return [5]", "assert sorted(f()) == [1, 2]"),
    ("import builtins\nbuiltins.len = lambda x: 3\ndef f(): return [5]", "assert len(f()) == 3"),
    ("def all(x): return True\ndef f(x): return False", "assert all(map(f, [1, 2]))"),
    ("def set(x): return 4\ndef f(): return [5]", "assert len(set(f())) == 2"),
    ("def abs(x): return 0\ndef f(): return 5", "assert abs(f() - 4) < 1e-9"),
    ("def hasattr(*a): return True\nclass P: pass\ndef f(): return P()", "assert hasattr(f(), 'value')"),
]


@pytest.mark.parametrize(("code", "test"), BUILTIN_CHEATS)
def test_builtins_that_a_test_calls_are_the_judge_s(box, code, test):
    assert judged(box, code, test).outcome is Outcome.WRONG


# -- state and randomness


def test_arguments_changed_in_place(box):
    sort = "def f(a): a.sort()"
    assert judged(box, sort, "assert f(a) is None", "assert a == [1, 3]", setup="a = [3, 1]").correct
    assert judged(box, sort, "assert f(a) is None", "assert a[0] == 1 and len(a) == 2", setup="a = [3, 1]").correct
    assert not judged(box, "def f(a): pass", "assert f(a) is None", "assert a == [1, 3]", setup="a = [3, 1]").correct
    assert not judged(
        box, "def f(a): a.reverse()", "assert f(a) is None", "assert a == [1, 3]", setup="a = [3, 2, 1]"
    ).correct
    twice = "def f(d): d['n'] = d.get('n', 0) + 1\ndef g(d): return d['n']"
    assert judged(
        box,
        twice,
        "assert f(d) is None",
        "assert f(d) is None",
        "assert g(d) == 2",
        "assert d == {'n': 2}",
        setup="d = {}",
    ).correct
    same = "def f(a):\n    a.append(9)\n    return a"
    assert judged(box, same, "assert f(a) == a", setup="a = [1]").correct
    assert judged(box, same, "assert f(a) is a", setup="a = [1]").forgeable


def test_a_setup_is_run_once(box):
    sort = "def f(a): return sorted(a)"
    assert judged(
        box, sort, "assert f(d) == sorted(d)", setup="import random\nd = [random.randint(0, 10**9) for _ in range(5)]"
    ).correct
    assert not judged(
        box, "def f(a): return a", "assert f(d) == sorted(d)", setup="import random\nd = [3, 1, random.random()]"
    ).correct
    assert judged(box, "def f(a): return a", "assert f(t) == t", setup="import time\nt = time.time()").correct
    assert not judged(box, "def f(a): return a + 1", "assert f(t) == t", setup="import time\nt = time.time()").correct
    assert judged(box, "def f(a): return a", "assert f(o) is o", setup="o = object()").correct
    assert not judged(box, "def f(a): return object()", "assert f(o) is o", setup="o = object()").correct
    assert judged(
        box, "def f(a): return str(a)", "assert f(u) == str(u)", setup="import uuid\nu = uuid.uuid4()"
    ).correct
    seeded = "import random\ndef f(n): return [random.randint(0, 9) for _ in range(n)]"
    assert judged(box, seeded, "assert len(f(n)) == n", setup="import random\nn = random.randint(2, 5)").correct


def test_a_cheat_that_changes_its_argument_gains_nothing(box):
    setup = "import random\nd = [random.randint(0, 10**9) for _ in range(5)]"
    verdict = judged(box, "def f(d):\n    d.clear()\n    return []", "assert f(d) == sorted(d)", setup=setup)
    assert not verdict.correct or verdict.forgeable


# -- programs and their streams


def test_output_of_any_length_that_is_expected(box):
    output = "\n".join(str(1_000_000 + i) for i in range(200_000))
    code = "n = int(input())\nprint('\\n'.join(str(1000000 + i) for i in range(n)))"
    assert stdio(box, code, "200000\n", output, timeout_s=10).correct
    much = stdio(box, "print('a' * (8 << 20))", "", "a\n")
    assert much.outcome is Outcome.WRONG and much.output_cut and "too much output" in much.reason
    assert stdio(box, "print('a' * (2 << 20))", "", "a\n", output_limit_bytes=4 << 20).reason.startswith(
        "case 1 of 1: line 1 is"
    )


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("import sys\nprint(2)\nsys.stdout.close()", "2\n"),
        ("import sys\nprint(2)\nsys.stderr.close()", "2\n"),
        ("import sys\nprint(2)\nsys.stdin.close()", "2\n"),
        ("import sys\nprint(2, flush=True)\nsys.stdout = None", "2\n"),
        ("import os\nprint(2, flush=True)\nos.close(2)", "2\n"),
        ("class A:\n    def __del__(self): print('bye')\na = A()\nprint(2)", "2\nbye\n"),
        ("class A:\n    def __del__(self): print('bye')\n_a = A()\nb = [_a]\n_a.b = b\nprint(2)", "2\nbye\n"),
        ("out = open('/dev/stdout', 'w')\nout.write('2\\n')", "2\n"),
        ("import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, 'bye')\nprint(2)", "2\nbye\n"),
        ("print(3 ** 10000 % 1000, len(str(3 ** 10000)))", "1 4772\n"),
        ("print(int('9' * 5000) % 7)", "1\n"),
        ("import inspect\ndef f(): return 1\nprint(inspect.getsource(f).strip())", "def f(): return 1\n"),
        ("print(open(__file__).read().count('open'))", "2\n"),
        ("import sys\nprint(len(sys.argv), __name__)", "1 __main__\n"),
        ("\ufeffprint(2)", "2\n"),
        (
            "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, "
            "resource.RLIM_INFINITY))\nprint(2)",
            "2\n",
        ),
        ("import resource\nresource.setrlimit(resource.RLIMIT_STACK, [2**28, -1])\nprint(2)", "2\n"),
        (
            "import sys\nfrom functools import lru_cache\nsys.setrecursionlimit(10**6)\n@lru_cache(None)\n"
            "def f(n): return n and 1 + f(n - 1)\nprint(f(200000))",
            "200000\n",
        ),
        (
            "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(512 << 20)\n"
            "def f(n): return n and 1 + f(n - 1)\nt = threading.Thread(target=lambda: print(f(100000)))\n"
            "t.start()\nt.join()",
            "100000\n",
        ),
        (
            "from multiprocessing import Pool\ndef f(x): return x * x\nif __name__ == '__main__':\n"
            "    with Pool(2) as p: print(sum(p.map(f, range(10))))",
            "285\n",
        ),
        (
            "from concurrent.futures import ProcessPoolExecutor\ndef f(x): return x * x\n"
            "if __name__ == '__main__':\n    with ProcessPoolExecutor(2) as p: print(sum(p.map(f, range(10))))",
            "285\n",
        ),
        (
            "from multiprocessing import shared_memory\nm = shared_memory.SharedMemory(create=True, size=10)\n"
            "m.buf[0] = 7\nprint(m.buf[0])\nm.close()\nm.unlink()",
            "7\n",
        ),
    ],
)
def test_idioms_of_whole_programs(box, code, output):
    verdict = stdio(box, code, "", output, timeout_s=20)
    assert verdict.correct, verdict.reason


def test_blank_lines_around_the_output_of_livecodebench(box):
    for code in ("print()\nprint(1)\nprint(2)", "print('\\n\\n1\\n2\\n\\n')", "print('  1\\n2')"):
        assert stdio(box, code, "", "1\n2\n", compare="livecodebench").correct
    assert not stdio(box, "print(1)\nprint()\nprint(2)", "", "1\n2\n", compare="livecodebench").correct
    assert not stdio(box, "print()\nprint(1)", "", "1\n").correct


def test_verdicts_say_what_was_used(box):
    verdict = stdio(box, "x = b'a' * (60 << 20)\nt = sum(range(3000000))\nprint(len(x))", "", "62914560\n")
    assert verdict.correct and 0.005 < verdict.cpu_s < 5 and 60 < verdict.memory_mb < 200 and not verdict.output_cut
    assert verdict.to_dict()["cpu_s"] == verdict.cpu_s and "output_cut" not in verdict.to_dict()


# -- time


def test_every_case_has_the_time_limit(box):
    code = (
        "import time\ndef f(n):\n    end = time.perf_counter() + 0.3\n    while time.perf_counter() < end: pass\n"
        "    return n"
    )
    clear_cache()
    cases = [{"args": [n], "expected": n} for n in range(5)]
    assert verify(code, {"kind": "call", "entry_point": "f", "cases": cases}, timeout_s=1.0, sandbox=box).correct
    slow = code.replace("0.3", "(0.3 if n < 3 else 5)")
    verdict = verify(slow, {"kind": "call", "entry_point": "f", "cases": cases}, timeout_s=1.0, sandbox=box)
    assert (verdict.outcome, verdict.passed) == (Outcome.TIMEOUT, 3)


# -- tests that test nothing


@pytest.mark.parametrize(
    "tests",
    [
        ["f(1) == 2"], ["f(1) == 2", "assert f(1) == 2"], ["", "pass"], ["# nothing"], ["print(f(1))"], ["f(1)"],
        ["assert (f(1) == 2, 'msg')"], ["assert True"], ["assert 1, 'x'", "assert True"], ["x = f(1)"],
        ["def test_it():\n    f(1)"], ["def helper():\n    return f(1)"], ["for i in range(3): f(i)"],
    ],
)  # fmt: skip
def test_tests_that_test_nothing_are_refused(box, tests):
    with pytest.raises(UsageError, match=r"tests\.asserts"):
        judged(box, "def f(a): return 2", *tests)


@pytest.mark.parametrize(
    "test",
    [
        "def test_x():\n    assert f(1) == 2",
        "def test_x():\n    '''Words.'''\n    assert f(1) == 2, 'message'\n    assert f(2) == 3",
        "def test_x():\n    got = f(1)\n    assert got == 2",
        "class TestF:\n    def test_x(self):\n        assert f(1) == 2",
        "import unittest\nclass TestF(unittest.TestCase):\n    def test_x(self):\n        self.assertEqual(f(1), 2)",
        "async def test_x():\n    assert f(1) == 2",
        "def test_x():\n    assert f(1) == 2\ntest_x()",
        "from solution import f\ndef test_x():\n    assert f(1) == 2",
        "for i in range(3):\n    assert f(i) == i + 1",
        "try:\n    f('a')\n    assert False\nexcept TypeError:\n    pass",
        "assert f(1) == 2\nassert f(2) == 3",
    ],
)
def test_test_functions_and_blocks_are_run(box, test):
    assert judged(box, "def f(a): return a + 1", test).correct
    assert judged(box, "def f(a): return 'x'", test).outcome is Outcome.WRONG


def test_straight_test_functions_are_not_forgeable(box):
    assert not judged(box, "def f(a): return a + 1", "def test_x():\n    assert f(1) == 2").forgeable
    liar = "class Y:\n    def __eq__(s, o): return True\ndef f(a): return Y()"
    assert judged(box, liar, "def test_x():\n    assert f(1) == 2").outcome is Outcome.WRONG
