"""When a model is asked to sum up turns that are about to leave its context, and what came of it.

Only where whole turns would go that no summary covers, and where the budgets leave room: the answer
is a model call of its own. It never ends an episode: without a summary the rule alone decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qwq.engine.sampler import SamplingParams
from qwq.errors import ModelError, UsageError
from qwq.rollout.budget import LAST_SHARE
from qwq.rollout.compact import KEPT_TURNS, steps_of_episode
from qwq.rollout.context import CHARS_PER_TOKEN, COMPACT_AT, compaction, next_ids
from qwq.rollout.policy import Policy, TurnRequest
from qwq.rollout.summary import TRIES, Summary, SummaryAsk, form_for
from qwq.rollout.under_way import LiveEpisode, chars_of
from qwq.types import Message, StopReason, Turn

CALLS_LEFT = 3  # of the model: the summary, a turn with tools, the last one
STREAM = 1 << 20  # of random numbers: turns draw from streams below it


def summary_ask(
    live: LiveEpisode, messages: Sequence[Message], policy: Policy, params: SamplingParams, *, exact: bool
) -> SummaryAsk | None:
    """The summary to ask for before `messages` follow the last turn; None where there is none to
    ask for.
    """
    context, limits = policy.context, live.limits
    if live.no_summary or context is None or not _calls_left(live):
        return None
    more = next_ids(live, messages, policy, exact)
    covered = live.summary.turns if live.summary is not None else 0
    by_rule = compaction(live, messages, policy, more, live.summary)
    if by_rule is None or by_rule.dropped_turns <= covered:
        return None
    room = min(context // 2, params.max_new_tokens)
    if limits.max_sampled is not None:
        room = min(room, int(LAST_SHARE * limits.max_sampled) - live.sampled)
    steps = steps_of_episode(live.episode, messages)
    longest = form_for([ident for step in steps[:-KEPT_TURNS] for ident in step.calls], room)
    if longest is None:
        return None
    # Turns that have to go because the summary needs room are summed up too.
    plan = compaction(live, messages, policy, more, replace(longest.longest(), turns=covered))
    if plan is None or plan.tokens >= COMPACT_AT * context:
        return None
    going = steps[covered : plan.dropped_turns]
    known = [f.call for f in live.summary.facts] if live.summary is not None else []
    form = form_for(list(dict.fromkeys([*known, *(ident for step in going for ident in step.calls)])), room)
    if form is None:
        return None
    ask = SummaryAsk(form, going, plan.dropped_turns, live.summary, room, list(messages))
    return ask if _prepared(live, ask, policy) else None


def summary_request(live: LiveEpisode, ask: SummaryAsk, policy: Policy, params: SamplingParams) -> TurnRequest:
    """The turn that writes it. A model that runs here does not think about it first: its form
    bounds the tokens. Another server gets a budget for thoughts only where the run has one.
    """
    episode, job = live.episode, live.episode.job
    return TurnRequest(
        live, replace(params, max_new_tokens=ask.room), ask.asked, seed=job.seed, stream=job.stream + STREAM,
        offset=sum(turn.num_tokens for turn in episode.summaries),
        thinking_budget=0 if policy.token_exact or job.thinking_budget is not None else None,
        schema=ask.form.schema, keep=False,
    )  # fmt: skip


def take_summary(live: LiveEpisode, ask: SummaryAsk, turn: Turn) -> Summary | str:
    """The summary that a turn holds, or what is wrong with it."""
    live.episode.summaries.append(turn)
    live.sampled += turn.num_tokens
    if turn.failure:
        return f"the server failed: {turn.failure}"
    read = ask.form.read(turn.parts.answer or turn.text, ask.turns)
    if isinstance(read, str) and turn.stop_reason is StopReason.LENGTH:
        return f"it was cut at {turn.num_tokens:,} tokens"
    return read


def note_outcome(live: LiveEpisode, ask: SummaryAsk, outcome: Summary | str, policy: Policy) -> bool:
    """Keep a summary; whether the model is to be asked once more."""
    live.asks = None
    if isinstance(outcome, Summary):
        live.summary = outcome
        return False
    ask.faults.append(outcome)
    live.no_summary = len(ask.faults) >= TRIES
    if live.no_summary or not _calls_left(live) or not _prepared(live, ask, policy):
        return False
    live.asks = ask
    return True


def _calls_left(live: LiveEpisode) -> bool:
    most = live.limits.max_turns
    return live.episode.forced is None and (most is None or most - live.episode.num_model_calls >= CALLS_LEFT)


def _prepared(live: LiveEpisode, ask: SummaryAsk, policy: Policy) -> bool:
    """Whether what goes can be asked about; each failure halves how much of it is shown, as a
    server may count more tokens than were estimated.
    """
    assert policy.context is not None
    chat = policy.chat if live.exact else None

    def count(messages: Sequence[Message]) -> int:
        return len(chat.prompt_ids(messages)) if chat is not None else int(chars_of(messages) / CHARS_PER_TOKEN) + 1

    try:
        asked = ask.prompt(live.episode.problem.messages, count, (policy.context - ask.room) >> len(ask.faults))
    except (ModelError, UsageError):  # a template that writes no conversation without tools
        return False
    ask.asked = asked or []
    return asked is not None
