"""On which problems the contract measures what it holds: validation rows of what is replayed, never
rows that are trained on.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwq.common.run_folder import RunFolder
from qwq.config import Recipe
from qwq.errors import ConfigError, DataError
from qwq.pipeline.inputs import RunInputs
from qwq.pipeline.plan.explain import explain
from qwq.tasks.file_task import VALIDATION_SHARE
from qwq.tasks.mix import allot
from qwq.tasks.procedural.base import digest
from qwq.tasks.questions import canonical


@pytest.mark.parametrize(
    ("num", "available", "given"),
    [
        (200, [357], [200]),
        (200, [90], [90]),  # no more are there
        (200, [357, 374], [100, 100]),
        (200, [357, 90, 374], [67, 66, 67]),
        (200, [500, 20, 500], [90, 20, 90]),  # what the small set lacks comes from the others
        (200, [50, 20], [50, 20]),
        (1, [5, 5], [0, 1]),
        (10, [], []),
    ],
)
def test_problems_are_shared_evenly_as_far_as_they_reach(num, available, given):
    assert allot(num, available) == given


def rows(folder: Path, name: str, questions: list[str]) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"question": q, "answer": "1"}) + "\n" for q in questions))
    return str(path)


def is_held_out(question: str) -> bool:
    return digest(f"validation/{canonical('math', question)}") % 100 < VALIDATION_SHARE


QUESTIONS = [f"What is {i} times {i + 7}?" for i in range(400)]
HELD_OUT = [q for q in QUESTIONS if is_held_out(q)]


def recipe(sources: list[dict], mix: dict[str, float] | None = None, **contract) -> Recipe:
    stage = {"kind": "rl2", "steps": 1, "mix": mix or {"tools": 1.0}, "sources": sources, "contract": contract}
    return Recipe.model_validate({"name": "x", "model": {"path": "org/m", "shape": "tiny"}, "stages": {"rl2": stage}})


def watched(one: Recipe, tmp_path: Path) -> dict[str, list[str]]:
    held = one.stages["rl2"].held(RunInputs(one, RunFolder(tmp_path)))
    return {name: [p.messages[-1].content.partition("\n")[0] for p in problems] for name, problems in held.items()}


def test_rows_that_are_held_out_of_the_training_file(tmp_path):
    path = rows(tmp_path, "sums.jsonl", QUESTIONS)
    one = recipe([{"kind": "math", "path": path, "limit": 30}], problems=1000)
    assert 10 < len(HELD_OUT) < 40
    assert watched(one, tmp_path) == {"math": HELD_OUT}  # all of them: the source's limit is one of training
    pools = one.stages["rl2"].pools(RunInputs(one, RunFolder(tmp_path)))
    ((_, trained),) = pools.values()
    assert [p.messages[-1].content.partition("\n")[0] for p in trained] == [q for q in QUESTIONS if q not in HELD_OUT][
        :30
    ]


def test_family_and_source_share_the_problems(tmp_path):
    path = rows(tmp_path, "sums.jsonl", QUESTIONS)
    one = recipe(
        [{"kind": "math", "path": path}],
        {"math": 1.0, "tools": 1.0},
        problems=20,
        domains=["math", f"math:{path}:train"],
    )
    found = watched(one, tmp_path)
    assert (
        found["math"][10:] == HELD_OUT[:10]
        and not set(found["math"][:10]) & set(QUESTIONS)
        and len(found["math"]) == 20
    )
    assert found[f"math:{path}:train"] == HELD_OUT[:20]


def test_a_set_s_own_validation_file_without_what_is_trained_on(tmp_path):
    kept_apart = [q for q in QUESTIONS if q not in HELD_OUT]
    rows(tmp_path, "set/train.jsonl", kept_apart[:50])
    rows(
        tmp_path, "set/validation.jsonl", ["WHAT is  0 times 7 ?", *kept_apart[60:65]]
    )  # the first is a training row in other dress
    assert kept_apart[0] == "What is 0 times 7?"
    one = recipe([{"kind": "math", "path": str(tmp_path / "set")}], problems=100)
    assert watched(one, tmp_path) == {"math": kept_apart[60:65]}


def test_a_source_that_trains_on_its_validation_rows_is_refused(tmp_path):
    path = rows(tmp_path, "sums.jsonl", QUESTIONS)
    for split in ("validation", "test"):  # test: the file's name claims no split, so it is taken whole
        one = recipe([{"kind": "math", "path": path, "split": split}])
        with pytest.raises(
            ConfigError, match=r"all of its validation rows are trained on as well.*set split = \"train\""
        ):
            watched(one, tmp_path)


def test_a_set_without_validation_rows_says_what_needs_them(tmp_path):
    path = rows(tmp_path, "sums.jsonl", [q for q in QUESTIONS if q not in HELD_OUT][:20])
    with pytest.raises(
        DataError,
        match=r"no validation problems of math.*the contract measures math on such rows: bring some, or leave math "
        r"out of contract.domains",
    ):
        watched(recipe([{"kind": "math", "path": path}]), tmp_path)
    assert watched(recipe([{"kind": "math", "path": path}], domains=[]), tmp_path) == {}


def test_the_looks_at_validation_problems_leave_out_what_is_trained_on_too(tmp_path):
    kept_apart = [q for q in QUESTIONS if q not in HELD_OUT]
    rows(tmp_path, "set/train.jsonl", kept_apart[:50])
    rows(tmp_path, "set/validation.jsonl", kept_apart[49:55])
    one = recipe([{"kind": "math", "path": str(tmp_path / "set")}], domains=[])
    stage = one.stages["rl2"].model_copy(
        update={"validation": one.stages["rl2"].validation.model_copy(update={"every": 1, "problems": 3})}
    )
    looked_at = stage.watched(RunInputs(one, RunFolder(tmp_path)))
    assert [[p.messages[-1].content.partition("\n")[0] for p in v] for k, v in looked_at.items() if k != "tools"] == [
        kept_apart[50:53]
    ]


def test_explain_says_which_drop_the_problems_that_there_are_can_see(tmp_path):
    """200 problems see a drop of 14.4 points (docs/training.md); fewer are held out of a small set,
    and MBPP has 90.
    """
    path = rows(tmp_path, "sums.jsonl", QUESTIONS)
    sources = [{"kind": "math", "path": path}, {"kind": "mbpp", "path": "org/mbpp"}]
    text = explain(
        recipe(
            sources,
            {"tools": 1.0, "instructions": 1.0},
            domains=["tools", "math", "mbpp"],
            problems=200,
            on_breach="hold",
        ),
        tmp_path,
    )
    lines = text.split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("Contract of rl2:"))
    assert "at most 3 points may be lost, looked at every 10 steps and after the last; on a breach: hold." in lines[at]
    assert lines[at + 1] == "  tools: 200 validation problems of tools: 14.4 points"
    assert lines[at + 2].startswith(
        f"  math: {len(HELD_OUT)} validation problems (200 asked for, more are not held out) of math:{path}:train: "
    )
    assert (
        lines[at + 3]
        == "  mbpp: 90 validation problems (200 asked for, more are not held out) of mbpp:org/mbpp:train, as many "
        "as they may hold out: 20.4 points"
    )
    assert "Contract of rl2: holds nothing" in explain(recipe(sources, domains=[]), tmp_path)
