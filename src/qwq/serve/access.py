"""The access log: one JSON line for each request, when its answer has ended. Neither queries nor
bodies are written, nor headers but one.
"""

from __future__ import annotations

import datetime
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from qwq.errors import ConfigError
from qwq.serve.guards import path_of


class AccessLog:
    """ASGI middleware. `target` is a file, which lines are added to, or - for standard output.
    ConfigError where it cannot be written.
    """

    def __init__(self, app: Any, target: str) -> None:
        self.app, self.path = app, None if target == "-" else Path(target).expanduser()
        try:
            self._write(b"")
        except OSError as error:
            raise ConfigError(
                f"--access-log {target}: {error.strerror or error}: give a file in a folder that is there"
            ) from None

    def _write(self, line: bytes) -> None:
        """The file is opened for each line, so a rotated one is created again."""
        if self.path is None:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        else:
            with self.path.open("ab") as out:
                out.write(line)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        arrived, started = datetime.datetime.now(datetime.UTC), time.monotonic()
        status, size, ended, gone = 0, 0, False, False

        async def noted(message: Any) -> None:
            nonlocal status, size, ended
            status = message.get("status", status)
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            size += len(message.get("body", b""))
            await send(message)

        async def heard() -> Any:
            nonlocal gone
            message = await receive()
            gone = gone or (message["type"] == "http.disconnect" and not ended)
            return message

        try:
            await self.app(scope, heard, noted)
        finally:
            agent = dict(scope["headers"]).get(b"user-agent", b"").decode("latin-1")
            line = {
                "time": arrived.isoformat(timespec="milliseconds"),
                "client": (scope.get("client") or [None])[0],
                "method": scope["method"],
                "path": path_of(scope),
                "status": status,
                "bytes": size,
                "seconds": round(time.monotonic() - started, 4),
                "gone": gone,
                "user_agent": agent[:200],
            }
            self._write(orjson.dumps(line) + b"\n")
