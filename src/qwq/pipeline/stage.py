"""What a kind of stage is: its keys, its plan, its run and what the report shows of it, in one
class.

A kind of your own is one class in one file, named in a recipe as `kind = "file.py:Class"`:

    import qwq

    class Echo(qwq.Stage):
        steps: int = 10

        def plan(self, context):
            return qwq.StagePlan(self.steps, "one batch a step", tokens=self.steps * 512, flops=None)

        def train(self, model, job):
            ...                         # job.run.run(steps, model, optimizer, step) takes the steps and keeps checkpoints

Everything else has a default: `run` loads the start, adds adapters, calls `train` and saves the
policy. The modules of `pipeline.stages` are written in this way; `dpo.py` is the shortest that does
everything. Imports without torch: what trains imports it inside `train` or `run`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

from qwq.common.memory import Memory
from qwq.config import Cluster, Lora, Recipe, StageConfig
from qwq.model.config import ModelConfig
from qwq.pipeline.plan.cluster import ClusterPlan
from qwq.pipeline.plan.counts import PlanContext, StagePlan
from qwq.pipeline.plan.machine import Machine
from qwq.pipeline.plan.minutes import Span, stage_seconds
from qwq.pipeline.plan.peak import peak, trained_parameters, training_base, update_phase
from qwq.pipeline.preview import DataSummary
from qwq.report.view import SUPERVISED, Panel, StageView
from qwq.text.template import ChatFormat
from qwq.types import Problem

if TYPE_CHECKING:
    from qwq.model.transformer import Transformer
    from qwq.pipeline.inputs import RunInputs
    from qwq.pipeline.job import StageJob

TOKENS_AT_ONCE = 8192  # of a backward pass, for the memory of a kind that does not say it


@dataclass(slots=True)
class StageResult:
    """What a stage leaves: its policy, None if it trains none; `evals` of its own; and what its
    record keeps besides.
    """

    policy: Transformer | None = None
    evals: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CompletionLimit:
    """How long completions may be, by which key, and the longest prompt before them, in tokens."""

    key: str
    prompt: int
    limit: int


class Stage(StageConfig):
    """Base of all kinds of stages.

    A kind that trains a policy overrides `plan` and `train`; the rest has defaults.
    """

    panels: ClassVar[tuple[Panel, ...]] = SUPERVISED  # its curves in the report

    # -- plan: without torch -----------------------------------------------------------------------

    def plan(self, context: PlanContext) -> StagePlan:
        """Steps, tokens and FLOPs."""
        return StagePlan(None, self.kind, None, None)

    def memory(self, context: PlanContext) -> Memory:
        """Estimated peak of training it.

        Default: one backward pass over `TOKENS_AT_ONCE` tokens.
        """
        trained = self.trained_parameters(context.recipe, context.config)
        update = update_phase(context.recipe, context.config, TOKENS_AT_ONCE, trained, divided=False)
        return peak(training_base(context.recipe, context.config, trained), [(update, {})])

    def adapters(self, recipe: Recipe) -> Lora | None:
        """The adapters that it trains; None: all weights."""
        return getattr(self, "lora", None)

    def trained_parameters(self, recipe: Recipe, config: ModelConfig) -> int:
        return trained_parameters(self.adapters(recipe), config)

    def completion_limit(self, context: PlanContext) -> CompletionLimit | None:
        """For a kind that samples: how long its completions may be."""
        return None

    def plan_lines(self, context: PlanContext) -> list[str]:
        """What else `qwq explain` says of it."""
        return []

    def seconds(self, context: PlanContext, machine: Machine) -> Span | None:
        """Its time on one machine, without evaluations; default: by the steps and FLOPs of its
        plan. None: unknown.
        """
        trained = self.trained_parameters(context.recipe, context.config)
        return stage_seconds(self.plan(context), trained, context, machine)

    def on_cluster(self, clusters: Sequence[Cluster], context: PlanContext) -> list[ClusterPlan]:
        """Its plan for each of several clusters; none for a kind that is planned by its FLOPs."""
        return []

    # -- data and checks ---------------------------------------------------------------------------

    def preview(self, chat: ChatFormat, *, max_positions: int | None = None, rows: int = 1) -> list[DataSummary]:
        """What it takes of its data files: one summary for each file; none where all is procedural.

        DataError as in training.
        """
        return []

    def read_data(self, chat: ChatFormat, name: str, seed: int, max_positions: int) -> Any:
        """What it makes of its own `data_file`; its attribute `use` says what became of the rows.

        DataError for a bad row.
        """
        raise NotImplementedError

    def check(self, name: str, inputs: RunInputs, config: ModelConfig) -> list[str]:
        """Read and check what stage `name` needs besides its own file; returns notes for the user.

        UsageError for what is wrong.
        """
        return []

    def sample_problems(self, inputs: RunInputs) -> Sequence[Problem]:
        """A problem of each sort that it draws: the chat template has to write a prompt of each."""
        return []

    # -- run ---------------------------------------------------------------------------------------

    def run(self, job: StageJob) -> StageResult:
        """Do the stage and leave its result in the run's folder."""
        adapters = self.adapters(job.recipe)
        model = job.policy(adapters)
        record = self.train(model, job) or {}
        job.models.save_policy(job.name, model, job.chat, adapters)
        return StageResult(model, record=dict(record))

    def train(self, model: Transformer, job: StageJob) -> Mapping[str, Any] | None:
        """Train `model` in place; returns what the stage's record keeps besides its figures."""
        raise NotImplementedError

    # -- report ------------------------------------------------------------------------------------

    @classmethod
    def view(cls, config: Mapping[str, Any], record: Mapping[str, Any] | None) -> StageView:
        """What the report shows of a stage, from its table in recipe.toml and, once it is finished,
        its record.

        The table may be of an earlier version of the kind.
        """
        return StageView(in_sequence=cls.in_sequence, trains_policy=cls.trains_policy, panels=cls.panels)


def stage_of(recipe: Recipe, name: str) -> Stage:
    """Stage `name` of a recipe, as the kind that it is."""
    return cast(Stage, recipe.stages[name])
