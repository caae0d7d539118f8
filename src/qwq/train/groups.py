"""From a step's rollouts to the groups that are learnt from: which count, with which advantages.

Two questions are kept apart. Whether a group has signal, its advantages say: where all are 0 it
adds nothing to the gradient and can be left out. Whether a refill replaces it, verdicts say, as
DAPO's dynamic sampling has it (arXiv 2503.14476, section 3.4): what a recipe says about length
makes no prompt worth keeping.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from qwq.model.layouts import micro_batches
from qwq.train.losses import AdvantageForm, GroupRewards, differ, load_advantage
from qwq.types import Rollout, StopReason, TokenSegment

VERDICT_TERMS = ("accuracy", "partial")  # what a rule-based verdict pays
LENGTH_TERMS = ("overlong", "length")  # what a recipe says about length
TRUNCATED = (StopReason.LENGTH, StopReason.CONTEXT)


@dataclass(slots=True)
class Group:
    """The rollouts of one prompt that may be learnt from, with their advantages (G,)."""

    rollouts: list[Rollout]
    advantages: list[float]

    @property
    def has_signal(self) -> bool:
        return any(a != 0.0 for a in self.advantages)

    @property
    def num_tokens(self) -> int:
        """Tokens of all completions (first segments, see `by_segment`)."""
        return sum(len(r.completion_ids) for r in self.rollouts)

    def split(self, max_tokens: int) -> list[Group]:
        """Parts of at most `max_tokens` completion tokens (a longer completion is alone), each with
        the advantages of the whole group. The prompt is computed once a part.
        """
        if self.num_tokens <= max_tokens:
            return [self]
        batches = micro_batches([len(r.completion_ids) for r in self.rollouts], max_tokens)
        return [Group([self.rollouts[i] for i in batch], [self.advantages[i] for i in batch]) for batch in batches]


def judged_reward(rollout: Rollout) -> float:
    """The part of a reward that says whether the answer is good: the verdict's where a rule judged,
    else all but terms about length.
    """
    terms = rollout.rewards
    if not terms:
        return rollout.reward or 0.0
    judged = VERDICT_TERMS if "accuracy" in terms else [t for t in terms if t not in LENGTH_TERMS]
    return sum(terms.get(t, 0.0) for t in judged)


def by_group(rollouts: Sequence[Rollout]) -> dict[int, list[Rollout]]:
    """The rewarded rollouts of each prompt.

    Those without a reward (infrastructure errors) are left out of baseline and group.
    """
    groups: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        if rollout.reward is not None:
            groups.setdefault(rollout.group, []).append(rollout)
    return groups


def form_groups(
    rollouts: Sequence[Rollout], *, scale: bool = False, advantage: AdvantageForm | None = None
) -> list[Group]:
    """Groups by prompt with their advantages: by the form `advantage`, or the group's mean
    (`scale`: and deviation).
    """
    form = advantage or load_advantage("group_std" if scale else "group_mean")
    members = list(by_group(rollouts).values())
    given = [
        GroupRewards(_column([r.reward or 0.0 for r in m]), _column([judged_reward(r) for r in m])) for m in members
    ]
    return [Group(m, a.tolist()) for m, a in zip(members, form(given), strict=True)] if given else []


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def count_undecided(rollouts: Sequence[Rollout], prompts: int) -> int:
    """How many of `prompts` prompts have verdicts that all agree, or none at all: what a refill
    replaces.
    """
    decided = sum(differ(_column([judged_reward(r) for r in m])) for m in by_group(rollouts).values())
    return max(0, prompts - decided)


def after_refills(rollouts: Sequence[Rollout], prompts: int) -> list[Rollout]:
    """The batch that is learnt from: a prompt that a refill replaced is gone. `prompts` prompts are
    left, with the last round's whole.

    The rounds are found again from the numbers of the groups, so a logged step gives the same
    batch.
    """
    numbers = sorted({r.group for r in rollouts})
    kept: set[int] = set()
    wanted, first = prompts, numbers[0] if numbers else 0
    while numbers and first <= numbers[-1]:
        drawn = [r for r in rollouts if first <= r.group < first + wanted]
        first += wanted
        if first > numbers[-1]:
            kept |= {r.group for r in drawn}
        else:
            decided = {
                number for number, m in by_group(drawn).items() if differ(_column([judged_reward(r) for r in m]))
            }
            kept |= decided
            wanted = max(1, wanted - len(decided))
    return [r for r in rollouts if r.group in kept]


def by_segment(groups: Sequence[Group]) -> list[Group]:
    """Groups of sequences, as they are packed: the first segments of a group by their prompt, which
    they share unless a program made them, then each later segment, which has a prompt of its own,
    with its rollout's advantage.
    """
    out: list[Group] = []
    for group in groups:
        out += _by_prompt(group)
        for rollout, advantage in zip(group.rollouts, group.advantages, strict=True):
            later = [replace(rollout, **_columns(s), segments=[]) for s in rollout.segments]
            out += [Group([segment], [advantage]) for segment in later]
    return out


def _by_prompt(group: Group) -> list[Group]:
    """A group whose rollouts share their prompt as it is; else a part for each prompt."""
    parts: dict[tuple[int, ...], Group] = {}
    for rollout, advantage in zip(group.rollouts, group.advantages, strict=True):
        part = parts.setdefault(tuple(rollout.prompt_ids), Group([], []))
        part.rollouts.append(rollout)
        part.advantages.append(advantage)
    return [group] if len(parts) == 1 else list(parts.values())


def _columns(segment: TokenSegment) -> dict[str, Any]:
    return {f.name: getattr(segment, f.name) for f in fields(segment)}


def without_truncated(groups: Sequence[Group]) -> list[Group]:
    """Groups without the completions that a limit cut off."""
    return _only(groups, lambda rollout: rollout.stop_reason not in TRUNCATED)


def with_tokens(groups: Sequence[Group]) -> list[Group]:
    """Groups without the completions that have no token, as behind a prompt that fills the model's
    positions: there is nothing to learn from.
    """
    return _only(groups, lambda rollout: bool(rollout.completion_ids))


def _only(groups: Sequence[Group], learnt: Callable[[Rollout], bool]) -> list[Group]:
    """Groups with the completions that are learnt from; the rewards of the others have counted in
    the advantages.
    """
    out = []
    for group in groups:
        pairs = [(r, a) for r, a in zip(group.rollouts, group.advantages, strict=True) if learnt(r)]
        if pairs:
            out.append(Group([r for r, _ in pairs], [a for _, a in pairs]))
    return out
