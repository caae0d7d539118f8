"""Problems in, rollouts out: groups of samples, with tool calls answered in between.

A rollout is kept as the tokens that were sampled and the tokens an environment wrote; the text beside
them is for readers and verifiers, and no token is ever made from it again (design promise 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qwq.engine.batch import Completion, Request, generate
from qwq.engine.sampler import SamplingParams
from qwq.engine.thinking import Thinking
from qwq.envs import Environment, answer_calls, environment_for
from qwq.model.transformer import Transformer
from qwq.text.response import parse
from qwq.text.template import ChatFormat
from qwq.types import Problem, Response, Rollout, StopReason, ToolCall


@dataclass(slots=True)
class _Episode:
    """One sample's dealings with its environment."""

    environment: Environment | None
    turn_start: int = 0
    calls: list[ToolCall] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    malformed: int = 0


class _ToolLoop:
    """Decides, when a turn ends, whether the sample goes on with a tool's result."""

    def __init__(self, chat: ChatFormat, problems: Sequence[Problem], samples: int) -> None:
        self.chat = chat
        self.tools = [p.tool_schemas for p in problems]
        self.episodes = [[_Episode(environment_for(p)) for _ in range(samples)] for p in problems]

    def __call__(self, request: int, sample: int, ids: list[int]) -> list[int] | StopReason | None:
        episode = self.episodes[request][sample]
        if episode.environment is None:
            return None
        text = self.chat.tokenizer.decode(_without_end(ids[episode.turn_start :], self.chat.eos_ids))
        parsed = parse(text, thinking_open=self.chat.thinking_open, tools=self.tools[request])
        episode.malformed += len(parsed.malformed_calls)
        if not parsed.tool_calls:
            return None
        if len(episode.calls) >= episode.environment.max_calls:
            return StopReason.TURNS
        results = [m.content for m in answer_calls(episode.environment, parsed.tool_calls)]
        episode.calls += parsed.tool_calls
        episode.results += results
        more = self.chat.tool_result_ids(results)
        episode.turn_start = len(ids) + len(more)
        return more


def _without_end(ids: list[int], eos_ids: Sequence[int]) -> list[int]:
    return ids[:-1] if ids and ids[-1] in eos_ids else ids


# Called with the position (group after group), the problem and what a verifier sees, as soon as a sample has ended.
OnResponse = Callable[[int, Problem, Response], None]


def collect(
    model: Transformer,
    chat: ChatFormat,
    problems: Sequence[Problem],
    params: SamplingParams,
    *,
    samples: int = 1,
    seed: int = 0,
    version: int = 0,
    max_rows: int = 256,
    first_group: int = 0,
    budgets: Sequence[int | None] | None = None,
    on_response: OnResponse | None = None,
) -> tuple[list[Rollout], list[Response]]:
    """`samples` rollouts of each problem, group after group, and what a verifier sees of each.

    `version` is the number of the weights that sampled; every token carries it. `budgets` are thinking budgets in tokens, one a
    problem (None: no budget). `on_response` hears of each sample while others still decode.
    """
    requests = [
        Request(chat.prompt_ids(p.messages, p.tools), samples, seed * 1_000_003 + (first_group + g) * 1009)
        for g, p in enumerate(problems)
    ]
    loop = _ToolLoop(chat, problems, samples)
    responses: list[Response | None] = [None] * (len(problems) * samples)

    def done(request: int, sample: int, c: Completion) -> None:
        at, episode = request * samples + sample, loop.episodes[request][sample]
        responses[at] = response = _response(chat, episode, c)
        if on_response:
            on_response(at, problems[request], response)

    def thinking(request: int) -> Thinking | None:
        budget = budgets[request] if budgets else None
        if budget is None:
            return None
        return Thinking(chat.tokenizer, opened=chat.thinking_open, budget=budget, max_new_tokens=params.max_new_tokens)

    completions = generate(
        model, requests, params, chat.eos_ids, max_rows=max_rows, continue_with=loop, on_done=done,
        thinking=thinking if budgets and any(b is not None for b in budgets) else None,
    )  # fmt: skip
    rollouts = [
        Rollout(
            problem_id=problem.id,
            domain=problem.domain,
            group=first_group + g,
            prompt_ids=list(request.prompt_ids),
            completion_ids=c.ids,
            sampled_mask=c.sampled_mask,
            sampler_logprobs=c.logprobs,
            weight_versions=[version] * len(c.ids),
            stop_reason=c.stop_reason,
            text=chat.tokenizer.decode(c.ids),
            budget=budgets[g] if budgets else None,
            prompt=chat.tokenizer.decode(request.prompt_ids),
            expected=problem.expected,
        )
        for g, (problem, request, group) in enumerate(zip(problems, requests, completions, strict=True))
        for c in group
    ]
    return rollouts, [r for r in responses if r is not None]


def _response(chat: ChatFormat, episode: _Episode, c: Completion) -> Response:
    return Response(
        chat.tokenizer.decode(_without_end(c.ids[episode.turn_start :], chat.eos_ids)),
        finished=c.stop_reason is StopReason.END,
        thinking_open=chat.thinking_open,
        calls=tuple(episode.calls),
        results=tuple(episode.results),
        malformed_calls=episode.malformed,
    )
