"""The requests of OpenAI's API that this server understands, field for field.

A field that is accepted works. Advisory fields, which cannot change the output, are accepted and do
nothing (`ADVISORY`). Null says nothing, in any field. Fields that are known but not implemented are
accepted at their default, which is what happens here, and refused at any other value. Everything
else is refused with the field's name: a caller learns that it has no effect here, instead of
wondering; a server with `--ignore-unknown-fields` says it in its log alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from qwq.serve.fields import (
    CHOICE_NEEDS_TOOLS,
    SOME,
    TOP_NEEDS_LOGPROBS,
    WHOLE,
    ZERO_NEEDS_ECHO,
    Effort,
    OnlyFalse,
    OnlyNull,
    OnlyOne,
    StopString,
    Strict,
    TokenId,
    TokenKey,
    only,
)
from qwq.serve.schema_forms import Formed
from qwq.serve.schema_habits import Habits, ReasoningSwitch
from qwq.serve.schema_messages import AllowedTools, ChatMessage, NamedTool, TemplateFields, Tool

ADVISORY = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "prediction",
    "request_id",
    "cache_salt",
    "cache_prompt",
    "id_slot",
    "keep_alive",
    "rid",
    "user_id",
    "session_id",
    "guided_decoding_backend",
)


OnlyMedium = Annotated[str, only("medium"), WithJsonSchema({"const": "medium"})]


class Sampling(Habits):
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
    user: str | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    request_id: str | None = None
    cache_salt: str | None = None


class StreamOptions(Strict):
    """`include_usage`: a last event with the counts.

    `continuous_usage_stats`: counts in every event.
    """

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class Common(Sampling, Formed):
    """What chat and text completions share."""

    max_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    n: Annotated[int, Field(ge=1, le=128), WHOLE] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: OnlyFalse | None = None
    best_of: OnlyOne | None = None
    prompt_logprobs: OnlyNull = None


class CompletionRequest(Common):
    """`/v1/completions`: raw text or token ids."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"allOf": [ZERO_NEEDS_ECHO]})

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=256)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=256)]
    )
    max_tokens: Annotated[int, Field(ge=0), WHOLE] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    echo: bool | None = None
    suffix: str | None = None
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
    tool_choice: (
        Literal["none", "auto", "required", "any"]
        | Annotated[NamedTool | AllowedTools, Field(discriminator="type")]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    include_reasoning: bool | None = None
    echo: OnlyFalse | None = None
    prediction: dict[str, Any] | None = None
    modalities: list[Literal["text"]] | None = None
    verbosity: OnlyMedium | None = None
    reasoning: ReasoningSwitch | None = None
    add_special_tokens: OnlyFalse | None = None
    audio: OnlyNull = None
    functions: OnlyNull = None
    function_call: OnlyNull = None
    web_search_options: OnlyNull = None


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
