"""RL stage 1: math by the accuracy verifier, code by the execution server, outcome rewards, no
KL.
"""

from __future__ import annotations

from qwq.config import register_stage
from qwq.pipeline.rl_stage import RlStage
from qwq.tasks.procedural.preference import Preference


@register_stage("rl1")
class Rl1Stage(RlStage):
    """Stage 1: math by the accuracy verifier, code by the execution server, outcome rewards, no
    KL.
    """

    def check_alone(self, name: str) -> None:
        if self.mix.preference > 0:
            raise ValueError(
                f"stages.{name}.mix.preference is {self.mix.preference}: no rule judges it, so it goes in an rl2 stage"
            )
        if self.scored_share > 0:
            path = next(s.path for s in self.sources if s.domain == Preference.domain)
            raise ValueError(
                f"stages.{name}.sources holds {path!r}, whose prompts a reward model judges: give it to an rl2 stage"
            )
