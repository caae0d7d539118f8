"""OpenAI's client against a server of Qwen2.5-Coder-0.5B-Instruct: what a real model's ability
decides. Needs the model in the folder that QWQ_MODELS names and llama.cpp; `make test-engine` has
both, elsewhere this skips.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Command
from pydantic import BaseModel

openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")
pytest.importorskip("llama_cpp")

NAME = "qwen2.5-coder-0.5b-instruct"
MODEL = Path(os.environ.get("QWQ_MODELS", "QWQ_MODELS is not set")).expanduser() / NAME / f"{NAME}.gguf"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather", "description": "The weather of a city now.",
        "parameters": {
            "type": "object", "required": ["city", "unit"], "additionalProperties": False,
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        },
    },
}  # fmt: skip
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time of day in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PEOPLE = [("Anna", 31, "Rome"), ("Tom", 8, "Oslo"), ("Maria", 64, "London"), ("Ken", 45, "Kyoto")]


class Person(BaseModel):
    name: str
    age: int
    city: str


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    if not MODEL.is_file():
        pytest.skip(f"needs {MODEL}: `make test-engine` runs this")
    words = ("serve", MODEL, "--port", "0", "--no-page", "--max-model-len", "4096")
    process = Command(*words, stderr=subprocess.PIPE)
    assert process.stderr is not None
    reader = threading.Thread(target=process.stderr.read)
    try:
        base = next(match[1] for line in process.stderr if (match := re.search(r"ready on (http\S+/v1)", line)))
        reader.start()
        yield openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=300)
    finally:
        process.terminate()
        process.wait(60)
        if reader.is_alive():
            reader.join()
        process.stderr.close()


def ask(client: openai.OpenAI, messages: str | list, **more):
    messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    return client.chat.completions.create(
        model=client.models.list().data[0].id, messages=messages, **({"temperature": 0, "max_tokens": 128} | more)
    )


def test_a_chat_whole_and_streamed(client) -> None:
    question = "What is the capital of France? Answer in one sentence."
    whole = ask(client, question).choices[0].message.content
    chunks = list(ask(client, question, stream=True, stream_options={"include_usage": True}))
    assert "Paris" in whole and whole == "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[-1].usage.completion_tokens > 0


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_round_trip_of_a_tool(client, choice) -> None:
    messages: list = [{"role": "user", "content": "What is the weather in Madrid, in celsius?"}]
    first = ask(client, messages, tools=[WEATHER, TIME], tool_choice=choice, parallel_tool_calls=False).choices[0]
    (call,) = first.message.tool_calls
    assert first.finish_reason == "tool_calls" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Madrid", "unit": "celsius"}
    messages += [
        first.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 23, "sky": "clear"}'},
    ]
    last = ask(client, messages, tools=[WEATHER, TIME], tool_choice="none").choices[0].message
    assert last.tool_calls is None and "23" in last.content


def test_streamed_arguments_are_the_whole_ones(client) -> None:
    asked = {
        "tools": [WEATHER, TIME],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "seed": 1,
        "temperature": 0.7,
    }
    (whole,) = ask(client, "How warm is it in Lima, in fahrenheit?", **asked).choices[0].message.tool_calls
    deltas = [
        d
        for c in ask(client, "How warm is it in Lima, in fahrenheit?", stream=True, **asked)
        for d in c.choices[0].delta.tool_calls or []
    ]
    assert deltas[0].function.name == whole.function.name
    assert "".join(d.function.arguments or "" for d in deltas) == whole.function.arguments


@pytest.mark.parametrize(("name", "age", "city"), PEOPLE)
def test_a_schema_filled_from_a_text(client, name: str, age: int, city: str) -> None:
    text = (
        f"Extract the person as JSON with name, age and city: {name}, who is {age} years old, has lived in {city} "
        "since last year."
    )
    said = client.chat.completions.parse(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": text}],
        response_format=Person,
        temperature=0,
        max_tokens=96,
    )
    assert said.choices[0].message.parsed == Person(name=name, age=age, city=city)


def test_answers_of_a_form_at_temperature_1_are_all_of_it(client) -> None:
    schema = {
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 40},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        },
        "required": ["title", "tags"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "book", "schema": schema}}
    answers = ask(client, "Invent a book.", response_format=form, temperature=1.0, seed=3, n=8, max_tokens=200).choices
    for choice in answers:
        book = json.loads(choice.message.content)
        assert (
            choice.finish_reason == "stop"
            and set(book) == {"title", "tags"}
            and len(book["title"]) <= 40
            and set(book["tags"]) <= {"a", "b"}
        )
    moods = [
        ask(
            client,
            f"Is this review positive or negative? {review}",
            extra_body={"structured_outputs": {"choice": ["positive", "negative"]}},
        )
        .choices[0]
        .message.content
        for review in ("I loved every minute of it.", "A terrible waste of money, I hated it.")
    ]
    assert moods == ["positive", "negative"]
