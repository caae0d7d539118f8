"""Tests in the forms that data sets keep them in, read into the few forms that are graded.

["assert f(1) == 2", ...]  or one text of them              asserts, with setup_code and test_imports beside (MBPP)
"def check(candidate): ..." {"test", "entry_point"}         HumanEval's, of the row's entry point or of a call of it
{"functional": "def check(candidate): ..."}                 LeetCode's, with its surroundings (`leetcode.py`)
"def test_a(): assert f(1) == 2"                            pytest's: straight-line functions become asserts, others run whole
[{"input", "output"}, ...]                                  programs that read and write (codeforces)
{"inputs": [...], "outputs": [...]}                         the same as lists (APPS, TACO, PRIME, code_contests); with
                                                            `fn_name` calls of that function
{"public_tests": {"input": [...], "output": [...]}, ...}    the same in three parts (code_contests as published)
{"public_test_cases", "private_test_cases", "metadata"}     LiveCodeBench's
[{"args": [...], "expected": ...}, ...]                     calls of the row's `entry_point`
JSON text of any of these
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwq.common.source import parse_python
from qwq.errors import DataError, UsageError
from qwq.verify.code import leetcode, livecodebench
from qwq.verify.code.values import short

# What data sets keep beside tests that belongs to them, and the columns that they keep tests in.
BESIDE_TESTS = ("entry_point", "fn_name", "setup", "test_setup_code", "test_imports")
ROW_TESTS = (
    "test", "test_list", "public_test_cases", "private_test_cases", "metadata", "public_tests", "private_tests",
    "generated_tests", "inputs", "outputs", "input_output",
)  # fmt: skip
_PACKED = re.compile(r"eJ[A-Za-z0-9+/]{20,}={0,2}\s*")  # base64 of zlib, as LiveCodeBench and SandboxFusion pack tests
_PARTS = ("public_tests", "private_tests", "generated_tests")
_TEST = re.compile(r"test|Test")


def read_row(row: Mapping[str, Any]) -> Any:
    """The tests of a data set's row, under `tests` or in the columns that data sets have for them.

    DataError: none.
    """
    beside = {key: row[key] for key in BESIDE_TESTS if key in row}
    for key in ("tests", "input_output"):
        if key in row:
            return read_tests(row[key], beside)
    found = {key: row[key] for key in ROW_TESTS if row.get(key)}
    if not found:
        raise DataError(f"a line needs tests, it has {', '.join(sorted(map(str, row)))}")
    return read_tests(found, beside)


def read_tests(tests: Any, row: Mapping[str, Any] | None = None) -> Any:
    """`tests` in the form that `checks.check_tests` looks at; `row` may hold what lies beside them
    in a data set: `entry_point` or `fn_name`, `setup`, `test_setup_code`, `test_imports`. Raises
    DataError for what holds no tests.
    """
    row = row or {}
    if isinstance(tests, (bytes, str)):
        return _from_text(tests if isinstance(tests, str) else tests.decode(), row)
    if isinstance(tests, Mapping):
        return _from_object(tests, row)
    if isinstance(tests, Sequence) and tests:
        return _from_list(tests, row)
    raise DataError(
        f"tests are {short(tests)}: give an object with kind, a list of asserts, or one of the forms in docs/sandbox.md"
    )


def _from_text(text: str, row: Mapping[str, Any]) -> Any:
    if _PACKED.fullmatch(text):
        return livecodebench.expand({"kind": livecodebench.KIND, "test": text.strip()})
    if text.lstrip()[:1] in ("{", "["):
        try:
            return read_tests(json.loads(text), row)
        except (ValueError, RecursionError) as error:
            if isinstance(error, UsageError):
                raise
            raise DataError(f"tests are text that begins like JSON and is none: {str(error)[:80]}") from None
    return _asserts([text.replace("\r\n", "\n")], row)


def _from_object(tests: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
    if tests.get("kind") == livecodebench.KIND:
        return livecodebench.expand(tests)
    if tests.get("kind") == "asserts" and isinstance(tests.get("asserts"), list):
        return {**tests, "asserts": _unfolded(tests["asserts"])}
    if "kind" in tests:
        return tests
    if "public_test_cases" in tests:
        return livecodebench.expand({"kind": livecodebench.KIND, **tests})
    if "functional" in tests:
        return _leetcode(tests["functional"], row)
    if "assert_case" in tests:
        return _from_list(tests["assert_case"], row)
    if "test_list" in tests:
        return _from_list(tests["test_list"], {**row, **tests})
    if "test" in tests:
        return _from_test(tests, row)
    return _from_pairs(tests, row)


def _from_test(tests: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
    """The form of `test`: LiveCodeBench's packed text, SandboxFusion's code, or any other."""
    test = tests["test"]
    if isinstance(test, str) and _PACKED.fullmatch(test):
        return livecodebench.expand({"kind": livecodebench.KIND, "test": test.strip()})
    if isinstance(test, Mapping) and isinstance(test.get("code"), str):
        test = test["code"]  # SandboxFusion's rows of AutoEval
    return read_tests(test, {**row, **tests})


def _from_pairs(tests: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
    """Inputs and outputs, as lists, as one of each, or in the parts of code_contests."""
    if any(part in tests for part in _PARTS):
        parts = [tests[part] for part in _PARTS if tests.get(part)]
        return _pairs([i for p in parts for i in p["input"]], [o for p in parts for o in p["output"]], None)
    names = ("inputs", "outputs") if "inputs" in tests else ("input", "output")
    inputs, outputs = (tests.get(name) for name in names)
    if isinstance(inputs, list) and isinstance(outputs, list):
        return _pairs(inputs, outputs, tests.get("fn_name") or row.get("fn_name"))
    if isinstance(inputs, str) and isinstance(outputs, str):
        return _pairs([inputs], [outputs], None)
    keys = ", ".join(sorted(map(str, tests))) or "no key"
    raise DataError(
        f"tests.kind is not there, and an object with {keys} is no other form: give kind, or inputs and outputs"
    )


def _from_list(tests: Sequence[Any], row: Mapping[str, Any]) -> Any:
    if all(isinstance(test, str) for test in tests):
        return _asserts([test.replace("\r\n", "\n") for test in tests], row)
    if all(isinstance(test, Mapping) and {"input", "output"} <= test.keys() for test in tests):
        function = row.get("fn_name") or next((t.get("fn_name") for t in tests if t.get("fn_name")), None)
        return _pairs([t["input"] for t in tests], [t["output"] for t in tests], function)
    if all(isinstance(test, Mapping) and "expected" in test for test in tests):
        cases = [{key: test[key] for key in ("args", "kwargs", "expected") if key in test} for test in tests]
        return {"kind": "call", "entry_point": row.get("entry_point") or row.get("fn_name"), "cases": cases}
    raise DataError(
        f"tests are a list that begins with {short(tests[0])}: give asserts, objects with input and output, or "
        "objects with args and expected"
    )


# -- inputs and outputs


def _pairs(inputs: list[Any], outputs: list[Any], function: Any) -> dict[str, Any]:
    if len(inputs) != len(outputs) or not inputs:
        raise DataError(f"{len(inputs)} inputs and {len(outputs)} outputs: give as many of each, and at least one")
    if function:
        cases = [_call(given, output) for given, output in zip(inputs, outputs, strict=True)]
        return {"kind": "call", "prelude": livecodebench.PRELUDE, "entry_point": function, "cases": cases}
    cases = [{"input": _text(i, "\n"), "output": _text(o, "\n")} for i, o in zip(inputs, outputs, strict=True)]
    return {"kind": "stdio", "compare": livecodebench.KIND, "cases": cases}


def _text(value: Any, between: str) -> str:
    """APPS has some texts as lists of lines, SandboxFusion texts by the name of their stream."""
    if isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in ("stdin", "stdout"):
        return str(next(iter(value.values())))
    if isinstance(value, list):
        return between.join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _call(given: Any, output: Any) -> dict[str, Any]:
    """PRIME writes arguments as one JSON value a line, and results as JSON; APPS wraps a result in
    a list.
    """
    args = [_json(line) for line in given.split("\n")] if isinstance(given, str) else given
    expected = _json(output) if isinstance(output, str) and isinstance(given, str) else output
    if not isinstance(args, list):
        args = [args]
    accepted = [expected, expected[0]] if isinstance(expected, list) and len(expected) == 1 else [expected]
    return {"args": args, "any_of": accepted}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"an argument or a result is {short(text)}, which is no JSON: {str(error)[:60]}") from None


# -- asserts


def parsed(text: str, what: str = "a test") -> list[ast.stmt]:
    """Statements of Python text. Raises DataError for other text."""
    try:
        return parse_python(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{what} is not Python: {short(text)}: {type(error).__name__}: {str(error)[:80]}") from None


def _asserts(texts: Sequence[str], row: Mapping[str, Any]) -> dict[str, Any]:
    beside = row.get("test_setup_code") or row.get("setup") or "\n".join(row.get("test_imports") or ())
    setup = [str(beside).replace("\r\n", "\n")] if beside else []
    entry = row.get("entry_point")
    if len(texts) == 1 and (body := parsed(texts[0])):
        check = [s for s in body if isinstance(s, ast.FunctionDef) and s.name == "check" and s.args.args]
        if check:
            called = [s for s in body if _is_call_of(s, "check")]
            entry = ast.unparse(called[-1].value.args[0]) if called else entry  # type: ignore[attr-defined]
            if not isinstance(entry, str):
                raise DataError(
                    "the test defines check(candidate), and nothing says of what: give entry_point, or call it"
                )
            own, asserts = asserts_from_check("\n".join(ast.unparse(s) for s in body if s not in called), entry)
            return {"kind": "asserts", "setup": "\n".join([*setup, own]), "asserts": asserts}
        if len(body) > 1:
            return _from_statements(texts[0], body, setup)
    return {"kind": "asserts", "setup": "\n".join(setup), "asserts": _unfolded(texts)}


def _is_call_of(statement: ast.stmt, name: str) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func) == name and bool(call.args)


def _from_statements(text: str, body: list[ast.stmt], setup: list[str]) -> dict[str, Any]:
    """One text of many tests: what asserts, and functions for pytest, are the tests; all else is
    their setup.
    """
    tests: list[str] = []
    before = list(setup)
    for statement in body:
        source = ast.get_source_segment(text.strip(), statement) or ast.unparse(statement)
        is_test = isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and _TEST.match(
            statement.name
        )
        if is_test and getattr(statement, "decorator_list", None):
            source = ast.unparse(statement)
        defines = isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not is_test
        asserts = not defines and any(isinstance(n, (ast.Assert, ast.With)) for n in ast.walk(statement))
        (tests if is_test or asserts else before).append(source)
    if not tests:
        raise DataError("the text of tests holds no assert and no test function")
    return {"kind": "asserts", "setup": "\n".join(before), "asserts": _unfolded(tests)}


def _unfolded(texts: Sequence[Any]) -> list[Any]:
    """Asserts, with test functions that only assert taken apart and other test functions called."""
    out: list[Any] = []
    for text in texts:
        out += _unfolded_one(text) if isinstance(text, str) and _TEST.search(text) else [text]
    return out


def _unfolded_one(text: str) -> list[str]:
    try:
        body = parse_python(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [text]  # said where the tests are checked
    named = [
        s for s in body if isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and _TEST.match(s.name)
    ]
    others = [s for s in body if s not in named and not isinstance(s, (ast.Import, ast.ImportFrom))]
    if not named or any(
        isinstance(n, ast.Name) and n.id in {s.name for s in named} for s in others for n in ast.walk(s)
    ):
        return [text]  # nothing for pytest, or called by the text itself
    if len(named) == 1 and len(body) == 1 and _only_asserts(named[0]):
        return [ast.unparse(s) for s in named[0].body if isinstance(s, ast.Assert)]
    return ["\n".join([text.strip(), _runs(s, text.strip())]) for s in named]


def _only_asserts(function: ast.stmt) -> bool:
    return (
        isinstance(function, ast.FunctionDef)
        and not function.decorator_list
        and not ast.unparse(function.args)
        and any(isinstance(s, ast.Assert) for s in function.body)
        and all(
            isinstance(s, ast.Assert) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            for s in function.body
        )
    )


def _runs(test: ast.stmt, text: str) -> str:
    """Statements that run a test function or class of `text` as pytest and unittest do."""
    assert isinstance(test, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    name = test.name
    if isinstance(test, ast.ClassDef) and any("TestCase" in ast.unparse(b) for b in test.bases):
        return (
            f"import unittest as _unittest\n_result = _unittest.TestResult()\n"
            f"_unittest.defaultTestLoader.loadTestsFromTestCase({name}).run(_result)\n"
            f"assert _result.testsRun and _result.wasSuccessful(), (_result.failures + _result.errors)[:1]"
        )
    needs_pytest = any(
        getattr(n, "decorator_list", None)
        or (isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) and _fixtures(n, test))
        for n in ast.walk(test)
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    )
    if needs_pytest:
        return f"_judge_pytest({text!r}, {name!r})"  # `jail/child.py`
    if isinstance(test, ast.ClassDef):
        methods = [
            s for s in test.body if isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef)) and s.name.startswith("test")
        ]
        return (
            "\n".join(_call_text(f"{name}().{m.name}()", m) for m in methods) or "assert False, 'a class without tests'"
        )
    return _call_text(f"{name}()", test)


def _call_text(call: str, function: ast.stmt) -> str:
    return f"__import__('asyncio').run({call})" if isinstance(function, ast.AsyncFunctionDef) else call


def _fixtures(function: ast.FunctionDef | ast.AsyncFunctionDef, test: ast.stmt) -> bool:
    """Whether a test function takes arguments, which pytest would give it."""
    own = 1 if function is not test else 0
    return function.name.startswith("test") and len(function.args.args) > own


def _leetcode(source: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(source, str):
        raise DataError(f"functional is {short(source)}: give the text of check(candidate)")
    made = _asserts([source], row)
    asserts = [leetcode.compare_values(text) for text in made["asserts"]]
    return {**made, "asserts": asserts, "prelude": leetcode.PRELUDE}


def asserts_from_check(source: str, entry_point: str) -> tuple[str, list[str]]:
    """Setup and asserts of a HumanEval test, a function `check(candidate)`, with the candidate
    called by its name.

    A straight-line body gives one assert each; loops and assignments stay together with what
    follows as one test. Raises UsageError where there is no `check`.
    """
    module = parse_python(source)
    checks = [s for s in module.body if isinstance(s, ast.FunctionDef) and s.name == "check"]
    if not checks:
        raise UsageError("the test defines no check(candidate)")
    parameter = checks[0].args.args[0].arg
    renamed = [_Rename(parameter, entry_point).visit(s) for s in checks[0].body]
    setup = [s for s in module.body if s is not checks[0]]
    asserts: list[str] = []
    for index, statement in enumerate(renamed):
        if isinstance(statement, ast.Assert):
            asserts.append(ast.unparse(statement))
        elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            asserts.append("\n".join(ast.unparse(s) for s in renamed[index:]))
            break
    return "\n".join(ast.unparse(s) for s in setup), asserts


class _Rename(ast.NodeTransformer):
    def __init__(self, old: str, new: str):
        self.old = old
        self.new = parse_python(new, mode="eval").body

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.new if node.id == self.old else node
