"""Whether tests can be graded: their keys and types, and that each of them tests something."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwq.common.source import parse_python
from qwq.errors import UsageError, nearest
from qwq.sandbox.languages import canonical
from qwq.verify.code import livecodebench
from qwq.verify.code.checkers import PROGRAM_KEYS, check_checker
from qwq.verify.code.values import EXACT, short

KINDS = {
    "stdio": ({"kind", "cases"}, {"compare", "checker", "prelude"}),
    "call": ({"kind", "entry_point", "cases"}, {"compare", "prelude"}),
    "asserts": ({"kind", "asserts"}, {"setup", "prelude"}),
    "interactive": ({"kind", "cases", "interactor"}, set()),
}
_CASE_KEYS = {
    "stdio": ({"input"}, {"output", "any_of"}),
    "interactive": ({"input"}, {"output"}),
    "call": (set(), {"args", "kwargs", "expected", "any_of"}),
}
# Calls of functions so named are taken to fail where a program is wrong.
_CHECKS = re.compile(r"assert|check|test|verify|valid|raises|expect|equal|fail|main|run|compare", re.IGNORECASE)


def check_tests(tests: Any) -> int:
    """The number of cases. Raises UsageError where `tests` has none of the forms, no case at all,
    or a test that no program could fail.
    """
    if not isinstance(tests, Mapping) or tests.get("kind") not in KINDS:
        kind = tests.get("kind") if isinstance(tests, Mapping) else tests
        raise UsageError(f"tests.kind is {short(kind)}: it must be one of {', '.join([*KINDS, livecodebench.KIND])}")
    kind = tests["kind"]
    _check_keys("tests", tests, *KINDS[kind])
    name = "asserts" if kind == "asserts" else "cases"
    cases = tests[name]
    if not isinstance(cases, (list, tuple)) or not cases:
        raise UsageError(f"tests.{name} is {short(cases)}: it must be a list with at least one case")
    for key in ("setup", "prelude"):
        if not isinstance(tests.get(key, ""), str):
            raise UsageError(f"tests.{key} is {short(tests[key])}: give Python text")
    if kind == "asserts":
        _check_asserts(cases)
    else:
        for index, case in enumerate(cases):
            _check_case(kind, index, case)
    allowed = (livecodebench.KIND, EXACT) if kind == "call" else (livecodebench.KIND,)
    if "compare" in tests and tests["compare"] not in allowed:
        raise UsageError(
            f"tests.compare is {short(tests['compare'])}: leave it out, or give {' or '.join(map(repr, allowed))}"
        )
    if "checker" in tests:
        check_checker(tests["checker"])
    if kind == "call" and not isinstance(tests["entry_point"], str):
        raise UsageError(f"tests.entry_point must be the name of a function, it is {short(tests['entry_point'])}")
    if kind == "interactive":
        _check_interactor(tests["interactor"])
    return len(cases)


def _check_keys(what: str, data: Any, required: set[str], optional: set[str]) -> None:
    if not isinstance(data, Mapping):
        raise UsageError(
            f"{what} is a {type(data).__name__}: give an object with {', '.join(sorted(required | optional))}"
        )
    missing = required - data.keys()
    if missing:
        raise UsageError(f"{what} lacks {', '.join(sorted(missing))}; it has {', '.join(sorted(map(str, data)))}")
    unknown = sorted(set(data) - required - optional)
    if unknown:
        raise UsageError(f"{what} has an unknown key {unknown[0]!r}: {nearest(str(unknown[0]), required | optional)}")


def _check_case(kind: str, index: int, case: Any) -> None:
    what = f"tests.cases[{index}]"
    expected = "expected" if kind == "call" else "output"
    if kind != "interactive" and isinstance(case, Mapping) and not case.keys() & {expected, "any_of"}:
        _check_keys(what, case, _CASE_KEYS[kind][0] | {expected}, _CASE_KEYS[kind][1])
    _check_keys(what, case, *_CASE_KEYS[kind])
    if kind != "interactive" and (expected in case) == ("any_of" in case):
        raise UsageError(f"{what} has {', '.join(sorted(case)) or 'no key'}: give either {expected} or any_of")
    if "any_of" in case and (not isinstance(case["any_of"], (list, tuple)) or not case["any_of"]):
        raise UsageError(f"{what}.any_of is {short(case['any_of'])}: give a list of right answers")
    if kind != "call":
        for key, value in ((k, v) for k in case for v in (case[k] if k == "any_of" else [case[k]])):
            if not isinstance(value, str):
                raise UsageError(f"{what}.{key} is a {type(value).__name__}: give text")
    elif not isinstance(case.get("args", []), (list, tuple)) or not isinstance(case.get("kwargs", {}), Mapping):
        raise UsageError(f"{what}: args must be a list and kwargs an object")


def _check_interactor(interactor: Any) -> None:
    _check_keys("tests.interactor", interactor, {"program"}, PROGRAM_KEYS - {"program"})
    if not isinstance(interactor["program"], str):
        raise UsageError(f"tests.interactor.program is {short(interactor['program'])}: give its text")
    canonical(interactor.get("language", "python"))


# -- tests that test nothing


def _check_asserts(texts: Sequence[Any]) -> None:
    if not all(isinstance(text, str) for text in texts):
        raise UsageError("tests.asserts must be a list of strings")
    constant = 0
    for index, text in enumerate(texts):
        what = f"tests.asserts[{index}]"
        try:
            body = parse_python(text.strip()).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise UsageError(f"{what} is not Python: {short(text)}: {str(error)[:80]}") from None
        fault = _fault(body)
        if fault:
            raise UsageError(f"{what} tests nothing: {short(text)} {fault}")
        constant += all(isinstance(s, ast.Assert) and isinstance(s.test, ast.Constant) for s in body)
    if constant == len(texts):
        raise UsageError(f"tests.asserts tests nothing: {short(texts[0])} is true of every program")


def _calls_a_check(nodes: list[ast.AST]) -> bool:
    """Whether a function is called whose name says that it checks; those defined here are seen into
    already.
    """
    own = {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    calls = [ast.unparse(n.func) for n in nodes if isinstance(n, ast.Call)]
    calls = [name for name in calls if name.partition(".")[0].partition("(")[0] not in own]
    return any(_CHECKS.search(name.rpartition(".")[2] or name) for name in calls)


def _fault(body: list[ast.stmt]) -> str:
    """Why no program could fail a test, or nothing where one could."""
    nodes = [n for statement in body for n in ast.walk(statement)]
    if any(isinstance(n, ast.Assert) and isinstance(n.test, ast.Tuple) and n.test.elts for n in nodes):
        return "asserts a tuple, which is always true: leave the brackets out"
    if any(isinstance(n, (ast.Assert, ast.Raise)) for n in nodes):
        return ""
    if _calls_a_check(nodes):
        return ""
    if any(isinstance(s, ast.Expr) and isinstance(s.value, ast.Compare) for s in body):
        return "compares and throws the result away: put assert before it"
    return "has no assert"
