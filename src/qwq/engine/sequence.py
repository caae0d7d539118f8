"""The state of one stream of output, from its submission to its stop reason."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import torch

from qwq.engine.request import GenerationRequest, GrammarMatcher
from qwq.engine.sampler import SampledToken
from qwq.engine.thinking import Thinking
from qwq.text.tokenizer import TextStream
from qwq.types import StopReason


class Phase(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


class Draft(Protocol):
    """Guesses the next tokens of one sequence (see `speculative`)."""

    def propose(self, sequence: TokenSequence, room: int, others: int) -> list[int]:
        """At most `room` tokens that may follow, while `others` sequences decode in the same step."""
        ...

    def close(self) -> None:
        """Give back what the draft holds."""
        ...


@dataclass(slots=True, eq=False)
class TokenSequence:
    """One stream of output. `ids` runs parallel to `forced` (1: written by the engine, 0: sampled).

    `outputs` is parallel too if the request asks for `logprobs`, and so is `drawn_logprobs` if it asks for those.
    `text` ends before a stop string, and while the sequence runs before what could become one.
    """

    request: GenerationRequest
    number: int
    stream_seed: int
    thinking: Thinking
    stream: TextStream
    tokens: list[int]  # prompt and output, as the model reads them
    yarn: bool
    phase: Phase = Phase.WAITING
    ids: list[int] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)
    outputs: list[SampledToken] = field(default_factory=list)
    drawn_logprobs: list[float] = field(default_factory=list)
    prompt_outputs: list[SampledToken | None] = field(default_factory=list)
    text: str = ""
    held_text: str = ""  # behind `text`: it may be the beginning of a stop string
    stop_reason: StopReason | None = None
    stopped_by: str | int | None = None
    loop_in_thinking: bool = False
    draft: Draft | None = None
    matcher: GrammarMatcher | None = None
    # the engine's own bookkeeping
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
    def num_thinking(self) -> int:
        """Tokens of thought, without the closing phrase that a budget writes."""
        return self.thinking.num_thinking

    @property
    def first_token_s(self) -> float | None:
        return self.times[1] - self.times[0] if len(self.times) > 1 else None

    def history(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(list(self.request.prompt_ids)), torch.tensor(self.ids, dtype=torch.long)

    def stamp(self) -> None:
        self.times.append(time.perf_counter())

    def append(self, token: SampledToken, *, forced: bool) -> None:
        """Take in one token of output; what it means for text and thinking is `output`'s business."""
        self.tokens.append(token.id)
        self.ids.append(token.id)
        self.forced.append(int(forced))
        if self.request.logprobs is not None:
            self.outputs.append(token)
        if self.request.drawn_logprobs:
            self.drawn_logprobs.append(token.processed or 0.0)

    def show(self, new: str) -> bool:
        """Add text. True: it completed a stop string, and the sequence has ended before that."""
        if not self.request.stop:
            self.text += new
            return False
        self.held_text += new
        stops = [(at, s) for s in self.request.stop if (at := self.held_text.find(s)) >= 0]
        if stops:
            at, stop = min(stops)
            self.text += self.held_text[:at]
            self.held_text = ""
            self.finish(StopReason.STOP, stop)
            return True
        keep = max(
            (n for s in self.request.stop for n in range(1, len(s)) if self.held_text.endswith(s[:n])), default=0
        )
        cut = len(self.held_text) - keep
        self.text, self.held_text = self.text + self.held_text[:cut], self.held_text[cut:]
        return False

    def finish(self, reason: StopReason, by: str | int | None = None) -> None:
        """End the sequence; `by` is the stop string or the token that did it. The engine frees its slot."""
        if reason is not StopReason.STOP or isinstance(by, int):
            rest = self.stream.finish() if reason in (StopReason.END, StopReason.STOP) else ""
            self.text += self.held_text + rest
            self.held_text = ""
        self.stop_reason, self.stopped_by = reason, by
        self.phase = Phase.DONE
