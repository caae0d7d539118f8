"""sql: a question about a small SQLite database whose tables the question does not describe.

Queries run in SQLite itself, in memory, with its own errors. Only reading is allowed, by an
authorizer; chance and clock are refused, so that a replay gives the same texts; steps, rows and
sizes are limited. Right is the answer, and only after a query has read a table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, ClassVar

from qwq.envs.worlds import WorldRules, WorldTool, differs, rules

MAX_ROWS = 20  # of one result
MAX_CELL = 200  # characters of one value
MAX_STEPS = 2_000_000  # of SQLite's virtual machine, a call
MAX_BYTES = 1_000_000  # of one value inside SQLite
READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
# Functions whose value is not one of their arguments alone.
UNREPEATABLE = frozenset(
    "random randomblob date time datetime julianday unixepoch strftime timediff current_date current_time "
    "current_timestamp load_extension sqlite_offset changes total_changes last_insert_rowid".split()
)


@rules("sql")
class SqlRules(WorldRules):
    """Spec: `script`, statements that make the database; `gold`; `calls`."""

    tools: ClassVar[tuple[WorldTool, ...]] = (
        WorldTool("schema", "The CREATE statements of all tables.", {}),
        WorldTool("query", "Runs one SELECT in SQLite. Gives column names and rows, or the error.", {"sql": "SELECT"}),
    )

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.has_read = False

    @property
    def max_calls(self) -> int:
        return int(self.spec["calls"])

    def answer(self, tool: str, **arguments: str) -> str:
        if tool == "schema":
            return "\n".join(s for s in self.spec["script"] if s.upper().startswith("CREATE"))
        # A connection a call: none outlives its thread, and a query leaves nothing behind anyway.
        base = sqlite3.connect(":memory:")
        try:
            base.executescript(";\n".join(self.spec["script"]))
            return self._query(base, arguments["sql"])
        finally:
            base.close()

    def _query(self, base: sqlite3.Connection, sql: str) -> str:
        tables: set[str] = set()

        def allow(action: int, first: str | None, second: str | None, *_: str | None) -> int:
            if action not in READING or (action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in UNREPEATABLE):
                return sqlite3.SQLITE_DENY
            if action == sqlite3.SQLITE_READ and first and not first.startswith("sqlite_"):
                tables.add(first)
            return sqlite3.SQLITE_OK

        base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BYTES)
        base.set_authorizer(allow)
        base.set_progress_handler(lambda: 1, MAX_STEPS)
        try:
            cursor = base.execute(sql)
            rows = cursor.fetchmany(MAX_ROWS + 1)
        except (sqlite3.Error, sqlite3.Warning, MemoryError, ValueError, OverflowError) as error:
            return f"error: {str(error)[:300] or type(error).__name__}"
        if cursor.description is None:
            return "error: no SELECT"
        self.has_read = self.has_read or bool(tables)
        names = " | ".join(str(column[0])[:MAX_CELL] for column in cursor.description)
        lines = [" | ".join(_cell(value) for value in row) for row in rows[:MAX_ROWS]]
        more = [f"[only the first {MAX_ROWS} rows]"] if len(rows) > MAX_ROWS else []
        return "\n".join([names, *lines, *more])

    def fault(self, answer: str) -> str | None:
        if not self.has_read:
            return "no query has read a table"
        return differs(answer, str(self.spec["gold"]))


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    return text.replace("\n", " ")[:MAX_CELL]
