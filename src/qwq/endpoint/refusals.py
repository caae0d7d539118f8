"""What a refusal (a status of 400 and more) says about the length of a request. Everything else is
a failure.

A request is too long for the context only where the server says so with the context's length, or
with a code made for it (OpenAI's `context_length_exceeded`, llama.cpp's
`exceed_context_size_error`). "Context" alone proves nothing: chat templates have context variables,
and a template's error is no answer of the model. The texts of the servers that were read for the
patterns below are in tests/unit/endpoint/test_endpoint_refusals.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

CONTEXT_CODES = {"context_length_exceeded", "exceed_context_size_error"}
_N = r"(?P<n>\d[\d,]*)"
_CONTEXT = (
    rf"maximum (?:context|prompt) length (?:is|of) {_N}",  # OpenAI, vLLM, DeepSeek, OpenRouter, SGLang, xAI
    rf"maximum model length of {_N}",  # vLLM's engine
    rf"context length \({_N} tokens\)",  # SGLang, Together
    rf"\(context length {_N}\)",  # vLLM before 0.6
    rf"available context size \({_N} tokens\)",  # llama.cpp
    rf"exceed context window of {_N}",  # llama-cpp-python
    rf"exceeds the maximum allowed (?:input )?length (?:\(|of ){_N} tokens",  # SGLang's scheduler
    rf"too large for model with {_N} maximum context length",  # Mistral
    rf"max_new_tokens`? must be <= {_N}",  # TGI: inputs and answer together
    rf"`inputs` must have less than {_N} tokens",  # TGI: inputs alone
    rf"prompt is too long: [\d,]+ tokens > {_N} maximum",  # Anthropic and proxies to it
    rf"Range of input length should be \[\d+, {_N}\]",  # DashScope
    rf"exceed the configured limit of {_N} tokens",  # OpenAI since 2025
    rf"the model's context is {_N}",  # qwq serve
    rf"key/value cache holds {_N}",  # qwq serve
)
# A prompt of "at least" or "about" so many tokens is no count.
_PROMPT = (
    rf"\({_N} in the messages",  # OpenAI, vLLM, DeepSeek
    rf"request has {_N} input tokens",  # vLLM
    rf"prompt contains {_N}(?: input)? tokens",  # vLLM, Mistral
    rf"{_N} tokens from the input messages",  # SGLang
    rf"messages resulted in {_N} tokens",  # OpenAI
    rf"input \({_N} tokens\)",  # SGLang, Together
    rf"request \({_N} tokens\)",  # llama.cpp
    rf"Requested tokens \({_N}\)",  # llama-cpp-python
    rf"length {_N}\) is (?:too long|longer)",  # vLLM
    rf"Input length \(?{_N}",  # SGLang's scheduler
    rf"Given: {_N} `inputs` tokens",  # TGI
    rf"too long: {_N} tokens >",  # Anthropic
    rf"request contains {_N} tokens",  # xAI
    rf"the prompt has {_N} tokens",  # qwq serve
)
_MAX_OUTPUT = (
    rf"supports at most {_N} completion tokens",  # OpenAI, SGLang
    rf"range of max_(?:completion_)?tokens (?:is|should be) \[\d+, {_N}\]",  # DeepSeek, DashScope
    rf"max_(?:completion_)?tokens`? must be less than or equal to `?{_N}",  # Groq
    rf"max_(?:completion_)?tokens`?[^.]{{0,80}}expected a value <= {_N}",  # Volcano Engine
)
_RENAMED = re.compile(r"use\W+max_completion_tokens", re.IGNORECASE)  # OpenAI's o models


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What a refusal says about lengths, in tokens; all None or False where it is about something
    else.

    `context`: prompt and answer together do not fit, or the prompt alone. `prompt`: the prompt's
    length, where it is counted. `max_output`: the longest answer that may be asked for. `renamed`:
    the limit is to be called `max_completion_tokens`.
    """

    full: bool = False
    context: int | None = None
    prompt: int | None = None
    max_output: int | None = None
    renamed: bool = False

    @property
    def room(self) -> int | None:
        """Tokens that the context leaves to the answer; None where that is not said."""
        return None if self.context is None or self.prompt is None else self.context - self.prompt


def limits_of(text: str) -> RequestLimits:
    """Read the body of a refusal, JSON or not."""
    error = error_of(text)
    said = message_of(text)
    if (max_output := _first(_MAX_OUTPUT, said)) is not None:
        return RequestLimits(max_output=max_output)
    if _RENAMED.search(said):
        return RequestLimits(renamed=True)
    context = _first(_CONTEXT, said)
    if context is None and not CONTEXT_CODES & {str(error.get("code")), str(error.get("type"))}:
        return RequestLimits()
    counts = [error.get(k) if type(error.get(k)) is int else None for k in ("n_ctx", "n_prompt_tokens")]  # llama.cpp
    return RequestLimits(True, counts[0] or context, counts[1] or _first(_PROMPT, said))


def error_of(text: str) -> dict[str, Any]:
    """The `error` object of a body in OpenAI's shape, or the body itself (vLLM before 0.8); {} if
    it is no object.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    error = data.get("error", data) if isinstance(data, dict) else {}
    return error if isinstance(error, dict) else {"message": error}


def message_of(text: str) -> str:
    """What a body says in words, on one line: its error's message, or the whole text."""
    said = error_of(text).get("message")
    return " ".join((said if isinstance(said, str) and said.strip() else text).split())


def _first(patterns: Iterable[str], text: str) -> int | None:
    for pattern in patterns:
        if match := re.search(pattern, text, re.IGNORECASE):
            return int(match["n"].replace(",", ""))
    return None
