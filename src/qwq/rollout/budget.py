"""What an episode may use, and the detector for calls that go in circles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from qwq.types import ToolCall


@dataclass(frozen=True, slots=True)
class EpisodeLimits:
    """Limits of one episode; None: no limit, or the environment's own where it has one.

    `max_calls` counts calls over all turns, malformed ones too; a turn that calls once they are
    used up ends the episode, unless `last_turn` is set: then its calls are answered with an error
    that says so, and one more turn may answer. `max_parallel`: calls of one turn that run, further
    ones are answered with an error. `call_timeout_s` is for one call. `max_turns` are turns of the
    model. `max_tokens` bounds all tokens after the prompt, those of results too. `max_repeats`: the
    same calls with the same results so many times in a row end the episode as a loop, and so does a
    round of two.
    """

    max_calls: int | None = None
    max_parallel: int | None = None
    call_timeout_s: float | None = None
    max_turns: int | None = None
    max_tokens: int | None = None
    max_seconds: float | None = None
    max_repeats: int | None = None
    last_turn: bool = False


NO_LIMITS = EpisodeLimits()


def step_key(calls: Sequence[ToolCall | str], results: Sequence[str]) -> str:
    """A turn's calls with their results, so that equal ones compare equal."""
    made = [c if isinstance(c, str) else [c.name, c.arguments] for c in calls]
    return json.dumps([made, list(results)], sort_keys=True, default=str)


def goes_in_circles(steps: Sequence[str], repeats: int) -> bool:
    """Whether the last steps are one step `repeats` times, or two in turn `repeats` times."""
    last, pair = steps[-repeats:], steps[-2 * repeats :]
    if len(last) == repeats and len(set(last)) == 1:
        return True
    return len(pair) == 2 * repeats and len(set(pair[::2])) == 1 and len(set(pair[1::2])) == 1
