"""What travels between `RemoteSandbox` and the server: items of a batch, and results.

An item of kind "execute" is a request of `runner.py` with its limits; one of kind "verify" is a
line of `qwq verify code`. Requests are checked here in full, so that a malformed one is the
caller's mistake and never reaches a slot.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from qwq.sandbox.jail.box_files import MAX_LISTED
from qwq.sandbox.limits import RunStatus
from qwq.sandbox.runner import Execution

Base64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$")]
FileName = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ScriptRequest(_Strict):
    kind: Literal["script"]
    program: str
    prelude: str = ""
    files: dict[FileName, Base64] = {}
    fetch: list[FileName] = []
    args: list[str] = []


class SourceRequest(_Strict):
    kind: Literal["source"]
    language: str
    program: str
    compile_timeout_s: float = Field(10.0, gt=0)
    files: dict[FileName, Base64] = {}
    fetch: list[FileName] = []
    args: list[str] = []


class InteractRequest(_Strict):
    kind: Literal["interact"]
    program: Annotated[ScriptRequest | SourceRequest, Field(discriminator="kind")]
    partner: Annotated[ScriptRequest | SourceRequest, Field(discriminator="kind")]
    partner_timeout_s: float = Field(gt=0)


class CellsRequest(_Strict):
    kind: Literal["cells"]
    cells: list[str]
    files: dict[FileName, Base64] = {}
    fetch: list[FileName] = []


class CallCase(_Strict):
    args: list[Any]
    kwargs: list[Any]


class CallRequest(_Strict):
    kind: Literal["call"]
    sources: list[str]
    program: int = 0
    entry_point: str
    cases: list[CallCase]


class EvaluateItem(_Strict):
    source: str
    mode: Literal["value", "truth", "exec"]
    bind: dict[str, list[Any]] = {}


class ItemsRequest(_Strict):
    kind: Literal["items"]
    sources: list[str]
    program: int = 0
    items: list[EvaluateItem]


Request = Annotated[
    ScriptRequest | SourceRequest | InteractRequest | CellsRequest | CallRequest | ItemsRequest,
    Field(discriminator="kind"),
]


class ItemLimits(_Strict):
    timeout_s: float = Field(5.0, gt=0)
    memory_mb: int = Field(512, ge=32)
    output_limit_bytes: int = Field(1 << 20, ge=1)
    each_record: bool = False
    total_timeout_s: float | None = Field(None, gt=0)


class ExecuteItem(_Strict):
    kind: Literal["execute"]
    id: str = Field("", max_length=100)
    request: Request
    stdin: Base64 = ""
    limits: ItemLimits = ItemLimits()


class VerifyItem(_Strict):
    """Either `code` or `response`; `tests`, or a `row` of a data set that holds them. With `cases`
    the verdict says how each case ended.
    """

    kind: Literal["verify"] = "verify"
    id: str = Field("", max_length=100)
    code: str | None = None
    response: str | None = None
    tests: dict[str, Any] | list[Any] | str | None = None
    row: dict[str, Any] = {}
    cases: bool = False
    timeout_s: float = Field(5.0, gt=0)
    memory_mb: int = Field(512, ge=32)
    language: str = "python"
    tolerance: float | None = Field(None, ge=0)
    compile_timeout_s: float = Field(10.0, gt=0)
    output_limit_bytes: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _complete(self) -> VerifyItem:
        if (self.code is None) == (self.response is None):
            raise ValueError("give either code or response")
        if (self.tests is None) == (not self.row):
            raise ValueError("give either tests or row")
        return self


class SessionRequest(_Strict):
    """Limits of a session, as `interpreter.SessionLimits`; the server's own are the most.
    `programs` shows bash and the system's programs in its jail.
    """

    timeout_s: float = Field(30.0, gt=0)
    total_s: float = Field(3600.0, gt=0)
    memory_mb: int = Field(1024, ge=32)
    processes: int = Field(32, ge=1, le=128)
    box_mb: int = Field(64, ge=1, le=1024)
    box_files: int = Field(1024, ge=16, le=MAX_LISTED)
    output_limit_bytes: int = Field(1 << 20, ge=1)
    total_output_bytes: int = Field(64 << 20, ge=1)
    text_chars: int = Field(8000, ge=2)
    replay: bool = True
    programs: bool = False


class CellRequest(_Strict):
    """`code` null: files are only put and read."""

    code: str | None
    files: dict[FileName, Base64] = {}
    fetch: list[FileName] = []
    timeout_s: float | None = Field(None, gt=0)


class RestartRequest(_Strict):
    replay: bool = True


class Batch(_Strict):
    """`items` of any mix; results come back as they finish, each with its `index` and `id`."""

    items: list[Annotated[ExecuteItem | VerifyItem, Field(discriminator="kind")]] = Field(min_length=1)


BATCH = TypeAdapter(Batch)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def execution_to_dict(done: Execution) -> dict[str, Any]:
    return {
        "status": done.status.value,
        "exit_code": done.exit_code,
        "stdout": _text(done.stdout),
        "stderr": _text(done.stderr),
        "records": _text(done.records),
        "seconds": done.seconds,
        "cpu_s": done.cpu_s,
        "memory_mb": done.memory_mb,
        "unsafe": done.unsafe,
        "built": execution_to_dict(done.built) if done.built else None,
        "partner": execution_to_dict(done.partner) if done.partner else None,
    }


def execution_from_dict(data: Mapping[str, Any]) -> Execution:
    return Execution(
        RunStatus(data["status"]),
        data["exit_code"],
        base64.b64decode(data["stdout"]),
        base64.b64decode(data["stderr"]),
        base64.b64decode(data["records"]),
        data["seconds"],
        data["cpu_s"],
        data["unsafe"],
        execution_from_dict(data["built"]) if data["built"] else None,
        data["memory_mb"],
        execution_from_dict(data["partner"]) if data["partner"] else None,
    )
