"""Take a response apart: thinking, answer, tool calls.

Covers the two ways a response can think: `<think>` written by the model, or opened by the chat
template (QwQ-32B's own does so), in which case the text starts inside the thinking. Does not repair
anything: a call that is not valid JSON is handed back as malformed, not guessed at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwq.types import ToolCall

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
CALL_OPEN = "<tool_call>"
CALL_CLOSE = "</tool_call>"

_CALL = re.compile(re.escape(CALL_OPEN) + r"(.*?)(?:" + re.escape(CALL_CLOSE) + r"|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """A response in its parts.

    `thinking` is None where there was none. `answer` is what follows the thinking, without tool calls,
    stripped; it is empty while the thinking is still open. `thinking_closed` is True also where there
    was no thinking. `malformed_calls` holds the raw text of calls that could not be read.
    """

    thinking: str | None
    answer: str
    tool_calls: tuple[ToolCall, ...] = ()
    thinking_closed: bool = True
    malformed_calls: tuple[str, ...] = ()


def parse_response(text: str, *, thinking_open: bool = False) -> ParsedResponse:
    """Split `text` at the last `</think>`; read Hermes tool calls from what follows it.

    `thinking_open` says that the chat template had already written `<think>`. Thinking that was opened
    (also a second time, after an earlier close) and never closed leaves no answer and no calls.
    """
    head, close, tail = text.rpartition(THINK_CLOSE)
    if THINK_OPEN in tail or (not close and thinking_open):
        return ParsedResponse(thinking=_inner(text), answer="", thinking_closed=False)
    calls, malformed, answer = split_calls(tail)
    return ParsedResponse(
        thinking=_inner(head) if close else None,
        answer=answer,
        tool_calls=calls,
        malformed_calls=malformed,
    )


def split_response(text: str, *, thinking_open: bool = False, tools: bool = True) -> ParsedResponse:
    """`parse_response`, in which a call is text where no tools were offered."""
    parsed = parse_response(text, thinking_open=thinking_open)
    if tools or not parsed.thinking_closed:
        return parsed
    return ParsedResponse(parsed.thinking, text.rpartition(THINK_CLOSE)[2].strip())


def split_calls(text: str) -> tuple[tuple[ToolCall, ...], tuple[str, ...], str]:
    """The calls in `text` in order, the raw text of the malformed ones, and the text without either, stripped.

    A `<tool_call>` that is never closed runs to the end of the text and is malformed.
    """
    if CALL_OPEN not in text:
        return (), (), text.strip()
    calls: list[ToolCall] = []
    malformed: list[str] = []
    for match in _CALL.finditer(text):
        call = read_call(match.group(1)) if match.group(0).endswith(CALL_CLOSE) else None
        if call is None:
            malformed.append(match.group(1).strip())
        else:
            calls.append(call)
    return tuple(calls), tuple(malformed), _CALL.sub("", text).strip()


def read_call(raw: str) -> ToolCall | None:
    """One call from its JSON, or None where it is not `{"name": str, "arguments": object}`.

    Arguments may be given as a JSON string of the object, as some chat templates write them.
    """
    data = _load_object(raw)
    return None if data is None or set(data) - {"name", "arguments", "id"} else call_of(data)


def call_of(data: Mapping[str, Any]) -> ToolCall | None:
    """The call that `name` and `arguments` (an object, or its JSON text) of an object make; None where they make none."""
    name, arguments = data.get("name"), data.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _load_object(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, Mapping):
        return None
    return ToolCall(name=name, arguments=arguments)


def with_thinking(thinking: str, answer: str) -> str:
    """An assistant's words from their two parts, as training data writes them."""
    return f"{THINK_OPEN}\n{thinking}\n{THINK_CLOSE}\n{answer}"


def _load_object(raw: str) -> dict | None:
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):  # RecursionError: thousands of nested brackets
        return None
    return data if isinstance(data, dict) else None


def _inner(thinking: str) -> str:
    """Thinking text without the opening tag it may start with."""
    stripped = thinking.strip()
    return stripped.removeprefix(THINK_OPEN).strip()
