"""The state of one stream of output, from its submission to its stop reason."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import torch

from qwq.engine.request import GenerationRequest, GrammarMatcher
from qwq.engine.sampler import SampledToken
from qwq.engine.thinking import ThinkingState
from qwq.text.tokenizer import TextStream
from qwq.types import StopReason


class Phase(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


class Draft(Protocol):
    """Guesses the next tokens of one sequence (see `speculative`)."""

    def propose(self, sequence: TokenSequence, room: int, others: int) -> list[int]:
        """At most `room` tokens that may follow; `others` sequences decode in the same step."""
        ...

    def close(self) -> None:
        """Give back what the draft holds."""
        ...


@dataclass(slots=True, eq=False)
class TokenSequence:
    """One stream of output. `ids` runs parallel to `forced` (1: written by the engine, 0: sampled).

    `outputs` is parallel too if the request asks for `logprobs`, and so is `drawn_logprobs` if it
    asks for those. A sequence that decodes in a batch gets its tokens when the batch returns; text
    and thinking are then made of them when somebody asks.
    """

    request: GenerationRequest
    number: int
    stream_seed: int
    thinking: ThinkingState
    stream: TextStream
    tokens: list[int]  # prompt and output, as the model reads them
    yarn: bool
    phase: Phase = Phase.WAITING
    ids: list[int] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)
    outputs: list[SampledToken] = field(default_factory=list)
    drawn_logprobs: list[float] = field(default_factory=list)
    prompt_outputs: list[SampledToken | None] = field(default_factory=list)
    shown: str = ""  # see `text`
    held_text: str = ""  # behind it: it may be the beginning of a stop string
    num_shown: int = 0  # of `ids`: how many are in `shown`,
    num_thought: int = 0  # and how many `thinking` has seen
    stop_reason: StopReason | None = None
    stopped_by: str | int | None = None
    loop_in_thinking: bool = False
    draft: Draft | None = None
    matcher: GrammarMatcher | None = None
    kind: Hashable | None = None  # see `multi_step.batch_kind`
    # the engine's own bookkeeping
    _flushed: bool = False
    slot: int = -1
    num_computed: int = 0  # tokens whose keys and values the slot holds
    num_cached: int = 0  # of these, taken over from another sequence
    drafted: list[int] = field(default_factory=list)
    num_preemptions: int = 0
    times: list[float] = field(default_factory=list)  # of submission, then of each step that brought tokens
    admitted: float | None = None  # when it first got a slot

    @property
    def done(self) -> bool:
        return self.phase is Phase.DONE

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def text(self) -> str:
        """The output without end tokens. It ends before a stop string, and while running before
        what could become one.
        """
        self._read_text()
        return self.shown

    @property
    def num_thinking(self) -> int:
        """Tokens of thought, without the closing phrase that a budget writes."""
        self.read_thinking()
        return self.thinking.num_thinking

    @property
    def first_token_s(self) -> float | None:
        return self.times[1] - self.times[0] if len(self.times) > 1 else None

    def history(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(list(self.request.prompt_ids)), torch.tensor(self.ids, dtype=torch.long)

    def stamp(self) -> None:
        self.times.append(time.perf_counter())

    def append(self, token: SampledToken, *, forced: bool) -> None:
        """Take in one token of output; `output` adds it to text and thinking."""
        self.tokens.append(token.id)
        self.ids.append(token.id)
        self.forced.append(int(forced))
        if self.request.logprobs is not None:
            self.outputs.append(token)
        if self.request.drawn_logprobs:
            self.drawn_logprobs.append(token.processed or 0.0)

    def extend(self, ids: list[int], logprobs: list[float]) -> None:
        """Take in sampled tokens of a batch; text and thinking follow when somebody asks."""
        self.tokens += ids
        self.ids += ids
        self.forced += [0] * len(ids)
        if self.request.drawn_logprobs:
            self.drawn_logprobs += logprobs

    def read(self) -> None:
        """Bring text and thinking up to date with `ids`."""
        if self.num_shown < len(self.ids) or self.num_thought < len(self.ids):
            self.read_thinking()
            self._read_text()

    def read_thinking(self) -> None:
        """Bring `thinking` up to date with `ids`."""
        first, end = self.num_thought, self._end()
        for token, forced in zip(self.ids[first:end], self.forced[first:end], strict=True):
            self.thinking.push(token, forced=bool(forced))
        self.num_thought = end

    def _read_text(self) -> None:
        first, end = self.num_shown, self._end()
        if first < end:
            hidden = self.request.hidden_ids
            self.shown += self.stream.push_all(i for i in self.ids[first:end] if i not in hidden)
            self.num_shown = end
        if self.done and not self._flushed:
            self._flushed = True
            if self.stop_reason is not StopReason.STOP or isinstance(self.stopped_by, int):
                whole = self.stop_reason in (StopReason.END, StopReason.STOP)
                self.shown += self.held_text + (self.stream.finish() if whole else "")
            self.held_text = ""

    def _end(self) -> int:
        """How many of `ids` are output: not the token that ended the sequence."""
        return len(self.ids) - isinstance(self.stopped_by, int)

    def show(self, new: str) -> bool:
        """Add text. True: it completed a stop string, and the sequence has ended before that."""
        if not self.request.stop:
            self.shown += new
            return False
        self.held_text += new
        stops = [(at, s) for s in self.request.stop if (at := self.held_text.find(s)) >= 0]
        if stops:
            at, stop = min(stops)
            self.shown += self.held_text[:at]
            self.held_text = ""
            self.finish(StopReason.STOP, stop)
            return True
        keep = max(
            (n for s in self.request.stop for n in range(1, len(s)) if self.held_text.endswith(s[:n])), default=0
        )
        cut = len(self.held_text) - keep
        self.shown, self.held_text = self.shown + self.held_text[:cut], self.held_text[cut:]
        return False

    def finish(self, reason: StopReason, by: str | int | None = None) -> None:
        """End the sequence; `by` is the stop string or the token that did it. The engine frees its
        slot.
        """
        self.stop_reason, self.stopped_by = reason, by
        self.phase = Phase.DONE
