"""The Go template of a Modelfile writes the prompts that the model's Jinja template writes."""

import json
from pathlib import Path

import go_template
import pytest

from qwq.release.ollama_template import go_template as ollama_template
from qwq.text.template import ChatFormat, ChatTemplate, default_template
from qwq.text.tokenizer import train_bpe

MODELS = Path(__file__).resolve().parents[4] / "shared" / "models"
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds <two> numbers",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    },
}
OTHER = {
    "type": "function",
    "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}},
}


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


USER = {"role": "user", "content": "Add {{ 1 }} and 2"}
SYSTEM = {"role": "system", "content": "Be brief."}
SAID = {"role": "assistant", "content": "3"}
CALLS = {"role": "assistant", "content": "", "tool_calls": [call("add", a=1, b=2), call("now")]}
RESULT = {"role": "tool", "content": "3"}
CONVERSATIONS = {
    "user": ([USER], []),
    "system": ([SYSTEM, USER], []),
    "tools": ([USER], [TOOL, OTHER]),
    "system and tools": ([SYSTEM, USER], [TOOL, OTHER]),
    "two turns": ([SYSTEM, USER, SAID, USER], []),
    "calls": ([USER, CALLS, {"role": "tool", "content": "3"}, {"role": "tool", "content": "noon"}], [TOOL, OTHER]),
    "a call after words": (
        [USER, SAID | {"content": "I add.", "tool_calls": [call("add", a=1, b=2)]}, RESULT, SAID, USER],
        [TOOL],
    ),
    "a thought": ([USER, {**SAID, "content": "<think>\n1 + 2 = 3\n</think>\n3"}, USER], []),
    "a thought before calls": ([USER, {**CALLS, "content": "<think>\nhm\n</think>"}, RESULT], [TOOL]),
}  # fmt: skip


def chat_of(name):
    if name == "ours":
        return ChatFormat(train_bpe(["some words"] * 20, 300), default_template())
    path = MODELS / name / "chat_template.jinja"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    return ChatFormat(train_bpe(["some words"] * 20, 300), ChatTemplate(path.read_text()))


def as_ollama(message):
    """A message as Ollama's templates see it: thoughts apart, names with capitals."""
    content, thought = message["content"], ""
    if "</think>" in content:
        thought, _, content = content.removeprefix("<think>\n").partition("\n</think>")
        content = content.lstrip("\n")
    calls = [
        {"Function": {"Name": c["function"]["name"], "Arguments": go_template.Json(c["function"]["arguments"])}}
        for c in message.get("tool_calls", [])
    ]
    return {"Role": message["role"], "Content": content, "Thinking": thought, "ToolCalls": calls}


def as_tool(tool):
    function = tool["function"]
    out = go_template.Json(tool)
    out["Function"] = {"Name": function["name"], "Parameters": {"Properties": function["parameters"]["properties"]}}
    return out


class Tool(go_template.Json):
    """Written as its JSON, read by its fields."""


def prompt(source, messages, tools):
    system = next((m["content"] for m in messages if m["role"] == "system"), "")
    shown = []
    for tool in tools:
        view = Tool(tool)
        view.Function = as_tool(tool)["Function"]
        shown.append(view)
    return go_template.render(source, {"System": system, "Tools": shown, "Messages": [as_ollama(m) for m in messages]})


@pytest.mark.parametrize("name", ["ours", "qwq-32b", "qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct"])
def test_the_go_template_writes_the_same_prompts(name):
    chat = chat_of(name)
    source = ollama_template(chat)
    assert source is not None and '"""' not in source
    for title, (messages, tools) in CONVERSATIONS.items():
        if name.startswith("smollm2") and ("call" in title or "tools" in title):
            continue  # its template writes no tools
        if "thought" in title and "think" not in chat.template.source:
            continue  # to Ollama no thinking model: what it writes stays in its answer
        expected = chat.template.render(messages, tools=tools, add_generation_prompt=True)
        assert prompt(source, messages, tools) == expected, (title, json.dumps(source))


def test_ollama_finds_the_tags_of_thinking_and_calls_in_the_text():
    source = ollama_template(chat_of("ours"))
    assert "<think>\n{{ .Thinking }}\n</think>{{ end }}" in source
    assert "{{ if .ToolCalls }}{{ range .ToolCalls }}\n<tool_call>\n" in source


def test_a_template_that_does_not_write_turn_after_turn_is_left_to_ollama():
    source = "{% for m in messages %}{{ loop.length }}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    chat = ChatFormat(train_bpe(["some words"] * 20, 300), ChatTemplate(source))
    assert ollama_template(chat) is None
