"""Which rows of a code set can be graded, and which tests would only teach noise.

Each row's tests are read, looked at, and tried: a program that does nothing must fail them, and the
row's own solution, where there is one, must pass them within the limits.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Generator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from qwq.common.source import parse_python
from qwq.errors import UsageError
from qwq.sandbox import Runner
from qwq.types import Outcome, Verdict
from qwq.verify.code.checks import check_tests
from qwq.verify.code.extract import extract_code
from qwq.verify.code.forms import read_row
from qwq.verify.code.grade import verify
from qwq.verify.code.guess import guess_language
from qwq.verify.code.setup import BUILTIN_NAMES
from qwq.verify.code.split import split_all
from qwq.verify.code.values import lines_of, short

REFERENCE_FIELDS = ("reference", "canonical_solution", "solution", "solutions", "code")


class CodeKind(StrEnum):
    """What a row is good for. The first three are gradable."""

    GRADABLE = "gradable"  # its reference passes, a program that does nothing does not
    FORGEABLE = "forgeable"  # the same, but a program could influence its own verdict
    NO_REFERENCE = "no_reference"  # tests that can be read, and nothing to try them with
    UNREADABLE = "unreadable"  # no form of tests that is known, or a setup that fails by itself
    VACUOUS = "vacuous"  # tests that test nothing, or that a program passes which does nothing
    CONTRADICTORY = "contradictory"  # two answers to one question
    OUT_OF_LIMIT = "out_of_limit"  # the reference met the limit on time, memory or output
    FAILING = "failing"  # the reference fails


_GRADABLE = (CodeKind.GRADABLE, CodeKind.FORGEABLE, CodeKind.NO_REFERENCE)


def audit_row(
    row: Mapping[str, Any],
    *,
    field: str | None = None,
    timeout_s: float = 10.0,
    memory_mb: int = 1024,
    sandbox: Runner | None = None,
) -> tuple[CodeKind, str]:
    """What kind of row this is, and the reason in words. InfraError where the sandbox fails."""
    try:
        tests = read_row(row)
        check_tests(tests)
    except UsageError as error:
        said = str(error)
        return (CodeKind.VACUOUS if "tests nothing" in said or "holds no assert" in said else CodeKind.UNREADABLE), said
    said = contradiction(tests)
    if said:
        return CodeKind.CONTRADICTORY, said
    limits: dict[str, Any] = {"timeout_s": timeout_s, "memory_mb": memory_mb, "sandbox": sandbox}
    try:
        if _passes_by_doing_nothing(tests, limits):
            return CodeKind.VACUOUS, "a program that does nothing passes"
        program = reference(row, field)
        if program is None:
            return CodeKind.NO_REFERENCE, f"no column {field or ', '.join(REFERENCE_FIELDS)} to try the tests with"
        language = guess_language(program) if tests["kind"] in ("stdio", "interactive") else "python"
        return _kind_of(
            verify(program, tests, language=row.get("language", language), compile_timeout_s=60.0, **limits)
        )
    except UsageError as error:
        return CodeKind.UNREADABLE, str(error)


def _kind_of(verdict: Verdict) -> tuple[CodeKind, str]:
    if verdict.outcome is Outcome.CORRECT:
        return (
            (CodeKind.FORGEABLE, "runs beside the program in part")
            if verdict.forgeable
            else (CodeKind.GRADABLE, verdict.reason)
        )
    limited = verdict.outcome is Outcome.TIMEOUT or verdict.output_cut or "out of memory" in verdict.reason
    return (CodeKind.OUT_OF_LIMIT if limited else CodeKind.FAILING), f"the reference: {verdict.reason}"


def reference(row: Mapping[str, Any], field: str | None = None) -> str | None:
    """The row's own solution: a text, or the first of a list; a prompt that it continues is put
    before it.
    """
    for name in [field] if field else REFERENCE_FIELDS:
        value = row.get(name)
        value = value[0] if isinstance(value, list) and value else value
        value = value.get("code") or value.get("solution") if isinstance(value, Mapping) else value
        if isinstance(value, str) and value.strip():
            program = extract_code(value) or value if "```" in value else value
            prompt = row.get("prompt")
            return (
                prompt + program
                if name == "canonical_solution" and isinstance(prompt, str) and "def " in prompt
                else program
            )
    return None


# -- looked at


def contradiction(tests: Mapping[str, Any]) -> str:
    """Two expected answers to one question, in words; nothing where there are none."""
    seen: dict[str, Any] = {}
    for question, answer, shown in _questions(tests):
        if question in seen and seen[question] != answer:
            return f"{short(shown)} is to give both {short(seen[question])} and {short(answer)}"
        seen[question] = answer
    return ""


def _questions(tests: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    if tests["kind"] == "stdio" and "checker" not in tests:
        return [(c["input"], lines_of(c["output"]), c["input"]) for c in tests["cases"] if "output" in c]
    if tests["kind"] == "call":
        return [
            (repr((c.get("args", []), c.get("kwargs", {}))), c["expected"], c.get("args", []))
            for c in tests["cases"]
            if "expected" in c and c["expected"] == c["expected"]  # not a NaN
        ]
    if tests["kind"] != "asserts":
        return []
    found = []
    setup, splits = split_all(tests.get("setup", ""), tests["asserts"])
    for split in splits if not setup.data else []:
        node = parse_python(split.judge, mode="eval").body if split.judge and len(split.holes) == 1 else None
        if (
            isinstance(node, ast.Compare)
            and len(node.ops) == 1
            and isinstance(node.ops[0], ast.Eq)
            and isinstance(node.left, ast.Name)
        ):
            try:
                found.append((split.holes[0].source, ast.literal_eval(node.comparators[0]), split.holes[0].source))
            except (ValueError, TypeError, SyntaxError):
                continue
    return found


# -- tried


def _passes_by_doing_nothing(tests: Mapping[str, Any], limits: Mapping[str, Any]) -> bool:
    if tests["kind"] == "interactive":
        return False
    return verify(_nothing(tests), tests, **limits).correct


def _nothing(tests: Mapping[str, Any]) -> str:
    """A program that has whatever the tests call, and returns None from all of it."""
    names = {tests["entry_point"]} if tests["kind"] == "call" else set()
    if tests["kind"] == "asserts":
        setup, splits = split_all(tests.get("setup", ""), tests["asserts"])
        sources = [hole.source for split in splits for hole in split.holes] + [s.source for s in splits if not s.holes]
        nodes = [n for source in sources for n in ast.walk(parse_python(source.strip()))]
        names = {n.id for n in nodes if isinstance(n, ast.Name)} - setup.known - BUILTIN_NAMES
    made = [f"{name} = _Nothing()" for name in sorted(names) if name.isidentifier()]
    return (
        "class _Nothing:\n    def __call__(self, *a, **k): return None\n"
        "    def __getattr__(self, name): return _Nothing()\n" + "\n".join(made)
    )


def audit_code_file(
    path: str | Path,
    clean_path: str | Path | None = None,
    *,
    field: str | None = None,
    timeout_s: float = 10.0,
    sandbox: Runner | None = None,
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Yield `index`, `gradable`, `kind`, `reason` for each row, in order; return counts by kind.

    `field` names the reference solution's column (default: the first of REFERENCE_FIELDS).
    `clean_path` gets the gradable rows, as they were. DataError: missing or malformed file.
    """
    from qwq.verify.cli_io import read_lines

    counts: Counter[str] = Counter()
    kept: list[str] = []
    for index, (_, row) in enumerate(read_lines(path)):
        kind, reason = audit_row(row, field=field, timeout_s=timeout_s, sandbox=sandbox)
        counts[kind.value] += 1
        if kind in _GRADABLE:
            kept.append(json.dumps(row, ensure_ascii=False))
        yield {"index": index, "gradable": kind in _GRADABLE, "kind": kind.value, "reason": reason}
    if clean_path is not None:
        Path(clean_path).write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    return {"n": sum(counts.values()), "kinds": dict(counts)}
