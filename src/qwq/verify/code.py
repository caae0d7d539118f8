"""Judge a program by its tests. Expected values and comparisons stay here; only the program's side is run in a jail.

    verify("def f(x): return x + 1", {"kind": "call", "entry_point": "f", "cases": [{"args": [1], "expected": 2}]})

Tests are one of
    {"kind": "stdio", "cases": [{"input", "output"}]}                          one process a case
    {"kind": "call", "entry_point", "cases": [{"args", "kwargs", "expected"}]}  all cases in one process
    {"kind": "asserts", "setup", "asserts": ["assert ..."]}                     all cases in one process
    {"kind": "livecodebench", ...}                   a row of LiveCodeBench (`livecodebench.py`), as stdio or call tests
`timeout_s` is wall time for one process. Covered: a program cannot learn what is expected, and cannot pass by lying
objects, by patching what compares, or by ending early. Not covered: a test that cannot be split (see `asserts.py`)
runs beside the program; its verdict is marked forgeable.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
import textwrap
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qwq.common.callables import make_callable
from qwq.errors import DataError, InfraError, UsageError, nearest
from qwq.sandbox import CallResult, CaseResult, Item, Runner, RunResult, RunStatus, default_sandbox
from qwq.sandbox.jail.codec import to_bytes
from qwq.sandbox.languages import canonical
from qwq.types import Outcome, Response, Verdict
from qwq.verify import livecodebench
from qwq.verify.asserts import Setup, SplitAssert, judge_plain, split_all
from qwq.verify.code_values import equal, output_difference, short

VERIFIER = "code"
KINDS = {
    "stdio": ({"kind", "cases"}, {"compare"}),
    "call": ({"kind", "entry_point", "cases"}, {"compare"}),
    "asserts": ({"kind", "asserts"}, {"setup"}),
}
_CASE_KEYS = {"stdio": ({"input", "output"}, set()), "call": ({"expected"}, {"args", "kwargs"})}
_CACHE_SIZE = 4096


@dataclass(slots=True)
class _Tally:
    """Per-case outcomes as they are found, in order of the tests; CORRECT means passed."""

    total: int
    found: dict[int, tuple[Outcome, str]] = field(default_factory=dict)
    forgeable: bool = False
    repeatable: bool = True  # no resource limit took part in the outcome
    unsafe: bool = False

    def saw(self, result: RunResult | CallResult) -> None:
        """Take note of how a run ended that a verdict rests on."""
        self.repeatable &= result.status in (RunStatus.OK, RunStatus.ERROR, RunStatus.COMPILE_ERROR)
        self.unsafe |= result.unsafe

    def add(self, index: int, outcome: Outcome, reason: str = "") -> None:
        self.found[index] = (outcome, reason)

    def verdict(self) -> Verdict:
        passed = sum(outcome is Outcome.CORRECT for outcome, _ in self.found.values())
        if passed == self.total:
            return Verdict(Outcome.CORRECT, f"all {self.total} cases pass", VERIFIER, passed, self.total)
        for outcome in (Outcome.WRONG, Outcome.TIMEOUT, Outcome.UNDECIDED):
            for index in sorted(self.found):
                if self.found[index][0] is outcome:
                    reason = f"case {index + 1} of {self.total}: {self.found[index][1]}"
                    return Verdict(outcome, reason, VERIFIER, passed, self.total)
        raise AssertionError("a case without an outcome")


@dataclass(frozen=True, slots=True)
class _Job:
    code: str
    sandbox: Runner
    language: str
    limits: Mapping[str, Any]
    tolerance: float | None


# -- the tests' form


def _check_keys(what: str, data: Any, required: set[str], optional: set[str]) -> None:
    if not isinstance(data, Mapping):
        raise UsageError(f"{what} is a {type(data).__name__}: give an object with {', '.join(sorted(required))}")
    missing = required - data.keys()
    if missing:
        raise UsageError(f"{what} lacks {', '.join(sorted(missing))}; it has {', '.join(sorted(map(str, data)))}")
    unknown = sorted(set(data) - required - optional)
    if unknown:
        raise UsageError(f"{what} has an unknown key {unknown[0]!r}: {nearest(str(unknown[0]), required | optional)}")


def _check_case(kind: str, index: int, case: Any) -> None:
    what = f"tests.cases[{index}]"
    _check_keys(what, case, *_CASE_KEYS[kind])
    if kind == "stdio":
        for key in ("input", "output"):
            if not isinstance(case[key], str):
                raise UsageError(f"{what}.{key} is a {type(case[key]).__name__}: give text")
    elif not isinstance(case.get("args", []), (list, tuple)) or not isinstance(case.get("kwargs", {}), Mapping):
        raise UsageError(f"{what}: args must be a list and kwargs an object")


def check_tests(tests: Any) -> int:
    """The number of cases. Raises UsageError where `tests` has not one of the three forms, or no case at all."""
    tests = livecodebench.expand(tests)
    if not isinstance(tests, Mapping) or tests.get("kind") not in KINDS:
        kind = tests.get("kind") if isinstance(tests, Mapping) else tests
        raise UsageError(f"tests.kind is {short(kind)}: it must be one of {', '.join([*KINDS, livecodebench.KIND])}")
    kind = tests["kind"]
    _check_keys("tests", tests, *KINDS[kind])
    name = "asserts" if kind == "asserts" else "cases"
    cases = tests[name]
    if not isinstance(cases, (list, tuple)) or not cases:
        raise UsageError(f"tests.{name} is {short(cases)}: it must be a list with at least one case")
    if kind == "asserts":
        if not all(isinstance(a, str) for a in cases) or not isinstance(tests.get("setup", ""), str):
            raise UsageError("tests.asserts must be a list of strings and tests.setup a string")
    else:
        for index, case in enumerate(cases):
            _check_case(kind, index, case)
    if tests.get("compare", livecodebench.KIND) != livecodebench.KIND:
        raise UsageError(f"tests.compare is {short(tests['compare'])}: leave it out, or give {livecodebench.KIND!r}")
    if kind == "call" and not isinstance(tests["entry_point"], str):
        raise UsageError("tests.entry_point must be the name of a function")
    return len(cases)


# -- one case


def _failure(case: CaseResult, status: RunStatus) -> tuple[Outcome, str] | None:
    """Why a case gave no result, or None where it gave one."""
    if case.error is not None:
        kind, message = case.error
        if kind == "NameError" and message.startswith("the program defines no "):
            return Outcome.WRONG, message
        return Outcome.WRONG, f"raised {kind}: {message}" if message else f"raised {kind}"
    if case.fault is not None:
        if status is RunStatus.TIMEOUT and case.fault.startswith("not finished"):
            return Outcome.TIMEOUT, case.fault
        return Outcome.WRONG, case.fault
    return None


def _stdio(job: _Job, tests: Mapping[str, Any], tally: _Tally) -> None:
    published = "compare" in tests
    prelude = livecodebench.PRELUDE if published and job.language == "python" else ""
    matches = livecodebench.line_matches if published else None
    for index, case in enumerate(tests["cases"]):
        stdin = to_bytes(case["input"])
        result = job.sandbox.run(job.code, stdin=stdin, language=job.language, prelude=prelude, **job.limits)
        tally.saw(result)
        if result.status is RunStatus.OK:
            difference = output_difference(result.stdout, case["output"], job.tolerance, matches)
            tally.add(index, Outcome.WRONG if difference else Outcome.CORRECT, difference or "")
            continue
        if result.status is RunStatus.COMPILE_ERROR:
            reason = f"does not compile: {short(_first_error(result.stderr))}"
            for rest in range(index, tally.total):
                tally.add(rest, Outcome.WRONG, reason)
            return
        if result.status is RunStatus.TIMEOUT:
            compiling = result.built is not None and result.built.status is RunStatus.TIMEOUT
            reason = "not compiled in time" if compiling else f"not finished within {job.limits['timeout_s']:g} s"
            for rest in range(index, tally.total):  # the others would likely cost the full limit too
                tally.add(rest, Outcome.TIMEOUT, reason)
            return
        last = result.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {result.exit_code}"]
        words = {RunStatus.MEMORY: "out of memory", RunStatus.OUTPUT_LIMIT: "too much output"}
        tally.add(index, Outcome.WRONG, words.get(result.status, short(last[0])))


def _first_error(stderr: bytes) -> str:
    """The compiler's line that says what is wrong."""
    lines = stderr.decode(errors="replace").strip().splitlines()
    return next((line for line in lines if "error" in line), lines[-1] if lines else "no message")


def _calls(job: _Job, tests: Mapping[str, Any], tally: _Tally) -> None:
    published = "compare" in tests
    prelude = livecodebench.PRELUDE if published else ""
    result = job.sandbox.call(job.code, tests["entry_point"], tests["cases"], prelude=prelude, **job.limits)
    tally.saw(result)
    for index, (case, test) in enumerate(zip(result.cases, tests["cases"], strict=True)):
        failure = _failure(case, result.status)
        if failure is not None:
            tally.add(index, *failure)
        elif equal(_listed(case.value) if published else case.value, test["expected"], job.tolerance):
            tally.add(index, Outcome.CORRECT)
        else:
            tally.add(index, Outcome.WRONG, f"returned {short(case.value)}, expected {short(test['expected'])}")


def _listed(value: Any) -> Any:
    """LiveCodeBench takes a returned tuple for a list."""
    return list(value) if type(value) is tuple else value


# -- asserts


@functools.lru_cache(maxsize=2048)
def _split(setup: str, sources: tuple[str, ...]) -> tuple[Setup, list[SplitAssert]]:
    return split_all(setup, sources)


def _asserts(job: _Job, tests: Mapping[str, Any], tally: _Tally) -> None:
    setup, splits = _split(tests.get("setup", ""), tuple(tests["asserts"]))
    whole = [i for i, split in enumerate(splits) if split.judge is None]
    tally.forgeable = bool(whole)
    beside = setup.beside_program([h.source for split in splits for h in split.holes])
    sources = [setup.imports, job.code, beside]
    items = [Item(h.source, h.mode) for split in splits for h in split.holes]
    result = job.sandbox.evaluate(sources, items, program=1, **job.limits)
    tally.saw(result)
    if result.load_error is not None:
        _check_setup(job, setup)
    values = iter(result.cases)
    for_judge: dict[int, Item] = {}
    for index, split in enumerate(splits):
        cases = {hole.name: next(values) for hole in split.holes}
        if split.judge is None:
            continue
        failures = [f for f in (_failure(case, result.status) for case in cases.values()) if f is not None]
        if failures:
            tally.add(index, *failures[0])
            continue
        plain = {name: case.value if case.has_value else case.truth for name, case in cases.items()}
        try:
            passed = judge_plain(split.judge, plain)
        except LookupError:
            for_judge[index] = Item(split.judge, "truth", plain)
        else:
            tally.add(index, *_assert_outcome(passed, split, plain))
    _judge(job, setup, splits, for_judge, tally)
    everything = [setup.imports, job.code, setup.beside_program(None)]
    _run_whole(job, everything, [splits[i] for i in whole], whole, tally)


def _assert_outcome(passed: bool, split: SplitAssert, values: Mapping[str, Any]) -> tuple[Outcome, str]:
    if passed:
        return Outcome.CORRECT, ""
    gave = ", ".join(f"{hole.source} gave {short(values[hole.name])}" for hole in split.holes)
    return Outcome.WRONG, f"{short(split.source)} fails: {gave}"


def _check_setup(job: _Job, setup: Setup) -> None:
    """A setup that fails without any program is a fault of the data, not of the program."""
    alone = job.sandbox.evaluate([setup.imports, setup.pure], [], **job.limits)
    if alone.load_error is not None:
        raise DataError(f"tests.setup fails by itself: {': '.join(alone.load_error)}")


def _judge(job: _Job, setup: Setup, splits: Sequence[SplitAssert], items: Mapping[int, Item], tally: _Tally) -> None:
    """Decide what needs more than a literal, in a jail that never sees the program."""
    if not items:
        return
    modules = sorted({module for index in items for module in splits[index].modules})
    imports = "\n".join(f"import {module}" for module in modules)
    result = job.sandbox.evaluate([imports, setup.imports, setup.pure], list(items.values()), **job.limits)
    tally.unsafe |= result.unsafe
    if result.load_error is not None:
        _check_setup(job, setup)
    for (index, item), case in zip(items.items(), result.cases, strict=True):
        if case.truth is not None:
            tally.add(index, *_assert_outcome(case.truth, splits[index], item.bind))
        elif case.error is not None:
            tally.add(index, Outcome.WRONG, f"{short(splits[index].source)} raised {case.error[0]} when compared")
        else:
            tally.repeatable = False
            tally.add(index, Outcome.UNDECIDED, f"the comparison was {case.fault}")


def _run_whole(
    job: _Job, sources: Sequence[str], splits: Sequence[SplitAssert], indices: Sequence[int], tally: _Tally
) -> None:
    """Run tests that cannot be split, beside the program and apart from the others."""
    if not splits:
        return
    result = job.sandbox.evaluate(sources, [Item(split.source, "exec") for split in splits], program=1, **job.limits)
    tally.saw(result)
    for index, split, case in zip(indices, splits, result.cases, strict=True):
        failure = _failure(case, result.status)
        if failure is None and case.truth is not True:
            failure = Outcome.WRONG, f"{short(split.source)} gave no result"
        tally.add(index, *(failure or (Outcome.CORRECT, "")))


_RUNNERS = {"stdio": _stdio, "call": _calls, "asserts": _asserts}


# -- the cache


class _Cache:
    """Verdicts that another run of the same program and tests would only repeat."""

    def __init__(self, size: int):
        self.size = size
        self.entries: OrderedDict[bytes, Verdict] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: bytes) -> Verdict | None:
        with self.lock:
            verdict = self.entries.get(key)
            if verdict is not None:
                self.entries.move_to_end(key)
            return verdict

    def put(self, key: bytes, verdict: Verdict) -> None:
        with self.lock:
            self.entries[key] = verdict
            while len(self.entries) > self.size:
                self.entries.popitem(last=False)


_cache = _Cache(_CACHE_SIZE)


def clear_cache() -> None:
    """Forget all verdicts."""
    with _cache.lock:
        _cache.entries.clear()


_NUMBERS = {"timeout_s": (int, float), "memory_mb": (int,), "tolerance": (int, float, type(None))}


def options_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `verify` from the fields of a line. Raises UsageError for an unknown one or a value of the wrong type."""
    unknown = sorted(set(data) - {*_NUMBERS, "language"})
    if unknown:
        known = ["code", "tests", *_NUMBERS, "language"]
        raise UsageError(f"unknown key {unknown[0]!r}: {nearest(unknown[0], known)}")
    for name, kinds in _NUMBERS.items():
        if name in data and type(data[name]) not in kinds:
            raise UsageError(f"{name} is {short(data[name])}: give a number")
    if type(data.get("language", "")) is not str:
        raise UsageError(f"language is {short(data['language'])}: give a name")
    return {name: data[name] for name in (*_NUMBERS, "language") if name in data}


def verify(
    code: str,
    tests: Mapping[str, Any],
    *,
    timeout_s: float = 5.0,
    memory_mb: int = 512,
    language: str = "python",
    tolerance: float | None = None,
    sandbox: Runner | None = None,
) -> Verdict:
    """The verdict on `code`; `passed` of `total` counts cases.

    no_answer: empty code. wrong: a case gave another result, raised, ended early, ran out of memory or wrote too much.
    timeout: no case was wrong and one met the limit. undecided: only the comparison itself met a limit. infra_error:
    the sandbox failed. `tolerance` (numbers, absolute or relative to the expected one) holds for stdio and call.
    `language` other than Python goes with stdio tests. `sandbox` may be a `RemoteSandbox`: then programs run on a server.
    Raises UsageError for tests of another form, DataError where the tests' own setup fails.
    """
    language = canonical(language)
    tests = livecodebench.expand(tests)
    total = check_tests(tests)
    if language != "python" and tests["kind"] != "stdio":
        raise UsageError(f"{tests['kind']} tests are for Python programs: give stdio tests for language {language!r}")
    if tolerance is not None and (tests["kind"] == "asserts" or not tolerance >= 0):
        raise UsageError(f"tolerance {tolerance} with {tests['kind']} tests: give 0 or more, with stdio or call tests")
    if not code.strip():
        return Verdict(Outcome.NO_ANSWER, "there is no code", VERIFIER, 0, total)
    limits = {"timeout_s": timeout_s, "memory_mb": memory_mb}
    key = hashlib.sha256(
        repr((code, language, tests, timeout_s, memory_mb, tolerance)).encode(errors="surrogatepass")
    ).digest()
    known = _cache.get(key)
    if known is not None:
        return known
    started = time.monotonic()
    tally = _Tally(total)
    try:
        _RUNNERS[tests["kind"]](_Job(code, sandbox or default_sandbox(), language, limits, tolerance), tests, tally)
    except InfraError as error:
        return Verdict(Outcome.INFRA_ERROR, str(error), VERIFIER, 0, total, time.monotonic() - started)
    seconds = time.monotonic() - started
    verdict = replace(tally.verdict(), seconds=seconds, forgeable=tally.forgeable, unsafe=tally.unsafe)
    if tally.repeatable and verdict.outcome in (Outcome.CORRECT, Outcome.WRONG):
        _cache.put(key, verdict)
    return verdict


# -- from a response


_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n`]*$")


def _fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(language, body) of each fenced block; one that is not closed goes to the end of the text."""
    blocks: list[tuple[str, str]] = []
    fence, language = "", ""
    body: list[str] = []
    for line in text.split("\n"):
        match = _FENCE.match(line.rstrip())
        if not fence:
            if match:
                fence, language, body = match[1], match[2].lower(), []
        elif match and match[1].startswith(fence) and not match[2]:
            blocks.append((language, "\n".join(body)))
            fence = ""
        else:
            body.append(line)
    if fence:
        blocks.append((language, "\n".join(body)))
    return blocks


def _is_program(text: str) -> bool:
    """Whether the whole text is Python that does something, not a word or a number that happens to parse."""
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(s, ast.Expr) or isinstance(s.value, ast.Call) for s in statements)


def _is_language(tag: str, language: str) -> bool:
    try:
        return canonical(tag) == language
    except UsageError:
        return False


def extract_code(text: str, language: str = "python") -> str | None:
    """The program in a final answer (thinking taken off): the last fenced block of the language, else the last fenced
    block, else the whole text where it is a Python program, else None."""
    blocks = [(tag, textwrap.dedent(body)) for tag, body in _fenced_blocks(text) if body.strip()]
    for tag, body in reversed(blocks):
        if _is_language(tag, language):
            return body
    if blocks:
        return blocks[-1][1]
    return text if language == "python" and _is_program(text) else None


def verify_response(response: Response, tests: Mapping[str, Any], **options: Any) -> Verdict:
    """The verdict on a model's response; `options` are those of `verify`. What did not end is unfinished."""
    total = check_tests(tests)
    if not response.finished:
        return Verdict(Outcome.UNFINISHED, "the response did not end", VERIFIER, 0, total)
    _, mark, answer = response.text.rpartition("</think>")
    if not mark and (response.thinking_open or "<think>" in response.text):
        return Verdict(Outcome.NO_ANSWER, "the thinking was never closed", VERIFIER, 0, total)
    code = extract_code(answer, canonical(options.get("language", "python")))
    if code is None:
        return Verdict(Outcome.NO_ANSWER, "the answer holds no code", VERIFIER, 0, total)
    return replace(verify(code, tests, **options), answer=code)


make_callable(__name__, f"{__name__}:verify")
