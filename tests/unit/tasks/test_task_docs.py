"""The examples of docs/tasks.md are a working task, and a stage that a recipe names."""

from __future__ import annotations

import re
from pathlib import Path

from qwq.config import load_recipe
from qwq.envs import answer_calls, environment_for
from qwq.pipeline.plan.explain import explain
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


def test_the_stage_and_both_recipes_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = DOC.read_text(encoding="utf-8")
    for code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", words, re.S):
        (tmp_path / code[0]).write_text(code[1])
    own_task, _, own_stage = re.findall(r"```toml\n(.*?)```", words, re.S)
    text = own_task.replace('kind = "rl1"', 'kind = "rl1"\nsteps = 2') + own_stage
    (tmp_path / "r.toml").write_text(f'name = "r"\nmodel = {{ path = "org/m", shape = "tiny" }}\n{text}')
    recipe = load_recipe("r.toml")
    assert recipe.eval.counts() == {"math": 200, "sums.py:Sums": 100}
    plan = explain(recipe, tmp_path)
    assert "100 sums.py:Sums" in plan and "one sentence a step" in plan
