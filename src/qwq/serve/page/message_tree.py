"""What the page keeps: conversations as trees of messages, and how one path through a tree becomes
a chat request.

A message names its parent; messages with the same parent are versions of one turn (`< 1/3 >`). A
conversation's `head` is the last message of the path that is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from qwq.text.attach import file_block

TITLE_CHARS = 60


class State(StrEnum):
    """State of a message. All but STREAMING are final until it is continued."""

    COMPLETE = "complete"
    STREAMING = "streaming"
    LENGTH = "length"  # the token limit or the context ended it
    STOPPED = "stopped"  # by the user
    INTERRUPTED = "interrupted"  # the server went away
    ERROR = "error"


class _Noun(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Settings(_Noun):
    """What a request is sampled with; None leaves it to the model. The names are the API's."""

    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    seed: Annotated[int | None, Field(ge=0, lt=2**53)] = None  # a browser's numbers are whole up to there
    stop: list[str] | None = None
    thinking_token_budget: Annotated[int | None, Field(ge=0)] = None
    tools: list[dict[str, Any]] | None = None
    model: Annotated[str | None, Field(max_length=500)] = None  # where the server has several


class Attachment(_Noun):
    """A text file that goes with a user's message."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    text: str


class StoredToolCall(_Noun):
    id: str = ""
    name: str = ""
    arguments: str = ""  # JSON as the model wrote it


class MessageStats(_Noun):
    """Measured on the server; over all parts of a continued answer."""

    ttft_s: FiniteFloat | None = None
    thinking_s: FiniteFloat | None = None
    total_s: FiniteFloat | None = None
    tokens_per_s: FiniteFloat | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    thinking_token_budget: int | None = None


class StoredMessage(_Noun):
    id: int
    parent: int | None
    role: Literal["user", "assistant", "tool"]
    content: str = ""
    reasoning: str = ""
    tool_calls: list[StoredToolCall] = []
    tool_call_id: str | None = None
    attachments: list[Attachment] = []
    state: State = State.COMPLETE
    error: str | None = None
    stats: MessageStats = MessageStats()
    created: FiniteFloat = 0.0


class NewMessage(_Noun):
    """What the page adds itself: a question, or the result of a tool."""

    role: Literal["user", "tool"] = "user"
    content: str = ""
    attachments: list[Attachment] = []
    tool_call_id: str | None = None


class StoredConversation(_Noun):
    id: str
    title: str = ""
    folder: str = ""  # the list's folder; "" for none
    system: str = ""
    settings: Settings = Settings()
    head: int | None = None
    created: FiniteFloat = 0.0
    updated: FiniteFloat = 0.0


class Piece(NamedTuple):
    """One step of a streamed answer; `kind` is reasoning, content or tool (then `text` is a JSON
    delta of a call).
    """

    number: int
    kind: Literal["reasoning", "content", "tool"]
    text: str


def with_pieces(message: StoredMessage, pieces: Iterable[Piece]) -> StoredMessage:
    """The message with what was streamed after it was last stored whole."""
    content, reasoning = [message.content], [message.reasoning]
    calls = [c.model_copy() for c in message.tool_calls]
    new: dict[int, StoredToolCall] = {}
    for piece in pieces:
        if piece.kind == "content":
            content.append(piece.text)
        elif piece.kind == "reasoning":
            reasoning.append(piece.text)
        else:
            delta = json.loads(piece.text)
            call = new.setdefault(delta.get("index", 0), StoredToolCall())
            call.id += delta.get("id") or ""
            call.name += delta.get("name") or ""
            call.arguments += delta.get("arguments") or ""
    text = {"content": "".join(content), "reasoning": "".join(reasoning)}
    return message.model_copy(update={**text, "tool_calls": calls + [new[i] for i in sorted(new)]})


def path_to(messages: Sequence[StoredMessage], leaf: int | None) -> list[StoredMessage]:
    """From the first message to `leaf`."""
    by_id = {m.id: m for m in messages}
    path: list[StoredMessage] = []
    while leaf is not None:
        path.append(by_id[leaf])
        leaf = path[-1].parent
    return path[::-1]


def title_of(text: str) -> str:
    """A conversation's first title: the first line of its first question."""
    line = next((stripped for raw in text.splitlines() if (stripped := raw.strip())), "")
    return line if len(line) <= TITLE_CHARS else line[: TITLE_CHARS - 1].rstrip() + "…"


def _user_content(message: StoredMessage) -> str:
    parts = [file_block(file.name, file.text) for file in message.attachments]
    return "\n".join([*parts, message.content])


def chat_body(
    conversation: StoredConversation, path: Sequence[StoredMessage], *, continues: bool = False
) -> dict[str, Any]:
    """The body of `/v1/chat/completions` that asks for what follows `path`, or for the rest of its
    last message.

    A message that is continued is sent unchanged: one with thinking and no answer yet is still
    inside its thinking.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": conversation.system}] if conversation.system else []
    for m in path:
        if m.role == "user":
            messages.append({"role": "user", "content": _user_content(m)})
        elif m.role == "tool":
            messages.append({"role": "tool", "content": m.content, "tool_call_id": m.tool_call_id or ""})
        else:
            message: dict[str, Any] = {"role": "assistant", "content": m.content}
            if m.reasoning:
                message["reasoning_content"] = m.reasoning
            if m.tool_calls:
                message["tool_calls"] = [
                    {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                    for c in m.tool_calls
                ]
            messages.append(message)
    settings = conversation.settings.model_dump(exclude_none=True)
    body = {**settings, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    if continues:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body
