"""One sample's life, and the one loop that plays it: turns of a policy, calls answered in between,
until a limit or the end.

RL, evaluation, distillation and `qwq chat` all come through `play`. The life of an episode: its
environment is reset; its turn is asked of the policy; a turn with calls is answered call by call,
in order; the results' tokens follow the turn's, and the next turn continues from all of them. No
token is ever made from text again (design promise 2). A slow tool holds up its own episode only;
environments that are `instant` are waited for, so that with them the order of all work is a
function of the seed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from qwq.common.imports import user_code
from qwq.engine.sampler import SamplingParams
from qwq.envs.base import Parked, in_background, make_environment
from qwq.errors import ConfigError, InfraError
from qwq.rollout.answers import AnswerPlan, Errands, run_calls
from qwq.rollout.ask_summary import note_outcome, summary_ask, summary_request, take_summary
from qwq.rollout.budget import NO_LIMITS, EpisodeLimits, Note
from qwq.rollout.context import Compacted, go_on
from qwq.rollout.history import turn_message
from qwq.rollout.policy import Policy, TurnRequest
from qwq.rollout.sample import Episode, EpisodeJob
from qwq.rollout.summary import Summary
from qwq.rollout.under_way import LiveEpisode
from qwq.text.response import parse_answer
from qwq.text.template import ChatFormat
from qwq.types import Message, Problem, StopReason, Turn

LIVE_PER_TURN = 4  # episodes under way for each turn that may be made at once; the others wait for their tools


@dataclass(frozen=True, slots=True)
class Hooks:
    """What `play` calls as it goes, in its caller's thread.

    `done`: an episode has ended. `text`: a turn's text while it is written (by a policy that writes
    it here). `turn`: a turn is complete. `plan`: before a turn's calls run. `messages`: the answers
    to a turn's calls. `note`: what is told at the end of the last answer, before `messages`.
    `clock` counts the seconds that the limits bound. `compacted`: see `context.Compacted`.
    `summary`: the model has summed up the first turns (so many), which are about to leave its
    context, or what is wrong with what it wrote; without this hook turns go by the rule alone.
    """

    done: Callable[[Episode], None] | None = None
    text: Callable[[Episode, str], None] | None = None
    turn: Callable[[Episode, Turn], None] | None = None
    plan: Callable[[Episode, AnswerPlan], None] | None = None
    messages: Callable[[Episode, Sequence[Message]], None] | None = None
    note: Callable[[Episode, Note], None] | None = None
    clock: Callable[[], float] = time.monotonic
    compacted: Compacted | None = None
    summary: Callable[[Episode, Turn, int, Summary | str], None] | None = None


NO_HOOKS = Hooks()


def play(
    policy: Policy,
    jobs: Iterator[EpisodeJob],
    params: SamplingParams,
    *,
    limits: EpisodeLimits = NO_LIMITS,
    concurrency: int | None = None,
    loop_tokens: int = 0,
    logprobs: bool = False,
    exact: bool = False,
    hooks: Hooks = NO_HOOKS,
) -> Iterator[Episode]:
    """Episodes in the order in which they end.

    `params.max_new_tokens` bounds each turn, `limits` the whole episode. `concurrency`: turns made
    at once; None leaves it to the policy. `loop_tokens`: how long an exact repetition in a turn may
    get, 0 for any length. `logprobs`: keep the log-probabilities of sampled tokens, for training.
    `exact`: raise ModelError where a template cannot continue from tokens; otherwise such a
    conversation is rendered again for each turn.

    Raises ConfigError for an environment that answers other than its protocol says.
    """
    player = _Player(policy, jobs, params, limits, concurrency, loop_tokens, logprobs, exact, hooks)
    try:
        for request, turn in policy.generate(player.next_request, concurrency):
            player.take(request.key, turn)
            yield from player.ended()
        yield from player.ended()
    finally:
        player.close()


class _Player:
    """The state of one `play`: which episodes wait for their turn, and which for their tools."""

    def __init__(
        self, policy: Policy, jobs: Iterator[EpisodeJob], params: SamplingParams, limits: EpisodeLimits,
        concurrency: int | None, loop_tokens: int, logprobs: bool, exact: bool, hooks: Hooks,
    ) -> None:  # fmt: skip
        self.policy, self.jobs, self.params, self.limits = policy, jobs, params, limits
        self.loop_tokens, self.logprobs, self.exact, self.hooks = loop_tokens, logprobs, exact, hooks
        self.most = None if concurrency is None else LIVE_PER_TURN * concurrency
        self.ready: deque[LiveEpisode] = deque()
        self.asked = 0  # turns that the policy is making
        self.live: dict[int, LiveEpisode] = {}
        self.errands: Errands[LiveEpisode] = Errands()
        self.done: list[Episode] = []
        self.closing: list[Future[None]] = []
        self._last_problem: Problem | None = None
        self._last_prompt: list[int] = []

    # -- asked by the policy -----------------------------------------------------------------------

    def next_request(self) -> TurnRequest | None:
        """The next turn to be made. Waits for a tool only if the policy has nothing else to do."""
        while True:
            self.errands.take()
            if self.ready:
                return self._request(self.ready.popleft())
            full = self.most is not None and len(self.live) >= self.most
            job = None if full else next(self.jobs, None)
            if job is not None:
                self._begin(job)
            elif self.errands.num_waiting and not self.asked:
                self.errands.take(wait=True)
            else:
                return None

    def _begin(self, job: EpisodeJob) -> None:
        exact, chat, made = self.policy.token_exact, self.policy.chat, job.environment or make_environment(job.problem)
        episode = Episode(job, exact=exact)
        live = LiveEpisode(episode, made, exact, self.hooks.clock, self.limits, job.problem.tools)
        self.live[id(live)] = live
        if chat is not None:
            episode.thinking_open = chat.thinking_open
            episode.prompt_ids = list(self._prompt(chat, job.problem) if job.prompt_ids is None else job.prompt_ids)
        if made is None:
            self.ready.append(live)
            return
        if self.limits.call_timeout_s is not None:
            made.timeout_s = self.limits.call_timeout_s
        if self.limits.max_calls is not None:
            made.max_calls = self.limits.max_calls
        self._ask(live, made.reset(job.problem), self._was_reset)

    def _prompt(self, chat: ChatFormat, problem: Problem) -> list[int]:
        """A problem's prompt; its samples, which follow each other, share it."""
        if problem is not self._last_problem:
            self._last_prompt = chat.prompt_ids(problem.messages, problem.tools)
            self._last_problem = problem
        return self._last_prompt

    def _request(self, live: LiveEpisode) -> TurnRequest:
        episode, params = live.episode, self.params
        self.asked += 1
        if live.asks is not None:
            return summary_request(live, live.asks, self.policy, params)
        left = live.tokens_left()
        if left is not None and left < params.max_new_tokens:
            params = replace(params, max_new_tokens=left)
        return TurnRequest(
            live,
            params,
            list(live.history),
            live.tools,
            prompt_ids=[*episode.prompt_ids, *episode.ids] if live.exact else None,
            seed=episode.job.seed,
            stream=episode.job.stream,
            offset=live.num_tokens,
            thinking_budget=episode.job.thinking_budget,
            loop_tokens=self.loop_tokens,
            logprobs=self.logprobs,
            keep=live.environment is not None,
            on_text=None if self.hooks.text is None else partial(self.hooks.text, episode),
        )

    # -- what a turn leads to ----------------------------------------------------------------------

    def take(self, live: LiveEpisode, turn: Turn) -> None:
        """A turn has been made."""
        self.asked -= 1
        if live.asks is not None:
            return self._sum_up(live, turn)
        episode, made = live.episode, live.environment
        episode.turns.append(turn)
        live.sampled += turn.num_tokens
        if turn.failure:
            return self._finish(live, StopReason.ABORT, turn.failure)
        if live.exact:
            episode.append(turn.ids, turn.sampled_mask, turn.logprobs, turn.weight_versions)
        live.add_turn(turn_message(turn.parts))
        if self.hooks.turn is not None:
            self.hooks.turn(episode, turn)
        if made is None or not turn.finished:
            return self._finish(live, turn.stop_reason)
        made.turn = turn.parts
        attempts = turn.parts.calls_in_order
        if episode.forced is not None and not attempts and parse_answer(turn.answer).calls_in_order:
            return self._finish(live, episode.forced)  # a call, written where none was on offer
        if not attempts:
            return self._ask(live, made.next_messages(turn.parts), self._was_told)
        stop = live.spent(made)
        if stop is not None:
            return self._finish(live, stop)
        plan = live.plan(attempts, made)
        if self.hooks.plan is not None:
            self.hooks.plan(episode, plan)
        return self._ask(live, run_calls(made, plan.runs), partial(self._answered, plan))

    def _answered(self, plan: AnswerPlan, live: LiveEpisode, messages: Sequence[Message]) -> None:
        assert live.environment is not None
        episode, made = live.episode, live.environment
        answers = live.record(plan.attempts, plan.texts(made, messages))
        stop = live.circles()
        if stop is None and not made.over:
            for note in live.notes(made):
                answers[-1] = replace(answers[-1], content=f"{answers[-1].content}\n[{note.text}]")
                if self.hooks.note is not None:
                    self.hooks.note(episode, note)
        if self.hooks.messages is not None:
            self.hooks.messages(episode, answers)
        if made.over or stop:
            episode.messages += answers
            return self._finish(live, stop or StopReason.TURNS)
        return self._continue(live, answers)

    def _was_told(self, live: LiveEpisode, messages: Sequence[Message]) -> None:
        """The environment's word after a turn without calls."""
        if not messages or (live.environment is not None and live.environment.over):
            return self._finish(live, StopReason.END)
        stop = live.out_of_turns()
        return self._finish(live, stop) if stop else self._continue(live, list(messages))

    def _was_reset(self, live: LiveEpisode, _: None) -> None:
        assert live.environment is not None
        live.schemas = live.environment.schemas()
        live.begin()
        self.ready.append(live)

    def _continue(self, live: LiveEpisode, messages: list[Message]) -> None:
        """The next turn follows these messages, where they fit."""
        episode = live.episode
        if live.tools_changed() and live.exact:
            if self.exact:
                raise ConfigError(
                    f"{episode.problem.id}: the environment's tools change between turns, and so would the tokens of "
                    "its prompt: train with an environment that keeps them"
                )
            live.no_longer_exact()
        if self.hooks.summary is not None:
            live.asks = summary_ask(live, messages, self.policy, self.params, exact=self.exact)
        return self.ready.append(live) if live.asks is not None else self._go_on(live, messages)

    def _sum_up(self, live: LiveEpisode, turn: Turn) -> None:
        """The model has written a summary, or something else."""
        ask = live.asks
        assert ask is not None and self.hooks.summary is not None
        outcome = take_summary(live, ask, turn)
        self.hooks.summary(live.episode, turn, ask.turns, outcome)
        again = note_outcome(live, ask, outcome, self.policy)
        return self.ready.append(live) if again else self._go_on(live, list(ask.messages))

    def _go_on(self, live: LiveEpisode, messages: list[Message]) -> None:
        episode = live.episode
        stop = go_on(live, messages, self.policy, exact=self.exact, compacted=self.hooks.compacted)
        if stop is None and self.limits.max_tokens is not None and live.num_tokens >= self.limits.max_tokens:
            stop = StopReason.LENGTH
        if stop is not None:
            return self._finish(live, stop)
        episode.messages += messages
        self.ready.append(live)
        return None

    def _finish(self, live: LiveEpisode, reason: StopReason, failure: str = "") -> None:
        episode = live.episode
        episode.stop_reason, episode.failure = reason, failure
        episode.seconds = live.seconds
        self.live.pop(id(live), None)
        if live.environment is not None:
            self.closing.append(in_background(live.environment.close()))
        if self.hooks.done is not None:
            self.hooks.done(episode)
        self.done.append(episode)

    def _ask(self, live: LiveEpisode, work: Coroutine[Any, Any, Any], then: Callable[[LiveEpisode, Any], None]) -> None:
        """Run an environment's coroutine. Its InfraError ends the episode without a sample, Parked
        leaves it where it is; other errors are the program's.
        """
        assert live.environment is not None

        cls = type(live.environment)

        def came(live: LiveEpisode, future: Future[Any]) -> None:
            name, reset, error = cls.__name__, cls.reset, future.exception()
            if isinstance(error, Parked):
                return self._finish(live, StopReason.WAITS)
            if isinstance(error, InfraError):
                return self._finish(live, StopReason.ABORT, f"environment {name}: {error}")
            if live.environment is not None and live.environment.own:
                return then(live, future.result())
            with user_code(f"environment {name}", reset, f", at problem {live.episode.problem.id}"):
                result = future.result()
            return then(live, result)

        self.errands.start(live, live.environment, work, came)

    def ended(self) -> Iterator[Episode]:
        """Episodes that have ended since the last look."""
        done, self.done = self.done, []
        yield from done

    def close(self) -> None:
        """Wait until every environment is closed, also those of episodes left before their end."""
        for live in self.live.values():
            if live.environment is not None:
                self.closing.append(in_background(live.environment.close()))
        for future in self.closing:
            future.exception()
