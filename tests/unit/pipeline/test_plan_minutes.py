"""Minutes and money of one machine, by hand."""

from pathlib import Path

import pytest

from qwq.config import load_recipe
from qwq.errors import ConfigError
from qwq.model.config import preset
from qwq.pipeline.plan.cluster import Watched
from qwq.pipeline.plan.counts import PlanContext, StagePlan
from qwq.pipeline.plan.explain import explain, explain_with_cluster, machine_of
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
    expected, and 70% of the groups teach something.
    """
    stage = context.recipe.stages["rl1"]
    span = rl_seconds(stage, 50.0, P, Watched(), context, MACHINE)
    flops, fixed = context.config.flops_per_token, 2 * LAYER_S + 28 * P / 1e10

    def step(mean, kept):
        sampling = sampling_seconds(Sampled(256, 32, 50.0, 128, 0.5), mean, context, MACHINE)
        fed = 256 * kept * mean + 32 * kept * 50
        return sampling + 3 * fed * flops(50 + mean // 2) / 0.5e11 + fixed

    assert span.at_most == pytest.approx(120 * step(128, 1.0))
    assert span.expected == pytest.approx(120 * step(32, 0.7))
    watched = rl_seconds(stage, 50.0, P, Watched(100, 10), context, MACHINE)
    looks = 12 * sampling_seconds(Sampled(100, 100, 50.0, 128, 0.5), 128, context, MACHINE)
    assert watched.at_most - span.at_most == pytest.approx(looks)


def test_a_reward_model_reads_its_share_of_the_completions(context):
    """At most 256 completions of 128 tokens behind 50, a tenth of them read once, in each step."""
    stage = context.recipe.stages["rl1"]
    without = rl_seconds(stage, 50.0, P, Watched(), context, MACHINE)
    scored = rl_seconds(stage, 50.0, P, Watched(), context, MACHINE, 0.1)
    reading = 0.1 * 256 * (50 + 128) * context.config.flops_per_token(50 + 64) / 1e11
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
