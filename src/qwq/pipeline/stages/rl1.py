"""RL stage 1: math by the accuracy verifier, code by the execution server, outcome rewards, no
KL.
"""

from __future__ import annotations

from qwq.config import register_stage
from qwq.pipeline.rl_stage import RlStage


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
