"""A model's turn as an event, and back; recorded turns as a policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qwq.agent.events import Event, EventKind
from qwq.agent.tape import Tape
from qwq.rollout.policy import NextRequest, Policy, TurnRequest
from qwq.text.template import ChatFormat
from qwq.types import ParsedResponse, StopReason, ToolCall, Turn


def turn_fields(turn: Turn) -> dict[str, Any]:
    """The fields of a `model_turn`, from which `turn_of` makes the turn again. Tokens only of a
    policy that is token-exact.
    """
    parts = turn.parts
    fields: dict[str, Any] = {
        "text": turn.text,
        "thinking": parts.thinking,
        "answer": parts.answer,
        "calls": [
            c if isinstance(c, str) else {"name": c.name, "arguments": c.arguments} for c in parts.calls_in_order
        ],
        "stop_reason": turn.stop_reason.value,
        "tokens": turn.num_tokens,
        "thinking_tokens": turn.num_thinking,
        "seconds": round(turn.seconds, 4),
    }
    if turn.estimated:
        fields["estimated"] = True
    if turn.finish:
        fields["finish"] = turn.finish
    if not parts.thinking_closed:
        fields["thinking_closed"] = False
    if parts.reopened:
        fields["reopened"] = True
    if turn.ids:
        fields |= {"ids": list(turn.ids), "mask": list(turn.sampled_mask), "versions": list(turn.weight_versions)}
    if turn.logprobs:
        fields["logprobs"] = list(turn.logprobs)
    return fields


def turn_of(event: Event) -> Turn:
    """The turn of a `model_turn` event, or of a `summary`."""
    attempts = tuple(c if isinstance(c, str) else ToolCall(c["name"], c["arguments"]) for c in event["calls"])
    parts = ParsedResponse(
        event["thinking"],
        event["answer"],
        tuple(c for c in attempts if isinstance(c, ToolCall)),
        event.get("thinking_closed", True),
        tuple(c for c in attempts if isinstance(c, str)),
        event.get("reopened", False),
        attempts,
    )
    return Turn(
        parts, StopReason(event["stop_reason"]), event["text"], event["tokens"], event["thinking_tokens"],
        event["seconds"], event.get("ids", ()), event.get("mask", ()), event.get("logprobs", ()),
        event.get("versions", ()), event.get("estimated", False), event.get("finish", ""),
    )  # fmt: skip


class RecordedPolicy:
    """The turns of a tape, then those of `policy`."""

    def __init__(self, policy: Policy, tape: Tape) -> None:
        self._policy, self._tape = policy, tape

    @property
    def name(self) -> str:
        return self._policy.name

    @property
    def identity(self) -> Mapping[str, Any]:
        return self._policy.identity

    @property
    def context(self) -> int | None:
        return self._policy.context

    @property
    def token_exact(self) -> bool:
        return self._policy.token_exact

    @property
    def native_tools(self) -> bool:
        return self._policy.native_tools

    @property
    def chat(self) -> ChatFormat | None:
        return self._policy.chat

    @property
    def version(self) -> int:
        return self._policy.version

    def generate(self, next_request: NextRequest, concurrency: int | None = None) -> Iterator[tuple[TurnRequest, Turn]]:
        while not self._tape.live:
            request = next_request()
            if request is None:
                return
            event = self._tape.peek(kind_of(request))
            if event is None:  # the recorded part ended while the tools were at work
                yield from self._policy.generate(behind(request, next_request), concurrency)
                return
            yield request, turn_of(event)
        yield from self._policy.generate(next_request, concurrency)

    def pause(self) -> None:
        self._policy.pause()

    def update_weights(self, version: int) -> None:
        self._policy.update_weights(version)

    def resume(self) -> None:
        self._policy.resume()

    def close(self) -> None:
        self._policy.close()


def kind_of(request: TurnRequest) -> EventKind:
    """The event that a request leads to."""
    return EventKind.MODEL_TURN if request.schema is None else EventKind.SUMMARY


def behind(first: TurnRequest, rest: NextRequest = lambda: None) -> NextRequest:
    """`first`, then what `rest` gives."""
    waiting = [first]
    return lambda: waiting.pop() if waiting else rest()
