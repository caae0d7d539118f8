"""Ollama's own client, unmodified: chat, stream, thinking, tools with a second turn, formats,
generate, list, show.
"""

from __future__ import annotations

import json

import pytest

ollama = pytest.importorskip("ollama")


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@pytest.fixture
def client(base_url: str):
    return ollama.Client(host=base_url.removesuffix("/v1"))


def test_chat_and_stream(client) -> None:
    messages = [{"role": "user", "content": "hello"}]
    made = client.chat(model="scripted", messages=messages)
    assert (
        made.message.content == "Hello, wörld!"
        and made.message.thinking == "so it is"
        and made.done_reason == "stop"
        and made.eval_count > 0
    )
    parts = list(client.chat(model="scripted", messages=messages, stream=True, think=True))
    assert (
        "".join(p.message.content or "" for p in parts) == "Hello, wörld!"
        and "".join(p.message.thinking or "" for p in parts) == "so it is"
        and parts[-1].done
    )


def test_tools_and_the_second_turn(client) -> None:
    messages: list = [{"role": "user", "content": "add 3 and 4"}]
    first = client.chat(model="scripted", messages=messages, tools=[add]).message
    (call,) = first.tool_calls
    assert (call.function.name, dict(call.function.arguments)) == ("add", {"a": 3, "b": 4})
    messages += [first, {"role": "tool", "tool_name": "add", "content": "7"}]
    assert client.chat(model="scripted", messages=messages, tools=[add]).message.content == "The sum is 7."


def test_formats_generate_and_what_is_served(client) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "size": {"type": "integer"}},
        "required": ["city", "size"],
    }
    made = client.chat(model="scripted", messages=[{"role": "user", "content": "json"}], format=schema)
    assert json.loads(made.message.content) == {"city": "Paris", "size": 3}
    assert client.generate(model="scripted", prompt="hello", options={"temperature": 0}).response == "Hello, wörld!"
    assert (
        client.list().models[0].model == "scripted"
        and "tools" in client.show("scripted").capabilities
        and client.ps().models[0].model == "scripted"
    )
    with pytest.raises(ollama.ResponseError, match="not served here"):
        client.chat(model="llama3", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(ollama.ResponseError, match="no embeddings"):
        client.embed(model="scripted", input="x")
