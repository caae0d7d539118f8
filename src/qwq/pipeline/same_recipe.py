"""Whether a run's folder holds a run of the same recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwq.common.run_folder import RunFolder
from qwq.config import Recipe, dump_recipe, load_recipe
from qwq.errors import ConfigError


def check_same_recipe(folder: RunFolder, recipe: Recipe) -> None:
    """ConfigError where the folder holds a run of another recipe, with the first field that
    differs. Where figures are reported to and where rollouts are sampled is no part of a run.
    """
    path = folder.recipe_file
    if not path.exists():
        return
    # Compared as read, so that a field which is new with its default value does not count as a
    # change.
    stored = load_recipe(path)
    here = recipe.rollout.model_dump(exclude={"policy", "max_lag", "stragglers", "enough"})
    stored = stored.model_copy(
        update={"report_to": recipe.report_to, "rollout": stored.rollout.model_copy(update=here)}
    )
    if dump_recipe(stored) != dump_recipe(recipe):
        raise ConfigError(
            f"{folder} holds a run of another recipe ({first_difference(stored.model_dump(), recipe.model_dump())}): "
            "give the same options, or --fresh, which keeps this run beside the new one, or another name"
        )


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str:
    """The first dotted key whose values differ, with both."""
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            return first_difference(a, b, f"{prefix}{key}.")
        if a != b:
            return f"{prefix}{key} was {a!r}, now {b!r}"
    return "other order"
