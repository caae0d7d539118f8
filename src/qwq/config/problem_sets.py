"""Where problems come from: files and tasks, and the mix of tasks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from qwq.common.imports import is_reference
from qwq.config.above import task_named, task_names
from qwq.config.base import Positive, Section
from qwq.errors import ConfigError, nearest
from qwq.types import CUSTOM, DOMAINS

UNKNOWN_TASK, BAD_TASK = (
    "unknown_task",
    "bad_task",
)  # types of the errors for a key that names no task, or no usable one

SOURCE_DOMAINS = {
    "gsm8k": "math", "math": "math", "arithmetic": "math", "code": "code", "mbpp": "code",
    "constraints": "instructions", "prompts": CUSTOM, "preference": "preference",
}  # fmt: skip


class Source(Section):
    """A set of problems: a file in a published set's own format, a hub data set, or plain sums of a
    level.
    """

    kind: Literal["gsm8k", "math", "code", "mbpp", "constraints", "arithmetic", "prompts", "preference", "task"] = (
        Field(
            description="format of the rows; math: `problem` or `question` with `answer` or `solution`; code: `prompt` "
            "with `tests`; arithmetic needs no file; prompts: `prompt` (or `messages`) and any columns, "
            "judged by reward functions alone; preference: the same rows, judged by stage 2's reward model; task: a "
            "task of your own, its class in `path`"
        )
    )
    path: str = Field(
        "",
        description='JSON-lines or parquet file, folder, or hub id; "builtin" for generated constraints; '
        "file.py:Name of a "
        "task",
    )
    level: int = Field(
        0, ge=0, le=6, description="of arithmetic: 1 to 3 sums up to 20, 99, 999; 4 three terms; 5 and 6 products"
    )
    split: Literal["train", "validation", "test"] = Field(
        "train", description="rows to take where one file holds several splits"
    )
    weight: float = Field(1.0, gt=0, description="share of the prompts, relative to the other sources and the mix")
    limit: Positive | None = Field(None, description="first rows only")
    decontaminate: list[str] = Field(
        default_factory=list, description="benchmark files; problems that share 13 words in a row with one are left out"
    )

    @model_validator(mode="after")
    def _from_somewhere(self) -> Source:
        if (self.kind == "arithmetic") != bool(self.level) or (self.kind == "arithmetic") == bool(self.path):
            raise ValueError(
                f"a source of kind {self.kind!r} has path {self.path!r} and level {self.level}: arithmetic takes a "
                "level, the others a path"
            )
        return self

    @property
    def label(self) -> str:
        """What the source is called in mixes, metrics and the contract's log."""
        return f"{self.kind}:{self.path or self.level}:{self.split}"

    @property
    def domain(self) -> str:
        """The domain that its problems belong to: of a task, the one that it names, or its own
        name.
        """
        return task_domain(self.path) if self.kind == "task" else SOURCE_DOMAINS[self.kind]

    @property
    def held_as(self) -> tuple[str, ...]:
        """The names by which a contract may hold it: its domain, its kind, its label.

        None for prompts that no verifier judges.
        """
        return (self.domain, self.kind, self.label) if self.verified else ()

    @property
    def verified(self) -> bool:
        """Whether a verifier judges its problems, and not functions or a reward model alone."""
        return self.kind not in ("prompts", "preference")


def task_domain(name: str) -> str:
    """The domain of a task's problems. ConfigError where there is no such task."""
    task = task_named(name)
    return str(task.domain or task.name)


class TaskTable(Section):
    """A table with keys of its own and, beside them, numbers by the names of tasks.

    Names are checked, and numbers kept, in order.
    """

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _known_tasks(self) -> Self:
        for name in self.model_extra or {}:
            check_task(name, type(self).model_fields)
        return self

    def by_task(self) -> dict[str, Any]:
        """The numbers above 0 by task: the procedural families first."""
        numbers = {d: getattr(self, d) for d in DOMAINS} | (self.model_extra or {})
        return {name: number for name, number in numbers.items() if number > 0}


def check_task(name: str, keys: Iterable[str]) -> None:
    """A validation error where `name` is no task that is judged; `keys` may have been meant as
    well.
    """
    try:
        if name not in task_names() and not is_reference(name):
            raise PydanticCustomError(
                UNKNOWN_TASK, "{hint}", {"name": name, "hint": nearest(name, [*keys, *task_names()])}
            )
        task = task_named(name)
    except ConfigError as error:
        raise PydanticCustomError(BAD_TASK, "{reason}", {"name": name, "reason": str(error)}) from None
    if not task.scored:
        reason = f"no verifier judges the problems of task {name!r}: give them as sources, with rewards"
        raise PydanticCustomError(BAD_TASK, "{reason}", {"name": name, "reason": reason})


class Mix(TaskTable):
    """Relative weights of tasks: the procedural families, and any task by its name or as
    `"file.py:Name"`.
    """

    __pydantic_extra__: dict[str, Annotated[float, Field(ge=0)]] = Field(init=False)

    math: float = Field(0.0, ge=0, description="multi-step arithmetic word problems")
    code: float = Field(0.0, ge=0, description="small Python functions")
    instructions: float = Field(0.0, ge=0, description="format, length and wording rules")
    tools: float = Field(0.0, ge=0, description="calculator calls")
    preference: float = Field(0.0, ge=0, description="open questions with a hidden rule")

    def weights(self) -> dict[str, float]:
        return self.by_task()
