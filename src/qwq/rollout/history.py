"""A turn as a message of the conversation, as later turns and servers see it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwq.text.response import written
from qwq.text.tool_calls import load_object
from qwq.types import Message, ParsedResponse, ToolCall


def turn_message(parts: ParsedResponse) -> Message:
    """A turn as later turns see it. Servers take a tool's answer only where the message before it
    holds the call, so a malformed one becomes a call too.
    """
    calls = tuple(unreadable_call(c) if isinstance(c, str) else c for c in parts.calls_in_order)
    return Message("assistant", without_calls(written(parts), parts.malformed_calls), calls)


def unreadable_call(raw: str) -> ToolCall:
    """A call that cannot be read as one that a conversation can hold: its name as far as it has
    one, and what was written under `unreadable`.
    """
    data = load_object(raw) or {}
    name, arguments, ident = data.get("name"), data.get("arguments"), data.get("id")
    return ToolCall(
        name if isinstance(name, str) and name else "unreadable",
        {"unreadable": arguments if isinstance(arguments, str) else raw},
        ident if isinstance(ident, str) else "",
    )


def without_calls(text: str, raw_calls: Sequence[str]) -> str:
    """The text without these calls and their tags."""
    for raw in raw_calls:
        if raw in text:  # else a long call would be compiled for nothing
            text = re.sub(rf"<tool_call>\s*{re.escape(raw)}\s*(</tool_call>)?", "", text, count=1)
    return text.rstrip() if raw_calls else text
