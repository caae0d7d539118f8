"""Minutes and money of one machine, by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.stages import stage_plan

from qwq.config import Recipe, load_recipe
from qwq.envs.base import environment_class
from qwq.errors import ConfigError
from qwq.model.config import preset
from qwq.pipeline.plan.cluster import HOST_BYTES_S, Watched
from qwq.pipeline.plan.counts import PlanContext, StagePlan
from qwq.pipeline.plan.explain import explain, explain_with_cluster, machine_of
from qwq.pipeline.plan.lengths import document_lengths, prompt_characters, prompt_lengths
from qwq.pipeline.plan.machine import Machine, measure
from qwq.pipeline.plan.minutes import (
    DECODE_LAYER_S,
    DECODE_S,
    LAYER_S,
    MOST_SIMULATED,
    PROGRAMS_S,
    Sampled,
    Span,
    evaluation_seconds,
    minutes_rows,
    programs_share,
    rl_seconds,
    sampling_seconds,
    stage_seconds,
)
from qwq.pipeline.stage import stage_of
from qwq.pipeline.stages.rl2 import CANARY_ANSWERS
from qwq.reward.canaries import Canaries
from qwq.tasks.procedural.preference import Preference
from qwq.tasks.registry import get
from qwq.types import Message, Problem

RECIPES = Path(__file__).parents[3] / "recipes"
P = 886_336  # parameters of the tiny preset, all in products
MACHINE = Machine(1e11, 1e10, "as given", 3.6)


@pytest.fixture
def context():
    return PlanContext(load_recipe(RECIPES / "tiny.toml"), "rl1", preset("tiny"))


def test_a_stage_that_only_trains(context):
    """10^12 operations at half of 10^11 a second are 20 s; each of 10 steps has 2 layers of 4 ms
    and moves 28 bytes a parameter.
    """
    plan = StagePlan(10, "x", 1000, 1e12)
    expected = 20 + 10 * (2 * 0.004 + 28 * P / 1e10)
    assert LAYER_S == 0.004
    assert stage_seconds(plan, P, context, MACHINE) == pytest.approx((expected, expected))
    assert stage_seconds(StagePlan(None, "x", None, None), P, context, MACHINE) is None
    again = load_recipe(RECIPES / "tiny.toml", {"compute.recompute": True})
    recomputed = stage_seconds(plan, P, PlanContext(again, "rl1", preset("tiny")), MACHINE)
    assert recomputed is not None and recomputed.expected - expected == pytest.approx(20 / 3)


def test_sampling_by_hand(context):
    """Two completions of 3 tokens behind one prompt of 10: the rows hold 10 + 1, 10 + 2 and 10 + 3
    tokens each in three steps; each step reads 4 bytes a parameter.
    """
    kv = 2 * 4 * 2 * 2 * 32  # keys and values, float32, 2 layers, 2 heads of 32
    flops = context.config.flops_per_token
    step = DECODE_S + 2 * DECODE_LAYER_S + 4 * P / 1e10
    expected = 10 * flops(5) / 1e11 + 3 * step + 6 * flops() / 1e11 + 2 * (11 + 12 + 13) * kv / 1e10
    work = Sampled(2, 1, 10, 3)
    assert sampling_seconds(work, 3, context, MACHINE) == pytest.approx(expected)
    judged = work._replace(programs=0.5)
    assert sampling_seconds(judged, 3, context, MACHINE) == pytest.approx(expected + 1 / PROGRAMS_S)
    assert sampling_seconds(Sampled(0, 0, 10, 3), 3, context, MACHINE) == 0


def test_however_many_completions_take_proportionally_long(context):
    """A slip of the finger asks for 10^12 of them; the plan says at once how long that takes."""
    one = sampling_seconds(Sampled(MOST_SIMULATED, 1, 0, 4), 2, context, MACHINE)
    many = sampling_seconds(Sampled(10**6 * MOST_SIMULATED, 1, 0, 4), 2, context, MACHINE)
    assert many == pytest.approx(10**6 * one)


def test_an_rl_stage_at_most_keeps_every_group_at_full_length(context):
    """32 x 8 completions of 128 tokens, half of them programs; one of four tokens a completion is
    expected, and 70% of the groups teach something. 32,768 tokens fill four micro-batches of 8,192,
    and each has its fixed time; 70% of 8,192 fill one.
    """
    stage = context.recipe.stages["rl1"]
    span = rl_seconds(stage, 50.0, P, Watched(), context, MACHINE)
    flops = context.config.flops_per_token

    def step(mean, kept, micro):
        fixed = micro * 2 * LAYER_S + 28 * P / 1e10
        sampling = sampling_seconds(Sampled(256, 32, 50.0, 128, 0.5), mean, context, MACHINE)
        fed = 256 * kept * mean + 32 * kept * 50
        return sampling + 3 * fed * flops(50 + mean // 2) / 0.5e11 + fixed

    assert span.at_most == pytest.approx(120 * step(128, 1.0, 4))
    assert span.expected == pytest.approx(120 * step(32, 0.7, 1))
    watched = rl_seconds(stage, 50.0, P, Watched(100, 10), context, MACHINE)
    looks = 13 * sampling_seconds(Sampled(100, 100, 50.0, 128, 0.5), 128, context, MACHINE)
    assert watched.at_most - span.at_most == pytest.approx(looks)  # 12, and one before the first step


def test_looks_are_counted_from_before_the_first_step_to_the_last():
    assert [Watched(200, 10).looks(steps) for steps in (1, 10, 11, 90)] == [2, 2, 3, 10]
    assert [Watched(200, 10, at_end=False).looks(steps) for steps in (1, 10, 19, 90)] == [1, 2, 2, 10]
    assert Watched().looks(90) == 0


def test_validation_of_an_rl_stage_is_counted(context):
    """100 problems of each of two families, before the first of 120 steps and every 50: 3 looks."""
    recipe = load_recipe(RECIPES / "tiny.toml", {"stages.rl1.validation.every": 50})
    assert recipe.stages["rl1"].mix.weights().keys() == {"math", "code"}

    def at_most(stage):
        return rl_seconds(stage, 50.0, P, Watched(), context, MACHINE).at_most

    look = sampling_seconds(Sampled(200, 200, 50.0, 128, 0.5), 128, context, MACHINE)
    assert at_most(recipe.stages["rl1"]) - at_most(context.recipe.stages["rl1"]) == pytest.approx(3 * look)


def test_stage_2_looks_at_preference_too_and_scores_its_canaries(context):
    """200 problems of math, of code and of preference, and six answers to each of 16 prompts."""
    watched = context.recipe.stages["rl2"].watched_on_cluster()
    assert (watched.problems, watched.every, watched.scored) == (600, 10, 96)
    without = load_recipe(RECIPES / "tiny.toml", {"stages.rl2.mix.preference": 0.0}).stages["rl2"]
    assert without.watched_on_cluster() == Watched(400, 10, 0)
    problems = get("preference").fixed("validation", 2)
    assert len(Canaries._answers(Preference(), *problems)[1]) == CANARY_ANSWERS

    def at_most(watched):
        return rl_seconds(context.recipe.stages["rl2"], 50.0, P, watched, context, MACHINE).at_most

    reading = 96 * (50 + 128) * context.config.flops_per_token(50 + 64) / 0.5e11
    assert at_most(watched) - at_most(watched._replace(scored=0)) == pytest.approx(10 * reading)


def test_the_kl_that_is_only_watched_takes_its_forward_passes(context):
    """Every fourth of 120 steps one more pass, which is a third of forward and backward."""
    recipe = load_recipe(RECIPES / "tiny.toml", {"stages.rl1.watch_kl": 4})
    stages = (recipe.stages["rl1"], context.recipe.stages["rl1"])
    more, less = (rl_seconds(stage, 50.0, P, Watched(), context, MACHINE).at_most for stage in stages)
    one = (256 * 128 + 32 * 50) * context.config.flops_per_token(50 + 64) / 0.5e11 + 4 * 2 * LAYER_S / 3
    assert more - less == pytest.approx(30 * one)


def test_prompts_are_as_long_as_their_tools():
    """A template writes each schema as a line of JSON."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    plain = Problem("p", "math", (Message("user", "x" * 10),), {}, "p")
    assert prompt_characters(plain) == 10
    assert prompt_characters(replace(plain, tools=(tool,))) == 10 + len(json.dumps(tool)) + 1
    with_tools = prompt_characters(plain, "python")
    schemas = environment_class("python")().schemas()
    assert with_tools == 10 + sum(len(json.dumps(dict(s))) + 1 for s in schemas) > 100
    lengths = [prompt_lengths({"math": 1.0}, [], 512, environment).mean for environment in ("", "python")]
    assert lengths[1] - lengths[0] == pytest.approx((with_tools - 10) / 2, abs=1)  # two characters a token


@pytest.mark.parametrize(
    ("keys", "passes"),
    [
        ({"kind": "reward_model", "pairs": 500, "test_pairs": 40}, 3 * 500 + 100 + 40),  # a fifth for the calibration
        ({"kind": "reward_model", "pairs": 500, "test_pairs": 40, "validation_pairs": 10}, 3 * 500 + 10 + 40),
        ({"kind": "dpo", "pairs": 500, "test_pairs": 40, "epochs": 2}, 7 * 500 + 2 * 40),  # first under the start
    ],
)
def test_pairs_that_are_held_out_are_read_too(keys: dict[str, Any], passes: int) -> None:
    """In forward passes over one pair: three to train on it, one to score it."""
    config, data = preset("tiny"), {"name": "x", "model": {"preset": "tiny"}}
    pretrain = {"kind": "pretrain", "tokens": 1000, "mix": {"math": 1.0}}
    made = Recipe.model_validate(data | {"stages": {"pretrain": pretrain, "own": keys}})
    lengths = document_lengths({"preference": 1.0}, config.vocab_size)
    found = stage_plan(made, "own", config)
    assert found.flops == pytest.approx(passes * 2 * lengths.mean * config.flops_per_token(), rel=1e-3)


def test_offload_copies_each_layers_input_twice():
    """1,000 tokens of 128 numbers in 2 layers, 4 bytes each, out and back at 20 GB/s."""
    keys = {"compute.device": "cuda", "compute.recompute": True}
    plan, seconds = StagePlan(10, "x", 1000, 1e12), []
    for offload in (False, True):
        recipe = load_recipe(RECIPES / "tiny.toml", keys | {"compute.offload": offload})
        found = stage_seconds(plan, P, PlanContext(recipe, "rl1", preset("tiny")), MACHINE)
        assert found is not None
        seconds.append(found.expected)
    config = preset("tiny")
    copied = 2 * 4 * 1000 * config.hidden_size * config.num_layers / HOST_BYTES_S
    assert seconds[1] - seconds[0] == pytest.approx(copied, rel=1e-4)


def test_a_reward_model_reads_its_share_of_the_completions(context):
    """At most 256 completions of 128 tokens behind 50, a tenth of them read once, in each step."""
    stage = context.recipe.stages["rl1"]
    without = rl_seconds(stage, 50.0, P, Watched(), context, MACHINE)
    scored = rl_seconds(stage, 50.0, P, Watched(), context, MACHINE, 0.1)
    reading = 0.1 * 256 * (50 + 128) * context.config.flops_per_token(50 + 64) / 0.5e11
    assert scored.at_most - without.at_most == pytest.approx(120 * reading)


def test_programs_are_counted_by_weight(context):
    assert programs_share({"math": 0.3, "code": 0.1}, []) == pytest.approx(0.25)
    assert programs_share({}, []) == 0


def test_the_control_takes_as_long_as_what_it_matches(context):
    def seconds(recipe, name):
        return stage_of(recipe, name).seconds(PlanContext(recipe, name, context.config), MACHINE)

    assert seconds(context.recipe, "control") == seconds(context.recipe, "rl1")
    fixed = load_recipe(RECIPES / "tiny.toml", {"stages.control.steps": 35})
    sft = seconds(fixed, "sft")
    assert seconds(fixed, "control").expected == pytest.approx(sft.expected, rel=0.05)  # 35 steps there too


def test_an_evaluation_counts_its_readings(context):
    both = evaluation_seconds(context, MACHINE)
    one = load_recipe(RECIPES / "tiny.toml", {"eval.greedy": False})
    assert evaluation_seconds(PlanContext(one, "rl1", context.config), MACHINE).times(2) == pytest.approx(both)
    none = {f"eval.{name}": 0 for name in ("math", "code", "instructions", "tools", "preference")}
    empty = PlanContext(load_recipe(RECIPES / "tiny.toml", none), "rl1", context.config)
    assert evaluation_seconds(empty, MACHINE) == (0, 0)


def test_the_table_adds_up_and_money_is_hours_times_price():
    """3.6 an hour are 0.001 a second; what is unknown is a question mark and not in the sum."""
    rows = minutes_rows({"a": Span(600, 1200), "b": None}, 2, Span(30, 60), MACHINE)
    assert rows[1:] == [
        ["a", "10.0", "20.0", "0.60", "1.20"],
        ["b", "?", "?", "?", "?"],
        ["evaluation, 2 times", "1.0", "2.0", "0.06", "0.12"],
        ["all", "11.0", "22.0", "0.66", "1.32"],
    ]
    free = minutes_rows({"a": Span(600, 1200)}, 0, Span(0, 0), Machine(1.0, 1.0, "as given"))
    assert free == [["minutes on this machine", "expected", "at most"], ["a", "10.0", "20.0"], ["all", "10.0", "20.0"]]


def test_explain_prints_them(context):
    text = explain_with_cluster(context.recipe, tflops=0.1, gb_s=10, price=3.6)
    (row,) = [line.split() for line in text.splitlines() if line.startswith("rl1 ") and len(line.split()) == 5]
    seconds = stage_of(context.recipe, "rl1").seconds(context, MACHINE)
    assert row == ["rl1", f"{seconds.expected / 60:.1f}", f"{seconds.at_most / 60:.1f}",
                   f"{seconds.expected / 1000:.2f}", f"{seconds.at_most / 1000:.2f}"]  # fmt: skip
    assert "By 100 GFLOP/s of products of this model's size and 10.0 GB/s of memory, as given, 3.6 an hour." in text
    assert "minutes" not in explain(context.recipe)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tflops": 1.0}, "--tflops is 1.0 and --gb-s is None: give both"),
        ({"price": 0.0}, "--price 0: give a number above 0"),
        ({"tflops": 1.0, "gb_s": float("nan")}, "--gb-s nan: give a number above 0"),
    ],
)
def test_wrong_rates_are_refused(context, options, told):
    with pytest.raises(ConfigError, match=told):
        explain_with_cluster(context.recipe, **options)


def test_a_cluster_has_its_own_rates_and_a_price_of_a_node():
    recipe = load_recipe(RECIPES / "qwq-32b.toml")
    with pytest.raises(ConfigError, match=r"set --compute\.cluster\.tflops"):
        explain_with_cluster(recipe, tflops=1.0, gb_s=1.0)
    assert "at 2.5 a GPU-hour" in explain_with_cluster(recipe, price=20.0)  # 8 GPUs to a node


def test_this_machine_is_measured():
    recipe = load_recipe(RECIPES / "tiny.toml")
    found = measure(recipe, preset("tiny"))
    assert 1e8 < found.flops_s < 1e14 and 1e8 < found.bytes_s < 1e13 and found.price is None
    absent = load_recipe(RECIPES / "tiny.toml", {"compute.device": "xpu"})
    assert machine_of(absent, None, None, None) is None
