"""Families of worlds: demonstrations are right in the world itself, levels and names are held out,
splits are disjoint, prompts tell nothing.
"""

from __future__ import annotations

import random

import pytest

from qwq.config import Recipe
from qwq.envs.worlds import WORLD
from qwq.tasks import get
from qwq.tasks.procedural.table_questions import NEW_AMOUNTS, NEW_PLACES
from qwq.text.response import parse
from qwq.types import Message, Outcome, Problem, Response
from qwq.verify.grade import grade
from qwq.verify.worlds.hidden_place import random_inside

QUICK = ("seek", "chain", "table", "sql")
PARTS = [f"{name}:{part}" for name in QUICK for part in get(name).parts]


def response_of(turns: tuple[Message, ...]) -> Response:
    calls = tuple(call for turn in turns for call in turn.tool_calls)
    text = turns[-1].content
    return Response(text, calls=calls, parts=parse(text))


def outcomes(name: str, num: int, *, noisy: bool = False) -> list[Outcome]:
    task, rng = get(name), random.Random(0)
    problems = [task.problem(0, "train", i) for i in range(num)]
    return [grade(p, response_of(task.demonstrate(p, rng, noisy=noisy))).outcome for p in problems]


@pytest.mark.parametrize("name", [n for n in [*QUICK, *PARTS] if not n.startswith("seek") or n.endswith("known")])
def test_demonstrations_are_right(name: str) -> None:
    assert set(outcomes(name, 60)) == {Outcome.CORRECT}


def test_seek_is_demonstrated_by_chance_inside_what_is_left() -> None:
    right = sum(o is Outcome.CORRECT for o in outcomes("seek", 3000)) / 3000
    assert right == pytest.approx(random_inside(15, 4), abs=0.03)


@pytest.mark.parametrize("name", QUICK)
def test_noisy_demonstrations_are_wrong(name: str) -> None:
    assert outcomes(name, 100, noisy=True).count(Outcome.CORRECT) <= 3


def test_repair_is_demonstrated_in_the_jail() -> None:
    task = get("repair")
    problem = task.problem(0, "train", 0)
    turns = task.demonstrate(problem, random.Random(0))
    assert turns[1].content.startswith("case ") and turns[3].content == "all tests pass"
    assert grade(problem, response_of(turns)).correct
    spec = problem.truth[WORLD]
    # What passes the shown cases by a table of their values fails the hidden ones.
    table = {str(case["args"][0]): case["expected"] for case in spec["shown"]}
    cheat = f"def f(x):\n    return {table!r}.get(str(x), 0)"
    calls = [m.tool_calls[0] for m in turns if m.tool_calls]
    forged = Response("x\n</think>\ndone", calls=(type(calls[0])("run_tests", {"code": cheat}),), thinking_open=True)
    verdict = grade(problem, forged)
    assert verdict.outcome is Outcome.WRONG and "the last version fails: case" in verdict.reason
    assert not grade(problem, Response("x\n</think>\ndone", thinking_open=True)).correct


@pytest.mark.parametrize("name", [*QUICK, "repair", *PARTS])
def test_streams_repeat_and_splits_are_disjoint(name: str) -> None:
    task = get(name)
    problems = {split: [task.problem(3, split, i) for i in range(60)] for split in ("train", "validation", "test")}
    assert problems["train"] == [task.problem(3, "train", i) for i in range(60)]
    names = {split: {p.canonical for p in ps} for split, ps in problems.items()}
    assert not names["train"] & names["test"] and not names["validation"] & names["test"]
    assert all(p.environment == WORLD and p.domain == "agent" and p.tools for p in problems["test"])


@pytest.mark.parametrize("name", ["seek", "chain", "table", "seek:known", "chain:4", "chain:5", "table:known"])
def test_there_are_500_different_test_problems(name: str) -> None:
    assert len({p.id for p in get(name).fixed("test", 500)}) == 500


def test_prompts_do_not_tell_the_answer() -> None:
    def text(problem: Problem) -> str:
        return problem.messages[0].content

    for index in range(100):
        seek, chain, table = (get(name).problem(0, "test", index) for name in ("seek", "chain", "table"))
        spec = seek.truth[WORLD]
        assert spec["after"] < spec["secret"] < spec["before"]
        assert text(chain).count(chain.truth[WORLD]["gold"]) == 0
        assert not any(name in text(table).split() for name in table.truth[WORLD]["columns"])


def test_levels_and_names_that_are_held_out() -> None:
    lengths = {len(get("chain").problem(0, "train", i).truth[WORLD]["entries"]) for i in range(200)}
    assert lengths == {1, 2, 3}
    assert {len(get("chain:4").problem(0, "test", i).truth[WORLD]["entries"]) for i in range(20)} == {4}
    new = get("table:new").problem(0, "test", 0).truth[WORLD]
    assert new["amounts"] in NEW_AMOUNTS and new["places"] in NEW_PLACES
    spec = get("seek:21").problem(0, "test", 0).truth[WORLD]
    assert ord(spec["before"]) - ord(spec["after"]) == 22 and spec["tries"] == 5


def test_a_recipe_may_name_worlds_and_their_parts() -> None:
    mix = {"seek": 0.5, "chain:4": 0.2, "table:known": 0.3}
    recipe = Recipe.model_validate(
        {
            "name": "worlds", "model": {"preset": "tiny"}, "eval": {"seek": 3, "chain:4": 2},
            "stages": {"pretrain": {"kind": "pretrain", "tokens": 1000, "mix": mix}},
        }
    )  # fmt: skip
    assert recipe.eval.counts() == {"seek": 3, "chain:4": 2}
