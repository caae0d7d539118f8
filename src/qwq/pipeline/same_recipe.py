"""Whether a run's folder holds a run of the same recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwq.common.run_folder import RunFolder
from qwq.config import ClusterSection, Recipe, dump_recipe, load_recipe
from qwq.errors import ConfigError


def check_same_recipe(folder: RunFolder, recipe: Recipe) -> None:
    """ConfigError where the folder holds a run of another recipe, with the first field that
    differs. Where figures are reported to and where rollouts are sampled is no part of a run, nor
    are the number of processes, their time-outs and restarts.
    """
    path = folder.recipe_file
    if not path.exists():
        return
    # Compared as read, so that a field which is new with its default value does not count as a
    # change.
    stored = load_recipe(path)
    here = recipe.rollout.model_dump(exclude={"policy", "max_lag", "stragglers", "enough"})
    free = {"report_to": recipe.report_to, "rollout": stored.rollout.model_copy(update=here)}
    stored = stored.model_copy(update=free | {"cluster": _same_division(stored.cluster, recipe.cluster)})
    if dump_recipe(stored) != dump_recipe(recipe):
        raise ConfigError(
            f"{folder} holds a run of another recipe ({first_difference(stored.model_dump(), recipe.model_dump())}): "
            "give the same options, or --fresh, which keeps this run beside the new one, or another name"
        )


def _same_division(stored: ClusterSection | None, now: ClusterSection | None) -> ClusterSection | None:
    """`stored` as `now` has it, in all that a resumed run may change. Between one process alone and
    the scatter reduction a run may change over: they differ by rounding.
    """
    if "fixed" not in {c.reduction for c in (stored, now) if c}:
        return now
    if stored is None or now is None:
        return stored
    free = ("processes", "timeout_s", "work_timeout_s", "restarts")
    return stored.model_copy(update={name: getattr(now, name) for name in free})


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str:
    """The first dotted key whose values differ, with both."""
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            return first_difference(a, b, f"{prefix}{key}.")
        if a != b:
            return f"{prefix}{key} was {a!r}, now {b!r}"
    return "other order"
