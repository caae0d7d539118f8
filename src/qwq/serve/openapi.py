"""The OpenAPI document: the errors that every path can answer, and that there is no 422 here."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel

from qwq.serve.fields import ANY_ID, ANY_KEY
from qwq.serve.prompt import RESERVED


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
    403: "This server does not allow it; the message names the option that would.",
    404: "Nothing of this name is here.",
    413: "The request is too large.",
    429: "The queue is full; Retry-After says when to ask again.",
    500: "The server failed.",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": words, "model": ErrorAnswer} for status, words in WORDS.items()
}


class AnthropicDetail(BaseModel):
    type: str
    message: str


class AnthropicAnswer(BaseModel):
    """An error, as Anthropic's API words it."""

    type: Literal["error"]
    error: AnthropicDetail


ANTHROPIC_RESPONSES: dict[int | str, dict[str, Any]] = {
    s: {"description": words, "model": AnthropicAnswer} for s, words in WORDS.items()
}
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}, "text/event-stream": {}}}}


def up_to(largest: int) -> str:
    """A pattern of the numbers 0 to `largest`, written without leading zeros."""
    digits = str(largest)
    shorter = [f"[1-9][0-9]{{{n}}}" for n in range(1, len(digits) - 1)]
    last = len(digits) - 1
    below = []
    for i, d in enumerate(digits):
        low = 1 if i == 0 and last else 0
        if int(d) > low:
            below.append(f"{digits[:i]}[{low}-{int(d) - 1}][0-9]{{{last - i}}}")
    return "^(" + "|".join([*(["[0-9]"] if last else []), *shorter, *below, digits]) + ")$"


def describe(app: FastAPI, *, vocab_size: int, variables: frozenset[str], lenient: bool, infill: bool) -> None:
    """The document with what depends on the model: its token ids, and what its chat template reads.

    FastAPI documents its own validation answer, which `errors.install` replaces by a 400.
    """
    make = app.openapi
    told: dict[str, Any] = {"additionalProperties": False, "type": "object"}
    told["properties"] = {name: {} for name in sorted(variables - RESERVED)} | {"enable_thinking": {}}

    def fit(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("exclusiveMaximum") == ANY_ID:
                node["exclusiveMaximum"] = vocab_size
            if ANY_KEY in node.get("patternProperties", {}):
                node["patternProperties"] = {up_to(vocab_size - 1): node["patternProperties"][ANY_KEY]}
                node["additionalProperties"] = False
            if node.get("propertyNames", {}).get("pattern") == ANY_KEY:
                node["propertyNames"]["pattern"] = up_to(vocab_size - 1)
            if (
                node.get("additionalProperties") is False
                and "title" in node
                and node is not told
                and "patternProperties" not in node
            ):
                node["additionalProperties"] = lenient or {"type": "null"}
            if not infill and "suffix" in node:
                node["suffix"] = {"enum": ["", None]}
            if "chat_template_kwargs" in node:
                node["chat_template_kwargs"] = {"anyOf": [told, {"type": "null"}]}
            for value in node.values():
                fit(value)
        elif isinstance(node, list):
            for value in node:
                fit(value)

    def openapi() -> dict[str, Any]:
        document = make()
        for path in document["paths"].values():
            for operation in path.values():
                operation.get("responses", {}).pop("422", None)
        fit(document["components"]["schemas"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]
