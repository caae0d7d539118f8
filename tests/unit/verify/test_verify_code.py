"""Verdicts on programs, each with a value worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwq.errors import DataError, UsageError
from qwq.sandbox import Sandbox
from qwq.types import Outcome, Response
from qwq.verify.code import asserts_from_check, clear_cache, extract_code, verify, verify_response
from qwq.verify.code.plan import make_plan
from qwq.verify.code.setup import read_setup
from qwq.verify.code.split import split_all, split_assert
from qwq.verify.code.values import equal, output_difference

MBPP = Path(__file__).parents[4] / "shared" / "data" / "mbpp" / "mbpp.jsonl"
HUMANEVAL = Path(__file__).parents[4] / "shared" / "data" / "humaneval" / "HumanEval.jsonl"


@pytest.fixture(scope="module")
def box():
    with Sandbox(slots=1) as made:
        yield made


def call(*cases, entry_point="f"):
    return {"kind": "call", "entry_point": entry_point, "cases": [{"args": list(a), "expected": e} for a, e in cases]}


def stdio(*cases):
    return {"kind": "stdio", "cases": [{"input": i, "output": o} for i, o in cases]}


def asserts(*lines, setup=""):
    return {"kind": "asserts", "setup": setup, "asserts": list(lines)}


def result(box, code, tests, **options):
    verdict = verify(code, tests, sandbox=box, **options)
    return verdict.outcome.value, verdict.passed, verdict.total


# -- outcomes


def test_counts_of_cases(box):
    code = "def f(x): return x * x"
    assert result(box, code, call(([3], 9), ([-2], 4))) == ("correct", 2, 2)
    assert result(box, code, call(([3], 9), ([2], 5), ([0], 0))) == ("wrong", 2, 3)
    assert result(box, code, asserts("assert f(3) == 9", "assert f(2) == 5")) == ("wrong", 1, 2)
    assert result(box, "print(int(input()) * 2)", stdio(("2", "4"), ("3\n", "6\n"))) == ("correct", 2, 2)
    assert result(box, "print(4)", stdio(("2", "4"), ("3", "6"))) == ("wrong", 1, 2)


def test_no_code_and_no_entry_point(box):
    assert result(box, " \n", call(([1], 1))) == ("no_answer", 0, 1)
    verdict = verify("def g(x): return x", call(([1], 1)), sandbox=box)
    assert (verdict.outcome, verdict.reason) == (Outcome.WRONG, "case 1 of 1: the program defines no 'f'")


def test_reasons_show_both_sides(box):
    assert verify("def f(x): return x", call(([1], 2)), sandbox=box).reason == "case 1 of 1: returned 1, expected 2"
    assert "line 1 is '1', expected '2'" in verify("print(1)", stdio(("", "2")), sandbox=box).reason
    assert "f(1) gave 1" in verify("def f(x): return x", asserts("assert f(1) == 2"), sandbox=box).reason
    assert "SyntaxError" in verify("def f(x) return x", call(([1], 2)), sandbox=box).reason


def test_timeout_only_where_nothing_was_wrong(box):
    loop = "def f(n):\n    while n > 1: pass\n    return n"
    assert result(box, loop, call(([1], 1), ([2], 2)), timeout_s=0.4) == ("timeout", 1, 2)
    assert result(box, loop, call(([1], 5), ([2], 2)), timeout_s=0.4) == ("wrong", 0, 2)
    assert result(box, "n = int(input())\nwhile n: pass\nprint(n)", stdio(("0", "0"), ("1", "1")), timeout_s=0.4) == (
        "timeout",
        1,
        2,
    )


def test_a_crash_after_right_output_is_wrong(box):
    assert result(box, "print(4)\nraise ValueError", stdio(("", "4"))) == ("wrong", 0, 1)


def test_infra_failure_is_not_a_wrong_answer():
    box = Sandbox(slots=1)
    box.close()
    verdict = verify("def f(x): return x  # run by a closed sandbox", call(([1], 2)), sandbox=box)
    assert verdict.outcome is Outcome.INFRA_ERROR


# -- comparison


def test_exact_calls_compare_with_pythons_equality(box):
    code = "def f(k): return {1: (1, 2), 2: [1, 2], 3: 1.0, 4: True, 5: None, 6: float('nan'), 7: {1: 'a'}}[k]"
    for key, expected, right in [
        (1, (1, 2), True), (1, [1, 2], False), (2, [1, 2], True), (3, 1, True), (4, 1, True), (5, None, True),
        (5, 0, False), (6, float("nan"), False), (7, {1: "a"}, True), (7, {"1": "a"}, False),
    ]:  # fmt: skip
        assert result(box, code, {**call(([key], expected)), "compare": "exact"})[0] == (
            "correct" if right else "wrong"
        ), (key, expected)


def test_call_takes_what_json_writes_in_place_of_a_value(box):
    """Tests are JSON: it has no tuples, no keys but strings, and no arrays; a NaN that is expected
    can only be meant.
    """
    code = (
        "import numpy as np\ndef f(k): return [(1, [2, (3,)]), {1: (2,), True: 0} if k == 9 else {1: (2,), None: "
        "0}, np.array([[1, 2]]), "
        "[float('nan')], {1, 2}, {1: 'a', '1': 'b'}, {(1, 2): 3}, np.float64(0.5), {2.5: np.array([1])}][k]"
    )
    for key, expected, right in [
        (0, [1, [2, [3]]], True), (0, [1, [2, [4]]], False), (0, [1, [2]], False), (1, {"1": [2], "null": 0}, True),
        (1, {"1": [2]}, False), (2, [[1, 2]], True), (2, [[1, 3]], False), (2, [1, 2], False),
        (3, [float("nan")], True), (3, [0.0], False), (4, [1, 2], False), (5, {"1": "a"}, False),
        (5, {"1": "b"}, False), (6, {"(1, 2)": 3}, False), (7, 0.5, True), (8, {"2.5": [1]}, True),
    ]:  # fmt: skip
        assert result(box, code, call(([key], expected)))[0] == ("correct" if right else "wrong"), (key, expected)


def test_numbers_of_other_types_meet_the_tolerance(box):
    code = (
        "from decimal import Decimal\nfrom fractions import Fraction\n"
        "def f(k): return [Decimal('0.3333333333'), Fraction(1, 3), Decimal('1e999999')][k]"
    )
    assert result(box, code, call(([0], 1 / 3)), tolerance=1e-6)[0] == "correct"
    assert result(box, code, call(([1], 1 / 3)), tolerance=1e-6)[0] == "correct"
    assert result(box, code, call(([0], 0.33)), tolerance=1e-6)[0] == "wrong"
    assert result(box, code, call(([2], 1.5)), tolerance=1e-6)[0] == "wrong"


def test_a_function_that_works_in_place_is_judged_by_its_argument(box):
    tests = call(([[3, 1]], [1, 3]), ([[1, 2]], [1, 2]))
    assert result(box, "def f(a): a.sort()", tests) == ("correct", 2, 2)
    assert result(box, "def f(a): a.reverse()", tests)[0] == "wrong"
    assert result(box, "def f(a): pass", tests) == (
        "wrong",
        0,
        2,
    )  # nothing done is right nowhere, also where nothing was to do
    assert result(box, "def f(a): pass", call(([[1, 2]], [1, 2]))) == ("wrong", 0, 1)
    assert result(box, "def f(a):\n    a.sort()\n    return a[:1]", tests)[0] == "wrong"


def test_one_of_several_answers(box):
    tests = {"kind": "call", "entry_point": "f", "cases": [{"args": [1], "any_of": [2, 3]}]}
    assert [result(box, f"def f(x): return {v}", tests)[0] for v in (2, 3, 4)] == ["correct", "correct", "wrong"]
    tests = {"kind": "stdio", "cases": [{"input": "", "any_of": ["2\n", "3\n"]}]}
    assert [result(box, f"print({v})", tests)[0] for v in (2, 3, 4)] == ["correct", "correct", "wrong"]


def test_none_is_not_right_where_something_is_expected(box):
    assert result(box, "def f(x): pass", call(([1], [])))[0] == "wrong"
    assert result(box, "def f(x): pass", asserts("assert f(1) == []", "assert f(2) == 0"))[0] == "wrong"


@pytest.mark.parametrize(
    "got, expected, tolerance, right",
    [
        ("1 2\n3", "1 2\n3\n\n", None, True), ("1 2  \n3", "1 2\n3", None, True), (" 1", "1", None, False),
        ("1\n\n3", "1\n3", None, False), ("1", "1\n2", None, False), ("1\n2", "1", None, False),
        ("", "\n\n", None, True), ("1\r\n2\r\n", "1\n2", None, True), ("0.5000001", "0.5", None, False),
        ("0.5000001", "0.5", 1e-6, True), ("0.51", "0.5", 1e-6, False), ("1e3", "1000", 1e-6, True),
        ("1000000.5", "1000000", 1e-6, True), ("nan", "0.5", 1e-6, False), ("nan", "nan", 1e-6, True),
        ("inf", "1", 1e9, False), ("x 1.0", "x 1", 1e-9, True), ("1 2", "1", 1e-6, False),
        ("50000000000000000", "50000000000000001", 1e-6, False), ("1_0", "10", 1e-6, False),
        ("9e99999999", "1", 1e-6, False),
    ],
)  # fmt: skip
def test_stdio_comparison(got, expected, tolerance, right):
    assert (output_difference(got.encode(), expected, tolerance) is None) is right


def test_value_tolerance():
    assert equal([1.0000001, (2,)], [1, (2.0000001,)], 1e-6)
    assert not equal([1.1], [1], 1e-6)
    assert not equal((1,), [1], 1e-6)
    assert not equal([1, 2], [1], 1e-6)
    assert equal({"a": 0.1}, {"a": 0.1 + 1e-9}, 1e-6)
    assert not equal(float("nan"), 1.0, 1e-6)
    assert not equal(True, 2, 0.5)
    assert not equal(10**18, 10**18 + 10, 1e-6)


# -- asserts


@pytest.mark.parametrize(
    "source, holes, judge",
    [
        ("assert f(2) == [4]", [("f(2)", "value")], "_hole_0 == [4]"),
        ("assert [4] == f(2)", [("f(2)", "value")], "[4] == _hole_0"),
        ("assert not f(2), 'message'", [("f(2)", "truth")], "not _hole_0"),
        ("assert abs(f(2) - 4.5) < 1e-6", [("f(2)", "value")], "abs(_hole_0 - 4.5) < 1e-06"),
        ("assert math.isclose(f(1), 2.5)", [("f(1)", "value")], "math.isclose(_hole_0, 2.5)"),
        ("assert sorted(f([2, 1])) == [1, 2]", [("sorted(f([2, 1]))", "value")], "_hole_0 == [1, 2]"),
        ("assert f(1) is None and f(2)", [("f(1)", "value"), ("f(2)", "truth")], "_hole_0 is None and _hole_1"),
        ("assert g(f(1)) == f(2)", [("g(f(1))", "value"), ("f(2)", "value")], "_hole_0 == _hole_1"),
        ("assert f('a').startswith('b')", [("f('a')", "value")], "_hole_0.startswith('b')"),
        ("assert f(x) == y", [("f(x)", "value")], "_hole_0 == y"),
        ("assert isinstance(f(1), Thing)", [("isinstance(f(1), Thing)", "truth")], "_hole_0"),
        (
            "assert [f(i) for i in range(3)] == [0, 1, 2]",
            [("[f(i) for i in range(3)]", "value")],
            "_hole_0 == [0, 1, 2]",
        ),
    ],
)
def test_split(source, holes, judge):
    split = split_assert(source, read_setup("import math\nx, y = 1, 2"))
    assert [(hole.source, hole.mode) for hole in split.holes] == holes
    assert split.judge == judge


@pytest.mark.parametrize(
    "source",
    [
        "assert all(f(i) == i for i in range(3))",
        "for i in range(3): assert f(i) == i",
        "r = f(1)\nassert r == 1",
        "assert (lambda: f(1) == 2)()",
    ],
)
def test_what_cannot_be_split_is_marked(box, source):
    verdict = verify("def f(i): return i", asserts(source, "assert f(7) == 7"), sandbox=box)
    assert verdict.forgeable
    assert verdict.passed == (1 if "lambda" in source else 2)  # that one asks for f(1) == 2
    assert verify("def f(i): return i + 1", asserts(source), sandbox=box).correct is ("lambda" in source)


def test_a_builtin_that_the_program_defines_itself(box):
    tests = asserts("assert sum(10, 15) == 6", "assert sum(100, 150) == 93")
    code = (
        "def sum(a, b): return 0 if False else __import__('builtins').sum(i for i in range(1, min(a, b)) if a % i "
        "== b % i == 0)"
    )
    assert result(box, code, tests) == ("correct", 2, 2)
    assert result(box, "x = 1", tests)[0] == "wrong"


def test_defining_a_builtin_does_not_move_the_comparison():
    _, splits = split_all("", ["assert abs(f(1) - 2) < 1e-3"])
    assert splits[0].judge == "abs(_hole_0 - 2) < 0.001"


def test_setup_with_names_of_the_program_runs_on_its_side(box):
    setup = "import math\nroot = Node(3)\nroot.next = Node(4)\nexpected = math.floor(7.5)"
    read = read_setup(setup)
    assert read.pure == "import math\nexpected = math.floor(7.5)"
    code = (
        "class Node:\n    def __init__(self, v): self.v, self.next = v, None\n"
        "def f(n): return n.v + (f(n.next) if n.next else 0)"
    )
    tests = asserts("assert f(root) == expected", "assert f(root) == 7", setup=setup)
    assert result(box, code, tests) == ("correct", 2, 2)


def test_expected_values_and_references_in_the_setup_stay_away_from_the_program(box):
    setup = "expected = [1, 4]\ndef ref(n): return n * n\nx = 3\ny = x + 1\nclass Box: pass"
    tests = asserts("assert f(1) == expected", "assert f(y) == ref(4)", setup=setup)
    peek = "def f(n): return globals().get('expected') if n == 1 else globals()['ref'](n)"
    assert result(box, peek, tests) == ("wrong", 0, 2)
    plan = make_plan(*split_all(setup, tests["asserts"]), ())
    assert plan.setup.text(plan.beside({"y": 4})) == ""  # y comes as a value
    assert plan.setup.text(plan.beside({})) == "x = 3\ny = x + 1"
    assert result(box, "def f(n): return [1, 4] if n == 1 else n ** 2", tests) == ("correct", 2, 2)


def test_setup_statements_that_change_an_input_come_with_it(box):
    setup = "table = {}\ntable['a'] = 1\nitems = [1]\nitems.append(2)\nother = [5]\nother.append(6)"
    assert (
        result(box, "def f(t, i): return t['a'] + i[1]", asserts("assert f(table, items) == 3", setup=setup))[0]
        == "correct"
    )
    plan = make_plan(*split_all(setup, ["assert f(table, items) == 3"]), ())
    assert "other" not in plan.setup.text(plan.beside({}))


def test_setup_imports_come_before_the_program(box):
    tests = asserts("assert f([1]) == 1", setup="from typing import List")
    assert result(box, "def f(x: List[int]) -> int: return x[0]", tests)[0] == "correct"


def test_expected_side_that_is_not_a_literal(box):
    tests = asserts(
        "assert f(3) == set(range(3))", "assert math.isclose(f2(), 0.5, rel_tol=1e-3)", "assert f(2) != {5}"
    )
    assert result(box, "def f(n): return set(range(n))\ndef f2(): return 0.50001", tests) == ("correct", 3, 3)
    assert result(box, "def f(n): return set()\ndef f2(): return 0.6", tests) == ("wrong", 1, 3)


def test_an_iterator_becomes_a_value_on_the_programs_side(box):
    tests = asserts(
        "assert list(f()) == [1, 4]",
        "assert sorted(f()) == [1, 4]",
        "assert set(f()) == {1, 4}",
        "assert len(list(f())) == 2",
    )
    assert result(box, "def f(): return (i * i for i in (1, 2))", tests) == ("correct", 4, 4)


def test_truth_of_an_object_without_a_plain_form(box):
    code = "import re\ndef f(s): return re.match('a', s)"
    assert result(box, code, asserts("assert f('abc')", "assert not f('xyz')")) == ("correct", 2, 2)


def test_a_broken_setup_is_a_fault_of_the_data(box):
    with pytest.raises(DataError, match="no_such_module"):
        verify("def f(): return 1", asserts("assert f() == 1", setup="import no_such_module"), sandbox=box)


def test_check_functions_become_asserts():
    source = (
        "METADATA = {}\ndef check(candidate):\n    'doc'\n    assert candidate(1) == 2\n"
        "    assert candidate([candidate(1)]) == 3, 'm'\n    for i in range(3):\n"
        "        assert candidate(i) == i + 1\n    assert True\n"
    )
    setup, lines = asserts_from_check(source, "f")
    assert setup == "METADATA = {}"
    assert lines[:2] == ["assert f(1) == 2", "assert f([f(1)]) == 3, 'm'"]
    assert len(lines) == 3 and lines[2].startswith("for i in range(3):") and lines[2].endswith("assert True")


# -- forms of the tests


@pytest.mark.parametrize(
    "tests, message",
    [
        ({}, "tests.kind"), ({"kind": "x"}, "stdio, call, asserts"),
        ({"kind": "stdio", "cases": []}, "at least one case"),
        ({"kind": "stdio", "cases": [{"input": "", "outputs": ""}]}, "lacks output"),
        ({"kind": "stdio", "cases": [{"input": 1, "output": ""}]}, "give text"),
        ({"kind": "call", "entry_point": "f", "cases": [{"arg": [], "expected": 1}]}, "did you mean 'args'"),
        ({"kind": "call", "cases": [{"expected": 1}]}, "lacks entry_point"),
        ({"kind": "asserts", "asserts": [1]}, "list of strings"),
        ({"kind": "asserts", "asserts": ["assert f("]}, "not Python"),
        ({"kind": "asserts", "setup": "(", "asserts": ["assert f()"]}, "setup is not Python"),
        ({"kind": "call", "entry_point": "f", "cases": [{"args": 1, "expected": 1}]}, "args must be a list"),
    ],
)  # fmt: skip
def test_malformed_tests_are_refused(box, tests, message):
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        verify("x = 1", tests, sandbox=box)


def test_unknown_language_and_misplaced_tolerance_are_refused(box):
    with pytest.raises(UsageError, match="supported are python"):
        verify("x", call(([1], 1)), language="cobol", sandbox=box)
    with pytest.raises(UsageError, match="tolerance"):
        verify("x", asserts("assert f()"), tolerance=0.1, sandbox=box)


# -- cache


def test_the_same_program_and_tests_are_run_once(box, monkeypatch):
    clear_cache()
    runs = []
    original = Sandbox.call
    monkeypatch.setattr(Sandbox, "call", lambda self, *a, **k: runs.append(1) or original(self, *a, **k))
    tests = call(([1], 1))
    first = verify("def f(x): return x", tests, sandbox=box)
    assert verify("def f(x): return x", json.loads(json.dumps(tests)), sandbox=box) == first
    assert len(runs) == 1
    verify("def f(x): return x", call(([1], True)), sandbox=box)
    assert len(runs) == 2
    for _ in range(2):
        assert verify("def f(x):\n    while 1: pass", tests, sandbox=box, timeout_s=0.2).outcome is Outcome.TIMEOUT
    assert len(runs) == 4


# -- from a response


@pytest.mark.parametrize(
    "text, code",
    [
        ("Here:\n```python\nx = 1\n```\nand\n```py\ny = 2\n```\ndone", "y = 2"),
        ("```python\nx = 1\n```\noutput:\n```\n1\n```", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("def f():\n    return 1", "def f():\n    return 1"),
        ("1. so\n   ```python\n   def f():\n       return 1\n   ```", "def f():\n    return 1"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''"),
        ("~~~python\nx = 1\n~~~", "x = 1"),
        ("The answer is 42.", None),
        ("42", None),
        ("", None),
        ("```python\n\n```", None),
    ],
)
def test_extract_code(text, code):
    assert extract_code(text) == code


def test_responses(box):
    tests = call(([1], 2))
    good = "```python\ndef f(x): return x + 1\n```"
    bad = "```python\ndef f(x): return x\n```"

    def outcome(text, **fields):
        return verify_response(Response(text, **fields), tests, sandbox=box).outcome.value

    assert outcome(good) == "correct"
    assert outcome(good, finished=False) == "unfinished"
    assert outcome(f"{bad}</think>{good}", thinking_open=True) == "correct"
    assert outcome(f"<think>{good}</think>{bad}") == "wrong"
    assert outcome(good, thinking_open=True) == "no_answer"
    assert outcome(f"<think>{good}") == "no_answer"
    assert outcome(f"{good}</think>I do not know", thinking_open=True) == "no_answer"
    assert verify_response(Response(good), tests, sandbox=box).answer == "def f(x): return x + 1"


# -- real sets


def _lines(path: Path, count: int) -> list[dict]:
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    with path.open() as f:
        return [json.loads(line) for line, _ in zip(f, range(count), strict=False)]


def test_mbpp_references_are_right_and_none_is_wrong(box):
    for problem in _lines(MBPP, 60):
        tests = asserts(*problem["test_list"], setup=problem["test_setup_code"])
        verdict = verify(problem["code"], tests, sandbox=box)
        assert verdict.correct and not verdict.forgeable, (problem["task_id"], verdict)
        name = problem["test_list"][0].split("(")[0].split()[-1]
        assert not verify(f"def {name}(*a): return None", tests, sandbox=box).correct or "None" in str(
            problem["test_list"]
        )


def test_humaneval_solutions_are_right_and_none_is_wrong(box):
    for problem in _lines(HUMANEVAL, 30):
        setup, lines = asserts_from_check(problem["test"], problem["entry_point"])
        tests = asserts(*lines, setup=setup)
        assert verify(problem["prompt"] + problem["canonical_solution"], tests, sandbox=box).correct, problem["task_id"]
        assert not verify(problem["prompt"] + "    return None\n", tests, sandbox=box).correct, problem["task_id"]
