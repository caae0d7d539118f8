"""One sample of a problem: what is to be made, and its life, token for token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qwq.envs.base import Environment
from qwq.errors import ModelError
from qwq.types import Message, ParsedResponse, Problem, Response, Rollout, StopReason, TokenSegment, ToolCall, Turn


@dataclass(frozen=True, slots=True)
class EpisodeJob:
    """Sample `number` of a problem.

    `thinking_budget` is for each turn, in tokens. `prompt_ids` are tokens to continue from; None
    renders the problem's messages. `environment` is a fresh one of the caller's; None
    makes the problem's own. `key` is the caller's.
    """

    problem: Problem
    number: int = 0
    seed: int = 0
    stream: int = 0
    thinking_budget: int | None = None
    prompt_ids: Sequence[int] | None = None
    environment: Environment | None = None
    key: Any = None


@dataclass(slots=True)
class Episode:
    """One sample: what was asked, sampled, called and answered.

    `ids`, `sampled_mask`, `logprobs` and `versions` hold everything after `prompt_ids`, results of
    tools included (mask 0, see `Rollout`); they are empty where the policy is not token-exact.
    Where the conversation was compacted they are those since, and `segments` are the earlier ones.
    `summaries` are what the model wrote down of turns that left the context (`summary.py`), also
    where that could not be read. `messages` are the turns and results after the problem's own
    messages. `calls` and `results` run parallel; a malformed call is in neither and counted in
    `num_malformed`. `forced` is the limit that took the tools from the last turn. `failure` says
    why there is no sample: server or tool machinery failed.
    """

    job: EpisodeJob
    prompt_ids: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    sampled_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    segments: list[TokenSegment] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    summaries: list[Turn] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    num_malformed: int = 0
    stop_reason: StopReason | None = None
    forced: StopReason | None = None
    failure: str = ""
    seconds: float = 0.0
    thinking_open: bool = False
    exact: bool = False  # every token after the prompt is in `ids`

    @property
    def problem(self) -> Problem:
        return self.job.problem

    @property
    def num_tokens(self) -> int:
        """Tokens after the prompt; without those of results where the policy is not token-exact."""
        if not self.exact:
            return sum(t.num_tokens for t in self.turns)
        return len(self.ids) + sum(len(segment.completion_ids) for segment in self.segments)

    @property
    def num_model_calls(self) -> int:
        return len(self.turns) + len(self.summaries)

    @property
    def num_thinking(self) -> int:
        return sum(t.num_thinking for t in self.turns)

    def response(self) -> Response:
        """What a verifier sees. Malformed calls of earlier turns were answered, and a model that
        mends them is not marked down.
        """
        last = self.turns[-1] if self.turns else Turn(ParsedResponse(None, ""), StopReason.ABORT)
        return Response(
            last.text,
            finished=self.stop_reason is StopReason.END,
            thinking_open=self.thinking_open,
            calls=tuple(self.calls),
            results=tuple(self.results),
            parts=last.parts,
            turns=tuple(turn.parts for turn in self.turns[:-1]),
            failure=self.failure,
        )

    def append(
        self, ids: Sequence[int], mask: Sequence[int], logprobs: Sequence[float], versions: Sequence[int]
    ) -> None:
        """Add tokens: a turn's, or those between two turns (no `logprobs`: 0 for each)."""
        self.ids += ids
        self.sampled_mask += mask
        self.logprobs += logprobs or [0.0] * len(ids)
        self.versions += versions

    def begin_segment(self, prompt_ids: Sequence[int]) -> None:
        """The next turn follows another prompt."""
        self.segments.append(self._segment())
        self.prompt_ids = list(prompt_ids)
        self.ids, self.sampled_mask, self.logprobs, self.versions = [], [], [], []

    def _segment(self) -> TokenSegment:
        return TokenSegment(self.prompt_ids, self.ids, self.sampled_mask, self.logprobs, self.versions)

    def rollout(self, group: int = 0, *, text: str = "", prompt: str = "") -> Rollout:
        """The sample as training reads it, with `text` and `prompt` (as rendered) for people.

        ModelError where its tokens are not known.
        """
        if not self.exact:
            raise ModelError(
                f"the tokens of {self.problem.id} are not known: train on samples of a policy that is token-exact"
            )
        assert self.stop_reason is not None
        first, *later = *self.segments, self._segment()
        return Rollout(
            problem_id=self.problem.id,
            domain=self.problem.domain,
            group=group,
            prompt_ids=first.prompt_ids,
            completion_ids=first.completion_ids,
            sampled_mask=first.sampled_mask,
            sampler_logprobs=first.sampler_logprobs,
            weight_versions=first.weight_versions,
            segments=later,
            stop_reason=self.stop_reason,
            text=text,
            budget=self.job.thinking_budget,
            prompt=prompt,
            expected=self.problem.expected,
        )
