"""How `train.policy_update` divides a step's groups, and what one part of them holds. Imports
without torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qwq.config import RlConfig


@dataclass(frozen=True, slots=True)
class MicroBatches:
    """The micro-batches of a step of full-length completions.

    `count` of them in an update; the largest has `completions` completions of `prompts` prompts.
    `parts`: parts that a group is divided into, each with the prompt computed again.
    """

    count: int
    completions: int
    prompts: int
    parts: int


def micro_batches_of(stage: RlConfig, max_tokens: int) -> MicroBatches:
    """Whole groups together where they fit `max_tokens`; a larger group in parts of as many
    completions as fit, at least one.
    """
    group = stage.samples * stage.max_new_tokens
    if group <= max_tokens:
        groups = min(stage.prompts, max_tokens // group)
        return MicroBatches(math.ceil(stage.prompts / groups), groups * stage.samples, groups, 1)
    completions = max(1, max_tokens // stage.max_new_tokens)
    parts = math.ceil(stage.samples / completions)
    return MicroBatches(stage.prompts * parts, completions, 1, parts)
