"""One problem and one response in, one verdict out, whatever the domain."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from qwq.common.imports import user_code
from qwq.errors import ConfigError, DataError, InfraError, nearest
from qwq.text.response import parse
from qwq.types import DOMAINS, Outcome, Problem, Response, Verdict
from qwq.verify import instructions, math, tools, worlds

# Verifiers that tasks bring, by the name of the task (`tasks.base` fills it).
VERIFIERS: dict[str, Callable[[Problem, Response], Verdict]] = {}


def grade(problem: Problem, response: Response, *, sandbox: Any = None) -> Verdict:
    """The verdict of the problem's own verifier.

    `sandbox` is handed to the code verifier (None: its default).
    """
    truth = problem.truth
    if response.failure:
        return Verdict(Outcome.INFRA_ERROR, response.failure, problem.domain)
    if response.parts is None:
        response = replace(
            response, parts=parse(response.text, thinking_open=response.thinking_open, tools=problem.tool_schemas)
        )
    parts = response.parts
    assert parts is not None
    if problem.task in VERIFIERS:
        return _own(problem, response)
    match problem.domain:
        case "math":
            return math.verify(parts, _need(problem, "gold"), finished=response.finished)
        case "instructions" if "instruction_id_list" in truth:
            return instructions.verify_listed(parts, truth, finished=response.finished)
        case "instructions" | "preference":
            return instructions.verify(parts, _need(problem, "rules"), finished=response.finished)
        case "tools":
            return tools.verify(response, truth, known_tools=set(problem.tool_schemas) or None)
        case worlds.VERIFIER:
            return worlds.verify(response, truth)
        case "code":
            # The sandbox is loaded only where programs are run
            from qwq.verify import code

            extra = {} if sandbox is None else {"sandbox": sandbox}
            return code.verify_response(response, _need(problem, "tests"), **extra)
        case other:
            known = (*DOMAINS, worlds.VERIFIER)
            raise DataError(f"problem {problem.id}: unknown domain {other!r}: {nearest(other, known)}")


def _own(problem: Problem, response: Response) -> Verdict:
    """The verdict of a task's own verifier.

    It is not asked about an unfinished response, whose outcome is unfinished whatever it would say.
    """
    if not response.finished:
        return Verdict(Outcome.UNFINISHED, "the response never ended", problem.task)
    verify = VERIFIERS[problem.task]
    with user_code(
        f"the verifier of task {problem.task}", getattr(verify, "__func__", verify), f", asked about {problem.id}"
    ):
        verdict = verify(problem, response)
    if not isinstance(verdict, Verdict):
        raise ConfigError(
            f"the verifier of task {problem.task} gave {type(verdict).__name__}, asked about {problem.id}: give a "
            "Verdict, such as self.verdict(True)"
        )
    return verdict


class Grader:
    """Grades answers that come one by one: each on a thread, while others are still written.

    `judge(problem, answer)` gives a Verdict, or an object with one under `verdict` (a benchmark's
    mark). An `infra_error` (also a raised InfraError) is tried again up to `retries` times. Equal
    responses to one problem are judged once. `on_verdict(key, result)` is called on the thread as
    soon as a result is there. What `judge` (InfraError apart) or `on_verdict` raises is raised by
    `check`, `results` and `verdicts`. With `judges`, problems for which it is False are remembered
    in `submitted` and not judged.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        retries: int = 1,
        sandbox: Any = None,
        judge: Callable[[Problem, Any], Any] | None = None,
        judges: Callable[[Problem], bool] | None = None,
        on_verdict: Callable[[Any, Any], None] | None = None,
    ) -> None:
        self._pool = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="grade")
        self._retries, self._on_verdict = retries, on_verdict
        self._judge, self._judges = judge or partial(grade, sandbox=sandbox), judges
        self.submitted: dict[Any, tuple[Problem, Any]] = {}
        self._running: dict[Any, Future[Any]] = {}
        self._results: dict[Any, Future[Any]] = {}
        self._unchecked: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self.num_correct = 0  # so far; of equal responses to one problem one

    def submit(self, key: Any, problem: Problem, answer: Any) -> None:
        """Grade an answer; `key` is the caller's name for it."""
        self.submitted[key] = (problem, answer)
        if self._judges is not None and not self._judges(problem):
            return
        same = (problem.id, _key(answer)) if isinstance(answer, Response) else ("", key)
        if same not in self._running:
            self._running[same] = self._pool.submit(self._attempts, problem, answer)
        self._results[key] = self._running[same]
        if self._on_verdict is not None:
            self._results[key] = _then(self._running[same], partial(self._on_verdict, key))
        self._unchecked.add(self._results[key])

    def _attempts(self, problem: Problem, answer: Any) -> Any:
        for _ in range(self._retries + 1):
            try:
                result = self._judge(problem, answer)
            except InfraError as error:
                result = Verdict(Outcome.INFRA_ERROR, str(error), problem.domain)
            outcome = getattr(result, "verdict", result).outcome
            if outcome is not Outcome.INFRA_ERROR:
                break
        with self._lock:
            self.num_correct += outcome is Outcome.CORRECT
        return result

    def check(self) -> None:
        """Raise what has failed so far."""
        for future in [f for f in self._unchecked if f.done()]:
            self._unchecked.discard(future)
            future.result()

    def results(self) -> dict[Any, Any]:
        """All results by key, once the last is there. The grader is used up."""
        try:
            return {key: future.result() for key, future in self._results.items()}
        finally:
            self.close()

    def verdicts(self) -> list[Verdict]:
        """All results in the order of their keys, such as positions. The grader is used up."""
        results = self.results()
        return [results[key] for key in sorted(results)]

    def close(self) -> None:
        """Wait for what is being graded; what has not started is left."""
        self._pool.shutdown(cancel_futures=True)


def _then(future: Future[Any], action: Callable[[Any], None]) -> Future[Any]:
    """A future with the same result, done when `action` has been called with it."""
    after: Future[Any] = Future()

    def act(ended: Future[Any]) -> None:
        try:
            result = ended.result()
            action(result)
        except BaseException as error:  # noqa: BLE001  # handed on to whoever asks for the result
            after.set_exception(error)
        else:
            after.set_result(result)

    future.add_done_callback(act)
    return after


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
        response.failure,
    )
