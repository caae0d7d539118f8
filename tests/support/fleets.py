"""A model and a recipe for runs on rollout engines: a few RL steps whose rewards differ, in a
second or two.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from little import make_model

from qwq.config import Recipe
from qwq.model.layouts import Packed
from qwq.model.weights import load_model, save_model
from qwq.pipeline.run import RecipeRun
from qwq.text.template import default_template
from qwq.text.tokenizer import Tokenizer

STEPS, PROMPTS, SAMPLES = 3, 3, 4


def ending_model(path: Path) -> Path:
    """A random model that ends a turn with a probability of some percent at each token, so that
    lengths, and with them rewards, differ.
    """
    made = make_model(path.with_name("made"), default_template().source)
    model, tokenizer = load_model(made), Tokenizer.from_folder(made)
    ids = torch.randint(0, model.config.vocab_size, (256,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean = model(ids, Packed([256])).mean(0)
        eos = tokenizer.eos_ids[0]
        model.head_weight[eos] += mean * (3.5 - float(model.head_weight[eos] @ mean)) / float(mean @ mean)
    shutil.copytree(made, path)
    save_model(model, path)
    return path


def recipe(folder: Path, model: Path, **overrides: Any) -> Recipe:
    text = f"""
name = "fleet"
[model]
path = {json.dumps(str(model))}
[compute]
threads = 1
checkpoint_interval_s = 0
[stages.rl1]
kind = "rl1"
steps = {STEPS}
prompts = {PROMPTS}
samples = {SAMPLES}
max_new_tokens = 24
overlong_buffer = 23
mix = {{ math = 1.0 }}
optim = {{ lr = 1e-3 }}
"""
    file = folder / "fleet.toml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return Recipe.load(file, **overrides)


def run(folder: Path, model: Path, **overrides: Any) -> Path:
    """The folder of a finished run; `overrides` are dotted keys."""
    made = RecipeRun(recipe(folder, model, **overrides), folder)
    made.run()
    return made.folder


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    return load_model(run_folder / "checkpoints" / "rl1" / "final").state_dict()


def rollouts(run_folder: Path) -> list[list[dict[str, Any]]]:
    """The rollouts of each step."""
    files = sorted((run_folder / "rollouts" / "rl1").glob("step-*.jsonl"))
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def metrics(run_folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def events(run_folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder / "fleet" / "rl1" / "events.jsonl").read_text().splitlines()]


def prompts(run_folder: Path) -> list[list[tuple[int, str]]]:
    """Group numbers and problem ids of each step."""
    return [sorted({(r["group"], r["problem_id"]) for r in step}) for step in rollouts(run_folder)]
