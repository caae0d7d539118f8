"""The requests of OpenAI's API that this server understands, field for field.

A field that is accepted works. Advisory fields, which cannot change the output, are accepted and do nothing (`ADVISORY`).
Fields that are known but not implemented are accepted at their default, which is what happens here, and refused at any other
value. Everything else is refused with the field's name: a caller learns that it has no effect here, instead of wondering.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from qwq.serve.fields import (
    CHOICE_NEEDS_TOOLS,
    SOME,
    TOP_NEEDS_LOGPROBS,
    WHOLE,
    Effort,
    OnlyFalse,
    OnlyOne,
    OnlyTrue,
    OnlyZero,
    StopString,
    Strict,
    TokenId,
    TokenKey,
)
from qwq.serve.schema_messages import ChatMessage, NamedTool, TemplateFields, Tool

ADVISORY = (
    "user", "metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
    "prediction", "request_id", "cache_salt",
)  # fmt: skip


class Sampling(Strict):
    """How to sample. None means: the model's own default."""

    model: str | None = None
    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int, Field(ge=-1, le=1 << 31), WHOLE] | None = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    repetition_penalty: Annotated[float | None, Field(ge=0.01, le=100)] = None
    logit_bias: dict[TokenKey, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int, WHOLE] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=64)] | None = None
    stop_token_ids: Annotated[list[TokenId] | None, Field(max_length=64)] = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0), WHOLE] | None = None
    thinking_token_budget: Annotated[int, Field(ge=0), WHOLE] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    request_id: str | None = None
    cache_salt: str | None = None
    priority: OnlyZero | None = None
    skip_special_tokens: OnlyTrue | None = None
    spaces_between_special_tokens: OnlyTrue | None = None
    include_stop_str_in_output: OnlyFalse | None = None
    use_beam_search: OnlyFalse | None = None
    truncate_prompt_tokens: None = None


class StreamOptions(Strict):
    """`include_usage`: a last event with the counts. `continuous_usage_stats`: counts in every event."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


def _one_of(*fields: str) -> dict[str, Any]:
    """For the OpenAPI document: exactly one of the fields is given."""
    null: dict[str, Any] = {"type": "null"}
    return {"oneOf": [{"required": [f], "properties": {g: null if g != f else {"not": null} for g in fields}} for f in fields]}


class JsonSchema(Strict):
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextFormat(Strict):
    type: Literal["text"]


class JsonObjectFormat(Strict):
    """Any object; with llama.cpp's `schema` JSON of that schema."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    type: Literal["json_object"]
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class JsonSchemaFormat(JsonSchema):
    """The schema within `json_schema`, as in chats, or beside the type, as in responses: both are taken in both."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True, json_schema_extra=_one_of("json_schema", "schema"))

    type: Literal["json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _one_schema(self) -> JsonSchemaFormat:
        if (self.json_schema is None) == (self.schema_ is None):
            raise ValueError("needs the schema either in json_schema or beside the type")
        return self

    @property
    def wanted(self) -> dict[str, Any] | None:
        return self.schema_ if self.json_schema is None else self.json_schema.schema_


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


GrammarText = Annotated[str, StringConstraints(min_length=1)]
Choices = Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1, max_length=1024)]


class StructuredOutputs(Strict):
    """vLLM's way to ask for a form: exactly one of the first five."""

    model_config = ConfigDict(
        extra="forbid", strict=True, populate_by_name=True, json_schema_extra=_one_of("json", "regex", "choice", "grammar", "json_object")
    )

    json_: Annotated[dict[str, Any] | GrammarText | None, Field(alias="json")] = None
    regex: GrammarText | None = None
    choice: Choices | None = None
    grammar: GrammarText | None = None
    json_object: OnlyTrue | None = None
    whitespace_pattern: None = None
    structural_tag: None = None
    disable_fallback: OnlyFalse | None = None
    disable_any_whitespace: OnlyFalse | None = None
    disable_additional_properties: OnlyFalse | None = None


class Formed(Strict):
    """The form of an answer, at most one (`forms.form_of`). `guided_*` are vLLM's older names."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | GrammarText | None = None
    guided_regex: GrammarText | None = None
    guided_choice: Choices | None = None
    guided_grammar: GrammarText | None = None


class Common(Sampling, Formed):
    """What chat and text completions share."""

    max_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    n: Annotated[int, Field(ge=1, le=128), WHOLE] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: OnlyFalse | None = None
    best_of: OnlyOne | None = None
    prompt_logprobs: None = None


class CompletionRequest(Common):
    """`/v1/completions`: text or token ids go on as they are."""

    prompt: (
        Annotated[str, StringConstraints(min_length=1)]
        | Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1, max_length=256)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=256)]
    )
    logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    echo: bool | None = None
    suffix: Literal[""] | None = None
    add_special_tokens: bool | None = None


class ChatRequest(Common, TemplateFields):
    """`/v1/chat/completions`."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"allOf": [CHOICE_NEEDS_TOOLS, TOP_NEEDS_LOGPROBS]}
    )

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    include_reasoning: bool | None = None
    echo: OnlyFalse | None = None
    prediction: dict[str, Any] | None = None
    modalities: list[Literal["text"]] | None = None
    verbosity: Literal["medium"] | None = None
    audio: None = None
    functions: None = None
    function_call: None = None
    web_search_options: None = None


class TokenizeRequest(TemplateFields):
    """`/tokenize`: a text, or messages as the chat template writes them."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "oneOf": [
                {"required": ["prompt"], "properties": {"prompt": {"type": "string"}, "messages": {"type": "null"}}},
                {"required": ["messages"], "properties": {"prompt": {"type": "null"}, "messages": SOME}},
            ]
        },
    )

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage] | None, Field(min_length=1)] = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Strict):
    model: str | None = None
    tokens: list[TokenId]
