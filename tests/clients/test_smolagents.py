"""smolagents: its model class for OpenAI's API: chat, stream, a tool call and a typed answer."""

from __future__ import annotations

import json

import pytest

smolagents = pytest.importorskip("smolagents")


@smolagents.tool
def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: One number.
        b: The other.
    """
    return a + b


def say(text: str) -> list[dict]:
    return [{"role": "user", "content": [{"type": "text", "text": text}]}]


def test_chat_tools_and_types(base_url: str) -> None:
    model = smolagents.OpenAIServerModel(model_id="scripted", api_base=base_url, api_key="none")
    assert model(say("hi")).content == "Hello, wörld!"
    assert "".join(d.content or "" for d in model.generate_stream(say("hi"))) == "Hello, wörld!"
    (call,) = model(say("add 3 and 4"), tools_to_call_from=[add]).tool_calls
    arguments = call.function.arguments
    assert (json.loads(arguments) if isinstance(arguments, str) else arguments) == {"a": 3, "b": 4}
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "size": {"type": "integer"}},
        "required": ["city", "size"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    assert json.loads(model(say("json"), response_format=form).content) == {"city": "Paris", "size": 3}
