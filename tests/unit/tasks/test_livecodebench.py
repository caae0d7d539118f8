"""LiveCodeBench's packs: read without pickle, graded by its rules."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from pathlib import Path

import pytest

from qwq.errors import DataError
from qwq.types import Outcome
from qwq.verify.code import clear_cache, verify
from qwq.verify.code.livecodebench import expand, line_matches, read_plain_pickle

SAMPLE = Path(__file__).resolve().parents[3].parent / "shared/data/livecodebench/sample_with_tests.jsonl"


def pack(value: object, protocol: int = 4) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value, protocol))).decode()


def row(cases: list[dict], function: str | None = None) -> dict:
    meta = json.dumps({"func_name": function} if function else {})
    return {
        "kind": "livecodebench",
        "public_test_cases": json.dumps(cases[:1]),
        "private_test_cases": pack(json.dumps(cases[1:])),
        "metadata": meta,
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_strings_lists_and_dicts_are_read(protocol):
    shared = "s" * 300
    value = {"a": ["x", shared, [], {}], "b": shared, "é": {"c": ["y" * 70000]}}
    assert read_plain_pickle(pickle.dumps(value, protocol)) == value


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/qwq-pickle-was-loaded",)


@pytest.mark.parametrize("value", [Evil(), {"a": Evil()}, 1, None, ("t",), b"b", {"a"}, os.path, 1.5])
def test_anything_else_is_refused_and_not_loaded(value):
    with pytest.raises(DataError, match="opcode"):
        read_plain_pickle(pickle.dumps(value) if value is not os.path else b"\x80\x04cos\nsystem\n.")
    assert not Path("/tmp/qwq-pickle-was-loaded").exists()


@pytest.mark.parametrize(
    "data", [b"", b".", b"\x80\x04", b"\x80\x04]u.", b"\x80\x04h\x05.", b"\x80\x04(u.", b"\x80\x04]\x8c\x01aa"]
)
def test_broken_pickles_are_data_errors(data):
    with pytest.raises(DataError):
        read_plain_pickle(data)


@pytest.mark.parametrize("text", ["@@", base64.b64encode(b"no zlib").decode(), pack("[")[:-12], pack("[")])
def test_broken_packs_are_data_errors(text):
    with pytest.raises(DataError):
        expand({"kind": "livecodebench", "public_test_cases": "[]", "private_test_cases": text})


def test_stdin_rows():
    clear_cache()
    tests = row([{"input": f"{n} 1\n", "output": f"{n + 1}\n{n}.0\n", "testtype": "stdin"} for n in (1, 2, 3)])
    code = "a, b = map(int, input().split())\nprint(' ', a + b)\nprint(Counter([a]).most_common()[0][0])"
    assert verify(code, tests).correct  # both ends stripped, 1 for 1.0, a name that the prelude imports
    wrong = verify("print(2)\nprint(1)", tests)
    assert (wrong.outcome, wrong.passed, wrong.total) == (Outcome.WRONG, 1, 3)


def test_function_rows():
    clear_cache()
    cases = [{"input": f'[1, {n}]\n"{n}"', "output": f"[{n}, 1]", "testtype": "functional"} for n in (2, 3)]
    right = "class Solution:\n    def turn(self, x: List[int], s: str):\n        return tuple(reversed(x))"
    assert verify(right, row(cases, "turn")).correct
    assert verify(right.replace("tuple(reversed(x))", "x"), row(cases, "turn")).outcome is Outcome.WRONG
    nested = [{"input": "1", "output": "[[1, 2]]", "testtype": "functional"}]
    assert verify("def f(n): return [(1, 2)]", row(nested, "f")).outcome is Outcome.WRONG


def test_numbers_are_compared_exactly():
    assert line_matches("1.50 2", "1.5 2.0")
    assert not line_matches("50000000000000000", "50000000000000001")
    assert not line_matches("0.1", "0.1000000001")
    assert not line_matches("nan", "NaN ")
    assert not line_matches("1 2", "1 2 3") and not line_matches("yes", "no")


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the LiveCodeBench sample is not beside the project")
def test_the_published_sample():
    rows = [json.loads(text) for text in SAMPLE.read_text().splitlines()]
    found = {r["id"]: expand({"kind": "livecodebench", "test": r["test"]}) for r in rows}
    assert [found[i]["kind"] for i in (1, 10, 191)] == ["stdio", "call", "stdio"]
    seniors = (
        "class Solution:\n    def countSeniors(self, details: List[str]) -> int:\n"
        "        return sum(int(d[11:13]) > 60 for d in details)"
    )
    assert verify(seniors, found[10]).correct
    cards = (
        "for _ in range(int(input())):\n    print('YES' if sum(a != b for a, b in zip(input(), 'abc')) < 3 else 'NO')"
    )
    assert verify(cards, found[1]).correct
    assert verify("for _ in range(int(input())): print('YES')", found[1]).outcome is Outcome.WRONG
