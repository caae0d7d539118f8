"""`qwq verify KIND FILE.jsonl`: JSON lines in, one JSON line out for each, in input order.

A contract that outside checks read: standard output has `index`, `outcome`, `reason`, `seconds` (and `passed`,
`total` where there are several tests or rules); the summary goes to standard error. A bad line is a DataError
with its file and line number (exit status 2), after the verdicts of the lines before it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

from qwq.errors import DataError, UsageError, nearest
from qwq.text.parse import read_call
from qwq.types import Outcome, Response, ToolCall, Verdict
from qwq.verify import bfcl, bfcl_multi_turn, ifeval, instructions, math, tools

Job = Callable[[], Verdict]
Summary = dict[str, Any]


def verify_file(kind: str, path: str | Path, *, workers: int = 2, sandbox: Any = None) -> Generator[dict[str, Any], None, Summary]:
    """Yield one output object per input line, in order; return a summary (`n`, `outcomes`, `score`, `seconds`).

    `kind` is math (`gold`, `pred`, optional `form`, default "response"), instructions (`response`, `rules`), tools
    (`response` as a string or an object with `text` and `calls`; `truth`; or BFCL's `category`, `functions`, `ground_truth`,
    `calls`; docs/bfcl.md has the multi-turn shape), or code (`code`, `tests` and limits).
    Lines are graded `workers` at a time; `sandbox` is where programs run, by default the jail of this process.
    """
    if kind not in _READERS:
        raise DataError(f"unknown kind {kind!r}: {nearest(kind, _READERS)}")
    outcomes: Counter[str] = Counter()
    seconds = 0.0
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for index, verdict in _in_order(pool, _jobs(kind, Path(path), sandbox), ahead=4 * workers):
            outcomes[verdict.outcome.value] += 1
            seconds += verdict.seconds
            yield _line(index, verdict)
    n = sum(outcomes.values())
    score = outcomes[Outcome.CORRECT.value] / n
    return {
        "kind": kind,
        "n": n,
        "score": score,
        "outcomes": dict(outcomes),
        "seconds": round(seconds, 3),
    }


def print_verdicts(
    kind: str, path: str | Path, out: TextIO | None = None, err: TextIO | None = None, sandbox: Any = None
) -> Summary:
    """Run `verify_file`, print as the contract says, return the summary. DataError passes through.

    `out` and `err` default to the standard streams as they are at the call.
    """
    lines = verify_file(kind, path, sandbox=sandbox)
    while True:
        try:
            line = next(lines)
        except StopIteration as stop:
            summary: Summary = stop.value
            break
        print(json.dumps(line, ensure_ascii=False), file=out or sys.stdout, flush=True)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(summary["outcomes"].items()))
    print(
        f"{summary['n']} lines: {counts}; {100 * summary['score']:.1f}% correct",
        file=err or sys.stderr,
    )
    return summary


def is_ifeval(path: str | Path) -> bool:
    """Whether the first line of a file is in IFEval's form."""
    return "instruction_id_list" in next(read_lines(Path(path)))[1]


def print_ifeval(path: str | Path, *, reward: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
    """Verdicts on IFEval's lines (`response`, `instruction_id_list`, `kwargs`, optional `prompt`): `index`, `strict`, `loose`."""
    counts: Counter[str] = Counter()
    for index, (number, line) in enumerate(read_lines(Path(path))):
        where = f"{path}, line {number}"
        names, kwargs, response = (line.get(k) for k in ("instruction_id_list", "kwargs", "response"))
        if not isinstance(response, str) or not isinstance(names, list) or not isinstance(kwargs, list):
            raise DataError(f"{where}: needs response (a string), instruction_id_list and kwargs (lists)")
        if any(not isinstance(k, Mapping) for k in kwargs):
            raise DataError(f"{where}: kwargs must hold an object for each instruction")
        try:
            strict, loose = ifeval.grade(response, names, kwargs, line.get("prompt"), reward=reward)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        print(json.dumps({"index": index, "strict": strict, "loose": loose}), file=out or sys.stdout, flush=True)
        counts["lines"] += 1
        counts["prompts"] += all(strict)
        counts["loose prompts"] += all(loose)
    n = counts["lines"]
    shares = [100 * counts[k] / n for k in ("prompts", "loose prompts")]
    print(f"{n} responses: {shares[0]:.1f}% follow all instructions strictly, {shares[1]:.1f}% loosely", file=err or sys.stderr)


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line that is not blank. DataError: missing, empty, not JSON, not an object."""
    if not path.is_file():
        raise DataError(f"no file at {path}: give a file of JSON lines")
    empty = True
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            empty = False
            try:
                data = json.loads(raw)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: not JSON ({str(error)[:100]})") from None
            if not isinstance(data, dict):
                raise DataError(f"{path}, line {number}: a JSON object is needed, got {type(data).__name__}")
            yield number, data
    if empty:
        raise DataError(f"{path} is empty: give at least one JSON line")


def _in_order(pool: ThreadPoolExecutor, jobs: Iterator[Job], ahead: int) -> Iterator[tuple[int, Verdict]]:
    """Results in the order of the jobs, at most `ahead` of them waiting; a bad job ends it after those before it."""
    waiting: deque[tuple[int, Any]] = deque()
    numbered = enumerate(jobs)
    failure: UsageError | None = None
    more = True
    while more or waiting:
        while more and len(waiting) < ahead:
            try:
                index, job = next(numbered)
            except StopIteration:
                more = False
            except UsageError as error:
                more, failure = False, error
            else:
                waiting.append((index, pool.submit(job)))
        if waiting:
            index, future = waiting.popleft()
            yield index, future.result()
    if failure is not None:
        raise failure


def _jobs(kind: str, path: Path, sandbox: Any) -> Iterator[Job]:
    for number, data in read_lines(path):
        try:
            job = _code(data, sandbox) if kind == "code" else _READERS[kind](data)
        except UsageError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
        yield _at(job, path, number)


def _at(job: Job, path: Path, number: int) -> Job:
    def run() -> Verdict:
        try:
            return job()
        except UsageError as error:
            raise DataError(f"{path}, line {number}: {error}") from None

    return run


def _line(index: int, verdict: Verdict) -> dict[str, Any]:
    line: dict[str, Any] = {
        "index": index,
        "outcome": verdict.outcome.value,
        "reason": verdict.reason,
    }
    if verdict.total is not None:
        line |= {"passed": verdict.passed, "total": verdict.total}
    line |= {mark: True for mark in ("forgeable", "unsafe") if getattr(verdict, mark)}
    return line | {"seconds": round(verdict.seconds, 6)}


def _field(data: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = data.get(name, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(f"{name} must be a {kind.__name__}, got {value!r:.60}")
    return value


def _math(data: Mapping[str, Any]) -> Job:
    gold, pred = _field(data, "gold", str), _field(data, "pred", str)
    form = _field(data, "form", str, "response")
    if form not in math.FORMS:
        raise DataError(f"unknown form {form!r}: {nearest(form, math.FORMS)}")
    finished, opened = (
        _field(data, "finished", bool, True),
        _field(data, "thinking_open", bool, False),
    )
    return lambda: math.verify(pred, gold, form=form, finished=finished, thinking_open=opened)


def _instructions(data: Mapping[str, Any]) -> Job:
    response, rules = _field(data, "response", str), _field(data, "rules", list)
    finished, opened = (
        _field(data, "finished", bool, True),
        _field(data, "thinking_open", bool, False),
    )
    return lambda: instructions.verify(response, rules, finished=finished, thinking_open=opened)


def _tools(data: Mapping[str, Any]) -> Job:
    if "category" in data:  # BFCL's form
        category, truth, calls = _field(data, "category", str), _field(data, "ground_truth", list, []), data.get("calls") or []
        if category.startswith("multi_turn"):
            config = _field(data, "initial_config", dict)
            classes = _field(data, "involved_classes", list, list(config))
            return lambda: bfcl_multi_turn.verify(calls, truth, initial_config=config, involved_classes=classes, category=category)
        functions = _field(data, "functions", list)
        return lambda: bfcl.verify(category, functions, truth, calls)
    truth = data.get("truth")
    tools.check_truth(truth)  # type: ignore[arg-type]
    given = data.get("response")
    if isinstance(given, str):
        given = {"text": given, "calls": data.get("calls", [])}
    if not isinstance(given, Mapping):
        raise DataError(f"response must be a string or an object with text and calls, got {given!r:.60}")
    response = Response(
        text=_field(given, "text", str),
        finished=_field(given, "finished", bool, True),
        thinking_open=_field(given, "thinking_open", bool, False),
        calls=tuple(_call(c) for c in _field(given, "calls", list, [])),
        malformed_calls=_field(given, "malformed_calls", int, 0),
    )
    return lambda: tools.verify(response, truth)


def _call(data: Any) -> ToolCall:
    call = read_call(json.dumps(data))
    if call is None:
        raise DataError(f'a call needs the form {{"name": ..., "arguments": {{...}}}}, got {data!r:.80}')
    return call


def _code(data: Mapping[str, Any], sandbox: Any = None) -> Job:
    # The sandbox is loaded only where programs are run
    from qwq.verify import code

    source, tests = _field(data, "code", str), _field(data, "tests", dict)
    return lambda: code.verify(source, tests, sandbox=sandbox, **code.options_of(data))


_READERS: dict[str, Callable[[Mapping[str, Any]], Job]] = {
    "math": _math,
    "code": _code,
    "instructions": _instructions,
    "tools": _tools,
}
