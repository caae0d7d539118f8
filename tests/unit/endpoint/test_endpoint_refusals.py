"""Refusals in the words of real servers: which are about a length, what they say of it, and which
are failures.
"""

from __future__ import annotations

import json

import pytest

from qwq.endpoint.refusals import RequestLimits, limits_of, message_of


def openai(message: str, **more: object) -> str:
    return json.dumps(
        {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **more}}
    )


@pytest.mark.parametrize(
    ("text", "context", "prompt"),
    [
        # OpenAI
        (
            openai(
                "This model's maximum context length is 8192 tokens. However, your messages resulted in 10005 tokens. "
                "Please reduce the length of the messages.",
                code="context_length_exceeded",
            ),
            8192,
            10005,
        ),
        (
            openai(
                "This model's maximum context length is 8192 tokens. However, you requested 8256 tokens (64 in the "
                "messages, 8192 in the completion). Please reduce the length of the messages or completion."
            ),
            8192,
            64,
        ),
        (
            openai(
                "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 509178 tokens. "
                "Please reduce the length of the messages."
            ),
            272000,
            509178,
        ),
        # vLLM: before 0.8 without an `error` object
        (
            json.dumps(
                {
                    "object": "error",
                    "message": "This model's maximum context length is 16384 tokens. However, you requested 122946 "
                    "tokens (112946 in the messages, 10000 in the completion). Please reduce the length "
                    "of the messages or completion.",
                    "type": "BadRequestError",
                    "param": None,
                    "code": 400,
                }
            ),
            16384,
            112946,
        ),
        (
            openai(
                "'max_tokens' or 'max_completion_tokens' is too large: 32768. This model's maximum context length is "
                "4096 tokens and your request has 12 input tokens (32768 > 4096 - 12).",
                type="BadRequestError",
                code=400,
            ),
            4096,
            12,
        ),
        (
            openai(
                "This model's maximum context length is 4096 tokens. However, your request has 5000 input tokens. "
                "Please reduce the length of the input messages."
            ),
            4096,
            5000,
        ),
        (
            openai(
                "This model's maximum context length is 4096 tokens. However, you requested 100 output tokens and your "
                "prompt contains at least 3997 input tokens, for a total of at least 4097 tokens."
            ),
            4096,
            None,
        ),
        (
            openai(
                "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that "
                "`max_model_len` is no smaller than the number of text tokens."
            ),
            4096,
            5000,
        ),
        (
            openai(
                "The prompt (total length 5000) is too long to fit into the model (context length 4096). Make sure "
                "that `max_model_len` is no smaller than the number of text tokens."
            ),
            4096,
            5000,
        ),
        # SGLang
        (openai("The input (85050 tokens) is longer than the model's context length (32768 tokens)."), 32768, 85050),
        (
            openai(
                "Requested token count exceeds the model's maximum context length of 1000 tokens. You requested a "
                "total of 1206 tokens: 6 tokens from the input messages and 1200 tokens for the completion."
            ),
            1000,
            6,
        ),
        (
            openai(
                "Input length (5000 tokens) exceeds the maximum allowed length (4090 tokens). Use a shorter input or "
                "enable --allow-auto-truncate."
            ),
            4090,
            5000,
        ),
        # llama.cpp
        (
            json.dumps(
                {
                    "error": {
                        "code": 400,
                        "message": "request (1407 tokens) exceeds the available context size (256 tokens), try "
                        "increasing it",
                        "type": "exceed_context_size_error",
                        "n_prompt_tokens": 1407,
                        "n_ctx": 256,
                    }
                }
            ),
            256,
            1407,
        ),
        (
            json.dumps(
                {
                    "error": {
                        "code": 400,
                        "message": "the request exceeds the available context size. try increasing the context size or "
                        "enable context shift",
                        "type": "exceed_context_size_error",
                        "n_prompt_tokens": 14429,
                        "n_ctx": 8192,
                    }
                }
            ),
            8192,
            14429,
        ),
        (openai("Requested tokens (516) exceed context window of 512"), 512, 516),
        # qwq serve
        (
            openai(
                "the prompt has 600 tokens, the model's context is 512: shorten it, or raise --max-model-len where the "
                "model allows it",
                code="context_length_exceeded",
            ),
            512,
            600,
        ),
        (
            openai(
                "the prompt has 600 tokens, the key/value cache holds 512: shorten it, or raise --kv-tokens",
                code="context_length_exceeded",
            ),
            512,
            600,
        ),
        # TGI, Mistral, Anthropic, xAI, DashScope, OpenRouter, Groq
        (
            json.dumps(
                {
                    "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 "
                    "`inputs` tokens and 100 `max_new_tokens`",
                    "error_type": "validation",
                }
            ),
            4096,
            5000,
        ),
        (
            json.dumps({"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000"}),
            1024,
            None,
        ),
        (
            openai(
                "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length"
            ),
            32768,
            40000,
        ),
        (openai("prompt is too long: 210000 tokens > 200000 maximum"), 200000, 210000),
        (openai("This model's maximum prompt length is 131072 but the request contains 537812 tokens"), 131072, 537812),
        (openai("<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]"), 30720, None),
        (
            openai(
                "This endpoint's maximum context length is 65,536 tokens. However, you requested about 537812 tokens"
            ),
            65536,
            None,
        ),
        (openai("Please reduce the length of the messages or completion.", code="context_length_exceeded"), None, None),
    ],
)
def test_a_request_that_is_too_long(text: str, context: int | None, prompt: int | None) -> None:
    assert limits_of(text) == RequestLimits(full=True, context=context, prompt=prompt)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        (
            openai(
                "max_tokens is too large: 32768. This model supports at most 16384 completion tokens, whereas you "
                "provided 32768.",
                code="invalid_value",
            ),
            RequestLimits(max_output=16384),
        ),
        (
            openai("max_completion_tokens is too large: 9000.This model supports at most 4096 completion tokens."),
            RequestLimits(max_output=4096),
        ),
        (
            openai("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"),
            RequestLimits(max_output=8192),
        ),
        (openai("Range of max_tokens should be [1, 8192]"), RequestLimits(max_output=8192)),
        (
            openai(
                "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than "
                "the `context_window` for this model"
            ),
            RequestLimits(max_output=8192),
        ),
        (
            openai(
                "The parameter `max_completion_tokens` specified in the request are not valid: integer above maximum "
                "value, expected a value <= 12288, but got 32000 instead."
            ),
            RequestLimits(max_output=12288),
        ),
        (
            openai(
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
                "instead.",
                code="unsupported_parameter",
            ),
            RequestLimits(renamed=True),
        ),
    ],
)
def test_a_limit_that_is_asked_for_in_another_way(text: str, limits: RequestLimits) -> None:
    assert limits_of(text) == limits


@pytest.mark.parametrize(
    "text",
    [
        openai("Jinja error in chat template: context variable 'tools' is undefined"),
        openai("this model is too long retired, use another"),
        openai("temperature and top_p may not both be set"),
        openai("max_tokens must be at least 1, got -186."),
        openai("context_length: Extra inputs are not permitted"),
        openai("1 validation error: messages.0.content: string too long, 1000 characters at most"),
        openai("Jinja template, line 4096: context size error"),
        "<html>400 Bad Request: context deadline exceeded after 4096 ms</html>",
        json.dumps(["maximum"]), json.dumps({"error": None}), "", "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_matter_of_length(text: str) -> None:
    assert limits_of(text) == RequestLimits()


def test_the_message_is_one_line_from_any_shape() -> None:
    assert message_of(openai("a\n  b")) == "a b"
    assert message_of(json.dumps({"error": "plain"})) == "plain"
    assert message_of("<p>\nno JSON</p>") == "<p> no JSON</p>"
    assert message_of(json.dumps({"detail": "x"})) == '{"detail": "x"}'
