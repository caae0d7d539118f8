"""The requests of Ollama's API. As its server does, options that are not known are ignored, and
said once in the log.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from qwq.serve.fields import WHOLE, History, OnlyNull, StopString
from qwq.serve.schema_messages import Tool


class Told(History):
    place = "Ollama's requests"


class OllamaOptions(Told):
    """Those of Ollama's runner options that exist here under some name."""

    place = "Ollama's options"

    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int, Field(ge=-1, le=1 << 31), WHOLE] | None = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repeat_penalty: Annotated[float | None, Field(ge=0.01, le=100)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    seed: Annotated[int, WHOLE] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=64)] | None = None
    num_predict: Annotated[int, Field(ge=-2), WHOLE] | None = None


class OllamaFunction(Told):
    name: str
    arguments: dict[str, Any] | str | None = None


class OllamaCall(Told):
    id: str | None = None
    function: OllamaFunction


class OllamaMessage(Told):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    name: str | None = None
    tool_call_id: str | None = None
    images: list[Any] | None = None


class OllamaRequest(Told):
    model: Annotated[str, Field(min_length=1)]
    stream: bool | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: OllamaOptions | None = None
    keep_alive: str | float | None = None


class OllamaChat(OllamaRequest):
    """`/api/chat`."""

    messages: list[OllamaMessage] | None = None
    tools: list[Tool] | None = None


class OllamaGenerate(OllamaRequest):
    """`/api/generate`."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    context: list[int] | None = None
    suffix: str | None = None
    images: list[Any] | None = None
    template: OnlyNull = None


class OllamaName(Told):
    """Requests that name a model; `name` is the older field."""

    model: str | None = None
    name: str | None = None
