"""Tasks by name, parts of them, entry points; every one of them is a source for RL and has one
verifier.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwq.config import Source
from qwq.errors import ConfigError, InfraError
from qwq.tasks import Task, get, registry, task
from qwq.tasks.mix import ProblemMix
from qwq.tasks.sources import load_source
from qwq.types import Outcome, Response, Verdict
from qwq.verify.grade import Grader, grade

HUMAN = {
    "task_id": "HumanEval/0", "entry_point": "double", "prompt": 'def double(x):\n    """Twice x."""\n',
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}  # fmt: skip
IFEVAL = {"prompt": "No commas please.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


@pytest.mark.parametrize("name", registry.OWN)
def test_each_of_our_tasks_is_there_under_its_own_name(name: str) -> None:
    made = get(name)
    assert made.name == made.label == name and made is get(name)
    assert made.protocol.max_new_tokens in (512, 32_768)
    for part in made.parts[:2]:
        assert get(f"{name}:{part}").label == f"{name}:{part}" and get(f"{name}:{part}").part == part


def test_names_and_parts_that_there_are_not() -> None:
    for name, words in (
        ("gsm9k", "no task 'gsm9k': did you mean 'gsm8k'"), ("bfcl:simpel", "has no part 'simpel'"),
        ("gsm8k:x", "it is one whole"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            get(name)


def test_an_entry_point_is_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    class Packaged(Task):
        name = "unit-packaged"

        def rows(self, split: str) -> list[dict[str, str]]:
            return [{"prompt": split}]

    class Entry:
        name = "unit-packaged"

        def load(self) -> type[Task]:
            return Packaged

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry()] if group == "qwq.tasks" else [])
    assert "unit-packaged" in registry.names()
    assert get("unit-packaged").problems("test")[0].id == "unit-packaged/test/0"


def test_a_benchmark_with_a_verifier_of_its_own_is_a_source_for_rl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RL's grader finds the task's verifier from the problem alone: HumanEval completes the
    function, IFEval reads strictly.
    """
    (tmp_path / "some.jsonl").write_text(json.dumps(HUMAN) + "\n")
    human = get("humaneval")
    (problem,) = human.problems("test", data=human.data(tmp_path / "some.jsonl"))
    assert (problem.domain, problem.task) == ("code", "humaneval")
    assert grade(problem, Response("    return 2 * x")).outcome is Outcome.CORRECT  # the body alone
    assert grade(problem, Response("return 2 * x")).outcome is Outcome.CORRECT
    assert grade(problem, Response("return x")).outcome is Outcome.WRONG
    assert grade(problem, Response("return 2 * x", finished=False)).outcome is Outcome.UNFINISHED
    (tmp_path / "prompts.jsonl").write_text(json.dumps(IFEVAL) + "\n")
    ifeval = get("ifeval")
    (problem,) = ifeval.problems("test", data=ifeval.data(tmp_path / "prompts.jsonl"))
    assert grade(problem, Response("a b")).correct and not grade(problem, Response("a, b")).correct
    # An evaluation checks a cut answer too, as its authors do; its outcome is the same as RL's
    # unless all is followed.
    assert ifeval.mark(problem, Response("a b", finished=False)).score == 1.0
    assert grade(problem, Response("a b", finished=False)).outcome is Outcome.UNFINISHED


def test_a_mix_draws_from_any_task_by_name() -> None:
    @task("unit-mixed")
    class Mixed(Task):
        def rows(self, split: str) -> list[dict[str, str]]:
            return [{"prompt": f"{split} {i}"} for i in range(5)]

    mix = ProblemMix(3, "rl1", {"math": 1.0, "unit-mixed": 1.0, "arithmetic:1": 1.0})
    drawn = [mix.problem(i) for i in range(60)]
    assert {p.domain for p in drawn} == {"math", "unit-mixed"} and {p.source for p in drawn} >= {"arithmetic"}
    assert drawn == [ProblemMix(3, "rl1", dict(mix.weights)).problem(i) for i in range(60)]
    sums = next(i for i in range(60) if mix.choose(i) == "arithmetic:1")
    problem, (turn,) = mix.demonstration(sums, 0.0)
    assert f"The answer is {problem.truth['gold']}." in turn.content
    other = next(i for i in range(60) if mix.choose(i) == "unit-mixed")
    with pytest.raises(ConfigError, match="task unit-mixed has no demonstrations"):
        mix.demonstration(other, 0.0)


def test_a_task_of_a_domain_needs_no_verifier() -> None:
    @task("unit-domain")
    class Sums(Task):
        domain = "math"

        def rows(self, split: str) -> list[dict[str, str]]:
            return [{"prompt": f"{split}: 1 + 1?", "gold": "2"}]

    (problem,) = load_source(Source(kind="task", path="unit-domain"))
    assert (problem.domain, problem.task) == ("math", "")
    assert grade(problem, Response("\\boxed{2}")).correct and not grade(problem, Response("\\boxed{3}")).correct


def test_a_verifier_whose_sandbox_fails_is_asked_again() -> None:
    asked: list[str] = []

    @task("unit-flaky")
    class Flaky(Task):
        def rows(self, split: str) -> list[dict[str, str]]:
            return [{"prompt": split}]

        def verify(self, problem: object, response: Response) -> Verdict:
            asked.append(response.text)
            if len(asked) == 1:
                raise InfraError("the jail would not start")
            return self.verdict(True)

    grader = Grader(retries=1)
    grader.submit(0, get("unit-flaky").problems("train")[0], Response("x"))
    assert grader.verdicts()[0].outcome is Outcome.CORRECT and asked == ["x", "x"]
