"""Input items of `/v1/responses` as the messages of a chat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from qwq.envs.mcp import tool_names
from qwq.serve.hosted import PYTHON
from qwq.serve.prompt import in_order_of_calls
from qwq.serve.schema_messages import CalledFunction, CalledTool, ChatMessage
from qwq.serve.schema_responses import (
    CODE_OUTPUTS,
    InputApproval,
    InputApprovalRequest,
    InputCall,
    InputCallOutput,
    InputCodeCall,
    InputItem,
    InputMcpCall,
    InputMcpTools,
    InputMessage,
    InputReasoning,
)

NOT_INCLUDED = f"(the output is not known here any more: send `include` with {CODE_OUTPUTS} to keep it)"


def chat_messages(items: Sequence[InputItem], before: Sequence[ChatMessage] = ()) -> list[ChatMessage]:
    """Messages `before` and input items as messages: an assistant's reasoning, words and calls that
    follow one another are one turn. Calls that a server ran come with their results.

    RequestRefused where a call's output does not belong to a call, see `in_order_of_calls`.
    """
    made = _Messages()
    for i, item in enumerate(items):
        made.add(item, i)
    fields = ["previous_response_id"] * len(before) + made.fields
    return in_order_of_calls([*before, *made.messages], fields, "call_id")


class _Messages:
    """Messages that are put together, with the request's field of each."""

    def __init__(self) -> None:
        self.messages: list[ChatMessage] = []
        self.fields: list[str] = []

    def add(self, item: InputItem, number: int) -> None:
        match item:
            case InputCallOutput():
                self._begin(ChatMessage(role="tool", content=item.output, tool_call_id=item.call_id), number)
            case InputMessage() if item.role != "assistant":
                self._begin(ChatMessage(role=item.role, content=item.content), number)
            case InputMessage():
                self._turn(number, fresh=True).content = item.content
            case InputReasoning():
                turn, parts = self._turn(number, fresh=True), item.content or item.summary or []
                turn.reasoning_content = (turn.reasoning_content or "") + "".join(str(p.get("text", "")) for p in parts)
            case InputCall():
                self._call(number, item.call_id, item.name, item.arguments)
            case InputCodeCall():
                self._call(number, item.id, PYTHON, json.dumps({"code": item.code or ""}))
                self._result(number, item.id, _logs(item.outputs))
            case InputMcpCall():
                self._mcp_call(number, item)
            case InputApprovalRequest():
                self._call(number, item.id, *_named(item))
            case InputApproval() | InputMcpTools():
                pass  # the first is acted on before the answer, the second is not shown to the model

    def _mcp_call(self, number: int, item: InputMcpCall) -> None:
        """A call with its result. One that was approved is there already, as the request for
        approval.
        """
        id = item.approval_request_id or item.id
        if not any(call.id == id for m in self.messages for call in m.tool_calls or ()):
            self._call(number, id, *_named(item))
        self._result(number, id, item.output if item.error is None else _error_text(item.error))

    def _begin(self, message: ChatMessage, number: int) -> ChatMessage:
        self.messages.append(message)
        self.fields.append(f"input.{number}")
        return message

    def _turn(self, number: int, *, fresh: bool) -> ChatMessage:
        """The assistant's turn that is put together; `fresh`: one that has said and called nothing
        yet.
        """
        turn = self.messages[-1] if self.messages and self.messages[-1].role == "assistant" else None
        if turn is None or (fresh and (turn.tool_calls or turn.content is not None)):
            turn = self._begin(ChatMessage(role="assistant"), number)
        return turn

    def _call(self, number: int, id: str, name: str, arguments: str) -> None:
        turn = self._turn(number, fresh=False)
        call = CalledTool(id=id, function=CalledFunction(name=name, arguments=arguments))
        turn.tool_calls = [*(turn.tool_calls or []), call]

    def _result(self, number: int, id: str, text: str | None) -> None:
        self._begin(ChatMessage(role="tool", content=text or NOT_INCLUDED, tool_call_id=id), number)


def _named(item: InputMcpCall | InputApprovalRequest) -> tuple[str, str]:
    (name,) = tool_names(item.server_label, [item.name])
    return name, item.arguments


def _logs(outputs: Sequence[dict[str, Any]] | None) -> str:
    return "\n".join(str(o["logs"]) for o in outputs or () if o.get("type") == "logs" and "logs" in o)


def _error_text(error: str | dict[str, Any]) -> str:
    """What the model read of a call that failed."""
    if isinstance(error, str):
        return error
    content = error.get("content")
    blocks = content if isinstance(content, list) else []
    texts = [str(block["text"]) for block in blocks if isinstance(block, dict) and "text" in block]
    return "\n".join(texts) or str(error.get("message", "error: the call failed"))
