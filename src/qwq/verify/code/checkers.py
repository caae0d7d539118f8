"""What counts as the right output: the same lines, or what a checker takes.

    {"checker": "tokens"}      the same words, however they are spaced
    {"checker": "floats"}      the same words, numbers within the tolerance (1e-6 where none is given)
    {"checker": "case"}        the same words, letters of either case (YES for Yes)
    {"checker": "any_order"}   the same lines in any order, spacing aside
    {"checker": {"program": ..., "language": ...}}    a program of the judge's, in a jail of its own
    {"any_of": [output, ...]} in a case               any of several outputs

A checker's program finds `input.txt`, `output.txt` (what the program wrote) and `answer.txt` in its
working folder, and is given these names as arguments, as testlib's checkers are. Status 0 accepts,
1 and 2 refuse, all else is a fault of the checker: undecided. It never meets the program, and the
program never meets it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from qwq.errors import UsageError, nearest
from qwq.sandbox import Runner, RunResult, RunStatus
from qwq.sandbox.jail.codec import to_bytes
from qwq.sandbox.languages import canonical
from qwq.verify.code.values import decoded, output_difference, same_token, short

DEFAULT_TOLERANCE = 1e-6
FILES = ("input.txt", "output.txt", "answer.txt")
PROGRAM_KEYS = {"program", "language", "timeout_s", "memory_mb"}
_ACCEPTED, _REFUSED = 0, (1, 2)

Difference = Callable[[bytes, str, float | None], str | None]


class CheckerFault(Exception):
    """A checker did not decide."""


def _by_words(same: Callable[[str, str, float], bool]) -> Difference:
    def difference(got: bytes, expected: str, tolerance: float | None) -> str | None:
        left, right = decoded(got).split(), expected.split()
        for number, (a, b) in enumerate(zip(left, right, strict=False), 1):
            if not same(a, b, DEFAULT_TOLERANCE if tolerance is None else tolerance):
                return f"word {number} is {short(a)}, expected {short(b)}"
        return None if len(left) == len(right) else f"{len(left)} words, expected {len(right)}"

    return difference


def _any_order(got: bytes, expected: str, tolerance: float | None) -> str | None:
    left, right = (
        Counter(" ".join(line.split()) for line in text.splitlines() if line.strip())
        for text in (decoded(got), expected)
    )
    if left == right:
        return None
    extra, missing = left - right, right - left
    return (
        f"line {short(next(iter(missing)))} is missing"
        if missing
        else f"line {short(next(iter(extra)))} is not expected"
    )


NAMED: dict[str, Difference] = {
    "lines": output_difference,
    "tokens": _by_words(lambda a, b, _: a == b),
    "floats": _by_words(same_token),
    "case": _by_words(lambda a, b, _: a.casefold() == b.casefold()),
    "any_order": _any_order,
}


def check_checker(checker: Any) -> None:
    """Raises UsageError for one that is not known."""
    if isinstance(checker, str):
        if checker not in NAMED:
            raise UsageError(f"tests.checker is {checker!r}: {nearest(checker, NAMED)}, or give an object with program")
        return
    if not isinstance(checker, Mapping) or not isinstance(checker.get("program"), str):
        raise UsageError(
            f"tests.checker is {short(checker)}: give one of {', '.join(NAMED)}, or an object with program"
        )
    unknown = sorted(set(checker) - PROGRAM_KEYS)
    if unknown:
        raise UsageError(f"tests.checker has an unknown key {unknown[0]!r}: {nearest(unknown[0], PROGRAM_KEYS)}")
    canonical(checker.get("language", "python"))


def run_checker(
    sandbox: Runner, checker: Mapping[str, Any], given: str, got: bytes, expected: str
) -> tuple[str | None, RunResult]:
    """None where the checker accepts, else what it says; and its run.

    Raises CheckerFault where it does not decide.
    """
    contents = (to_bytes(given), got, to_bytes(expected))
    result = sandbox.run(
        checker["program"],
        language=checker.get("language", "python"),
        files=dict(zip(FILES, contents, strict=True)),
        args=FILES,
        timeout_s=checker.get("timeout_s", 10.0),
        memory_mb=checker.get("memory_mb", 1024),
        compile_timeout_s=60.0,
    )
    if result.status is RunStatus.OK:
        return None, result
    words = (result.stderr.strip() or result.stdout.strip()).decode(errors="replace").splitlines()[-1:]
    if result.status is RunStatus.ERROR and result.exit_code in _REFUSED and not result.stderr.startswith(b"Traceback"):
        return short(words[0]) if words else "the checker refuses it", result
    raise CheckerFault(
        f"the checker ended with {result.status.value}, status "
        f"{result.exit_code}{f': {short(words[0])}' if words else ''}"
    )
