"""litellm, unmodified: answers go back as they came, as an object and as a dictionary, with and
without calls.

Not in `make test-clients`: its releases were tampered with in 2026, so it is installed by hand, in
an environment of its own.
"""

from __future__ import annotations

import pytest

litellm = pytest.importorskip("litellm")

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}


@pytest.mark.parametrize("provider", ["openai/", "hosted_vllm/"])
@pytest.mark.parametrize("dumped", [False, True])
def test_the_second_turn(base_url: str, provider: str, dumped: bool) -> None:
    def ask(messages: list, **more):
        return (
            litellm.completion(model=f"{provider}scripted", api_base=base_url, api_key="x", messages=messages, **more)
            .choices[0]
            .message
        )

    messages: list = [{"role": "user", "content": "hello"}]
    first = ask(messages)
    messages += [first.model_dump() if dumped else first, {"role": "user", "content": "hello again"}]
    assert first.content == ask(messages).content == "Hello, wörld!"
    messages = [{"role": "user", "content": "add 3 and 4"}]
    called = ask(messages, tools=[TOOL])
    messages += [
        called.model_dump() if dumped else called,
        {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "7"},
    ]
    assert ask(messages, tools=[TOOL]).content == "The sum is 7."
