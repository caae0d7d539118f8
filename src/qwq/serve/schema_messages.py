"""Messages, tools and calls of chats, field for field; see schema.py for what acceptance means."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from qwq.serve.fields import WHOLE, History, OnlyNull, Strict, when

CALLERS_ONLY = when({"tool_calls": {"type": "array"}}, {"role": {"const": "assistant"}}, ["role"])


class Function(Strict):
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class NamedFunction(Strict):
    name: str


class NamedTool(Strict):
    type: Literal["function"]
    function: NamedFunction


class AllowedSet(Strict):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class AllowedTools(Strict):
    """All tools are shown, some may be called."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedSet


class CalledFunction(History):
    name: str
    arguments: str | dict[str, Any] | None = None


class CalledTool(History):
    """`index` comes along where a client has put a message together from a stream."""

    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunction
    index: Annotated[int, Field(ge=0), WHOLE] | None = None


class TextPart(History):
    """Text is all that is understood. `cache_control` is a hint."""

    type: Literal["text", "input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    cache_control: dict[str, Any] | None = None

    @property
    def words(self) -> str:
        return self.text


class RefusalPart(History):
    type: Literal["refusal"]
    refusal: str

    @property
    def words(self) -> str:
        return self.refusal


Content = str | list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]]


class ChatMessage(History):
    """One turn. Thinking of earlier turns is accepted under both of its names."""

    model_config = ConfigDict(extra="ignore", strict=True, json_schema_extra=CALLERS_ONLY)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    function_call: None = None
    audio: None = None
    annotations: list[Any] | None = None


class TemplateFields(Strict):
    """What the chat template is told beside the messages."""

    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    chat_template: OnlyNull = None
