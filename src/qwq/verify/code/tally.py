"""What grading one program needs and finds: the job, and per-case outcomes that become a
verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qwq.sandbox import CallResult, CaseResult, Runner, RunResult, RunStatus
from qwq.types import Outcome, Verdict

VERIFIER = "code"


@dataclass(frozen=True, slots=True)
class CodeRun:
    """`limits` are keywords of the sandbox's methods; `compile_limits` those of `run` alone."""

    code: str
    sandbox: Runner
    language: str
    limits: Mapping[str, Any]
    tolerance: float | None
    compile_limits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """Per-case outcomes as they are found, in order of the tests; CORRECT means passed."""

    total: int
    found: dict[int, tuple[Outcome, str]] = field(default_factory=dict)
    forgeable: bool = False
    repeatable: bool = True  # no resource limit took part in the outcome
    unsafe: bool = False
    cpu_s: float = 0.0
    memory_mb: float = 0.0
    output_cut: bool = False

    def saw(self, result: RunResult | CallResult, *, of_program: bool = True) -> None:
        """Take note of how a run ended that a verdict rests on; a run of the judge's own is not the
        program's doing.
        """
        self.unsafe |= result.unsafe
        if not of_program:
            return
        self.repeatable &= result.status in (RunStatus.OK, RunStatus.ERROR, RunStatus.COMPILE_ERROR)
        self.cpu_s += result.cpu_s
        self.memory_mb = max(self.memory_mb, result.memory_mb)
        self.output_cut |= result.status is RunStatus.OUTPUT_LIMIT

    def add(self, index: int, outcome: Outcome, reason: str = "") -> None:
        self.found[index] = (outcome, reason)

    def add_rest(self, index: int, outcome: Outcome, reason: str) -> None:
        """The same for a case and all after it."""
        for rest in range(index, self.total):
            self.add(rest, outcome, reason)

    def verdict(self, seconds: float) -> Verdict:
        passed = sum(outcome is Outcome.CORRECT for outcome, _ in self.found.values())
        outcome, reason = Outcome.CORRECT, f"all {self.total} cases pass"
        if passed < self.total:
            outcome, reason = self._first_failure()
        return Verdict(
            outcome,
            reason,
            VERIFIER,
            passed,
            self.total,
            seconds,
            forgeable=self.forgeable,
            unsafe=self.unsafe,
            cpu_s=round(self.cpu_s, 4),
            memory_mb=self.memory_mb,
            output_cut=self.output_cut,
        )

    def _first_failure(self) -> tuple[Outcome, str]:
        for outcome in (Outcome.WRONG, Outcome.TIMEOUT, Outcome.UNDECIDED):
            for index in sorted(self.found):
                if self.found[index][0] is outcome:
                    return outcome, f"case {index + 1} of {self.total}: {self.found[index][1]}"
        raise AssertionError("a case without an outcome")


def failure_of(case: CaseResult, status: RunStatus) -> tuple[Outcome, str] | None:
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
