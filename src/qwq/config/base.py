"""What all parts of a recipe share: the base of its tables, ranges and limits. No torch."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Unit = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
MAX_THREADS = 1024  # OpenMP ends the process where it cannot start as many as it is asked for
DEVICES = ("cpu", "cuda", "mps", "xpu")
MAX_SEED = 2**32 - 1  # seeds of requests are made of it, and stay within 64 bits
# Names folders and files of a run, and is part of dotted keys.
STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
START = "start"  # what the recipe's model itself scored, beside the stages


class Section(BaseModel):
    """Base of all parts of a recipe: unknown keys are errors, values are never coerced from text,
    numbers are finite.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, strict=True, allow_inf_nan=False)
