"""The recipes of docs/agent.md, each with a scripted server: a sales file to a report with charts,
a database to answers, a failing test suite to a patch. Their reports are checked and read.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint

from qwq.cli import run
from qwq.sandbox import Level, default_sandbox

needs_pandas = pytest.mark.skipif(
    not pytest.importorskip("importlib.util").find_spec("pandas"), reason="the recipe needs pandas (extra `agent`)"
)


def calls(*made: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "role": "assistant", "content": "",
        "tool_calls": [
            {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for n, (name, arguments) in enumerate(made)
        ],
    }  # fmt: skip


def play(out: Path, task: str, *options: str, answers: list[Any]) -> int:
    def answer(body: dict[str, Any]) -> Any:
        turn = sum(m["role"] == "assistant" for m in body["messages"])
        return answers[min(turn, len(answers) - 1)]

    with FakeEndpoint(answer, models=[{"id": "m", "max_model_len": 32768}]) as server:
        return run(["agent", "run", "--endpoint", server.url, task, *options, "--out", str(out)])


def check(out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    status = run(["agent", "report", str(out), "--check"])
    return status, json.loads(capsys.readouterr().out)


def sales_csv(path: Path) -> None:
    rng = random.Random(7)
    lines = ["date,region,product,units,revenue"]
    for i in range(360):
        region, product = rng.choice(["North", "South", "East"]), rng.choice(["Desk", "Chair", "Lamp"])
        units = rng.randrange(1, 30)
        price = {"Desk": 249.0, "Chair": 89.5, "Lamp": 34.9}[product]
        lines.append(f"2024-{1 + i % 12:02d}-{1 + i % 28:02d},{region},{product},{units},{units * price:.2f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


READ = "import pandas as pd\ndf = pd.read_csv('sales.csv')\nprint(len(df), 'orders')\ndf.head(3)"
BY_REGION = (
    "by_region = df.groupby('region')[['units', 'revenue']].sum()\n"
    "by_region['share'] = by_region['revenue'] / by_region['revenue'].sum()\nby_region"
)
CHARTS = (
    "import matplotlib.pyplot as plt\n"
    "month = df.groupby(df['date'].str[:7])['revenue'].sum()\nprint(month.round(2))\n"
    "fig, ax = plt.subplots(figsize=(7, 3.2))\nmonth.plot.bar(ax=ax, color='#0072b2')\n"
    "ax.set_title('Revenue by month')\nax.set_ylabel('revenue')\nfig.tight_layout()\n"
    "by_region[['region_total']] = by_region[['revenue']]\nby_region['region_total'].to_csv('by_region.csv')"
)


@needs_pandas
def test_a_sales_file_to_a_report_with_charts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pandas as pd

    sales_csv(tmp_path / "sales.csv")
    frame = pd.read_csv(tmp_path / "sales.csv")
    total = frame.groupby("region")["revenue"].sum()
    share = total / total.sum()
    wrong = f"{total['North'] - total['South'] + 1000:,.0f}"
    text = (
        "# Sales 2024\n\nThe file has {n} orders. **North** sold ${north:,.2f} ({share:.1%} of all revenue), South "
        "${south:,.2f}.{more}\n\n| region | revenue | share |\n|---|---:|---:|\n"
        "| East | {east:,.0f} | {east_share:.1%} |\n"
        "| North | {north:,.0f} | {share:.1%} |\n\n![Revenue by month](figure-3.png)\n\n"
        "The totals are saved in by_region.csv.\n"
    )
    fields = {
        "n": len(frame), "north": total["North"], "south": total["South"], "east": total["East"],
        "share": share["North"], "east_share": share["East"],
    }  # fmt: skip
    answers = [
        calls(("python", {"code": READ})), calls(("python", {"code": BY_REGION})), calls(("python", {"code": CHARTS})),
        text.format(**fields, more=f" That is ${wrong} more."),
        # The model is told once what nothing supports, and mends it.
        text.format(**fields, more=""),
    ]  # fmt: skip
    out = tmp_path / "run"
    assert play(out, "A report on sales, with a chart.", "--data", str(tmp_path / "sales.csv"), answers=answers) == 0
    status, found = check(out, capsys)
    assert (status, found["unsupported"], found["mode"]) == (0, 0, "loose")
    assert set(found["traced"]) == {"cell 1", "cell 2", "task"} or set(found["traced"]) == {"cell 1", "cell 2"}
    answer = json.loads((out / "answer.json").read_text(encoding="utf-8"))
    assert (answer["unsupported"], answer["model_calls"]) == (0, 5)
    (told,) = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines() if '"check"' in line][:1]
    assert wrong in told["text"] and "no executed call gave this number" in told["text"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "http://" not in page and page.count("data:image/png;base64,") == 1
    links = re.findall(r'<a class="num" href="#([\w-]+)"', page)
    assert len(links) == 8 and all(f'id="{anchor}"' in page for anchor in links)
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "![Revenue by month](artefacts/figure-3.png)" in report and "workspace/by_region.csv" in report
    assert "Proven: by_region.csv" in report


@needs_pandas
def test_what_stays_unsupported_is_marked_and_ends_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sales_csv(tmp_path / "sales.csv")
    answers = [
        calls(("python", {"code": READ})),
        "There are 360 orders worth $12,345.60. I saved plot.png and all tests pass.",
    ]
    out = tmp_path / "run"
    assert play(out, "Report.", "--data", str(tmp_path / "sales.csv"), answers=answers) == 1
    status, found = check(out, capsys)
    assert (status, found["unsupported"]) == (1, 3)
    assert [row["text"] for row in found["numbers"]] == ["12,345.60"]
    assert [row["reason"] for row in found["deeds"]] == ["no call wrote plot.png", "no call ran tests"]
    assert json.loads((out / "answer.json").read_text(encoding="utf-8"))["unsupported"] == 3
    assert '<mark class="num bad" id="n1"' in (out / "report.html").read_text(encoding="utf-8")
    assert "12,345.60 **[unsupported]**" in (out / "report.md").read_text(encoding="utf-8")


@needs_pandas
def test_a_report_with_placeholders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sales_csv(tmp_path / "sales.csv")
    register = (
        "report.value('orders', len(df), '{:,}')\nreport.value('revenue', df.revenue.sum(), ',.2f')\n"
        "report.table('regions', df.groupby('region')['units'].sum())\n"
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nreport.figure('line', 'A line')"
    )
    text = "# Sales\n\n{{orders}} orders, {{revenue}} in all.\n\n{{regions}}\n\n{{line}}\n"
    answers = [calls(("python", {"code": READ})), calls(("python", {"code": register})), text]
    out = tmp_path / "run"
    assert play(out, "Report.", "--data", str(tmp_path / "sales.csv"), answers=answers) == 0
    status, found = check(out, capsys)
    assert (status, found["mode"]) == (0, "strict") and set(found["traced"]) == {"cell 2"}
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "360 orders" in report and "| region | units |" in report and "![A line](artefacts/figure-2.png)" in report
    by_hand = [
        *answers[:2],
        text + "\nIn all 360 orders, and {{profit}}.",
        text + "\nIn all 360 orders, and {{profit}}.",
    ]
    out = tmp_path / "by_hand"
    assert play(out, "Report.", "--data", str(tmp_path / "sales.csv"), answers=by_hand) == 1
    _, found = check(out, capsys)
    assert [row["text"] for row in found["numbers"]] == ["360", "{{profit}}"]
    assert "typed by hand" in found["numbers"][0]["reason"]


def test_a_database_to_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as db:
        db.execute("create table orders (city text, amount real)")
        db.executemany("insert into orders values (?, ?)", [("Oslo", 120.5), ("Rome", 80.0), ("Oslo", 99.25)])
    db.close()
    query = "select city, count(*) as orders, sum(amount) as total from orders group by city"
    answers = [
        calls(("schema", {})), calls(("sql", {"query": query})),
        "Oslo has 2 orders worth 219.75 in total, Rome one worth 80.",
    ]  # fmt: skip
    out = tmp_path / "run"
    data = ["--data", str(tmp_path / "shop.db"), "--tools", "sql"]
    assert play(out, "Which city ordered for most?", *data, answers=answers) == 0
    status, found = check(out, capsys)
    assert status == 0 and found["traced"] == {"call 2": 2}
    swapped = [*answers[:2], "Rome ordered for 219.75."]
    assert play(tmp_path / "swapped", "Which city ordered for most?", *data, answers=swapped) == 1
    _, found = check(tmp_path / "swapped", capsys)
    assert found["numbers"][0]["reason"].startswith("call 2: 219.75 belongs to city Oslo")


BROKEN = "def median(values):\n    ordered = sorted(values)\n    return ordered[len(ordered) // 2 + 1]\n"
MENDED = "ordered[len(ordered) // 2]"
TESTS = (
    "import unittest\nfrom stats import median\n\n\nclass Median(unittest.TestCase):\n"
    "    def test_odd(self):\n        self.assertEqual(median([3, 1, 2]), 2)\n\n"
    "    def test_one(self):\n        self.assertEqual(median([5]), 5)\n"
)


def test_a_failing_test_suite_to_a_patch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if default_sandbox().level is not Level.NAMESPACES:
        pytest.skip("the shell needs the sandbox level namespaces")
    project = tmp_path / "project"
    project.mkdir()
    (project / "stats.py").write_text(BROKEN, encoding="utf-8")
    (project / "test_stats.py").write_text(TESTS, encoding="utf-8")
    tests = ("shell", {"command": "python3 -m unittest -q"})
    edit = ("edit", {"path": "stats.py", "old": "ordered[len(ordered) // 2 + 1]", "new": MENDED})
    done = "The index was one too far. I fixed stats.py, and all tests pass."
    out = tmp_path / "run"
    options = ["--workspace", str(project), "--tools", "files,shell"]
    assert play(out, "Make the tests pass.", *options, answers=[calls(tests), calls(edit), calls(tests), done]) == 0
    status, found = check(out, capsys)
    assert (status, found["deeds"]) == (0, [])
    assert run(["agent", "apply", str(out), str(project), "--yes"]) == 0
    assert MENDED in (project / "stats.py").read_text(encoding="utf-8")
    # Who changes a file after the tests has not shown that they pass.
    (project / "stats.py").write_text(BROKEN, encoding="utf-8")
    untested = [calls(tests), calls(edit), done]
    assert play(tmp_path / "untested", "Make the tests pass.", *options, answers=untested) == 1
    _, found = check(tmp_path / "untested", capsys)
    assert [row["reason"] for row in found["deeds"]] == ["the last test run, call 1, did not pass"]
