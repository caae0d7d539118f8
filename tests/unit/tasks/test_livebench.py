"""LiveBench's scorers on cases made by hand after its rules; its loader; its mean of tasks and of
categories.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwq.errors import DataError
from qwq.tasks.downloads import DataFiles
from qwq.tasks.livebench.scorers import SCORERS, boxed, edit_distance, read_table
from qwq.tasks.livebench.task import LiveBench, in_release
from qwq.types import Response
from qwq.verify.grade import grade

AMC = "What is it? $\\textbf{(A) }12 \\qquad\\textbf{(B) }15\\qquad\\textbf{(C) }19$ Answer with a letter five times."
TABLE = "Please convert the Input Table from CSV format to {} format."


@pytest.mark.parametrize(
    ("task", "gold", "answer", "score", "more"),
    [
        ("math_comp", "B", "so it is BBBBB", 1, {"turns": [AMC]}),
        ("math_comp", "B", "<solution>BBBBB</solution>", 1, {"turns": [AMC]}),
        ("math_comp", "B", "<solution>AAAAA</solution>", 0, {"turns": [AMC]}),
        ("math_comp", "B", "thus \\boxed{\\text{B}}", 1, {"turns": [AMC]}),
        ("math_comp", "B", "The answer is 15", 1, {"turns": [AMC]}),
        ("math_comp", "B", "long\n**B**", 1, {"turns": [AMC]}),
        ("math_comp", "B", "it is (B) indeed", 1, {"turns": [AMC]}),
        ("math_comp", "B", "it is (C) indeed", 0, {"turns": [AMC]}),
        ("math_comp", "033", "and so 033", 1, {"subtask": "aime_2024"}),
        ("math_comp", "033", "033 " + "x" * 60, 0, {"subtask": "aime_2024"}),
        ("AMPS_Hard", "x^2+1", "\\boxed{x^2 + 1}", 1, {}),
        ("AMPS_Hard", "2x", "\\boxed{2 x + C}", 1, {}),
        ("AMPS_Hard", "x^2+1", "\\boxed{x^2 - 1}", 0, {}),
        ("olympiad", "3,1,2", "text\nAnswer: 3,1,2", 1, {}),
        ("olympiad", "3,1,2", "Answer: 3, 2, 2", 1 - 1 / 3, {}),
        ("olympiad", "3,1,2", "**Answer:**\n3,1", 1 - 1 / 3, {}),
        ("olympiad", "3,1,2", "\\boxed{3,1,2}", 1, {}),
        ("olympiad", "3,1,2", "I do not know", 0, {}),
        ("spatial", "3", "There are **three** of them", 1, {}),
        ("spatial", "3", "**3**, **a**, **b**, **c**", 0, {}),  # only the last three bold ones
        ("spatial", "triangle", "an **equilateral triangle**", 1, {}),
        ("spatial", "triangle", "**circle, square and triangle**", 0, {}),
        ("spatial", "4", "\\boxed{4}", 1, {}),
        ("web_of_lies_v2", "yes, no, yes", "<solution>yes, no, yes</solution>", 1, {}),
        ("web_of_lies_v2", "yes, no, yes", "so **yes, no, yes**", 1, {}),
        ("web_of_lies_v2", "yes, no, unknown", "**yes**, **no**, **unknown**", 1, {}),
        ("web_of_lies_v2", "yes, no, yes", "first no, no, no but then yes, no, yes", 1, {}),
        ("web_of_lies_v2", "yes, no, yes", "**no, no, yes**", 0, {}),
        ("zebra_puzzle", "cat,3,red,tea", "<solution>cat, 3, red, tea</solution>", 1, {}),
        ("zebra_puzzle", "cat,3,red,tea", "<solution>cat, 3, blue, tea</solution>", 0.75 / 2, {}),
        ("zebra_puzzle", "three", "it is ***3***", 1, {"livebench_release_date": "2024-06-24"}),
        ("zebra_puzzle", "horror movies", "it is ***horror***", 1, {"livebench_release_date": "2024-06-24"}),
        ("connections", "a,b,c,d,e,f,g,h", "<solution>h, g, f, e, a, b, c, d</solution>", 1, {}),
        ("connections", "a,b,c,d,e,f,g,h", "<solution>a, b, c, e, d, f, g, h</solution>", 0, {}),
        ("connections", "a,b,c,d,e,f,g,h", "**a, b, c, d, x, f, g, h**", 0.5, {"livebench_release_date": "2024-06-24"}),
        ("plot_unscrambling", "One. Two. Three.", "<PLOT_SUMMARY>One. Two. Three.</PLOT_SUMMARY>", 1, {}),
        ("plot_unscrambling", "One. Two. Three.", "<PLOT_SUMMARY>Two. One. Three.</PLOT_SUMMARY>", 1 - 2 / 3, {}),
        ("typos", "the right text", "<solution>the right text</solution>", 1, {}),
        ("typos", "the right text", "here --- the right text --- done", 1, {}),
        ("typos", "the right text", "the rihgt text", 0, {}),
        ("cta", "Postal code", "I think: postal-code", 1, {}),
        ("cta", "Postal code", "city", 0, {}),
        ("tablejoin", "{'a': 'x', 'b': 'y'}", "```python\n{'a': 'x', 'b': 'y'}\n```", 1, {}),
        ("tablejoin", "{'a': 'x', 'b': 'y'}", "{'a': 'x', 'c': 'z'}", 0.5, {}),  # tp 1, fp 1, fn 1
        ("tablejoin", "{'a': 'x', 'b': 'y'}", '<solution>{"a": "x", "b": null}</solution>', 0.67, {}),
        ("tablejoin", "{'a': 'x'}", "none", 0, {}),
        (
            "tablereformat",
            '{"0": {"n": 1, "t": "u"}}',
            '```json\n{"0": {"t": "u", "n": 1.0}}\n```',
            1,
            {"turns": [TABLE.format("JSON")]},
        ),
        ("tablereformat", "n,t\n1,u\n2,v", "Here is the table:\nn,t\n1,u\n2,v", 1, {"turns": [TABLE.format("CSV")]}),
        ("tablereformat", "n,t\n1,u\n2,v", "n,t\n2,v\n1,u", 0, {"turns": [TABLE.format("CSV")]}),
        (
            "tablereformat",
            "|n|t|\n|:-|:-|\n|1|u|",
            "| n | t |\n|---|---|\n| 1 | u |",
            1,
            {"turns": [TABLE.format("Markdown")]},
        ),
        ("tablereformat", '{"n": 1}\n{"n": 2}', '{"n": 1}\n{"n": 3}', 0, {"turns": [TABLE.format("JSONL")]}),
        (
            "summarize",
            None,
            "no comma here and done",
            1,
            {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
        ),
        (
            "paraphrase",
            None,
            "one, two",
            0.25,  # one of two followed: (0 + 1/2) / 2
            {
                "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
                "kwargs": [{}, {"keywords": ["two"]}],
            },
        ),
    ],
)
def test_scorers(task: str, gold: Any, answer: str, score: float, more: dict[str, Any]) -> None:
    row = {"task": task, "ground_truth": gold, "turns": [""], "livebench_release_date": "2024-11-25", **more}
    assert SCORERS[task](answer, row) == pytest.approx(score)


def test_small_parts() -> None:
    assert boxed("a \\boxed{1} b \\boxed{\\frac{1}{2}} c") == "\\frac{1}{2}"
    assert boxed("\\boxed{open") is None and boxed("none") is None
    assert edit_distance([1, 2, 3], [1, 3]) == 1 and edit_distance("kitten", "sitting") == 3
    assert read_table("html", "<table><tr><th>n</th></tr><tr><td>1</td></tr></table>") == [{"n": "1"}]
    assert read_table("json", "[1, 2]") == [] and read_table("csv", "a,b\n1") == [] and read_table("xml", "x") == []


def question(ident: str, category: str, task: str, **more: Any) -> dict[str, Any]:
    return {
        "question_id": ident,
        "category": category,
        "task": task,
        "turns": ["?"],
        "ground_truth": "1",
        "livebench_release_date": "2024-11-25",
        **more,
    }


def folder(tmp_path: Path, rows: list[dict[str, Any]]) -> DataFiles:
    (tmp_path / "livebench").mkdir(exist_ok=True)
    (tmp_path / "livebench" / "question.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return LiveBench().data(tmp_path)


def test_the_loader_takes_known_tasks_and_names_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tests = json.dumps([{"input": "1", "output": "1", "testtype": "stdin"}])
    coding = question(
        "c",
        "coding",
        "LCB_generation",
        public_test_cases=tests,
        private_test_cases="[]",
        original_json={"metadata": "{}"},
    )
    rows = [question("a", "reasoning", "spatial"), coding, question("z", "reasoning", "theory_of_mind")]
    bench = LiveBench()
    problems = bench.problems("test", data=folder(tmp_path, rows))
    assert [(p.id, p.source) for p in problems] == [
        ("livebench/a", "reasoning/spatial"),
        ("livebench/c", "coding/LCB_generation"),
    ]
    assert "theory_of_mind (1 questions)" in capsys.readouterr().err
    reply = Response("```python\nprint(input())\n```")
    assert bench.mark(problems[1], reply).score == grade(problems[1], reply).share == 1.0
    assert [p.id for p in LiveBench("coding").problems("test", data=folder(tmp_path, rows))] == ["livebench/c"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (question("a", "reasoning", "spatial", ground_truth=None), "line 1: field 'ground_truth' is empty"),
        (question("a", "magic", "spatial"), "line 1: field 'category' must be one of"),
        (question("a", "reasoning", "spatial", turns=[]), "line 1: field 'turns'"),
        (question("a", "instruction_following", "summarize"), "line 1: fields 'instruction_id_list' and 'kwargs'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LiveBench().problems("test", data=folder(tmp_path, [row]))


def test_the_mean_of_tasks_then_of_categories() -> None:
    means = {"math/olympiad": 0.2, "math/AMPS_Hard": 0.4, "language/typos": 0.9}
    assert LiveBench().combine(means) == pytest.approx((0.3 + 0.9) / 2)  # a plain mean of the three would be 0.5
    assert LiveBench().figures(means, [])["categories"] == pytest.approx({"math": 0.3, "language": 0.9})


def test_a_release_has_what_came_and_had_not_gone() -> None:
    assert in_release({"livebench_release_date": "2024-06-24", "livebench_removal_date": ""})
    assert not in_release({"livebench_release_date": "2025-04-02"})
    assert not in_release({"livebench_release_date": "2024-06-24", "livebench_removal_date": "2024-08-31"})
