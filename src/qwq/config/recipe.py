"""A whole recipe: that its stages fit together, reading and writing it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, SerializeAsAny, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from qwq.common.imports import is_reference
from qwq.config.base import MAX_SEED, STAGE_NAME, START, Section
from qwq.config.errors import NO_KIND, one_line
from qwq.config.kinds import StageConfig, known_kinds, stage_class
from qwq.config.load import find_recipe, read_toml, to_toml
from qwq.config.sections import ClusterSection, ComputeSection, EvalSection, ModelSection, RolloutSection
from qwq.errors import ConfigError, nearest


def _stage(value: Any) -> StageConfig:
    """A stage of a recipe, read by the class of its kind; errors of its fields keep their
    places.
    """
    if isinstance(value, StageConfig):
        return value
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        raise PydanticCustomError(NO_KIND, "no kind")
    if kind not in known_kinds() and not is_reference(kind):
        raise PydanticCustomError(NO_KIND, "unknown kind", {"kind": kind})
    return stage_class(kind).model_validate(value)


AnyStage = SerializeAsAny[Annotated[StageConfig, PlainValidator(_stage)]]


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
    cluster: ClusterSection | None = Field(None, description="training on several processes")
    eval: EvalSection = Field(default_factory=EvalSection)
    rollout: RolloutSection = Field(default_factory=RolloutSection)
    report_to: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = Field(
        default_factory=list,
        description="trackers that each step's figures and some answers are sent to (docs/seeing.md)",
    )
    stages: dict[str, AnyStage] = Field(min_length=1, description="stages in the order in which they run")

    @classmethod
    def load(cls, path: str | Path, /, **overrides: Any) -> Recipe:
        """A recipe from a file, or by the name of one that comes with the package.

        `overrides` set keys, dotted ones as `**{"stages.rl1.steps": 10}`. ConfigError with one line
        that names the key and the repair.
        """
        return load_recipe(path, overrides)

    @model_validator(mode="after")
    def _stages_fit(self) -> Recipe:
        earlier: dict[str, StageConfig] = {}
        for name, stage in self.stages.items():
            self._stage_fits(name, stage, earlier)
            earlier[name] = stage
        if self.eval.start and (self.model.preset or START in self.stages):
            raise ValueError(
                f"eval.start reads the checkpoint at model.path as {START!r}: a preset has none, and no stage may "
                "be called so"
            )
        first, stage = next(iter(self.stages.items()))
        if self.model.preset and not stage.takes_fresh_weights:
            raise ValueError(f"a preset has fresh weights, so the first stage must be a pretrain stage, not {first!r}")
        return self

    @staticmethod
    def _stage_fits(name: str, stage: StageConfig, earlier: dict[str, StageConfig]) -> None:
        """ValueError where stage `name` does not fit those before it; what depends on them is
        set.
        """
        if not STAGE_NAME.fullmatch(name):
            raise ValueError(
                f"stage {name!r}: a stage's name is made of letters, digits, _ and -, 64 at most, and begins with a "
                "letter or digit: rename it"
            )
        stage.check_alone(name)
        for key, other, _, _ in stage.references():
            if other not in earlier:
                hint = nearest(other, earlier) if earlier else "it is the first"
                raise ValueError(f"stages.{name}.{key} is {other!r}, which is not an earlier stage: {hint}")
        for key, other, fits, needs in stage.references():
            if not fits(earlier[other]):
                raise ValueError(
                    f"stages.{name}.{key} is {other!r}, a stage of kind {earlier[other].kind}: name {needs}"
                )
        stage.settle(name, earlier)
        if not stage.has_data():
            raise ValueError(f"stages.{name} has no data: give stages.{name}.mix a weight or a path or sources")

    @property
    def run_name(self) -> str:
        return self.name if self.seed == 0 else f"{self.name}-s{self.seed}"

    def start_of(self, name: str) -> str | None:
        """The stage whose weights `name` starts from; None: the recipe's model itself."""
        if start := self.stages[name].start:
            return start
        before = list(self.stages)[: list(self.stages).index(name)]
        return next((b for b in reversed(before) if self.stages[b].in_sequence), None)


def load_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read and check a recipe.

    Raises ConfigError with one line that names the key and the repair.
    """
    path = find_recipe(path)
    data = read_toml(path, overrides or {})
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError(one_line(error, str(path), Recipe, data)) from None


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as TOML, every default written out.

    `load_recipe` reads it back to an equal one.
    """
    return to_toml(recipe.model_dump(exclude_none=True))
