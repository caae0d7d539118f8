"""The nouns of the project. Plain data: no torch, no I/O, nothing that decides.

Every other package speaks in these. A `Problem` is asked, a `Rollout` is what the model did,
a `Verdict` is what a verifier said about it, and the reward is made from verdicts alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

DOMAINS = ("math", "code", "instructions", "tools", "preference")
CUSTOM = "custom"  # the domain of open prompts: no verifier judges them, only functions of the user's own
SPLITS = ("train", "validation", "test")
EXPECTED_CHARS = 4000  # of a spec, kept with each rollout; tests of a program may be megabytes


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call in Hermes form: `{"name": ..., "arguments": {...}}`. `id` is a server's name for it,
    "" elsewhere.
    """

    name: str
    arguments: Mapping[str, Any]
    id: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is system, user, assistant or tool."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The shape chat templates expect (`tool_calls` only where there are some)."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [
                ({"id": c.id} if c.id else {})
                | {"type": "function", "function": {"name": c.name, "arguments": dict(c.arguments)}}
                for c in self.tool_calls
            ]
        return message


def tool_schemas(tools: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Functions in OpenAI's nested form, or flat: their arguments' schemas by their names."""
    functions = [t.get("function") or t for t in tools]
    return {f["name"]: f.get("parameters") for f in functions if f.get("name")}


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt and what a verifier needs to judge an answer to it.

    `truth` is read by verifiers only and never rendered into a prompt. `canonical` names the
    problem up to rewording (operations and numbers, not names): two problems with one canonical
    form are the same problem, and splits are disjoint by it.
    """

    id: str
    domain: str
    messages: tuple[Message, ...]
    truth: Mapping[str, Any]
    canonical: str
    tools: tuple[Mapping[str, Any], ...] = ()
    level: int = 1
    source: str = "procedural"
    environment: str = ""  # its name, or file.py:Class; "" is the calculator where there are tools, and none elsewhere
    task: str = ""  # the task whose own verifier judges it; "" if the domain's verifier does
    files: Mapping[str, str] = field(default_factory=dict)  # put into the workspace of its tools: name to path here

    @property
    def tool_schemas(self) -> dict[str, Any]:
        """The functions on offer: their arguments' schemas by their names."""
        return tool_schemas(self.tools)

    @property
    def expected(self) -> Any:
        """What people read beside an answer: the gold answer, else the verifier's spec, as JSON
        values, cut if it is long; None without one.
        """
        expected = self.truth.get("gold", dict(self.truth)) or None
        whole = expected if isinstance(expected, str) else json.dumps(expected, default=str)
        if len(whole) > EXPECTED_CHARS:
            return f"{whole[:EXPECTED_CHARS]} [{len(whole):,} characters]"
        return expected if isinstance(expected, str) else json.loads(whole)


class Outcome(StrEnum):
    """Every way a grading can end (design promise 3).

    Only `INFRA_ERROR` may never become a reward.
    """

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    UNFINISHED = "unfinished"
    TIMEOUT = "timeout"
    UNDECIDED = "undecided"
    INFRA_ERROR = "infra_error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier found, with its reason in words.

    `passed` of `total` counts tests or rules where there are several. `forgeable` marks a verdict
    that the judged program itself could have influenced. `answer` is what was read out of the
    response. `unsafe` marks a verdict on a program that ran without a jail that protects.
    """

    outcome: Outcome
    reason: str
    verifier: str
    passed: int | None = None
    total: int | None = None
    seconds: float = 0.0
    forgeable: bool = False
    answer: str | None = None
    unsafe: bool = False
    cpu_s: float | None = None
    memory_mb: float | None = None
    output_cut: bool = False

    @property
    def correct(self) -> bool:
        return self.outcome is Outcome.CORRECT

    @property
    def share(self) -> float:
        """Share of tests or rules passed, 0 to 1; 1 or 0 where there is only the outcome."""
        if self.total:
            return (self.passed or 0) / self.total
        return float(self.correct)

    def to_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {"outcome": self.outcome.value, "reason": self.reason, "verifier": self.verifier}
        if self.total is not None:
            out |= {"passed": self.passed, "total": self.total}
        if self.forgeable:
            out["forgeable"] = True
        if self.unsafe:
            out["unsafe"] = True
        out |= self.usage()
        if self.answer is not None:
            out["answer"] = self.answer
        return out | {"seconds": round(self.seconds, 6)}

    def usage(self) -> dict[str, Any]:
        """What a program used, where one was run."""
        found = {"cpu_s": self.cpu_s, "memory_mb": self.memory_mb, "output_cut": self.output_cut or None}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        return cls(**{**data, "outcome": Outcome(data["outcome"])})


class StopReason(StrEnum):
    """Why a completion ended. Only `END` counts as finished."""

    END = "end"  # the model emitted an end-of-turn token
    LENGTH = "length"  # the completion reached max_new_tokens
    CONTEXT = "context"  # prompt and completion filled the model's context
    TURNS = "turns"  # the tool loop reached its limit of calls
    STOP = "stop"  # a stop string or stop token that the request named
    LOOP = "loop"  # the model said the same thing over and over
    TIME = "time"  # the episode has used up its seconds
    WAITS = "waits"  # a call waits for a person's approval; the episode can be resumed
    ABORT = "abort"  # the caller gave up

    @property
    def cut(self) -> bool:
        """Whether a limit of tokens ended the text, so that a call at its end may be half
        written.
        """
        return self in (StopReason.LENGTH, StopReason.CONTEXT)


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """A response in its parts; `text.response` makes it and says by which rule.

    `thinking` is None if there was none. `answer` is what follows the thinking, without tool calls
    and blanks around it; it is empty while the thinking is open. `thinking_closed` is True also
    without thinking. `malformed_calls` holds the raw text of calls that could not be read.
    `reopened`: the answer ends inside another thought. `attempts` holds good and malformed calls in
    the order in which they were written; empty if whoever made the parts knows of no malformed
    ones.
    """

    thinking: str | None
    answer: str
    tool_calls: tuple[ToolCall, ...] = ()
    thinking_closed: bool = True
    malformed_calls: tuple[str, ...] = ()
    reopened: bool = False
    attempts: tuple[ToolCall | str, ...] = field(default=(), compare=False)

    @property
    def calls_in_order(self) -> tuple[ToolCall | str, ...]:
        """Every call that was tried: a `ToolCall`, or the raw text of a malformed one."""
        return self.attempts or (*self.tool_calls, *self.malformed_calls)

    @property
    def open(self) -> bool:
        """Whether the response ends inside a thought, its first or a later one."""
        return self.reopened or not self.thinking_closed

    @property
    def final(self) -> str:
        """The answer that a verifier judges; "" if there is none or another thought is still open
        behind it.
        """
        return "" if self.reopened else self.answer


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a model, as a policy gives it. `parts` is the turn taken apart, `text` the turn
    as it was written.

    `ids` are the turn's tokens with the end token; `sampled_mask`, `logprobs` and `weight_versions`
    run parallel to them (see `Rollout`), and all four are empty for a policy that is not
    token-exact. `num_thinking` counts tokens of thought; it is `estimated` (a share by characters)
    where a server does not count them. `finish` is a server's own word for how the answer ended.
    `failure` says why there is no turn: the server failed, and nothing here is the model's.
    """

    parts: ParsedResponse
    stop_reason: StopReason
    text: str = ""
    num_tokens: int = 0
    num_thinking: int = 0
    seconds: float = 0.0
    ids: Sequence[int] = ()
    sampled_mask: Sequence[int] = ()
    logprobs: Sequence[float] = ()
    weight_versions: Sequence[int] = ()
    estimated: bool = False
    finish: str = ""
    failure: str = ""

    @property
    def finished(self) -> bool:
        return self.stop_reason is StopReason.END

    @property
    def answer(self) -> str:
        """What follows the thinking, without calls; "" while the thinking is open."""
        return self.parts.answer

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return self.parts.tool_calls

    @property
    def malformed(self) -> tuple[str, ...]:
        return self.parts.malformed_calls


@dataclass(frozen=True, slots=True)
class Response:
    """What a verifier sees of a rollout: the last assistant turn and the calls before it.

    `text` is the last assistant turn, thinking included. `thinking_open` says that the chat
    template had already written `<think>`, so the text starts inside the thinking. `calls` are the
    tool calls made, in order, and `results` what the tools returned. `malformed_calls` counts the
    calls of earlier turns that could not be read and that nobody answered. `parts` is the turn
    taken apart; None if nobody has done so yet (`text.response.parts_of` gives them either way).
    `turns` are the model's earlier turns. `failure` says which part of the machinery failed: the
    verdict is then an infra_error.
    """

    text: str
    finished: bool = True
    thinking_open: bool = False
    calls: tuple[ToolCall, ...] = ()
    results: tuple[str, ...] = ()
    malformed_calls: int = 0
    parts: ParsedResponse | None = None
    failure: str = ""
    turns: tuple[ParsedResponse, ...] = ()


@dataclass(slots=True)
class TokenSegment:
    """A prompt and what followed it, token for token, up to a compaction or the end.

    All lists below `completion_ids` have its length. `sampled_mask` is 1 where the model chose the
    token and 0 where the environment wrote it (tool results, forced closings); `sampler_logprobs`
    is 0.0 there.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    sampled_mask: list[int]
    sampler_logprobs: list[float]
    weight_versions: list[int]


@dataclass(slots=True)
class Rollout:
    """One sampled completion, token for token (design promise 2), and later what it earned.

    The token columns are those of its first `TokenSegment`, whose prompt its group shares.
    `segments` are the later ones: where the context was full, a compacted prompt begins the
    next, and where a program made the rollout, a history that it rewrote. `text` is that of all of
    them, later prompts included. `rewards` holds each term apart; `reward` is their sum, None
    after an infra error.
    """

    problem_id: str
    domain: str
    group: int
    prompt_ids: list[int]
    completion_ids: list[int]
    sampled_mask: list[int]
    sampler_logprobs: list[float]
    weight_versions: list[int]
    stop_reason: StopReason
    text: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    rewards: dict[str, float] = field(default_factory=dict)
    reward: float | None = None
    budget: int | None = None  # the thinking budget it was sampled under
    prompt: str = ""  # the rendered prompt, for readers
    expected: Any = None  # `Problem.expected`, for readers
    segments: list[TokenSegment] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.stop_reason is StopReason.END

    @property
    def all_segments(self) -> list[TokenSegment]:
        """The first segment and those behind compactions."""
        columns = (self.completion_ids, self.sampled_mask, self.sampler_logprobs, self.weight_versions)
        return [TokenSegment(self.prompt_ids, *columns), *self.segments]

    @property
    def num_tokens(self) -> int:
        """Tokens after the prompts of all segments."""
        return len(self.completion_ids) + sum(len(s.completion_ids) for s in self.segments)

    @property
    def num_sampled(self) -> int:
        return sum(self.sampled_mask) + sum(sum(s.sampled_mask) for s in self.segments)

    def to_dict(self) -> dict[str, Any]:
        return {
            "problem_id": self.problem_id,
            "domain": self.domain,
            "group": self.group,
            **({"prompt": self.prompt} if self.prompt else {}),
            **({} if self.expected is None else {"expected": self.expected}),
            "text": self.text,
            "verdicts": [v.to_dict() for v in self.verdicts],
            "rewards": self.rewards,
            "reward": self.reward,
            "stop_reason": self.stop_reason.value,
            **({} if self.budget is None else {"budget": self.budget}),
            **({"tokens": self.num_tokens} if self.segments else {}),
            "prompt_ids": self.prompt_ids,
            "completion_ids": self.completion_ids,
            "sampled_mask": self.sampled_mask,
            "sampler_logprobs": self.sampler_logprobs,
            "weight_versions": self.weight_versions,
            **({"segments": [asdict(s) for s in self.segments]} if self.segments else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rollout:
        known = {k: v for k, v in data.items() if k in cls.__slots__}
        return cls(
            **{
                **known,
                "stop_reason": StopReason(data["stop_reason"]),
                "verdicts": [Verdict.from_dict(v) for v in data.get("verdicts", [])],
                "segments": [TokenSegment(**s) for s in data.get("segments", [])],
            }
        )
