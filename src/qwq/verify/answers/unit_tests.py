"""A program judged by `unittest` modules that import it, as Exercism's exercises have them.

Tests and program run in one process in the jail, so a program could make its own verdict: it is
marked forgeable. Ending early is no way through: all tests that the modules define must have run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from qwq.common.source import parse_python
from qwq.sandbox import Runner, RunStatus, default_sandbox
from qwq.types import Outcome, Verdict

TIMEOUT_S = 30.0
MEMORY_MB = 512
SHOWN_LINES = 50  # of the tests' output, as Aider's benchmark shows them to the model
SHOWN_CHARS = 6000

_PROGRAM = """
import os, sys, unittest
sys.path.insert(0, os.getcwd())
unittest.main(module=None, argv=["tests", *sys.argv[1:]], verbosity=0)
"""
_RAN = re.compile(r"^Ran (\d+) tests? in .*$", re.MULTILINE)
_OK = re.compile(r"^OK( \(.*\))?\s*\Z", re.MULTILINE)
_COUNTS = re.compile(r"(failures|errors)=(\d+)")


@dataclass(frozen=True, slots=True)
class Tested:
    """A verdict, and what the tests wrote, cut for a model to read."""

    verdict: Verdict
    output: str = ""


def run_unit_tests(
    files: Mapping[str, str], tests: Sequence[str], *, verifier: str, sandbox: Runner | None = None
) -> Tested:
    """Run the test modules among `files` (name to text) beside the others.

    `tests` names them. InfraError where the sandbox fails.
    """
    total = sum(_num_tests(files[name]) for name in tests)
    modules = [PurePosixPath(name).stem for name in tests if _num_tests(files[name])]
    done = (sandbox or default_sandbox()).run(
        _PROGRAM, args=modules, files={n: t.encode("utf-8", "surrogatepass") for n, t in files.items()},
        timeout_s=TIMEOUT_S, memory_mb=MEMORY_MB,
    )  # fmt: skip
    output = done.stderr.decode(errors="replace")
    ran = _RAN.search(output)
    num_ran = int(ran[1]) if ran else 0
    failed = sum(int(count) for _, count in _COUNTS.findall(output[ran.end() :])) if ran else total
    passed = max(0, min(num_ran, total) - failed)
    verdict = Verdict(Outcome.WRONG, f"{passed} of {total} tests pass", verifier, passed, total, done.seconds, True)
    if done.status is RunStatus.TIMEOUT:
        verdict = replace(verdict, outcome=Outcome.TIMEOUT, reason=f"no end within {TIMEOUT_S:g} s")
    elif done.status is RunStatus.OK and num_ran == total and _OK.search(output):
        verdict = replace(verdict, outcome=Outcome.CORRECT, reason=f"all {total} tests pass")
    elif done.status is RunStatus.MEMORY:
        verdict = replace(verdict, reason="out of memory")
    return Tested(verdict, shown_output(output, verdict))


def shown_output(output: str, verdict: Verdict) -> str:
    """The first lines of what the tests wrote, without times."""
    text = _RAN.sub(lambda match: f"Ran {match[1]} tests", output).strip()
    lines = text.split("\n")
    text = "\n".join(lines[:SHOWN_LINES])[:SHOWN_CHARS]
    return text or verdict.reason


def _num_tests(source: str) -> int:
    """How many test methods a module defines."""
    return sum(
        isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and method.name.startswith("test")
        for node in parse_python(source).body
        if isinstance(node, ast.ClassDef)
        for method in node.body
    )
