"""The cluster plan by hand, and the recipes that carry one."""

import re
from pathlib import Path

import pytest

from qwq.common.memory import GIB
from qwq.config import Cluster, load_recipe
from qwq.errors import ConfigError
from qwq.model.config import preset
from qwq.pipeline.plan.cluster import SAVING_SHARE, cluster_lines, full_engine, rl_on_cluster
from qwq.pipeline.plan.counts import PlanContext
from qwq.pipeline.plan.explain import explain_with_cluster
from qwq.pipeline.plan.extrapolate import sized
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
    """64 rollouts of 1,000 tokens at most: 64,000 tokens at 8,000 a second are 8 s of sampling."""
    config, stage = preset("qwq-32b"), recipe.stages["rl1"]
    cluster = recipe.compute.cluster
    assert cluster is not None and config.num_parameters == 32_763_876_352
    plan = rl_on_cluster(stage, cluster, PlanContext(recipe, "rl1", config), 100)
    p = config.num_parameters
    assert plan.training["weights"] == 2 * p / 8 and plan.training["AdamW and float32 copies"] == 12 * p / 8
    assert plan.training["gradients"] == 4 * p / 8
    assert plan.sampling["weights"] == 2 * p / 4 == plan.sync_bytes
    assert plan.rows <= 32  # two copies share 64 rollouts
    most = plan.at_most.parts
    assert plan.at_most.tokens == 64_000
    # The longest completion reads the weights 1,000 times at 4 x 3,350 x 0.6 GB/s, 8.15 ms each:
    # more than the 8 s of the given rate.
    weights_s = 1000 * 2 * p / (4 * 3350e9 * 0.6)
    prefill_s = 8 * 100 * config.flops_per_token(100) / (8 * 1000e12 * 0.5)
    kv_s = 64 * 8 * 128 * 2 * 2 * (1000 * 100 + 1000 * 1001 / 2) / (4 * 3350e9 * 0.6)
    assert most["sampling"] == pytest.approx(weights_s + kv_s + prefill_s) and 8.15 < most["sampling"] < 8.3
    # 3 passes and one of recomputation, at half of 8 x 10^15 operations a second; each completion
    # is a part of its own and computes its prompt again.
    fed = 64_000 + 8 * 8 * 100
    assert most["training"] == pytest.approx(4 * fed * config.flops_per_token(600) / (8 * 1000e12 * 0.5))
    assert most["verifiers"] == 10.0  # 64 verdicts at 50 a second are reached while others sample
    assert most["weight sync"] == 2 * p / 4 / 50e9 + 2.0
    # 459 GB at 5 GB/s are 91.7 s: a save in 92 / 0.04 s, of which this step is a part.
    assert plan.checkpoint_bytes == 14 * p == 458_694_268_928
    rest = sum(most.values()) - most["checkpoints"]
    assert most["checkpoints"] == pytest.approx(0.04 * rest)
    lost = 600 + 14 * p / 5e9 / 0.04 / 2
    share = 8 / (50_000 * 3600) * lost
    assert plan.hours_at_most == pytest.approx(36 * sum(most.values()) / 3600 / (1 - share))
    assert plan.expected.total < plan.at_most.total and plan.expected.tokens == 64 * 250


def test_the_rate_follows_from_the_bandwidth(recipe):
    """Weights of 16.4 GB a GPU and 32 sequences of 600 tokens, 262,144 bytes each token: 32 tokens
    in (65.5 + 5.03) GB / (4 x 3,350 GB/s)."""
    config, cluster = preset("qwq-32b"), recipe.compute.cluster
    assert full_engine(config, cluster, 32, 600, 1.0) == pytest.approx(
        32 / ((65_527_752_704 + 32 * 600 * 262_144) / 13.4e12) / 4
    )
    given = cluster.model_copy(update={"sample_tokens_s": 9000.0})
    context = PlanContext(recipe, "rl1", config)
    plan = rl_on_cluster(recipe.stages["rl1"], given, context, 100)
    assert plan.roofline_tokens_s < 9000 and "leave it out, or lower it" in "\n".join(
        cluster_lines(given, "rl1", plan, plan)
    )
    plain = rl_on_cluster(
        recipe.stages["rl1"], sized(given.model_copy(update={"sample_tokens_s": None}), 16), context, 100
    )
    assert "leave it out" not in "\n".join(
        cluster_lines(cluster.model_copy(update={"sample_tokens_s": None}), "rl1", plain, plain)
    )


def test_explain_says_bottleneck_money_and_other_sizes(recipe):
    recipe.compute.cluster = recipe.compute.cluster.model_copy(
        update={"sample_tokens_s": None, "price_gpu_hour": 2.0, "gpus": 16}
    )
    text = explain_with_cluster(recipe, simulate=True)
    assert "exactly 32,763,876,352 parameters" in text and "checkpoint 459 GB" in text
    assert "bottleneck: verifiers" in text and "one more node (24 GPUs) saves" in text
    hours, low = re.search(r"rl1: 36 steps in ([\d.]+) hours expected, [\d.]+ at most, (\d+) to", text).groups()
    assert float(low) == pytest.approx(float(hours) * 16 * 2.0, abs=2)
    assert all(f"{gpus:>4} GPUs  in turn" in text for gpus in (8, 64, 512))
    recipe.compute.cluster.gpu_gib = 24.0
    assert "   8 GPUs  DOES NOT FIT" in explain_with_cluster(recipe, simulate=True)
    recipe.compute.cluster = None
    with pytest.raises(ConfigError, match=r"no \[compute.cluster\] to simulate"):
        explain_with_cluster(recipe, simulate=True)


def test_checkpoints_take_the_share_that_the_trainer_allows():
    from qwq.train import checkpoint

    assert checkpoint.SAVING_SHARE == SAVING_SHARE


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
