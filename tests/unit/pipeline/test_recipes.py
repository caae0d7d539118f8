"""The recipes of this repository: each is planned, and the two-stage recipe for a laptop passes the
dry run on data of the kind that its header makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from little import make_model

from qwq.api import train
from qwq.common.run_folder import RunFolder
from qwq.config import Recipe, load_recipe
from qwq.errors import ConfigError
from qwq.pipeline.check import check_run
from qwq.pipeline.inputs import RunInputs
from qwq.pipeline.plan.explain import explain_with_cluster

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.toml"))
LAPTOP = next(path for path in RECIPES if path.stem == "qwen2.5-0.5b-laptop")
# Recipes without `shape` ask the checkpoint, which is not here, what its shape is.
SHAPES = {"smollm2": "smollm2-135m", "distilled": "3m"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_is_planned(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shape = SHAPES.get(path.stem.partition("-")[0])
    recipe = load_recipe(path, {"model.shape": shape} if shape else {})
    text = explain_with_cluster(recipe)
    assert all(name in text for name in recipe.stages)
    assert list(tmp_path.iterdir()) == []


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe in a folder beside the data that it names: sums in the layouts of the sets."""
    here, data = tmp_path / "here", tmp_path / "shared/data"
    here.mkdir()
    monkeypatch.chdir(here)
    sums = [
        {"question": f"{a} and {b} are?", "answer": f"It is {a + b}.\n#### {a + b}"}
        for a in range(40)
        for b in range(40)
    ]
    write(data / "gsm8k/train.jsonl", sums[:1500])
    write(data / "gsm8k/test.jsonl", sums[1500:])
    programs = [
        {
            "task_id": i,
            "text": f"Add {i}.",
            "code": "",
            "test_list": [f"assert add(1) == {i + 1}"],
            "test_setup_code": "",
        }
        for i in range(1, 975)
    ]
    write(data / "mbpp/mbpp.jsonl", programs)
    human = {
        "task_id": "HumanEval/0",
        "prompt": "def f(x):\n",
        "test": "def check(f):\n    assert f(1)\n",
        "entry_point": "f",
    }
    write(data / "humaneval/HumanEval.jsonl", [human])
    write(
        here / "pairs.jsonl", ({"prompt": f"Name {i}.", "chosen": f"It is {i}.", "rejected": "No."} for i in range(40))
    )
    write(here / "open.jsonl", ({"messages": [{"role": "user", "content": f"Tell me of {i}."}]} for i in range(40)))
    return load_recipe(LAPTOP, {"model.path": str(make_model(tmp_path / "model"))})


def test_the_laptop_recipe_passes_the_dry_run(laptop: Recipe) -> None:
    inputs = RunInputs(laptop, RunFolder(Path("runs/x")))
    check_run(inputs, list(laptop.stages), machine=False)
    held = laptop.stages["rl2"].held(inputs)
    # MBPP holds out the 90 tasks of its paper, GSM8K 5 in a hundred of 1,500 by a hash.
    assert held.keys() == {"math", "code"} and len(held["code"]) == 90 and 50 < len(held["math"]) < 100
    pairs = inputs.own["reward_model"].splits
    assert {name: len(split) for name, split in pairs.items()} == {"train": 28, "validation": 4, "test": 8}
    drawn = laptop.stages["rl2"].drawn()
    assert drawn["preference:open.jsonl:train"] == ()  # no verifier: no contract can hold it
    assert not Path("runs").exists()


def test_half_of_its_second_stage_replays_the_first_and_a_tenth_asks_the_reward_model(laptop: Recipe) -> None:
    stage = laptop.stages["rl2"]
    replay = sum(s.weight for s in stage.sources if s.kind in ("gsm8k", "mbpp"))
    assert replay == pytest.approx(0.5) and stage.scored_share == pytest.approx(0.1)
    assert [r.key for r in stage.references() if "reward" in r.key] == ["reward_model.model"]


def test_open_prompts_need_a_second_stage(laptop: Recipe) -> None:
    source = [{"kind": "preference", "path": "open.jsonl"}]
    with pytest.raises(ConfigError, match=r"stages.rl1.sources holds 'open.jsonl'.*give it to an rl2 stage"):
        load_recipe(LAPTOP, {"stages.rl1.sources": source, "stages.rl1.validation.every": 0})
    with pytest.raises(ConfigError, match="none judges the prompts of 'open.jsonl'"):
        load_recipe(LAPTOP, {"stages.rl2.validation.every": 5})
    with pytest.raises(ConfigError, match="no verifier judges the prompts of 'open.jsonl'"):
        load_recipe(LAPTOP, {"eval.sources": source})


def test_each_stage_of_the_laptop_recipe_takes_a_step(laptop: Recipe) -> None:
    """On random weights, whose answers do not end: the reward model's gate is shut."""
    few = {"steps": 1, "prompts": 3, "samples": 2, "max_new_tokens": 8, "refill": 0}
    sources = [
        s.model_dump() | {"weight": 5.0 if s.kind == "preference" else 0.1} for s in laptop.stages["rl2"].sources
    ]
    keys: dict[str, Any] = {
        "model.path": laptop.model.path, "compute.threads": 1, "compute.dtype": "float32", "eval.start": False,
        "eval.sources": [], "eval.instructions": 2, "eval.tools": 2, "eval.max_new_tokens": 8,
        "stages.rl1.overlong_buffer": 0, "stages.rl1.validation.problems": 2, "stages.rl2.sources": sources,
        "stages.rl2.contract.problems": 20, "stages.rl2.reward_model.canaries": 2,
    }  # fmt: skip
    keys |= {f"stages.{stage}.{key}": value for stage in ("rl1", "rl2") for key, value in few.items()}
    records = {r["name"]: r for r in train(load_recipe(LAPTOP, keys), runs="runs")["stages"]}
    assert list(records) == ["rl1", "reward_model", "rl2"]
    assert records["reward_model"]["evals"]["pair_accuracy"]["n"] == 8
    assert {domain for check in records["rl2"]["contract"] for domain in check["validation"]} == {"math", "code"}
    rollouts = RunFolder(Path("runs") / laptop.name).rollouts("rl2") / "step-00000.jsonl"
    judged = [r for line in rollouts.read_text().splitlines() if (r := json.loads(line))["domain"] == "preference"]
    assert judged and all(r["rewards"] == {"reward_model": 0.0} for r in judged)
    assert {(v["verifier"], v["outcome"]) for r in judged for v in r["verdicts"]} == {("gate", "unfinished")}
