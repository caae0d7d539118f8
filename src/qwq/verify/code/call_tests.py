"""Tests that call one function with given arguments and look at what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwq.sandbox import CaseResult
from qwq.types import Outcome
from qwq.verify.code import livecodebench
from qwq.verify.code.tally import CodeRun, Tally, failure_of
from qwq.verify.code.values import EXACT, as_json, equal, short


def run_calls(job: CodeRun, tests: Mapping[str, Any], tally: Tally) -> None:
    """All cases in one process. What JSON cannot write counts as what it writes in its place,
    unless `compare` is exact or LiveCodeBench's, which takes a returned tuple for a list and
    nothing else.

    A function that returns None where something is expected is judged by what it left of its first
    argument.
    """
    compare = tests.get("compare")
    prelude = livecodebench.PRELUDE if compare == livecodebench.KIND else tests.get("prelude", "")
    result = job.sandbox.call(job.code, tests["entry_point"], tests["cases"], prelude=prelude, **job.limits)
    tally.saw(result)
    exact = compare in (EXACT, livecodebench.KIND)
    pairs = list(zip(result.cases, tests["cases"], strict=True))
    in_place = not exact and any(_changed_rightly(case, test, job.tolerance) for case, test in pairs)
    for index, (case, test) in enumerate(pairs):
        failure = failure_of(case, result.status)
        got = case.first_argument if in_place and case.value is None and _expects_something(test) else case.value
        if compare == livecodebench.KIND and type(got) is tuple:
            got = list(got)
        if failure is not None:
            tally.add(index, *failure)
        elif any(_matches(got, expected, job.tolerance, exact) for expected in _accepted(test)):
            tally.add(index, Outcome.CORRECT)
        else:
            tally.add(index, Outcome.WRONG, f"returned {short(case.value)}, expected {short(_accepted(test)[0])}")


def _accepted(test: Mapping[str, Any]) -> list[Any]:
    return list(test["any_of"]) if "any_of" in test else [test["expected"]]


def _expects_something(test: Mapping[str, Any]) -> bool:
    return all(expected is not None for expected in _accepted(test))


def _changed_rightly(case: CaseResult, test: Mapping[str, Any], tolerance: float | None) -> bool:
    """Whether a call that returned None has made its first argument the answer, which it was not
    before: the sign of a function that works in place. One that does nothing is right nowhere.
    """
    if case.value is not None or case.first_argument is None or not _expects_something(test):
        return False
    if equal(as_json(case.first_argument, test["args"][0]), test["args"][0], nan=True):
        return False
    return any(_matches(case.first_argument, expected, tolerance, False) for expected in _accepted(test))


def _matches(got: Any, expected: Any, tolerance: float | None, exact: bool) -> bool:
    return equal(got if exact else as_json(got, expected), expected, tolerance, nan=not exact)
