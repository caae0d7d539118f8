"""An episode under way: what it has used, what its calls are answered with, whether a further turn
follows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwq.envs.base import Environment
from qwq.rollout.answers import AnswerPlan, plan_answers
from qwq.rollout.budget import NOTE_BEFORE, EpisodeLimits, Note, Spending, goes_in_circles, loop_length, step_key
from qwq.rollout.sample import Episode
from qwq.rollout.summary import Summary, SummaryAsk
from qwq.types import Message, StopReason, ToolCall, tool_schemas

MARKS = 40  # characters around a message or a call


def chars_of(messages: Sequence[Message]) -> int:
    """How long messages are, with what a template writes around them."""
    return sum(len(m.content) + MARKS + sum(_length(c.arguments) for c in m.tool_calls) for m in messages)


def _length(arguments: Mapping[str, Any]) -> int:
    return MARKS + sum(len(name) + len(str(value)) for name, value in arguments.items())


@dataclass(slots=True)
class LiveEpisode:
    """An episode under way. `clock` counts the seconds that `limits` bounds."""

    episode: Episode
    environment: Environment | None
    exact: bool
    clock: Callable[[], float]
    limits: EpisodeLimits
    tools: Sequence[Any] = ()
    schemas: Sequence[Any] = ()  # the environment's own, () where it leaves those of the problem
    history: list[Message] = field(default_factory=list)  # what the next prompt is made of
    num_chars: int = 0  # of the history and the tools
    tool_chars: int = 0
    started: float = 0.0
    sampled: int = 0  # tokens of the model's turns and summaries
    num_calls: int = 0  # attempts, malformed ones too
    calls_of: Counter[str] = field(default_factory=Counter)
    told: bool = False  # that no calls are left
    noted: set[str] = field(default_factory=set)  # what the model has been told about
    steps: list[bytes] = field(default_factory=list)
    futile: list[bool] = field(default_factory=list)
    asks: SummaryAsk | None = None  # the summary that the model is asked for now
    summary: Summary | None = None  # of turns that have left the context
    no_summary: bool = False  # the model has failed at one: it is not asked again

    def __post_init__(self) -> None:
        self.started = self.clock()
        self.history = list(self.episode.problem.messages)
        self.tool_chars = len(json.dumps(list(self.tools), default=str))
        self.num_chars = chars_of(self.history) + self.tool_chars

    @property
    def seconds(self) -> float:
        return self.clock() - self.started

    @property
    def num_tokens(self) -> int:
        """`episode.num_tokens`, without a look at every turn."""
        return self.episode.num_tokens if self.episode.exact else self.sampled

    def tokens_left(self) -> int | None:
        """How many tokens the next turn may have; None where only the turn's own limit counts."""
        left = []
        if self.limits.max_tokens is not None:
            left.append(self.limits.max_tokens - self.num_tokens)
        if self.limits.max_sampled is not None:
            left.append(max(1, self.limits.max_sampled - self.sampled))
        return min(left, default=None)

    def add_turn(self, message: Message) -> None:
        """The model's turn, in what was said and in what the next prompt shows."""
        self.episode.messages.append(message)
        self.history.append(message)
        self.num_chars += chars_of([message])

    def begin(self) -> None:
        """The environment is there."""
        if self.limits.last_turn and self.limits.max_turns == 1:
            self._make_last(StopReason.TURNS)

    def out_of_turns(self) -> StopReason | None:
        """Why no further turn follows; None where one may."""
        limits = self.limits
        if limits.max_seconds is not None and self.seconds >= limits.max_seconds:
            return StopReason.TIME
        if limits.max_turns is not None and self.episode.num_model_calls >= limits.max_turns:
            return StopReason.TURNS
        return None

    def spent(self, made: Environment) -> StopReason | None:
        """Why a turn with calls is the last; None where they may be answered."""
        if self.episode.forced is not None:
            return self.episode.forced
        if self.num_calls >= made.max_calls and (self.told or not self.limits.last_turn):
            return StopReason.TURNS
        stop = self.out_of_turns()
        return None if stop is StopReason.TIME and self.limits.last_turn else stop

    def plan(self, attempts: Sequence[ToolCall | str], made: Environment) -> AnswerPlan:
        """What the turn's calls are answered with."""
        limits = self.limits
        late = limits.max_seconds is not None and self.seconds >= limits.max_seconds
        refusal = f"error: no time is left of {limits.max_seconds:g} s: answer with what you have" if late else ""
        plan = plan_answers(attempts, made, self.tools, limits, self.num_calls, self.calls_of, refusal)
        self.calls_of.update(c.name for c in plan.runs)
        self.told = self.num_calls >= made.max_calls
        self.num_calls += len(attempts)
        if self.told:
            self._make_last(StopReason.TURNS)
        return plan

    def _make_last(self, reason: StopReason) -> None:
        """The next turn has no tools; tokens cannot take back those of their prompt."""
        self.episode.forced = reason
        if not self.exact:
            self.tools = ()

    def circles(self) -> StopReason | None:
        """LOOP where the calls go in circles and no last turn may follow."""
        repeats = self.limits.max_repeats
        if repeats is not None and goes_in_circles(self.steps, repeats):
            return StopReason.LOOP
        most = self.limits.max_loop
        if most is None or self.limits.last_turn:
            return None
        return StopReason.LOOP if loop_length(self.steps, self.futile) >= most else None

    def notes(self, made: Environment) -> list[Note]:
        """What the model is told behind the results of this turn. A limit that ends the calls makes
        the next turn the last.
        """
        if self.episode.forced is not None:
            return []
        limits, out = self.limits, []
        length = loop_length(self.steps, self.futile) if limits.max_loop is not None else 0
        spending = Spending(self.episode.num_model_calls, self.num_calls, self.sampled, self.seconds)
        last = spending.spent(limits, made.max_calls) if limits.last_turn else None
        near = spending.told(limits, made.max_calls)
        if limits.max_loop is not None and length >= limits.max_loop:
            text = "these calls go in circles: the next turn is the last, without tools. Answer with what you have."
            last = Note("loop", text, length, limits.max_loop, True, StopReason.LOOP)
        elif limits.max_loop is not None and length >= limits.max_loop - NOTE_BEFORE:
            text = f"nothing new came from the last {length} turns of calls: do something else, or answer."
            out.append(Note("loop", text, length, limits.max_loop))
        if last is not None:
            assert last.stop is not None
            self._make_last(last.stop)
            out = [last]
        elif near is not None and "budget" not in self.noted:
            self.noted.add("budget")
            out.append(near)
        return out

    def record(self, attempts: Sequence[ToolCall | str], texts: Sequence[str]) -> list[Message]:
        """Note calls and answers; the answers as messages."""
        for call, text in zip(attempts, texts, strict=True):
            if isinstance(call, str):
                self.episode.num_malformed += 1
            else:
                self.episode.calls.append(call)
                self.episode.results.append(text)
        self.steps.append(step_key(attempts, texts))
        self.futile.append(all(self._in_vain(call, text) for call, text in zip(attempts, texts, strict=True)))
        return [Message("tool", text) for text in texts]

    def _in_vain(self, call: ToolCall | str, text: str) -> bool:
        """Whether a call was malformed, of an unknown tool, or gave nothing."""
        if isinstance(call, str):
            return True
        known = tool_schemas(self.schemas or self.tools)
        assert self.environment is not None
        return (bool(known) and call.name not in known) or self.environment.gave_nothing(call, text)

    def tools_changed(self) -> bool:
        """Whether the environment now offers other tools; they are then the next turn's."""
        assert self.environment is not None
        schemas = self.environment.schemas()
        if list(schemas) == list(self.schemas):
            return False
        self.schemas = self.tools = schemas
        return True

    def no_longer_exact(self) -> None:
        """The next turn's prompt is rendered from messages."""
        self.exact = self.episode.exact = False
