"""The example of docs/tasks.md is a working task."""

from __future__ import annotations

import re
from pathlib import Path

from qwq.envs import answer_calls, environment_for
from qwq.tasks import get
from qwq.types import Outcome, Response, ToolCall
from qwq.verify.grade import grade

DOC = Path(__file__).resolve().parents[3] / "docs" / "tasks.md"


def test_the_example_runs(tmp_path):
    (tmp_path / "sums.py").write_text(re.search(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.S)[1])
    sums = get(f"{tmp_path}/sums.py:Sums")
    train, test = sums.problems("train"), sums.problems("test")
    assert len(train) == len(test) == 300 and sums.problems("validation")
    problem = train[0]
    assert problem.tools[0]["function"]["name"] == "add"
    made = environment_for(problem)
    assert answer_calls(made, [ToolCall("add", {"a": 2, "b": 3})])[0].content == "5"
    gold = problem.truth["answer"]
    assert grade(problem, Response(f"<think>\n1\n</think>\nIt is {gold}.")).outcome is Outcome.CORRECT
    assert grade(problem, Response("It is nothing.")).outcome is Outcome.WRONG
