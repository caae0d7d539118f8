"""What an RL stage watches, and what to do when a number leaves its range.

Means over the last `WINDOW` steps are compared with fixed limits or with the stage's first `WINDOW`
steps. An alarm is one sentence: what was seen, what is normal, what helps. It stops nothing (what
must stop a run is an error), it is printed, logged in metrics.jsonl and drawn in the report. The
history is part of the stage's state, so a resumed run raises the same alarms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwq.config import RolloutSection
from qwq.types import Outcome

WINDOW = 5
MISMATCH_ALARM, MISMATCH_ALARM_16_BITS = 5e-5, 0.02  # nats a token, of engines over HTTP; vLLM was seen at 7.4e-6
VERDICT_SHARE = 0.02  # timeouts and undecided verdicts, which a policy could provoke
WATCHED = ("entropy", "length", "truncated", "zero_signal", "clip_fraction", "kl", "kl_to_start", "mismatch_mean")


@dataclass(frozen=True, slots=True)
class Limit:
    """`kind`: "above" a fixed limit; "times" more, or "share" less, than the stage's first
    steps.
    """

    key: str
    kind: str
    limit: float
    what: str
    repair: str


LIMITS = (
    Limit(
        "entropy",
        "share",
        0.2,
        "entropy is {now:.3f} nats a token, {start:.3f} at first",
        "the policy collapses: lower optim.lr, or end the stage earlier",
    ),
    Limit(
        "entropy",
        "times",
        3.0,
        "entropy is {now:.3f} nats a token, {start:.3f} at first",
        "the policy dissolves: lower optim.lr or temperature",
    ),
    Limit("clip_fraction", "above", 0.3, "{now:.0%} of tokens are clipped", "lower optim.lr or updates"),
    Limit("kl", "above", 0.2, "KL to the reference model is {now:.3f} nats a token", "lower optim.lr, or raise kl"),
    Limit(
        "kl_to_start", "above", 0.2, "KL to the reference model is {now:.3f} nats a token", "lower optim.lr, or set kl"
    ),
    Limit(
        "truncated",
        "above",
        0.25,
        "{now:.0%} of responses reach max_new_tokens",
        "raise max_new_tokens, or set overlong_buffer",
    ),
    Limit(
        "length",
        "times",
        2.5,
        "responses have {now:.0f} tokens, {start:.0f} at first",
        "read some; set length_weight or overlong_buffer",
    ),
    Limit(
        "length",
        "share",
        0.3,
        "responses have {now:.0f} tokens, {start:.0f} at first",
        "read some: the policy may have found a short cut",
    ),
    Limit(
        "zero_signal",
        "above",
        0.8,
        "{now:.0%} of groups teach nothing",
        "the problems are too easy or too hard: change the mix, or set refill",
    ),
    Limit(
        "mismatch_mean",
        "above",
        0.02,
        "sampler and trainer differ by {now:.3f} nats a token on average",
        "sample in the trainer's dtype",
    ),
)


def mismatch_alarms(metrics: Mapping[str, Any], rollout: RolloutSection, *, exact: bool = True) -> list[str]:
    """Of engines over HTTP, whose log-probabilities may differ more than this process's own: each
    step for itself, by the recipe's limit. `exact`: the trainer computes in float32.
    """
    mean = metrics.get("mismatch_mean") or 0.0
    limit = rollout.mismatch_alarm or (MISMATCH_ALARM if exact else MISMATCH_ALARM_16_BITS)
    if rollout.policy == "local" or mean <= limit:
        return []
    return [
        f"engines and trainer differ by {mean:.2e} nats a token on average, rollout.mismatch_alarm is {limit:.2e}: "
        "give them the trainer's dtype, or raise the limit; importance_cap corrects for it"
    ]


class Watch:
    """Follows a stage's metrics; `history` is a plain dict that travels with the stage's state."""

    def __init__(self, history: dict[str, Any]) -> None:
        self.history = history

    def alarms(self, metrics: Mapping[str, Any]) -> list[str]:
        """Take in one step's metrics and say what is out of range."""
        seen = set()  # a step that says nothing new of a number repeats no alarm about it
        for key in WATCHED:
            value = metrics.get(key)
            if isinstance(value, int | float) and math.isfinite(value):  # one NaN would silence every limit for good
                self._remember(key, float(value))
                seen.add(key)
        found = [text for limit in LIMITS if limit.key in seen and (text := self._check(limit))]
        found += verdict_alarms(metrics.get("outcomes", {}), self._verdicts_before(metrics.get("outcomes", {})))
        if metrics.get("skipped"):
            found.append(
                f"the gradient was not finite (norm {metrics['grad_norm']}): the step was skipped; lower optim.lr "
                "if it happens again"
            )
        return found

    def _verdicts_before(self, outcomes: Mapping[str, int]) -> list[dict[str, int]]:
        """The outcomes of the last steps; these are kept for the next ones."""
        kept: list[dict[str, int]] = self.history.setdefault("outcomes", [])
        before = list(kept)
        kept.append(dict(outcomes))
        del kept[: -(WINDOW - 1)]
        return before

    def _remember(self, key: str, value: float) -> None:
        first, last = self.history.setdefault(key, [[], []])
        if len(first) < WINDOW:
            first.append(value)
        last.append(value)
        del last[:-WINDOW]

    def _check(self, limit: Limit) -> str | None:
        first, last = self.history.get(limit.key, [[], []])
        if len(last) < WINDOW:
            return None
        start, now = _mean(first), _mean(last)
        beyond = {
            "above": now > limit.limit,
            "times": start > 0 and now > limit.limit * start,
            "share": now < limit.limit * start,
        }[limit.kind]
        return f"{limit.what.format(now=now, start=start)}: {limit.repair}" if beyond else None


def verdict_alarms(outcomes: Mapping[str, int], before: Sequence[Mapping[str, int]] = ()) -> list[str]:
    """Alarms about a step's verdicts that are neither right nor wrong; `before` are those of the
    steps before it.

    A single one is more than `VERDICT_SHARE` of a small step and says nothing: the share has to be
    that of this step with two of them, or of all these steps with one of them in this.
    """
    total = sum(outcomes.values())
    steps = [*before, outcomes]
    found = []
    for outcome in (Outcome.TIMEOUT, Outcome.UNDECIDED):
        count, seen = outcomes.get(outcome.value, 0), sum(step.get(outcome.value, 0) for step in steps)
        over, where = count / total if total else 0.0, ""
        if count == 1:
            over, where = seen / sum(sum(step.values()) for step in steps), f" in {len(steps)} steps"
        if count and seen > 1 and over > VERDICT_SHARE:
            found.append(
                f"{over:.1%} of verdicts{where} are {outcome.value} (alarm above {VERDICT_SHARE:.0%}): read the "
                "rollouts, a policy can provoke these"
            )
    if failed := outcomes.get(Outcome.INFRA_ERROR.value, 0):
        found.append(
            f"{failed} of {total} verdicts failed by infrastructure: they are left out; `qwq sandbox doctor` says "
            "what is wrong"
        )
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
