"""The tools `sql` and `schema` on databases and tables of the workspace: SQLite, and DuckDB where
it is installed. The work is done in the jail (`sandbox/jail/desk_sql.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from qwq.envs.jailed import JailedToolset
from qwq.envs.toolbox import Effect, ToolResult, ToolSpec, tool_schema, toolset
from qwq.sandbox import packages
from qwq.types import ToolCall

TIMEOUT_S = 10.0
ROWS = 1000
_DB = {"type": "string", "description": "file of the workspace; may be left out where there is one database"}


@toolset("sql")
class SqlToolset(JailedToolset):
    """`sql(query, db)` and `schema(db)`. Databases are read-only unless `sql_write`."""

    packages = ("duckdb",)

    def __init__(self, *, sql_write: bool = False, sql_rows: int = ROWS, sql_timeout_s: float = TIMEOUT_S):
        self.write = sql_write
        self.rows = sql_rows
        self.timeout_s = sql_timeout_s

    def specs(self) -> Sequence[ToolSpec]:
        kinds = "SQLite databases (.db, .sqlite)"
        if packages.of_host(self.packages):
            kinds += ", and with DuckDB .duckdb, .csv, .tsv, .parquet and .json, each file a table of its name"
        limits = f"Up to {self.rows} rows come back. {'Writing is allowed.' if self.write else 'Read-only.'}"
        query = tool_schema(
            "sql",
            f"Run one SQL statement on a file of the workspace: {kinds}. {limits} Call `schema` first.",
            {"query": {"type": "string"}, "db": _DB},
            ["query"],
        )
        schema = tool_schema("schema", "The tables of a database, with their columns and row counts.", {"db": _DB}, [])
        effect = Effect.WORKSPACE if self.write else Effect.NONE
        return (
            ToolSpec(query, effect, self.timeout_s, untrusted=True),
            ToolSpec(schema, Effect.NONE, self.timeout_s, untrusted=True),
        )

    async def run(self, call: ToolCall) -> ToolResult:
        # The engine stops the query, so that its words come back; the cell has a little longer.
        seconds = self.seconds_for(self.timeout_s)
        arguments = {"db": call.arguments.get("db"), "timeout_s": seconds}
        if call.name == "sql":
            arguments |= {"query": call.arguments["query"], "write": self.write, "rows": self.rows}
        return await self.on_desk(call.name, arguments, seconds + 2.0)
