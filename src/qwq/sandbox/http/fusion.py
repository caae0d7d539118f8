"""SandboxFusion's interface, so that verl and its own client work here unchanged.

    POST /run_code      one program                      GET /v1/ping   "pong"
    POST /run_jupyter   cells of one Python session
    POST /submit        a completion graded by the tests that the request brings (`config.provided_data`)

Field names: bytedance/SandboxFusion, sandbox/server/{sandbox_api,online_judge_api}.py and its
client's models.py (Apache-2.0). Its clients send no key (docs/from_sandboxfusion.md says what to
do) and give up on a 429, so a request that finds the queue full is held until there is room.
"""

from __future__ import annotations

import base64
import platform
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from qwq.errors import UsageError
from qwq.sandbox import languages, packages
from qwq.sandbox.http.protocol import Base64, ExecuteItem, FileName, VerifyItem
from qwq.sandbox.http.service import ServerLimits
from qwq.sandbox.jail import codec
from qwq.sandbox.limits import RunStatus
from qwq.sandbox.runner import Execution, RunResult, run_result

DEFAULT_MEMORY_MB = 1024
PYTEST = "pytest"
_PYTEST_RUNNER = (
    "import sys, pytest\nsys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'test_program.py', *sys.argv[1:]]))"
)
_WORDS = {
    RunStatus.MEMORY: "out of memory",
    RunStatus.OUTPUT_LIMIT: "output cut at {limit} bytes, and the program killed",
}


class RunCodeRequest(BaseModel):
    """Fields that are not known are ignored, as there."""

    compile_timeout: float = Field(10.0, gt=0)
    run_timeout: float = Field(10.0, gt=0)
    memory_limit_MB: int = -1
    code: str
    stdin: str | None = None
    language: str
    files: dict[FileName, Base64 | None] = {}
    fetch_files: list[FileName] = []
    args: list[str] = []


class CommandRunResult(BaseModel):
    status: Literal["Finished", "Error", "TimeLimitExceeded"]
    execution_time: float | None = None
    return_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None


class RunCodeResponse(BaseModel):
    status: Literal["Success", "Failed", "SandboxError"]
    message: str
    compile_result: CommandRunResult | None = None
    run_result: CommandRunResult | None = None
    executor_pod_name: str | None = None
    files: dict[str, str] = {}


class RunJupyterRequest(BaseModel):
    cells: list[str]
    cell_timeout: float = Field(0.0, ge=0)
    total_timeout: float = Field(45.0, gt=0)
    memory_limit_MB: int = -1
    kernel: Literal["python3"] = "python3"
    files: dict[FileName, Base64] = {}
    fetch_files: list[FileName] = []


class CellRunResult(BaseModel):
    stdout: str = ""
    stderr: str = ""
    display: list[dict[str, Any]] = []
    error: list[dict[str, Any]] = []


class RunJupyterResponse(BaseModel):
    status: Literal["Success", "Failed", "SandboxError"]
    message: str
    driver: CommandRunResult | None = None
    cells: list[CellRunResult] = []
    executor_pod_name: str | None = None
    files: dict[str, str] = {}


class TestConfig(BaseModel):
    __test__ = False

    language: str | None = None
    compile_timeout: float | None = Field(None, gt=0)
    run_timeout: float | None = Field(None, gt=0)
    provided_data: list[dict[str, Any]] | dict[str, Any] | None = None
    extra: dict[str, Any] = {}


class SubmitRequest(BaseModel):
    dataset: str = ""
    id: int | str = 0
    completion: str
    config: TestConfig


class EvalTestCase(BaseModel):
    passed: bool
    exec_info: RunCodeResponse
    test_info: dict[str, Any] | None = None


class EvalResult(BaseModel):
    id: int | str
    accepted: bool
    extracted_code: str
    full_code: str | None = None
    test_code: str | None = None
    tests: list[EvalTestCase]
    extracted_type: str | None = None
    extra: dict[str, Any] | None = None


# -- requests


def _memory_mb(asked: int, limits: ServerLimits) -> int:
    return max(32, asked if asked > 0 else min(DEFAULT_MEMORY_MB, limits.memory_mb))


def run_code_item(asked: RunCodeRequest, limits: ServerLimits) -> ExecuteItem:
    """Raises UsageError for what is not supported, rather than leave it out in silence."""
    files = {name: data for name, data in asked.files.items() if data is not None}
    request: dict[str, Any] = {"kind": "script", "program": asked.code, "files": files, "fetch": asked.fetch_files}
    if asked.language == PYTEST:
        if PYTEST not in packages.versions():
            raise UsageError("language pytest needs the package: `qwq sandbox packages add pytest`")
        files["test_program.py"] = codec.text_to_base64(asked.code)
        request |= {"program": _PYTEST_RUNNER, "args": asked.args}
    else:
        if asked.args:
            raise UsageError("args go to pytest: give them with language pytest")
        request |= _in_language(languages.canonical(asked.language), asked, files)
    return _item(
        request,
        stdin=base64.b64encode(codec.to_bytes(asked.stdin or "")).decode(),
        limits={"timeout_s": asked.run_timeout, "memory_mb": _memory_mb(asked.memory_limit_MB, limits)},
    )


def _in_language(language: str, asked: RunCodeRequest, files: dict[str, str]) -> dict[str, Any]:
    if language == "python":
        return {}
    if language == languages.SQL:
        return {"program": languages.SQL_RUNNER, "files": files | {"main.sql": codec.text_to_base64(asked.code)}}
    return {"kind": "source", "language": language, "compile_timeout_s": asked.compile_timeout}


def run_jupyter_item(asked: RunJupyterRequest, limits: ServerLimits) -> ExecuteItem:
    """All cells in one process; each may take `cell_timeout`, all together `total_timeout`."""
    request = {"kind": "cells", "cells": asked.cells, "files": asked.files, "fetch": asked.fetch_files}
    each = min(asked.cell_timeout or asked.total_timeout, asked.total_timeout)
    return _item(
        request,
        limits={
            "timeout_s": each,
            "total_timeout_s": asked.total_timeout,
            "each_record": True,
            "memory_mb": _memory_mb(asked.memory_limit_MB, limits),
        },
    )


def _item(request: Mapping[str, Any], **fields: Any) -> ExecuteItem:
    try:
        return ExecuteItem.model_validate({"kind": "execute", "request": request, **fields})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UsageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


_TESTS = ("tests", "test", "test_list", "public_test_cases", "public_tests", "inputs", "input_output")


def submit_item(asked: SubmitRequest) -> VerifyItem:
    """The row of `provided_data` with the asked id, as a line of `qwq verify code`.

    Raises UsageError where it is not there.
    """
    rows = asked.config.provided_data
    if isinstance(rows, list):
        rows = next((row for row in rows if str(row.get("id")) == str(asked.id)), None)
    if not isinstance(rows, Mapping) or not any(key in rows for key in _TESTS):
        raise UsageError(
            f"no tests for {asked.dataset} {asked.id}: give config.provided_data, a row (or rows with ids) that "
            f"holds one of {', '.join(_TESTS)}; data sets of the server's own there are none"
        )
    language = asked.config.language or "python"
    return VerifyItem(
        response=asked.completion,
        row={key: value for key, value in rows.items() if key not in ("id", "content", "labels", "canonical_solution")},
        language=languages.canonical(language),
        timeout_s=asked.config.run_timeout or 10.0,
        compile_timeout_s=asked.config.compile_timeout or 10.0,
        cases=True,
    )


# -- answers


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _command(result: RunResult) -> CommandRunResult:
    timed_out = result.status is RunStatus.TIMEOUT
    return CommandRunResult(
        status="TimeLimitExceeded" if timed_out else "Finished",
        execution_time=result.seconds,
        return_code=None if timed_out else result.exit_code,
        stdout=_text(result.stdout),
        stderr=_text(result.stderr),
    )


def message_of(result: RunResult, output_limit_bytes: int) -> str:
    """What its fields cannot say."""
    said = [_WORDS[result.status].format(limit=output_limit_bytes)] if result.status in _WORDS else []
    return "; ".join([*said, *(["ran without a jail that protects (unsafe)"] if result.unsafe else [])])


def run_code_response(result: RunResult, output_limit_bytes: int) -> RunCodeResponse:
    """A run in SandboxFusion's words: a compiler that failed leaves no run_result."""
    compiled = result.built is None or result.built.status is RunStatus.OK
    return RunCodeResponse(
        status="Success" if result.status is RunStatus.OK else "Failed",
        message=message_of(result, output_limit_bytes),
        compile_result=_command(result.built) if result.built else None,
        run_result=_command(result) if compiled else None,
        executor_pod_name=platform.node() or None,
        files={name: base64.b64encode(data).decode() for name, data in result.files.items()},
    )


def run_jupyter_response(done: Execution, asked: RunJupyterRequest, output_limit_bytes: int) -> RunJupyterResponse:
    """Cells as far as they ended; the session's own output is the driver's."""
    cells, files = _cells(done.records, len(asked.cells))
    result = run_result(done)
    return RunJupyterResponse(
        status="Success" if result.status is RunStatus.OK else "Failed",
        message=message_of(result, output_limit_bytes),
        driver=_command(result),
        cells=cells,
        executor_pod_name=platform.node() or None,
        files=files,
    )


def _cells(records: bytes, count: int) -> tuple[list[CellRunResult], dict[str, str]]:
    """What the session says of its cells; it is the program's own word, so it is checked like any
    input.
    """
    found: dict[int, CellRunResult] = {}
    files: dict[str, str] = {}
    for line in records.split(b"\n", 4 * count + 4)[: 4 * count + 4]:
        try:
            record = codec.loads(line) if line else None
            if not isinstance(record, dict):
                continue
            if isinstance(record.get("files"), dict):
                files = {str(k): base64.b64encode(base64.b64decode(v)).decode() for k, v in record["files"].items()}
            elif isinstance(record.get("i"), int) and isinstance(record.get("cell"), dict):
                found.setdefault(record["i"], CellRunResult.model_validate(record["cell"]))
        except (codec.CodecError, ValidationError, ValueError, TypeError):
            continue
    ended = next((i for i in range(count) if i not in found), count)
    return [found[i] for i in range(ended)], files


def submit_response(asked: SubmitRequest, verdict: Mapping[str, Any]) -> EvalResult:
    """A verdict in SandboxFusion's words; tests that were not reached count as failed."""
    cases = list(verdict.get("cases") or ())
    tests = [
        EvalTestCase(
            passed=case["outcome"] == "correct",
            exec_info=RunCodeResponse(
                status="Success" if case["outcome"] == "correct" else "Failed", message=case["reason"]
            ),
        )
        for case in cases
    ]
    code = verdict.get("answer") or ""
    return EvalResult(
        id=asked.id,
        accepted=verdict["outcome"] == "correct",
        extracted_code=code,
        full_code=code or None,
        tests=tests,
        extracted_type="fenced" if code and "```" in asked.completion else "heuristic" if code else "empty",
        extra={key: verdict[key] for key in ("outcome", "reason", "forgeable", "cpu_s", "memory_mb") if key in verdict},
    )
