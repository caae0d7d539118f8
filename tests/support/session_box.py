"""A sandbox whose `run` is a cell of a session, so that attacks written for single runs are made
inside sessions too.
"""

from __future__ import annotations

from typing import Any, Self

import pytest

from qwq.sandbox import Level, RunResult, RunStatus, Sandbox, Session, SessionLimits

_STATUS = {
    "ok": RunStatus.OK,
    "error": RunStatus.ERROR,
    "died": RunStatus.ERROR,
    "timeout": RunStatus.TIMEOUT,
    "memory": RunStatus.MEMORY,
    "output_limit": RunStatus.OUTPUT_LIMIT,
}


class SessionBox:
    """One session for programs that ask for the same limits, opened again where they ask for
    others.
    """

    def __init__(self, box: Sandbox):
        self.box = box
        self.limits: tuple[int, int] = (0, 0)
        self.session: Session | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.box.close()

    @property
    def level(self) -> Level:
        return self.box.level

    @property
    def _slot_pool(self) -> Any:
        return self.box._slot_pool

    def _execute(self, *args: Any, **options: Any) -> Any:
        pytest.skip("function tests do not run in sessions")

    call = evaluate = interact = _execute

    def run(
        self,
        program: str,
        *,
        stdin: bytes = b"",
        timeout_s: float = 5.0,
        memory_mb: int = 512,
        output_limit_bytes: int = 1 << 20,
        **others: Any,
    ) -> RunResult:
        if stdin or others:
            pytest.skip("a cell is no whole program: it has no input, no language and no verdict")
        if self.session is None or self.limits != (memory_mb, output_limit_bytes):
            if self.session is not None:
                self.session.close()
            self.limits = (memory_mb, output_limit_bytes)
            limits = SessionLimits(memory_mb=memory_mb, output_limit_bytes=output_limit_bytes)
            self.session = self.box.session(limits, packages=(), replay=False)
        done = self.session.run(program, timeout_s=timeout_s)
        exit_code = done.exit_code if done.exit_code is not None else int(done.error is not None)
        shows_error = done.error is not None and done.status.value != "output_limit"
        stderr = done.stderr + (done.error[2].encode() if done.error and shows_error else b"")
        return RunResult(_STATUS[done.status], exit_code, done.stdout, stderr, done.seconds)
