"""sql: a question about a small generated SQLite database; names of tables and columns have to be
looked up. For models that can read: the query is theirs, and so are SQLite's errors.

Levels: 1 count or sum over one table, 2 the row with the largest value, 3 a join. Canonical form:
the statements that make the database, and the question.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping
from typing import Any

from qwq.tasks.procedural.base import digest
from qwq.tasks.procedural.world_family import KNOWN, Script, WorldFamily
from qwq.types import Problem

# What a table may be called, then its columns: who or what, group, amount.
SHOPS = (
    ("orders", ("customer", "buyer", "client"), ("city", "town", "region"), ("total", "price", "amount")),
    ("staff", ("name", "person", "worker"), ("team", "unit", "department"), ("salary", "pay", "wage")),
    ("books", ("title", "label", "book"), ("genre", "kind", "shelf"), ("pages", "length", "num_pages")),
    ("trips", ("driver", "pilot", "captain"), ("country", "land", "state"), ("km", "distance", "miles")),
)
WORDS = {"orders": ("orders", "from"), "staff": ("people", "in"), "books": ("books", "of"), "trips": ("trips", "to")}
NOUNS = {"orders": "amount", "staff": "pay", "books": "number of pages", "trips": "distance"}
WHO = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gia", "Hugo", "Ida", "Jon")
GROUPS = {
    "orders": ("Rome", "Oslo", "Lima"), "staff": ("sales", "law", "labs"), "books": ("drama", "crime", "poetry"),
    "trips": ("Peru", "Chad", "Fiji"),
}  # fmt: skip
CALLS = 6


class SqlQuestions(WorldFamily):
    name = kind = "sql"
    parts = ("1", "2", "3", KNOWN)

    def draw(self, rng: random.Random) -> Problem:
        level = int(self.part) if self.part.isdigit() else rng.choice((1, 2, 3))
        table, *choices = rng.choice(SHOPS)
        who, group, amount = (rng.choice(names) for names in choices)
        rows = [(name, rng.choice(GROUPS[table]), rng.randint(101, 989)) for name in rng.sample(WHO, rng.randint(5, 8))]
        script, source = self._tables(table, (who, group, amount), rows, joined=level == 3)
        asked = rng.choice(sorted({row[1] for row in rows}))
        text, select = self._question(level, table, (who, group, amount), asked, source, rng)
        base = sqlite3.connect(":memory:")
        base.executescript(";\n".join(script))
        gold = str(base.execute(select).fetchone()[0])
        base.close()
        spec = {"script": script, "gold": gold, "calls": CALLS, "select": select}
        canonical = f"{digest(text + ';'.join(script)):016x}"
        if self.part == KNOWN:
            return self.posed(f"The answer is {gold}. What is the answer?", spec | {"known": gold}, canonical)
        return self.posed(f"{text} Look it up in the database and answer in \\boxed{{}}.", spec, canonical, level)

    @staticmethod
    def _tables(
        table: str, columns: tuple[str, ...], rows: list[tuple[str, str, int]], *, joined: bool
    ) -> tuple[list[str], str]:
        """The statements, and what a SELECT reads from; joined: the groups are a table of their
        own.
        """
        who, group, amount = columns
        if not joined:
            script = [f"CREATE TABLE {table} ({who} TEXT, {group} TEXT, {amount} INTEGER)"]
            return script + [f"INSERT INTO {table} VALUES ('{a}', '{b}', {c})" for a, b, c in rows], table
        names = sorted({row[1] for row in rows})
        script = [
            f"CREATE TABLE {group}_list (id INTEGER PRIMARY KEY, {group} TEXT)",
            f"CREATE TABLE {table} ({who} TEXT, {group}_id INTEGER, {amount} INTEGER)",
        ]
        script += [f"INSERT INTO {group}_list VALUES ({i}, '{name}')" for i, name in enumerate(names, 1)]
        script += [f"INSERT INTO {table} VALUES ('{a}', {names.index(b) + 1}, {c})" for a, b, c in rows]
        return script, f"{table} JOIN {group}_list ON {table}.{group}_id = {group}_list.id"

    @staticmethod
    def _question(
        level: int, table: str, columns: tuple[str, ...], asked: str, source: str, rng: random.Random
    ) -> tuple[str, str]:
        """The question, and the SELECT that answers it."""
        who, group, amount = columns
        (things, to), noun = WORDS[table], NOUNS[table]
        if level == 2:
            most = rng.random() < 0.5
            select = f"SELECT {who} FROM {source} ORDER BY {amount} {'DESC' if most else 'ASC'}, {who} LIMIT 1"
            ends = "largest" if most else "smallest"
            return f"Of the {things}: whose row has the {ends} {noun} (of several the first by name)?", select
        return (
            f"What is the total {noun} of the {things} {to} {asked}?",
            f"SELECT SUM({amount}) FROM {source} WHERE {group} = '{asked}'",
        )

    def play(self, script: Script, spec: Mapping[str, Any], rng: random.Random) -> str:
        script.call("The names are not told, so the schema comes first.", "schema")
        result = script.call("The names are known now.", "query", sql=spec["select"])
        return result.splitlines()[-1]
