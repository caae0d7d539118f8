"""The requests of `/v1/responses`, field for field; see schema.py for what acceptance means."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from qwq.serve.fields import CHOICE_NEEDS_TOOLS, WHOLE, History, OnlyEmpty, OnlyFalse, OnlyNull, Strict
from qwq.serve.schema import OnlyMedium, Sampling, StreamOptions
from qwq.serve.schema_forms import ResponseFormat
from qwq.serve.schema_habits import ReasoningSwitch
from qwq.serve.schema_messages import Content, NamedFunction, TemplateFields

LOGPROBS = "message.output_text.logprobs"
CODE_OUTPUTS = "code_interpreter_call.outputs"


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


class InputCodeCall(HistoryItem):
    """A call that this server ran. `outputs` are there where the request included them."""

    type: Literal["code_interpreter_call"]
    id: str
    code: str | None = None
    container_id: str | None = None
    outputs: list[dict[str, Any]] | None = None
    status: str | None = None


class InputMcpCall(HistoryItem):
    type: Literal["mcp_call"]
    id: str
    name: str
    server_label: str
    arguments: str
    output: str | None = None
    error: str | dict[str, Any] | None = None
    approval_request_id: str | None = None
    status: str | None = None


class InputMcpTools(HistoryItem):
    """The list is asked for again with each request; an earlier one is not shown twice."""

    type: Literal["mcp_list_tools"]
    id: str | None = None
    server_label: str
    tools: list[dict[str, Any]] | None = None
    error: str | dict[str, Any] | None = None


class InputApprovalRequest(HistoryItem):
    type: Literal["mcp_approval_request"]
    id: str
    name: str
    server_label: str
    arguments: str


class InputApproval(HistoryItem):
    type: Literal["mcp_approval_response"]
    approval_request_id: str
    approve: bool
    reason: str | None = None
    id: str | None = None


TOP_NEEDS_INCLUDE: Any = {
    "if": {"required": ["top_logprobs"], "properties": {"top_logprobs": {"type": "integer", "minimum": 1}}},
    "then": {"required": ["include"], "properties": {"include": {"type": "array", "contains": {"const": LOGPROBS}}}},
}
InputItem = (
    InputMessage
    | InputReasoning
    | InputCall
    | InputCallOutput
    | InputCodeCall
    | InputMcpCall
    | InputMcpTools
    | InputApprovalRequest
    | InputApproval
)


class FunctionTool(Strict):
    type: Literal["function"]
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: OnlyFalse | None = None


class AutoContainer(Strict):
    """A Python session of this server's: the one that an earlier call of the conversation used, or
    a fresh one.
    """

    type: Literal["auto"]
    file_ids: OnlyEmpty | None = None
    memory_limit: Literal["1g"] | None = None


class CodeInterpreterTool(Strict):
    """Python in the jail. `container` is the id that an earlier call named, or auto."""

    type: Literal["code_interpreter"]
    container: str | AutoContainer


class ToolFilter(Strict):
    """Tools of an MCP server by name; `read_only` by what the server says of them."""

    tool_names: list[str] | None = None
    read_only: bool | None = None


class ApprovalFilter(Strict):
    always: ToolFilter | None = None
    never: ToolFilter | None = None


class McpTool(Strict):
    """The tools of an MCP server that this server calls (streamable HTTP)."""

    type: Literal["mcp"]
    server_label: Annotated[str, StringConstraints(pattern="^[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*$", max_length=40)]
    server_url: Annotated[str, StringConstraints(pattern="^https?://", max_length=2000)]
    server_description: str | None = None
    allowed_tools: list[str] | ToolFilter | None = None
    require_approval: Literal["always", "never"] | ApprovalFilter | None = None
    headers: dict[str, str] | None = None
    authorization: str | None = None
    connector_id: OnlyNull = None
    defer_loading: OnlyFalse | None = None


HostedTool = CodeInterpreterTool | McpTool


class ResponsesNamedTool(NamedFunction):
    type: Literal["function"]


class ChosenCodeInterpreter(Strict):
    type: Literal["code_interpreter"]


class ChosenMcpTool(Strict):
    type: Literal["mcp"]
    server_label: str
    name: str | None = None


Chosen = Annotated[ResponsesNamedTool | ChosenCodeInterpreter | ChosenMcpTool, Field(discriminator="type")]


class ResponsesAllowedTools(Strict):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[Chosen], Field(min_length=1)]


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
    tools: list[Annotated[FunctionTool | CodeInterpreterTool | McpTool, Field(discriminator="type")]] | None = None
    tool_choice: (
        Literal["none", "auto", "required", "any"]
        | Annotated[
            ResponsesNamedTool | ResponsesAllowedTools | ChosenCodeInterpreter | ChosenMcpTool,
            Field(discriminator="type"),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include_reasoning: bool | None = None
    include: (
        list[Literal["message.output_text.logprobs", "reasoning.encrypted_content", "code_interpreter_call.outputs"]]
        | None
    ) = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    truncation: Literal["disabled", "auto"] | None = None
    background: OnlyFalse | None = None
    max_tool_calls: Annotated[int, Field(ge=1), WHOLE] | None = None
    conversation: OnlyNull = None
    prompt: OnlyNull = None
    context_management: OnlyNull = None
