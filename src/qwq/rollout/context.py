"""What the next turn continues from: the conversation so far, or, where it fills the context, what
a compaction leaves of it, which begins a new segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from qwq.errors import ModelError
from qwq.rollout.compact import make_room
from qwq.rollout.policy import Policy
from qwq.rollout.sample import Compact
from qwq.rollout.under_way import LiveEpisode, chars_of
from qwq.types import Message, StopReason

COMPACT_AT = 0.8  # of the context
CHARS_PER_TOKEN = 3.0  # of messages to a server, which counts tokens only afterwards


def go_on(
    live: LiveEpisode, messages: Sequence[Message], policy: Policy, *, exact: bool, compact: Compact | None
) -> StopReason | None:
    """Put `messages` behind the last turn. A reason to stop where they have no room, even after a
    compaction.

    `exact`: raise ModelError where the template cannot continue from tokens.
    """
    more = _next_ids(live, messages, policy, exact)
    context = policy.context
    if compact is None and live.limits.compact and live.environment is not None:
        compact = partial(make_room, live.environment)
    if compact is not None and context is not None:
        used = _used(live, messages, more)
        if used >= COMPACT_AT * context:
            live.episode.messages += messages
            per_char = used / (live.num_chars + chars_of(messages))
            shorter = compact(live.episode, lambda m: int(per_char * (chars_of(m) + live.tool_chars)), context)
            del live.episode.messages[-len(messages) :]
            if shorter is not None:
                return _begin_segment(live, list(shorter), policy, context)
    live.history += messages
    live.num_chars += chars_of(messages)
    return None if more is None else _append(live, more, policy)


def _next_ids(live: LiveEpisode, messages: Sequence[Message], policy: Policy, exact: bool) -> list[int] | None:
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
