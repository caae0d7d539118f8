"""The tools `read`, `write`, `edit`, `list` and `grep` on the files of the workspace. The work is
done in the jail (`sandbox/jail/desk.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from qwq.envs.jailed import JailedToolset
from qwq.envs.toolbox import Effect, ToolResult, ToolSpec, tool_schema, toolset
from qwq.types import ToolCall

TIMEOUT_S = 10.0
LINES = 200  # of one `read`
_PATH = {"type": "string", "description": "relative to the workspace"}
_FOLDER = {"type": "string", "description": "a folder; all of the workspace if left out"}
_SCHEMAS = (
    tool_schema(
        "read",
        f"Read a text file of the workspace: up to {LINES} lines, or as many as `lines` says, beginning with line "
        "`from`, which is 1 if left out.",
        {"path": _PATH, "from": {"type": "integer", "minimum": 1}, "lines": {"type": "integer", "minimum": 1}},
        ["path"],
    ),
    tool_schema(
        "write",
        "Write a text file of the workspace, in the place of what is there. Folders are made.",
        {"path": _PATH, "content": {"type": "string"}},
        ["path", "content"],
    ),
    tool_schema(
        "edit",
        "Replace a text in a file of the workspace. `old` must be in the file exactly once, blanks and line ends "
        "included.",
        {"path": _PATH, "old": {"type": "string"}, "new": {"type": "string"}},
        ["path", "old", "new"],
    ),
    tool_schema("list", "List the files of the workspace with their sizes.", {"path": _FOLDER}, []),
    tool_schema(
        "grep",
        "Lines that a Python regular expression matches, in one file or in all text files below a folder.",
        {"pattern": {"type": "string"}, "path": _FOLDER, "ignore_case": {"type": "boolean"}},
        ["pattern"],
    ),
)
_CHANGES = {"write", "edit"}


@toolset("files")
class FileToolset(JailedToolset):
    """What the files hold is other people's text."""

    def specs(self) -> Sequence[ToolSpec]:
        return tuple(
            ToolSpec(
                schema,
                Effect.WORKSPACE if schema["function"]["name"] in _CHANGES else Effect.NONE,
                TIMEOUT_S,
                untrusted=True,
            )
            for schema in _SCHEMAS
        )

    async def run(self, call: ToolCall) -> ToolResult:
        given = call.arguments
        arguments = dict(given)
        if call.name == "read":
            arguments = {"path": given["path"], "start": given.get("from", 1), "lines": given.get("lines", LINES)}
        elif call.name == "list":
            arguments = {"path": given.get("path", ".")}
        elif call.name == "grep":
            arguments = {"path": ".", "ignore_case": False, **given}
        return await self.on_desk(call.name, arguments, TIMEOUT_S)
