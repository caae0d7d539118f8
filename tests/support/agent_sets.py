"""Small sets for agents in the layouts of the published ones, made up."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

SALES = "month,sum\nMay,20\nJune,30\nJuly,55\n"


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def dabench(root: Path) -> Path:
    folder = root / "dabench"

    def question(ident: int, text: str, form: str, level: str, table: str = "sales.csv") -> dict[str, Any]:
        return {
            "id": ident, "question": text, "concepts": [], "constraints": "Use all rows.", "format": form,
            "file_name": table, "level": level,
        }  # fmt: skip

    write_rows(
        folder / "questions.jsonl",
        question(1, "What is the mean of the column sum?", "@mean[value], a number", "easy"),
        question(2, "Which month has the largest sum, and what is it?", "@month[name] @sum[value]", "medium"),
        question(3, "What is the median of the column sum?", "@median[value]", "easy"),  # without a label
        question(4, "What is the least?", "@least[value]", "easy", "absent.csv"),
    )
    write_rows(
        folder / "labels.jsonl",
        {"id": 1, "common_answers": [["mean", "35.0"]]},
        {"id": 2, "common_answers": [["sum", "55"], ["month", "July"]]},
        {"id": 4, "common_answers": [["least", "1"]]},
    )
    (folder / "tables").mkdir()
    (folder / "tables" / "sales.csv").write_text(SALES, encoding="utf-8")
    return folder


def spider(root: Path) -> Path:
    folder = root / "spider_sqlite"
    (folder / "databases").mkdir(parents=True)
    with sqlite3.connect(folder / "databases" / "shop.sqlite") as db:
        db.execute("CREATE TABLE sales (month TEXT, sum INTEGER)")
        db.executemany("INSERT INTO sales VALUES (?, ?)", [("May", 20), ("June", 30), ("July", 55)])
    db.close()

    def row(query: str, gold: str, hardness: str = "easy", db: str = "shop") -> dict[str, Any]:
        return {"db": db, "gold": gold, "query": query, "hardness": hardness}

    write_rows(
        folder / "questions.jsonl",
        row("How many months are there?", "SELECT count(*) FROM sales"),
        row("Months and sums, the largest sum first?", "SELECT month, sum FROM sales ORDER BY sum DESC", "medium"),
        row("Months with a sum over 100?", "SELECT month FROM sales WHERE sum > 100"),  # gives nothing
        row("Who?", "SELECT name FROM people"),  # fails
        row("Where?", "SELECT 1", db="absent"),
    )
    return folder


def wtq(root: Path, *, packed: bool = True) -> Path:
    folder = root / "wtq"
    (folder / "csv" / "200-csv").mkdir(parents=True)
    table = folder / "csv" / "200-csv" / "1.csv"
    table.write_text('"Team","Titles"\n"The \\"Reds\\", new","1,200"\n"Blues","4"\n', encoding="utf-8")
    head = "id\tutterance\tcontext\ttargetValue\n"
    rows = [
        "nt-0\twhich team has four titles?\tcsv/200-csv/1.csv\tBlues\n",
        'nt-1\tname all teams?\tcsv/200-csv/1.csv\tBlues|The "Reds", new\n',
        "nt-2\thow many titles have the reds?\tcsv/200-csv/1.csv\t1,200\n",
        "nt-3\twho?\tcsv/200-csv/9.csv\tnobody\n",
    ]
    (folder / "training.tsv").write_text(head + "".join(rows), encoding="utf-8")
    (folder / "random-split-1-dev.tsv").write_text(head + "".join(rows[1:]), encoding="utf-8")
    if packed:
        with tarfile.open(folder / "tables-train.tar.xz", "w:xz") as tar:
            tar.add(folder / "csv", "csv")
        table.unlink()
        table.parent.rmdir()
        table.parent.parent.rmdir()
    return folder


BUGGY = "def total(xs):\n    out = 0\n    for x in xs:\n        out -= x\n    return out\n"
FIXED = BUGGY.replace("-=", "+=")


def humanevalfix(root: Path) -> Path:
    declaration, _, body = BUGGY.partition("\n")
    return write_rows(
        root / "humanevalfix" / "humanevalpack.jsonl",
        {
            "task_id": "Python/7", "prompt": 'def total(xs):\n    """The sum."""\n', "declaration": declaration + "\n",
            "buggy_solution": body, "canonical_solution": body.replace("-=", "+="), "entry_point": "total",
            "test": "\n\ndef check(total):\n    assert total([1, 2]) == 3\n    assert total([]) == 0\n\ncheck(total)",
        },
        {
            "task_id": "Go/7", "declaration": "x", "buggy_solution": "x", "entry_point": "x", "test": "x",
        },
    ).parent  # fmt: skip


EXERCISE_TESTS = """import unittest
from leap_year import leap


class LeapTest(unittest.TestCase):
    def test_plain(self):
        self.assertIs(leap(2023), False)

    def test_leap(self):
        self.assertIs(leap(2024), True)

    def test_century(self):
        self.assertIs(leap(1900), False)
"""
LEAP = "def leap(year):\n    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)\n"


def polyglot(root: Path) -> Path:
    folder = root / "polyglot_python" / "leap-year"
    (folder / ".docs").mkdir(parents=True)
    (folder / ".meta").mkdir()
    (folder / ".docs" / "instructions.md").write_text("# Instructions\n\nSay whether a year is a leap year.\n")
    files = {"solution": ["leap_year.py"], "test": ["leap_year_test.py"], "example": [".meta/example.py"]}
    (folder / ".meta" / "config.json").write_text(json.dumps({"authors": [], "files": files}, indent=2))
    (folder / ".meta" / "example.py").write_text(LEAP)
    (folder / "leap_year.py").write_text("def leap(year):\n    pass\n")
    (folder / "leap_year_test.py").write_text(EXERCISE_TESTS)
    return folder.parent


def cruxeval(root: Path) -> Path:
    return write_rows(
        root / "cruxeval" / "cruxeval.jsonl",
        {"code": "def f(xs):\n    return [x * 2 for x in xs]", "input": "[1, 2]", "output": "[2, 4]", "id": "sample_0"},
        {"code": "def f(s):\n    return s + s", "input": "'ab'", "output": "'abab'", "id": "sample_1"},
    ).parent


def dbbench(root: Path) -> Path:
    table = {
        "table_name": "Medal Tally",
        "table_info": {
            "columns": [{"name": "Nation", "type": "TEXT"}, {"name": "Gold (won)", "type": "TEXT"}],
            "rows": [["Iran", 0], ["Chile", 2]],
        },
    }
    about = "The name of this table is Medal Tally, and the headers of this table are Nation,Gold (won)."

    def row(kind: str, text: str, label: str, **more: Any) -> dict[str, Any]:
        return {"description": text, "label": [label], "table": table, "type": [kind], "add_description": about, **more}

    return write_rows(
        root / "dbbench" / "dev.jsonl",
        row("counting", "How many gold medals has Chile?", "2.0"),
        row(
            "UPDATE", "Give Iran one gold medal.", "UPDATE `Medal Tally` SET `Gold (won)`='1' WHERE Nation='Iran'",
            answer_md5=f"[('{MEDALS_MD5}',)]",
        ),
        row("INSERT", "Add Peru.", "INSERT INTO `Medal Tally` VALUES ('Peru', 0)"),
    ).parent  # fmt: skip


# md5 of "27426,b7c58": the first five digits of md5("Iran,1") and md5("Chile,2"), in order.
MEDALS_MD5 = "c04b2e1701246c2553152a8b8a6e3fba"
ALL = (dabench, spider, wtq, humanevalfix, polyglot, cruxeval, dbbench)
