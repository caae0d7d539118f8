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
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from qwq.common.imports import user_code
from qwq.engine.sampler import SamplingParams
from qwq.envs.base import Environment, in_background, make_environment
from qwq.errors import ConfigError, InfraError, ModelError
from qwq.rollout.answers import AnswerPlan, Errands, plan_answers, run_calls
from qwq.rollout.budget import NO_LIMITS, EpisodeLimits, goes_in_circles, step_key
from qwq.rollout.policy import Policy, TurnRequest
from qwq.text.response import written
from qwq.text.template import ChatFormat
from qwq.types import Message, ParsedResponse, Problem, Response, Rollout, StopReason, ToolCall, Turn

LIVE_PER_TURN = 4  # episodes under way for each turn that may be made at once; the others wait for their tools


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
    `messages` are the turns and results after the problem's own messages. `calls` and `results` run
    parallel; a malformed call is in neither and counted in `num_malformed`. `failure` says why
    there is no sample: server or tool machinery failed.
    """

    job: EpisodeJob
    prompt_ids: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    sampled_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    num_malformed: int = 0
    stop_reason: StopReason | None = None
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
        return len(self.ids) if self.exact else sum(t.num_tokens for t in self.turns)

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

    def rollout(self, group: int = 0, *, text: str = "", prompt: str = "") -> Rollout:
        """The sample as training reads it, with `text` and `prompt` (as rendered) for people.

        ModelError where its tokens are not known.
        """
        if not self.exact:
            raise ModelError(
                f"the tokens of {self.problem.id} are not known: train on samples of a policy that is token-exact"
            )
        assert self.stop_reason is not None
        return Rollout(
            problem_id=self.problem.id,
            domain=self.problem.domain,
            group=group,
            prompt_ids=self.prompt_ids,
            completion_ids=self.ids,
            sampled_mask=self.sampled_mask,
            sampler_logprobs=self.logprobs,
            weight_versions=self.versions,
            stop_reason=self.stop_reason,
            text=text,
            budget=self.job.thinking_budget,
            prompt=prompt,
            expected=self.problem.expected,
        )


@dataclass(frozen=True, slots=True)
class Hooks:
    """What `play` calls as it goes: `done` when an episode has ended, `text` with a turn's text
    while it is written (by a policy that writes it here), `messages` with the answers to a turn's
    calls.
    """

    done: Callable[[Episode], None] | None = None
    text: Callable[[Episode, str], None] | None = None
    messages: Callable[[Episode, Sequence[Message]], None] | None = None


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


@dataclass(slots=True)
class _Live:
    """An episode under way."""

    episode: Episode
    environment: Environment | None
    exact: bool
    tools: Sequence[Any] = ()
    schemas: Sequence[Any] = ()  # the environment's own, () where it leaves those of the problem
    started: float = field(default_factory=time.monotonic)
    num_calls: int = 0  # attempts, malformed ones too
    told: bool = False  # that no calls are left
    steps: list[str] = field(default_factory=list)

    def out_of_turns(self, limits: EpisodeLimits) -> StopReason | None:
        """Why no further turn follows; None where one may."""
        if limits.max_seconds is not None and time.monotonic() - self.started >= limits.max_seconds:
            return StopReason.TIME
        if limits.max_turns is not None and len(self.episode.turns) >= limits.max_turns:
            return StopReason.TURNS
        return None

    def spent(self, limits: EpisodeLimits, made: Environment) -> StopReason | None:
        """Why a turn with calls is the last; None where they may be answered."""
        if self.num_calls >= made.max_calls and (self.told or not limits.last_turn):
            return StopReason.TURNS
        return self.out_of_turns(limits)

    def plan(self, attempts: Sequence[ToolCall | str], made: Environment, limits: EpisodeLimits) -> AnswerPlan:
        """What the turn's calls are answered with."""
        plan = plan_answers(attempts, made, self.tools, limits, self.num_calls)
        self.told = self.num_calls >= made.max_calls
        self.num_calls += len(attempts)
        if self.told and not self.exact:
            self.tools = ()  # the last turn; tokens cannot take back the tools of their prompt
        return plan

    def record(self, attempts: Sequence[ToolCall | str], texts: Sequence[str]) -> list[Message]:
        """Note calls and answers; the answers as messages."""
        for call, text in zip(attempts, texts, strict=True):
            if isinstance(call, str):
                self.episode.num_malformed += 1
            else:
                self.episode.calls.append(call)
                self.episode.results.append(text)
        self.steps.append(step_key(attempts, texts))
        # A server pairs tool messages with the calls that it has read; others are answered by the
        # user.
        roles = ["tool" if self.exact or isinstance(c, ToolCall) else "user" for c in attempts]
        return [Message(role, text) for role, text in zip(roles, texts, strict=True)]

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


class _Player:
    """The state of one `play`: which episodes wait for their turn, and which for their tools."""

    def __init__(
        self, policy: Policy, jobs: Iterator[EpisodeJob], params: SamplingParams, limits: EpisodeLimits,
        concurrency: int | None, loop_tokens: int, logprobs: bool, exact: bool, hooks: Hooks,
    ) -> None:  # fmt: skip
        self.policy, self.jobs, self.params, self.limits = policy, jobs, params, limits
        self.loop_tokens, self.logprobs, self.exact, self.hooks = loop_tokens, logprobs, exact, hooks
        self.most = None if concurrency is None else LIVE_PER_TURN * concurrency
        self.ready: deque[_Live] = deque()
        self.asked = 0  # turns that the policy is making
        self.live: dict[int, _Live] = {}
        self.errands: Errands[_Live] = Errands()
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
        live = _Live(episode, made, exact, job.problem.tools)
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

    def _request(self, live: _Live) -> TurnRequest:
        episode, params = live.episode, self.params
        self.asked += 1
        if self.limits.max_tokens is not None:
            left = self.limits.max_tokens - episode.num_tokens
            params = params if left >= params.max_new_tokens else replace(params, max_new_tokens=left)
        return TurnRequest(
            live,
            params,
            [*episode.problem.messages, *episode.messages],
            live.tools,
            prompt_ids=[*episode.prompt_ids, *episode.ids] if live.exact else None,
            seed=episode.job.seed,
            stream=episode.job.stream,
            offset=episode.num_tokens,
            thinking_budget=episode.job.thinking_budget,
            loop_tokens=self.loop_tokens,
            logprobs=self.logprobs,
            keep=live.environment is not None,
            on_text=None if self.hooks.text is None else partial(self.hooks.text, episode),
        )

    # -- what a turn leads to ----------------------------------------------------------------------

    def take(self, live: _Live, turn: Turn) -> None:
        """A turn has been made."""
        self.asked -= 1
        episode, made = live.episode, live.environment
        episode.turns.append(turn)
        if turn.failure:
            return self._finish(live, StopReason.ABORT, turn.failure)
        if live.exact:
            episode.append(turn.ids, turn.sampled_mask, turn.logprobs, turn.weight_versions)
        episode.messages.append(Message("assistant", written(turn.parts), turn.calls))
        if made is None or not turn.finished:
            return self._finish(live, turn.stop_reason)
        made.turn = turn.parts
        attempts = turn.parts.calls_in_order
        if not attempts:
            return self._ask(live, made.next_messages(turn.parts), self._was_told)
        stop = live.spent(self.limits, made)
        if stop is not None:
            return self._finish(live, stop)
        plan = live.plan(attempts, made, self.limits)
        return self._ask(live, run_calls(made, plan.runs), partial(self._answered, plan))

    def _answered(self, plan: AnswerPlan, live: _Live, messages: Sequence[Message]) -> None:
        assert live.environment is not None
        episode, made = live.episode, live.environment
        answers = live.record(plan.attempts, plan.texts(made, messages))
        if self.hooks.messages is not None:
            self.hooks.messages(episode, answers)
        repeats = self.limits.max_repeats
        circles = repeats is not None and goes_in_circles(live.steps, repeats)
        if made.over or circles:
            episode.messages += answers
            return self._finish(live, StopReason.LOOP if circles else StopReason.TURNS)
        return self._continue(live, answers)

    def _was_told(self, live: _Live, messages: Sequence[Message]) -> None:
        """The environment's word after a turn without calls."""
        if not messages or (live.environment is not None and live.environment.over):
            return self._finish(live, StopReason.END)
        stop = live.out_of_turns(self.limits)
        return self._finish(live, stop) if stop else self._continue(live, list(messages))

    def _was_reset(self, live: _Live, _: None) -> None:
        assert live.environment is not None
        live.schemas = live.environment.schemas()
        self.ready.append(live)

    def _continue(self, live: _Live, messages: list[Message]) -> None:
        """The next turn follows these messages, where they fit."""
        episode = live.episode
        if live.tools_changed() and live.exact:
            if self.exact:
                raise ConfigError(
                    f"{episode.problem.id}: the environment's tools change between turns, and so would the tokens of "
                    "its prompt: train with an environment that keeps them"
                )
            live.no_longer_exact()
        stop = self._append(live, messages) if live.exact else None
        if stop is None and self.limits.max_tokens is not None and episode.num_tokens >= self.limits.max_tokens:
            stop = StopReason.LENGTH
        if stop is not None:
            return self._finish(live, stop)
        episode.messages += messages
        self.ready.append(live)
        return None

    def _append(self, live: _Live, messages: list[Message]) -> StopReason | None:
        """Add the messages' tokens to the episode's. A reason to stop where they have no room."""
        assert self.policy.chat is not None
        episode = live.episode
        try:
            more = self.policy.chat.next_turn_ids(messages)
        except ModelError:
            if self.exact:
                raise
            live.no_longer_exact()
            return None
        if self.limits.max_tokens is not None and len(more) >= self.limits.max_tokens - len(episode.ids):
            return StopReason.LENGTH
        context = self.policy.context
        if context is not None and len(more) >= context - len(episode.prompt_ids) - len(episode.ids):
            return StopReason.CONTEXT
        version = episode.versions[-1] if episode.versions else self.policy.version
        episode.append(more, [0] * len(more), (), [version] * len(more))
        return None

    def _finish(self, live: _Live, reason: StopReason, failure: str = "") -> None:
        episode = live.episode
        episode.stop_reason, episode.failure = reason, failure
        episode.seconds = time.monotonic() - live.started
        self.live.pop(id(live), None)
        if live.environment is not None:
            self.closing.append(in_background(live.environment.close()))
        if self.hooks.done is not None:
            self.hooks.done(episode)
        self.done.append(episode)

    def _ask(self, live: _Live, work: Coroutine[Any, Any, Any], then: Callable[[_Live, Any], None]) -> None:
        """Run an environment's coroutine. Its InfraError ends the episode without a sample; other
        errors are the program's.
        """
        assert live.environment is not None

        cls = type(live.environment)

        def came(live: _Live, future: Future[Any]) -> None:
            name, reset, error = cls.__name__, cls.reset, future.exception()
            if isinstance(error, InfraError):
                return self._finish(live, StopReason.ABORT, f"environment {name}: {error}")
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
