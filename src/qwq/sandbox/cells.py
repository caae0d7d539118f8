"""What one cell of a session gave.

All of it is the program's word: sizes and types are checked, contents are not.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from qwq.sandbox.jail import codec
from qwq.sandbox.runner import printable

_MAX_DISPLAYS = 200
_MAX_LINES = 400


class CellStatus(StrEnum):
    """Every way a cell can end."""

    OK = "ok"
    ERROR = "error"  # it raised
    INTERRUPTED = "interrupted"  # by the caller
    TIMEOUT = "timeout"
    MEMORY = "memory"  # MemoryError, or killed for memory
    OUTPUT_LIMIT = "output_limit"
    DIED = "died"  # the process ended in it


class SessionState(StrEnum):
    """What became of the session's variables and files."""

    KEPT = "kept"
    RESUMED = "resumed"  # another session needed its place; the cells ran again and gave the same
    REBUILT = "rebuilt"  # the process was replaced, and the earlier cells that ended were run again in it
    LOST = "lost"  # the process was replaced by an empty one


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of matplotlib.

    `png` and `svg` are None where they are larger than 1 MiB; `text` says what is drawn.
    """

    text: str
    png: bytes | None = None
    svg: str | None = None


@dataclass(frozen=True, slots=True)
class CellResult:
    """One cell run to its end.

    `value` is the last expression as text, `tables` what was shown and has a form in HTML, `text`
    all of it for a model: cut in the middle where it is long, and then `output_file` of the
    workspace holds the whole from the next cell on. `error` is (type name, message, traceback).
    `exit_code` is set where the process ended in the cell; `not_repeated` are earlier cells that
    had not ended, and are missing from a rebuilt state. `unsafe` marks a session without a jail
    that protects. `listing` gives names and sizes of the workspace's files, `files` those that were
    fetched. `cpu_s` is the processor time of the cell and of processes that it waited for.
    """

    number: int
    status: CellStatus
    state: SessionState = SessionState.KEPT
    stdout: bytes = b""
    stderr: bytes = b""
    value: str | None = None
    display: tuple[Mapping[str, str], ...] = ()
    error: tuple[str, str, str] | None = None
    figures: tuple[Figure, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    listing: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_s: float = 0.0
    exit_code: int | None = None
    not_repeated: tuple[int, ...] = ()
    unsafe: bool = False
    text: str = ""
    output_file: str | None = None

    @property
    def tables(self) -> list[str]:
        return [data["text/html"] for data in self.display if "text/html" in data]

    def whole_text(self) -> str:
        """What a model is told: output, what was shown, figures in words, the error, and how the
        cell ended.
        """
        parts = [self.stdout.decode(errors="replace"), self.stderr.decode(errors="replace")]
        parts += [data.get("text/plain", "") for data in self.display]
        parts += [figure.text for figure in self.figures]
        parts.append(self.error[2] or f"{self.error[0]}: {self.error[1]}" if self.error else "")
        parts.append(self.note)
        return printable("\n".join(part.rstrip("\n") for part in parts if part.strip()))

    @property
    def note(self) -> str:
        """What output alone does not say; "" for a cell that just ended or raised."""
        kept = self.state in (SessionState.KEPT, SessionState.RESUMED)
        if self.status in (CellStatus.OK, CellStatus.ERROR) and kept:
            return ""
        parts = [_ENDED[self.status], _BECAME[self.state]]
        if self.not_repeated and self.state is SessionState.REBUILT:
            parts.append(f"Not run again, since they had not ended: cells {', '.join(map(str, self.not_repeated))}.")
        return f"[{' '.join(parts)}]"

    def digest(self) -> str:
        """A hash of all that the cell gave, to compare a replay with."""
        fields = [self.stdout, self.stderr, self.display, self.error, self.figures, sorted(self.listing.items())]
        return hashlib.sha256(repr(fields).encode(errors="surrogatepass")).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; bytes of files and pictures as base64, output as text."""
        fields = asdict(self)
        fields["stdout"] = self.stdout.decode(errors="replace")
        fields["stderr"] = self.stderr.decode(errors="replace")
        fields["files"] = {name: base64.b64encode(data).decode() for name, data in self.files.items()}
        for figure in fields["figures"]:
            figure["png"] = base64.b64encode(figure["png"]).decode() if figure["png"] is not None else None
        return fields

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CellResult:
        fields = dict(data)
        fields["status"], fields["state"] = CellStatus(fields["status"]), SessionState(fields["state"])
        fields["stdout"], fields["stderr"] = fields["stdout"].encode(), fields["stderr"].encode()
        fields["files"] = {name: base64.b64decode(text) for name, text in fields["files"].items()}
        fields["display"] = tuple(fields["display"])
        fields["not_repeated"] = tuple(fields["not_repeated"])
        fields["error"] = tuple(fields["error"]) if fields["error"] else None
        fields["figures"] = tuple(
            Figure(f["text"], base64.b64decode(f["png"]) if f["png"] is not None else None, f["svg"])
            for f in fields["figures"]
        )
        return cls(**fields)


_ENDED = {
    CellStatus.OK: "The cell ended.",
    CellStatus.ERROR: "The cell raised an error.",
    CellStatus.INTERRUPTED: "The cell was interrupted.",
    CellStatus.TIMEOUT: "The cell met its time limit.",
    CellStatus.MEMORY: "The cell met the memory limit.",
    CellStatus.OUTPUT_LIMIT: "The cell wrote more output than allowed; the rest was dropped.",
    CellStatus.DIED: "The Python process ended during the cell.",
}
_BECAME = {
    SessionState.KEPT: "Variables and files are kept.",
    SessionState.RESUMED: "Variables and files are kept.",
    SessionState.REBUILT: "The Python process was replaced, and the earlier cells were run again: their variables "
    "and files are there.",
    SessionState.LOST: "The Python process was replaced: all variables and files are gone.",
}


def cut_text(text: str, limit: int, name: str) -> str:
    """Head and tail of a long text, with a line between them that says where the whole is."""
    half = limit // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[{left_out} characters left out here; the whole output is in {name}]\n{text[-half:]}"


def result_of(
    number: int,
    why: CellStatus | None,
    record: bytes,
    stdout: bytes,
    stderr: bytes,
    output_limit: int,
    seconds: float,
) -> CellResult:
    """The result of a cell from its record, which hostile code may have written.

    `why`: what stopped it, if something did.
    """
    fields = _fields(record)
    displays = [_texts(entry) for entry in _list(fields.get("display"))[:_MAX_DISPLAYS]]
    pictured = [data for data in displays if "image/png" in data or "image/svg+xml" in data]
    error = _error(fields.get("error"))
    status = why or (CellStatus.OK if error is None else CellStatus.ERROR)
    if why is None and error is not None and error[0] == "MemoryError":
        status = CellStatus.MEMORY
    last = next((e for e in reversed(_list(fields.get("display"))) if type(e) is dict and "execution_count" in e), None)
    return CellResult(
        number,
        status,
        stdout=stdout[:output_limit],
        stderr=stderr[:output_limit],
        value=_texts(last).get("text/plain") if last else None,
        display=tuple(data for data in displays if data not in pictured),
        error=error,
        figures=tuple(_figure(data) for data in pictured),
        files=_files(fields.get("files")),
        listing={str(n): s for n, s in _dict(fields.get("listing")).items() if type(s) is int},
        seconds=seconds,
        cpu_s=_seconds(fields.get("cpu_s")),
    )


def _fields(record: bytes) -> Mapping[str, Any]:
    try:
        return _dict(codec.loads(record)) if record else {}
    except codec.CodecError:
        return {}


def _list(value: object) -> list[Any]:
    return value if type(value) is list else []


def _dict(value: object) -> dict[str, Any]:
    return value if type(value) is dict else {}


def _seconds(value: object) -> float:
    return float(value) if type(value) in (int, float) and 0 <= value < 1e9 else 0.0  # type: ignore[arg-type, operator]


def _texts(entry: object) -> dict[str, str]:
    return {str(kind): text for kind, text in _dict(_dict(entry).get("data")).items() if type(text) is str}


def _error(value: object) -> tuple[str, str, str] | None:
    for entry in _list(value)[:1]:
        fields = _dict(entry)
        lines = [line for line in _list(fields.get("traceback"))[:_MAX_LINES] if type(line) is str]
        return str(fields.get("ename"))[:100], str(fields.get("evalue")), "".join(lines)
    return None


def _figure(data: Mapping[str, str]) -> Figure:
    try:
        png = base64.b64decode(data["image/png"], validate=True) if "image/png" in data else None
    except ValueError:
        png = None
    return Figure(data.get("text/plain", "figure"), png, data.get("image/svg+xml"))


def _files(value: object) -> dict[str, bytes]:
    try:
        return {name: base64.b64decode(text) for name, text in _dict(value).items()}
    except (ValueError, TypeError):
        return {}
