"""Calls of MCP servers that wait for a person: what an answer to `mcp_approval_request` leads to.

An approval is used once. A client that sends its request again does not make the call again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwq.envs.toolbox import ResultKind, ToolResult
from qwq.serve.errors import RequestRefused
from qwq.serve.hosted import HostedPlan
from qwq.serve.response_items import mcp_item
from qwq.serve.schema_messages import CalledTool, ChatMessage
from qwq.serve.schema_responses import InputApproval, InputItem, InputMcpCall
from qwq.types import ToolCall

NOT_ACTED_ON = ToolResult("")


@dataclass(slots=True)
class ApprovedCall:
    """An answer to an approval request, the call that it is about, and, once it was acted on, the
    result. `ran`: the call was made.
    """

    approval: InputApproval
    called: CalledTool
    label: str
    name: str  # as the server calls the tool
    result: ToolResult = NOT_ACTED_ON
    ran: bool = False

    def item(self) -> dict[str, Any]:
        return mcp_item(self.label, self.name, self.arguments, self.approval.approval_request_id)

    @property
    def arguments(self) -> str:
        return str(self.called.function.arguments or "{}")

    async def act(self, plan: HostedPlan) -> None:
        """Make the call, or say that it was refused. In the environments' loop."""
        if not self.approval.approve:
            why = f": {self.approval.reason}" if self.approval.reason else ""
            self.result = ToolResult(f"error: the user did not approve this call{why}", ResultKind.REFUSED)
            return
        try:
            arguments = json.loads(self.arguments)
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            self.result = ToolResult("error: the call's arguments are no JSON object", ResultKind.ERROR)
            return
        self.ran = True
        self.result = await plan.box.run_call(ToolCall(self.called.function.name, arguments))


def read_approvals(items: Sequence[InputItem], messages: Sequence[ChatMessage], plan: HostedPlan) -> list[ApprovedCall]:
    """The answers among the items with their calls. RequestRefused for an answer to no call that
    waits.
    """
    calls = {call.id: call for m in messages for call in m.tool_calls or () if call.id}
    answered = {m.tool_call_id for m in messages if m.role == "tool"}
    answered |= {item.approval_request_id for item in items if isinstance(item, InputMcpCall)}
    found = []
    for i, item in enumerate(items):
        if not isinstance(item, InputApproval) or item.approval_request_id in answered:
            continue
        id, param = item.approval_request_id, f"input.{i}.approval_request_id"
        if id not in calls:
            raise RequestRefused(f"{param}: no approval was asked for under {id[:60]!r}", param)
        name = calls[id].function.name
        if name not in plan.labels:
            raise RequestRefused(f"{param}: the tool {name!r} is not among those of this request", param)
        label, listed = plan.labels[name]
        found.append(ApprovedCall(item, calls[id], label, listed.name))
    return found


def with_results(messages: Sequence[ChatMessage], approvals: Sequence[ApprovedCall]) -> list[ChatMessage]:
    """The messages, with each call's result behind the turn that made the call."""
    out: list[ChatMessage] = []
    waiting: list[ChatMessage] = []
    for message in messages:
        if message.role != "tool":
            out += waiting
            waiting = []
        out.append(message)
        ids = {call.id for call in message.tool_calls or ()}
        waiting += [
            ChatMessage(role="tool", content=a.result.text, tool_call_id=a.approval.approval_request_id)
            for a in approvals
            if a.approval.approval_request_id in ids
        ]
    return out + waiting
