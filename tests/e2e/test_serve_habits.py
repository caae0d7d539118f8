"""Habits of programs and models: what they send and write that no specification names, each as a case."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx2
import pytest

pytest.importorskip("llguidance")

import scripted

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
OTHER = CALL.replace('"f"', '"x"')
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}


def reply(prompt: str) -> str:
    last = prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
    return last.partition("repeat:")[2] if "repeat:" in last else f"hm\n</think>\n\n{last[::-1]}"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    chat = scripted.chat_format()
    with scripted.served(scripted.opened(chat, scripted.Script(chat, reply))) as url, httpx2.Client(base_url=url, timeout=60) as made:
        yield made


def chat(client: httpx2.Client, text: str = "abc", **more) -> httpx2.Response:
    return client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], **more})


def choice(answer: httpx2.Response) -> dict:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def streamed(answer: httpx2.Response) -> dict:
    """A stream put together again as a choice."""
    out: dict = {"message": {"content": "", "reasoning": "", "tool_calls": []}}
    for line in answer.text.split("\n\n"):
        if not line.startswith("data: {"):
            continue
        (one,) = json.loads(line[6:])["choices"]
        for key in ("content", "reasoning"):
            out["message"][key] += one["delta"].get(key, "")
        for delta in one["delta"].get("tool_calls", ()):
            if "id" in delta:
                out["message"]["tool_calls"].append({"name": delta["function"]["name"], "arguments": ""})
            out["message"]["tool_calls"][-1]["arguments"] += delta["function"]["arguments"]
        out["finish_reason"] = one["finish_reason"]
    return out


# -- calls inside thoughts ---------------------------------------------------------------------------------------------------


def test_a_call_at_the_end_of_an_open_thinking_is_a_call(client: httpx2.Client) -> None:
    whole = choice(chat(client, f"repeat:hm {CALL}", tools=[TOOL]))
    assert whole["finish_reason"] == "tool_calls" and whole["message"]["reasoning"] == "hm" and not whole["message"]["content"]
    (call,) = whole["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"a": 1}'}
    stream = streamed(chat(client, f"repeat:hm {CALL}", tools=[TOOL], stream=True))
    assert stream["message"] == {"content": "", "reasoning": "hm", "tool_calls": [{"name": "f", "arguments": '{"a": 1}'}]}
    assert stream["finish_reason"] == "tool_calls"
    function = {"type": "function", **TOOL["function"]}
    output = client.post("/v1/responses", json={"input": f"repeat:hm {CALL}", "tools": [function]}).json()["output"]
    assert [item["type"] for item in output] == ["reasoning", "function_call"] and output[1]["arguments"] == '{"a": 1}'
    # A closed thinking, a function that is not on offer, and a request without tools: a thought.
    assert CALL in choice(chat(client, f"repeat:hm {CALL}</think>\n\nyes", tools=[TOOL]))["message"]["reasoning"]
    assert "tool_calls" not in choice(chat(client, f"repeat:hm {OTHER}", tools=[TOOL]))["message"]
    assert CALL in choice(chat(client, f"repeat:hm {CALL}"))["message"]["reasoning"]


# -- forms -------------------------------------------------------------------------------------------------------------------

CITY = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"], "additionalProperties": False}


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object", "schema": CITY}, {"type": "json_schema", "schema": CITY}, {"type": "json_schema", "name": "c", "strict": True, "schema": CITY},
        {"type": "json_schema", "json_schema": {"name": "c", "schema": CITY}},
    ],
)  # fmt: skip
def test_a_schema_wherever_it_stands(client: httpx2.Client, form: dict) -> None:
    assert json.loads(choice(chat(client, response_format=form))["message"]["content"]) == {"city": "Rome"}
    answer = client.post("/v1/responses", json={"input": "abc", "text": {"format": form}})
    assert answer.status_code == 200 and json.loads(answer.json()["output"][-1]["content"][0]["text"]) == {"city": "Rome"}, answer.text
    assert answer.json()["text"]["format"]["type"] == form["type"]
    text = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 60, "response_format": form})
    assert json.loads(choice(text)["text"]) == {"city": "Rome"}


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "json_schema"}, "response_format"), ({"type": "json_schema", "schema": CITY, "json_schema": {"schema": CITY}}, "response_format"),
        ({"type": "json_schema", "json_schema": {"wibble": 1}}, "response_format.json_schema.wibble"), ({"type": "json_object", "wibble": 1}, "response_format.wibble"),
        ({"type": "json_schema", "schema": {"type": "string", "pattern": "(?=a)"}}, "response_format"), ({"type": "json_schema", "schema": {"not": {}}}, "response_format"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_form_names_its_field(client: httpx2.Client, form: dict, param: str) -> None:
    answer = chat(client, response_format=form)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_a_tool_whose_schema_cannot_be_enforced_names_the_field(client: httpx2.Client) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)"}}}}}
    assert choice(chat(client, tools=[tool]))["finish_reason"] == "stop"
    error = chat(client, tools=[tool], tool_choice="required").json()["error"]
    assert error["param"] == "tools" and "looks ahead or behind" in error["message"]
