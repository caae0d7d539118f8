"""A response with tools that this server runs: an episode of turns and calls behind one request.

The episode is `rollout.episode.play`'s, as in training and in agents: it answers malformed calls,
counts them, and continues from tokens. It runs on a thread; items and events are written in the
event loop, in the order in which things happen.

1. A call of the client's own function ends the response after the hosted calls of its turn have
   run; so does a call that waits for approval, as an item `mcp_approval_request`.
2. An `mcp_approval_response` in the next request has the call run, or answered with the refusal,
   before the model continues.
3. A request with hosted tools that is answered whole or in events may be ended by its client at any
   time; calls that run are cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwq.envs.base import in_background
from qwq.envs.toolbox import ResultKind, ToolResult
from qwq.errors import InfraError
from qwq.rollout.budget import EpisodeLimits
from qwq.rollout.episode import Episode, EpisodeJob, Hooks, play
from qwq.rollout.policy import TurnRequest
from qwq.serve.core import Core
from qwq.serve.engine_thread import Gone, Update
from qwq.serve.errors import RequestRefused
from qwq.serve.hosted import PYTHON, HostedPlan, HostedTools, make_plan
from qwq.serve.hosted_approvals import ApprovedCall, read_approvals, with_results
from qwq.serve.prompt import Prompt, template_messages
from qwq.serve.response_input import chat_messages
from qwq.serve.response_items import approval_item, code_item, function_item, mcp_item
from qwq.serve.response_store import Kept, ResponseStore, input_items
from qwq.serve.responses import ResponseRun, answer_request, check_fields, client_functions
from qwq.serve.schema_messages import ChatMessage, Function, Tool
from qwq.serve.schema_responses import (
    CODE_OUTPUTS,
    CodeInterpreterTool,
    InputCodeCall,
    InputMcpTools,
    McpTool,
    ResponsesRequest,
)
from qwq.serve.served_policy import ServedPolicy
from qwq.serve.turn import AnswerRequest, OutgoingMessage, PreparedChat, ToolChoice, converse
from qwq.text.parts import Part
from qwq.types import Message, Problem, StopReason, ToolCall

CUT = {
    StopReason.LENGTH: "max_output_tokens",
    StopReason.CONTEXT: "max_output_tokens",
    StopReason.TIME: "max_seconds",
    StopReason.LOOP: "loop",
}
MAX_REPEATS = 4  # of the same calls with the same results


def hosted_of(body: ResponsesRequest) -> list[CodeInterpreterTool | McpTool]:
    """The request's tools that a server runs."""
    return [t for t in body.tools or () if isinstance(t, CodeInterpreterTool | McpTool)]


@dataclass(frozen=True, slots=True)
class HostedParts:
    """What a response with hosted tools has beside others.

    `later` is how turns behind the first one are constrained. `approved` are calls that were made
    before the first turn; `known_labels` servers whose tools the client has seen.
    """

    hosted: HostedTools
    plan: HostedPlan
    ask: AnswerRequest
    later: PreparedChat
    approved: list[ApprovedCall]
    known_labels: frozenset[str]


class HostedRun(ResponseRun):
    """A response whose tools run here. Made by `prepare`."""

    def __init__(
        self, core: Core, store: ResponseStore, body: ResponsesRequest, messages: list[ChatMessage],
        conversation: PreparedChat, parts: HostedParts,
    ) -> None:  # fmt: skip
        super().__init__(core, store, body, messages, conversation)
        self.hosted, self.plan, self.parts = parts.hosted, parts.plan, parts
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._left = False
        self._turn: OutgoingMessage | None = None
        self._own: list[ChatMessage] = []  # what this response adds to the conversation
        self._reason: StopReason | None = None
        self._failure = ""
        self._policy = ServedPolicy(core, prepare=self._prepare, listen=self._listen)
        self._loop = asyncio.get_running_loop()
        self._work: asyncio.Task[None] | None = None

    @classmethod
    async def prepare(cls, core: Core, store: ResponseStore, hosted: HostedTools, body: ResponsesRequest) -> HostedRun:
        """RequestRefused where it cannot be met, among others where a tool does not start."""
        check_fields(body)
        before = (
            None if body.previous_response_id is None else store.get(body.previous_response_id, "previous_response_id")
        )
        for i, tool in enumerate(body.tools or ()):
            if isinstance(tool, CodeInterpreterTool | McpTool):
                hosted.check(tool, f"tools.{i}")
        hosted.enter()
        try:
            items = input_items(body)
            containers = [before.container] if before is not None and before.container else []
            containers += [i.container_id for i in items if isinstance(i, InputCodeCall) and i.container_id]
            plan = await make_plan(hosted, hosted_of(body), containers[-1] if containers else None)
            try:
                return await cls._with_plan(core, store, hosted, body, plan, before)
            except BaseException:
                await asyncio.wrap_future(in_background(plan.box.close()))
                raise
        except BaseException:
            hosted.leave()
            raise

    @classmethod
    async def _with_plan(
        cls, core: Core, store: ResponseStore, hosted: HostedTools, body: ResponsesRequest, plan: HostedPlan,
        before: Kept | None,
    ) -> HostedRun:  # fmt: skip
        items = input_items(body)
        messages = chat_messages(items, before.messages if before else ())
        plan.box.functions = {t.function.name for t in client_functions(body)}
        own = [Tool(type="function", function=Function(**s.schema["function"])) for s in plan.box.specs().values()]
        if doubled := next((t.function.name for t in own if t.function.name in plan.box.functions), None):
            raise RequestRefused(f"tools: two tools are called {doubled!r}: rename the function", "tools")
        approvals = read_approvals(items, messages, plan)
        ask = answer_request(body, with_results(messages, approvals), own, plan.chosen)
        conversation = later = await converse(core, body, body, ask)
        if approvals:  # the request is sound: now they may take effect
            for approval in approvals:
                hosted.use_approval(approval.approval.approval_request_id)
                await asyncio.wrap_future(in_background(approval.act(plan)))
            messages = with_results(messages, approvals)
            ask = answer_request(body, messages, own, plan.chosen)
            conversation = later = await converse(core, body, body, ask)
        if ask.choice.mode == "required":
            later = await converse(core, body, body, replace(ask, choice=ToolChoice()))
        labels = frozenset(i.server_label for i in items if isinstance(i, InputMcpTools))
        known = labels | (before.labels if before else frozenset())
        parts = HostedParts(hosted, plan, ask, later, [a for a in approvals if a.ran], known)
        return cls(core, store, body, messages, conversation, parts)

    # -- the episode -------------------------------------------------------------------------------

    def start(self, *, streamed: bool) -> None:
        self._work = asyncio.create_task(self._answer())

    def close(self) -> None:
        if self._left:
            return
        self._left = True
        self._policy.close()
        self.plan.box.stop()
        if self._work is not None:
            self._work.add_done_callback(lambda _: self.hosted.leave())
        self._queue.put_nowait(None)

    async def events(self) -> AsyncIterator[bytes]:
        assert self._work is not None
        yield self.opening()
        while (data := await self._queue.get()) is not None:
            yield data
        if self._left:
            raise Gone
        await self._work
        if self._failure:
            raise InfraError(self._failure)
        yield b"".join(self.writer.abandon())
        reason = CUT.get(self._reason) if self._reason is not None else None
        if self._reason is StopReason.TURNS and not self.plan.box.over:
            reason = "max_tool_calls"
        yield self.ending(self._policy.samples, [*self.messages, *self._own], reason)

    async def _answer(self) -> None:
        """Lists, calls that were approved, then the episode; `events` comes to its end in any
        case.
        """
        try:
            self._list_tools()
            for approved in self.parts.approved:
                self._write(self.writer.approved(approved.item(), approved.result))
            episode = await self._loop.run_in_executor(self.hosted.threads, self._play)
            self._reason, self._failure = episode.stop_reason, episode.failure
        finally:
            self._queue.put_nowait(None)
            await asyncio.wrap_future(in_background(self.plan.box.close()))

    def kept_state(self) -> dict[str, Any]:
        return {"container": self.plan.container, "labels": self.parts.known_labels | set(self.plan.servers)}

    def _play(self) -> Episode:
        options = self.hosted.options
        limits = EpisodeLimits(
            max_calls=min(self.body.max_tool_calls or options.hosted_max_calls, options.hosted_max_calls),
            max_seconds=options.hosted_max_seconds,
            max_repeats=MAX_REPEATS,
            last_turn=True,
        )
        request = self.conversation.request
        # For a template that cannot continue from tokens.
        messages = tuple(map(_message, template_messages(self.parts.ask.messages)[0]))
        tools = tuple(t.model_dump(exclude_none=True) for t in self.parts.ask.tools)
        job = EpisodeJob(
            Problem("response", "custom", messages, {}, "response", tools=tools),
            seed=request.seed,
            prompt_ids=request.prompt_ids,
            environment=self.plan.box,
        )
        hooks = Hooks(messages=self._answered)
        (episode,) = play(self._policy, iter([job]), request.params, limits=limits, hooks=hooks)
        return episode

    def _prepare(self, request: TurnRequest) -> PreparedChat:
        """The engine's request of a turn: the first one as the client constrained it."""
        num_sampled = sum(len(s.ids) for (s,) in self._policy.samples)
        base = self.parts.later if self._policy.samples else self.conversation
        ids = request.prompt_ids
        ids = self.core.chat.prompt_ids(request.messages, request.tools) if ids is None else list(ids)
        params = replace(base.request.params, max_new_tokens=self.core.max_len - len(ids))
        if self.body.max_output_tokens is not None:
            left = self.body.max_output_tokens - num_sampled
            params = replace(params, max_new_tokens=min(left, params.max_new_tokens))
        if not self._policy.samples:
            return replace(base, request=replace(base.request, params=params))
        open_ = self.core.chat.thinking_open
        again = replace(base.request, prompt_ids=ids, params=params, offset=request.offset, thinking_open=open_)
        return replace(base, request=again, prompt=Prompt(ids, open_))

    # -- items, in the event loop ------------------------------------------------------------------

    def _list_tools(self) -> None:
        for label in self.plan.servers:
            if label in self.parts.known_labels:
                continue
            tools = [
                {
                    "name": listed.name,
                    "description": listed.description,
                    "input_schema": listed.input_schema,
                    "annotations": listed.annotations
                    and listed.annotations.model_dump(by_alias=True, exclude_none=True),
                }
                for of, listed in self.plan.labels.values()
                if of == label
            ]
            self._write(self.writer.listed(label, tools))

    def call_item(self, turn: OutgoingMessage, index: int, name: str) -> dict[str, Any]:
        if name == PYTHON and self.plan.container and name not in self.plan.box.functions:
            return code_item(self.plan.container)
        if name not in self.plan.labels:
            return function_item(turn.call_id(index), name)
        label, listed = self.plan.labels[name]
        if not self.plan.box.asks(ToolCall(name, {})):
            return mcp_item(label, listed.name)
        item = approval_item(label, listed.name)
        turn.call_ids[index] = item["id"]
        return item

    def _listen(self, update: Update, turn: OutgoingMessage, parts: list[Part]) -> None:
        self._write([self.written(update, turn, parts)])
        if update.done:
            self._turn = turn
            fields = {k: v for k, v in turn.message().items() if v is not None}
            self._own.append(ChatMessage.model_validate(fields))

    def _write(self, events: Sequence[bytes]) -> None:
        if data := b"".join(events):
            self._queue.put_nowait(data)

    def _answered(self, episode: Episode, answers: Sequence[Message]) -> None:
        """Called on the episode's thread with the answers to a turn's calls."""
        attempts = episode.turns[-1].parts.calls_in_order
        self._loop.call_soon_threadsafe(self._take_answers, attempts, [answer.content for answer in answers])

    def _take_answers(self, attempts: Sequence[ToolCall | str], texts: Sequence[str]) -> None:
        assert self._turn is not None
        results: list[ToolResult | None] = []
        for call, text in zip(attempts, texts, strict=True):
            if isinstance(call, str):  # a malformed call is in nobody's list of calls
                self._own.append(ChatMessage(role="user", content=text))
                continue
            if self.plan.box.is_left(call):
                results.append(None)
                continue
            result = self.plan.box.results.pop(id(call), ToolResult(text, ResultKind.REFUSED))
            id_ = self._turn.call_id(len(results))
            results.append(result)
            self._own.append(ChatMessage(role="tool", content=result.text, tool_call_id=id_))
        self._write(self.writer.results(results, outputs=CODE_OUTPUTS in (self.body.include or ())))


def _message(fields: Mapping[str, Any]) -> Message:
    """A template's message as episodes keep it."""
    functions = [call["function"] for call in fields.get("tool_calls", ())]
    calls = [
        ToolCall(f["name"], f["arguments"] if isinstance(f["arguments"], Mapping) else {"arguments": f["arguments"]})
        for f in functions
    ]
    return Message(fields["role"], fields["content"], tuple(calls))
