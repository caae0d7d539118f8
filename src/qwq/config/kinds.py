"""What all stages of a recipe share, and the registry of their kinds.

A kind is a class made from `StageConfig`. Its own keys are its fields; what the recipe has to know
of it are the methods here. A recipe names it in `kind`: a module of `qwq.pipeline.stages` (one kind
a module, called as the kind), a name given by `@register_stage`, an entry point of the group
`qwq.stages`, or `file.py:Class`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from pydantic import Field

from qwq.common.imports import import_object, is_reference
from qwq.config.above import STAGES, import_stage_kind
from qwq.config.base import Section
from qwq.config.problem_sets import Source
from qwq.config.training import Optim
from qwq.errors import ConfigError, nearest


class Reference(NamedTuple):
    """An earlier stage that a stage names under `key`; `fits` says whether that stage's kind can be
    used, `needs` which ones can.
    """

    key: str
    stage: str
    fits: Callable[[StageConfig], bool] = lambda stage: True
    needs: str = ""


class StageConfig(Section):
    """Base of all stages: their shared keys, and what a recipe has to know to fit stages
    together.
    """

    trains_policy: ClassVar[bool] = True  # its result is a policy: it is evaluated, and others may start from it
    in_sequence: ClassVar[bool] = True  # the next stage starts from its result unless it says otherwise
    takes_fresh_weights: ClassVar[bool] = False  # it can be the first stage of a preset

    start_from: str | None = Field(
        None, description="stage whose result to start from; default: the last one that changed the policy"
    )
    evaluate: bool = Field(True, description="run the benchmarks after the stage")
    optim: Optim = Field(default_factory=Optim)
    kind: str = Field("", description="name of a registered kind, or file.py:Class of your own")

    @property
    def start(self) -> str | None:
        """The stage that it starts from by its own keys; None: the last one in sequence."""
        return self.start_from

    def references(self) -> list[Reference]:
        """The earlier stages that its keys name."""
        if self.start_from is None:
            return []
        fits = "a stage that trains a policy, which a reward model is not"
        return [Reference("start_from", self.start_from, lambda stage: stage.trains_policy, fits)]

    def has_data(self) -> bool:
        """Whether its keys name anything to train on."""
        return True

    @property
    def data_file(self) -> str | None:
        """The stage's own file of rows, or a hub id."""
        return None

    rows_hold: ClassVar[str] = "a `messages` list"  # what a line of that file holds

    def data_owner(self, name: str) -> str:
        """The stage whose own file stage `name`, which this is, reads."""
        return name

    def problem_sources(self) -> list[Source]:
        """The problem sets that it draws from."""
        return []

    def demonstrations(self) -> tuple[dict[str, float], float]:
        """Weights of the families whose documents train the tokenizer, and the share with a
        mistake; for kinds that take fresh weights.
        """
        raise NotImplementedError

    def check_alone(self, name: str) -> None:
        """ValueError for keys that do not belong in a stage of this kind; `name` is the stage's."""

    def settle(self, name: str, earlier: Mapping[str, StageConfig]) -> None:
        """Set what depends on the stages before it. ValueError where they do not fit."""


_Kind = TypeVar("_Kind", bound=type[StageConfig])
_kinds: dict[str, type[StageConfig]] = {}


def register_stage(kind: str) -> Callable[[_Kind], _Kind]:
    """Class decorator: recipes may then name the class as `kind`.

    ConfigError where the name belongs to one of this package's own.
    """

    def register(cls: _Kind) -> _Kind:
        if kind in own_kinds() and cls.__module__ != f"{STAGES}.{kind}":
            raise ConfigError(f"a stage kind {kind!r} is part of qwq already: give yours another name")
        _kinds[kind] = cls
        return cls

    return register


def own_kinds() -> list[str]:
    """The kinds that come with qwq, by the names of their modules."""
    folder = Path(__file__).parents[1].joinpath(*STAGES.split(".")[1:])
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def known_kinds() -> list[str]:
    """Names that a recipe may give."""
    return list(dict.fromkeys([*own_kinds(), *_kinds, *(entry.name for entry in entry_points(group="qwq.stages"))]))


def stage_class(kind: str) -> type[StageConfig]:
    """The class of a kind.

    ConfigError where there is none, and for a file or entry point that holds no stage.
    """
    if kind not in _kinds:
        if is_reference(kind):
            _kinds[kind] = _checked(import_object(kind, "stage kind"), kind)
        elif kind in own_kinds():
            import_stage_kind(kind)
        else:
            for entry in entry_points(group="qwq.stages", name=kind):
                _kinds[kind] = _checked(entry.load(), kind)
    if kind not in _kinds:
        raise ConfigError(f"no stage kind {kind!r}: {nearest(kind, known_kinds())}")
    return _kinds[kind]


def keeps_sequence(kind: str) -> bool:
    """Whether stages of a finished run's kind leave the policy that the next one starts from.

    Taken to be so for a kind of the user's own that cannot be imported here: a run is read without
    the files it was trained with.
    """
    try:
        return stage_class(kind).in_sequence
    except ConfigError:
        return is_reference(kind)


def _checked(cls: Any, kind: str) -> type[StageConfig]:
    if not (isinstance(cls, type) and issubclass(cls, StageConfig) and hasattr(cls, "run")):
        raise ConfigError(f"stage kind {kind!r} is {getattr(cls, '__name__', cls)!r}: give a class made from qwq.Stage")
    return cls
