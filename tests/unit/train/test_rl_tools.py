"""The recipe's environment and limits of tools reach the rollouts of an RL stage."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qwq.cluster.division import WholeBatch
from qwq.common.run_folder import RunFolder
from qwq.config import load_recipe
from qwq.envs import CalculatorEnvironment, Environment
from qwq.envs.base import environment_class, make_environment, with_environment
from qwq.errors import ConfigError
from qwq.pipeline.inputs import RunInputs
from qwq.pipeline.run import RecipeRun
from qwq.rollout.budget import EpisodeLimits
from qwq.tasks import get
from qwq.train import rl

RECIPE = Path(__file__).parents[2] / "e2e" / "mini.toml"
DESK = """
from qwq.envs import Environment, tool

class Desk(Environment):
    @tool
    def look(self, place: str) -> str:
        "Look somewhere."
        return "nothing"
"""


def options(tmp_path: Path, **more: Any) -> dict[str, Any]:
    (tmp_path / "desk.py").write_text(DESK)
    return {"stages.rl1.environment": f"{tmp_path}/desk.py:Desk"} | more


def test_prompts_without_tools_get_those_of_the_recipes_environment(tmp_path: Path) -> None:
    name = f"{tmp_path}/desk.py:Desk"
    options(tmp_path)
    plain, own = get("math").problem(0, "train", 0), get("tools").problem(0, "train", 0)
    given = with_environment(plain, name)
    assert given.environment == name and [t["function"]["name"] for t in given.tools] == ["look"]
    assert (given.messages, given.truth) == (plain.messages, plain.truth)
    assert type(make_environment(given)).__name__ == "Desk" and isinstance(make_environment(given), Environment)
    assert with_environment(own, name) is own and isinstance(make_environment(own), CalculatorEnvironment)
    assert with_environment(plain, "") is plain and make_environment(plain) is None


def test_the_stage_samples_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = {"stages.rl1.tools": {"max_calls": 2, "max_parallel": 1, "call_timeout_s": 0.5}}
    stage = load_recipe(RECIPE, options(tmp_path, **tools)).stages["rl1"]
    seen: dict[str, Any] = {}

    class Enough(Exception):
        pass

    def collect(policy: Any, problems: Any, params: Any, **kw: Any) -> Any:
        seen.update(problems=problems, limits=kw["limits"])
        raise Enough

    monkeypatch.setattr(rl, "collect", collect)
    trainer = object.__new__(rl.RlTrainer)
    trainer.config, trainer.seed, trainer.limits = stage, 0, EpisodeLimits(**stage.tools.model_dump())
    trainer.params, trainer.rewarder = None, rl.Rewarder()
    trainer.policy = type("P", (), {"update_weights": lambda self, version: None})()
    trainer.run = type("R", (), {"state": type("S", (), {"step": 0})(), "name": "rl1"})()
    trainer.optimizer = SimpleNamespace(division=WholeBatch(torch.nn.Linear(1, 1)))
    trainer.state = rl.RlState()
    trainer.mix = type("M", (), {"problem": lambda self, i: get("math").problem(0, "train", i)})()
    with pytest.raises(Enough):
        trainer.sample(0)
    assert [len(p.tools) for p in seen["problems"]] == [1] * stage.prompts
    assert seen["limits"] == EpisodeLimits(max_calls=2, max_parallel=1, call_timeout_s=0.5)


def test_validation_and_contract_ask_with_the_same_tools(tmp_path: Path) -> None:
    name = f"{tmp_path}/desk.py:Desk"
    recipe = load_recipe(
        RECIPE, options(tmp_path, **{"stages.rl2.environment": name, "stages.rl1.validation.every": 1})
    )
    inputs = RunInputs(recipe, RunFolder(tmp_path))
    watched = recipe.stages["rl1"].watched(inputs) | recipe.stages["rl2"].held(inputs)
    tools = {k: {t["function"]["name"] for p in problems for t in p.tools} for k, problems in watched.items()}
    assert tools.pop("tools", {"calculator"}) == {"calculator"} and set(map(tuple, tools.values())) == {("look",)}


def test_an_environment_that_cannot_be_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for name, words in (("desk", "no environment 'desk'"), (f"{tmp_path}/none.py:Desk", "none.py")):
        recipe = load_recipe(RECIPE, options(tmp_path, **{"stages.rl1.environment": name}))
        with pytest.raises(ConfigError, match=words):
            RecipeRun(recipe, tmp_path / "runs").run()
        assert not (tmp_path / "runs" / "mini" / "checkpoints").exists()
    with pytest.raises(ConfigError, match="max_calls"):
        load_recipe(RECIPE, options(tmp_path, **{"stages.rl1.tools.max_calls": 0}))
    assert environment_class("calculator") is CalculatorEnvironment
