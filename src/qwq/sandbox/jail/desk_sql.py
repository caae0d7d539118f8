"""SQL on databases of a session's workspace, inside its jail.

SQLite answers for .db, .sqlite and .sqlite3 files, DuckDB, where it is installed, for .duckdb files
and for tables in .csv, .tsv, .parquet and .json files. A database is opened read-only unless
writing is allowed. SQLite's authorizer refuses ATTACH, extensions and all pragmas but those that
describe; DuckDB runs without access to files and with its settings locked.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from . import desk_paths

SQLITE = (".db", ".sqlite", ".sqlite3")
DUCKDB = (".duckdb", ".ddb")
TABLES = {".csv": "read_csv", ".tsv": "read_csv", ".parquet": "read_parquet", ".json": "read_json"}
MAX_CELL = 500
MAX_VALUE_BYTES = 50 << 20
_CHECK_EVERY = 10_000  # steps of SQLite's machine between looks at the clock
_DUCKDB_MEMORY = "256MB"
_DESCRIBING = {
    "collation_list", "database_list", "foreign_key_check", "foreign_key_list", "function_list", "index_info",
    "index_list", "index_xinfo", "integrity_check", "quick_check", "table_info", "table_list", "table_xinfo",
}  # fmt: skip
_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_TRANSACTION}
_WRITES = {
    getattr(sqlite3, f"SQLITE_{name}")
    for name in (
        "INSERT", "UPDATE", "DELETE", "ALTER_TABLE", "REINDEX", "ANALYZE", "SAVEPOINT",
        *(f"{verb}_{kind}" for verb in ("CREATE", "DROP") for kind in ("TABLE", "INDEX", "VIEW", "TRIGGER")),
        *(f"{verb}_TEMP_{kind}" for verb in ("CREATE", "DROP") for kind in ("TABLE", "INDEX", "VIEW", "TRIGGER")),
    )
}  # fmt: skip
_OTHERS = {
    sqlite3.SQLITE_ATTACH: "ATTACH",
    sqlite3.SQLITE_DETACH: "DETACH",
    sqlite3.SQLITE_CREATE_VTABLE: "a virtual table",
}
_FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}


def sql(query: str, db: str | None, write: bool, rows: int, timeout_s: float) -> str:
    """The rows that a query gives, up to `rows`."""
    with _opened(db, write, timeout_s) as connection:
        names, found, changed = connection.rows_of(query, rows + 1)
    if not names:
        return f"({changed} rows changed)" if changed >= 0 else "(done)"
    lines = [" | ".join(names), *(" | ".join(map(_cell, row)) for row in found[:rows])]
    count = f"({len(found)} row{'s' * (len(found) != 1)})"
    lines.append(f"(the first {rows} rows; there are more: aggregate, or LIMIT)" if len(found) > rows else count)
    return "\n".join(lines)


def schema(db: str | None, timeout_s: float) -> str:
    """What the database holds: each table with its columns and the number of its rows."""
    with _opened(db, False, timeout_s) as connection:
        return "\n".join([f"{connection.engine}, {connection.source}", *connection.tables()])


def _cell(value: object) -> str:
    """A value as one line: a text with line ends must not look like more rows."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes | bytearray | memoryview):
        text = f"x'{bytes(value)[:MAX_CELL].hex()}'"
    else:
        text = str(value).replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]}..."


# -- which database


def _opened(db: str | None, write: bool, timeout_s: float) -> Any:
    paths = [db] if db else _databases()
    kinds = {os.path.splitext(path)[1].lower() for path in paths}
    if len(paths) == 1 and kinds <= set(SQLITE):
        return _sqlite(paths[0], write, timeout_s)
    if (len(paths) == 1 and kinds <= set(DUCKDB)) or kinds <= set(TABLES):
        return _duckdb(paths, write, timeout_s)
    if db and _begins_as_sqlite(desk_paths.regular(db)):
        return _sqlite(db, write, timeout_s)
    known = ", ".join([*SQLITE, *DUCKDB, *TABLES])
    raise desk_paths.ToolFault(f"{paths[0]} is no database: give one of the workspace's files of the kinds {known}")


def _begins_as_sqlite(place: str) -> bool:
    with open(place, "rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _databases() -> list[str]:
    """The one database of the workspace, or all its files of tables. ToolFault where it is not
    clear which is meant.
    """
    names = [desk_paths.shown(path) for path, _ in desk_paths.entries(desk_paths.here)]
    names = [name for name in names if not name.startswith("outputs/")]
    databases = [name for name in names if name.lower().endswith((*SQLITE, *DUCKDB))]
    if len(databases) > 1:
        raise desk_paths.ToolFault(f"give db: the workspace has {', '.join(databases)}")
    tables = [name for name in names if name.lower().endswith(tuple(TABLES))]
    if not databases and not tables:
        raise desk_paths.ToolFault("the workspace has no database, and no file of tables")
    return databases or tables


# -- SQLite


class _SqliteDatabase:
    def __init__(self, connection: sqlite3.Connection, path: str, write: bool, timeout_s: float):
        self.engine = f"SQLite {sqlite3.sqlite_version}"
        self.source = path
        self._connection = connection
        self._write = write
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._refused = ""
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.text_factory = lambda data: data.decode(errors="replace")
        connection.set_authorizer(self._allow)
        connection.set_progress_handler(lambda: time.monotonic() > self._deadline, _CHECK_EVERY)

    def _allow(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        if action in _READS or (self._write and action in _WRITES):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _FORBIDDEN_FUNCTIONS:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA and (first or "").lower() in _DESCRIBING:
            return sqlite3.SQLITE_OK
        what = {sqlite3.SQLITE_PRAGMA: f"PRAGMA {first}", sqlite3.SQLITE_FUNCTION: f"{second}()"}.get(action)
        self._refused = "the database is read-only"
        if action not in _WRITES:
            self._refused = f"{what or _OTHERS.get(action, 'this')} is not allowed"
        return sqlite3.SQLITE_DENY

    def rows_of(self, query: str, most: int) -> tuple[list[str], list[Sequence[object]], int]:
        """Names of columns, the first rows, and how many rows were changed."""
        try:
            cursor = self._connection.execute(query)
            names = [column[0] for column in cursor.description or ()]
            rows = cursor.fetchmany(most) if names else []
            if self._write:
                self._connection.commit()
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            text = str(error)
            if text == "interrupted":
                text = f"the query took longer than {self._timeout_s:g} s"
            raise desk_paths.ToolFault(f"{text}: {self._refused}" if self._refused else text) from None
        return names, rows, cursor.rowcount

    def tables(self) -> Iterator[str]:
        _, rows, _ = self.rows_of("SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'view')", 1000)
        for name, text in rows:
            quoted = '"' + str(name).replace('"', '""') + '"'
            try:
                count = f"{self.rows_of(f'SELECT count(*) FROM {quoted}', 1)[1][0][0]:,} rows"
            except desk_paths.ToolFault as fault:
                count = str(fault)
            yield f"{text or name};  -- {count}"


@contextmanager
def _sqlite(path: str, write: bool, timeout_s: float) -> Iterator[_SqliteDatabase]:
    place = urllib.parse.quote(desk_paths.regular(path))
    try:
        connection = sqlite3.connect(f"file:{place}?mode={'rw' if write else 'ro'}", uri=True, timeout=1.0)
    except sqlite3.Error as error:
        raise desk_paths.ToolFault(f"{path}: {error}") from None
    with closing(connection):
        yield _SqliteDatabase(connection, path, write, timeout_s)


# -- DuckDB


class _DuckDatabase:
    def __init__(self, connection: Any, module: Any, sources: list[str], timeout_s: float):
        self.engine = f"DuckDB {module.__version__}"
        self.source = ", ".join(sources)
        self._connection = connection
        self._module = module
        self._timeout_s = timeout_s

    def rows_of(self, query: str, most: int) -> tuple[list[str], list[Sequence[object]], int]:
        timer = threading.Timer(self._timeout_s, self._connection.interrupt)
        timer.start()
        try:
            statements = self._connection.extract_statements(query)
            if len(statements) != 1:
                raise desk_paths.ToolFault(f"{len(statements)} statements: give one")
            cursor = self._connection.execute(query)
            names = [column[0] for column in cursor.description or ()]
            return names, cursor.fetchmany(most) if names else [], -1
        except self._module.InterruptException:
            raise desk_paths.ToolFault(f"the query took longer than {self._timeout_s:g} s") from None
        except self._module.Error as error:
            raise desk_paths.ToolFault(str(error)) from None
        finally:
            timer.cancel()
            timer.join()

    def tables(self) -> Iterator[str]:
        query = (
            "SELECT table_name, string_agg(column_name || ' ' || data_type, ', ' ORDER BY column_index) "
            "FROM duckdb_columns() WHERE NOT internal GROUP BY table_name ORDER BY table_name"
        )
        for name, columns in self.rows_of(query, 1000)[1]:
            quoted = '"' + str(name).replace('"', '""') + '"'
            count = self.rows_of(f"SELECT count(*) FROM {quoted}", 1)[1][0][0]
            yield f"{name}({columns})  -- {count:,} rows"


@contextmanager
def _duckdb(paths: list[str], write: bool, timeout_s: float) -> Iterator[_DuckDatabase]:
    try:
        import duckdb
    except ImportError:
        raise desk_paths.ToolFault(f"{paths[0]} needs DuckDB, which is not installed: use python") from None
    places = [desk_paths.regular(path) for path in paths]
    own = os.path.splitext(paths[0])[1].lower() in DUCKDB
    config: dict[str, Any] = {"threads": "1", "memory_limit": _DUCKDB_MEMORY, "autoinstall_known_extensions": "false",
              "autoload_known_extensions": "false"}  # fmt: skip
    try:
        connection = duckdb.connect(places[0] if own else ":memory:", read_only=own and not write, config=config)
    except duckdb.Error as error:
        raise desk_paths.ToolFault(f"{paths[0]}: {error}") from None
    with closing(connection):
        if not own:
            for place, name in zip(places, table_names(paths), strict=True):
                reader = TABLES[os.path.splitext(place)[1].lower()]
                try:
                    connection.execute(f'CREATE TABLE "{name}" AS SELECT * FROM {reader}(?)', [place])
                except duckdb.Error as error:
                    raise desk_paths.ToolFault(f"{desk_paths.shown(place)}: {error}") from None
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield _DuckDatabase(connection, duckdb, paths, timeout_s)


def table_names(paths: list[str]) -> list[str]:
    """A table's name for each file: its own without the ending, each one once."""
    names: list[str] = []
    for path in paths:
        stem = re.sub(r"\W+", "_", os.path.splitext(os.path.basename(path))[0]) or "table"
        taken = sum(name == stem or re.fullmatch(re.escape(stem) + r"_\d+", name) is not None for name in names)
        names.append(f"{stem}_{taken + 1}" if taken else stem)
    return names
