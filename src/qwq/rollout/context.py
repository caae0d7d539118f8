"""What the next turn continues from: the conversation so far, or, where it fills the context, what
a compaction leaves of it, which begins a new segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwq.errors import ModelError
from qwq.rollout.compact import Compaction, compact, keep_results, steps_of_episode
from qwq.rollout.policy import Policy
from qwq.rollout.sample import Episode
from qwq.rollout.summary import Summary
from qwq.rollout.under_way import LiveEpisode, chars_of
from qwq.types import Message, StopReason

COMPACT_AT = 0.8  # of the context
CHARS_PER_TOKEN = 3.0  # of messages to a server, which counts tokens only afterwards

# Called with a compaction before the next turn; keeps the results that leave the context.
Compacted = Callable[[Episode, Compaction, int], None]


def go_on(
    live: LiveEpisode, messages: Sequence[Message], policy: Policy, *, exact: bool, compacted: Compacted | None = None
) -> StopReason | None:
    """Put `messages` behind the last turn. A reason to stop where they have no room, even after a
    compaction.

    `exact`: raise ModelError where the template cannot continue from tokens. `compacted`: see
    `Compacted`; without it the environment keeps the results.
    """
    more, context = next_ids(live, messages, policy, exact), policy.context
    made = None
    for summary in dict.fromkeys((live.summary, None)):
        made = compaction(live, messages, policy, more, summary)
        # The last turns alone may leave no room for a summary.
        if made is None or context is None or made.tokens < COMPACT_AT * context:
            break
    if made is not None and context is not None and live.environment is not None:
        if compacted is not None:
            compacted(live.episode, made, context)
        else:
            keep_results(live.environment, live.episode, made)
        return _begin_segment(live, made.messages, policy, context)
    live.history += messages
    live.num_chars += chars_of(messages)
    return None if more is None else _append(live, more, policy)


def compaction(
    live: LiveEpisode, messages: Sequence[Message], policy: Policy, more: Sequence[int] | None, summary: Summary | None
) -> Compaction | None:
    """What `messages` behind the last turn would leave of the conversation, with `summary` in it;
    None where there is room for all, or nothing can go. `more` are their tokens, see `next_ids`.
    """
    episode, context = live.episode, policy.context
    if not live.limits.compact or live.environment is None or context is None:
        return None
    used = _used(live, messages, more)
    if used < COMPACT_AT * context:
        return None
    per_char = used / (live.num_chars + chars_of(messages))
    place = live.environment.earlier_place
    shown, turns = ((), 0) if summary is None else (summary.messages(place), summary.turns)
    return compact(
        episode.problem.messages, steps_of_episode(episode, messages),
        lambda some: int(per_char * (chars_of(some) + live.tool_chars)), context, place,
        summary=shown, summarised=turns,
    )  # fmt: skip


def next_ids(live: LiveEpisode, messages: Sequence[Message], policy: Policy, exact: bool) -> list[int] | None:
    """The tokens of the messages; None for a conversation without tokens."""
    if not live.exact:
        return None
    assert policy.chat is not None
    try:
        return policy.chat.next_turn_ids(messages)
    except ModelError:
        if exact:
            raise
        live.no_longer_exact()
        return None


def _used(live: LiveEpisode, messages: Sequence[Message], more: Sequence[int] | None) -> float:
    if more is not None:
        return len(live.episode.prompt_ids) + len(live.episode.ids) + len(more)
    return (live.num_chars + chars_of(messages)) / CHARS_PER_TOKEN


def _append(live: LiveEpisode, more: Sequence[int], policy: Policy) -> StopReason | None:
    """Add tokens between two turns to the episode's."""
    episode, limit, context = live.episode, live.limits.max_tokens, policy.context
    if limit is not None and len(more) >= limit - episode.num_tokens:
        return StopReason.LENGTH
    if context is not None and len(more) >= context - len(episode.prompt_ids) - len(episode.ids):
        return StopReason.CONTEXT
    version = episode.versions[-1] if episode.versions else policy.version
    episode.append(more, [0] * len(more), (), [version] * len(more))
    return None


def _begin_segment(live: LiveEpisode, shorter: list[Message], policy: Policy, context: int) -> StopReason | None:
    """Continue from `shorter`; what was sampled before is a segment of its own."""
    live.history = shorter
    live.num_chars = chars_of(shorter) + live.tool_chars
    if not live.exact:
        return StopReason.CONTEXT if live.num_chars / CHARS_PER_TOKEN >= context else None
    assert policy.chat is not None
    prompt = policy.chat.prompt_ids(shorter, live.tools)
    if len(prompt) >= context:
        return StopReason.CONTEXT
    live.episode.begin_segment(prompt)
    return None
