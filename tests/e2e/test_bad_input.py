"""What a user gets wrong ends in one line on standard error that names the repair, and the right
exit status.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwq.model.config import preset
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe

RECIPE = str(Path(__file__).with_name("mini.toml"))
SFT = """
name = "one"
model = { path = "%s" }
compute = { threads = 1 }
[stages.sft]
kind = "sft"
documents = 2
evaluate = false
path = "%s"
"""
LINE = json.dumps({"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]})


@pytest.fixture(autouse=True)
def _keep_signals(keep_signals):
    """`qwq train` runs inside pytest here."""


def copy_of(model: Path, to: Path) -> Path:
    to.mkdir()
    for file in model.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def sft_recipe(tmp_path: Path, model: Path, data: str) -> tuple[Path, Path]:
    """A recipe with one SFT stage on a data file, and that file."""
    file, recipe = tmp_path / "data.jsonl", tmp_path / "one.toml"
    file.write_text(data)
    recipe.write_text(SFT % (model, file))
    return recipe, file


def test_unknown_recipe_key(error, tmp_path):
    line = error("train", RECIPE, "--runs", tmp_path, "--stages.rl1.sampels=4")
    assert "unknown key 'stages.rl1.sampels'" in line and "did you mean 'samples'?" in line
    assert "did you mean 'threads'?" in error("train", RECIPE, "--runs", tmp_path, "--compute.thread=1")
    assert list(tmp_path.iterdir()) == []


def test_unknown_kind_of_stage_and_missing_field(error, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "r"\n[model]\npreset = "tiny"\n[stages.a]\nkind = "pretrian"\n')
    assert "did you mean 'pretrain'?" in error("train", recipe)
    recipe.write_text('name = "r"\n[model]\npreset = "tiny"\n[stages.a]\nkind = "pretrain"\nmix = { math = 1 }\n')
    assert "'stages.a.tokens' is missing" in error("train", recipe)
    recipe.write_text("name = \n")
    assert "is not TOML" in error("train", recipe)


def test_preference_in_stage_1_is_refused_before_anything_runs(error, tmp_path):
    line = error("train", RECIPE, "--runs", tmp_path, "--stages.rl1.mix.preference=0.5")
    assert "stages.rl1.mix.preference is 0.5" in line and "rl2" in line


def test_missing_recipe_names_those_that_are_there(error):
    assert "mini.toml" in error("train", Path(RECIPE).with_name("mimi.toml"))


def test_unknown_stage_in_until(error, tmp_path):
    assert "did you mean 'pretrain'?" in error("train", RECIPE, "--runs", tmp_path, "--until", "pretrane")


def test_missing_model_folder(error, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert f"no model folder at {nowhere}" in error("eval", nowhere, "math")
    assert f"no model folder at {nowhere}" in error("chat", nowhere, "--prompt", "hello")
    recipe, _ = sft_recipe(tmp_path, nowhere, LINE + "\n")
    assert f"no model folder at {nowhere}" in error("train", recipe, "--runs", tmp_path / "runs")


def test_truncated_weights(error, model, tmp_path):
    broken = copy_of(model, tmp_path / "broken")
    weights = broken / "model.safetensors"
    size = weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[: size // 2])
    line = error("eval", broken, "math", "--n", "1")
    assert str(weights) in line and str(size) in line.replace(",", "") and str(size // 2) in line.replace(",", "")


def test_tokenizer_that_does_not_fit_the_model(error, model, tmp_path):
    mixed = copy_of(model, tmp_path / "mixed")
    larger = train_bpe(
        [f"{a} {b} words and more of them" for a in range(90) for b in ("plum", "pear", "quince", "apple")], 330
    )
    ChatFormat(larger, default_template()).save(mixed)
    rows = preset("tiny", vocab_size=json.loads((model / "config.json").read_text())["vocab_size"]).vocab_size
    assert larger.vocab_size > rows
    line = error("eval", mixed, "math", "--n", "1")
    assert str(rows) in line and str(larger.vocab_size) in line
    recipe, _ = sft_recipe(tmp_path, mixed, LINE + "\n")
    line = error("train", recipe, "--runs", tmp_path / "runs")
    assert str(rows) in line and str(larger.vocab_size) in line


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("", "holds no conversations"),
        ("\n\n", "holds no conversations"),
        (LINE + "\n" + LINE[:-3] + "\n", "line 2: not JSON"),
        (LINE + "\n\n" + '{"text": "no messages"}\n', "line 3: needs `messages`"),
        ("[1, 2]\n", "line 1: needs `messages`"),
        ('{"messages": [{"role": "user", "content": "2+2?"}]}\n', "line 1: no assistant turn"),
    ],
)
def test_training_data(error, model, tmp_path, data, expected):
    recipe, file = sft_recipe(tmp_path, model, data)
    line = error("train", recipe, "--runs", tmp_path / "runs")
    assert f"{file}" in line and expected in line


def test_missing_training_data(error, model, tmp_path):
    recipe, file = sft_recipe(tmp_path, model, "")
    file.unlink()
    assert f"no data file at {file}" in error("train", recipe, "--runs", tmp_path / "runs")


def test_lines_to_verify(error, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"gold": "4", "pred": "\\\\boxed{4}"}\n{"gold": "4", \n')
    assert f"{file}, line 2: not JSON" in error("verify", "math", file, "--strict")
    file.write_text("")
    assert f"{file} is empty" in error("verify", "math", file)
    assert f"no file at {tmp_path / 'none.jsonl'}" in error("verify", "tools", tmp_path / "none.jsonl")


def test_more_memory_than_there_is(error, model, tmp_path):
    recipe, _ = sft_recipe(tmp_path, model, LINE + "\n")
    line = error("train", recipe, "--runs", tmp_path / "runs", "--stages.sft.batch_tokens=9000000000")
    # Both sides, and the option to lower.
    assert "stage sft needs about" in line and "GiB are free" in line and "stages.sft.batch_tokens" in line
    assert not (tmp_path / "runs" / "one" / "checkpoints").exists()


def test_unknown_benchmark(error, model):
    assert "no task 'mathh': did you mean 'math'?" in error("eval", model, "mathh")


def test_unknown_command_and_option(error, model):
    assert "--help" in error("trian", RECIPE)
    assert "--help" in error("eval", model, "math", "--temprature", "0.5")
