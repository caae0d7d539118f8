"""The requests of `/v1/responses`, field for field; see schema.py for what acceptance means."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from qwq.serve.fields import CHOICE_NEEDS_TOOLS, WHOLE, History, OnlyFalse, OnlyNull, Strict
from qwq.serve.schema import OnlyMedium, Sampling, StreamOptions
from qwq.serve.schema_forms import ResponseFormat
from qwq.serve.schema_habits import ReasoningSwitch
from qwq.serve.schema_messages import Content, NamedFunction, TemplateFields

LOGPROBS = "message.output_text.logprobs"


class HistoryItem(History):
    place = "input items"


class InputMessage(HistoryItem):
    """`id`, `status` and `phase` come along where an earlier answer is sent back.

    Calls are items of their own here.
    """

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    tool_calls: None = None


class InputReasoning(HistoryItem):
    type: Literal["reasoning"]
    id: str | None = None
    summary: list[dict[str, Any]] | None = None
    content: list[dict[str, Any]] | None = None
    encrypted_content: None = None
    status: str | None = None


class InputCall(HistoryItem):
    type: Literal["function_call"]
    name: str
    arguments: str
    call_id: str
    id: str | None = None
    status: str | None = None
    namespace: None = None


class InputCallOutput(HistoryItem):
    type: Literal["function_call_output"]
    call_id: str
    output: Content
    id: str | None = None
    status: str | None = None


TOP_NEEDS_INCLUDE: Any = {
    "if": {"required": ["top_logprobs"], "properties": {"top_logprobs": {"type": "integer", "minimum": 1}}},
    "then": {"required": ["include"], "properties": {"include": {"type": "array", "contains": {"const": LOGPROBS}}}},
}
InputItem = InputMessage | InputReasoning | InputCall | InputCallOutput


class FunctionTool(Strict):
    type: Literal["function"]
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: OnlyFalse | None = None


class ResponsesNamedTool(NamedFunction):
    type: Literal["function"]


class ResponsesAllowedTools(Strict):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[ResponsesNamedTool], Field(min_length=1)]


class TextOptions(Strict):
    format: ResponseFormat | None = None
    verbosity: OnlyMedium | None = None


class Reasoning(ReasoningSwitch):
    """`summary`: thinking is given in full, as reasoning text; a summary is not made."""

    generate_summary: Literal["auto"] | None = None


class ResponsesRequest(Sampling, TemplateFields):
    """`/v1/responses`."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"allOf": [CHOICE_NEEDS_TOOLS, TOP_NEEDS_INCLUDE]}
    )

    input: str | Annotated[list[InputItem], Field(min_length=1)]
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: (
        Literal["none", "auto", "required", "any"]
        | Annotated[ResponsesNamedTool | ResponsesAllowedTools, Field(discriminator="type")]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include_reasoning: bool | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    truncation: Literal["disabled", "auto"] | None = None
    background: OnlyFalse | None = None
    max_tool_calls: OnlyNull = None
    conversation: OnlyNull = None
    prompt: OnlyNull = None
    context_management: OnlyNull = None
