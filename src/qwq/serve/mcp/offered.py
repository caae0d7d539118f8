"""The tools that other agents get: `python` with sessions by handle, `run_code`, `verify_math`,
`verify_code`. All of them work in the jail.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qwq.envs.toolbox import Effect, ResultKind, ToolResult, Toolset, ToolSpec, tool_schema
from qwq.errors import UsageError, nearest
from qwq.sandbox import Cancel, RunResult, RunStatus, Sandbox, SessionLimits, default_sandbox
from qwq.sandbox.languages import LANGUAGES
from qwq.serve.desks import MAX_OPEN, Desks
from qwq.types import ToolCall, Verdict
from qwq.verify.code import verify as verify_program
from qwq.verify.math import verify as verify_answer

RUN_TIMEOUT_S = 10.0  # of a program, unless the call says it
MAX_PROGRAM_S = 60.0
VERIFY_S = 300.0  # a program with many tests
_TEXT: Mapping[str, Any] = {"type": "string"}

SCHEMAS = {
    "python": tool_schema(
        "python",
        "Run Python code in a jail without network. Without `session` it opens a new session and names it; with "
        "`session` variables and files of that session are there. The last expression's value is shown; matplotlib "
        "figures come back as pictures.",
        {"code": _TEXT, "session": {"type": "string", "description": "what an earlier result named"}},
        ["code"],
    ),
    "run_code": tool_schema(
        "run_code",
        "Run a whole program once in a jail without network: exit code, standard output and error.",
        {
            "program": _TEXT,
            "language": {"type": "string", "enum": list(LANGUAGES), "description": "default python"},
            "stdin": {"type": "string", "description": "standard input"},
            "timeout_s": {"type": "number", "minimum": 0.1, "maximum": MAX_PROGRAM_S},
        },
        ["program"],
    ),
    "verify_math": tool_schema(
        "verify_math",
        "Whether the final answer of a response equals the expected one as mathematics (1/2 is 0.5, x+1 is 1+x, "
        "LaTeX is read). Gives outcome, reason and the answer that was read.",
        {
            "response": {"type": "string", "description": "a whole response, or only the answer"},
            "expected": {"type": "string", "description": "the right answer, as text or LaTeX"},
        },
        ["response", "expected"],
    ),
    "verify_code": tool_schema(
        "verify_code",
        "Judge a program by tests, each in the jail: outcome, reason, how many passed.",
        {
            "program": _TEXT,
            "tests": {
                "type": "object",
                "description": '{"kind": "stdio", "cases": [{"input": "1\\n", "output": "2\\n"}]}, or {"kind": "call", '
                '"entry_point": "f", "cases": [{"args": [1], "expected": 2}]}, or {"kind": "asserts", "asserts": '
                '["assert f(1) == 2"]}',
            },
            "language": {"type": "string", "enum": list(LANGUAGES), "description": "default python"},
            "timeout_s": {"type": "number", "minimum": 0.1, "maximum": MAX_PROGRAM_S, "description": "of each case"},
        },
        ["program", "tests"],
    ),
}
NAMES = tuple(SCHEMAS)


class OfferedTools(Toolset):
    """`names` of them. `sandbox` is where programs run; `limits` are those of a Python session."""

    name = "offered"
    grace_s = 120.0  # a session that is killed is rebuilt by its cells

    def __init__(
        self, names: Sequence[str] = NAMES, *, sandbox: Sandbox | None = None, limits: SessionLimits | None = None,
        max_sessions: int = MAX_OPEN,
    ) -> None:  # fmt: skip
        for name in names:
            if name not in SCHEMAS:
                raise UsageError(f"no tool {name!r} is offered: {nearest(name, SCHEMAS)}")
        self._names, self._limits = tuple(dict.fromkeys(names)), limits or SessionLimits()
        self._sandbox = sandbox
        self.desks = Desks(sandbox, limits=self._limits, max_open=max_sessions)
        self._answers: dict[str, Callable[..., Coroutine[Any, Any, ToolResult]]] = {
            "python": self._python, "run_code": self._run_code,
            "verify_math": self._verify_math, "verify_code": self._verify_code,
        }  # fmt: skip

    @property
    def sandbox(self) -> Sandbox:
        return self._sandbox or default_sandbox()

    def specs(self) -> Sequence[ToolSpec]:
        seconds = {"python": self._limits.timeout_s, "run_code": MAX_PROGRAM_S + 30.0}
        specs = [
            ToolSpec(SCHEMAS[name], Effect.NONE, seconds.get(name, VERIFY_S), idempotent=True) for name in self._names
        ]
        return [replace(s, effect=Effect.WORKSPACE, idempotent=False) if s.name == "python" else s for s in specs]

    async def run(self, call: ToolCall) -> ToolResult:
        try:
            return await self._answers[call.name](**call.arguments)
        except UsageError as error:
            return ToolResult(f"error: {error}", ResultKind.ERROR)

    async def close(self) -> None:
        await self.desks.close()

    async def _python(self, code: str, session: str = "") -> ToolResult:
        handle = session or await self.desks.open()
        result = await self.desks.get(handle).run(ToolCall("python", {"code": code}))
        return result if session else replace(result, text=f"{result.text}\n[session {handle}]")

    async def _run_code(
        self, program: str, language: str = "python", stdin: str = "", timeout_s: float = RUN_TIMEOUT_S
    ) -> ToolResult:
        cancel = Cancel()
        runner, data = self.sandbox.cancellable(cancel), stdin.encode(errors="replace")
        try:
            run = await asyncio.to_thread(runner.run, program, stdin=data, language=language, timeout_s=timeout_s)
        except asyncio.CancelledError:
            cancel.set()  # nobody waits for it any more
            raise
        ended = run.status is RunStatus.OK and run.exit_code == 0
        return ToolResult(describe_run(run), ResultKind.OK if ended else ResultKind.ERROR)

    async def _verify_math(self, response: str, expected: str) -> ToolResult:
        return _verdict(await asyncio.to_thread(verify_answer, response, expected))

    async def _verify_code(
        self, program: str, tests: Any, language: str = "python", timeout_s: float = 5.0
    ) -> ToolResult:
        options = {"language": language, "timeout_s": timeout_s, "sandbox": self.sandbox}
        return _verdict(await asyncio.to_thread(lambda: verify_program(program, tests, **options)))


def describe_run(run: RunResult) -> str:
    """How a program ended and what it wrote, for a model."""
    ended = f"status {run.status.value}, exit code {run.exit_code}, {run.seconds:.2f} s"
    out, error = (data.decode(errors="replace").rstrip("\n") for data in (run.stdout, run.stderr))
    parts = [ended, out and f"standard output:\n{out}", error and f"standard error:\n{error}"]
    return "\n".join(part for part in parts if part)


def _verdict(verdict: Verdict) -> ToolResult:
    return ToolResult(json.dumps(verdict.to_dict(), ensure_ascii=False))
