"""The sets for agents: rows as problems, gold answers right and near misses wrong, with tools and
without, several tries.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import agent_sets as sets
import pytest

from qwq.data.examples import FileUse
from qwq.errors import ConfigError, DataError
from qwq.tasks import registry
from qwq.tasks.agent.base import AgentTask
from qwq.tasks.agent.figures import agent_figures
from qwq.tasks.base import Mark
from qwq.tasks.decontaminate import build_index
from qwq.types import Outcome, ParsedResponse, Problem, Response, ToolCall


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def load(
    make: Callable[[Path], Path], name: str, root: Path, *, tools: str | None = "none", tries: int | None = None
) -> tuple[AgentTask, list[Problem], FileUse]:
    make(root)
    task = registry.get(name)
    assert isinstance(task, AgentTask)
    if tools is not None or tries is not None:
        own = task.protocol
        task = task.under(replace(own, tools=tools or own.tools, tries=tries or own.tries))
    use = FileUse(name, noun="problems")
    return task, task.problems("test", data=task.data(root), use=use), use


def mark(task: AgentTask, problem: Problem, text: str, **more: object) -> Mark:
    return task.mark(problem, Response(text, **more))  # type: ignore[arg-type]


def outcome(task: AgentTask, problem: Problem, text: str, **more: object) -> Outcome:
    return mark(task, problem, text, **more).verdict.outcome


# -- DABench ---------------------------------------------------------------------------------------


def test_dabench(tmp_path: Path) -> None:
    task, problems, use = load(sets.dabench, "dabench", tmp_path)
    assert [p.id for p in problems] == ["dabench/1", "dabench/2"] and use.rows == 4 and use.used == 2
    assert dict(use.left_out) == {"without a label": 1, "without their table": 1}
    first, second = problems
    assert (
        "What is the mean of the column sum?" in first.messages[0].content
        and sets.SALES.strip() in first.messages[0].content
    )
    assert first.files == {} and first.tools == () and first.environment == ""
    assert outcome(task, first, "So it is @mean[35]") is Outcome.CORRECT
    assert outcome(task, first, "So it is @mean[35.1]") is Outcome.WRONG
    assert outcome(task, first, "So it is 35") is Outcome.NO_ANSWER
    half = mark(task, second, "@month[July] @sum[54]")
    assert half.verdict.outcome is Outcome.WRONG and half.detail == {"level": "medium", "part_share": 0.5}
    assert mark(task, second, "@sum[55.0] @month[July]").verdict.reason == "all parts are right"


def test_dabench_with_tools_puts_the_table_into_the_workspace(tmp_path: Path) -> None:
    _, problems, _ = load(sets.dabench, "dabench", tmp_path, tools=None)
    problem = problems[0]
    assert [t["function"]["name"] for t in problem.tools] == ["python"]
    assert problem.files == {"sales.csv": str(tmp_path / "dabench/tables/sales.csv")}
    assert sets.SALES.strip() not in problem.messages[0].content and "sales.csv" in problem.messages[0].content


def test_dabench_without_constraints(tmp_path: Path) -> None:
    path = sets.dabench(tmp_path) / "questions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for field, problem in (("constraints", ""), ("format", "field 'format' must be text, not blank, found ''")):
        path.write_text("".join(json.dumps(row | {field: ""}) + "\n" for row in rows), encoding="utf-8")
        make = lambda root: root / "dabench"  # as it is
        if problem:
            with pytest.raises(DataError, match=problem):
                load(make, "dabench", tmp_path)
        else:
            text = load(make, "dabench", tmp_path)[1][0].messages[0].content
            assert "\n\nEnd your answer" in text and "\n\n\n" not in text


def test_dabench_by_level(tmp_path: Path) -> None:
    _, problems, use = load(sets.dabench, "dabench:easy", tmp_path)
    assert [p.id for p in problems] == ["dabench/1"] and use.left_out["not easy"] == 1


def test_the_folder_itself_will_do(tmp_path: Path) -> None:
    task = registry.get("dabench")
    folder = sets.dabench(tmp_path)
    assert len(task.problems("test", data=task.data(folder))) == 2  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"no folder .*/other/dabench: get da-dev-questions.jsonl from https://"):
        task.data(tmp_path / "other")  # type: ignore[attr-defined]


def test_held_out_sets_have_no_training_rows(tmp_path: Path) -> None:
    task = registry.get("dabench")
    sets.dabench(tmp_path)
    with pytest.raises(DataError, match="dabench is held out: it is evaluated on, and has no train problems"):
        task.problems("train", data=task.data(tmp_path))  # type: ignore[attr-defined]


# -- Spider ----------------------------------------------------------------------------------------


def test_spider(tmp_path: Path) -> None:
    task, problems, use = load(sets.spider, "spider_sqlite", tmp_path)
    assert [p.id for p in problems] == ["spider_sqlite/shop/1", "spider_sqlite/shop/2"]
    assert dict(use.left_out) == {
        "whose gold query gives no rows": 1, "whose gold query fails": 1, "without their database": 1,
    }  # fmt: skip
    count, ordered = problems
    assert "CREATE TABLE sales (month TEXT, sum INTEGER);" in count.messages[0].content
    assert "SELECT count(*)" not in count.messages[0].content and count.expected == "SELECT count(*) FROM sales"
    assert outcome(task, count, "It is\n```sql\nSELECT COUNT(month) FROM sales;\n```") is Outcome.CORRECT
    assert outcome(task, count, "SELECT 3") is Outcome.CORRECT
    assert outcome(task, count, "```sql\nSELECT 4\n```") is Outcome.WRONG
    assert outcome(task, count, "```sql\nSELECT 3, 3\n```") is Outcome.WRONG
    assert mark(task, count, "```sql\nSELECT count(*) FROM shops\n```").verdict.reason == (
        "the query fails: no such table: shops"
    )
    assert outcome(task, count, "There are 3.") is Outcome.NO_ANSWER
    assert outcome(task, ordered, "```\nSELECT sum, month FROM sales ORDER BY sum DESC\n```") is Outcome.CORRECT
    assert outcome(task, ordered, "```sql\nSELECT month, sum FROM sales\n```") is Outcome.WRONG
    assert outcome(task, ordered, "```sql\nDELETE FROM sales\n```") is Outcome.WRONG


def test_spider_s_second_try_follows_the_database_s_words(tmp_path: Path) -> None:
    task, problems, _ = load(sets.spider, "spider_sqlite", tmp_path, tries=2)
    said = task.feedback(problems[0], ParsedResponse(None, "```sql\nSELECT count(*) FROM shops\n```"))
    assert said.startswith("The query fails: no such table: shops\n\nMend it.")
    assert task.feedback(problems[0], ParsedResponse(None, "Three.")).startswith("There is no query in the answer.")
    # Nothing is told of a query that runs, right or wrong.
    assert task.feedback(problems[0], ParsedResponse(None, "```sql\nSELECT 4\n```")) == ""


def test_the_last_query_that_ran_is_the_answer_where_none_is_written(tmp_path: Path) -> None:
    task, problems, _ = load(sets.spider, "spider_sqlite", tmp_path)
    calls = tuple(ToolCall("sql", {"query": q}) for q in ("SELECT 3", "SELECT 4", "SELECT x"))
    done = {"calls": calls, "results": ("3", "4", "error: no such column: x")}
    assert outcome(task, problems[0], "There are 3.", **done) is Outcome.WRONG
    done = {"calls": calls[:1], "results": ("3",)}
    assert outcome(task, problems[0], "There are 3.", **done) is Outcome.CORRECT


# -- WTQ -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_wtq(tmp_path: Path, packed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    task, problems, use = load(lambda root: sets.wtq(root, packed=packed), "wtq", tmp_path)
    assert [p.id for p in problems] == ["wtq/nt-1", "wtq/nt-2"] and dict(use.left_out) == {"without their table": 1}
    assert "no pristine-unseen-tables.tsv: the development split" in capsys.readouterr().err
    both, number = problems
    assert 'Team,Titles\n"The ""Reds"", new","1,200"\nBlues,4' in both.messages[0].content
    assert outcome(task, both, 'Answer: the "Reds", new | Blues') is Outcome.CORRECT
    assert outcome(task, both, "**Answer:** Blues") is Outcome.WRONG
    assert outcome(task, number, "They have many.\n\nAnswer: 1200") is Outcome.CORRECT
    assert outcome(task, number, "1200") is Outcome.NO_ANSWER
    train = task.problems("train", data=task.data(tmp_path))
    assert [p.id for p in train] == ["wtq/nt-0"]  # the development split's rows are in training.tsv too


def test_wtq_tables_reach_the_workspace_in_the_usual_csv(tmp_path: Path) -> None:
    _, problems, _ = load(sets.wtq, "wtq", tmp_path, tools=None)
    (path,) = problems[0].files.values()
    assert Path(path).read_text() == 'Team,Titles\n"The ""Reds"", new","1,200"\nBlues,4\n'


# -- programs --------------------------------------------------------------------------------------


def test_humanevalfix(tmp_path: Path) -> None:
    task, problems, use = load(sets.humanevalfix, "humanevalfix", tmp_path)
    (problem,) = problems
    text = problem.messages[0].content
    assert use.left_out == {"in another language than Python": 1}
    assert "assert total([1, 2]) == 3\nassert total([]) == 0\n```\n\nFix bugs in total." in text and "check" not in text
    assert outcome(task, problem, f"```python\n{sets.FIXED}```") is Outcome.CORRECT
    assert outcome(task, problem, f"```python\n{sets.BUGGY}```") is Outcome.WRONG
    assert outcome(task, problem, "I do not know.") is Outcome.NO_ANSWER
    said = task.feedback(problem, ParsedResponse(None, f"```python\n{sets.BUGGY}```"))
    assert "total([1, 2]) gave -3" in said and "Fix the program." in said
    assert task.feedback(problem, ParsedResponse(None, f"```python\n{sets.FIXED}```")) == ""


def test_polyglot_has_two_tries_and_no_tools(tmp_path: Path) -> None:
    task, problems, _ = load(sets.polyglot, "polyglot", tmp_path, tools=None)
    (problem,) = problems
    assert (task.tries, task.tools, problem.tools) == (2, "none", ()) and problem.id == "polyglot/leap-year"
    assert "Say whether a year is a leap year." in problem.messages[0].content and "pass" in problem.messages[0].content
    assert outcome(task, problem, f"```python\n{sets.LEAP}```") is Outcome.CORRECT
    near = mark(task, problem, "```python\ndef leap(year):\n    return year % 4 == 0\n```").verdict
    assert (near.outcome, near.passed, near.total, near.forgeable) == (Outcome.WRONG, 2, 3, True)
    said = task.feedback(problem, ParsedResponse(None, "```python\ndef leap(year):\n    return year % 4 == 0\n```"))
    assert "test_century" in said and "Fix leap_year.py" in said


def test_cruxeval(tmp_path: Path) -> None:
    task, problems, _ = load(sets.cruxeval, "cruxeval", tmp_path)
    first, second = problems
    assert "f([1, 2])" in first.messages[0].content
    for right in ("[ANSWER][2, 4][/ANSWER]", "[ANSWER]\nassert f([1, 2]) == [2, 4]\n[/ANSWER]", "[2, 4]"):
        assert outcome(task, first, right) is Outcome.CORRECT, right
    for wrong in ("[ANSWER][2, 5][/ANSWER]", "[ANSWER]f([1, 2])[/ANSWER]", "[ANSWER]'[2, 4]'[/ANSWER]"):
        assert outcome(task, first, wrong) is Outcome.WRONG, wrong
    assert outcome(task, second, "[ANSWER]'ab' * 2[/ANSWER]") is Outcome.CORRECT  # the authors run the answer
    assert outcome(task, second, "It doubles\nthe text.") is Outcome.NO_ANSWER
    alone = registry.get("cruxeval:alone")
    assert (alone.protocol.tools, registry.get("cruxeval").protocol.tools) == ("none", "python")


# -- DBBench ---------------------------------------------------------------------------------------

GIVE = 'UPDATE "Medal Tally" SET "Gold (won)" = 1 WHERE Nation = \'Iran\''


def test_dbbench(tmp_path: Path) -> None:
    task, problems, use = load(sets.dbbench, "dbbench", tmp_path)
    assert len(problems) == 2 and use.left_out == {"without the changed table's md5": 1}
    question, change = problems
    assert "Nation | Gold (won)\nIran | 0\nChile | 2" in question.messages[0].content
    assert outcome(task, question, 'Final Answer: ["2"]') is Outcome.CORRECT
    assert outcome(task, question, 'Final Answer: ["3"]') is Outcome.WRONG
    assert outcome(task, question, "It is 2.") is Outcome.NO_ANSWER
    assert outcome(task, change, f"```sql\n{GIVE}\n```") is Outcome.CORRECT
    assert outcome(task, change, f"```sql\n{GIVE.replace('1', '2')}\n```") is Outcome.WRONG
    assert outcome(task, change, "Done.") is Outcome.NO_ANSWER


def test_a_change_is_judged_by_running_its_calls_again(tmp_path: Path) -> None:
    task, problems, _ = load(sets.dbbench, "dbbench", tmp_path, tools=None)
    change = problems[1]

    def judged(*ran: tuple[str, str]) -> Outcome:
        calls = tuple(ToolCall("execute_sql", {"query": query}) for query, _ in ran)
        return outcome(task, change, "Done.", calls=calls, results=tuple(result for _, result in ran))

    assert judged((GIVE, "done")) is Outcome.CORRECT
    assert judged(("UPDATE medals SET x = 1", "error: no such table: medals"), (GIVE, "done")) is Outcome.CORRECT
    assert judged((GIVE, "done"), ("DELETE FROM \"Medal Tally\" WHERE Nation = 'Chile'", "done")) is Outcome.WRONG
    assert judged((GIVE, "error: no call is left of 10")) is Outcome.NO_ANSWER  # a call that did not run


# -- options ---------------------------------------------------------------------------------------


def test_options_that_a_task_cannot_follow(tmp_path: Path) -> None:
    task = registry.get("dabench")
    with pytest.raises(ConfigError, match="no environment 'pyton': did you mean 'python'"):
        task.under(replace(task.protocol, tools="pyton"))
    with pytest.raises(ConfigError, match="--tries 2: dabench has no tests to show after a wrong answer"):
        task.under(replace(task.protocol, tries=2))
    gsm8k = registry.get("gsm8k")
    with pytest.raises(ConfigError, match="--tools: task gsm8k has no tools to choose"):
        gsm8k.under(replace(gsm8k.protocol, tools="python"))


# -- figures ---------------------------------------------------------------------------------------


def record(
    problem: str, score: float, *results: str, malformed: int = 0, tries: int = 1, stop: str = "end"
) -> dict[str, object]:
    turn = {"calls": [{}] * len(results), "results": list(results), "malformed": malformed}
    return {
        "problem_id": problem, "score": score, "turns": [turn], "tokens": 100, "seconds": 1.0, "stop_reason": stop,
        "detail": {"tries": tries},
    }  # fmt: skip


def test_figures_by_hand() -> None:
    trace = "Traceback (most recent call last):\n  ...\nKeyError: 'x'"
    records = [
        record("a", 1, trace, "35"),  # a failed call, a right one, and success: recovered
        record("a", 1, "35"),
        record("a", 0, "35"),
        record("b", 0, "error: no such column", "3"),
        record("b", 1, "error: no such column"),  # right without a right call: not recovered
        record("b", 1, malformed=1, tries=2, stop="turns"),
    ]
    out = agent_figures(records, "python", 2)
    assert out["calls"]["mean"] == pytest.approx((4 / 3 + 4 / 3) / 2)
    assert out["failed_calls"]["mean"] == pytest.approx((1 / 3 + 1) / 2)
    assert out["tokens"] == {"mean": 100, "ci95": [100, 100]}
    recovered = out["recoveries"]
    assert (recovered["samples_with_failed_calls"], recovered["n"], recovered["share"]) == (4, 1, 0.25)
    assert out["stop_reasons"]["turns"]["n"] == 1 and out["stop_reasons"]["end"]["share"] == pytest.approx(5 / 6)
    # Two of three samples of each problem are right: 2/3, C(2,2)/C(3,2) = 1/3, 0.
    assert [out["pass_hat_k"][k]["value"] for k in "123"] == pytest.approx([2 / 3, 1 / 3, 0])
    assert [out["right_within_tries"][k]["n"] for k in "12"] == [3, 4]
    for entry in (out["calls"], out["recoveries"], out["pass_hat_k"]["2"]):
        low, high = entry["ci95"]
        assert low <= entry.get("mean", entry.get("share", entry.get("value"))) <= high


# -- held out --------------------------------------------------------------------------------------


def test_training_rows_are_cleared_of_the_questions(tmp_path: Path) -> None:
    for make in sets.ALL:
        make(tmp_path)
    names = ["dabench", "spider_sqlite", "wtq", "humanevalfix", "polyglot", "cruxeval", "dbbench"]
    index = build_index(names, tmp_path)
    assert index.sizes == {
        "dabench": 2, "spider_sqlite": 2, "wtq": 2, "humanevalfix": 1, "polyglot": 1, "cruxeval": 2, "dbbench": 2,
    }  # fmt: skip
    found = index.match("Please tell me: what is the mean of the column sum?")
    assert found is not None and found.benchmark == "dabench"
    assert index.match("What is the mean of the row sum?") is None
    assert build_index([str(tmp_path / "dabench")]).sizes == {str(tmp_path / "dabench"): 2}
