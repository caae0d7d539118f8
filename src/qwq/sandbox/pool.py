"""`Sandbox`: a pool of slots that runs untrusted Python programs. Threads may share one.

with Sandbox() as box:
    print(box.run("print(input()[::-1])", stdin=b"abc").stdout)
    print(box.call("def f(x): return x + 1", "f", [{"args": [1]}]).cases[0].value)
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from qwq.errors import InfraError, UsageError
from qwq.sandbox.jail import codec
from qwq.sandbox.policy import Level, Limits, RunStatus, interpreter_files, readable_by_all
from qwq.sandbox.slot import Execution, Slot

_ATTEMPTS = 2
_UID_BASE = 1_900_000_000  # far from any account; a container that maps fewer ids gets _UID_BASE_SMALL
_UID_BASE_SMALL = 61_000


@dataclass(frozen=True, slots=True)
class RunResult:
    """One program run to its end. A negative `exit_code` is the signal that ended it."""

    status: RunStatus
    exit_code: int
    stdout: bytes
    stderr: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What one call or expression gave: a value, a truth, an error, or nothing because the run ended before.

    `error` is (type name, message) of what was raised; `fault` says in words why there is no usable result although
    nothing was raised. Exactly one of the three is set, else `has_value` or `truth` holds the result.
    """

    value: Any = None
    has_value: bool = False
    truth: bool | None = None
    error: tuple[str, str] | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class CallResult:
    """All cases of one program, in order; `status` is how the process that held them ended."""

    status: RunStatus
    cases: list[CaseResult]
    stdout: bytes
    stderr: bytes
    seconds: float
    load_error: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to evaluate after the program is loaded: mode "value" or "truth" (expression), "exec" (statements)."""

    source: str
    mode: str = "value"
    bind: Mapping[str, Any] = field(default_factory=dict)


def _own_uid(index: int) -> int | None:
    """An id of its own for a slot, where we are root and may change; else None."""
    if os.geteuid() != 0:
        return None
    with open("/proc/self/uid_map") as f:
        highest = max(int(first) + int(count) for first, _, count in (line.split() for line in f))
    if highest > _UID_BASE + (1 << 28):
        return _UID_BASE + (os.getpid() % (1 << 20)) * 64 + index % 64
    return _UID_BASE_SMALL + (os.getpid() * 7 + index) % 4000


class Sandbox:
    """`slots` programs at a time (default: one per core); further callers wait for a free slot.

    level: the strongest that this machine allows is found at the first use; a given level is required exactly.
    Raises UsageError where only `rlimits` is possible and `unsafe` is not set; InfraError where the machinery fails.
    """

    def __init__(self, slots: int | None = None, *, level: Level | str | None = None, unsafe: bool = False):
        self.slots = slots or os.cpu_count() or 1
        self.unsafe = unsafe
        self._wanted = Level(level) if level else None
        self._level: Level | None = None
        self.reason = ""
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False
        self._count = 0
        self._live: set[Slot] = set()
        self._free: queue.LifoQueue[Slot | None] = queue.LifoQueue()
        for _ in range(self.slots):
            self._free.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def level(self) -> Level:
        """The level in force; `reason` says in words why it is this one."""
        if self._level is None:
            self._put_back(self._take())
        assert self._level is not None
        return self._level

    def close(self) -> None:
        """End all slots. Runs in flight end with InfraError."""
        self._closed = True
        with self._lock:
            live, self._live = self._live, set()
        for slot in live:
            slot.close() if os.getpid() == self._pid else slot.abandon()

    # -- slots

    def _start_slot(self) -> Slot:
        with self._lock:
            self._count += 1
            index = self._count
            if self._level is None:
                return self._find_level(index)
        slot = self._new_slot(self._level, index)
        with self._lock:
            self._live.add(slot)
        return slot

    def _new_slot(self, level: Level, index: int) -> Slot:
        # Below namespaces the interpreter is used where it lies: an id of its own helps only if it may read it there.
        own_uid = (
            _own_uid(index) if level is Level.NAMESPACES or readable_by_all(interpreter_files().read_only) else None
        )
        return Slot(level, own_uid, f"qwq-{os.getpid()}-{id(self):x}-{index}")

    def _find_level(self, index: int) -> Slot:
        """Start the first slot at the strongest level that works; called with the lock held."""
        if sys.platform != "linux":
            raise UsageError(f"the sandbox needs Linux, this is {sys.platform}: docs/sandbox.md tells what to do here")
        tried = []
        for level in [self._wanted] if self._wanted else list(Level):
            if level is Level.RLIMITS and not self.unsafe:
                break
            try:
                slot = self._new_slot(level, index)
            except InfraError as error:
                tried.append(str(error))
                continue
            self._level = level
            self.reason = "; ".join([*tried, f"{level} works here"])
            self._live.add(slot)
            return slot
        raise UsageError(
            "no safe jail on this machine (" + "; ".join(tried or ["only rlimits was asked for"]) + "): allow user "
            "namespaces or Landlock, or pass unsafe=True to run programs that can read this user's files"
        )

    def _take(self) -> Slot:
        if self._closed:
            raise InfraError("the sandbox is closed")
        if os.getpid() != self._pid:
            raise InfraError("this sandbox belongs to the process that made it: make one after the fork")
        slot = self._free.get()
        try:
            if self._closed:
                raise InfraError("the sandbox is closed")
            return slot if slot is not None and not slot.dead else self._start_slot()
        except BaseException:
            self._free.put(None)
            raise

    def _put_back(self, slot: Slot) -> None:
        if slot.dead:
            with self._lock:
                self._live.discard(slot)
        self._free.put(None if slot.dead else slot)

    def _execute(self, request: Mapping[str, Any], stdin: bytes, limits: Limits) -> Execution:
        """Run a request on a free slot; a slot that dies is replaced and the run tried once more."""
        payload = json.dumps(request).encode()
        for attempt in range(_ATTEMPTS):
            slot = self._take()
            try:
                return slot.execute(payload, stdin, limits)
            except InfraError:
                if self._closed or attempt == _ATTEMPTS - 1:
                    raise
            finally:
                self._put_back(slot)
        raise AssertionError("unreachable")

    # -- what callers use

    def run(
        self,
        program: str,
        *,
        stdin: bytes = b"",
        timeout_s: float = 5.0,
        memory_mb: int = 512,
        output_limit_bytes: int = 1 << 20,
    ) -> RunResult:
        """Run a whole program as `python program.py < stdin`."""
        limits = Limits(timeout_s, memory_mb, output_limit_bytes)
        done = self._execute({"kind": "script", "program": program}, stdin, limits)
        return RunResult(done.status, done.exit_code, done.stdout, done.stderr, done.seconds)

    def call(
        self,
        program: str,
        entry_point: str,
        cases: Sequence[Mapping[str, Any]],
        *,
        timeout_s: float = 5.0,
        memory_mb: int = 512,
        output_limit_bytes: int = 1 << 20,
    ) -> CallResult:
        """Load `program` once, then call `entry_point` with each case's "args" and "kwargs", in one process.

        Arguments and results are plain values (see `jail/codec.py`); `timeout_s` holds for all cases together.
        """
        encoded = [
            {"args": _encode(list(c.get("args") or [])), "kwargs": _encode(dict(c.get("kwargs") or {}))} for c in cases
        ]
        request = {"kind": "call", "sources": [program], "entry_point": entry_point, "cases": encoded}
        return self._functions(request, len(cases), Limits(timeout_s, memory_mb, output_limit_bytes))

    def evaluate(
        self,
        sources: Sequence[str],
        items: Sequence[Item],
        *,
        timeout_s: float = 5.0,
        memory_mb: int = 512,
        output_limit_bytes: int = 1 << 20,
    ) -> CallResult:
        """Run `sources` in one namespace, then evaluate each item in it; `bind` may hold stand-ins (codec.Opaque)."""
        encoded = [
            {"source": i.source, "mode": i.mode, "bind": {name: _encode_any(value) for name, value in i.bind.items()}}
            for i in items
        ]
        request = {"kind": "items", "sources": list(sources), "items": encoded}
        return self._functions(request, len(items), Limits(timeout_s, memory_mb, output_limit_bytes))

    def _functions(self, request: Mapping[str, Any], count: int, limits: Limits) -> CallResult:
        done = self._execute(request, b"", limits)
        cases, load_error = parse_records(done.records, count, done.status)
        return CallResult(done.status, cases, done.stdout, done.stderr, done.seconds, load_error)


def _encode(value: Any) -> list[Any]:
    """Nodes of a caller's value. Raises UsageError for what has no plain form."""
    nodes = _encode_any(value)
    opaque = next((n for n in nodes if type(n) is list and n[0] == "o"), None)
    if opaque is not None:
        raise UsageError(f"an argument of type {opaque[1]} has no plain form: pass numbers, strings and containers")
    return nodes


def _encode_any(value: Any) -> list[Any]:
    """Like `_encode`; an object without a plain form becomes a stand-in that is equal to nothing."""
    try:
        nodes = codec.encode(value)
    except codec.CodecError as error:
        raise UsageError(f"an argument cannot be sent to the sandbox: {error}") from error
    return nodes


def _error(fields: object) -> tuple[str, str]:
    if type(fields) is list and len(fields) == 2 and all(type(f) is str for f in fields):
        return fields[0][:100], fields[1][:500]
    raise codec.CodecError("malformed error record")


def _case(record: Mapping[str, Any]) -> CaseResult:
    if "e" in record:
        return CaseResult(error=_error(record["e"]))
    if "t" in record:
        if type(record["t"]) is not bool:
            raise codec.CodecError("a truth that is not a bool")
        return CaseResult(truth=record["t"])
    return CaseResult(value=codec.decode(record.get("v")), has_value=True)


_MISSING = {
    RunStatus.TIMEOUT: "not finished within the time limit",
    RunStatus.MEMORY: "the program ran out of memory",
    RunStatus.OUTPUT_LIMIT: "the program wrote more output than allowed",
}


def parse_records(data: bytes, count: int, status: RunStatus) -> tuple[list[CaseResult], tuple[str, str] | None]:
    """Results by case from the channel, which the program could also write to: the first record of a case holds.

    A line that is not a record spoils nothing but what it stands for.
    """
    found: dict[int, CaseResult] = {}
    load_error: tuple[str, str] | None = None
    garbled = False
    for line in data.split(b"\n")[: 4 * count + 4]:
        if not line:
            continue
        try:
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


_default: Sandbox | None = None
_default_lock = threading.Lock()


def default_sandbox() -> Sandbox:
    """The process's own sandbox, made at first use and closed at exit; a forked process gets a new one."""
    global _default
    with _default_lock:
        if _default is None or _default._closed or _default._pid != os.getpid():
            if _default is not None and _default._pid != os.getpid():
                _default.close()
            _default = Sandbox()
            atexit.register(_default.close)
        return _default
