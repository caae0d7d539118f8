"""Groups of rollouts: several episodes of each problem, in order, as training reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from qwq.engine.sampler import SamplingParams
from qwq.rollout.budget import NO_LIMITS, EpisodeLimits
from qwq.rollout.episode import Episode, EpisodeJob, Hooks, play
from qwq.rollout.policy import Policy
from qwq.types import Problem, Response, Rollout

# Called with the position (group after group), the problem and what a verifier sees, as soon as a
# sample has ended.
OnResponse = Callable[[int, Problem, Response], None]


def _rollout(episode: Episode, decode: Callable[[Sequence[int]], str]) -> Rollout:
    """The rollout of an episode. Its text, for people, shows the prompts of later segments too."""
    rollout = episode.rollout(episode.job.key.group)
    first, *later = rollout.all_segments
    rollout.prompt, rollout.text = decode(first.prompt_ids), decode(first.completion_ids)
    for segment in later:
        rollout.text += decode(segment.prompt_ids) + decode(segment.completion_ids)
    return rollout


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rollout belongs: its position among all, and its group's number in the stage."""

    at: int
    group: int


def group_seed(seed: int, group: int) -> int:
    """The seed of a group's random streams; each sample of the group has a stream of its own."""
    return seed * 1_000_003 + group * 1009


def collect(
    policy: Policy,
    problems: Sequence[Problem],
    params: SamplingParams,
    *,
    samples: int = 1,
    seed: int = 0,
    first_group: int = 0,
    budgets: Sequence[int | None] | None = None,
    limits: EpisodeLimits = NO_LIMITS,
    on_response: OnResponse | None = None,
) -> tuple[list[Rollout], list[Response]]:
    """`samples` rollouts of each problem, group after group, and what a verifier sees of each.

    `params.max_new_tokens` bounds a whole rollout, results of tools included. `budgets` are
    thinking budgets in tokens, one a problem (None: no budget). `on_response` is called with each
    sample while others still decode. ModelError for a policy without tokens.
    """
    jobs = [
        EpisodeJob(
            problem, number, group_seed(seed, first_group + g), stream=number,
            thinking_budget=budgets[g] if budgets else None, key=Place(g * samples + number, first_group + g),
        )
        for g, problem in enumerate(problems)
        for number in range(samples)
    ]  # fmt: skip
    episodes: dict[int, Episode] = {}
    responses: dict[int, Response] = {}

    def done(episode: Episode) -> None:
        at = episode.job.key.at
        episodes[at], responses[at] = episode, episode.response()
        if on_response:
            on_response(at, episode.problem, responses[at])

    bound = replace(limits, max_tokens=params.max_new_tokens)
    for _ in play(policy, iter(jobs), params, limits=bound, logprobs=True, exact=True, hooks=Hooks(done)):
        pass
    assert policy.chat is not None
    decode = policy.chat.tokenizer.decode
    rollouts = [_rollout(e, decode) for _, e in sorted(episodes.items())]
    return rollouts, [responses[at] for at in sorted(responses)]
