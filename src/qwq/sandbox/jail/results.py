"""What a run in the jail leaves: records on the result channel, flushed streams, an exit code."""

# ruff: noqa: BLE001 (whatever a program raises is a result)

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

RESULT_FD = 3


def record(fields: dict[str, Any]) -> None:
    data = json.dumps(fields).encode() + b"\n"
    while data:
        data = data[os.write(RESULT_FD, data) :]


def flush(*, tell: bool = True) -> int:
    """0, or 120 if buffered output could not be written; then standard error says why, as CPython
    does at its end. Closed and absent streams are passed over.
    """
    code = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except Exception as error:
            code = 120
            if not tell:
                continue
            with contextlib.suppress(Exception):
                print(f"Exception ignored in: {stream!r}\n{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return code


def exit_code_of(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return int.__index__(error.code) & 0xFF
    print(error.code, file=sys.stderr)
    return 1
