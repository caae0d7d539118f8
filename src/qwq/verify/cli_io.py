"""`qwq verify KIND FILE.jsonl`: JSON lines in, one JSON line out for each, in input order.

A contract that outside checks read: standard output has `index`, `outcome`, `reason`, `seconds`
(and `passed`, `total` where there are several tests or rules); the summary goes to standard error.
A line that cannot be graded (not JSON, a field missing, an unknown key, tests that test nothing)
has `index`, `outcome` null and `error`, which names file and line, and the rest are still graded;
`strict` stops at the first one with a DataError (exit status 2), after the verdicts of the lines
before it. A file of which no line can be graded is one for another kind or form: all its lines are
written, and then a DataError is raised. `-` is standard input.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from qwq.common import jsonl
from qwq.errors import DataError, UsageError, nearest
from qwq.text.response import parse
from qwq.text.tool_calls import read_call
from qwq.types import Outcome, Response, ToolCall, Verdict
from qwq.verify import instructions, math, tools
from qwq.verify.instructions import ifeval
from qwq.verify.tools import bfcl, bfcl_multi_turn

Job = Callable[[], Verdict]
Summary = dict[str, Any]
Row = tuple[int, dict[str, Any] | DataError]  # line number, and the object or what is wrong with the line

# Columns that people keep beside what is graded: never read, and no mistake.
NOTES = frozenset(
    {"id", "task_id", "question_id", "name", "kind", "source", "split", "label", "right", "got", "reason", "note"}
)


def verify_file(
    kind: str,
    path: str | Path,
    *,
    workers: int = 2,
    sandbox: Any = None,
    strict: bool = False,
    rows: Iterable[Row] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Generator[dict[str, Any], None, Summary]:
    """Yield one output object per input line, in order; return a summary (`n`, `errors`,
    `outcomes`, `score`, `seconds`).

    `kind` is math (`gold`, `pred`, optional `form`, default "response", `boxes`, `units`),
    instructions (`response`, `rules`), tools (`response` as a string or an object with `text` and
    `calls`; `truth`; or BFCL's `category`, `functions`, `ground_truth`, `calls`; docs/bfcl.md has
    the multi-turn shape), or code (`code`, `tests` and limits). Lines are graded `workers` at a
    time; `sandbox` is where programs run, by default the jail of this process. `rows` are those of
    the file where they are read already; `defaults` are keys for lines that do not have them.
    `score` is the share of correct ones among the lines that could be graded, None where there is
    none.
    """
    if kind not in _READERS:
        raise DataError(f"unknown kind {kind!r}: {nearest(kind, _READERS)}")
    outcomes: Counter[str] = Counter()
    errors, seconds = 0, 0.0
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for index, verdict in _in_order(
            pool, _jobs(kind, path, sandbox, _rows(path) if rows is None else rows, defaults or {}), ahead=4 * workers
        ):
            if isinstance(verdict, UsageError):
                if strict:
                    raise verdict
                errors += 1
                yield _error_line(index, verdict)
                continue
            outcomes[verdict.outcome.value] += 1
            seconds += verdict.seconds
            yield _line(index, verdict)
    n = sum(outcomes.values())
    return {
        "kind": kind,
        "n": n,
        "errors": errors,
        "score": outcomes[Outcome.CORRECT.value] / n if n else None,
        "outcomes": dict(outcomes),
        "seconds": round(seconds, 3),
    }


def print_verdicts(
    kind: str,
    path: str | Path,
    out: TextIO | None = None,
    err: TextIO | None = None,
    sandbox: Any = None,
    strict: bool = False,
    rows: Iterable[Row] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Summary:
    """Run `verify_file`, print as the contract says, return the summary. DataError passes through.

    `out` and `err` default to the standard streams as they are at the call.
    """
    lines = verify_file(kind, path, sandbox=sandbox, strict=strict, rows=rows, defaults=defaults)
    first_error = None
    while True:
        try:
            line = next(lines)
        except StopIteration as stop:
            summary: Summary = stop.value
            break
        first_error = first_error or line.get("error")
        print(json.dumps(line, ensure_ascii=False), file=out or sys.stdout, flush=True)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(summary["outcomes"].items()))
    share = "" if summary["score"] is None else f": {counts}; {100 * summary['score']:.1f}% correct"
    print(f"{summary['n']} lines{share}{_refused(summary['errors'])}", file=err or sys.stderr)
    _check_graded(path, summary["n"], summary["errors"], first_error)
    return summary


def _check_graded(path: str | Path, graded: int, errors: int, first_error: str | None) -> None:
    if errors and not graded:
        raise DataError(f"{jsonl.name_of(path)}: no line of {errors} could be graded, the first: {first_error}")


def _refused(count: int) -> str:
    return f"; {count} more could not be graded (their lines say why; --strict stops at the first)" if count else ""


def print_instructions(path: str | Path, *, reward: bool = False, strict: bool = False) -> None:
    """Verdicts on lines with `rules`, or, where the first line that can be read is in IFEval's
    form, on IFEval's.
    """
    rows = _rows(path)
    first: list[Row] = []
    for number, row in rows:
        first.append((number, row))
        if not isinstance(row, UsageError):
            break
    again = chain(first, rows)
    if any("instruction_id_list" in row for _, row in first if not isinstance(row, UsageError)):
        print_ifeval(path, reward=reward, strict=strict, rows=again)
        return
    if reward:
        raise UsageError("--reward is for lines with instruction_id_list; rules are always read strictly")
    print_verdicts("instructions", path, strict=strict, rows=again)


def print_ifeval(
    path: str | Path,
    *,
    reward: bool = False,
    out: TextIO | None = None,
    err: TextIO | None = None,
    strict: bool = False,
    rows: Iterable[Row] | None = None,
) -> None:
    """Verdicts on IFEval's lines (`response`, `instruction_id_list`, `kwargs`, optional `prompt`):
    `index`, `strict`, `loose`.
    """
    counts: Counter[str] = Counter()
    first_error = None
    for index, (number, line) in enumerate(_rows(path) if rows is None else rows):
        try:
            if isinstance(line, UsageError):
                raise line
            row = _ifeval(line, index, reward)
        except UsageError as error:
            bad = error if error is line else DataError(f"{jsonl.name_of(path)}, line {number}: {error}")
            if strict:
                raise bad from None
            counts["errors"] += 1
            first_error = first_error or str(bad)
            print(json.dumps(_error_line(index, bad)), file=out or sys.stdout, flush=True)
            continue
        print(json.dumps(row), file=out or sys.stdout, flush=True)
        counts["lines"] += 1
        counts["prompts"] += all(row["strict"])
        counts["loose prompts"] += all(row["loose"])
    n = counts["lines"]
    shares = [100 * counts[k] / n if n else 0.0 for k in ("prompts", "loose prompts")]
    said = f"{n} responses: {shares[0]:.1f}% follow all instructions strictly, {shares[1]:.1f}% loosely"
    print(said + _refused(counts["errors"]), file=err or sys.stderr)
    _check_graded(path, n, counts["errors"], first_error)


def _ifeval(line: Mapping[str, Any], index: int, reward: bool) -> dict[str, Any]:
    names, kwargs, response = (line.get(k) for k in ("instruction_id_list", "kwargs", "response"))
    if not isinstance(response, str) or not isinstance(names, list) or not isinstance(kwargs, list):
        raise DataError("needs response (a string), instruction_id_list and kwargs (lists)")
    if any(not isinstance(k, Mapping) for k in kwargs):
        raise DataError("kwargs must hold an object for each instruction")
    strict, loose = ifeval.grade(response, names, kwargs, line.get("prompt"), reward=reward)
    return {"index": index, "strict": strict, "loose": loose}


def read_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line that is not blank.

    DataError: missing, empty, not JSON, not an object.
    """
    for number, row in _rows(path):
        if isinstance(row, UsageError):
            raise row
        yield number, row


def _rows(path: str | Path) -> Iterator[Row]:
    """Like `read_lines`, with the DataError of a line in the place of its object. Half of a
    surrogate pair is kept: a program's input and output may hold one.
    """
    empty = True
    for number, raw in jsonl.numbered_lines(path):
        if not raw.strip():
            continue
        empty = False
        where = f"{jsonl.name_of(path)}, line {number}"
        try:
            row: dict[str, Any] | DataError = jsonl.object_of(jsonl.parse_line(raw, where, surrogates=True), where)
        except DataError as error:
            row = error
        yield number, row
    if empty:
        raise DataError(f"{jsonl.name_of(path)} is empty: give at least one JSON line")


def _in_order(pool: ThreadPoolExecutor, jobs: Iterator[Job], ahead: int) -> Iterator[tuple[int, Verdict | UsageError]]:
    """Results in the order of the jobs, at most `ahead` of them waiting."""
    waiting: deque[tuple[int, Any]] = deque()
    numbered = enumerate(jobs)
    more = True
    while more or waiting:
        while more and len(waiting) < ahead:
            try:
                index, job = next(numbered)
            except StopIteration:
                more = False
            else:
                waiting.append((index, pool.submit(_run, job)))
        if waiting:
            index, future = waiting.popleft()
            yield index, future.result()


def _run(job: Job) -> Verdict | UsageError:
    try:
        return job()
    except UsageError as error:
        return error


def _jobs(kind: str, path: str | Path, sandbox: Any, rows: Iterable[Row], defaults: Mapping[str, Any]) -> Iterator[Job]:
    for number, row in rows:
        yield _job(
            kind,
            row if isinstance(row, DataError) else {**defaults, **row},
            f"{jsonl.name_of(path)}, line {number}",
            sandbox,
        )


def _job(kind: str, row: dict[str, Any] | DataError, where: str, sandbox: Any) -> Job:
    def run() -> Verdict:
        if isinstance(row, DataError):
            raise row
        try:
            job = _code(row, sandbox) if kind == "code" else _READERS[kind](row)
            return job()
        except UsageError as error:
            raise DataError(f"{where}: {error}") from None

    return run


def _error_line(index: int, error: UsageError) -> dict[str, Any]:
    return {"index": index, "outcome": None, "error": str(error)}


def _check_keys(data: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse a key that is likely a misspelt one: an option that is not read would change verdicts
    in silence.
    """
    for key in data:
        if key not in known and key not in NOTES and difflib.get_close_matches(key, known, n=1, cutoff=0.8):
            raise DataError(f"unknown key {key!r}: {nearest(key, known)}")


def _line(index: int, verdict: Verdict) -> dict[str, Any]:
    line: dict[str, Any] = {
        "index": index,
        "outcome": verdict.outcome.value,
        "reason": verdict.reason,
    }
    if verdict.total is not None:
        line |= {"passed": verdict.passed, "total": verdict.total}
    line |= {mark: True for mark in ("forgeable", "unsafe") if getattr(verdict, mark)}
    line |= verdict.usage()
    return line | {"seconds": round(verdict.seconds, 6)}


def _field(data: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = data.get(name, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(f"{name} must be a {kind.__name__}, got {value!r:.60}")
    return value


def _opened(data: Mapping[str, Any]) -> bool | None:
    """Whether the template had opened the thinking; None if the row does not say so."""
    return _field(data, "thinking_open", bool) if "thinking_open" in data else None


def _math(data: Mapping[str, Any]) -> Job:
    _check_keys(data, ("gold", "pred", "form", "finished", "thinking_open", "boxes", "units"))
    gold, pred = _field(data, "gold", str), _field(data, "pred", str)
    form, boxes, units = (
        _field(data, "form", str, "response"),
        _field(data, "boxes", str, "last"),
        _field(data, "units", str, "strict"),
    )
    for name, value, valid in (("form", form, math.FORMS), ("boxes", boxes, math.BOXES), ("units", units, math.UNITS)):
        if value not in valid:
            raise DataError(f"unknown {name} {value!r}: {nearest(value, valid)}")
    finished, opened = (
        _field(data, "finished", bool, True),
        _opened(data),
    )
    return lambda: math.verify(pred, gold, form=form, finished=finished, thinking_open=opened, boxes=boxes, units=units)


def _instructions(data: Mapping[str, Any]) -> Job:
    _check_keys(data, ("response", "rules", "finished", "thinking_open"))
    response, rules = _field(data, "response", str), _field(data, "rules", list)
    finished, opened = (
        _field(data, "finished", bool, True),
        _opened(data),
    )
    return lambda: instructions.verify(response, rules, finished=finished, thinking_open=opened)


def _tools(data: Mapping[str, Any]) -> Job:
    if "category" in data:
        return _bfcl(data)
    _check_keys(data, ("response", "calls", "truth"))
    truth: Any = data.get("truth")
    tools.check_truth(truth)
    given = data.get("response")
    if isinstance(given, str):
        given = {"text": given, "calls": data.get("calls", [])}
    if not isinstance(given, Mapping):
        raise DataError(f"response must be a string or an object with text and calls, got {given!r:.60}")
    text, opened = _field(given, "text", str), _opened(given)
    response = Response(
        text=text,
        finished=_field(given, "finished", bool, True),
        parts=parse(text, thinking_open=opened),
        calls=tuple(_call(c) for c in _field(given, "calls", list, [])),
        malformed_calls=_field(given, "malformed_calls", int, 0),
    )
    return lambda: tools.verify(response, truth)


def _bfcl(data: Mapping[str, Any]) -> Job:
    """A line in the form of the Berkeley function calling leaderboard."""
    category, truth, calls = (
        _field(data, "category", str),
        _field(data, "ground_truth", list, []),
        data.get("calls") or [],
    )
    if category.startswith("multi_turn"):
        config = _field(data, "initial_config", dict)
        classes = _field(data, "involved_classes", list, list(config))
        return lambda: bfcl_multi_turn.verify(
            calls, truth, initial_config=config, involved_classes=classes, category=category
        )
    functions = _field(data, "functions", list)
    return lambda: bfcl.verify(category, functions, truth, calls)


def _call(data: Any) -> ToolCall:
    call = read_call(json.dumps(data))
    if call is None:
        raise DataError(f'a call needs the form {{"name": ..., "arguments": {{...}}}}, got {data!r:.80}')
    return call


_PROGRAMS = ("code", "response")


def _code(data: Mapping[str, Any], sandbox: Any = None) -> Job:
    # The sandbox is loaded only where programs are run
    from qwq.verify import code

    named = [key for key in _PROGRAMS if key in data]
    if len(named) != 1:
        raise DataError(f"a line needs either code or response, it has {', '.join(named) or 'neither'}")
    program = _field(data, named[0], str)
    tests = code.read_row(data)
    used = {*_PROGRAMS, "tests", *code.BESIDE_TESTS, *(code.ROW_TESTS if "tests" not in data else ())}
    options = code.options_of({k: v for k, v in data.items() if k not in NOTES | used | {"finished", "thinking_open"}})
    if named[0] == "response":
        parts = parse(program, thinking_open=_opened(data))
        response = Response(program, finished=_field(data, "finished", bool, True), parts=parts)
        return lambda: code.verify_response(response, tests, sandbox=sandbox, **options)
    if tests.get("kind") in ("stdio", "interactive") and "language" not in data:
        options["language"] = code.guess_language(program)
    return lambda: code.verify(program, tests, sandbox=sandbox, **options)


_READERS: dict[str, Callable[[Mapping[str, Any]], Job]] = {
    "math": _math,
    "code": _code,
    "instructions": _instructions,
    "tools": _tools,
}
