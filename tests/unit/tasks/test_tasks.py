"""A task's rows become problems, and its verifier's verdicts become rewards."""

from __future__ import annotations

import pytest

from qwq.errors import ConfigError, DataError
from qwq.tasks import Task, get, task
from qwq.tasks.base import Protocol
from qwq.types import Message, Outcome, Response
from qwq.verify.grade import grade


class Base(Task):
    name = "unit-base"

    def rows(self, split):
        yield {"prompt": f"{split}?", "answer": 1, "id": "own", "level": 3}
        yield {
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": f"{split} two?"}],
            "canonical": f"{split}2",
        }

    def verify(self, problem, response):
        return self.verdict(response.text == "yes", answer=response.text)


def test_rows_become_problems():
    first, second = Base().problems("train")
    assert (first.id, first.domain, first.level, first.truth, first.canonical) == (
        "own",
        "unit-base",
        3,
        {"answer": 1},
        "train?",
    )
    assert second.messages == (Message("system", "s"), Message("user", "train two?")) and second.canonical == "train2"
    assert second.id == "unit-base/train/1"


def test_a_problem_of_two_splits_is_refused():
    class Leaky(Base):
        def rows(self, split):
            yield {"prompt": "the same"}

    leaky = Leaky()
    leaky.problems("train")
    with pytest.raises(DataError, match="1 problems are both in train and in test, such as 'the same'"):
        leaky.problems("test")


@pytest.mark.parametrize(
    "row", [{}, {"prompt": "x", "messages": []}, {"prompt": ""}, {"messages": []}, "text", {"prompt": 5}]
)
def test_a_bad_row_names_task_split_and_row(row):
    class Bad(Base):
        def rows(self, split):
            yield row

    with pytest.raises(DataError, match="task unit-base, train row 1"):
        Bad().problems("train")


def test_the_registered_verifier_grades_finished_answers_only():
    @task("unit-registered")
    class Registered(Base):
        pass

    problem = get("unit-registered").problems("train")[0]
    assert grade(problem, Response("yes")).outcome is Outcome.CORRECT
    assert grade(problem, Response("no")).outcome is Outcome.WRONG
    assert grade(problem, Response("yes", finished=False)).outcome is Outcome.UNFINISHED


def test_what_a_verifier_does_wrong_is_one_line():
    @task("unit-broken")
    class Broken(Base):
        def verify(self, problem, response):
            return {"raise": 1 / 0} if response.text == "yes" else True

    problem = get("unit-broken").problems("train")[0]
    with pytest.raises(ConfigError, match="the verifier of task unit-broken raised ZeroDivisionError, asked about own"):
        grade(problem, Response("yes"))
    with pytest.raises(ConfigError, match="gave bool, asked about own: give a Verdict"):
        grade(problem, Response("no"))


@pytest.mark.parametrize(
    ("name", "words"), [("math", "name of a task that comes with qwq"), ("two words", "one word"), ("", "one word")]
)
def test_a_name_that_cannot_be_one(name, words):
    with pytest.raises(ConfigError, match=words):
        task(name)(type("X", (Base,), {}))


def test_unknown_names_say_what_there_is():
    task("unit-known")(type("Y", (Base,), {}))
    with pytest.raises(ConfigError, match="no task 'unit-knwn': did you mean 'unit-known'"):
        get("unit-knwn")


def test_protocol_defaults_are_qwqs_own():
    assert (Protocol().temperature, Protocol().top_p, Protocol().top_k, Protocol().max_new_tokens) == (
        0.6,
        0.95,
        40,
        32768,
    )
