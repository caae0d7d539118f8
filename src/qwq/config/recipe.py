"""A whole recipe: that its stages fit together, reading and writing it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from qwq.config.base import MAX_SEED, STAGE_NAME, START, Section
from qwq.config.errors import one_line
from qwq.config.load import find_recipe, read_toml, to_toml
from qwq.config.rl import Rl1Stage, Rl2Stage, RlStage
from qwq.config.sections import ComputeSection, EvalSection, ModelSection
from qwq.config.stages import ControlStage, DpoStage, PretrainStage, RewardModelStage, SftStage
from qwq.errors import ConfigError, nearest
from qwq.types import DOMAINS

POLICY_KINDS = ("pretrain", "sft", "rl1", "rl2", "dpo")  # the kinds whose result the next stage starts from
STAGE_TYPES = (PretrainStage, SftStage, ControlStage, Rl1Stage, RewardModelStage, Rl2Stage, DpoStage)
AnyStage = Annotated[
    PretrainStage | SftStage | ControlStage | Rl1Stage | RewardModelStage | Rl2Stage | DpoStage,
    Field(discriminator="kind"),
]


class Recipe(Section):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="names the run's folder")
    seed: int = Field(
        0,
        ge=0,
        le=MAX_SEED,
        description="seed of weights, data order and sampling; fixed test sets do not depend on it",
    )
    model: ModelSection
    compute: ComputeSection = Field(default_factory=ComputeSection)
    eval: EvalSection = Field(default_factory=EvalSection)
    stages: dict[str, AnyStage] = Field(min_length=1, description="stages in the order in which they run")

    @classmethod
    def load(cls, path: str | Path, /, **overrides: Any) -> Recipe:
        """A recipe from a file, or by the name of one that comes with the package.

        `overrides` set keys, dotted ones as `**{"stages.rl1.steps": 10}`. ConfigError with one line that names the key and the repair.
        """
        return load_recipe(path, overrides)

    @model_validator(mode="after")
    def _stages_fit(self) -> Recipe:
        names = list(self.stages)
        for i, (name, stage) in enumerate(self.stages.items()):
            if not STAGE_NAME.fullmatch(name):
                raise ValueError(
                    f"stage {name!r}: a stage's name is made of letters, digits, _ and -, 64 at most, and begins with a letter or digit: rename it"
                )
            wanted = {"start_from": stage.start_from}
            if isinstance(stage, ControlStage):
                wanted |= {"of": stage.of, "match": stage.match if stage.steps is None else None}
            if isinstance(stage, Rl2Stage) and stage.mix.preference > 0:
                wanted |= {"reward_model.model": stage.reward_model.model}
            if isinstance(stage, Rl1Stage) and stage.mix.preference > 0:
                raise ValueError(
                    f"stages.{name}.mix.preference is {stage.mix.preference}: no rule judges it, so it goes in an rl2 stage"
                )
            for key, other in wanted.items():
                if other is not None and other not in names[:i]:
                    hint = nearest(other, names[:i]) if i else "it is the first"
                    raise ValueError(f"stages.{name}.{key} is {other!r}, which is not an earlier stage: {hint}")
            self._kinds_fit(name, stage)
            if isinstance(stage, Rl2Stage):
                self._settle_contract(name, stage)
            if not self.has_data(stage):
                raise ValueError(f"stages.{name} has no data: give stages.{name}.mix a weight or a path or sources")
        if self.eval.start and (self.model.preset or START in names):
            raise ValueError(
                f"eval.start reads the checkpoint at model.path as {START!r}: a preset has none, and no stage may be called so"
            )
        if self.model.preset and not isinstance(next(iter(self.stages.values())), PretrainStage):
            raise ValueError(
                f"a preset has fresh weights, so the first stage must be a pretrain stage, not {names[0]!r}"
            )
        return self

    def _kinds_fit(self, name: str, stage: Any) -> None:
        """That the earlier stages which a stage names are of the kinds that it can use."""
        scored = isinstance(stage, Rl2Stage) and stage.mix.preference > 0
        for key, other, fits, wanted in (
            (
                "start_from",
                stage.start_from,
                lambda s: not isinstance(s, RewardModelStage),
                "a stage that trains a policy, which a reward model is not",
            ),
            (
                "of",
                stage.of if isinstance(stage, ControlStage) else None,
                lambda s: isinstance(s, SftStage),
                "an sft stage, whose demonstrations it goes on with",
            ),
            (
                "reward_model.model",
                stage.reward_model.model if scored else None,
                lambda s: isinstance(s, RewardModelStage),
                "a reward_model stage",
            ),
        ):
            if other is not None and not fits(self.stages[other]):
                raise ValueError(
                    f"stages.{name}.{key} is {other!r}, a stage of kind {self.stages[other].kind}: name {wanted}"
                )

    def _settle_contract(self, name: str, stage: Rl2Stage) -> None:
        """Settle what the contract of stage `name` holds, and that the stage replays it: else no action could bring back what is lost.

        By default it holds what the RL stages before it trained on, and each family and each kind of source of theirs is replayed. Where none
        comes before it, it holds what it replays of math and code.
        """
        drawn, missing, why = stage.drawn(), [], ""
        if stage.contract.domains is None:
            before = [s for s in list(self.stages.values())[: list(self.stages).index(name)] if isinstance(s, Rl1Stage)]
            families = [d for s in before for d in s.mix.weights()]
            sources = [source for s in before for source in s.sources if source.held_as]
            there = [d for d in ("math", "code") if any(d in names for names in drawn.values())]
            stage.contract.domains = (
                list(dict.fromkeys([*families, *(s.domain for s in sources)])) if before else there or ["math", "code"]
            )
            kinds = {s.path if s.kind == "task" else s.kind for s in stage.sources}
            missing = [f"mix.{d} a weight" for d in families if d not in drawn]
            missing += [
                f"a source of kind {s.kind} (such as {s.path or s.level})"
                for s in sources
                if (s.path if s.kind == "task" else s.kind) not in kinds
            ]
            why = " (what the RL stages before it trained on)" if before else ""
        known = [n for names in drawn.values() for n in names]
        missing = missing or [
            f"mix.{held} a weight or a source of {held}"
            if held in DOMAINS
            else f"a source of {held} ({nearest(held, known)})"
            for held, labels in stage.replays().items()
            if not labels
        ]
        if missing:
            raise ValueError(
                f"stages.{name}.contract holds {', '.join(stage.contract.domains)}{why}, and the stage draws prompts from {', '.join(drawn)} alone, which do "
                f"not replay all of that: give stages.{name} {', '.join(dict.fromkeys(missing))}, or set stages.{name}.contract.domains ([] holds nothing)"
            )

    @staticmethod
    def has_data(stage: Any) -> bool:
        if isinstance(stage, RlStage):
            return bool(stage.mix.weights() or stage.sources)
        if isinstance(stage, PretrainStage):
            return bool(stage.mix.weights())
        if isinstance(stage, SftStage):
            return bool(stage.path or stage.source or stage.mix.weights())
        return True

    @property
    def run_name(self) -> str:
        return self.name if self.seed == 0 else f"{self.name}-s{self.seed}"

    def start_of(self, name: str) -> str | None:
        """The stage whose weights `name` starts from; None: the recipe's model itself."""
        stage = self.stages[name]
        if stage.start_from:
            return stage.start_from
        if isinstance(stage, ControlStage):
            return stage.of
        before = list(self.stages)[: list(self.stages).index(name)]
        return next((b for b in reversed(before) if self.stages[b].kind in POLICY_KINDS), None)


def load_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read and check a recipe. Raises ConfigError with one line that names the key and the repair."""
    path = find_recipe(path)
    data = read_toml(path, overrides or {})
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        kinds = {c.model_fields["kind"].annotation.__args__[0]: c for c in STAGE_TYPES}  # type: ignore[union-attr]
        raise ConfigError(one_line(error, str(path), Recipe, kinds)) from None


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as TOML, every default written out. `load_recipe` reads it back to an equal one."""
    return to_toml(recipe.model_dump(exclude_none=True))
