"""Anthropic's own client, unmodified: messages, streams, thinking, tools with a second turn,
counts.
"""

from __future__ import annotations

import pytest

anthropic = pytest.importorskip("anthropic")

TOOL = {
    "name": "add",
    "description": "Adds.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}
THINKING = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture
def client(base_url: str):
    return anthropic.Anthropic(base_url=base_url.removesuffix("/v1"), api_key="any")


def test_a_message_and_its_count(client) -> None:
    messages = [{"role": "user", "content": "hello"}]
    made = client.messages.create(model="scripted", max_tokens=200, messages=messages, system="be brief")
    assert made.content[0].text == "Hello, wörld!" and made.stop_reason == "end_turn"
    counted = client.messages.count_tokens(model="scripted", messages=messages, system="be brief")
    assert counted.input_tokens == made.usage.input_tokens + made.usage.cache_read_input_tokens


def test_a_stream_with_thinking(client) -> None:
    with client.messages.stream(
        model="scripted", max_tokens=2000, thinking=THINKING, messages=[{"role": "user", "content": "hello"}]
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert (
        text == "Hello, wörld!"
        and [b.type for b in final.content] == ["thinking", "text"]
        and final.content[0].thinking == "so it is"
        and final.content[0].signature
    )


def test_tools_and_the_second_turn(client) -> None:
    messages = [{"role": "user", "content": "add 3 and 4"}]
    first = client.messages.create(
        model="scripted", max_tokens=2000, thinking=THINKING, messages=messages, tools=[TOOL]
    )
    use = next(b for b in first.content if b.type == "tool_use")
    assert first.stop_reason == "tool_use" and use.name == "add" and use.input == {"a": 3, "b": 4}
    messages += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "7"}]},
    ]
    assert (
        client.messages.create(model="scripted", max_tokens=200, messages=messages, tools=[TOOL]).content[-1].text
        == "The sum is 7."
    )


def test_models_and_errors(client) -> None:
    assert client.models.list().data[0].id == "scripted"
    with pytest.raises(anthropic.NotFoundError, match="claude-x"):
        client.messages.create(model="claude-x", max_tokens=20, messages=[{"role": "user", "content": "x"}])
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        client.messages.create(model="scripted", max_tokens=0, messages=[{"role": "user", "content": "x"}])
