"""What each of several processes holds, and what the plan says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwq.common.memory import Memory
from qwq.config import load_recipe
from qwq.errors import ConfigError
from qwq.pipeline.plan.explain import explain
from qwq.pipeline.plan.processes import free_for_each, in_each_process
from qwq.pipeline.plan.shape import model_config

RECIPE = Path(__file__).parents[2] / "e2e" / "cluster.toml"
MEMORY = Memory({"weights": 400, "gradients": 400, "AdamW": 800, "activations": 70}, {})


def parts(**overrides) -> dict[str, int]:
    recipe = load_recipe(RECIPE, {key.replace("__", "."): value for key, value in overrides.items()})
    return dict(in_each_process(MEMORY, recipe, model_config(recipe), 100).parts)


def test_scatter_divides_moments_and_holds_its_share_besides_a_whole_copy():
    num = model_config(load_recipe(RECIPE)).num_parameters
    found = parts(cluster__processes=4)
    assert found["weights"] == 400 and found["AdamW"] == 200 and found["activations"] == 70
    assert found["divided weights"] == num  # 4 bytes each, over 4 processes
    assert found["gradients"] == 100 + 800  # its share, and the float64 sum of its passes
    assert parts(cluster__processes=4, compute__device="cuda")["gradients"] == 100


def test_the_first_process_gathers_whole_moments_for_a_checkpoint():
    """800 bytes of moments, when the 70 of a pass are gone; a checkpoint beside the next steps has
    a copy of its own in the plan.
    """
    assert parts(cluster__processes=4)["whole moments"] == 800 - 70
    assert "whole moments" not in parts(cluster__processes=4, compute__background_checkpoints=True)
    assert "whole moments" not in parts(cluster__processes=2, cluster__reduction="fixed")


def test_fixed_holds_everything_and_the_sum():
    found = parts(cluster__processes=2, cluster__reduction="fixed")
    assert found["AdamW"] == 800 and found["gradients"] > 400 + 800 and "divided weights" not in found


def test_processes_of_one_machine_share_its_memory():
    recipe = load_recipe(RECIPE, {"cluster.processes": 4})
    assert free_for_each(100, recipe) == 25 and free_for_each(100, recipe, 2) == 50
    assert free_for_each(100, load_recipe(RECIPE, {"cluster.processes": 4, "compute.device": "cuda"})) == 100


def test_the_plan_names_the_processes(tmp_path):
    text = explain(load_recipe(RECIPE, {"cluster.processes": 3}), tmp_path)
    assert "3 processes, 8 shards a step, at most 3 in each, over gloo." in text
    assert "GiB at the peak of each process" in text and "at most 60 s, 3600 s for sampling" in text
    assert "1 process, 8 shards a step." in explain(load_recipe(RECIPE), tmp_path)


def test_more_processes_than_shards_are_refused():
    with pytest.raises(ConfigError, match="shards is 8 and processes is 9: give at least as many shards"):
        load_recipe(RECIPE, {"cluster.processes": 9})
