"""The official `openai` client, unmodified, against the server: chat, streams, tools, JSON schemas,
responses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")

import scripted
from pydantic import BaseModel

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": "4}"}}\n</tool_call>'
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"type": "string", "maxLength": 4}},
            "required": ["a", "b"], "additionalProperties": False,
        },
    },
}  # fmt: skip
SAY = {
    "type": "function",
    "function": {"name": "say", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}


def reply(prompt: str) -> str:
    last = prompt.rpartition("<|im_start|>user\n")[2]
    if "tool_response" in last:
        return "it said " + last.partition("response>\n")[2].partition("\n")[0] + "\n</think>\n\nThe sum is 7."
    if "two" in last:
        return f"two calls\n</think>\n\nNow:\n{CALL}\n{CALL}"
    if "add" in last:
        return f"I could write {CALL} here.\n</think>\n\n{CALL}"
    if "json" in last:
        return 'so\n</think>\n\n{"city": "Paris", "size": 3}'
    if "long" in last:
        return "and so on " * 400
    return "so it is\n</think>\n\nHello, wörld 你好!"


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    chat = scripted.chat_format()
    with scripted.served(scripted.opened(chat, scripted.Script(chat, reply))) as url:
        yield url


@pytest.fixture(scope="module")
def client(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as made:
        yield made


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def test_models(client) -> None:
    assert [m.id for m in client.models.list()] == ["scripted", "alias"]
    assert client.models.retrieve("alias").id == "alias"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_chat_and_the_same_streamed(client) -> None:
    whole = client.chat.completions.create(model="scripted", messages=user("hi"))
    message = whole.choices[0].message
    assert message.content == "Hello, wörld 你好!" and message.reasoning_content == message.reasoning == "so it is"
    assert whole.choices[0].finish_reason == "stop" and whole.usage.completion_tokens_details.reasoning_tokens > 0
    assert whole.timings["predicted_n"] == whole.usage.completion_tokens
    chunks = list(
        client.chat.completions.create(
            model="scripted", messages=user("hi"), stream=True, stream_options={"include_usage": True}
        )
    )
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    assert deltas[0].role == "assistant"
    assert "".join(d.content or "" for d in deltas) == message.content
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == message.reasoning
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}
    )
    assert sum(bool(d.content) for d in deltas) > 3, "it came in pieces"


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "add"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_and_its_result(client, choice, stream: bool) -> None:
    messages = user("add 3 and 4")
    if not stream:
        first = client.chat.completions.create(
            model="scripted", messages=messages, tools=[ADD, SAY], tool_choice=choice
        )
        assert first.choices[0].finish_reason == "tool_calls"
        message = first.choices[0].message
        assert CALL in message.reasoning_content, "a call inside a thought is a thought"
    else:
        with client.chat.completions.stream(
            model="scripted", messages=messages, tools=[ADD, SAY], tool_choice=choice
        ) as events:
            kinds = [e.type for e in events]
            message = events.get_final_completion().choices[0].message
        assert kinds.count("tool_calls.function.arguments.delta") > 3
    (call,) = message.tool_calls
    assert (
        call.function.name == "add"
        and json.loads(call.function.arguments) == {"a": 3, "b": "4}"}
        and not message.content
    )
    messages += [
        message.model_dump(exclude_none=True, exclude={"parsed"}),
        {"role": "tool", "tool_call_id": call.id, "content": "7"},
    ]
    messages[1]["tool_calls"] = [
        {k: v for k, v in c.items() if k in ("id", "type")}
        | {"function": {"name": "add", "arguments": c["function"]["arguments"]}}
        for c in messages[1]["tool_calls"]
    ]
    second = client.chat.completions.create(model="scripted", messages=messages, tools=[ADD])
    assert (
        second.choices[0].message.content == "The sum is 7."
        and second.choices[0].message.reasoning_content == "it said 7"
    )


def test_parallel_calls_and_only_one(client) -> None:
    both = client.chat.completions.create(model="scripted", messages=user("two"), tools=[ADD]).choices[0].message
    assert len(both.tool_calls) == 2 and both.content == "Now:" and len({c.id for c in both.tool_calls}) == 2
    one = client.chat.completions.create(model="scripted", messages=user("two"), tools=[ADD], parallel_tool_calls=False)
    assert len(one.choices[0].message.tool_calls) == 1 and one.choices[0].finish_reason == "tool_calls"
    assert one.usage.completion_tokens < 100
    streamed = client.chat.completions.create(
        model="scripted", messages=user("two"), tools=[ADD], parallel_tool_calls=False, stream=True
    )
    calls = [c for chunk in streamed for c in chunk.choices[0].delta.tool_calls or []]
    assert {c.index for c in calls} == {0}


def test_tool_choice_none_leaves_the_text(client) -> None:
    message = (
        client.chat.completions.create(model="scripted", messages=user("add"), tools=[ADD], tool_choice="none")
        .choices[0]
        .message
    )
    assert message.tool_calls is None and message.content == CALL


def test_required_without_the_models_will(client) -> None:
    """The model wants to say hello; the grammar makes it call, after its thinking."""
    message = (
        client.chat.completions.create(
            model="scripted", messages=user("hi"), tools=[ADD, SAY], tool_choice="required", max_tokens=200
        )
        .choices[0]
        .message
    )
    assert message.reasoning_content == "so it is" and not message.content
    for call in message.tool_calls:
        assert call.function.name in ("add", "say") and isinstance(json.loads(call.function.arguments), dict)
    named = {"type": "function", "function": {"name": "say"}}
    (call,) = (
        client.chat.completions.create(model="scripted", messages=user("hi"), tools=[ADD, SAY], tool_choice=named)
        .choices[0]
        .message.tool_calls
    )
    assert call.function.name == "say" and call.function.arguments == "{}"


class City(BaseModel):
    city: str
    size: int


def test_a_json_schema_is_armed_behind_the_thinking(client) -> None:
    parsed = client.chat.completions.parse(model="scripted", messages=user("json"), response_format=City)
    assert (
        parsed.choices[0].message.parsed == City(city="Paris", size=3)
        and parsed.choices[0].message.reasoning_content == "so"
    )
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": schema, "strict": True}}
    forced = client.chat.completions.create(model="scripted", messages=user("hi"), response_format=form)
    assert json.loads(forced.choices[0].message.content) in ({"ok": True}, {"ok": False})
    assert forced.choices[0].message.reasoning_content == "so it is" and forced.choices[0].finish_reason == "stop"
    text = "".join(
        c.choices[0].delta.content or ""
        for c in client.chat.completions.create(
            model="scripted", messages=user("hi"), response_format=form, stream=True
        )
    )
    assert text == forced.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="cannot be enforced"):
        client.chat.completions.create(
            model="scripted",
            messages=user("hi"),
            response_format={"type": "json_schema", "json_schema": {"name": "f", "schema": {"type": "wibble"}}},
        )
    anything = client.chat.completions.create(
        model="scripted", messages=user("json"), response_format={"type": "json_object"}
    )
    assert json.loads(anything.choices[0].message.content) == {"city": "Paris", "size": 3}


def test_include_reasoning_false(client) -> None:
    whole = client.chat.completions.create(
        model="scripted", messages=user("hi"), extra_body={"include_reasoning": False}
    )
    assert (
        whole.choices[0].message.reasoning_content is None
        and whole.usage.completion_tokens_details.reasoning_tokens > 0
    )
    stream = client.chat.completions.create(
        model="scripted", messages=user("hi"), stream=True, extra_body={"include_reasoning": False}
    )
    assert not any(getattr(c.choices[0].delta, "reasoning", None) for c in stream)


def test_effort_and_budget(client) -> None:
    for more in ({"reasoning_effort": "none"}, {"extra_body": {"thinking_token_budget": 0}}):
        done = client.chat.completions.create(model="scripted", messages=user("long"), max_tokens=60, **more)
        assert done.usage.completion_tokens_details.reasoning_tokens == 0 and done.choices[0].message.content
    cut = client.chat.completions.create(
        model="scripted", messages=user("long"), max_tokens=200, extra_body={"thinking_token_budget": 20}
    )
    assert cut.usage.completion_tokens_details.reasoning_tokens <= 20


def test_n_choices_in_a_stream(client) -> None:
    texts: dict[int, str] = {}
    for chunk in client.chat.completions.create(model="scripted", messages=user("hi"), n=3, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    assert texts == dict.fromkeys(range(3), "Hello, wörld 你好!")


def test_logprobs_of_a_stream_are_those_of_the_whole(client) -> None:
    whole = client.chat.completions.create(model="scripted", messages=user("hi"), logprobs=True, top_logprobs=2)
    stream = client.chat.completions.create(
        model="scripted", messages=user("hi"), logprobs=True, top_logprobs=2, stream=True
    )
    streamed = [t for c in stream for t in (c.choices[0].logprobs.content if c.choices[0].logprobs else [])]
    assert streamed == whole.choices[0].logprobs.content and len(streamed) == whole.usage.completion_tokens


def test_completions_streamed(client) -> None:
    whole = client.completions.create(model="scripted", prompt=["what is", "so"], max_tokens=12, logprobs=1, n=2)
    texts: dict[int, str] = {}
    tokens: dict[int, list[str]] = {}
    for chunk in client.completions.create(
        model="scripted", prompt=["what is", "so"], max_tokens=12, logprobs=1, n=2, stream=True
    ):
        for c in chunk.choices:
            texts[c.index] = texts.get(c.index, "") + c.text
            tokens.setdefault(c.index, []).extend(c.logprobs.tokens)
    assert texts == {c.index: c.text for c in whole.choices} and tokens == {
        c.index: c.logprobs.tokens for c in whole.choices
    }
    echoed = client.completions.create(model="scripted", prompt="what is", max_tokens=2, echo=True, logprobs=1).choices[
        0
    ]
    assert (
        echoed.text.startswith("what is")
        and "".join(echoed.logprobs.tokens) == echoed.text
        and echoed.logprobs.token_logprobs[0] is None
    )


RESPONSE_TOOL = {"type": "function", **ADD["function"], "strict": True}


def test_responses(client) -> None:
    first = client.responses.create(model="scripted", input="hi", instructions="be kind")
    assert first.output_text == "Hello, wörld 你好!" and first.status == "completed"
    assert [o.type for o in first.output] == ["reasoning", "message"] and first.output[0].content[0].text == "so it is"
    assert first.usage.output_tokens_details.reasoning_tokens > 0
    second = client.responses.create(
        model="scripted", input="add 3", previous_response_id=first.id, tools=[RESPONSE_TOOL]
    )
    assert second.usage.input_tokens > first.usage.input_tokens
    call = second.output[-1]
    assert call.type == "function_call" and json.loads(call.arguments) == {"a": 3, "b": "4}"}
    third = client.responses.create(
        model="scripted", previous_response_id=second.id, tools=[RESPONSE_TOOL],
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "7"}],
    )  # fmt: skip
    assert third.output_text == "The sum is 7."
    again = client.responses.create(
        model="scripted",
        tools=[RESPONSE_TOOL],
        store=False,
        input=[
            {"role": "user", "content": "add 3"},
            *[o.model_dump(exclude_none=True) for o in second.output],
            {"type": "function_call_output", "call_id": call.call_id, "output": "7"},
        ],
    )
    assert again.output_text == "The sum is 7."
    assert client.responses.retrieve(third.id).output_text == third.output_text
    client.responses.delete(third.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(third.id)
    with pytest.raises(openai.NotFoundError, match="previous_response_id"):
        client.responses.create(model="scripted", input="x", previous_response_id=again.id)


def test_responses_streamed(client) -> None:
    with client.responses.stream(model="scripted", input="two", tools=[RESPONSE_TOOL]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [e.type for e in events]
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 4
    assert "".join(e.delta for e in events if e.type == "response.reasoning_text.delta") == "two calls"
    assert [o.type for o in final.output] == ["reasoning", "message", "function_call", "function_call"]
    arguments = "".join(
        e.delta for e in events if e.type == "response.function_call_arguments.delta" and e.output_index == 2
    )
    assert json.loads(arguments) == {"a": 3, "b": "4}"} == json.loads(final.output[2].arguments)


def test_responses_with_a_schema_and_cut(client) -> None:
    parsed = client.responses.parse(model="scripted", input="json", text_format=City)
    assert parsed.output_parsed == City(city="Paris", size=3)
    cut = client.responses.create(model="scripted", input="long", max_output_tokens=16)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"
