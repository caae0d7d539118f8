"""The OpenAPI document: the errors that every path can answer, and that there is no 422 here."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Every error, as OpenAI's API words it."""

    error: ErrorDetail


WORDS = {
    400: "The request cannot be met; `param` names the field.",
    401: "No valid API key.",
    404: "Nothing of this name is here.",
    413: "The request is too large.",
    429: "The queue is full; Retry-After says when to ask again.",
    500: "The server failed.",
}
RESPONSES: dict[int | str, dict[str, Any]] = {status: {"description": words, "model": ErrorAnswer} for status, words in WORDS.items()}
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}, "text/event-stream": {}}}}


def describe(app: FastAPI) -> None:
    """FastAPI documents its own validation answer, which `errors.install` replaces by a 400."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        for path in document["paths"].values():
            for operation in path.values():
                operation.get("responses", {}).pop("422", None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
