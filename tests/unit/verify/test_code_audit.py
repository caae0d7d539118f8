"""Rows of a code set that would only teach noise, each with its kind."""

from __future__ import annotations

import json

import pytest

from qwq import cli
from qwq.sandbox import Sandbox
from qwq.verify.code.audit import audit_row, reference

STDIO = {"kind": "stdio", "cases": [{"input": "2\n", "output": "4\n"}]}
DOUBLE = "print(int(input()) * 2)"
ROWS = {
    "gradable": [
        {"tests": STDIO, "solution": DOUBLE},
        {"tests": ["assert f(1) == 2"], "solutions": ["def f(x): return x + 1", "nonsense"]},
        {
            "test": "def check(candidate):\n    assert candidate(1) == 2",
            "entry_point": "f",
            "prompt": "def f(x):\n",
            "canonical_solution": "    return x + 1\n",
        },
        {"tests": STDIO, "solution": f"Here:\n```python\n{DOUBLE}\n```"},
    ],
    "forgeable": [{"tests": ["for i in range(3): assert f(i) == i"], "code": "def f(x): return x"}],
    "no_reference": [{"tests": STDIO}, {"tests": [{"input": "1", "output": "2"}], "problem": "p"}],
    "unreadable": [
        {"tests": {"a": 1}},
        {"problem": "p"},
        {
            "tests": {"kind": "asserts", "setup": "import no_such_module", "asserts": ["assert f(x) == 1"]},
            "code": "def f(x): return 1",
        },
    ],
    "vacuous": [
        {"tests": ["f(1) == 2"], "code": "def f(x): return 2"},
        {"tests": ["assert f(1) is None"], "code": "def f(x): pass"},
        {"tests": {"kind": "stdio", "cases": [{"input": "x", "output": "\n"}]}, "code": "pass"},
        {"tests": ["assert (f(1) == 2, 'x')"], "code": "def f(x): return 2"},
    ],
    "contradictory": [
        {"tests": [{"input": "1\n", "output": "2"}, {"input": "1\n", "output": "3"}], "code": DOUBLE},
        {
            "tests": {
                "kind": "call",
                "entry_point": "f",
                "cases": [{"args": [1], "expected": 2}, {"args": [1], "expected": 3}],
            },
            "code": "def f(x): return 2",
        },
        {"tests": ["assert f(1) == 2", "assert f(1) == 3"], "code": "def f(x): return 2"},
    ],
    "out_of_limit": [
        {"tests": STDIO, "solution": f"while True: pass\n{DOUBLE}"},
        {"tests": STDIO, "solution": f"x = [0] * (1 << 30)\n{DOUBLE}"},
    ],
    "failing": [
        {"tests": STDIO, "solution": "print(5)"},
        {"tests": ["assert f(1) == 2"], "code": "def g(x): return 2"},
    ],
}


@pytest.fixture(scope="module")
def box():
    with Sandbox(slots=1) as made:
        yield made


@pytest.mark.parametrize(("kind", "row"), [(kind, row) for kind, rows in ROWS.items() for row in rows])
def test_kinds(box, kind, row):
    assert audit_row(row, timeout_s=0.8, sandbox=box)[0].value == kind


def test_references():
    assert reference({"solutions": [{"code": "x = 1"}]}) == "x = 1"
    assert reference({"mine": "x = 1", "solution": "y = 2"}, "mine") == "x = 1"
    assert reference({"solution": " "}) is None


def test_the_command(tmp_path, capsys):
    file, clean = tmp_path / "rows.jsonl", tmp_path / "clean.jsonl"
    rows = [ROWS["gradable"][0], ROWS["vacuous"][0], ROWS["no_reference"][0]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["verify", "audit", str(file), "--kind", "code", "--clean", str(clean)]) == 0
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [(row["index"], row["gradable"], row["kind"]) for row in found] == [
        (0, True, "gradable"),
        (1, False, "vacuous"),
        (2, True, "no_reference"),
    ]
    assert "put assert before it" in found[1]["reason"]
    assert [json.loads(line) for line in clean.read_text().splitlines()] == [rows[0], rows[2]]
    assert "3 rows: 1 gradable, 1 no_reference, 1 vacuous" in err
