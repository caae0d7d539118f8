"""Finished responses in memory, for `previous_response_id`, and their input items as they are
listed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwq.serve.core import new_id
from qwq.serve.errors import RequestRefused
from qwq.serve.schema_messages import ChatMessage
from qwq.serve.schema_responses import InputItem, InputMessage, ResponsesRequest


@dataclass(frozen=True, slots=True)
class Kept:
    """A response, the messages that led to it and its own, and the input items of its request.

    `container` is the Python session that the conversation used last, `labels` are the MCP servers
    whose tools it has listed.
    """

    response: dict[str, Any]
    messages: list[ChatMessage]
    items: list[dict[str, Any]]
    container: str = ""
    labels: frozenset[str] = frozenset()


class ResponseStore:
    """The latest responses."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def keep(self, kept: Kept) -> None:
        self._kept[kept.response["id"]] = kept
        while len(self._kept) > self.size:
            self._kept.popitem(last=False)

    def get(self, id: str, param: str) -> Kept:
        if id not in self._kept:
            raise RequestRefused(
                f"{param}: no response {id[:100]!r} is kept here", param, 404, code="previous_response_not_found"
            )
        return self._kept[id]

    def drop(self, id: str) -> None:
        self.get(id, "response_id")
        del self._kept[id]


def item_dicts(items: Sequence[InputItem]) -> list[dict[str, Any]]:
    """Input items as they are listed: each with an id, words as parts."""
    out = []
    for item in items:
        listed = {"id": new_id("msg_"), "type": "message", "status": "completed"} | item.model_dump(
            mode="json", exclude_none=True
        )
        if isinstance(item, InputMessage) and isinstance(item.content, str):
            kind = "output_text" if item.role == "assistant" else "input_text"
            listed["content"] = [{"type": kind, "text": item.content}]
        out.append(listed)
    return out


def page_of(items: list[dict[str, Any]], *, after: str | None, limit: int, order: str) -> dict[str, Any]:
    """At most `limit` items behind the one with the id `after`, the last first where `order` is
    desc.
    """
    ordered = items if order == "asc" else items[::-1]
    if after is not None:
        ids = [i["id"] for i in ordered]
        if after not in ids:
            raise RequestRefused(f"after: no item {after[:100]!r} is in this response's input", "after", 404)
        ordered = ordered[ids.index(after) + 1 :]
    data = ordered[:limit]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, "has_more": len(ordered) > limit, **ends}


def input_items(body: ResponsesRequest) -> list[InputItem]:
    return [InputMessage(role="user", content=body.input)] if isinstance(body.input, str) else body.input
