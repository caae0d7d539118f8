"""Judge a program by its tests.

Expected values and comparisons stay here; only the program's side is run in a jail.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qwq.errors import InfraError, UsageError, nearest
from qwq.sandbox import Runner, default_sandbox
from qwq.sandbox.languages import canonical
from qwq.text.response import parts_of
from qwq.types import Outcome, Response, Verdict
from qwq.verify.code.asserts import run_asserts
from qwq.verify.code.call_tests import run_calls
from qwq.verify.code.checks import check_tests as check_form
from qwq.verify.code.extract import extract_code
from qwq.verify.code.forms import read_tests
from qwq.verify.code.interactive import run_interactive
from qwq.verify.code.stdio import run_stdio
from qwq.verify.code.tally import VERIFIER, CodeRun, Tally
from qwq.verify.code.values import short

_CACHE_SIZE = 4096
_RUNNERS = {"stdio": run_stdio, "call": run_calls, "asserts": run_asserts, "interactive": run_interactive}
_WITH_TOLERANCE = ("stdio", "call")
_PYTHON_ONLY = ("call", "asserts")

_NUMBERS = {
    "timeout_s": (int, float),
    "memory_mb": (int,),
    "tolerance": (int, float, type(None)),
    "compile_timeout_s": (int, float),
    "output_limit_bytes": (int,),
}
OPTIONS = (*_NUMBERS, "language")


class _Cache:
    """Verdicts that another run of the same program and tests would only repeat."""

    def __init__(self, size: int):
        self.size = size
        self.entries: OrderedDict[bytes, Judged] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: bytes) -> Judged | None:
        with self.lock:
            judged = self.entries.get(key)
            if judged is not None:
                self.entries.move_to_end(key)
            return judged

    def put(self, key: bytes, judged: Judged) -> None:
        with self.lock:
            self.entries[key] = judged
            while len(self.entries) > self.size:
                self.entries.popitem(last=False)


_cache = _Cache(_CACHE_SIZE)


def clear_cache() -> None:
    """Forget all verdicts."""
    with _cache.lock:
        _cache.entries.clear()


def check_tests(tests: Any, row: Mapping[str, Any] | None = None) -> int:
    """The number of cases of tests in any form that `forms.read_tests` knows.

    Raises UsageError for what cannot be graded.
    """
    return check_form(read_tests(tests, row))


def options_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `verify` from the fields of a line.

    Raises UsageError for an unknown one or a value of the wrong type.
    """
    unknown = sorted(set(data) - set(OPTIONS))
    if unknown:
        raise UsageError(f"unknown key {unknown[0]!r}: {nearest(unknown[0], ['code', 'response', 'tests', *OPTIONS])}")
    for name, kinds in _NUMBERS.items():
        if name in data and type(data[name]) not in kinds:
            raise UsageError(f"{name} is {short(data[name])}: give a number")
    if type(data.get("language", "")) is not str:
        raise UsageError(f"language is {short(data['language'])}: give a name")
    return dict(data)


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, and how each case ended, as far as they were run."""

    verdict: Verdict
    cases: tuple[tuple[Outcome, str], ...] = ()


def verify(code: str, tests: Any, **options: Any) -> Verdict:
    """The verdict of `judge`, which has the options."""
    return judge(code, tests, **options).verdict


def judge(
    code: str,
    tests: Any,
    *,
    timeout_s: float = 5.0,
    memory_mb: int = 512,
    language: str = "python",
    tolerance: float | None = None,
    compile_timeout_s: float = 10.0,
    output_limit_bytes: int | None = None,
    sandbox: Runner | None = None,
) -> Judged:
    """The verdict on `code`; `passed` of `total` counts cases.

    no_answer: empty code. wrong: a case gave another result, raised, ended early, ran out of memory
    or wrote too much. timeout: no case was wrong and one met the limit. undecided: only the
    comparison itself met a limit. infra_error: the sandbox failed. `timeout_s` is for each case, in
    time of the program's own (`sandbox/clock.py`). `tolerance` (numbers, absolute or relative to
    the expected one) holds for stdio and call. What a program may write follows what is expected,
    unless `output_limit_bytes` says it. `language` other than Python goes with stdio and
    interactive tests. `sandbox` may be a `RemoteSandbox`: then programs run on a server. Raises
    UsageError for tests of another form, DataError where the tests' own setup fails.
    """
    language = canonical(language)
    tests = read_tests(tests)
    total = check_form(tests)
    kind = tests["kind"]
    if language != "python" and kind in _PYTHON_ONLY:
        raise UsageError(f"{kind} tests are for Python programs: give stdio tests for language {language!r}")
    if tolerance is not None and (kind not in _WITH_TOLERANCE or not tolerance >= 0):
        raise UsageError(f"tolerance {tolerance} with {kind} tests: give 0 or more, with stdio or call tests")
    if not code.strip():
        return Judged(Verdict(Outcome.NO_ANSWER, "there is no code", VERIFIER, 0, total))
    limits = {"timeout_s": timeout_s, "memory_mb": memory_mb}
    if output_limit_bytes is not None:
        limits["output_limit_bytes"] = output_limit_bytes
    asked = (code, language, tests, limits, tolerance, compile_timeout_s)
    key = hashlib.sha256(repr(asked).encode(errors="surrogatepass")).digest()
    known = _cache.get(key)
    if known is not None:
        return known
    started = time.monotonic()
    tally = Tally(total)
    job = CodeRun(
        code, sandbox or default_sandbox(), language, limits, tolerance, {"compile_timeout_s": compile_timeout_s}
    )
    try:
        _RUNNERS[kind](job, tests, tally)
    except InfraError as error:
        return Judged(Verdict(Outcome.INFRA_ERROR, str(error), VERIFIER, 0, total, time.monotonic() - started))
    verdict = tally.verdict(time.monotonic() - started)
    judged = Judged(verdict, tuple(tally.found[index] for index in sorted(tally.found)))
    if tally.repeatable and verdict.outcome in (Outcome.CORRECT, Outcome.WRONG):
        _cache.put(key, judged)
    return judged


def verify_response(response: Response, tests: Any, **options: Any) -> Verdict:
    """The verdict on a model's response; `options` are those of `judge`.

    What did not end is unfinished.
    """
    return judge_response(response, tests, **options).verdict


def judge_response(response: Response, tests: Any, **options: Any) -> Judged:
    """`judge` on the program in a model's response."""
    total = check_tests(tests)
    if not response.finished:
        return Judged(Verdict(Outcome.UNFINISHED, "the response did not end", VERIFIER, 0, total))
    parts = parts_of(response)
    if parts.open:
        return Judged(Verdict(Outcome.NO_ANSWER, "the thinking was never closed", VERIFIER, 0, total))
    code = extract_code(parts.final, canonical(options.get("language", "python")))
    if code is None:
        return Judged(Verdict(Outcome.NO_ANSWER, "the answer holds no code", VERIFIER, 0, total))
    judged = judge(code, tests, **options)
    return replace(judged, verdict=replace(judged.verdict, answer=code))
