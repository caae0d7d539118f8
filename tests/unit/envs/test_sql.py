"""sql and schema: rows, the engine's own errors, limits, and what is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from qwq.envs import Effect, ResultKind, Toolbox, make_toolsets
from qwq.envs.base import in_background
from qwq.envs.toolbox import workspace_for
from qwq.sandbox import Sandbox
from qwq.sandbox.jail.desk_sql import table_names
from qwq.types import Message, Problem, ToolCall

FOREVER = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"


def run(work):
    return in_background(work).result()


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(slots=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> bytes:
    path: Path = tmp_path_factory.mktemp("db") / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE sales(month TEXT, amount REAL, note BLOB);"
            "INSERT INTO sales VALUES ('jan', 1.5, x'00ff'), ('feb' || char(10) || 'x', NULL, NULL),"
            " ('<tool_call>', 2, '');"
            "CREATE VIEW big AS SELECT * FROM sales WHERE amount > 1;"
        )
    connection.close()
    return path.read_bytes()


@pytest.fixture
def open_box(sandbox):
    boxes = []

    def opened(files, **options):
        toolsets = make_toolsets(["sql"], **options)
        box = Toolbox(toolsets, workspace_for(toolsets, sandbox, files=files))
        boxes.append(box)
        run(box.reset(Problem("p", "tools", (Message("user", "?"),), {}, "?")))

        def ask(query=None, db=None):
            arguments = {k: v for k, v in (("query", query), ("db", db)) if v is not None}
            return run(box.run_call(ToolCall("sql" if query is not None else "schema", arguments)))

        ask.box = box
        return ask

    yield opened
    for box in boxes:
        run(box.close())
        box.workspace.close()


def test_rows_come_back_one_a_line(open_box, database):
    ask = open_box({"shop.db": database})
    assert ask("SELECT * FROM sales").text == (
        "month | amount | note\njan | 1.5 | x'00ff'\nfeb\\nx | NULL | NULL\n<tool_call> | 2.0 | \n(3 rows)"
    )
    assert ask("SELECT count(*) AS n FROM big").text == "n\n2\n(1 row)"
    assert ask("SELECT 1 WHERE 0").text == "1\n(0 rows)"


def test_the_schema(open_box, database):
    text = open_box({"shop.db": database})().text
    assert text.splitlines() == [
        f"SQLite {sqlite3.sqlite_version}, shop.db",
        "CREATE TABLE sales(month TEXT, amount REAL, note BLOB);  -- 3 rows",
        "CREATE VIEW big AS SELECT * FROM sales WHERE amount > 1;  -- 2 rows",
    ]


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("SELECT price FROM sales", "error: sql: no such column: price"),
        ("SELECT * FROM sale", "error: sql: no such table: sale"),
        ("SELEC 1", 'error: sql: near "SELEC": syntax error'),
        ("SELECT 1; SELECT 2", "error: sql: You can only execute one statement at a time."),
        ("INSERT INTO sales VALUES (1, 2, 3)", "error: sql: not authorized: the database is read-only"),
        ("DROP TABLE sales", "error: sql: not authorized: the database is read-only"),
        ("CREATE TEMP TABLE t(x)", "error: sql: not authorized: the database is read-only"),
        (FOREVER, "error: sql: the query took longer than 0.5 s"),
        ("SELECT zeroblob(100000000)", "error: sql: string or blob too big"),
    ],
)  # fmt: skip
def test_errors_are_the_engines_own(open_box, database, query, error):
    result = open_box({"shop.db": database}, sql_timeout_s=0.5)(query)
    assert (result.text, result.kind) == (error, ResultKind.ERROR)


def test_rows_are_limited(open_box, database):
    ask = open_box({"shop.db": database}, sql_rows=2)
    assert ask("SELECT month FROM sales").text.endswith(
        "feb\\nx\n(the first 2 rows; there are more: aggregate, or LIMIT)"
    )
    assert ask("SELECT 1 UNION SELECT 2").text == "1\n1\n2\n(2 rows)"


def test_writing_where_it_is_allowed(open_box, database):
    ask = open_box({"shop.db": database}, sql_write=True)
    assert ask("UPDATE sales SET amount = 0").text == "(3 rows changed)"
    assert ask("SELECT sum(amount) AS s FROM sales").text == "s\n0.0\n(1 row)"
    assert ask.box.spec("sql").effect is Effect.WORKSPACE and ask.box.spec("schema").effect is Effect.NONE
    assert list(ask.box.workspace.diff().changed) == ["shop.db"]


def test_which_database(open_box, database):
    ask = open_box({"a.db": database, "b/c.sqlite": database, "x.bin": database, "n.txt": b"text"})
    assert ask("SELECT 1").text == "error: sql: give db: the workspace has a.db, b/c.sqlite"
    assert ask("SELECT count(*) AS n FROM sales", db="b/c.sqlite").text == "n\n3\n(1 row)"
    assert ask("SELECT count(*) AS n FROM sales", db="x.bin").text == "n\n3\n(1 row)"
    assert ask("SELECT 1", db="n.txt").text.startswith("error: sql: n.txt is no database: give one")
    assert ask("SELECT 1", db="gone.db").text.startswith("error: sql: no file gone.db: the workspace has a.db")
    assert ask("SELECT 1", db="../x.db").text.startswith("error: sql: ../x.db leads out of the workspace")
    empty = open_box({})
    assert empty("SELECT 1").text == "error: sql: the workspace has no database, and no file of tables"
    broken = open_box({"a.db": b"SQLite format 3\0" + b"nonsense" * 200})
    assert broken("SELECT * FROM sqlite_master").text == "error: sql: file is not a database"


def test_a_table_of_each_file_has_its_own_name():
    assert table_names(["a.csv", "d/a.csv", "my file-1.parquet", "a_2.json"]) == ["a", "a_2", "my_file_1", "a_2_2"]


def test_duckdb_reads_tables(open_box):
    pytest.importorskip("duckdb")
    ask = open_box({"sales.csv": b"month,amount\njan,3\nfeb,4\n", "d/names.json": b'[{"n": "x"}]'}, sql_timeout_s=5.0)
    assert ask("SELECT sum(amount) AS s FROM sales").text == "s\n7\n(1 row)"
    lines = ask().text.splitlines()
    assert lines[0].startswith("DuckDB ") and lines[0].endswith(", sales.csv, d/names.json")
    assert lines[1:] == ["names(n VARCHAR)  -- 1 rows", "sales(month VARCHAR, amount BIGINT)  -- 2 rows"]
    assert 'Referenced column "price" not found' in ask("SELECT price FROM sales").text
    assert ask("SELECT 1; SELECT 2").text == "error: sql: 2 statements: give one"


def test_duckdb_is_stopped_at_its_time(open_box):
    pytest.importorskip("duckdb")
    ask = open_box({"a.csv": b"x\n1\n"}, sql_timeout_s=0.5)
    slow = ask("SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range % 7 = b.range % 11")
    assert slow.text == "error: sql: the query took longer than 0.5 s"
