"""Kinds of stages: found by name or in a file, and the contract that follows the line of
weights.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qwq.config import Recipe, known_kinds, load_recipe, register_stage, stage_class
from qwq.errors import ConfigError
from qwq.pipeline.plan.explain import explain
from qwq.pipeline.stage import Stage

OWN = """
from qwq.pipeline.stage import Stage
from qwq.pipeline.plan.counts import StagePlan

class Still(Stage):
    steps: int = 3

    def plan(self, context):
        return StagePlan(self.steps, "nothing at all", 0, None)

class NoStage:
    pass
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def recipe(kind: str, **keys) -> str:
    lines = [f"{key} = {value}" for key, value in keys.items()]
    return "\n".join(
        ['name = "x"', 'model = { path = "org/m", shape = "tiny" }', "[stages.a]", f'kind = "{kind}"', *lines]
    )


def test_every_module_of_the_package_is_a_kind():
    assert set(known_kinds()) >= {"pretrain", "sft", "control", "rl1", "reward_model", "rl2", "dpo"}
    for kind in known_kinds():
        assert issubclass(stage_class(kind), Stage)


def test_a_class_in_a_file_is_a_kind(own, tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(recipe(f"{own}:Still", steps=5))
    loaded = load_recipe(path)
    assert loaded.stages["a"].steps == 5 and loaded.stages["a"].trains_policy
    assert "nothing at all" in explain(loaded, tmp_path)
    path.write_text(recipe(f"{own}:Still", stepz=5))
    with pytest.raises(ConfigError, match=r"unknown key 'stages.a.stepz': did you mean 'steps'\?"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("OWN:Stil", "did you mean 'Still'?"),
        ("OWN:NoStage", "give a class made from qwq.Stage"),
        ("none.py:X", "no file at none.py"),
        ("pretran", "stages.a.kind is 'pretran': did you mean 'pretrain'?"),
    ],
)
def test_a_wrong_kind_is_one_line(own, tmp_path, kind, words):
    path = tmp_path / "r.toml"
    path.write_text(recipe(kind.replace("OWN", str(own))))
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_stage_without_a_kind_lists_them(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('name = "x"\nmodel = { path = "m" }\n[stages.a]\nsteps = 1\n')
    with pytest.raises(ConfigError, match=r"stages.a has no kind: add one of .*dpo, pretrain, .*rl1"):
        load_recipe(path)


def test_a_kind_of_this_package_keeps_its_name():
    with pytest.raises(ConfigError, match="a stage kind 'dpo' is part of qwq already"):
        register_stage("dpo")(type("Mine", (Stage,), {}))


def test_recipes_are_read_without_torch():
    code = (
        "import sys; from qwq.config import load_recipe; r = load_recipe('tiny'); assert 'torch' not in "
        "sys.modules; print(len(r.stages))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 3


def test_a_contract_holds_what_the_stages_it_builds_on_trained_on():
    """RL on code that the stage does not start from cannot be lost by it."""
    rl = {"steps": 1, "mix": {"code": 1.0}}
    stages = {
        "sft": {"kind": "sft", "mix": {"math": 1.0}},
        "aside": {"kind": "rl1"} | rl,
        "first": {"kind": "rl1", "steps": 1, "mix": {"tools": 1.0}, "start_from": "sft"},
        "rl2": {"kind": "rl2", "steps": 1, "mix": {"tools": 1.0, "instructions": 1.0}},
    }
    read = Recipe.model_validate({"name": "x", "model": {"path": "m"}, "stages": stages})
    assert read.stages["rl2"].contract.domains == ["tools"]
