"""Tokens of a pass divided over two processes: the gradient of one process, and half its memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from support.context_ranks import Ranks, grouped, kept_numbers, preferred, ranks, reinforced, supervised

from qwq.cluster.place import was_in_group
from qwq.cluster.ulysses import ContextGroup
from qwq.cluster.world import RankWorld
from qwq.config import ClusterSection, load_recipe
from qwq.errors import ConfigError
from qwq.model.config import preset
from qwq.pipeline.plan.counts import PlanContext
from qwq.pipeline.plan.explain import explain
from qwq.pipeline.plan.peak import update_phase
from qwq.pipeline.plan.processes import check_context
from qwq.pipeline.stage import stage_of

RECIPE = Path(__file__).parents[2] / "e2e" / "cluster.toml"
two_processes = pytest.mark.skipif(sys.platform != "linux", reason="gloo over the loopback interface of Linux")


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Ranks:
    with ranks(2, tmp_path_factory.mktemp("meet")) as made:
        yield made


def alone() -> RankWorld:
    return RankWorld(ClusterSection())


def same(found: list[dict], expected: dict) -> None:
    """Both processes have the gradient and the figures of one."""
    largest = max(float(g.abs().max()) for g in expected["gradient"])
    assert largest > 1e-3
    for one in found:
        assert one["figures"].keys() == expected["figures"].keys()
        for name, value in expected["figures"].items():
            assert one["figures"][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
        worst = max(float((a - b).abs().max()) for a, b in zip(one["gradient"], expected["gradient"], strict=True))
        assert worst < 1e-5 * max(1.0, largest)


@two_processes
@pytest.mark.parametrize("reduction", ["fixed", "scatter"])
@pytest.mark.parametrize("recompute", [False, True])
def test_documents_have_the_gradient_of_one_process(two, reduction, recompute):
    same(two.run(supervised, {"reduction": reduction, "context": 2}, recompute), supervised(alone(), recompute))


@two_processes
def test_a_process_may_have_no_token_that_is_predicted_or_none_at_all(two):
    late = [([1, 2, 3, 4, 5, 6, 7, 8], [0.0] * 6 + [1.0, 1.0])]
    same(two.run(supervised, {"context": 2}, False, late), supervised(alone(), False, late))
    short = [([1, 2], [1.0, 1.0])]
    same(two.run(supervised, {"context": 2}, False, short), supervised(alone(), False, short))


@two_processes
@pytest.mark.parametrize(
    ("options", "joined"),
    [({}, False), ({}, True), ({"loss": "gspo"}, True), ({"loss": "grpo"}, False)],
)
def test_groups_with_a_shared_prompt_have_the_gradient_of_one_process(two, options, joined):
    """GSPO's ratio and GRPO's weights are of whole completions, which lie on both processes."""
    found = two.run(reinforced, {"context": 2, "reduction": "scatter"}, options, joined)
    same(found, reinforced(alone(), options, joined))


@two_processes
@pytest.mark.parametrize("reduction", ["fixed", "scatter"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_reward_model_has_the_gradient_of_one_process(two, reduction, recompute):
    same(two.run(preferred, {"reduction": reduction, "context": 2}, recompute), preferred(alone(), recompute))


@two_processes
def test_a_process_may_have_no_token_that_is_scored(two):
    """Both last tokens, the first's among the second process's, or one process with no token."""
    late = [([1, 2, 3, 4, 5, 6, 7, 8], [9])]
    same(two.run(preferred, {"context": 2, "shards": 1}, False, late), preferred(alone(), False, late))
    short = [([3], [4])]
    same(two.run(preferred, {"context": 2, "shards": 1}, False, short), preferred(alone(), False, short))


@two_processes
def test_each_process_keeps_half_of_what_one_keeps(two):
    whole = kept_numbers(alone(), 400)["kept"]
    for one in two.run(kept_numbers, {"context": 2}, 400):
        assert 0.45 < one["kept"] / whole < 0.6


@two_processes
def test_a_process_of_a_group_knows_that_it_was_one(two):
    """It ends by `place.leave`."""
    assert not was_in_group()
    assert two.run(grouped, {}) == [{"grouped": True}] * 2


def test_tokens_are_divided_as_evenly_as_they_go():
    groups = [ContextGroup(rank, 3, None) for rank in range(3)]
    assert groups[0].bounds(10) == [0, 3, 6, 10]
    assert [list(range(10))[g.own(10)] for g in groups] == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]


def test_what_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="context is 2 and processes is 3: give a multiple of context as processes"):
        load_recipe(RECIPE, {"cluster.context": 2, "cluster.processes": 3})
    recipe = load_recipe(RECIPE, {"cluster.context": 4, "cluster.processes": 4})
    with pytest.raises(
        ConfigError, match="context is 4, and the model has 6 heads and 2 key/value heads: give a divisor of 2"
    ):
        check_context(recipe, preset("tiny"))
    assert load_recipe(RECIPE, {"cluster.context": 2, "cluster.processes": 16}).cluster is not None  # 8 shards


def test_the_plan_counts_a_process_s_share(tmp_path):
    config = preset("tiny")
    one = load_recipe(RECIPE, {"cluster.processes": 4})
    two = load_recipe(RECIPE, {"cluster.processes": 4, "cluster.context": 2})
    whole = update_phase(one, config, 100_000, config.num_parameters)
    half = update_phase(two, config, 100_000, config.num_parameters)
    kept = 4 * 2 * 50_000 * 192  # attention's outputs of two layers, before they are sent back
    assert half["activations"] == pytest.approx(whole["activations"] / 2 + kept)
    assert update_phase(two, config, 100_000, config.num_parameters, divided=False) == whole
    # 1,024 tokens, 2 layers, there and back: queries and outputs of 6 x 32, keys and values of 2 x
    # 32, half of them sent, 4 bytes each.
    text = explain(two, tmp_path)
    assert "2 processes divide the tokens of each pass and send 4.0 MiB for every 1,024 of them." in text
    assert "4 processes, 8 shards a step, at most 4 in each" in text


def test_the_plan_counts_a_process_s_share_of_a_reward_model_s_pairs():
    config = preset("tiny")
    plans = []
    for context in (1, 2):
        recipe = load_recipe(RECIPE, {"cluster.processes": 4, "cluster.context": context})
        stage = stage_of(recipe, "reward_model")
        plans.append(stage.update(PlanContext(recipe, "reward_model", config), 100_000))
    whole, half = plans
    kept = 4 * 2 * 50_000 * 192  # attention's outputs of two layers, before they are sent back
    assert half["activations"] == pytest.approx(whole["activations"] / 2 + kept)
    assert half["gradients"] == whole["gradients"]


def test_each_shard_is_computed_by_one_group():
    class Fourth(RankWorld):
        rank, size = 3, 4
        context = ContextGroup(1, 2, None)

    from qwq.cluster.division import Fixed

    world = Fourth(ClusterSection(processes=4, context=2, reduction="fixed", shards=5))
    division = Fixed(torch.nn.Linear(1, 1), world, 5, world.context)
    assert division.shards(list(range(7))) == [[1, 6], [3]]  # the shards 1 and 3 of 5, as process 2 has them
