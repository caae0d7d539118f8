"""A small run of two stages with a model of random weights, and the model alone."""

import json
from pathlib import Path

import pytest
import torch

from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.model.weights import save_model
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe

RECIPE = """name = "small"
seed = 3
[model]
preset = "tiny"
[stages.sft]
kind = "sft"
documents = 8
source = { kind = "arithmetic", level = 1 }
[stages.rl1]
kind = "rl1"
steps = 2
sources = [{ kind = "gsm8k", path = "HOME/data/train.jsonl" }]
[stages.rl1.mix]
math = 1.0
"""


@pytest.fixture
def model(tmp_path):
    """A model folder of random weights."""
    return write_model(tmp_path / "model")


def write_model(folder: Path) -> Path:
    tokenizer = train_bpe(["some words to learn from"] * 20, 300)
    chat = ChatFormat(tokenizer, default_template())
    weights = Transformer(preset("tiny", vocab_size=tokenizer.vocab_size)).init_weights(
        torch.Generator().manual_seed(0)
    )
    save_model(weights, folder)
    chat.save(folder)
    return folder


@pytest.fixture
def run(tmp_path):
    """A finished run: 70 of 100 sums right after the second stage, 3 of 5 rollouts in training."""
    folder = tmp_path / "runs" / "small"
    write_model(folder / "checkpoints" / "rl1" / "final")
    (folder / "recipe.toml").write_text(RECIPE.replace("HOME", str(Path.home())))
    (folder / "stages").mkdir()
    evals = {
        "math": {"score": 0.7, "ci95": [0.604, 0.781], "n": 100, "samples": 1, "outcomes": {"correct": 70, "wrong": 30}}
    }
    records = [
        {"name": "sft", "kind": "sft", "steps": 4, "train_s": 6.0, "wall_s": 12.0, "evals": {}},
        {"name": "rl1", "kind": "rl1", "steps": 2, "train_s": 60.0, "wall_s": 90.0, "evals": evals},
    ]
    for record in records:
        (folder / "stages" / f"{record['name']}.json").write_text(json.dumps(record))
    (folder / "results.json").write_text(json.dumps({"recipe": "small", "finished": True, "stages": records}))
    rows = [
        {"stage": "rl1", "step": 0, "seconds": 1.0, "outcomes": {"correct": 1, "wrong": 1}},
        {"stage": "rl1", "step": 1, "seconds": 1.0, "outcomes": {"correct": 2, "unfinished": 1}},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "report.html").write_text(f"<p>trained in {Path.home()}/work/small</p>\n")
    return folder
