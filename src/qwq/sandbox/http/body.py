"""Requests and refusals of the sandbox server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive

HEARTBEAT_S = 10.0


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"message": message}}, status, headers=dict(headers or {}))


class BodyRefused(Exception):
    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.response = error_response(status, message, headers)


async def read_body(request: Request, form: TypeAdapter[Any], limit_bytes: int) -> Any:
    """The checked body. Raises BodyRefused for one that is too large or does not have the form."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit_bytes:
                raise BodyRefused(413, f"the body is larger than {limit_bytes} bytes: send fewer items at a time")
    except ClientDisconnect:
        raise BodyRefused(400, "the body ended early") from None
    try:
        return form.validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BodyRefused(422, f"{where}: {first['msg']}" if where else first["msg"]) from None


async def gone(receive: Receive) -> None:
    """Returns when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
