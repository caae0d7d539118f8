"""Tasks by name: registered ones, entry points of the group `qwq.tasks`, and `file.py:Name`."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points

from qwq.common.imports import import_object, is_reference
from qwq.errors import ConfigError, nearest
from qwq.tasks.base import Task
from qwq.types import DOMAINS
from qwq.verify.grade import VERIFIERS

TASKS: dict[str, Task] = {}
_by_reference: dict[str, Task] = {}


def task(name: str) -> Callable[[type[Task]], type[Task]]:
    """Class decorator: registers the task under `name`."""

    def register(cls: type[Task]) -> type[Task]:
        cls.name = name
        _register(cls, f"@task({name!r})")
        return cls

    return register


def get(name: str) -> Task:
    """The task of this name. ConfigError with the nearest name, and for a file that holds no task."""
    if name in TASKS:
        return TASKS[name]
    if is_reference(name):
        if name not in _by_reference:
            found = import_object(name, "task")
            if not (isinstance(found, type) and issubclass(found, Task)):
                raise ConfigError(
                    f"task {name!r} is {type(found).__name__} {getattr(found, '__name__', '')}: give a class made from qwq.Task"
                )
            _by_reference[name] = TASKS[found.name] if type(TASKS.get(found.name)) is found else _register(found, name)
        return _by_reference[name]
    for entry in entry_points(group="qwq.tasks"):
        if entry.name == name:
            return _register(entry.load(), f"entry point {name}")
    known = [*TASKS, *(entry.name for entry in entry_points(group="qwq.tasks"))]
    hint = nearest(name, known) if known else "none is registered"
    raise ConfigError(f"no task {name!r}: {hint}, or name a class as file.py:Name")


def _register(cls: type[Task], where: str) -> Task:
    name = cls.name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ConfigError(f"task {where}: its name is {name!r}: set `name` to one word of letters, digits, - and _")
    if name in DOMAINS:
        raise ConfigError(f"task {where}: {name!r} is the name of a procedural family: give the task another name")
    TASKS[name] = made = cls()
    VERIFIERS[name] = made.verify
    return made
