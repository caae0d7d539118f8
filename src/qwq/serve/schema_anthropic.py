"""The requests of Anthropic's `/v1/messages`, field for field; see schema.py for what acceptance
means.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, WithJsonSchema

from qwq.serve.fields import WHOLE, Effort, History, OnlyEmpty, OnlyNull, StopString, Strict


class ContentBlock(History):
    """A part of a message; clients send `cache_control`, `citations` and more with it."""


class TextBlock(ContentBlock):
    type: Literal["text"]
    text: str


class ThinkingBlock(ContentBlock):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedBlock(ContentBlock):
    """Thinking that only its author can read: nothing is made of it."""

    type: Literal["redacted_thinking"]


class ToolUseBlock(ContentBlock):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class TextSource(ContentBlock):
    type: Literal["text"]
    data: str


class DocumentBlock(ContentBlock):
    """A document of plain text."""

    type: Literal["document"]
    source: TextSource
    title: str | None = None


class ResultBlock(ContentBlock):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[Annotated[TextBlock | DocumentBlock, Field(discriminator="type")]] | None = None
    is_error: bool | None = None


class UserTurn(ContentBlock):
    role: Literal["user", "system"]
    content: str | list[Annotated[TextBlock | ResultBlock | DocumentBlock, Field(discriminator="type")]]


class AssistantTurn(ContentBlock):
    role: Literal["assistant"]
    content: (
        str | list[Annotated[TextBlock | ThinkingBlock | RedactedBlock | ToolUseBlock, Field(discriminator="type")]]
    )


InputTurn = Annotated[UserTurn | AssistantTurn, Field(discriminator="role")]


class CallersTool(History):
    """A tool of the caller's own; Anthropic's tools, which have other types, are not here."""

    place = "tools"

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    type: Annotated[str, WithJsonSchema({"const": "custom"})] | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class AnthropicToolChoice(Strict):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(Strict):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=0), WHOLE] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Strict):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Strict):
    effort: Effort | None = None
    format: OutputFormat | None = None


class CountRequest(Strict):
    """`/v1/messages/count_tokens`."""

    model: str | None = None
    messages: Annotated[list[InputTurn], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: list[CallersTool] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # What cannot change the answer.
    cache_control: dict[str, Any] | None = None
    context_management: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    betas: list[str] | None = None
    # What is not here.
    mcp_servers: OnlyEmpty | None = None
    container: OnlyNull = None


class MessagesRequest(CountRequest):
    """`/v1/messages`."""

    max_tokens: Annotated[int, Field(ge=1), WHOLE]
    stop_sequences: Annotated[list[StopString] | None, Field(max_length=64)] = None
    stream: bool | None = None
    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int, Field(ge=-1, le=1 << 31), WHOLE] | None = None
    seed: Annotated[int, WHOLE] | None = None
