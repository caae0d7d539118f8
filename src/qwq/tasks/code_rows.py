"""Code tasks of a user's own: a prompt, and tests in one of the forms that `verify/code/forms.py`
reads.

The prompt is given as it is, without the tests, which the model is not to learn by heart. Only if
it does not name what they call, asserts are shown, as MBPP's are, or the name is told.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Mapping
from typing import Any

from qwq.common.source import parse_python
from qwq.data.messages import Malformed, turns_of
from qwq.errors import UsageError
from qwq.tasks.file_task import FileTask
from qwq.tasks.questions import CODE_INSTRUCTION, TESTS_HINT, canonical, text_of
from qwq.types import Message, Problem
from qwq.verify.code import BESIDE_TESTS, check_tests, read_tests


class CodeRows(FileTask):
    """Rows with `prompt` (or `problem`, `question`, `text`) and `tests`."""

    name, prefix = "code-rows", "code"
    domain = "code"

    def read(self, row: Mapping[str, Any], where: str, ident: str) -> Problem:
        key = next((k for k in ("prompt", "problem", "question", "text") if row.get(k) is not None), "prompt")
        tests = tests_of(row)
        if isinstance(row.get(key), str):
            text = text_of(row, key, where)
            messages: tuple[Message, ...] = (Message("user", text + hint(text, tests) + CODE_INSTRUCTION),)
        else:  # messages say themselves in which form they want the answer
            messages = turns_of(row.get(key), key).messages
            text = "\n".join(m.content for m in messages)
        return Problem(ident, "code", messages, {"tests": tests}, canonical("code", text), source="code")


def tests_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's `tests` (or MBPP's `test_list`) as the code verifier reads them.

    Malformed where it could not.
    """
    key = "tests" if row.get("tests") is not None else "test_list"
    try:
        made = read_tests(row.get(key), {name: row[name] for name in BESIDE_TESTS if row.get(name)})
        check_tests(made)
    except UsageError as error:
        raise Malformed(str(error)) from None
    return dict(made)


def hint(prompt: str, tests: Mapping[str, Any]) -> str:
    """What the prompt lacks: the asserts, or the function's name, where it does not name what the
    tests call.
    """
    if tests["kind"] == "call":
        name = tests["entry_point"]
        return "" if _names(prompt, name) else f"\n\nName the function `{name}`."
    if tests["kind"] != "asserts":
        return ""
    trees = [parse_python(text) for text in (tests.get("setup") or "", *tests["asserts"])]
    bound = {n.id for n in ast.walk(trees[0]) if isinstance(n, ast.Name)}
    bound |= {n.name for tree in trees for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    calls = [
        n.func.id
        for a in tests["asserts"]
        for n in ast.walk(parse_python(a))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    ]
    if all(_names(prompt, name) for name in calls if name not in bound and not hasattr(builtins, name)):
        return ""
    return TESTS_HINT + "\n".join(tests["asserts"])


def _names(prompt: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", prompt) is not None
