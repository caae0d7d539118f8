"""Tests as data sets keep them: each form grades a right and a wrong program, through the command's
own reader.
"""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path

import pytest

from qwq.errors import DataError, UsageError
from qwq.sandbox import Sandbox
from qwq.verify.cli_io import verify_file
from qwq.verify.code import check_tests, read_row, read_tests

DATA = Path(__file__).resolve().parents[4] / "shared/data"
ADD = "def add(a, b): return a + b"
SUB = "def add(a, b): return a - b"
SUM, ONE = "print(sum(map(int, input().split())))", "print(1)"
METHOD = "class Solution:\n    def add(self, a: int, b: int) -> int:\n        return a + b"
PACKED = base64.b64encode(
    zlib.compress(pickle.dumps({"input_output": json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]})}))
).decode()
ROWS = {
    "kind": ({"tests": {"kind": "stdio", "cases": [{"input": "1 2\n", "output": "3\n"}]}}, SUM, ONE),
    "JSON text": ({"tests": json.dumps({"kind": "stdio", "cases": [{"input": "1 2\n", "output": "3\n"}]})}, SUM, ONE),
    "codeforces": (
        {"tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 6\n", "output": "11\n"}]},
        SUM,
        "print(3)",
    ),
    "codeforces as text": ({"tests": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}])}, SUM, ONE),
    "APPS programs": ({"tests": {"inputs": ["1 2\n"], "outputs": ["3\n"]}}, SUM, ONE),
    "APPS lines": ({"tests": {"inputs": [["1 2", ""]], "outputs": [["3"]]}}, SUM, ONE),
    "APPS functions": (
        {"input_output": json.dumps({"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]})},
        ADD,
        SUB,
    ),
    "TACO functions": ({"tests": {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}}, ADD, SUB),
    "APPS methods": (
        {"tests": {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}},
        METHOD.replace("int", "List[int]"),
        METHOD.replace("+", "-"),
    ),
    "PRIME": ({"tests": json.dumps({"fn_name": "add", "inputs": ["1\n2"], "outputs": ["3"]})}, ADD, SUB),
    "asserts of PRIME": ({"tests": {"assert_case": ["assert add(1, 2) == 3"], "fn_name": "add"}}, ADD, SUB),
    "code_contests": (
        {
            "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
            "private_tests": {"input": [], "output": []},
            "generated_tests": {"input": ["5 6\n"], "output": ["11\n"]},
        },
        SUM,
        "print(3)",
    ),
    "MBPP": ({"test_list": ["assert add(1, 2) == three"], "test_setup_code": "three = 3"}, ADD, SUB),
    "MBPP sanitised": ({"test_list": ["assert math.floor(add(1, 2)) == 3"], "test_imports": ["import math"]}, ADD, SUB),
    "HumanEval": (
        {
            "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n"
            "    assert candidate(0, 0) == 0\n",
            "entry_point": "add",
        },
        ADD,
        SUB,
    ),
    "check that is called": (
        {"tests": "def check(candidate):\n    assert candidate(1, b=2) == 3\n\ncheck(add)"},
        ADD,
        SUB,
    ),
    "LeetCode": (
        {
            "tests": {
                "functional": "def check(candidate):\n    assert candidate(a = 1, b = 2) == 3\n\n\n"
                "check(Solution().add)"
            }
        },
        METHOD,
        METHOD.replace("+", "-"),
    ),
    "text of asserts": (
        {
            "tests": "import math\nthree = 3\nassert add(1, 2) == three\nfor i in range(3):\n"
            "    assert add(i, 1) == i + 1\n"
        },
        ADD,
        SUB,
    ),
    "pytest": (
        {
            "tests": "import math\nfrom solution import add\n\ndef test_one():\n    assert add(1, 2) == 3\n\n"
            "def test_two():\n    x = add(1, 1)\n    assert x == 2\n"
        },
        ADD,
        SUB,
    ),
    "LiveCodeBench's pack": ({"test": PACKED}, SUM, ONE),
    "LiveCodeBench's row": (
        {
            "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
            "private_test_cases": "[]",
            "metadata": "{}",
        },
        SUM,
        ONE,
    ),
    "SandboxFusion's streams": ({"test": [{"input": {"stdin": "1 2\n"}, "output": {"stdout": "3\n"}}]}, SUM, ONE),
    "calls": ({"entry_point": "add", "tests": [{"args": [1, 2], "expected": 3}]}, ADD, SUB),
}


@pytest.fixture(scope="module")
def box():
    with Sandbox(slots=1) as made:
        yield made


@pytest.mark.parametrize("form", ROWS)
def test_each_form(box, tmp_path, form):
    row, right, wrong = ROWS[form]
    file = tmp_path / "rows.jsonl"
    lines = [
        {**row, "code": right},
        {**row, "code": wrong},
        {**row, "response": f"```python\n{right}\n```"},
        {**row, "response": "no"},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = list(verify_file("code", file, sandbox=box))
    assert [line.get("outcome") or line for line in found] == ["correct", "wrong", "correct", "no_answer"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"tests": {"inputs": ["1"], "outputs": []}}, "1 inputs and 0 outputs"),
        ({"tests": []}, "tests are"),
        ({"tests": "{not json"}, "begins like JSON"),
        ({"tests": {"fn_name": "f", "inputs": ["x y"], "outputs": ["1"]}}, "no JSON"),
        ({"tests": "def check(candidate):\n    assert candidate(1) == 2"}, "nothing says of what"),
        ({"tests": "x = 1\ny = 2"}, "no assert"),
        ({"tests": ["assert f( == 1"]}, "not Python"),
        ({"code": "x"}, "needs tests"),
        ({"tests": [{"input": "1"}]}, "a list that begins with"),
    ],
)
def test_what_holds_no_tests_says_why(row, words):
    with pytest.raises(UsageError, match=words):
        check_tests(read_row(row))


def test_lists_of_one_are_taken_either_way(box):
    tests = read_tests({"fn_name": "f", "inputs": [[1]], "outputs": [[1]]})
    from qwq.verify.code import verify

    assert verify("def f(x): return x", tests, sandbox=box).correct
    assert verify("def f(x): return [x]", tests, sandbox=box).correct
    assert not verify("def f(x): return [[x]]", tests, sandbox=box).correct


TREES = """
class Solution:
    def invert(self, root: Optional[TreeNode]) -> Optional[TreeNode]:
        if root: root.left, root.right = self.invert(root.right), self.invert(root.left)
        return root
    def rev(self, head: Optional[ListNode]) -> Optional[ListNode]:
        before = None
        while head: head.next, before, head = before, head, head.next
        return before
"""


def test_structures_of_leetcode_are_compared_by_the_judge(box):
    from qwq.verify.code import verify

    right = (
        "def check(candidate):\n    assert is_same_list(candidate(list_node([1, 2, 3])), list_node([3, 2, 1]))\n"
        "    assert is_same_list(candidate(list_node([])), list_node([]))\n\ncheck(Solution().rev)"
    )
    verdict = verify(TREES, {"functional": right}, sandbox=box)
    assert verdict.correct and not verdict.forgeable
    assert not verify(TREES, {"functional": right.replace("[3, 2, 1]", "[1, 2, 3]")}, sandbox=box).correct
    tree = (
        "def check(candidate):\n    assert is_same_tree(candidate(tree_node([1, 2, None, 3])), tree_node([1, None, "
        "2, None, 3]))\n    assert is_same_tree(candidate(root = None), None)\n\ncheck(Solution().invert)"
    )
    verdict = verify(TREES, {"functional": tree}, sandbox=box)
    assert verdict.correct and not verdict.forgeable
    liar = (
        "class N:\n    val = 3\n    def __eq__(s, o): return True\n    next = None\nclass Solution:\n"
        "    def rev(self, head): return N()"
    )
    verdict = verify(liar, {"functional": right}, sandbox=box)
    assert not verdict.correct and not verdict.forgeable


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not here")
@pytest.mark.parametrize("name", ["leetcode_train", "code_contests", "codeforces"])
def test_the_public_sets_load_as_they_are(name):
    rows = [json.loads(line) for line in (DATA / f"code/{name}.jsonl").read_bytes().splitlines()]
    counts = [check_tests(read_row({"tests": row["tests"]})) for row in rows]
    assert min(counts) >= 1 and len(counts) == {"leetcode_train": 1820, "code_contests": 165, "codeforces": 408}[name]


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not here")
def test_solutions_of_leetcode_pass_and_spoilt_ones_do_not(box, tmp_path):
    rows = [json.loads(line) for line in (DATA / "code/leetcode_train.jsonl").read_bytes().splitlines()][::60]
    rows = [row for row in rows if "SortedList" not in row["solutions"]]
    file = tmp_path / "rows.jsonl"
    # A wrong answer that wraps the right one: what each method returns is changed a little.
    spoil = (
        "\n_right = Solution\nclass Solution:\n    def __getattr__(self, name):\n        def run(*a, **k):\n"
        "            v = getattr(_right(), name)(*a, **k)\n            return (not v) if v is None or "
        "isinstance(v, bool) else v + 1 if isinstance(v, (int, float)) else str(v) + 'x' if isinstance(v, str) "
        "else None\n        return run\n"
    )
    lines = [
        {"code": row["solutions"] + extra, "tests": row["tests"], "timeout_s": 20}
        for row in rows
        for extra in ("", spoil)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcomes = [line["outcome"] for line in verify_file("code", file, sandbox=box)]
    assert outcomes[::2] == ["correct"] * len(rows) and outcomes[1::2] == ["wrong"] * len(rows)


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not here")
def test_every_shared_case_of_the_second_round_gets_its_verdict(tmp_path):
    cases = [json.loads(line) for line in (DATA / "round2/code_verdicts.jsonl").read_bytes().splitlines()]
    found = list(verify_file("code", DATA / "round2/code_verdicts.jsonl"))
    for case, line in zip(cases, found, strict=True):
        right = (
            line["outcome"] == "correct"
            if case["right"] == "correct"
            else line["outcome"] != "correct" or line.get("forgeable")
        )
        assert right, (case["name"], line)


def test_a_pack_that_is_no_pack_is_refused():
    with pytest.raises(DataError):
        read_tests("eJ" + "A" * 40)
