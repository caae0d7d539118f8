"""What runs programs, whatever the place: `Sandbox` runs them in jails here, `RemoteSandbox` on a
server.

A runner implements one method, `_execute`: a request, its standard input and its limits give an
`Execution`. Requests:

    {"kind": "script", "program", "prelude", "files", "fetch", "args"}    a Python program
    {"kind": "source", "language", "program", "files", "fetch", "args", "compile_timeout_s"}    one in another language
    {"kind": "interact", "program", "partner", "partner_timeout_s"}       two of these, each reads what the other writes
    {"kind": "cells", "cells", "files", "fetch"}      cells of a notebook, in one session
    {"kind": "call", "sources", "program", "entry_point", "cases"}    function calls, arguments as nodes of `jail/codec.py`
    {"kind": "items", "sources", "program", "items"}                  expressions and statements

`program` is the index of the judged program among the `sources`, which are run one after another in
one namespace.

`files` (path to base64) are put into the working folder first, the paths in `fetch` are read from
it afterwards.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwq.errors import InfraError, UsageError
from qwq.sandbox.jail import codec
from qwq.sandbox.languages import SQL, SQL_RUNNER, canonical
from qwq.sandbox.limits import Limits, RunStatus

COMPILE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Execution:
    """What one run did.

    `records` is the result channel without its start mark; `built` is how the compiler ended.
    """

    status: RunStatus
    exit_code: int
    stdout: bytes
    stderr: bytes
    records: bytes
    seconds: float
    cpu_s: float = 0.0
    unsafe: bool = False
    built: Execution | None = None
    memory_mb: float = 0.0
    partner: Execution | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """One program run to its end. A negative `exit_code` is the signal that ended it.

    `seconds` is wall time with all that the jail takes, `cpu_s` the CPU time of the program and
    what it started, and `memory_mb` the most resident memory of one of its processes, the
    interpreter's own included.

    `files` holds what was fetched. `built` says how the compiler ended, where there was one; after
    COMPILE_ERROR nothing ran, and the other fields repeat it. `unsafe` marks a run without a jail
    that protects.
    """

    status: RunStatus
    exit_code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    files: Mapping[str, bytes] = field(default_factory=dict)
    built: RunResult | None = None
    unsafe: bool = False
    cpu_s: float = 0.0
    memory_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What one call or expression gave: a value, a truth, an error, or nothing because the run
    ended before.

    `error` is (type name, message) of what was raised; `fault` says in words why there is no usable
    result although nothing was raised. Exactly one of the three is set, else `has_value` or `truth`
    holds the result. `first_argument` is what a call that returned None left of it, where it is a
    list, dict, set or bytearray.
    """

    value: Any = None
    has_value: bool = False
    truth: bool | None = None
    error: tuple[str, str] | None = None
    fault: str | None = None
    first_argument: Any = None


@dataclass(frozen=True, slots=True)
class CallResult:
    """All cases of one program, in order; `status` is how the process that held them ended."""

    status: RunStatus
    cases: list[CaseResult]
    stdout: bytes
    stderr: bytes
    seconds: float
    load_error: tuple[str, str] | None = None
    unsafe: bool = False
    cpu_s: float = 0.0
    memory_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to evaluate after the program is loaded: mode "value" or "truth" (expression),
    "exec" (statements).
    """

    source: str
    mode: str = "value"
    bind: Mapping[str, Any] = field(default_factory=dict)


class Runner:
    """Runs programs through `_execute`, which a subclass gives.

    Values and records are decoded on this side.
    """

    def _execute(self, request: Mapping[str, Any], stdin: bytes, limits: Limits) -> Execution:
        raise NotImplementedError

    def run(
        self,
        program: str,
        *,
        stdin: bytes = b"",
        language: str = "python",
        prelude: str = "",
        files: Mapping[str, bytes] | None = None,
        fetch: Sequence[str] = (),
        args: Sequence[str] = (),
        timeout_s: float = 5.0,
        memory_mb: int = 512,
        output_limit_bytes: int = 1 << 20,
        compile_timeout_s: float = COMPILE_TIMEOUT_S,
    ) -> RunResult:
        """Run a whole program as `python program.py < stdin`, or compile and run it in another
        language.

        `prelude` is Python that runs before a Python program in its namespace.
        """
        limits = Limits(timeout_s, memory_mb, output_limit_bytes)
        request = program_request(program, language, compile_timeout_s, files, fetch, args)
        if prelude and request["kind"] == "script":
            request["prelude"] = prelude
        return run_result(self._execute(request, stdin, limits))

    def interact(
        self,
        program: str,
        partner: str,
        *,
        language: str = "python",
        partner_language: str = "python",
        files: Mapping[str, bytes] | None = None,
        timeout_s: float = 5.0,
        partner_timeout_s: float | None = None,
        memory_mb: int = 512,
        output_limit_bytes: int = 1 << 20,
        compile_timeout_s: float = COMPILE_TIMEOUT_S,
    ) -> tuple[RunResult, RunResult]:
        """Run two programs, each in a jail of its own, whose standard input is the other's standard
        output.

        `files` are the partner's. Returns how the program and how the partner ended; the partner
        has as long as the program and ten seconds more where `partner_timeout_s` is not given.
        """
        request = {
            "kind": "interact",
            "program": program_request(program, language, compile_timeout_s, None, (), ()),
            "partner": program_request(partner, partner_language, compile_timeout_s, files, (), ()),
            "partner_timeout_s": partner_timeout_s or timeout_s + 10,
        }
        done = self._execute(request, b"", Limits(timeout_s, memory_mb, output_limit_bytes))
        if done.partner is None:
            raise InfraError("a conversation of which one side is missing")
        return run_result(done), run_result(done.partner)

    def call(
        self,
        program: str,
        entry_point: str,
        cases: Sequence[Mapping[str, Any]],
        *,
        prelude: str = "",
        timeout_s: float = 5.0,
        memory_mb: int = 512,
        output_limit_bytes: int = 1 << 20,
    ) -> CallResult:
        """Load `program` once, then call `entry_point` with each case's "args" and "kwargs", in one
        process.

        Arguments and results are plain values (see `jail/codec.py`); `timeout_s` holds for each
        case.
        """
        encoded = [
            {"args": _encode(list(c.get("args") or [])), "kwargs": _encode(dict(c.get("kwargs") or {}))} for c in cases
        ]
        request = {
            "kind": "call",
            "sources": [prelude, program],
            "program": 1,
            "entry_point": entry_point,
            "cases": encoded,
        }
        return self._functions(request, len(cases), Limits(timeout_s, memory_mb, output_limit_bytes, each_record=True))

    def evaluate(
        self,
        sources: Sequence[str],
        items: Sequence[Item],
        *,
        program: int = 0,
        timeout_s: float = 5.0,
        memory_mb: int = 512,
        output_limit_bytes: int = 1 << 20,
    ) -> CallResult:
        """Run `sources` in one namespace, then evaluate each item in it; `bind` may hold stand-ins
        (codec.Opaque).

        `program` is the index of the one that has a file of its own to be read by
        `inspect.getsource`.
        """
        encoded = [
            {"source": i.source, "mode": i.mode, "bind": {name: _encode_any(value) for name, value in i.bind.items()}}
            for i in items
        ]
        request = {"kind": "items", "sources": list(sources), "program": program, "items": encoded}
        return self._functions(request, len(items), Limits(timeout_s, memory_mb, output_limit_bytes, each_record=True))

    def _functions(self, request: Mapping[str, Any], count: int, limits: Limits) -> CallResult:
        done = self._execute(request, b"", limits)
        cases, load_error = parse_records(done.records, count, done.status)
        return CallResult(
            done.status,
            cases,
            done.stdout,
            done.stderr,
            done.seconds,
            load_error,
            done.unsafe,
            done.cpu_s,
            done.memory_mb,
        )


def program_request(
    program: str,
    language: str,
    compile_timeout_s: float,
    files: Mapping[str, bytes] | None,
    fetch: Sequence[str],
    args: Sequence[str],
) -> dict[str, Any]:
    """The request for a whole program in any language.

    Raises UsageError for a language that is not known.
    """
    language = canonical(language)
    request: dict[str, Any] = {"kind": "script", "program": program}
    if language == SQL:
        request["program"] = SQL_RUNNER
        files = {**(files or {}), "main.sql": codec.to_bytes(program)}
    elif language != "python":
        request = {"kind": "source", "language": language, "program": program}
        request["compile_timeout_s"] = Limits(compile_timeout_s).timeout_s
    if files or fetch:
        request["files"] = {name: base64.b64encode(data).decode() for name, data in (files or {}).items()}
        request["fetch"] = list(fetch)
    if args:
        request["args"] = list(args)
    return request


def run_result(done: Execution) -> RunResult:
    """An execution as callers see it, fetched files decoded."""
    built = run_result(done.built) if done.built else None
    files: dict[str, bytes] = {}
    if done.records.startswith(b'{"files"'):
        try:
            found = codec.loads(done.records.split(b"\n", 1)[0])["files"]
            files = {str(name): base64.b64decode(data) for name, data in found.items()}
        except (codec.CodecError, ValueError, TypeError, AttributeError, KeyError):
            files = {}  # at a level without processes the program itself could write this record
    return RunResult(
        done.status,
        done.exit_code,
        done.stdout,
        done.stderr,
        done.seconds,
        files,
        built,
        done.unsafe,
        done.cpu_s,
        done.memory_mb,
    )


def _encode(value: Any) -> list[Any]:
    """Nodes of a caller's value. Raises UsageError for what has no plain form."""
    nodes = _encode_any(value)
    opaque = next((n for n in nodes if type(n) is list and n[0] == "o"), None)
    if opaque is not None:
        raise UsageError(f"an argument of type {opaque[1]} has no plain form: pass numbers, strings and containers")
    return nodes


def _encode_any(value: Any) -> list[Any]:
    """Like `_encode`; an object without a plain form becomes a stand-in that is equal to
    nothing.
    """
    try:
        nodes = codec.encode(value)
    except codec.CodecError as error:
        raise UsageError(f"an argument cannot be sent to the sandbox: {error}") from error
    return nodes


def printable(text: str) -> str:
    """Text that a program chose, fit for logs and terminals: no lone surrogates, no control
    characters.
    """
    if text.isprintable():
        return text
    kept = (c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
    return "".join(kept)


def _error(fields: object) -> tuple[str, str]:
    if type(fields) is list and len(fields) == 2 and all(type(f) is str for f in fields):
        return printable(fields[0][:100]), printable(fields[1][:500])
    raise codec.CodecError("malformed error record")


def _case(record: Mapping[str, Any]) -> CaseResult:
    if "e" in record:
        return CaseResult(error=_error(record["e"]))
    if "t" in record:
        if type(record["t"]) is not bool:
            raise codec.CodecError("a truth that is not a bool")
        return CaseResult(truth=record["t"])
    changed = codec.decode(record["a"]) if "a" in record else None
    return CaseResult(value=codec.decode(record.get("v")), has_value=True, first_argument=changed)


_MISSING = {
    RunStatus.TIMEOUT: "not finished within the time limit",
    RunStatus.MEMORY: "the program ran out of memory",
    RunStatus.OUTPUT_LIMIT: "the program wrote more output than allowed",
}


def parse_records(data: bytes, count: int, status: RunStatus) -> tuple[list[CaseResult], tuple[str, str] | None]:
    """Results by case from the channel, which the program could also write to: the first record of
    a case holds.

    A line that is not a record spoils nothing but what it stands for.
    """
    found: dict[int, CaseResult] = {}
    load_error: tuple[str, str] | None = None
    garbled = False
    most = 4 * count + 4
    # Split no further than is read: 32 MB of line ends would be 32 million lines.
    for line in data.split(b"\n", most)[:most]:
        if not line:
            continue
        try:
            if line.count(b",") > 4 * codec.MAX_NODES:
                raise codec.CodecError("more parts than a value may have")
            record = codec.loads(line)
            if type(record) is not dict:
                raise codec.CodecError("not a record")
            if "load" in record:
                load_error = load_error or _error(record["load"])
                continue
            index = record.get("i")
            if type(index) is not int or not 0 <= index < count or index in found:
                continue
        except codec.CodecError:
            garbled = True
            continue
        try:
            found[index] = _case(record)
        except codec.CodecError as error:
            found[index] = CaseResult(fault=f"the result is not usable: {error}")
    missing = _MISSING.get(status, "the program ended before this case")
    if garbled:
        missing += " (the result channel was written to by the program)"
    if load_error is not None:
        return [CaseResult(error=load_error)] * count, load_error
    return [found.get(i, CaseResult(fault=missing)) for i in range(count)], None
