"""RL stage 2: reward model and rules for the general domains; math and code are replayed and held
by the stage contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from qwq.common.memory import on_cuda
from qwq.common.stats import detectable_drop
from qwq.config import Contract, Reference, Section, Source, StageConfig, register_stage, task_domain, toml_key
from qwq.errors import ConfigError, DataError, nearest
from qwq.model.config import ModelConfig
from qwq.model.footprint import FLOAT, SCORED_TOKENS, inference_values
from qwq.pipeline.plan.cluster import Watched
from qwq.pipeline.plan.counts import PlanContext, times
from qwq.pipeline.plan.lengths import readable_here
from qwq.pipeline.rl_stage import RlStage, StageHooks
from qwq.pipeline.stages.reward_model import RewardModelStage
from qwq.pipeline.stages.rl1 import Rl1Stage
from qwq.tasks.mbpp import MBPP_IDS
from qwq.tasks.mix import allot
from qwq.tasks.procedural.preference import Preference
from qwq.tasks.registry import get
from qwq.tasks.sources import load_source
from qwq.types import DOMAINS, Problem

if TYPE_CHECKING:
    from qwq.pipeline.inputs import RunInputs
    from qwq.pipeline.job import StageJob
    from qwq.reward.mixing import Scorer
    from qwq.train.rl import RlTrainer


CANARY_ANSWERS = 6  # to each prompt of `reward.canaries`: an honest one and the tricks


class RewardMixing(Section):
    """How the reward model's score becomes a reward beside the rules."""

    model: str = Field("reward_model", description="stage that trained the reward model")
    weight: float = Field(1.0, ge=0, description="weight of the reward model's term")
    debias_length: bool = Field(True, description="regress the answer's length out of the score")
    canaries: int = Field(16, ge=0, description="prompts with known-bad answers scored at every check")


@register_stage("rl2")
class Rl2Stage(RlStage):
    """Stage 2: reward model and rules for the general domains, math and code replayed and held by
    the contract.
    """

    kl: float = Field(1e-3, ge=0, description="weight of the KL term against the end of stage 1")
    contract: Contract = Field(default_factory=Contract)
    reward_model: RewardMixing = Field(default_factory=RewardMixing)

    # -- recipe ------------------------------------------------------------------------------------

    def references(self) -> list[Reference]:
        out = super().references()
        if self.scored_share > 0:
            scores = Reference(
                "reward_model.model", self.reward_model.model,
                lambda stage: isinstance(stage, RewardModelStage), "a reward_model stage",
            )  # fmt: skip
            out.append(scores)
        return out

    def drawn(self) -> dict[str, tuple[str, ...]]:
        """What prompts are drawn from, tasks and the labels of sources, with the names by which the
        contract may hold each.
        """
        tasks = {name: (task_domain(name), get(name).label, name) for name in self.mix.weights()}
        return tasks | {s.label: s.held_as for s in self.sources}

    def replays(self) -> dict[str, list[str]]:
        """For each name that the contract holds, what of `drawn` replays it."""
        return {
            held: [label for label, names in self.drawn().items() if held in names]
            for held in dict.fromkeys(self.contract.domains or ())
        }

    def settle(self, name: str, earlier: Mapping[str, StageConfig]) -> None:
        """Settle what the contract of stage `name` holds, and that the stage replays it: else no
        action could bring back what is lost.

        By default it holds what the RL stages that it builds on trained on, and each family and
        each kind of source of theirs is replayed. If it builds on none, it holds what it replays of
        math and code.
        """
        before: dict[str, Rl1Stage] = {}
        missing: list[str] = []
        if self.contract.domains is None:
            before = self._built_on(earlier)
            self.contract.domains = self._default_domains(before)
            missing = self._not_replayed(before)
        missing = missing or self._not_drawn()
        if missing:
            why = f" (what {' and '.join(before)} trained on)" if before else ""
            raise ValueError(
                f"stages.{name}.contract holds {', '.join(self.contract.domains)}{why}, and the stage draws prompts "
                f"from {', '.join(self.drawn())} alone, which do not replay all of that: give stages.{name} "
                f"{', '.join(dict.fromkeys(missing))}, or set stages.{name}.contract.domains ([] holds nothing)"
            )

    def _default_domains(self, before: Mapping[str, Rl1Stage]) -> list[str]:
        """What the stages `before` trained on; without any, what is drawn of math and code."""
        if before:
            tasks = [task_domain(name) for s in before.values() for name in s.mix.weights()]
            return list(dict.fromkeys([*tasks, *(s.domain for s in _held_sources(before))]))
        drawn = {name for names in self.drawn().values() for name in names}
        return [d for d in ("math", "code") if d in drawn] or ["math", "code"]

    def _not_replayed(self, before: Mapping[str, Rl1Stage]) -> list[str]:
        """What is to be given to replay the tasks and kinds of sources of the stages `before`."""
        tasks = [name for s in before.values() for name in s.mix.weights()]
        kinds = {_kind_of(s) for s in self.sources}
        lost = [name for name in tasks if name not in self.drawn() and name not in _task_paths(self.sources)]
        return [f"mix.{toml_key(name)} a weight" for name in lost] + [
            f"a source of kind {s.kind} (such as {s.path or s.level})"
            for s in _held_sources(before)
            if _kind_of(s) not in (kinds | set(self.mix.weights()) if s.kind == "task" else kinds)
        ]

    def _not_drawn(self) -> list[str]:
        """What is to be given to replay the names in `contract.domains`."""
        known = [n for names in self.drawn().values() for n in names]
        return [
            f"mix.{held} a weight or a source of {held}"
            if held in DOMAINS
            else f"a source of {held} ({nearest(held, known)})"
            for held, labels in self.replays().items()
            if not labels
        ]

    def _built_on(self, earlier: Mapping[str, StageConfig]) -> dict[str, Rl1Stage]:
        """The stage-1 RL stages whose weights this one starts from, directly or through others, in
        their order.
        """
        names, line = list(earlier), set()
        start = self.start or next((n for n in reversed(names) if earlier[n].in_sequence), None)
        while start is not None and start not in line:
            line.add(start)
            before = names[: names.index(start)]
            start = earlier[start].start or next((n for n in reversed(before) if earlier[n].in_sequence), None)
        return {n: s for n, s in earlier.items() if n in line and isinstance(s, Rl1Stage)}

    # -- plan --------------------------------------------------------------------------------------

    def extra_memory(
        self, context: PlanContext, base: Mapping[str, int]
    ) -> tuple[dict[str, int], list[dict[str, int]]]:
        stays: dict[str, int] = {}
        if self.contract.on_breach in ("rollback", "stop") and not on_cuda(context.recipe.compute.device):
            # A copy of what is trained and of the optimizer's state, in the main memory.
            width = 2 if context.recipe.compute.dtype == "bfloat16" else FLOAT
            trained = width * self.trained_parameters(context.recipe, context.config)
            stays["last good check"] = trained + base["AdamW"] + base.get("float32 copies", 0)
        if not self.scored_share:
            return stays, []
        scoring = {"activations": FLOAT * inference_values(context.config, SCORED_TOKENS)}
        return stays | {"reward model": base["weights"]}, [scoring]

    def contract_problems(self) -> dict[str, int]:
        """How many validation problems the contract has of each name that it holds.

        Sets that are not here are taken to hold out as many as are asked for.
        """
        num, sources = self.contract.problems, {s.label: s for s in self.sources}

        def available(label: str) -> int:
            if label not in sources:
                task = get(label)
                return num if task.endless or task.reads_files else len(task.fixed("validation", num))
            if here := readable_here(sources[label]):
                return len(load_source(here.model_copy(update={"split": "validation", "limit": None})))
            return min(num, len(MBPP_IDS["validation"])) if sources[label].kind == "mbpp" else num

        return {
            held: sum(allot(num, [available(label) for label in labels])) for held, labels in self.replays().items()
        }

    def plan_lines(self, context: PlanContext) -> list[str]:
        """What the contract holds, by what it is watched, and which drop its number of problems can
        see.
        """
        c, replays = self.contract, self.replays()
        if not replays:
            return [f"Contract of {context.name}: holds nothing (contract.domains is empty)."]
        lines = [
            f"Contract of {context.name}: at most {100 * c.max_drop:g} points may be lost, looked at every "
            f"{times(c.every, 'step')} and after the last; on a breach: {c.on_breach}. The drop that one check sees "
            "with 80% power:"
        ]
        for held, num in self.contract_problems().items():
            asked = f" ({c.problems:,} asked for, more are not held out)" if num < c.problems else ""
            drop = detectable_drop(num, c.max_drop)
            seen = f"{100 * drop:.1f} points" if drop < 1 else "no drop surely"
            away = (
                ", as many as they may hold out"
                if any(s.label in replays[held] and not readable_here(s) for s in self.sources)
                else ""
            )
            lines.append(
                f"  {held}: {times(num, 'validation problem')}{asked} of {', '.join(replays[held])}{away}: {seen}"
            )
        return lines

    def watched_on_cluster(self) -> Watched:
        """The contract's problems, those of preference that `held` adds, and the canaries."""
        problems = self.contract_problems()
        if self.mix.preference:
            problems.setdefault(Preference.domain, self.contract.problems)
        scored = CANARY_ANSWERS * self.reward_model.canaries if self.scored_share else 0
        return Watched(sum(problems.values()), self.contract.every, scored)

    # -- run ---------------------------------------------------------------------------------------

    def check(self, name: str, inputs: RunInputs, config: ModelConfig) -> list[str]:
        notes = super().check(name, inputs, config)
        return notes + [
            f"{name}: the contract measures {held} on {len(rows):,} problems, {self.contract.problems:,} are asked "
            "for: more are not held out"
            for held, rows in self.held(inputs).items()
            if len(rows) < self.contract.problems
        ]

    def _check_sizes(self, watched: Mapping[str, Sequence[Problem]]) -> None:
        """ConfigError where the contract has too few problems to see the drop that it forbids."""
        from qwq.train.contract import can_breach

        for held, problems in watched.items():
            if not can_breach(self.contract, len(problems)):
                raise ConfigError(
                    f"the contract measures {held} on {len(problems)} problems ({self.contract.problems} are asked "
                    f"for): even the loss of all of them would be no breach beyond {self.contract.max_drop:.0%}; "
                    f"bring a file with more rows to hold out, add the family to mix, or leave {held} out of "
                    "contract.domains"
                )

    def held(self, inputs: RunInputs) -> dict[str, list[Problem]]:
        """Validation problems that the contract looks at, by what it holds: `contract.problems` of
        each, shared evenly by the families and sources that replay it. Preference, whose hidden
        rule watches the reward model, is looked at where it is trained on.
        """
        num, sources = self.contract.problems, {s.label: s for s in self.sources}
        watched: dict[str, list[Problem]] = {}
        for held, labels in self.replays().items():
            try:
                rows = {label: self.held_out(inputs, sources[label]) for label in labels if label in sources}
            except DataError as error:
                raise DataError(
                    f"{error}; the contract measures {held} on such rows: bring some, or leave {held} out of "
                    "contract.domains"
                ) from None
            # A family has as many as are asked for, and making them takes its time.
            counted = {label: get(label) for label in labels if label not in rows}
            rows |= {label: task.fixed("validation", num) for label, task in counted.items() if not task.endless}
            shares = allot(num, [len(rows[label]) if label in rows else num for label in labels])
            watched[held] = [
                p
                for label, n in zip(labels, shares, strict=True)
                if n
                for p in (rows[label][:n] if label in rows else counted[label].fixed("validation", n))
            ]
        self._check_sizes(watched)
        if self.mix.preference and "preference" not in watched:
            watched["preference"] = get("preference").fixed("validation", num)
        return {name: self.equipped(problems) for name, problems in watched.items()}

    def scorer(self, job: StageJob) -> Scorer | None:
        from qwq.model.weights import load_reward_model
        from qwq.reward.mixing import Scorer
        from qwq.reward.model import Calibration, RewardModel

        if not self.scored_share:
            return None
        name = self.reward_model.model
        record = job.record_of(name)
        assert record
        backbone, score = load_reward_model(job.models.folder.final(name), device=job.compute.device)
        model = RewardModel(backbone, score).requires_grad_(False).to(backbone.device)
        calibration = Calibration(**record["calibration"])
        return Scorer(model, calibration, self.reward_model.weight, self.reward_model.debias_length)

    def hooks(self, trainer: RlTrainer, job: StageJob) -> StageHooks:
        from qwq.reward.canaries import Canaries
        from qwq.train.stage2 import ContractGuard

        model, scorer = trainer.model, trainer.rewarder.scorer
        num, held = self.reward_model.canaries, self.held(job.inputs)
        canaries = Canaries(job.chat, scorer, num) if scorer and num else None
        return ContractGuard(
            self.contract, self.replays(), model, trainer.optimizer, trainer.mix, job.run, steps=self.steps,
            canaries=canaries,
            evaluate=lambda: job.outcomes(model, held, self.max_new_tokens),
        )  # fmt: skip


def _held_sources(stages: Mapping[str, Rl1Stage]) -> list[Source]:
    """The sources of RL stages that a contract can hold."""
    return [source for stage in stages.values() for source in stage.sources if source.held_as]


def _task_paths(sources: Sequence[Source]) -> set[str]:
    """The tasks that are sources: a task replays itself, in the mix or as a source."""
    return {source.path for source in sources if source.kind == "task"}


def _kind_of(source: Source) -> str:
    """What tells sources of one sort from others: the kind, or which task it is."""
    return source.path if source.kind == "task" else source.kind
