"""Errors as OpenAI's API words them: {"error": {"message", "type", "param", "code"}}; under
Anthropic's and Ollama's paths as theirs do.

400 for a request that cannot be met, with the field at fault; 401 without a valid key; 404 for
another model; 413 for a body that is too large; 429 where the queue is full; 500 where our
machinery failed, without a word about where on this machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from qwq.errors import CapacityError, InfraError, QwqError, UsageError

INVALID = "invalid_request_error"
ANTHROPIC = {
    400: INVALID,
    401: "authentication_error",
    404: "not_found_error",
    405: INVALID,
    413: "request_too_large",
    429: "rate_limit_error",
}
OLLAMA = (
    "chat",
    "generate",
    "tags",
    "show",
    "ps",
    "version",
    "embed",
    "embeddings",
    "pull",
    "push",
    "create",
    "copy",
    "delete",
    "blobs/.*",
)
# What programs ask of a server by a well-known path, and this one has not.
ABSENT = dict.fromkeys(
    ("embeddings", "embed", "rerank", "score", "pooling"),
    "this server writes text and makes no embeddings or scores of texts: "
    "use a server with an embedding model beside it",
) | dict.fromkeys(
    ("audio/", "images/", "moderations"), "this server reads and writes text only: no audio, images or moderation"
)


class RequestRefused(Exception):
    """A request that cannot be met, with the field at fault."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, kind: str = INVALID, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.kind, self.code = message, param, status, kind, code


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def anthropic_error(status: int, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": ANTHROPIC.get(status, "api_error"), "message": message}}


def error_response(
    status: int, message: str, kind: str, param: str | None = None, code: str | None = None, *, path: str = ""
) -> Response:
    """An error in the words of the API that `path` belongs to: OpenAI's, Anthropic's or
    Ollama's.
    """
    headers = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(status)
    made = error_body(message, kind, param, code)
    if re.search(r"/v1/messages(/|$)", path):
        made = anthropic_error(status, message)
    elif re.search(rf"/api/({'|'.join(OLLAMA)})$", path):
        made = {"error": message}
    # Escaped, since a message may quote half a surrogate pair.
    body = json.dumps(made).encode()
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def as_refused(error: QwqError) -> RequestRefused:
    """What a client is told of an error of ours."""
    if isinstance(error, CapacityError):
        return RequestRefused(str(error), code="context_length_exceeded")
    if isinstance(error, UsageError):
        return RequestRefused(str(error))
    return RequestRefused(
        str(error) if isinstance(error, InfraError) else "the server failed", status=500, kind="server_error"
    )


def install(app: FastAPI) -> None:
    """Make every error of the application speak so."""

    @app.exception_handler(RequestRefused)
    async def refused(request: Request, error: RequestRefused) -> Response:
        return error_response(error.status, error.message, error.kind, error.param, error.code, path=request.url.path)

    @app.exception_handler(QwqError)
    async def failed(request: Request, error: QwqError) -> Response:
        return await refused(request, as_refused(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return error_response(
            400, *(_unread_body(request, error.errors()) or first_fault(error.errors())), path=request.url.path
        )

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # FastAPI's, where the body could not be decoded
            unread = _unread_body(request, [{"type": "json_invalid", "loc": ("body",)}])
            return error_response(
                400, *(unread or ("the body is not text in UTF-8: encode it so", INVALID, None)), path=request.url.path
            )
        absent = next(
            (words for name, words in ABSENT.items() if f"/{name}" in request.url.path), f"no {request.url.path} here"
        )
        message = {404: absent, 405: f"{request.url.path} does not take {request.method}"}.get(
            error.status_code, str(error.detail)
        )
        out = error_response(error.status_code, message, INVALID, path=request.url.path)
        out.headers.update(error.headers or {})
        if error.status_code == 405:
            out.headers["allow"] = ", ".join(sorted(_methods(app, request)))
        return out

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return error_response(500, "the server failed; its log says how", "server_error", path=request.url.path)


def _unread_body(request: Request, faults: Sequence[Any]) -> tuple[str, str, None] | None:
    """(message, type, param) where a body could not be read as JSON for the way it was sent."""
    if faults[0]["type"] != "json_invalid" and tuple(faults[0]["loc"]) != ("body",):
        return None
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        return (
            f"the body is compressed (Content-Encoding: {encoding[:40]}), which is not read here: send it as it is",
            INVALID,
            None,
        )
    kind = request.headers.get("content-type", "")
    if not re.match(r"application/([\w.-]+\+)?json", kind.strip(), re.IGNORECASE):
        came = f"it came as {kind[:60]}" if kind else "it came without one"
        return f"the body is JSON and needs the header Content-Type: application/json ({came})", INVALID, None
    return None


def _methods(app: FastAPI, request: Request) -> set[str]:
    """What a path takes, over all routes that have it."""
    routes = [r for r in app.routes if isinstance(r, Route) and r.matches(request.scope)[0] is not Match.NONE]
    return {m for r in routes for m in r.methods or ()}


def _fields(location: Sequence[str | int]) -> tuple[list[str], bool]:
    """The fields that a location names, and whether it names nothing but fields.

    It also names types and union members; a caller knows fields only.
    """
    place = [str(p) for p in location if p not in ("body", "query", "path")]
    known: list[str] = []
    for before, p in zip(["", *place], place, strict=False):
        if before in ("response_format", "format") and p in ("text", "json_object", "json_schema"):
            continue
        if "[" in p or "-" in p or p in ("str", "int", "float", "bool", "dict", "list") or p[:1].isupper():
            return known, False
        known.append(p)
    return known, True


def _field_of(location: Sequence[str | int]) -> str | None:
    """The field that a location names."""
    return ".".join(_fields(location)[0]) or None


def _unknown_field(location: Sequence[str | int]) -> str | None:
    """The place of a field that no schema has, by the name that the client gave it, whatever that
    is.
    """
    known, whole = _fields(location[:-1])
    return ".".join([*known, str(location[-1])[:80] or '""'] if whole else known) or None


def fault_words(error: Mapping[str, Any]) -> str:
    """What pydantic says of a field, to be put behind its name; values and patterns stay as they
    are.
    """
    said = str(error["msg"])
    return said[:1].lower() + said[1:]


def first_fault(errors: Any) -> tuple[str, str, str | None]:
    """(message, type, param) of the first thing that is wrong with a body."""
    # Where a field may be of several types, each has its complaint; one that is not about the type
    # knows more.
    field = list(errors[0]["loc"][:2])
    first = next((e for e in errors if list(e["loc"][:2]) == field and not e["type"].endswith("_type")), errors[0])
    if first["type"] == "json_invalid":
        return "the body is not JSON", INVALID, None
    if tuple(first["loc"]) == ("body",):
        return "the body must be a JSON object with the request's fields", INVALID, None
    if first["type"] == "union_tag_invalid" and "content" in first["loc"]:
        where = ".".join(str(p) for p in first["loc"][1 : first["loc"].index("content") + 1] if "[" not in str(p))
        tag, allowed = str(first["ctx"]["tag"])[:40], first["ctx"]["expected_tags"]
        words = f"a part of type {tag!r} is not allowed here: this model reads text only, in parts of type {allowed}"
        return f"{where}: {words}", INVALID, where
    param = _field_of(first["loc"])
    if first["type"] == "extra_forbidden":
        param = _unknown_field(first["loc"])
        return (
            f"{param or 'request'}: is not implemented here: leave it out, or serve with --ignore-unknown-fields",
            INVALID,
            param,
        )
    words = first["msg"].removeprefix("Value error, ") if first["type"] == "value_error" else fault_words(first)
    return f"{param or 'request'}: {words[:300]}", INVALID, param
