"""`Sandbox`: a pool of slots that runs untrusted programs. Threads may share one.

with Sandbox() as box:
    print(box.run("print(input()[::-1])", stdin=b"abc").stdout)
    print(box.call("def f(x): return x + 1", "f", [{"args": [1]}]).cases[0].value)
    with box.session() as session:
        session.run("x = 2")
        print(session.run("x + 1").value)
    print(box.run('#include <cstdio>\nint main() { puts("hi"); }', language="cpp").stdout)
"""

from __future__ import annotations

import atexit
import json
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Self

from qwq.errors import InfraError, UsageError
from qwq.sandbox import languages
from qwq.sandbox.interpreter import SessionLimits
from qwq.sandbox.jail import codec
from qwq.sandbox.limits import Level, Limits, RunStatus, interpreter_files
from qwq.sandbox.runner import Execution, Runner
from qwq.sandbox.session import Session
from qwq.sandbox.session_slots import PACKAGES, SessionSlots
from qwq.sandbox.slot import Cancel, status_of
from qwq.sandbox.slot_pool import SlotPool

_BUILD_MEMORY_MB = 1024
_DEFAULT_SESSIONS = 64  # of the process's own sandbox: an RL step plays many episodes at a time


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A run that waits for a slot of `pool`; `built` says how its compiler ended, `failed` that it
    will not be run.
    """

    pool: SlotPool
    payload: bytes
    limits: Limits
    built: Execution | None = None
    failed: Execution | None = None
    bare: bool = True  # whether a bare slot will do


class Sandbox(Runner):
    """`slots` programs at a time (default: one per core); further callers wait for a free slot.

    level: the strongest that this machine allows is found at the first use; a given level is
    required exactly. Programs in languages other than Python run in as many slots more, which are
    started when the first one arrives. Raises UsageError where only `rlimits` is possible and
    `unsafe` is not set; InfraError where the machinery fails.
    """

    def __init__(
        self,
        slots: int | None = None,
        *,
        level: Level | str | None = None,
        unsafe: bool = False,
        tools: bool = False,
        cgroups: bool = True,
        max_sessions: int = 16,
    ):
        self.slots = slots or os.cpu_count() or 1
        self.unsafe = unsafe
        self.cgroups = cgroups  # False: watch memory from outside even where a group could bound it
        # `tools`: these slots show compilers, as the inner pool of other languages does.
        self._slot_pool = SlotPool(
            self.slots, Level(level) if level else None, unsafe=unsafe, tools=tools, cgroups=cgroups
        )
        self._lock = threading.Lock()
        self._tool_pool: Sandbox | None = None
        self._partners: Sandbox | None = None
        self._max_sessions = max_sessions
        self._session_slots: dict[tuple[str, ...], SessionSlots] = {}
        self._artefacts = languages.ArtefactCache()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def level(self) -> Level:
        """The level in force; `reason` says in words why it is this one."""
        return self._slot_pool.level

    @property
    def reason(self) -> str:
        return self._slot_pool.reason

    @property
    def num_replaced(self) -> int:
        """Slots that died and were replaced."""
        return self._slot_pool.num_replaced

    @property
    def is_usable(self) -> bool:
        """Whether it is open, and made by this process."""
        return not self._slot_pool.closed and self.is_own

    @property
    def is_own(self) -> bool:
        return self._slot_pool.pid == os.getpid()

    def close(self) -> None:
        """End all slots. Runs in flight end with InfraError."""
        self._slot_pool.closed = True
        with self._lock:
            inner = [pool for pool in (self._tool_pool, self._partners) if pool is not None]
            self._tool_pool = self._partners = None
            sessions = list(self._session_slots.values())
        for kept in sessions if self.is_own else ():
            kept.close()
        self._slot_pool.close()
        for pool in inner:
            pool.close()

    # -- sessions

    def session(
        self,
        limits: SessionLimits | None = None,
        *,
        packages: Sequence[str] = PACKAGES,
        replay: bool = True,
        programs: bool = False,
    ) -> Session:
        """Python that keeps state over cells, in a process and a slot of its own.

        `packages` of this interpreter's own are imported beforehand, where they are installed.
        `replay`: a process that had to be killed is rebuilt by running the earlier cells again.
        `programs` shows bash and the system's programs, too. Raises UsageError where that is asked
        for at a level other than namespaces.
        """
        if programs:
            return self._tools().session(limits, packages=packages, replay=replay)
        return self._slots_for(tuple(packages)).open(limits or SessionLimits(), replay=replay)

    def warm_sessions(self, count: int = 1, *, packages: Sequence[str] = PACKAGES) -> None:
        """Start the slots of sessions to come, so that the first of them need not wait for its
        imports.
        """
        self._slots_for(tuple(packages)).warm(count)

    def _slots_for(self, packages: tuple[str, ...]) -> SessionSlots:
        with self._lock:
            if self._slot_pool.closed:
                raise InfraError("the sandbox is closed")
            if packages not in self._session_slots:
                self._session_slots[packages] = SessionSlots(
                    lambda: self._slot_pool.start_with(packages), self._slot_pool.discard, self._max_sessions
                )
            return self._session_slots[packages]

    # -- runs

    def cancellable(self, cancel: Cancel) -> Runner:
        """This sandbox for one caller who may give up: `cancel.set()` from any thread kills what
        runs for them.
        """
        return _Cancellable(self, cancel)

    def _execute(
        self, request: Mapping[str, Any], stdin: bytes, limits: Limits, cancel: Cancel | None = None
    ) -> Execution:
        if request["kind"] == "interact":
            return self._interact(request, limits, cancel)
        return self._run(self._prepare(request, limits, cancel), stdin, cancel)

    def _prepare(self, request: Mapping[str, Any], limits: Limits, cancel: Cancel | None) -> _Prepared:
        """What is left to be run on a slot; a program in another language is compiled first."""
        if request["kind"] == "source":
            return self._prepare_source(request, limits, cancel)
        payload = json.dumps(request).encode()
        bare = request["kind"] != "cells" and not interpreter_files().are_named_in(payload)
        return _Prepared(self._slot_pool, payload, limits, bare=bare)

    def _run(self, ready: _Prepared, stdin: bytes | int, cancel: Cancel | None, stdout: int | None = None) -> Execution:
        if ready.failed is not None:
            for fd in (stdin, stdout):
                if isinstance(fd, int):
                    os.close(fd)
            return ready.failed
        done = ready.pool.run(ready.payload, stdin, ready.limits, cancel, stdout, bare=ready.bare)
        if ready.limits.supervises:
            done = replace(_ended(done, ready.limits)[0], built=ready.built)
        return done

    def _interact(self, request: Mapping[str, Any], limits: Limits, cancel: Cancel | None) -> Execution:
        """Two runs at a time, the partner's in slots of its own, so that two conversations never
        wait for each other.
        """
        with self._lock:
            if self._slot_pool.closed:
                raise InfraError("the sandbox is closed")
            if self._partners is None:
                level = self._slot_pool.required or self._slot_pool.level_in_force
                self._partners = Sandbox(self.slots, level=level, unsafe=self.unsafe, cgroups=self.cgroups)
            partners = self._partners
        theirs = replace(limits, timeout_s=request["partner_timeout_s"])
        ready = [
            self._prepare(request["program"], limits, cancel),
            partners._prepare(request["partner"], theirs, cancel),
        ]
        to_partner, from_program = os.pipe2(os.O_CLOEXEC)
        to_program, from_partner = os.pipe2(os.O_CLOEXEC)
        with ThreadPoolExecutor(1) as thread:
            other = thread.submit(partners._run, ready[1], to_partner, None, from_partner)
            try:
                done = self._run(ready[0], to_program, cancel, from_program)
            finally:
                partner = other.result()
        return replace(done, partner=partner)

    def _tools(self) -> Sandbox:
        if self.level is not Level.NAMESPACES:
            raise UsageError(
                f"programs other than Python need the level {Level.NAMESPACES}, here it is {self.level}: "
                "`qwq sandbox doctor` says why"
            )
        with self._lock:
            if self._slot_pool.closed:
                raise InfraError("the sandbox is closed")
            if self._tool_pool is None:
                self._tool_pool = Sandbox(
                    self.slots,
                    level=self._slot_pool.level_in_force,
                    tools=True,
                    cgroups=self.cgroups,
                    max_sessions=self._max_sessions,
                )
            return self._tool_pool

    def _prepare_source(self, request: Mapping[str, Any], limits: Limits, cancel: Cancel | None) -> _Prepared:
        """Compile where the language asks for it; what is run then, in slots that show the
        tools.
        """
        language, tool = languages.installed(request["language"])
        pool = self._tools()._slot_pool
        source = request["program"]
        given = dict(request.get("files") or {})
        files = given | {languages.source_name(language, source): codec.text_to_base64(source)}
        built = None
        if language.builds:
            artefact, built = self._build(pool, language, tool, request, files, cancel)
            if artefact is None:
                assert built is not None
                status = RunStatus.TIMEOUT if built.status is RunStatus.TIMEOUT else RunStatus.COMPILE_ERROR
                return _Prepared(pool, b"", limits, failed=replace(built, status=status, built=built, records=b""))
            files = given | {languages.PROGRAM: artefact}
            if language.name == "typescript":
                files = given | {"main.js": artefact}
        command = {
            "kind": "command",
            "files": files,
            "argv": [*languages.start_command(language, tool, source, limits.memory_mb), *(request.get("args") or ())],
            "fetch": list(request.get("fetch") or []),
        }
        limits = replace(limits, reserves_mb=language.reserves_mb, supervises=True)
        return _Prepared(pool, json.dumps(command).encode(), limits, built)

    def _build(
        self, pool: SlotPool, language: languages.Language, tool: str, request: Mapping[str, Any],
        files: dict[str, str], cancel: Cancel | None,
    ) -> tuple[str | None, Execution | None]:  # fmt: skip
        """(the artefact or None, how the compiler ended); an artefact of the cache comes with an
        empty run. Where no command builds the program, the first one's complaint counts.
        """
        key = languages.cache_key(language, tool, request["program"], files)
        known = self._artefacts.get(key)
        if known is not None:
            return known, Execution(RunStatus.OK, 0, b"", b"", b"", 0.0)
        limits = Limits(
            float(request.get("compile_timeout_s", 10.0)),
            _BUILD_MEMORY_MB,
            supervises=True,
            reserves_mb=language.reserves_mb,
        )
        first: Execution | None = None
        for argv in languages.build_commands(language, tool, request["program"]):
            command = {"kind": "command", "files": files, "argv": argv, "fetch": [languages.PROGRAM]}
            done, found = _ended(pool.run(json.dumps(command).encode(), b"", limits, cancel, bare=True), limits)
            artefact = found.get(languages.PROGRAM) if done.status is RunStatus.OK else None
            if artefact is not None:
                self._artefacts.put(key, artefact)
                return artefact, replace(done, records=b"")
            first = first or replace(done, records=b"")
            if done.status is RunStatus.TIMEOUT:
                break
        return None, first


def _ended(done: Execution, limits: Limits) -> tuple[Execution, Mapping[str, str]]:
    """How a command ended and what was fetched, from its supervisor's record, which the command
    could not write.
    """
    line, _, _ = done.records.partition(b"\n")
    if done.status not in (RunStatus.OK, RunStatus.ERROR, RunStatus.MEMORY) or not line:
        return done, {}
    record = codec.loads(line)
    if "failed" in record:
        return replace(done, status=RunStatus.ERROR, stderr=done.stderr + record["failed"].encode()), {}
    exit_code = os.waitstatus_to_exitcode(record["status"])
    status = (
        RunStatus.MEMORY if done.status is RunStatus.MEMORY else status_of(exit_code, done.cpu_s, limits, b"", False)
    )
    return replace(done, status=status, exit_code=exit_code), record["files"]


class _Cancellable(Runner):
    def __init__(self, sandbox: Sandbox, cancel: Cancel):
        self._sandbox = sandbox
        self._cancel = cancel

    def _execute(self, request: Mapping[str, Any], stdin: bytes, limits: Limits) -> Execution:
        return self._sandbox._execute(request, stdin, limits, self._cancel)


_default: Sandbox | None = None
_default_lock = threading.Lock()


def default_sandbox() -> Sandbox:
    """The process's own sandbox, made at first use and closed at exit; a forked process gets a new
    one.
    """
    global _default
    with _default_lock:
        if _default is None or not _default.is_usable:
            if _default is not None and not _default.is_own:
                _default.close()
            _default = Sandbox(max_sessions=_DEFAULT_SESSIONS)
            atexit.register(_default.close)
        return _default
