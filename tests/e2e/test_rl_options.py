"""The options of an RL stage, end to end on a small run: LoRA, budgets, length rewards, validation,
the overthinking curve.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwq.config import Recipe, load_recipe
from qwq.errors import ConfigError
from qwq.model.weights import load_model
from qwq.pipeline.run import RecipeRun
from qwq.pipeline.run_report import write_report
from qwq.pipeline.table import table

RECIPE = Path(__file__).parent / "mini.toml"
OPTIONS = {
    "eval.budgets": [0, 8],
    "eval.code": 0,
    "eval.tools": 0,
    "eval.preference": 0,
    "stages.sft.lora": {"rank": 2},
    "stages.rl1.lora": {"rank": 2, "merged": False},
    "stages.rl1.updates": 1,
    "stages.rl1.mix": {"math": 1.0},
    "stages.rl1.thinking_budgets": [4, -1],
    "stages.rl1.overlong_buffer": 32,
    "stages.rl1.overlong_penalty": 0.5,
    "stages.rl1.length_weight": 0.3,
    "stages.rl1.watch_kl": 2,
    "stages.rl1.validation": {"every": 2, "problems": 8, "keep": "best"},
    "stages.rl2.mix": {"math": 0.5, "instructions": 0.5},
    "stages.rl2.lora": {"rank": 2},
    "stages.rl2.kl": 0.001,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    recipe = load_recipe(RECIPE, dict(OPTIONS))
    stages = {k: v for k, v in recipe.stages.items() if k not in ("control", "reward_model")}
    runs = tmp_path_factory.mktemp("runs")
    before = torch.get_num_threads()
    RecipeRun(recipe.model_copy(update={"stages": stages}), runs).run()
    torch.set_num_threads(before)
    return runs / recipe.run_name


def metrics(run: Path, stage: str) -> list[dict]:
    return [
        row for line in (run / "metrics.jsonl").read_text().splitlines() if (row := json.loads(line))["stage"] == stage
    ]


def rollouts(run: Path, stage: str) -> list[dict]:
    return [
        json.loads(line)
        for p in sorted((run / "rollouts" / stage).glob("*.jsonl"))
        for line in p.read_text().splitlines()
    ]


def test_budgets_were_drawn_by_prompt_and_held(run):
    rows = rollouts(run, "rl1")
    by_group: dict[int, set] = {}
    for r in rows:
        by_group.setdefault(r["group"], set()).add(r.get("budget"))
    assert {b for (b,) in by_group.values()} == {4, None}  # one for a whole group, both drawn
    closed = [r for r in rows if r.get("budget") == 4 and 0 in r["sampled_mask"]]
    assert closed, "no thought was cut short"
    for r in closed:
        at = r["sampled_mask"].index(0)
        assert at <= 5 and "</think>" in r["text"]  # the opening marker and four tokens
        assert all(p == 0.0 for p, m in zip(r["sampler_logprobs"], r["sampled_mask"], strict=True) if not m)


def test_length_terms_are_logged_apart(run):
    rows = rollouts(run, "rl1")
    assert all("overlong" in r["rewards"] and -0.5 <= r["rewards"]["overlong"] <= 0 for r in rows)
    assert all(("length" in r["rewards"]) == (r["verdicts"][-1]["outcome"] == "correct") for r in rows)
    assert all(r["reward"] == pytest.approx(sum(r["rewards"].values())) for r in rows)


def test_kl_to_the_start_is_measured_without_a_kl_term(run):
    seen = [row["kl_to_start"] for row in metrics(run, "rl1") if "kl_to_start" in row]
    assert seen and seen[0] == pytest.approx(0, abs=1e-6) and all(k >= 0 for k in seen)


def test_validation_chose_the_weights(run):
    record = json.loads((run / "stages" / "rl1.json").read_text())
    assert [e["step"] for e in record["validation"]] == [-1, 1, 3, 5]
    assert not list((run / "checkpoints" / "rl1").glob("best*"))


def test_an_adapter_alone_is_enough_to_go_on(run):
    """rl1 left no merged folder; rl2 started from its adapter, and its own start is what the KL was
    measured against.
    """
    assert not (run / "checkpoints" / "rl1" / "final").exists()
    assert (run / "checkpoints" / "rl1" / "adapter" / "adapter_model.safetensors").is_file()
    assert metrics(run, "rl2")[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert load_model(run / "checkpoints" / "rl2" / "final").config.num_layers > 0


def test_the_overthinking_curve_is_there_and_drawn(run):
    record = json.loads((run / "stages" / "rl2.json").read_text())
    for curve in record["budgets"].values():
        assert [p["budget"] for p in curve] == [0, 8, None]
        # This model opens a thought again now and then after one was closed; that is not the
        # budget's, but it is thinking.
        assert curve[0]["mean_thinking_tokens"] < curve[2]["mean_thinking_tokens"]
        assert curve[0]["mean_tokens"] < curve[2]["mean_tokens"] + 16
    page = write_report(run).read_text()
    assert "Accuracy against thinking tokens" in page


def test_a_buffer_longer_than_the_response_is_refused():
    with pytest.raises(ConfigError, match="overlong_buffer is 64"):
        load_recipe(RECIPE, {"stages.rl1.overlong_buffer": 64})
    with pytest.raises(ConfigError, match="thinking_budgets holds -5"):
        load_recipe(RECIPE, {"stages.rl1.thinking_budgets": [-5]})


def test_a_checkpoint_gets_another_template(run, tmp_path):
    """QwQ opens the thinking in its template; a cold start of a model whose template does not can
    take ours, or a file.
    """
    plain = tmp_path / "plain.jinja"
    plain.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    base = {
        "name": "x",
        "model": {"path": str(run / "checkpoints" / "rl2" / "final")},
        "stages": {"sft": {"kind": "sft", "mix": {"math": 1.0}}},
    }

    def chat(**model: str):
        return RecipeRun(Recipe.model_validate(base | {"model": base["model"] | model}), tmp_path).models.chat()

    assert (
        chat().thinking_open
        and not chat(chat_template=str(plain)).thinking_open
        and chat(chat_template="qwq").thinking_open
    )
    with pytest.raises(ConfigError, match="no file nowhere.jinja"):
        chat(chat_template="nowhere.jinja")


def test_the_start_is_read_once_and_the_first_stage_compared_with_it(run, tmp_path):
    options = {
        "name": "x", "model": {"path": str(run / "checkpoints" / "rl2" / "final")}, "compute": {"threads": 1},
        "eval": {"math": 6, "max_new_tokens": 24, "greedy": False, "start": True},
        "stages": {"sft": {"kind": "sft", "mix": {"math": 1.0}, "documents": 4, "optim": {"lr": 1e-12}}},
    }  # fmt: skip
    before = torch.get_num_threads()
    one = RecipeRun(Recipe.model_validate(options), tmp_path)
    results = one.run()
    torch.set_num_threads(before)
    assert [s["name"] for s in results["stages"]] == ["sft"] and results["finished"]
    start, sft = results["start"]["evals"]["math"], results["stages"][0]["evals"]["math"]
    # Trained at a rate of nothing, it answers as it did, so the paired change is exactly nothing.
    assert (start["score"], start["n"], start["mean_tokens"]) == (sft["score"], 6, sft["mean_tokens"])
    assert (sft["change"], sft["against"]) == (0.0, "start") and "change" not in start
    written = (tmp_path / "x/evals/start/sampled.jsonl").stat().st_mtime_ns
    (tmp_path / "x/results.json").unlink()
    assert (
        one.run()["start"] == results["start"]
        and (tmp_path / "x/evals/start/sampled.jsonl").stat().st_mtime_ns == written
    )
    assert table(results)[1][0][0] == "start"
    assert "<b>start</b>" in write_report(tmp_path / "x").read_text()
    for wrong in ({"model": {"preset": "tiny"}}, {"stages": {"start": options["stages"]["sft"]}}):
        with pytest.raises(ValueError, match="eval.start reads the checkpoint at model.path"):
            Recipe.model_validate(options | wrong)


def test_early_end_by_patience(tmp_path):
    """A learning rate of nearly nothing makes nothing better, so the stage ends after the first
    look.
    """
    options = OPTIONS | {
        "stages.rl1.optim": {"lr": 1e-12},
        "stages.rl1.validation": {"every": 1, "problems": 4, "patience": 1},
        "eval.budgets": [],
    }
    recipe = load_recipe(RECIPE, options)
    for key in ("math", "instructions"):
        recipe = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={key: 0})})
    stages = {k: recipe.stages[k] for k in ("pretrain", "sft", "rl1")}
    before = torch.get_num_threads()
    RecipeRun(recipe.model_copy(update={"stages": stages}), tmp_path).run()
    torch.set_num_threads(before)
    record = json.loads((tmp_path / "mini" / "stages" / "rl1.json").read_text())
    assert record["steps"] == 1 and "no better validation score" in record["ended"]


def test_every_kind_of_stage_runs_in_sixteen_bits_and_a_control_keeps_its_adapters(tmp_path):
    options = {
        "compute.dtype": "bfloat16", "compute.recompute": True, "stages.pretrain.tokens": 4000,
        "stages.sft.lora": {"rank": 2}, "stages.rl1.steps": 1, "stages.rl2.steps": 1, "stages.control.steps": 2,
        "stages.reward_model.pairs": 16,
    } | {f"eval.{d}": 0 for d in ("math", "code", "instructions", "tools", "preference")}  # fmt: skip
    before = torch.get_num_threads()
    assert RecipeRun(load_recipe(RECIPE, options), tmp_path).run()["finished"]
    torch.set_num_threads(before)
    finals = {
        s: load_file(tmp_path / "mini" / "checkpoints" / s / "final" / "model.safetensors")
        for s in ("pretrain", "sft", "control", "reward_model")
    }
    # A preset is written in float32; a reward model as it was trained, but for its head: in 16 bits
    # like answers would have equal scores.
    assert all(t.dtype == torch.float32 for s in ("pretrain", "sft", "control") for t in finals[s].values())
    assert finals["reward_model"].pop("score.weight").dtype == torch.float32
    assert all(t.dtype == torch.bfloat16 for t in finals["reward_model"].values())
    name = "model.layers.0.mlp.down_proj.weight"
    assert not torch.equal(finals["sft"][name], finals["pretrain"][name])
    assert not torch.equal(finals["control"][name], finals["sft"][name])
    # A merged adapter is whole in a float32 file, however small beside the last place of a 16-bit
    # weight.
    adapter = load_file(tmp_path / "mini" / "checkpoints" / "sft" / "adapter" / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.model.layers.0.mlp.down_proj.lora_{k}.weight"].float() for k in "AB")
    assert finals["sft"][name].dtype == torch.float32
    torch.testing.assert_close(finals["sft"][name] - finals["pretrain"][name].float(), 2 * b @ a, rtol=0, atol=1e-8)
