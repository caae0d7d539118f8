"""Packages above this one that a recipe's names are looked up in: kinds of stages, and tasks.

Both import this package, so they are imported when a recipe is read, by the names below. These are
its only upward imports, and tests/test_layers.py lists them. A registration from above could not
replace them: `load_recipe` knows the names also in a process that has imported nothing but
`qwq.config`.
"""

from __future__ import annotations

import importlib
from typing import Any

STAGES = "qwq.pipeline.stages"  # one kind a module
TASKS = "qwq.tasks.registry"


def import_stage_kind(kind: str) -> None:
    """Import the module of one of this program's own kinds of stages, which registers it."""
    importlib.import_module(f"{STAGES}.{kind}")


def task_names() -> list[str]:
    """Tasks that a recipe may name, beside `file.py:Name`."""
    names: list[str] = importlib.import_module(TASKS).names()
    return names


def task_named(name: str) -> Any:
    """The task of a name (`qwq.tasks.Task`). ConfigError where there is none."""
    return importlib.import_module(TASKS).get(name)
