"""The scorers of sets for agents, by hand: DABench's named values, WTQ's denotations, Spider's
results, DBBench's answers and md5, and SQL and unit tests in the jail.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from pathlib import Path

import pytest

from qwq.errors import DataError
from qwq.types import Outcome
from qwq.verify.answers import answer_sets, denotation, literals, queries, result_sets, unit_tests
from qwq.verify.answers.named_values import read_values, right_parts

# -- DABench ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("@mean[34.65] @sd[1.5]", [True, True]),
        ("@sd[1.50] and @mean[34.650000]", [True, True]),
        ("@mean[34.6500009] @sd[1.5]", [True, True]),  # 9e-7 apart
        ("@mean[34.650002] @sd[1.5]", [False, True]),  # 2e-6 apart
        ("@mean[34.66] @sd[1.5]", [False, True]),
        ("@mean[34.65]", [True, False]),
        ("@mean[1] then @mean[34.65] @sd[1.5]", [True, True]),  # the last one counts
        ("mean is 34.65", [False, False]),
        ("@mean[$34.65] @sd[1.5%]", [False, False]),
    ],
)
def test_named_values(answer: str, right: list[bool]) -> None:
    assert list(right_parts(read_values(answer), {"mean": "34.65", "sd": "1.5"}).values()) == right


def test_named_values_that_are_texts() -> None:
    assert right_parts(read_values("@c[Congo] @empty[]"), {"c": "Congo", "empty": ""}) == {"c": True, "empty": True}
    assert right_parts(read_values("@c[congo]"), {"c": "Congo"}) == {"c": False}
    assert right_parts(read_values("@n[nan]"), {"n": "nan"}) == {"n": True}


# -- WTQ -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        (["Wolfe Tones"], ["Wolfe Tones"], True),
        (["wolfe  tones."], ["Wolfe Tones"], True),
        (["Café"], ["cafe"], True),
        (["“Hello”"], ['"hello"'], True),
        (["Bangkok (Thailand)"], ["Bangkok"], True),
        (["Ardo Kreek[2]†"], ["Ardo Kreek"], True),
        (["2000–01"], ["2000-01"], True),
        (["12467"], ["12,467"], True),
        (["12,467"], ["12,467"], True),
        (["12,467"], ["12467"], False),  # an answer is read as it is
        (["4.0"], ["4"], True),
        (["4.1"], ["4"], False),
        (["2005-06-03"], ["June 3, 2005"], True),
        (["2005-06-04"], ["June 3, 2005"], False),
        (["b", "a"], ["a", "b"], True),
        (["a"], ["a", "b"], False),
        (["a", "b", "c"], ["a", "b"], False),
        (["a", "a"], ["a"], True),  # a value counts once
        (["3", "3.0"], ["3"], True),
    ],
)
def test_denotations(answer: list[str], expected: list[str], same: bool) -> None:
    found = [denotation.read_value(a) for a in answer]
    assert denotation.same_denotation(found, [denotation.read_expected(e) for e in expected]) is same


def test_a_published_canonical_value_is_taken() -> None:
    expected = denotation.read_expected("the third", "3.0")
    assert denotation.same_denotation([denotation.read_value("3")], [expected])
    assert denotation.read_value("1999-xx-xx").number == 1999  # a year alone is a number
    assert denotation.read_value("xx-xx-xx").date is None


# -- Spider ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected", "ordered", "same"),
    [
        ([(1, "a"), (2, "b")], [(1, "a"), (2, "b")], True, True),
        ([("a", 1), ("b", 2)], [(1, "a"), (2, "b")], True, True),  # columns in another order
        ([(2, "b"), (1, "a")], [(1, "a"), (2, "b")], False, True),
        ([(2, "b"), (1, "a")], [(1, "a"), (2, "b")], True, False),  # rows in another order
        ([(1,), (1,)], [(1,)], False, False),  # a bag, not a set
        ([(1.0,)], [(1,)], False, True),
        ([(1, 2)], [(1,)], False, False),
        ([], [], False, True),
        ([], [(1,)], False, False),
        ([(1, 2), (2, 1)], [(1, 2), (1, 2)], False, False),  # equal columns as bags, other rows
        ([(1, 1, 2), (2, 2, 1)], [(1, 2, 1), (2, 1, 2)], False, True),
        ([(None,)], [(None,)], False, True),
    ],
)
def test_results(answer: list, expected: list, ordered: bool, same: bool) -> None:
    assert result_sets.same_result(answer, expected, ordered=ordered) is same


def test_many_equal_columns_are_compared_at_once() -> None:
    row = tuple([1] * 30)
    assert result_sets.same_result([row, row], [row, row], ordered=False)


def test_only_a_query_that_sorts_fixes_the_order_of_rows() -> None:
    assert result_sets.is_ordered("SELECT a FROM t ORDER  BY a") and not result_sets.is_ordered("SELECT a FROM t")


# -- DBBench ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('Final Answer: ["a", "b"]', ["a", "b"]),
        ("So it is.\nFinal Answer: ['it''s', 3]", ["its", "3"]),
        ('**Final Answer:** ["1–0", "2–0"]', ["1–0", "2–0"]),
        ('Final Answer: ["a"]\nFinal Answer: ["b"]\nThat\'s all.', ["b"]),
        ("Final Answer: 26", ["26"]),
        ("Final Answer: Dick Murdoch", ["Dick Murdoch"]),
        ("The answer is 26", None),
    ],
)
def test_final_answers(text: str, values: list[str] | None) -> None:
    assert answer_sets.read_final_answer(text) == values


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        (["1"], ["1.0"], True),
        (["2.009"], ["2.0"], True),  # within 0.01
        (["2.02"], ["2.0"], False),
        (["32,502"], ["32502.0"], True),
        (["45%"], ["45"], True),
        (["none"], ["None"], True),
        ([""], ["none"], True),
        (["Giza"], ["giza"], False),
        (["b", "a"], ["a", "b"], True),
        (["a"], ["a", "b"], False),
        (["1", "2"], ["2.0", "1.0"], True),
        (["1", "1"], ["1.0", "2.0"], False),
    ],
)
def test_answer_lists(answer: list[str], expected: list[str], same: bool) -> None:
    assert answer_sets.same_answers(answer, expected) is same


def test_a_tables_md5_is_mysqls() -> None:
    def md5(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    hashes = sorted([md5("1,a")[:5], md5("2,b")[:5]])
    assert answer_sets.table_md5([("2", "b"), ("1", "a")]) == md5(",".join(hashes))
    assert answer_sets.table_md5([("1", None, "a")]) == md5(md5("1,a")[:5])  # concat_ws skips NULL
    many = [(str(i),) for i in range(300)]
    joined = ",".join(sorted(md5(v)[:5] for (v,) in many))
    assert len(joined) == 1799 and answer_sets.table_md5(many) == md5(joined[:1024])


# -- SQL in the jail -------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE sales (month TEXT, sum REAL)")
        db.executemany("INSERT INTO sales VALUES (?, ?)", [("May", 20.5), ("June", 30)])
    db.close()
    return path


def test_queries_see_what_earlier_ones_changed(database: Path) -> None:
    statements = [
        "SELECT * FROM sales",
        ("INSERT INTO sales VALUES (?, ?)", ["July", None]),
        "SELECT count(*) FROM sales",
    ]
    first, second, third = queries.run_queries(database.read_bytes(), statements)
    assert first.rows == (("May", 20.5), ("June", 30.0)) and first.columns == ("month", "sum")
    assert second.rows == () and second.error == "" and third.rows == ((3,),)
    assert queries.trusted_rows(database, "SELECT count(*) FROM sales") == ((2,),)  # the file is as before


def test_what_fails_says_why(database: Path) -> None:
    bad, endless, blob = queries.run_queries(
        database.read_bytes(),
        [
            "SELECT price FROM sales",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
            "SELECT x'00ff', NULL",
        ],
    )
    assert bad.error == "no such column: price" and endless.error == "interrupted" and not endless.timed_out
    assert blob.rows == ((b"\x00\xff", None),)


def test_a_query_cannot_reach_beyond_its_copy(database: Path) -> None:
    """The jail holds only the copy: another file of the machine is not there to be attached."""
    attach = f"ATTACH '{database}' AS other"
    (attached, rows) = queries.run_queries(None, [attach, "SELECT * FROM other.sales"])
    assert attached.error or rows.error
    assert queries.trusted_rows(database, "SELECT count(*) FROM sales") == ((2,),)


def test_a_data_sets_query_that_fails_names_the_file(database: Path) -> None:
    with pytest.raises(DataError, match=r"shop\.sqlite: 'SELECT price FROM sales' fails: no such column: price"):
        queries.trusted_rows(database, "SELECT price FROM sales")
    assert queries.schema_of(database) == "CREATE TABLE sales (month TEXT, sum REAL);"


# -- unit tests ------------------------------------------------------------------------------------

TESTS = """
import unittest
from sums import add

class AddTest(unittest.TestCase):
    def test_small(self):
        self.assertEqual(add(1, 2), 3)
    def test_large(self):
        self.assertEqual(add(10**9, 1), 10**9 + 1)
"""


def run(program: str) -> unit_tests.Tested:
    return unit_tests.run_unit_tests({"sums.py": program, "sums_test.py": TESTS}, ["sums_test.py"], verifier="polyglot")


def test_unit_tests_decide() -> None:
    right = run("def add(a, b):\n    return a + b\n").verdict
    assert (right.outcome, right.passed, right.total, right.forgeable) == (Outcome.CORRECT, 2, 2, True)
    half = run("def add(a, b):\n    return 3 if b == 2 else 0\n")
    assert (half.verdict.outcome, half.verdict.passed, half.verdict.reason) == (Outcome.WRONG, 1, "1 of 2 tests pass")
    assert "AssertionError: 0 != 1000000001" in half.output and "Ran 2 tests\n" in half.output


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "def add(a, b): return a +",
        "import unittest\nunittest.main = print",
    ],
)
def test_ending_early_is_no_way_through(program: str) -> None:
    assert run(program).verdict.outcome is Outcome.WRONG


# -- literals --------------------------------------------------------------------------------------


def test_literals() -> None:
    assert literals.literal(" [1, 'a'] ") == [1, "a"] and literals.literal("f(1)") is literals.MISSING
    assert literals.computed("def f(x): return x", "'a' * 3") == "aaa"
    assert literals.computed("def f(x): return x", "g(1)") is literals.MISSING
    assert literals.equal_values(True, 1) and not literals.equal_values("1", 1)


def test_reading_is_linear_where_brackets_never_close() -> None:
    for text in (
        "@a[" * 200_000,
        "[" * 400_000,
        "(mod " * 200_000 + ")",
        "x" + "[b]" * 200_000,
        "x" + " (c)" * 200_000,
    ):
        started = time.process_time()
        read_values(text)
        denotation.normalise_value(text)
        assert time.process_time() - started < 5  # a square of these lengths takes minutes
    assert denotation.normalise_value("Rome[1] (Italy) [note]*") == "rome"
    assert denotation.normalise_value("[12]") == "" and denotation.normalise_value("[note]") == "[note]"
