"""Code tasks of a user's own: a prompt, and tests in one of the forms that people keep them in.

    ["assert add(1, 2) == 3", ...]        asserts; or one text of them, with imports and helpers before
    [{"input": "1 2\\n", "output": "3\\n"}]  programs that read and write
    [{"args": [1, 2], "expected": 3}]      calls of the row's `entry_point`
    {"inputs": [...], "outputs": [...]}    APPS's lists; with `fn_name` calls of that function
    "def check(candidate): ..."            HumanEval's form, of the row's `entry_point` or with a call of it behind
    {"kind": ..., ...}                     as `qwq verify code` reads them

The prompt is given as it is, without the tests, which the model is not to learn by heart. Only where it does not name what they call are
asserts shown, as MBPP's are, or the name is told.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwq.common.source import parse_python
from qwq.data.messages import Malformed, from_json
from qwq.errors import UsageError
from qwq.verify.code import asserts_from_check, check_tests


def tests_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's `tests` (or MBPP's `test_list`) as the code verifier reads them. Malformed where it could not."""
    key = "tests" if row.get("tests") is not None else "test_list"
    tests = row.get(key)
    if isinstance(tests, str) and tests.lstrip()[:1] in ("{", "["):
        tests = from_json(tests, key)
    made = _made(tests, row, key)
    try:
        check_tests(made)
    except UsageError as error:
        raise Malformed(str(error)) from None
    return made


def _made(tests: Any, row: Mapping[str, Any], key: str) -> dict[str, Any]:
    setup = str(row.get("test_setup_code") or row.get("setup") or "").replace("\r\n", "\n")
    if isinstance(tests, str):
        return _program(tests.replace("\r\n", "\n"), setup, row.get("entry_point"), key)
    if isinstance(tests, Mapping):
        return dict(tests) if "kind" in tests else _lists(tests, key)
    if not isinstance(tests, Sequence) or not tests:
        raise Malformed(
            f"{key} is {str(tests)[:40]!r}: give a list of at least one assert, or of objects with input and output"
        )
    if all(isinstance(t, str) for t in tests):
        asserts = [t.replace("\r\n", "\n").strip() for t in tests]
        for i, text in enumerate(asserts):
            _parse(text, f"{key}[{i}]")
        return {"kind": "asserts", "setup": setup, "asserts": asserts}
    if all(isinstance(t, Mapping) and {"input", "output"} <= t.keys() for t in tests):
        return {"kind": "stdio", "cases": [{"input": t["input"], "output": t["output"]} for t in tests]}
    if all(isinstance(t, Mapping) and "expected" in t for t in tests):
        cases = [{k: t[k] for k in ("args", "kwargs", "expected") if k in t} for t in tests]
        return {"kind": "call", "entry_point": row.get("entry_point") or row.get("fn_name"), "cases": cases}
    raise Malformed(
        f"{key} mixes or lacks known forms: give asserts, objects with input and output, or objects with args and expected"
    )


def _lists(tests: Mapping[str, Any], key: str) -> dict[str, Any]:
    inputs, outputs = tests.get("inputs"), tests.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise Malformed(
            f"{key} is an object with {', '.join(map(str, tests))}: give `kind`, or `inputs` and `outputs` of one length"
        )
    if tests.get("fn_name"):
        return {
            "kind": "call",
            "entry_point": tests["fn_name"],
            "cases": [{"args": i, "expected": o} for i, o in zip(inputs, outputs, strict=True)],
        }
    return {"kind": "stdio", "cases": [{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True)]}


def _program(text: str, setup: str, entry: Any, key: str) -> dict[str, Any]:
    """A text of asserts: statements that assert are the tests, all others their setup. Or HumanEval's `check` of `entry`."""
    body, asserts, before = _parse(text, key), [], [setup] if setup else []
    if any(isinstance(s, ast.FunctionDef) and s.name == "check" and s.args.args for s in body):
        called = [
            s
            for s in body
            if isinstance(s, ast.Expr)
            and isinstance(s.value, ast.Call)
            and ast.unparse(s.value.func) == "check"
            and s.value.args
        ]
        entry = ast.unparse(called[-1].value.args[0]) if called else entry  # type: ignore[attr-defined]
        if not isinstance(entry, str):
            raise Malformed(
                f"{key} defines check(candidate), and nothing says of what: give `entry_point`, or call it in the text"
            )
        own, asserts = asserts_from_check("\n".join(ast.unparse(s) for s in body if s not in called), entry)
        return {"kind": "asserts", "setup": "\n".join([*before, own]), "asserts": asserts}
    for statement in body:
        source = ast.get_source_segment(text, statement) or ""
        defined = statement.name if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else ""
        if re.match(r"(test|check|Test)", defined):
            raise Malformed(f"{key} defines {defined!r}, which nothing calls: give its asserts alone")
        if not defined and any(isinstance(n, ast.Assert) for n in ast.walk(statement)):
            asserts.append(source)
        else:
            before.append(source)
    return {"kind": "asserts", "setup": "\n".join(before), "asserts": asserts}


def _parse(text: str, what: str) -> list[ast.stmt]:
    try:
        return parse_python(text).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise Malformed(f"{what} is no Python ({error.__class__.__name__}: {str(error)[:80]})") from None


def hint(prompt: str, tests: Mapping[str, Any], tests_hint: str) -> str:
    """What the prompt lacks: the asserts, or the function's name, where it does not name what the tests call."""
    if tests["kind"] == "call":
        name = tests["entry_point"]
        return "" if _names(prompt, name) else f"\n\nName the function `{name}`."
    if tests["kind"] != "asserts":
        return ""
    bound = {n.id for n in ast.walk(parse_python(tests.get("setup") or "")) if isinstance(n, ast.Name)}
    bound |= {
        n.name
        for n in ast.walk(parse_python(tests.get("setup") or ""))
        if isinstance(n, ast.FunctionDef | ast.ClassDef)
    }
    calls = [
        n.func.id
        for a in tests["asserts"]
        for n in ast.walk(parse_python(a))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    ]
    if all(_names(prompt, name) for name in calls if name not in bound and not hasattr(builtins, name)):
        return ""
    return tests_hint + "\n".join(tests["asserts"])


def _names(prompt: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", prompt) is not None
