"""Where problems come from: files and tasks, and the mix of procedural families."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qwq.config.base import Positive, Section
from qwq.types import CUSTOM, DOMAINS

SOURCE_DOMAINS = {
    "gsm8k": "math", "math": "math", "arithmetic": "math", "code": "code", "mbpp": "code", "constraints": "instructions", "prompts": CUSTOM,
}  # fmt: skip


class Source(Section):
    """A set of problems: a file in a published set's own format, a hub data set, or plain sums of a level."""

    kind: Literal["gsm8k", "math", "code", "mbpp", "constraints", "arithmetic", "prompts", "task"] = Field(
        description="format of the rows; math: `problem` or `question` with `answer` or `solution`; code: `prompt` with `tests`; arithmetic needs no file; "
        "prompts: `prompt` (or `messages`) and any columns, judged by reward functions alone; task: a task of your own, its class in `path`"
    )
    path: str = Field(
        "",
        description='JSON-lines or parquet file, folder, or hub id; "builtin" for generated constraints; file.py:Name of a task',
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
                f"a source of kind {self.kind!r} has path {self.path!r} and level {self.level}: arithmetic takes a level, the others a path"
            )
        return self

    @property
    def label(self) -> str:
        """What the source is called in mixes, metrics and the contract's log."""
        return f"{self.kind}:{self.path or self.level}:{self.split}"

    @property
    def domain(self) -> str:
        """The domain that its problems belong to; of a task of the user's own, the name of its class."""
        return self.path.rpartition(":")[2] if self.kind == "task" else SOURCE_DOMAINS[self.kind]

    @property
    def held_as(self) -> tuple[str, ...]:
        """The names by which a contract may hold it: its domain, its kind, its label. None for prompts that no verifier judges."""
        return () if self.kind == "prompts" else (self.domain, self.kind, self.label)


class Mix(Section):
    """Relative weights of the procedural families."""

    math: float = Field(0.0, ge=0, description="multi-step arithmetic word problems")
    code: float = Field(0.0, ge=0, description="small Python functions")
    instructions: float = Field(0.0, ge=0, description="format, length and wording rules")
    tools: float = Field(0.0, ge=0, description="calculator calls")
    preference: float = Field(0.0, ge=0, description="open questions with a hidden rule")

    def weights(self) -> dict[str, float]:
        return {d: w for d in DOMAINS if (w := getattr(self, d)) > 0}
