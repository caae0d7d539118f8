"""Functions written for TRL and verl are called as there, and what they answer is checked."""

import json
from pathlib import Path

import pytest

from qwq.config import Source
from qwq.errors import ConfigError, DataError
from qwq.pipeline.stages.rl1 import Rl1Stage
from qwq.reward.functions import RewardFunction, load_function
from qwq.reward.mixing import Rewarder
from qwq.tasks.sources import load_source
from qwq.types import Message, Outcome, Problem, Response, Rollout, StopReason

EXAMPLES = Path(__file__).parents[3] / "recipes" / "examples"


def rollout(tokens: int) -> Rollout:
    return Rollout("p", "custom", 0, [1], [5] * tokens, [1] * tokens, [0.0] * tokens, [0] * tokens, StopReason.END)


def custom(**truth) -> Problem:
    return Problem("p", "custom", (Message("user", "Say it."),), truth, "c")


def test_the_examples_as_trl_would_call_them():
    functions = [
        load_function(f"{EXAMPLES}/rewards.py:{n}", weight=w)
        for n, w in (("short_and_sweet", 0.5), ("mentions_word", 1.0))
    ]
    problems = [custom(word="moon"), custom(word="moon"), custom(word=None), custom(word="moon")]
    responses = [
        Response("The Moon pulls it."),
        Response("No idea."),
        Response("The moon."),
        Response("Moon, moon", finished=False),
    ]
    rollouts = [rollout(20), rollout(60), rollout(20), rollout(20)]
    Rewarder(functions=functions).reward(problems, responses, rollouts)
    assert rollouts[0].rewards == {"short_and_sweet": 0.5, "mentions_word": 1.0} and rollouts[0].reward == 1.5
    assert rollouts[1].rewards == pytest.approx({"short_and_sweet": 0.5 / 3, "mentions_word": 0.0})
    assert rollouts[2].rewards == {"short_and_sweet": 0.5}  # None: does not apply
    assert (
        rollouts[3].rewards == {} and rollouts[3].reward == 0 and rollouts[3].verdicts[-1].outcome is Outcome.UNFINISHED
    )


def test_a_function_adds_to_what_a_verifier_pays():
    function = RewardFunction("length", lambda completion_ids, **_: [len(ids) / 10 for ids in completion_ids])
    problem, r = Problem("m", "math", (Message("user", "?"),), {"gold": "4"}, "c"), rollout(3)
    Rewarder(functions=[function]).reward([problem], [Response("\\boxed{4}")], [r])
    assert r.rewards == {"accuracy": 1.0, "length": 0.3}


def test_verl_s_rows_and_signature():
    problems = load_source(Source(kind="prompts", path=str(EXAMPLES / "sums.jsonl")))
    function = load_function(f"{EXAMPLES}/rewards.py:compute_score", style="verl", weight=2.0)
    by_gold = sorted(problems, key=lambda p: int(p.truth["ground_truth"]))
    p = by_gold[0]
    gold = p.truth["ground_truth"]
    assert function.values([(p, Response(f"so {gold}"), [1]), (p, Response("so 1000"), [1])]) == [2.0, 0.0]
    seen = []
    RewardFunction("spy", lambda **kw: seen.append(kw) or 0.0, "verl").values([(p, Response("x"), [1])])
    assert (
        set(seen[0]) == {"data_source", "solution_str", "ground_truth", "extra_info"}
        and seen[0]["data_source"] == "sums"
    )


@pytest.mark.parametrize(
    "function, words",
    [
        (lambda **kw: [1.0], "asked about 2 completions and gave 1"),
        (lambda **kw: 3.0, "gave float"),
        (lambda **kw: [1.0, float("nan")], "gave nan"),
        (lambda **kw: [1.0, "good"], "'good'"),
    ],
)
def test_answers_that_are_none(function, words):
    with pytest.raises(ConfigError, match=words):
        RewardFunction("f", function).values([(custom(), Response("a"), [1]), (custom(), Response("b"), [1])])


@pytest.mark.parametrize(
    "where, words",
    [
        ("rewards.py", "write file.py:function"),
        ("nowhere.py:f", "no file at"),
        ("no_such_package:f", "no_such_package"),
        (f"{EXAMPLES}/rewards.py:mention_word", "did you mean|mentions_word"),
    ],
)
def test_functions_that_are_not_there(where, words):
    with pytest.raises(ConfigError, match=words):
        load_function(where)


OWN = """
def raises(completions, **kw):
    return [grade(c) for c in completions]

def grade(completion):
    return int(completion[0]["content"])

def lists(completions, **kw):
    return [[1.0] for _ in completions]

def values(completions, **kw):
    import numpy as np
    return np.array([float(i) for i in range(len(completions))])

def late(data_source, solution_str, ground_truth, extra_info):
    raise KeyError("score")

def quits(completions, **kw):
    raise SystemError("first line\\nsecond")

async def waits(completions, **kw):
    return [1.0] * len(completions)

def counts(completions, trainer_state, **kw):
    return [float(trainer_state.global_step)] * len(completions)

def takes_all(**kw):
    return [float("trainer_state" in kw)] * len(kw["completions"])
"""


def own(tmp_path, name, style="trl"):
    (tmp_path / "own.py").write_text(OWN)
    return load_function(f"{tmp_path}/own.py:{name}", style)


def test_what_a_function_raises_is_told_with_its_own_lines_and_the_step(tmp_path):
    asked = [(custom(), Response("4"), [1]), (custom(), Response("four"), [1])]
    with pytest.raises(ConfigError) as caught:
        own(tmp_path, "raises").values(asked, step=2)
    assert str(caught.value) == (
        f"reward function {tmp_path}/own.py:raises raised ValueError at step 3, asked about 2 completions: "
        "invalid literal for int() with base 10: 'four' (own.py, line 3, own.py, line 6)"
    )
    with pytest.raises(ConfigError) as caught:
        own(tmp_path, "late", "verl").values(asked)
    assert "raised KeyError, asked about the answer to 'Say it.': 'score' (own.py, line 16)" in str(caught.value)
    with pytest.raises(
        ConfigError, match=r"raised SystemError at step 1, asked about 2 completions: first line second"
    ):
        Rewarder(functions=[own(tmp_path, "quits")]).finish(heard(asked), [rollout(1), rollout(1)], step=0)


def heard(asked):
    grader = Rewarder().grader()
    for at, (problem, response, _) in enumerate(asked):
        grader.submit(at, problem, response)
    return grader


def test_a_function_that_names_trainer_state_gets_the_step(tmp_path):
    asked = [(custom(), Response("4"), [1])]
    assert own(tmp_path, "counts").values(asked, step=7) == [7.0]
    assert own(tmp_path, "counts").values(asked) == [0.0]
    assert own(tmp_path, "takes_all").values(asked, step=7) == [0.0]


def test_values_of_other_kinds(tmp_path):
    asked = [(custom(), Response("a"), [1]), (custom(), Response("b"), [1])]
    assert own(tmp_path, "values").values(asked) == [0.0, 1.0]
    with pytest.raises(ConfigError, match=r"own.py:lists gave \[1.0\]: a finite number or None is wanted"):
        own(tmp_path, "lists").values(asked)
    with pytest.raises(ConfigError, match="own.py:waits' is `async def`"):
        own(tmp_path, "waits")


@pytest.mark.parametrize(
    "text, words",
    [
        ("def broken(:\n", r"invalid syntax \(own.py, line 1\)"),
        ("x = 1\ny = 1 / 0\n", r"importing it raised ZeroDivisionError: division by zero \(own.py, line 2\)"),
        ("import no_such_thing\n", "importing it raised ModuleNotFoundError: No module named 'no_such_thing'$"),
    ],
)
def test_a_file_that_does_not_import(tmp_path, text, words):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_function(f"{tmp_path}/own.py:f")


def test_prompts_need_a_function_and_a_prompt(tmp_path):
    base = {"kind": "rl1", "steps": 1, "sources": [{"kind": "prompts", "path": "x.jsonl"}]}
    with pytest.raises(ValueError, match="give rewards"):
        Rl1Stage.model_validate(base)
    with pytest.raises(ValueError, match="validation.every to 0"):
        Rl1Stage.model_validate(base | {"rewards": [{"function": "a:b"}], "validation": {"every": 5}})
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"question": "?"}) + "\n")
    with pytest.raises(DataError, match="line 1: needs `prompt`"):
        load_source(Source(kind="prompts", path=str(path)))
