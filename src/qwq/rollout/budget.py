"""What an episode may use, what it is told about that, and the detector of calls that go in
circles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from qwq.types import StopReason, ToolCall

LAST_SHARE = 0.9  # of the sampled tokens: the rest is for the last turn
NOTE_BEFORE = 2  # steps before a loop is stopped, the model is told


@dataclass(frozen=True, slots=True)
class EpisodeLimits:
    """Limits of one episode; None: no limit, or the environment's own where it has one.

    `max_calls` counts calls over all turns, malformed ones too, `per_tool` those of one tool;
    `max_parallel`: calls of one turn that run. Calls beyond them are answered with an error that
    says so. `call_timeout_s` is for one call. `max_turns` are turns of the model. `max_tokens`
    bounds all tokens after the prompt, those of results too, `max_sampled` those of the model's
    turns. `max_repeats`: the same calls with the same results so many times in a row end the
    episode as a loop, and so does a round of two. `max_loop` ends it after so many turns that say
    nothing new (see `loop_length`), two turns after the model was told so.

    `compact`: a conversation that fills the context continues from a shorter one (`compact.py`);
    without it the episode ends there. `last_turn`: where a limit ends the calls, one more turn
    without tools may answer. `tell_at`: the share of a limit at which the model is told, once, in a
    result.
    """

    max_calls: int | None = None
    max_parallel: int | None = None
    call_timeout_s: float | None = None
    max_turns: int | None = None
    max_tokens: int | None = None
    max_sampled: int | None = None
    max_seconds: float | None = None
    max_repeats: int | None = None
    max_loop: int | None = None
    per_tool: Mapping[str, int] = field(default_factory=dict)
    compact: bool = False
    last_turn: bool = False
    tell_at: float | None = None


NO_LIMITS = EpisodeLimits()


@dataclass(frozen=True, slots=True)
class Note:
    """What the model is told at the end of a result. `about` is the limit, or "loop"; `used` of
    `limit`. `last`: the next turn is the last, for the reason `stop`.
    """

    about: str
    text: str
    used: float = 0
    limit: float = 0
    last: bool = False
    stop: StopReason | None = None


@dataclass(slots=True)
class Spending:
    """What an episode has used so far."""

    turns: int = 0
    calls: int = 0
    sampled: int = 0
    seconds: float = 0.0

    def of(self, limits: EpisodeLimits, max_calls: int) -> list[tuple[str, float, float, StopReason]]:
        """(budget, used, limit, what ends when it is spent) for every limit that is set."""
        rows = [
            ("model_calls", self.turns, limits.max_turns, StopReason.TURNS),
            ("tool_calls", self.calls, max_calls, StopReason.TURNS),
            ("tokens", self.sampled, limits.max_sampled, StopReason.LENGTH),
            ("seconds", round(self.seconds, 1), limits.max_seconds, StopReason.TIME),
        ]
        return [(name, used, limit, stop) for name, used, limit, stop in rows if limit]

    def spent(self, limits: EpisodeLimits, max_calls: int) -> Note | None:
        """The note that makes the next turn the last; None while more than one may follow."""
        for name, used, limit, stop in self.of(limits, max_calls):
            room = {"model_calls": limit - 1, "tokens": LAST_SHARE * limit}.get(name, limit)
            if used >= room and name != "tool_calls":
                text = (
                    f"{_count(name, used, limit)}: the next turn is the last, without tools. Answer with what you have."
                )
                return Note(name, text, used, limit, True, stop)
        return None

    def told(self, limits: EpisodeLimits, max_calls: int) -> Note | None:
        """What to say where a budget has reached the share `tell_at`."""
        if limits.tell_at is None:
            return None
        near = [row for row in self.of(limits, max_calls) if row[1] >= limits.tell_at * row[2]]
        if not near:
            return None
        text = "; ".join(_count(name, used, limit) for name, used, limit, _ in near)
        name, used, limit, _ = near[0]
        return Note(name, f"{text}. Come to an end.", used, limit)


def _count(name: str, used: float, limit: float) -> str:
    return f"{used:,g} of {limit:,g} {name.replace('_', ' ')} used"


def step_key(calls: Sequence[ToolCall | str], results: Sequence[str]) -> bytes:
    """A turn's calls with their results, so that equal ones compare equal."""
    made = [c if isinstance(c, str) else [c.name, c.arguments] for c in calls]
    try:
        return orjson.dumps([made, list(results)], option=orjson.OPT_SORT_KEYS, default=str)
    except TypeError:  # half of a surrogate pair, a number of over 64 bits
        return json.dumps([made, list(results)], sort_keys=True, default=str).encode()


def goes_in_circles(steps: Sequence[bytes], repeats: int) -> bool:
    """Whether the last steps are one step `repeats` times, or two in turn `repeats` times."""
    return _period(steps, 1) >= repeats or _period(steps, 2) >= 2 * repeats


def loop_length(steps: Sequence[bytes], futile: Sequence[bool]) -> int:
    """How many of the last turns say nothing new: one turn again and again, two in turn (from the
    fourth on), or turns whose every call is malformed, of an unknown tool, or without a result.
    """
    alternating = _period(steps, 2)
    in_vain = next((n for n, one in enumerate(reversed(futile)) if not one), len(futile))
    return max(_period(steps, 1), alternating if alternating >= 4 else 0, in_vain)


def _period(steps: Sequence[bytes], period: int) -> int:
    """How many of the last steps repeat the step `period` before them, with the repeated ones."""
    same = 0
    while same + period < len(steps) and steps[-1 - same] == steps[-1 - same - period]:
        same += 1
    return same + period if same else min(1, len(steps))
