"""A run's folder as a whole: whose it is, and how it makes room for another run of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwq.common import files
from qwq.config import Recipe, dump_recipe, load_recipe
from qwq.errors import ConfigError

LOCK = ".lock"


def check_same_recipe(folder: Path, recipe: Recipe) -> None:
    """ConfigError where the folder holds a run of another recipe, with the first field that differs."""
    path = folder / "recipe.toml"
    # Compared as read, so that a field which is new with its default value does not count as a change.
    if path.exists() and dump_recipe(begun := load_recipe(path)) != dump_recipe(recipe):
        raise ConfigError(
            f"{folder} was begun with another recipe ({first_difference(begun.model_dump(), recipe.model_dump())}): "
            "give the same options, or --fresh to start anew, which keeps this run beside the new one, or another name"
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


def move_aside(folder: Path) -> Path | None:
    """Rename a run's folder to NAME.1, or the next number that is free; None where it holds no run. Nothing in it changes, and its lock goes along."""
    if not folder.is_dir() or all(path.name == LOCK for path in folder.iterdir()):
        return None
    return files.move_aside(folder)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
