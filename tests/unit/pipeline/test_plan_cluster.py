"""The cluster plan by hand, and the recipes that carry one."""

from pathlib import Path

import pytest

from qwq.common.memory import GIB
from qwq.config import Cluster, load_recipe
from qwq.errors import ConfigError
from qwq.model.config import preset
from qwq.pipeline.plan.cluster import rl_on_cluster
from qwq.pipeline.plan.counts import PlanContext
from qwq.pipeline.plan.explain import explain_with_cluster
from qwq.pipeline.run import RecipeRun

RECIPES = Path(__file__).parents[3] / "recipes"
BASE = """
name = "c"
[model]
path = "Qwen/QwQ-32B"
shape = "qwq-32b"
[compute]
device = "cuda"
dtype = "bfloat16"
recompute = true
micro_batch_tokens = 1024
cluster = { gpus = 8, gpu_gib = 80.0, tflops = 1000.0, mfu = 0.5, sample_tokens_s = 1000.0, tensor_parallel = 4 }
[stages.rl1]
kind = "rl1"
steps = 36
prompts = 8
samples = 8
max_new_tokens = 1000
mix = { math = 1.0 }
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "r.toml").write_text(BASE)
    return load_recipe(tmp_path / "r.toml")


def test_by_hand(recipe):
    """64 rollouts of 1,000 tokens: 64,000 tokens at 8,000 a second are 8 s of sampling."""
    config = preset("qwq-32b")
    cluster = recipe.compute.cluster
    assert cluster is not None
    plan = rl_on_cluster(recipe.stages["rl1"], cluster, PlanContext(recipe, "rl1", config))
    p = config.num_parameters
    assert plan.tokens == 64_000 and plan.sampling_s == 8.0
    assert plan.training["weights"] == 2 * p / 8 and plan.training["AdamW and float32 copies"] == 12 * p / 8
    assert plan.sampling["weights"] == 2 * p / 4
    assert plan.rows <= 32  # two copies share 64 rollouts
    # 3 passes and one of recomputation, at half of 8 x 10^15 operations a second
    low = 4 * 64_000 * 2 * (p - config.vocab_size * config.hidden_size) / (8 * 1000e12 * 0.5)
    assert low < plan.training_s < 1.2 * low  # attention and the prompts come on top
    assert plan.hours == pytest.approx(36 * (plan.sampling_s + plan.training_s) / 3600)


def test_what_does_not_fit_is_said(recipe):
    small = recipe.model_copy(deep=True)
    small.compute.cluster = Cluster(gpus=2, gpu_gib=24.0, sample_tokens_s=1.0)
    text = explain_with_cluster(small)
    assert "DOES NOT FIT in 24" in text and "NO ROOM for a single row" in text


@pytest.mark.parametrize("name, gib", [("qwq-32b", 80), ("qwen2.5-7b-node", 80)])
def test_the_cluster_recipes_fit_their_machines(name, gib, monkeypatch):
    monkeypatch.chdir(RECIPES.parent)
    if not (RECIPES.parent / "../shared/data").exists():
        pytest.skip("the recipe's sets are in ../shared/data, which is not here")
    text = explain_with_cluster(load_recipe(RECIPES / f"{name}.toml"))
    assert "fits" in text and "DOES NOT FIT" not in text and "NO ROOM" not in text and "hours" in text
    cluster = load_recipe(RECIPES / f"{name}.toml").compute.cluster
    assert cluster is not None and cluster.gpu_gib * GIB == gib * GIB


def test_train_refuses_what_it_cannot_do(recipe, tmp_path):
    with pytest.raises(ConfigError, match="planned for 8 GPUs and `qwq train` runs on one device"):
        RecipeRun(recipe, tmp_path).run()
    assert not (tmp_path / "c").exists()
