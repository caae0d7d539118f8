"""Tasks by name: those of this package, a user's registered ones, entry points of the group
`qwq.tasks`, and `file.py:Name`.

NAME:PART is a part of a task, such as bfcl:simple_python, livebench:math or arithmetic:3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from qwq.common.imports import import_object, is_reference
from qwq.errors import ConfigError, nearest
from qwq.tasks.base import Task

# Modules are imported when a task is asked for: some need much that others do not.
OWN = {
    "aime24": "maths:Aime24", "aime25": "maths:Aime25", "livecodebench": "livecodebench:LiveCodeBench",
    "livebench": "livebench.task:LiveBench", "ifeval": "ifeval:IfEval", "bfcl": "bfcl.task:Bfcl",
    "gsm8k": "maths:Gsm8k", "math500": "maths:Math500", "humaneval": "humaneval:HumanEval", "mbpp": "mbpp:Mbpp",
    "math": "procedural.math_words:MathWords", "code": "procedural.code_functions:CodeFunctions",
    "instructions": "procedural.instructions:Instructions", "tools": "procedural.tool_use:Calculator",
    "preference": "procedural.preference:Preference",
    "arithmetic": "procedural.arithmetic:Arithmetic", "math-rows": "maths:MathRows", "code-rows": "code_rows:CodeRows",
    "constraints": "constraints:Constraints", "prompts": "prompts:Prompts",
    "preference-rows": "prompts:PreferencePrompts",
    "overthinking": "procedural.overthinking:Overthinking", "needle": "procedural.needle:Needle",
    "seek": "procedural.seek:Seek", "chain": "procedural.chain:Chain",
    "table": "procedural.table_questions:TableQuestions", "repair": "procedural.repair:Repair",
    "sql": "procedural.sql_questions:SqlQuestions",
    "dabench": "agent.dabench:DaBench", "spider_sqlite": "agent.spider_sqlite:SpiderSqlite", "wtq": "agent.wtq:Wtq",
    "humanevalfix": "agent.humanevalfix:HumanEvalFix", "polyglot": "agent.polyglot:Polyglot",
    "cruxeval": "agent.cruxeval:CruxEval", "dbbench": "agent.dbbench:DbBench",
}  # fmt: skip

TASKS: dict[str, Task] = {}  # tasks made so far, by name, NAME:PART or reference


def task(name: str) -> Callable[[type[Task]], type[Task]]:
    """Class decorator: registers the task under `name`."""

    def register(cls: type[Task]) -> type[Task]:
        cls.name = name
        _register(cls, f"@task({name!r})")
        return cls

    return register


def names() -> list[str]:
    """The tasks that can be asked for by name: those of this package first."""
    return list(dict.fromkeys([*OWN, *(n for n in TASKS if ":" not in n), *(e.name for e in _entries())]))


def get(name: str) -> Task:
    """The task of this name.

    ConfigError with the nearest name, for a part that it does not have, and for a file that holds
    no task.
    """
    if name in TASKS:
        return TASKS[name]
    kind, colon, part = name.partition(":")
    if kind in OWN or (colon and kind in TASKS):
        whole = type(TASKS[kind]) if kind in TASKS else _own_class(kind)
        if colon and part not in whole.parts:
            hint = nearest(part, whole.parts) if whole.parts else "it is one whole"
            raise ConfigError(f"task {kind} has no part {part!r}: {hint}")
        TASKS[name] = whole(part)
        return TASKS[name]
    if is_reference(name):
        cls = import_object(name, "task")
        if not (isinstance(cls, type) and issubclass(cls, Task)):
            raise ConfigError(
                f"task {name!r} is {type(cls).__name__} {getattr(cls, '__name__', '')}: give a class made from qwq.Task"
            )
        known = TASKS.get(cls.name)
        TASKS[name] = known if known is not None and type(known) is cls else _register(cls, name)
        return TASKS[name]
    for entry in _entries():
        if entry.name == name:
            return _register(entry.load(), f"entry point {name}")
    raise ConfigError(f"no task {name!r}: {nearest(kind, names())}, or name a class as file.py:Name")


def _entries() -> list[EntryPoint]:
    return list(entry_points(group="qwq.tasks"))


def _own_class(name: str) -> type[Task]:
    module, _, cls = OWN[name].partition(":")
    return getattr(import_module(f"qwq.tasks.{module}"), cls)


def _register(cls: type[Task], where: str) -> Task:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", cls.name):
        raise ConfigError(f"task {where}: its name is {cls.name!r}: set `name` to one word of letters, digits, - and _")
    if cls.name in OWN:
        raise ConfigError(f"task {where}: {cls.name!r} is the name of a task that comes with qwq: give it another name")
    TASKS[cls.name] = cls()
    return TASKS[cls.name]
