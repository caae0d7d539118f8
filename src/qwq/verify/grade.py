"""One problem and one response in, one verdict out, whatever the domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from qwq.common.imports import user_code
from qwq.errors import ConfigError, DataError, InfraError, nearest
from qwq.text.response import parse
from qwq.types import DOMAINS, Outcome, Problem, Response, Verdict
from qwq.verify import instructions, math, tools

# Verifiers of tasks that a user brings, by the name of the task (`tasks.registry` fills it).
VERIFIERS: dict[str, Callable[[Problem, Response], Verdict]] = {}


def grade(problem: Problem, response: Response, *, sandbox: Any = None) -> Verdict:
    """The verdict of the problem's own verifier. `sandbox` is handed to the code verifier (None: its default)."""
    truth = problem.truth
    if response.parts is None:
        response = replace(
            response, parts=parse(response.text, thinking_open=response.thinking_open, tools=problem.tool_schemas)
        )
    parts = response.parts
    assert parts is not None
    match problem.domain:
        case "math":
            return math.verify(parts, _need(problem, "gold"), finished=response.finished)
        case "instructions" if "instruction_id_list" in truth:
            return instructions.verify_listed(parts, truth, finished=response.finished)
        case "instructions" | "preference":
            return instructions.verify(parts, _need(problem, "rules"), finished=response.finished)
        case "tools":
            return tools.verify(response, truth, known_tools=set(problem.tool_schemas) or None)
        case "code":
            # The sandbox is loaded only where programs are run
            from qwq.verify import code

            extra = {} if sandbox is None else {"sandbox": sandbox}
            return code.verify_response(response, _need(problem, "tests"), **extra)
        case own if own in VERIFIERS:
            return _own(problem, response)
        case other:
            raise DataError(f"problem {problem.id}: unknown domain {other!r}: {nearest(other, DOMAINS)}")


def _own(problem: Problem, response: Response) -> Verdict:
    """The verdict of a user's task. What never ended is not asked about: it is unfinished, whatever the task would say."""
    if not response.finished:
        return Verdict(Outcome.UNFINISHED, "the response never ended", problem.domain)
    verify = VERIFIERS[problem.domain]
    with user_code(
        f"the verifier of task {problem.domain}", getattr(verify, "__func__", verify), f", asked about {problem.id}"
    ):
        verdict = verify(problem, response)
    if not isinstance(verdict, Verdict):
        raise ConfigError(
            f"the verifier of task {problem.domain} gave {type(verdict).__name__}, asked about {problem.id}: give a Verdict, such as self.verdict(True)"
        )
    return verdict


class Grader:
    """Verdicts of answers that come one by one: each is graded on a thread while others are still written.

    An `infra_error` (also a raised InfraError) is tried again up to `retries` times. A problem id with the same response
    is graded once. Any other exception of a verifier is raised by `verdicts`.
    """

    def __init__(self, *, workers: int = 2, retries: int = 1, sandbox: Any = None) -> None:
        self._pool = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="grade")
        self._retries, self._sandbox = retries, sandbox
        self._running: dict[Any, Future[Verdict]] = {}
        self._order: dict[int, Any] = {}

    def submit(self, at: int, problem: Problem, response: Response) -> None:
        """Grade the answer at position `at`."""
        key = (problem.id, _key(response))
        if key not in self._running:
            self._running[key] = self._pool.submit(_with_retries, (problem, response), self._retries, self._sandbox)
        self._order[at] = key

    def verdicts(self) -> list[Verdict]:
        """All verdicts by position, once the last is there. The grader is used up."""
        try:
            return [self._running[self._order[at]].result() for at in sorted(self._order)]
        finally:
            self._pool.shutdown(cancel_futures=True)


def grade_many(
    items: Sequence[tuple[Problem, Response]],
    *,
    workers: int = 2,
    retries: int = 1,
    sandbox: Any = None,
) -> list[Verdict]:
    """Verdicts in the order of `items`, by a `Grader`."""
    grader = Grader(workers=workers, retries=retries, sandbox=sandbox)
    for at, (problem, response) in enumerate(items):
        grader.submit(at, problem, response)
    return grader.verdicts()


def _with_retries(item: tuple[Problem, Response], retries: int, sandbox: Any) -> Verdict:
    problem, response = item
    for _ in range(retries + 1):
        try:
            verdict = grade(problem, response, sandbox=sandbox)
        except InfraError as error:
            verdict = Verdict(Outcome.INFRA_ERROR, str(error), problem.domain)
        if verdict.outcome is not Outcome.INFRA_ERROR:
            break
    return verdict


def _need(problem: Problem, key: str) -> Any:
    if key not in problem.truth:
        raise DataError(f"problem {problem.id} ({problem.domain}) needs truth[{key!r}], it has {sorted(problem.truth)}")
    return problem.truth[key]


def _key(response: Response) -> tuple[Any, ...]:
    calls = tuple((c.name, repr(c.arguments)) for c in response.calls)
    return (
        response.text,
        response.finished,
        response.thinking_open,
        calls,
        response.malformed_calls,
    )
