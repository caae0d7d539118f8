"""Fields of a recipe that are set on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

Overrides = Annotated[dict[str, Any], Parameter(parse=False)]


def with_seed(overrides: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
    return dict(overrides) | ({} if seed is None else {"seed": seed})
