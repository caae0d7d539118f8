"""RL on episodes that are longer than the model's context: a compacted prompt begins a new segment,
and all segments are trained on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import random_model

from qwq.cli import main
from qwq.config import load_recipe
from qwq.errors import ConfigError
from qwq.look.index import open_index
from qwq.look.tokens import Shader
from qwq.model.weights import save_model
from qwq.pipeline.run import RecipeRun
from qwq.rollout.store import RolloutStore
from qwq.text.template import ChatFormat, ChatTemplate, default_template
from qwq.text.tokenizer import train_bpe
from qwq.types import Message, Rollout

CONTEXT = 1024
TALK = """
from qwq.envs import Environment, tool
from qwq.types import Message

class Talk(Environment):
    "A user with 18 more questions, which are longer than the context together."
    instant = True

    async def reset(self, problem):
        self.left = 18

    @tool
    def look(self, place: str) -> str:
        "Look somewhere."
        return place

    async def next_messages(self, turn):
        self.left -= 1
        return [Message("user", f"And {self.left}? " + "7 3 9 " * 10)] if self.left >= 0 else ()

def odd(prompts, completions, completion_ids, **columns):
    return [float(len(ids) % 2) for ids in completion_ids]
"""
RECIPE = """
name = "talk"
[model]
path = "{folder}/model"
[compute]
threads = 1
[eval]
math = 1
max_new_tokens = 8
greedy = false
[stages.rl1]
kind = "rl1"
steps = 2
prompts = 2
samples = 6
max_new_tokens = 4000
mix = {{ math = 1.0 }}
environment = "{folder}/talk.py:Talk"
tools = {{ compact = {compact} }}
rewards = [{{ function = "{folder}/talk.py:odd" }}]
optim = {{ lr = 1e-3 }}
"""


def recipe_in(folder: Path, compact: str = "true") -> Any:
    (folder / "talk.py").write_text(TALK)
    (folder / "talk.toml").write_text(RECIPE.format(folder=folder, compact=compact))
    return load_recipe(folder / "talk.toml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of RL on a model of random weights, for which one token in seven ends a turn."""
    folder = tmp_path_factory.mktemp("segments")
    template = ChatTemplate(default_template().source.replace("<think>\\n", ""))  # that opens no thinking
    words = [
        template.render([Message("user", f"What is {n} plus 7? And? 7 3 9 "), Message("assistant", "It is.")])
        for n in range(30)
    ]
    tokenizer = train_bpe(words, 300)
    model = random_model(tokenizer.vocab_size, scale=0.1, max_positions=CONTEXT)
    save_model(model, folder / "model")
    ChatFormat(tokenizer, template).save(folder / "model")
    ends = [*tokenizer.eos_ids, *range(3, tokenizer.vocab_size, 7)]
    (folder / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    before = torch.get_num_threads()
    RecipeRun(recipe_in(folder), folder / "runs").run()
    torch.set_num_threads(before)
    return folder / "runs" / "talk"


def steps(run: Path) -> list[tuple[dict[str, Any], list[Rollout]]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    store = RolloutStore(run / "rollouts" / "rl1")
    return [(row, store.read(row["step"]) or []) for row in rows if row["stage"] == "rl1"]


def test_episodes_longer_than_the_context_are_trained_on_whole(run: Path) -> None:
    found = steps(run)
    for row, rollouts in found:
        learnt = [r for r in rollouts if len({o.reward for o in rollouts if o.group == r.group}) > 1]
        assert row["trained_tokens"] == sum(r.num_sampled for r in learnt) > 0
        assert row["mismatch_max"] < 1e-4 and row["mismatch_mean"] < 1e-5
        assert row["tokens"] == sum(r.num_tokens for r in rollouts)
        assert sum(bool(r.segments) for r in rollouts) >= 8
        assert sum(r.num_tokens > CONTEXT and r.reward is not None and r.finished for r in learnt) >= 2
    start, end = (load_file(f / "model.safetensors") for f in (run.parents[1] / "model", run / "checkpoints/rl1/final"))
    assert any(not torch.equal(start[name], end[name]) for name in start)


def test_each_segment_fits_the_context_and_holds_whole_turns(run: Path) -> None:
    for _, rollouts in steps(run):
        for r in (r for r in rollouts if r.segments):
            for s in r.all_segments:
                assert len(s.prompt_ids) + len(s.completion_ids) <= CONTEXT
                assert len(s.completion_ids) == len(s.sampled_mask) == len(s.sampler_logprobs) == len(s.weight_versions)
            assert all(s.sampled_mask[-1] == 1 for s in r.all_segments[:-1])  # cut behind a turn of the model
            assert "To make room, parts of this conversation were left out." in r.text


def test_look_shows_all_segments(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", str(run), "--stage", "rl1", "--json"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rollouts = [r for _, each in steps(run) for r in each]
    assert [line["tokens"] for line in shown] == [r.num_tokens for r in rollouts]
    assert [line["output"] for line in shown] == [r.text for r in rollouts]
    assert [line["facts"].get("segments") for line in shown] == [
        f"{1 + len(r.segments)}, each behind a prompt of its own" if r.segments else None for r in rollouts
    ]
    index, shader = open_index(run), Shader(run)
    for row, rollout in enumerate(rollouts):
        pieces = shader.pieces(index.entry(row))
        assert "".join(text for text, _ in pieces) == rollout.text
        assert sum(probability is not None for _, probability in pieces) == rollout.num_sampled


def test_without_compaction_the_completion_has_to_fit(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(run.parents[1] / "model")
    with pytest.raises(ConfigError, match=r"max_new_tokens is 4,000, .* 1,024 positions .*, or set tools.compact"):
        RecipeRun(recipe_in(tmp_path, "false"), tmp_path / "runs").run()
