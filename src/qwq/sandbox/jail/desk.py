"""Tools that work on a session's workspace, inside its jail: files, bash, SQL.

A call is a cell of the session like any other: it prints what the model reads; where the call was
wrong, its value is one line that says so. Everything here shares the interpreter with the cells, so
its answers are as much the program's word as theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import desk_bash, desk_files, desk_paths, desk_sql

FAULT = "application/x-qwq-fault"
TOOLS: dict[str, Callable[..., Any]] = {
    "read": desk_files.read,
    "write": desk_files.write,
    "edit": desk_files.edit,
    "list": desk_files.list_folder,
    "grep": desk_files.grep,
    "bash": desk_bash.bash,
    "sql": desk_sql.sql,
    "schema": desk_sql.schema,
}


def set_workspace(folder: str) -> None:
    """Called before the first cell."""
    desk_paths.here = folder


class Fault:
    """A call that was wrong, as the cell's value."""

    def __init__(self, text: str):
        self.text = text

    def _repr_mimebundle_(self) -> dict[str, str]:
        return {FAULT: self.text, "text/plain": self.text}


def run(name: str, arguments: dict[str, Any]) -> Any:
    """One call of a tool. A text is printed, anything else is the cell's value."""
    try:
        result = TOOLS[name](**arguments)
    except desk_paths.ToolFault as fault:
        return Fault(f"error: {name}: {fault}")
    if not isinstance(result, str):
        return result
    print(result)
    return None
