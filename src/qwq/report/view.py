"""What the report shows of a kind of stage, as data.

Kinds state it (`pipeline.stage.Stage.view`); this package knows none of them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: its title, the metric's key, and how to draw it."""

    title: str
    key: str
    log: bool = False
    unit: bool = False


@dataclass(frozen=True, slots=True)
class Fact:
    """A sentence under a heading; facts of one heading come together. Text in **stars** is bold."""

    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The stage is a control of stage `against`; `took` is how long both trained ("7 steps")."""

    against: str
    took: str


SUPERVISED = (Panel("loss, nats a token", "loss"), Panel("gradient norm", "grad_norm"))


@dataclass(frozen=True, slots=True)
class StageView:
    """What is shown of a stage.

    `in_sequence`: the next stage starts from its policy.
    `is_baseline`: RL is compared with its scores.
    `panels`: its curves; None: one for each figure of its steps.
    """

    in_sequence: bool = True
    trains_policy: bool = True
    is_baseline: bool = False
    panels: tuple[Panel, ...] | None = None
    comparison: Comparison | None = None
    facts: tuple[Fact, ...] = ()
