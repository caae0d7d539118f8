"""What the engine is asked for, and what it hands back while it works and when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import torch

from qwq.engine.sampler import Choice, SamplingParams
from qwq.engine.thinking import Thinking
from qwq.text.tokenizer import TextStream
from qwq.types import StopReason


class Guide(Protocol):
    """What holds one sample's answer to a form (a JSON schema, a call of a tool). It sees the answer alone, never the thinking."""

    failed: str  # why it cannot go on; empty while it can

    def mask(self, logits_V: torch.Tensor) -> torch.Tensor:
        """A copy in which every token that may not come next is minus infinity. End tokens are allowed where the form is complete."""
        ...

    def push(self, token: int) -> bool:
        """Take in a token of the answer. True where nothing but an end token may follow."""
        ...


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt and how to go on from it. `n` samples are independent streams of one seed and share the prompt's work.

    `eos_ids` end a turn (they stay in `ids`, not in the text); `stop` are strings that end it and are cut off; `stop_ids`
    further tokens that do. `thinking_open`: the prompt ends inside `<think>`. `thinking_budget` in tokens, None without a
    limit. `guide` makes what holds the answer to a form, once for each sample; `think_id` is a token with which the model may
    open its thinking before a guided answer. `logprobs`: how many alternatives to report with each token's log-probability (0: the token's alone, None: none);
    `prompt_logprobs` the same for the prompt. `hidden_ids` are tokens that are not written as text. `yarn`: None lets the engine decide by length. `loop_tokens`: how long an
    exact repetition may get before it is stopped, 0 for any length.
    """

    prompt_ids: Sequence[int]
    params: SamplingParams = SamplingParams()
    n: int = 1
    seed: int = 0
    eos_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    min_new_tokens: int = 0
    thinking_open: bool = False
    thinking_budget: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    yarn: bool | None = None
    loop_tokens: int = 0
    guide: Callable[[], Guide] | None = None
    think_id: int | None = None
    hidden_ids: frozenset[int] = frozenset()


class Phase(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


@dataclass(slots=True, eq=False)
class Sample:
    """One stream of output. `ids` runs parallel to `forced` (1 where the engine wrote the token) and `choices`.

    `text` is what may be shown: it ends before a stop string, and while running before what could become one.
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
    choices: list[Choice] = field(default_factory=list)
    prompt_choices: list[Choice | None] = field(default_factory=list)
    text: str = ""
    held: str = ""
    stop_reason: StopReason | None = None
    stopped_by: str | int | None = None
    loop_in_thinking: bool = False
    draft: Any = None  # NgramDraft or ModelDraft, which read this module
    guide: Guide | None = None
    # the engine's own bookkeeping
    row: int = -1
    num_computed: int = 0
    num_cached: int = 0
    drafted: list[int] = field(default_factory=list)
    num_preemptions: int = 0
    times: list[float] = field(default_factory=list)  # of submission, then of each step that brought tokens
    admitted: float | None = None  # when it first got a row

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
