"""Tests of whole programs: what they read and write, one process a case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwq.sandbox import RunResult, RunStatus
from qwq.sandbox.jail.codec import to_bytes
from qwq.types import Outcome
from qwq.verify.code import livecodebench
from qwq.verify.code.checkers import NAMED, CheckerFault, run_checker
from qwq.verify.code.tally import CodeRun, Tally
from qwq.verify.code.values import short

DEFAULT_OUTPUT_BYTES = 1 << 20
_WORDS = {RunStatus.MEMORY: "out of memory", RunStatus.OUTPUT_LIMIT: "too much output"}


def run_stdio(job: CodeRun, tests: Mapping[str, Any], tally: Tally) -> None:
    published = tests.get("compare") == livecodebench.KIND
    prelude = tests.get("prelude", livecodebench.PRELUDE if published else "") if job.language == "python" else ""
    for index, case in enumerate(tests["cases"]):
        outputs = list(case["any_of"]) if "any_of" in case else [case["output"]]
        limits = {"output_limit_bytes": output_limit(outputs), **job.limits}
        stdin = to_bytes(case["input"])
        result = job.sandbox.run(
            job.code, stdin=stdin, language=job.language, prelude=prelude, **limits, **job.compile_limits
        )
        tally.saw(result)
        if result.status is RunStatus.OK:
            _compare(job, tests, case["input"], outputs, result, index, tally)
            continue
        outcome, reason = how_it_ended(job, result)
        if result.status in (RunStatus.COMPILE_ERROR, RunStatus.TIMEOUT):
            # It would not compile the next time either, and the others would likely cost the full
            # limit too.
            tally.add_rest(index, outcome, reason)
            return
        tally.add(index, outcome, reason)


def output_limit(outputs: list[str]) -> int:
    """Bytes that a program may write: what is expected sets it, not a constant."""
    return max(DEFAULT_OUTPUT_BYTES, 2 * max(4 * len(text) for text in outputs) + (1 << 16))


def _compare(
    job: CodeRun, tests: Mapping[str, Any], given: str, outputs: list[str], result: RunResult, index: int, tally: Tally
) -> None:
    first: str | None = None
    for output in outputs:
        try:
            difference = _difference(job, tests, given, output, result, tally)
        except CheckerFault as fault:
            tally.repeatable = False
            tally.add(index, Outcome.UNDECIDED, str(fault))
            return
        if difference is None:
            tally.add(index, Outcome.CORRECT)
            return
        first = first or difference
    tally.add(index, Outcome.WRONG, first or "")


def _difference(
    job: CodeRun, tests: Mapping[str, Any], given: str, output: str, result: RunResult, tally: Tally
) -> str | None:
    checker = tests.get("checker", "lines")
    if not isinstance(checker, str):
        said, run = run_checker(job.sandbox, checker, given, result.stdout, output)
        tally.saw(run, of_program=False)
        return said
    if tests.get("compare") == livecodebench.KIND:
        return livecodebench.output_difference(result.stdout, output, job.tolerance)
    return NAMED[checker](result.stdout, output, job.tolerance)


def how_it_ended(job: CodeRun, result: RunResult) -> tuple[Outcome, str]:
    """The outcome of a run that did not end well, in words."""
    if result.status is RunStatus.COMPILE_ERROR:
        return Outcome.WRONG, f"does not compile: {short(_first_error(result.stderr))}"
    if result.status is RunStatus.TIMEOUT:
        compiling = result.built is not None and result.built.status is RunStatus.TIMEOUT
        limit = "not compiled in time" if compiling else f"not finished within {job.limits['timeout_s']:g} s"
        return Outcome.TIMEOUT, limit
    if result.exit_code < 0 and result.status is RunStatus.ERROR:
        return Outcome.WRONG, f"ended by signal {-result.exit_code}"
    last = result.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {result.exit_code}"]
    return Outcome.WRONG, _WORDS.get(result.status, short(last[0]))


def _first_error(stderr: bytes) -> str:
    """The compiler's line that says what is wrong."""
    lines = stderr.decode(errors="replace").strip().splitlines()
    return next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
