"""Conversations as files: JSON keeps everything, Markdown the path that is shown, readable in any
editor.

Both are read back. JSON may also be a bare list of messages, or {"messages": [...]}, as the chat
API takes them. In Markdown a comment `<!-- qwq: ... -->` opens each part; a line of a text that
looks like one gets a backslash in front.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import count
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qwq.errors import DataError
from qwq.serve.errors import fault_words
from qwq.serve.page.message_tree import Attachment, StoredConversation, StoredMessage, StoredToolCall, path_to, title_of
from qwq.text.attach import fence_for

FORMAT = "qwq-conversations"
Exported = tuple[StoredConversation, Sequence[StoredMessage]]
PARTS = ("title", "system", "user", "thinking", "assistant", "call", "tool", "file")
MARK = re.compile(rf"<!-- qwq: ({'|'.join(PARTS)})(?: (\{{.*\}}))? -->")
LOOKS_LIKE_MARK = re.compile(r"^(\\*)(?=<!-- qwq:)", re.MULTILINE)
HEADINGS = {"system": "## System", "user": "## User", "assistant": "## Assistant", "tool": "## Tool result"}


class _Entry(StoredConversation):
    messages: list[StoredMessage]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal["qwq-conversations"]
    version: Literal[1]
    conversations: list[_Entry]


class _PlainCall(BaseModel):
    class Function(BaseModel):
        name: str
        arguments: str = ""

    id: str = ""
    function: Function


class _Plain(BaseModel):
    """A message of the chat API; what the page has no place for is refused by its type."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    reasoning_content: Annotated[str | None, Field()] = None
    tool_calls: list[_PlainCall] | None = None
    tool_call_id: str | None = None


def to_json(conversations: Sequence[Exported]) -> str:
    entries = [
        c.model_dump(mode="json") | {"messages": [m.model_dump(mode="json") for m in ms]} for c, ms in conversations
    ]
    file = {"format": FORMAT, "version": 1, "conversations": entries}
    return json.dumps(file, ensure_ascii=False, indent=1) + "\n"


def from_json(text: str) -> list[Exported]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"the file is not JSON ({error}): import what the page exported, or a list of messages"
        ) from None
    try:
        if isinstance(data, dict) and "format" in data:
            file = _File.model_validate(data)
            return [_checked(entry) for entry in file.conversations]
        plain = data.get("messages") if isinstance(data, dict) else data
        if not isinstance(plain, list):
            raise DataError("the file holds no conversations: import what the page exported, or a list of messages")
        return [_from_plain([_Plain.model_validate(m) for m in plain], data)]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "the file"
        raise DataError(f"the file cannot be imported: {where}: {fault_words(first)}") from None


def _checked(entry: _Entry) -> Exported:
    """Parents come before their children, so there is no cycle."""
    seen: set[int] = set()
    for m in entry.messages:
        if m.id in seen or (m.parent is not None and m.parent not in seen):
            raise DataError(
                f"the file cannot be imported: message {m.id} of {entry.title!r} comes twice or before its parent"
            )
        seen.add(m.id)
    if entry.head is not None and entry.head not in seen:
        raise DataError(f"the file cannot be imported: {entry.title!r} has no message {entry.head}, its head")
    return StoredConversation(**{k: getattr(entry, k) for k in StoredConversation.model_fields}), entry.messages


def _from_plain(plain: Sequence[_Plain], data: Any) -> Exported:
    system: list[str] = []
    messages: list[StoredMessage] = []
    for m in plain:
        content = m.content or ""
        if isinstance(content, list):
            content = "".join(str(p.get("text", "")) for p in content)
        if m.role in ("system", "developer"):
            system.append(content)
            continue
        calls = [
            StoredToolCall(id=c.id, name=c.function.name, arguments=c.function.arguments) for c in m.tool_calls or ()
        ]
        values = {
            "content": content,
            "reasoning": m.reasoning_content or "",
            "tool_calls": calls,
            "tool_call_id": m.tool_call_id,
        }
        messages.append(StoredMessage(id=len(messages) + 1, parent=len(messages) or None, role=m.role, **values))
    title = data.get("title") if isinstance(data, dict) else None
    return _linear(title if isinstance(title, str) else "", "\n\n".join(system), messages)


def _linear(title: str, system: str, messages: list[StoredMessage]) -> Exported:
    first = next((m.content for m in messages if m.role == "user"), "")
    head = messages[-1].id if messages else None
    return StoredConversation(id="", title=title or title_of(first), system=system, head=head), messages


# -- Markdown --------------------------------------------------------------------------------------


def to_markdown(conversations: Sequence[Exported]) -> str:
    """One conversation after the other, each with its title first."""
    return "\n".join(_markdown(c, path_to(messages, c.head)) for c, messages in conversations)


def _part(kind: str, text: str, facts: dict[str, Any] | None = None, *, heading: str = "") -> str:
    escaped = LOOKS_LIKE_MARK.sub(r"\1\\", text)
    # A comment ends at its first `-->`; inside a JSON string \u003e says the same.
    about = " " + json.dumps(facts, ensure_ascii=False).replace(">", "\\u003e").replace("\n", "") if facts else ""
    return f"<!-- qwq: {kind}{about} -->\n{heading}{escaped}\n"


def _markdown(c: StoredConversation, path: Sequence[StoredMessage]) -> str:
    parts = [_part("title", "# " + " ".join(c.title.split()))]
    if c.system:
        parts.append(_part("system", c.system, heading=HEADINGS["system"] + "\n\n"))
    for m in path:
        if m.reasoning:
            parts.append(_part("thinking", m.reasoning, heading="## Thinking\n\n"))
        facts = {"call": m.tool_call_id} if m.tool_call_id else None
        parts.append(_part(m.role, m.content, facts, heading=HEADINGS[m.role] + "\n\n"))
        for call in m.tool_calls:
            fence = fence_for(call.arguments)
            heading = f"{fence}json\n"
            parts.append(
                _part("call", f"{call.arguments}\n{fence}", {"id": call.id, "name": call.name}, heading=heading)
            )
        for file in m.attachments:
            fence = fence_for(file.text)
            parts.append(_part("file", f"{file.text}\n{fence}", {"name": file.name}, heading=f"{fence}\n"))
    return "\n".join(parts)


def from_markdown(text: str) -> list[Exported]:
    entries: list[Exported] = []
    title, system, thinking = "", "", ""
    messages: list[StoredMessage] = []
    ids = count(1)
    parts = list(_split(text.replace("\r\n", "\n")))
    if not parts:
        raise DataError("the file has no `<!-- qwq: ... -->` marks: import Markdown that the page exported, or JSON")
    for number, (kind, facts, body) in enumerate(parts):
        if kind == "title":
            if number:
                entries.append(_linear(title, system, messages))
            title, system, thinking, messages = body.removeprefix("# "), "", "", []
        elif kind == "system":
            system = body
        elif kind == "thinking":
            thinking = body
        elif kind in ("user", "assistant", "tool"):
            parent = messages[-1].id if messages else None
            call = facts.get("call") if kind == "tool" else None
            role: Any = kind
            messages.append(
                StoredMessage(
                    id=next(ids), parent=parent, role=role, content=body, reasoning=thinking, tool_call_id=call
                )
            )
            thinking = ""
        else:
            _attach(messages, kind, facts, body)
    return [*entries, _linear(title, system, messages)]


def _attach(messages: list[StoredMessage], kind: str, facts: dict[str, Any], body: str) -> None:
    name = facts.get("name")
    if not messages or not isinstance(name, str) or not name:
        raise DataError(f"the file cannot be imported: a {kind} comes before the first message, or has no name")
    last = messages[-1]
    if kind == "call":
        call = StoredToolCall(id=str(facts.get("id", "")), name=name, arguments=body)
        messages[-1] = last.model_copy(update={"tool_calls": [*last.tool_calls, call]})
    else:
        messages[-1] = last.model_copy(
            update={"attachments": [*last.attachments, Attachment(name=name[:255], text=body)]}
        )


def _split(text: str) -> list[tuple[str, dict[str, Any], str]]:
    marks = [m for m in re.finditer(r"^<!-- qwq:.*$", text, re.MULTILINE) if MARK.fullmatch(m[0])]
    parts = []
    for mark, after in zip(marks, [*marks[1:], None], strict=False):
        match = MARK.fullmatch(mark[0])
        assert match
        kind = match[1]
        try:
            facts = json.loads(match[2]) if match[2] else {}
        except ValueError:
            raise DataError(f"the file cannot be imported: {mark[0][:80]!r} does not hold JSON") from None
        body = text[mark.end() + 1 : after.start() if after else len(text)]
        # A part ends with its own newline, and an empty line precedes a mark.
        body = body.removesuffix("\n\n" if after else "\n") if body.endswith("\n\n" if after else "\n") else body
        parts.append((kind, facts, LOOKS_LIKE_MARK.sub(lambda m: m[1][1:], _unshown(kind, body))))
    return parts


def _unshown(kind: str, body: str) -> str:
    """Without the heading or fence that the export put around a text."""
    if kind in ("call", "file"):
        opening, _, rest = body.partition("\n")
        fence = re.match(r"`{3,}", opening)
        return rest.removesuffix(fence[0]).removesuffix("\n") if fence else body
    heading = {"thinking": "## Thinking"}.get(kind, HEADINGS.get(kind))
    return body.removeprefix(heading + "\n\n") if heading else body
