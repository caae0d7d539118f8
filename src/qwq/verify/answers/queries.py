"""SQL that a model wrote, run on a copy of an SQLite database in the jail.

    run_queries(Path("world_1.sqlite").read_bytes(), ["SELECT count(*) FROM city"])[0].rows

Covered: whatever the statements do to the database, to other files or to memory stays in the jail,
and they cannot write a result themselves. A statement that needs more than `MAX_STEPS` of SQLite's
own steps is stopped, so the outcome does not depend on the machine's load.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwq.errors import DataError
from qwq.sandbox import Runner, RunStatus, default_sandbox

MAX_STEPS = 50_000_000
MAX_ROWS = 20_000
TIMEOUT_S = 20.0
OUTPUT_BYTES = 16 << 20
_STEPS_A_LOOK = 10_000
DATABASE = "data.sqlite"

# What runs in the jail. A value that JSON has no form for is its bytes as hexadecimal digits.
_PROGRAM = """
import json, sqlite3, sys
job = json.load(open("job.json", encoding="utf-8"))
db = sqlite3.connect("data.sqlite", isolation_level=None)
db.text_factory = lambda data: data.decode(errors="ignore")
left = 0
def look():
    global left
    left -= 1
    return left < 0
db.set_progress_handler(look, job["steps_a_look"])
for statement, values in job["statements"]:
    left = job["looks"]
    try:
        cursor = db.execute(statement, values)
        rows = cursor.fetchmany(job["rows"] + 1)
        result = {"columns": [c[0] for c in cursor.description or ()], "rows": [
            [{"blob": v.hex()} if isinstance(v, bytes) else v for v in row] for row in rows]}
        if len(rows) > job["rows"]:
            result = {"error": f"more than {job['rows']} rows"}
        cursor.close()
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        result = {"error": f"{error}"}
    print(json.dumps(result))
"""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What a statement gave: rows, or why there are none; `timed_out`: it was stopped by the
    clock.
    """

    rows: tuple[tuple[Any, ...], ...] = ()
    columns: tuple[str, ...] = ()
    error: str = ""
    timed_out: bool = False


Statement = str | tuple[str, Sequence[Any]]


def run_queries(
    database: bytes | None, statements: Sequence[Statement], *, sandbox: Runner | None = None
) -> list[QueryResult]:
    """The statements one after another on a copy of the database (None: an empty one); each sees
    what earlier ones changed.

    A statement may come with values for its question marks. InfraError where the sandbox fails.
    """
    job = {
        "statements": [[s, []] if isinstance(s, str) else [s[0], list(s[1])] for s in statements],
        "rows": MAX_ROWS,
        "steps_a_look": _STEPS_A_LOOK,
        "looks": MAX_STEPS // _STEPS_A_LOOK,
    }
    files = {"job.json": json.dumps(job).encode("utf-8", "surrogatepass")}
    if database is not None:
        files[DATABASE] = database
    done = (sandbox or default_sandbox()).run(
        _PROGRAM, files=files, timeout_s=TIMEOUT_S, output_limit_bytes=OUTPUT_BYTES
    )
    results = [_result(json.loads(line)) for line in done.stdout.decode().splitlines() if line.endswith("}")]
    if len(results) < len(statements):
        timed_out = done.status is RunStatus.TIMEOUT
        rest = QueryResult(error=f"stopped: {done.status.value.replace('_', ' ')}", timed_out=timed_out)
        results += [rest] * (len(statements) - len(results))
    return results


def _result(data: Mapping[str, Any]) -> QueryResult:
    if "error" in data:
        return QueryResult(error=data["error"])
    rows = tuple(tuple(bytes.fromhex(v["blob"]) if isinstance(v, dict) else v for v in row) for row in data["rows"])
    return QueryResult(rows, tuple(data["columns"]))


def trusted_rows(database: Path, query: str) -> tuple[tuple[Any, ...], ...]:
    """The rows of a data set's own query, read here. DataError where it fails."""
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
            db.text_factory = lambda data: data.decode(errors="ignore")
            return tuple(db.execute(query).fetchall())
    except sqlite3.Error as error:
        raise DataError(f"{database}: {query!r} fails: {error}") from None


def schema_of(database: Path) -> str:
    """The statements that make the database's tables, in the order of the file. DataError where it
    is no database.
    """
    query = "SELECT sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
    return ";\n".join(str(row[0]).strip() for row in trusted_rows(database, query)) + ";"
