"""HumanEval's and MBPP's own solutions get the verdicts they deserve, and wrong ones made from them
fail.

All solutions are judged; wrong answers are made from every third (QWQ_WRONG_OF=1, `make
test-verdicts`: from all).
"""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qwq.sandbox import Sandbox
from qwq.types import Outcome
from qwq.verify.code import asserts_from_check, verify

DATA = Path(__file__).resolve().parents[2].parent / "shared/data"
# The setup of these two uses a class of the program. Run before the program, as published, no
# answer could pass; that leaves 972 references of 974 right.
SETUP_NEEDS_THE_PROGRAM = {"367", "927"}

# The wrong answers wrap the right one, which is bound to _right before the wrapper takes its name.
WRAPPERS = {
    "none": "def {name}(*args, **kwargs):\n    _right(*args, **kwargs)\n    return None",
    "swapped": "def {name}(*args):\n    return _right(*args[::-1])",
    "off by one": """
def {name}(*args, **kwargs):
    value = _right(*args, **kwargs)
    if isinstance(value, bool): return not value
    if isinstance(value, (int, float, complex)): return value + 1
    if isinstance(value, str): return value + "x"
    if isinstance(value, (list, tuple)): return value + type(value)([0])
    if isinstance(value, (set, frozenset)): return value | {{"x"}}
    if isinstance(value, dict): return {{**value, "x": 0}}
    return 1 if value is None else None
""",
    # Right only where every tested call gives the same with its arguments swapped.
    "symmetric": """
def {name}(*args):
    import copy
    other = _right(*copy.deepcopy(args)[::-1])
    value = _right(*args)
    if value != other: raise ValueError
    return value
""",
}


def humaneval() -> list[tuple[str, str, str, dict]]:
    """(id, name of the function, solution, tests)"""
    problems = []
    for line in (DATA / "humaneval/HumanEval.jsonl").read_text().splitlines():
        row = json.loads(line)
        setup, asserts = asserts_from_check(row["test"], row["entry_point"])
        tests = {"kind": "asserts", "setup": setup, "asserts": asserts}
        problems.append((row["task_id"], row["entry_point"], row["prompt"] + row["canonical_solution"], tests))
    return problems


def mbpp() -> list[tuple[str, str, str, dict]]:
    problems = []
    for line in (DATA / "mbpp/mbpp.jsonl").read_text().splitlines():
        row = json.loads(line)
        tests = {"kind": "asserts", "setup": row.get("test_setup_code") or "", "asserts": row["test_list"]}
        defined = re.findall(r"^def (\w+)", row["code"], re.MULTILINE)
        called = [n for n in re.findall(r"\b(\w+)\s*\(", row["test_list"][0]) if n in defined]
        name = called[0] if called else (defined or ["f"])[-1]
        problems.append((str(row["task_id"]), name, row["code"], tests))
    return problems


@pytest.fixture(scope="module")
def box():
    with Sandbox(slots=2) as made:
        yield made


def outcomes(box: Sandbox, problems, wrapper: str | None = None) -> dict[str, Outcome]:
    def judge(problem) -> tuple[str, Outcome]:
        number, name, code, tests = problem
        if wrapper is not None:
            # In a namespace of its own, so that a function which calls itself calls the right one.
            loaded = f"_space = {{}}\nexec({code!r}, _space)\nglobals().update(_space)\n_right = {name}\n"
            code = loaded + WRAPPERS[wrapper].format(name=name)
        return number, verify(code, tests, sandbox=box, timeout_s=20).outcome

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(judge, problems))


def right(found: dict[str, Outcome]) -> set[str]:
    assert Outcome.INFRA_ERROR not in found.values()
    return {number for number, outcome in found.items() if outcome is Outcome.CORRECT}


SETS = {"humaneval": (humaneval, "humaneval/HumanEval.jsonl"), "mbpp": (mbpp, "mbpp/mbpp.jsonl")}


@pytest.fixture(scope="module", params=list(SETS))
def benchmark(request):
    load, path = SETS[request.param]
    if not (DATA / path).is_file():
        pytest.skip(f"{path} is not beside the project")
    return load()


@pytest.fixture(scope="module")
def some(benchmark):
    """The problems that wrong answers are made from."""
    return benchmark[:: int(os.environ.get("QWQ_WRONG_OF", "3"))]


def test_the_references_are_right(box, benchmark):
    found = outcomes(box, benchmark)
    assert right(found) == {number for number, _, _, _ in benchmark}


def test_a_setup_that_needs_the_program_fails_where_it_comes_first(box, benchmark):
    with_setup = [
        (n, name, f"{t['setup']}\n{code}", {**t, "setup": ""}) for n, name, code, t in benchmark if t["setup"]
    ]
    numbers = {number for number, _, _, _ in with_setup}
    assert numbers - right(outcomes(box, with_setup)) == SETUP_NEEDS_THE_PROGRAM & numbers


@pytest.mark.parametrize("wrapper", ["none", "off by one"])
def test_wrong_answers_fail(box, some, wrapper):
    assert right(outcomes(box, some, wrapper)) == set()


def test_swapped_arguments_fail_unless_they_make_no_difference(box, some):
    passed = right(outcomes(box, some, "swapped"))
    assert 0 < len(passed) < len(some)
    symmetric = [p for p in some if p[0] in passed]
    assert right(outcomes(box, symmetric, "symmetric")) == passed
