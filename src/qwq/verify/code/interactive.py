"""Interactive problems: the program talks with one of the judge's, which knows the answer and says
whether it was found.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from qwq.sandbox import RunResult, RunStatus
from qwq.sandbox.jail.codec import to_bytes
from qwq.types import Outcome
from qwq.verify.code.stdio import how_it_ended
from qwq.verify.code.tally import CodeRun, Tally
from qwq.verify.code.values import short


def run_interactive(job: CodeRun, tests: Mapping[str, Any], tally: Tally) -> None:
    """Each case is one conversation, in two jails. The interactor finds `input.txt` (and
    `answer.txt` where the case has an output) in its folder; its status 0 accepts, 1 and 2 refuse.
    """
    interactor = tests["interactor"]
    for index, case in enumerate(tests["cases"]):
        files = {"input.txt": to_bytes(case["input"])}
        if "output" in case:
            files["answer.txt"] = to_bytes(case["output"])
        result, judge = job.sandbox.interact(
            job.code, interactor["program"], language=job.language, files=files,
            partner_language=interactor.get("language", "python"), partner_timeout_s=interactor.get("timeout_s"),
            **job.limits, **job.compile_limits,
        )  # fmt: skip
        tally.saw(result)
        tally.saw(judge, of_program=False)
        last = (judge.stderr.strip().decode(errors="replace").splitlines() or [f"status {judge.exit_code}"])[-1]
        well = result.status is RunStatus.OK or _hung_up_on(result)  # the judge had heard enough, or crashed
        refused = (
            judge.status is RunStatus.ERROR and judge.exit_code in (1, 2) and not judge.stderr.startswith(b"Traceback")
        )
        outcome, reason = (Outcome.WRONG, "") if well else how_it_ended(job, result)
        if refused and outcome is Outcome.WRONG:
            tally.add(index, Outcome.WRONG, short(last) + ("" if well else f"; the program: {reason}"))
        elif not well:
            tally.add(index, outcome, reason)
        elif judge.status is RunStatus.OK:
            tally.add(index, Outcome.CORRECT)
        else:
            tally.repeatable = False
            tally.add(index, Outcome.UNDECIDED, f"the interactor ended with {judge.status.value}: {short(last)}")


def _hung_up_on(result: RunResult) -> bool:
    """Whether a program failed only because its partner had closed the pipe: SIGPIPE, or the
    exception that Python makes of it (status 120 if the interpreter meets it at its own end).
    """
    lines = result.stderr.strip().splitlines()
    broken_pipe = bool(lines) and lines[-1].startswith(b"BrokenPipeError")
    return result.exit_code == -signal.SIGPIPE or (result.exit_code in (1, 120) and broken_pipe)
