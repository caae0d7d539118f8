"""From rewards to advantages: what a completion earned beyond the others of its group. The registry
of advantage forms.

- `group_mean`: reward minus the group's mean (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783, section
  3.2). The default;
- `group_std`: that, divided by the group's standard deviation (GRPO, Shao et al. 2024, arXiv
  2402.03300, section 4.1.2);
- `rloo`: reward minus the mean of the others (RLOO, Ahmadian et al. 2024, arXiv 2402.14740): G / (G
  - 1) times `group_mean`;
- `group_rate`: minus the group's mean, divided by that mean, the share of right ones where verdicts
  are 0 and 1 (MaxRL, Tajwar et al. 2026, arXiv 2602.02710, algorithm 1): on average the gradient of
  the log-likelihood of a right completion as far as G samples show it, so that a prompt that is
  rarely solved weighs more. At least 1 / G is divided by;
- `batch_std`: minus the group's mean, divided by the deviation of all rewards of the batch (Lite
  PPO, Liu et al. 2025, arXiv 2508.08221);
- `batch_norm`: minus the group's mean, divided by the deviation of these differences over the batch
  (REINFORCE++ with baseline, Hu et al. 2025, arXiv 2501.03262). Their mean over the batch, which
  the paper subtracts, is 0 by construction.

Deviations are of the population. Departure: rewards are scaled only by a deviation that verdicts
caused. Where the judged rewards agree (of the group; for the batch forms, in every group) and only
what a recipe says about length differs, the difference stays as small as the recipe made it: a
punishment of 0.001 is no reason for advantages of -1.7.

A form in a file of your own, named `advantage = "file.py:name"`: a function of a list of
`GroupRewards` that gives a list of tensors (G,).

Dimensions: G completions of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwq.common.imports import import_object, is_reference, user_code
from qwq.config import rl_config
from qwq.errors import ConfigError, nearest

NOISE = 1e-9  # rewards that differ by less, relative to the largest (or to 1), are equal: their sum was rounded
EPSILON = 1e-6


def differ(values_G: Tensor) -> bool:
    """Whether rewards differ by more than rounding."""
    return bool(values_G.max() - values_G.min() > NOISE * max(1.0, float(values_G.abs().max())))


@dataclass(frozen=True, slots=True)
class GroupRewards:
    """Rewards (G,) of one prompt's completions, float64.

    `judged_G` is the part that verdicts gave, without terms about length.
    """

    rewards_G: Tensor
    judged_G: Tensor

    @property
    def centred_G(self) -> Tensor:
        return group_advantages(self.rewards_G) if differ(self.rewards_G) else torch.zeros_like(self.rewards_G)


AdvantageForm = Callable[[Sequence[GroupRewards]], list[Tensor]]
ADVANTAGES: dict[str, AdvantageForm] = {}


def register_advantage(name: str) -> Callable[[AdvantageForm], AdvantageForm]:
    """Make a function an advantage form under `name`, which recipes read in this process may then
    give. ConfigError where the name is taken.
    """

    def register(form: AdvantageForm) -> AdvantageForm:
        if name in ADVANTAGES and ADVANTAGES[name].__module__ == __name__:
            raise ConfigError(f"an advantage form {name!r} is registered already: give yours another name")
        ADVANTAGES[name] = form
        if name not in rl_config.ADVANTAGES:
            rl_config.ADVANTAGES.append(name)
        return form

    return register


def load_advantage(name: str) -> AdvantageForm:
    """A registered form, or `file.py:function`. ConfigError where there is none."""
    if is_reference(name):
        return _checked(name, import_object(name, "advantage"))
    if name not in ADVANTAGES:
        raise ConfigError(
            f"no advantage form {name!r} (one of your own is file.py:function): {nearest(name, ADVANTAGES)}"
        )
    return ADVANTAGES[name]


def _checked(where: str, form: AdvantageForm) -> AdvantageForm:
    """A user's own form: ConfigError where it raises, or does not give one finite number for each
    completion.
    """

    def checked(groups: Sequence[GroupRewards]) -> list[Tensor]:
        with user_code(f"advantage {where}", form):
            found = [torch.as_tensor(f, dtype=torch.float64) for f in form(groups)]
        if [f.shape for f in found] != [g.rewards_G.shape for g in groups] or not all(
            bool(f.isfinite().all()) for f in found
        ):
            raise ConfigError(
                f"advantage {where} was given groups of {[len(g.rewards_G) for g in groups][:4]} completions and "
                f"gave {[f.tolist() for f in found][:2]}: a list of tensors, one finite number for each completion, "
                "is wanted"
            )
        return found

    return checked


def group_advantages(rewards_G: Tensor, *, scale: bool = False) -> Tensor:
    """Reward minus the group's mean; `scale` divides by the group's standard deviation (original
    GRPO, biased).
    """
    centred = rewards_G - rewards_G.mean()
    return centred / (rewards_G.std(unbiased=False) + EPSILON) if scale else centred


@register_advantage("group_mean")
def group_mean(groups: Sequence[GroupRewards]) -> list[Tensor]:
    return [g.centred_G for g in groups]


@register_advantage("group_std")
def group_std(groups: Sequence[GroupRewards]) -> list[Tensor]:
    return [group_advantages(g.rewards_G, scale=True) if differ(g.judged_G) else g.centred_G for g in groups]


@register_advantage("group_rate")
def group_rate(groups: Sequence[GroupRewards]) -> list[Tensor]:
    return [
        g.centred_G / g.judged_G.mean().clamp(min=1 / len(g.judged_G)) if differ(g.judged_G) else g.centred_G
        for g in groups
    ]


@register_advantage("rloo")
def rloo(groups: Sequence[GroupRewards]) -> list[Tensor]:
    # A completion whose whole group failed by infrastructure has nothing to be compared with, and
    # its difference is 0.
    return [g.centred_G * (len(g.rewards_G) / max(1, len(g.rewards_G) - 1)) for g in groups]


def _over(groups: Sequence[GroupRewards], values: Sequence[Tensor]) -> list[Tensor]:
    """Centred rewards over the deviation of `values` of the whole batch."""
    centred = [g.centred_G for g in groups]
    if not any(differ(g.judged_G) for g in groups):
        return centred
    deviation = torch.cat(list(values)).std(unbiased=False) + EPSILON
    return [c / deviation for c in centred]


@register_advantage("batch_std")
def batch_std(groups: Sequence[GroupRewards]) -> list[Tensor]:
    return _over(groups, [g.rewards_G for g in groups])


@register_advantage("batch_norm")
def batch_norm(groups: Sequence[GroupRewards]) -> list[Tensor]:
    return _over(groups, [g.centred_G for g in groups])
