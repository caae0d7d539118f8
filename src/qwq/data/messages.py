"""Turns, tool calls and tools as data files write them: OpenAI's messages, ShareGPT's turns, and
what is between the two.

What cannot be trained on as it was meant is refused, never written out as Python or JSON text: a
part that is not text, a call whose arguments are no object, an assistant's turn without words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwq.errors import nearest
from qwq.text.response import THINK_CLOSE, with_thinking
from qwq.text.tool_calls import call_of
from qwq.types import Message, ToolCall

# `developer` is OpenAI's newer name of the system turn, `human` and `gpt` are ShareGPT's.
ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "model": "assistant", "tool": "tool", "function": "tool", "observation": "tool",
    "function_call": "assistant",
}  # fmt: skip
TEXT_PARTS = ("text", "input_text", "output_text")
THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")
_NAMES = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


class Malformed(ValueError):
    """Why a row cannot be read, in words that follow its file and line."""


@dataclass(frozen=True, slots=True)
class Turns:
    """Messages, and which of them (by number, from 0) are not to be learnt from: assistant turns of
    weight 0.
    """

    messages: tuple[Message, ...]
    unlearnt: frozenset[int] = frozenset()


def named(value: Any) -> str:
    """What kind of JSON value this is, for an error."""
    return _NAMES.get(type(value), f"a {type(value).__name__}")


def from_json(value: Any, what: str) -> Any:
    """`value`, or what its JSON text holds: columns of data sets often keep lists and objects as
    text.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{what} is text that is not JSON ({str(error)[:60]})") from None


def content_text(content: Any, what: str) -> str | None:
    """The text of a message's `content`: itself, its text parts joined, or None where it is
    null.
    """
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise Malformed(f"{what} is {named(content)}: give text, or a list of text parts")
    return "".join(_part(part, f"{what}[{i}]") for i, part in enumerate(content))


def _part(part: Any, what: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise Malformed(f"{what} is {named(part)}: give text, or an object with type and text")
    if part.get("type", "text") not in TEXT_PARTS or not isinstance(part.get("text"), str):
        raise Malformed(
            f"{what} is a part of type {part.get('type')!r} with {', '.join(map(str, part))}: only text parts can "
            "be used"
        )
    return part["text"]


def turns_of(value: Any, what: str, *, blank: bool = False) -> Turns:
    """Turns from a list of objects with `role` and `content`, or `from` and `value`.

    `blank`: an assistant may say nothing.
    """
    value = from_json(value, what)
    if not isinstance(value, list) or not value:
        raise Malformed(
            f"{what} is {'an empty list' if value == [] else named(value)}: give a list of objects with `role` and "
            "`content`"
        )
    messages, unlearnt = [], set()
    for i, turn in enumerate(value):
        message, learnt = _turn(turn, f"{what}[{i}]", blank)
        messages.append(message)
        if not learnt:
            unlearnt.add(i)
    return Turns(tuple(messages), frozenset(unlearnt))


def answer_of(value: Any, what: str, *, blank: bool = False) -> Turns:
    """Turns of an answer: a text, one turn, or a list of turns."""
    if value is None:
        raise Malformed(f"{what} is null: give text or messages")
    if isinstance(value, str):
        value = [{"role": "assistant", "content": value}]
    elif isinstance(value, Mapping):
        value = [value if "role" in value or "from" in value else {"role": "assistant", **value}]
    return turns_of(value, what, blank=blank)


def _turn(turn: Any, what: str, blank: bool) -> tuple[Message, bool]:
    """A message, and whether it is to be learnt from where it is the assistant's."""
    if not isinstance(turn, Mapping):
        raise Malformed(f"{what} is {named(turn)}: give an object with `role` and `content`")
    given = turn.get("role", turn.get("from"))
    if given is None:
        raise Malformed(f"{what} has no `role` (it has {', '.join(map(str, turn)) or 'no keys'})")
    if not isinstance(given, str) or given not in ROLES:
        raise Malformed(f"{what} has the role {given!r}: {nearest(str(given), ROLES)}")
    role, content = ROLES[given], turn["content"] if "content" in turn else turn.get("value")
    if given == "function_call":  # ShareGPT: a turn whose words are a call, or a list of calls
        calls = from_json(content, f"{what}.value")
        return Message(role, "", _calls(calls if isinstance(calls, list) else [calls], f"{what}.value")), True
    text = content_text(content, f"{what}.content")
    if role != "assistant":
        if text is None and role != "tool":
            raise Malformed(f"{what} ({role}) has no content: give text")
        return Message(role, text or ""), True
    return _assistant(turn, text, what, blank)


def _assistant(turn: Mapping[str, Any], text: str | None, what: str, blank: bool) -> tuple[Message, bool]:
    calls = _calls(from_json(turn.get("tool_calls"), f"{what}.tool_calls") or [], f"{what}.tool_calls")
    if turn.get("function_call"):  # OpenAI's older form of one call
        calls += _calls([turn["function_call"]], f"{what}.function_call")
    words = _with_thinking(turn, text or "", what)
    weight = turn.get("weight")
    if weight not in (None, 0, 1):
        raise Malformed(f"{what} has weight {weight!r}: give 1, or 0 for a turn not to learn from")
    if not calls and not words.strip() and not (blank and text is not None):
        raise Malformed(f"{what} (assistant) has neither content nor tool calls: there is nothing to learn")
    return Message("assistant", words, calls), weight != 0


def _with_thinking(turn: Mapping[str, Any], text: str, what: str) -> str:
    """The words with the thinking that the turn keeps apart, if it does."""
    thinking = next((turn[k] for k in THINKING_KEYS if turn.get(k)), None)
    if thinking is None:
        return text
    if not isinstance(thinking, str):
        raise Malformed(f"{what} has its thinking as {named(thinking)}: give text")
    if THINK_CLOSE not in text:
        return with_thinking(thinking.strip(), text.lstrip("\n"))
    if thinking.strip() not in text:
        raise Malformed(f"{what} has thinking in its content, and another apart: keep one of them")
    return text


def _calls(calls: Any, what: str) -> tuple[ToolCall, ...]:
    if not isinstance(calls, list):
        raise Malformed(f"{what} is {named(calls)}: give a list of calls")
    return tuple(_call(call, f"{what}[{i}]") for i, call in enumerate(calls))


def _call(call: Any, what: str) -> ToolCall:
    function = call.get("function") or call if isinstance(call, Mapping) else call
    if not isinstance(function, Mapping):
        raise Malformed(f"{what} is {named(function)}: give an object with a function's `name` and `arguments`")
    # No arguments are an empty object: parquet drops the key, some servers write null or an empty
    # text.
    arguments = function.get("arguments")
    made = call_of({"name": function.get("name"), "arguments": {} if arguments in (None, "") else arguments})
    if made is None:
        raise Malformed(
            f"{what} is no call: it needs a `name`, and `arguments` that are an object or its JSON text, found "
            f"{json.dumps(dict(function), default=str)[:80]}"
        )
    return made


def tools_of(row: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """A row's `tools` (or `functions`), each as {"type": "function", "function": {...}}; lists and
    tools may be JSON text.
    """
    key = "tools" if row.get("tools") is not None else "functions"
    value = row.get(key)
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    value = from_json(value, key)
    if value is None:
        return ()
    if not isinstance(value, list):
        value = [value]
    return tuple(_tool(tool, f"{key}[{i}]") for i, tool in enumerate(value))


def _tool(tool: Any, what: str) -> dict[str, Any]:
    tool = from_json(tool, what)
    function = tool.get("function", tool) if isinstance(tool, Mapping) else tool
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Malformed(
            f"{what} is no tool: give an object with the `name`, `description` and `parameters` of a function"
        )
    return dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)}
