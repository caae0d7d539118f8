"""Output items of `/v1/responses`, whole and in the events that tell of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, Protocol

from qwq.envs.toolbox import ResultKind, ToolResult
from qwq.serve.core import new_id
from qwq.serve.turn import OutgoingMessage
from qwq.text.parts import Kind, Part

HOSTED = ("code_interpreter_call", "mcp_call")  # calls that this server runs
ARGUMENT_EVENTS = {
    "function_call": "response.function_call_arguments",
    "mcp_call": "response.mcp_call_arguments",
}
SECTIONS = {Kind.THINKING: "reasoning", Kind.ANSWER: "message"}


class ResponseEvents(Protocol):
    """The response that items are written for."""

    output: list[dict[str, Any]]
    include_reasoning: bool

    def event(self, kind: str, **fields: Any) -> bytes: ...

    def call_item(self, turn: OutgoingMessage, index: int, name: str) -> dict[str, Any]:
        """The item of a call that begins."""
        ...


class ItemWriter:
    """Parts of one turn after another as output items, one open at a time, and the events that tell
    of them. Items of calls that this server runs stay in `calls` until their results are there.
    """

    def __init__(self, run: ResponseEvents) -> None:
        self.run = run
        self.calls: list[tuple[int, dict[str, Any]]] = []  # of the turn: output index and item
        self._item: dict[str, Any] | None = None
        self._index = -1
        self._tokens: list[dict[str, Any]] = []
        self._arguments = ""  # of the open call, as JSON text

    def add(self, parts: list[Part], turn: OutgoingMessage, tokens: list[dict[str, Any]]) -> list[bytes]:
        events: list[bytes] = []
        self._tokens += tokens
        for part in parts:
            match part.kind:
                case Kind.THINKING | Kind.ANSWER:
                    if part.kind is Kind.THINKING and not self.run.include_reasoning:
                        continue
                    if self._item is None or self._item["type"] != SECTIONS[part.kind]:
                        events += self.close() + self._open_section(part.kind)
                    events.append(self._text(part.text))
                case Kind.CALL:
                    events += self.close() + self._open_call(self.run.call_item(turn, part.index, part.text))
                case Kind.ARGUMENTS:
                    events += self._more_arguments(part.text)
                case Kind.BROKEN:
                    events += self.close(status="incomplete")
                    self.run.output.pop()
                    self.calls.pop()
        return events

    def _open_call(self, item: dict[str, Any]) -> list[bytes]:
        events, self._arguments = [self._open(item)], ""
        self.calls.append((self._index, item))
        if item["type"] in HOSTED:
            events.append(self._event(f"response.{item['type']}.in_progress"))
        return events

    def _more_arguments(self, text: str) -> list[bytes]:
        assert self._item is not None
        self._arguments += text
        if "arguments" in self._item:
            self._item["arguments"] = self._arguments
        kind = ARGUMENT_EVENTS.get(self._item["type"])
        return [] if kind is None else [self._event(f"{kind}.delta", delta=text)]

    def _open(self, item: dict[str, Any]) -> bytes:
        self._index += 1
        self._item = item
        self.run.output.append(item)
        return self.run.event("response.output_item.added", output_index=self._index, item=item)

    def _open_section(self, kind: Kind) -> list[bytes]:
        if kind is Kind.THINKING:
            item: dict[str, Any] = {
                "id": new_id("rs_"),
                "type": "reasoning",
                "summary": [],
                "content": [],
                "status": "in_progress",
            }
            part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        else:
            item = {
                "id": new_id("msg_"),
                "type": "message",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        opened = self._open(item)
        added = self._event("response.content_part.added", content_index=0, part=part)
        item["content"].append(part)
        return [opened, added]

    def _text(self, text: str) -> bytes:
        assert self._item is not None
        part = self._item["content"][0]
        part["text"] += text
        if self._item["type"] == "reasoning":
            return self._event("response.reasoning_text.delta", content_index=0, delta=text)
        tokens, self._tokens = self._tokens, []
        part["logprobs"] += tokens
        return self._event("response.output_text.delta", content_index=0, delta=text, logprobs=tokens)

    def end(self, *, cut: bool) -> list[bytes]:
        """Close the last item of a turn; `cut`: the limit on tokens ended it.

        A call that this server runs was read whole.
        """
        whole = not cut or self._item is None or self._item["type"] in HOSTED
        return self.close("completed" if whole else "incomplete")

    def close(self, status: str = "completed") -> list[bytes]:
        item, self._tokens = self._item, []
        if item is None:
            return []
        ending = self._call_ending(item) if "content" not in item else self._section_ending(item)
        done = status != "completed" or item["type"] not in HOSTED  # a hosted call is yet to run
        if done and item["type"] != "mcp_approval_request":
            item["status"] = status
        if done:
            ending.append(self.run.event("response.output_item.done", output_index=self._index, item=item))
        self._item = None
        return ending

    def _section_ending(self, item: dict[str, Any]) -> list[bytes]:
        part = item["content"][0]
        if item["type"] == "reasoning":
            ended = self._event("response.reasoning_text.done", content_index=0, text=part["text"])
        else:
            done = {"text": part["text"], "logprobs": part["logprobs"]}
            ended = self._event("response.output_text.done", content_index=0, **done)
        return [ended, self._event("response.content_part.done", content_index=0, part=part)]

    def _call_ending(self, item: dict[str, Any]) -> list[bytes]:
        match item["type"]:
            case "code_interpreter_call":
                item["code"], item["status"] = code_of(self._arguments), "interpreting"
                kind = "response.code_interpreter_call"
                return [
                    self._event(f"{kind}_code.delta", delta=item["code"]),
                    self._event(f"{kind}_code.done", code=item["code"]),
                    self._event(f"{kind}.interpreting"),
                ]
            case "mcp_approval_request":
                return []
            case "function_call":
                named = {"name": item["name"], "arguments": item["arguments"]}
                return [self._event("response.function_call_arguments.done", **named)]
        item["status"] = "calling"
        return [self._event("response.mcp_call_arguments.done", arguments=item["arguments"])]

    def listed(self, label: str, tools: Sequence[dict[str, Any]]) -> list[bytes]:
        """The tools of an MCP server."""
        item = {"id": new_id("mcpl_"), "type": "mcp_list_tools", "server_label": label, "tools": tools, "error": None}
        events, kind = [self._open(item)], "response.mcp_list_tools"
        events += [self._event(f"{kind}.in_progress"), self._event(f"{kind}.completed")]
        self._item = None
        return [*events, self.run.event("response.output_item.done", output_index=self._index, item=item)]

    def approved(self, item: dict[str, Any], result: ToolResult) -> list[bytes]:
        """A call that an earlier response waited with, and its result."""
        events, self._arguments = self._open_call(item), item["arguments"]
        return [*events, *self.close(), *self.results([result], outputs=False)]

    def abandon(self) -> list[bytes]:
        """End the items of calls that were not run, as a limit came first."""
        left, self.calls = [(i, item) for i, item in self.calls if item["type"] in HOSTED], []
        for _, item in left:
            item["status"] = "incomplete"
        return [self.run.event("response.output_item.done", output_index=i, item=item) for i, item in left]

    def results(self, results: Sequence[ToolResult | None], *, outputs: bool) -> list[bytes]:
        """The results of the turn's calls, in order; None for those that the client acts on.
        `outputs`: whether the outputs of code are shown.
        """
        events: list[bytes] = []
        for (index, item), result in zip(self.calls, results, strict=True):
            if result is None or item["type"] not in HOSTED:
                continue
            ending = finish_code(item, result, outputs) if item["type"] == HOSTED[0] else finish_mcp(item, result)
            events += [
                self.run.event(f"response.{item['type']}.{ending}", item_id=item["id"], output_index=index),
                self.run.event("response.output_item.done", output_index=index, item=item),
            ]
        self.calls = []
        return events

    def _event(self, kind: str, **fields: Any) -> bytes:
        assert self._item is not None
        return self.run.event(kind, item_id=self._item["id"], output_index=self._index, **fields)


def function_item(call_id: str, name: str) -> dict[str, Any]:
    return {
        "id": new_id("fc_"),
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": "",
        "status": "in_progress",
    }


def code_item(container: str) -> dict[str, Any]:
    return {
        "id": new_id("ci_"),
        "type": "code_interpreter_call",
        "status": "in_progress",
        "code": "",
        "container_id": container,
        "outputs": None,
    }


def mcp_item(label: str, name: str, arguments: str = "", approval: str | None = None) -> dict[str, Any]:
    return {
        "id": new_id("mcp_"),
        "type": "mcp_call",
        "status": "in_progress",
        "server_label": label,
        "name": name,
        "arguments": arguments,
        "output": None,
        "error": None,
        "approval_request_id": approval,
    }


def approval_item(label: str, name: str) -> dict[str, Any]:
    return {
        "id": new_id("mcpr_"),
        "type": "mcp_approval_request",
        "server_label": label,
        "name": name,
        "arguments": "",
    }


def code_of(arguments: str) -> str:
    """The code of a call's arguments; of those that do not fit, the arguments themselves."""
    try:
        code = json.loads(arguments)["code"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return arguments
    return code if isinstance(code, str) else arguments


CODE_STATUS = {
    ResultKind.TIMEOUT: "incomplete",
    ResultKind.LIMIT: "incomplete",
    ResultKind.UNKNOWN: "incomplete",
    ResultKind.REFUSED: "failed",  # no call was left
}


def finish_code(item: dict[str, Any], result: ToolResult, outputs: bool) -> str:
    """Put the result into a code interpreter's item; how its event is called."""
    item["status"] = CODE_STATUS.get(result.kind, "completed")
    if outputs:
        pictures = [a for a in result.artefacts if a.media_type == "image/png"]
        item["outputs"] = [
            {"type": "logs", "logs": result.text},
            *({"type": "image", "url": f"data:image/png;base64,{base64.b64encode(a.data).decode()}"} for a in pictures),
        ]
    return "completed"


def finish_mcp(item: dict[str, Any], result: ToolResult) -> str:
    """Put the result into an MCP call's item; how its event is called."""
    if result.kind is ResultKind.OK:
        item |= {"status": "completed", "output": result.text}
        return "completed"
    error = {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": result.text}]}
    item |= {"status": "failed", "error": error}
    return "failed"
