"""One problem and one response in, one verdict out, whatever the domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from qwq.errors import DataError, InfraError, nearest
from qwq.types import DOMAINS, Outcome, Problem, Response, Verdict
from qwq.verify import instructions, math, tools


def grade(problem: Problem, response: Response, *, sandbox: Any = None) -> Verdict:
    """The verdict of the problem's own verifier. `sandbox` is handed to the code verifier (None: its default)."""
    truth = problem.truth
    match problem.domain:
        case "math":
            return math.verify(
                response.text,
                _need(problem, "gold"),
                finished=response.finished,
                thinking_open=response.thinking_open,
            )
        case "instructions" if "instruction_id_list" in truth:
            return instructions.verify_listed(response.text, truth, finished=response.finished, thinking_open=response.thinking_open)
        case "instructions" | "preference":
            return instructions.verify(
                response.text,
                _need(problem, "rules"),
                finished=response.finished,
                thinking_open=response.thinking_open,
            )
        case "tools":
            return tools.verify(response, truth, known_tools=_tool_names(problem))
        case "code":
            # The sandbox is loaded only where programs are run
            from qwq.verify import code

            extra = {} if sandbox is None else {"sandbox": sandbox}
            return code.verify_response(response, _need(problem, "tests"), **extra)
        case other:
            raise DataError(f"problem {problem.id}: unknown domain {other!r}: {nearest(other, DOMAINS)}")


def grade_many(
    items: Sequence[tuple[Problem, Response]],
    *,
    workers: int = 2,
    retries: int = 1,
    sandbox: Any = None,
) -> list[Verdict]:
    """Verdicts in the order of `items`.

    Code runs on `workers` threads, the rest in this one. An `infra_error` (also a raised InfraError) is tried
    again up to `retries` times. A problem id with the same response is graded once.
    """
    keys = [(problem.id, _key(response)) for problem, response in items]
    unique = dict(zip(keys, items, strict=True))
    jobs: dict[Any, Callable[[], Verdict]] = {
        key: lambda item=item: _with_retries(item, retries, sandbox) for key, item in unique.items()
    }
    code_keys = [key for key, (problem, _) in unique.items() if problem.domain == "code"]
    verdicts: dict[Any, Verdict] = {}
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        running = {key: pool.submit(jobs[key]) for key in code_keys}
        for key in (k for k in unique if k not in running):
            verdicts[key] = jobs[key]()
        for key, future in running.items():
            verdicts[key] = future.result()
    return [verdicts[key] for key in keys]


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


def _tool_names(problem: Problem) -> set[str] | None:
    """Names of the tools offered in the prompt, in OpenAI's nested form or flat."""
    names = {(t.get("function") or t).get("name") for t in problem.tools}
    return {n for n in names if n} or None


def _key(response: Response) -> tuple[Any, ...]:
    calls = tuple((c.name, repr(c.arguments)) for c in response.calls)
    return (
        response.text,
        response.finished,
        response.thinking_open,
        calls,
        response.malformed_calls,
    )
