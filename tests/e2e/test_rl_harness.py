"""RL whose rollouts are made by an unchanged program: a script that knows nothing of training."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import random_model

from qwq.config import load_recipe
from qwq.errors import ConfigError, InfraError
from qwq.model.weights import save_model
from qwq.pipeline.run import RecipeRun
from qwq.rollout.store import RolloutStore
from qwq.text.template import ChatFormat, ChatTemplate
from qwq.text.tokenizer import train_bpe
from qwq.types import Message, Rollout

pytest.importorskip("fastapi")

# Two turns with `urllib` alone; it asks for sampling of its own, which a stage does not use.
PLAIN = """
import json, os, sys, urllib.request
problem = json.load(sys.stdin)
messages = problem["messages"]
assert "truth" not in problem and problem["prompt"] == messages[-1]["content"]
def ask():
    body = {"model": "gpt-4o", "messages": messages, "temperature": 0.2, "top_p": 0.5, "max_tokens": 24}
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions", json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]})
    with urllib.request.urlopen(request) as answer:
        message = json.load(answer)["choices"][0]["message"]
    messages.append({"role": "assistant", "content": message["content"] or ""})
ask()
messages.append({"role": "user", "content": "And now?"})
ask()
print("the answer is", len(messages))
"""
OPENAI = """
import json, sys
from openai import OpenAI
problem, client = json.load(sys.stdin), OpenAI(max_retries=0)
stream = client.chat.completions.create(
    model="any", messages=problem["messages"], max_tokens=16, stream=True, n=2, logprobs=True)
print(sum(len(c.choices) for c in stream))
"""
RECIPE = """
name = "wild"
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
steps = {steps}
prompts = 2
samples = 4
max_new_tokens = 60
temperature = 0.9
mix = {{ math = 1.0 }}
rewards = [{{ function = "{folder}/odd.py:odd" }}]
optim = {{ lr = 1e-3 }}
[stages.rl1.harness]
command = ["{python}", "{program}"]
{more}
"""
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ODD = """
def odd(prompts, completions, completion_ids, **columns):
    return [float(sum(ids) % 2) for ids in completion_ids]
"""


def make_folder(made: Path, *, letters: bool) -> Path:
    """A model of random weights. `letters`: it writes a, b, c and d in odd pieces; else any bytes,
    and one token in seven ends a turn.
    """
    template = ChatTemplate(CHATML)
    words = [template.render([Message("user", f"What is {n} plus 7? And now?")]) for n in range(30)]
    draw = random.Random(0)
    words += ["".join(draw.choices("abcd", k=400)) for _ in range(30 * letters)]  # pieces of a few letters
    tokenizer = train_bpe(words, 420 if letters else 300)
    model = random_model(tokenizer.vocab_size, scale=0.1, max_positions=1024, tie_embeddings=False)
    ends = [*tokenizer.eos_ids, *range(3, tokenizer.vocab_size, 7)]
    if letters:
        ends = list(tokenizer.eos_ids)
        plain = [bool(t) and set(t) <= set(b"abcd") for t in tokenizer.token_bytes]
        with torch.no_grad():
            for token, kept in enumerate(plain):
                model.head.weight[token] *= 200.0 if kept or token == ends[0] else 0.0
    save_model(model, made / "model")
    ChatFormat(tokenizer, template).save(made / "model")
    (made / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    (made / "odd.py").write_text(ODD)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("harness"), letters=False)


def recipe(folder: Path, program: str, more: str = "", steps: int = 2) -> Any:
    script = folder / f"agent-{abs(hash(program))}.py"
    script.write_text(program)
    text = RECIPE.format(folder=folder, python=sys.executable, program=script, more=more, steps=steps)
    path = folder / "wild.toml"
    path.write_text(text)
    return load_recipe(path)


def run(folder: Path, out: Path, program: str, more: str = "", steps: int = 2) -> list[tuple[dict, list[Rollout]]]:
    before = torch.get_num_threads()
    try:
        RecipeRun(recipe(folder, program, more, steps), out).run()
    finally:
        torch.set_num_threads(before)
    rows = [json.loads(line) for line in (out / "wild" / "metrics.jsonl").read_text().splitlines()]
    store = RolloutStore(out / "wild" / "rollouts" / "rl1")
    return [(row, store.read(row["step"]) or []) for row in rows if row["stage"] == "rl1"]


def columns(steps: list[tuple[dict, list[Rollout]]]) -> list[Any]:
    return [[(r.group, r.all_segments, r.reward, r.stop_reason) for r in each] for _, each in steps]


def test_a_script_is_trained_on_token_for_token(folder: Path, tmp_path: Path) -> None:
    first = run(folder, tmp_path / "a", PLAIN, "concurrency = 1")
    for row, rollouts in first:
        assert row["mismatch_max"] < 1e-4 and row["mismatch_mean"] < 1e-5
        learnt = [r for r in rollouts if len({o.reward for o in rollouts if o.group == r.group}) > 1]
        assert row["trained_tokens"] == sum(r.num_sampled for r in learnt) > 0
        assert row["harness"]["calls"] == 16 and row["harness"]["crashed"] == row["harness"]["timed_out"] == 0
        assert row["harness"]["segments"] == sum(len(r.all_segments) for r in rollouts)
        assert "untrainable" not in row["harness"]
        assert {v for r in rollouts for s in r.all_segments for v in s.weight_versions} == {row["step"]}
        assert len({tuple(r.completion_ids) for r in rollouts if r.group == rollouts[0].group}) > 1
    start, end = (
        load_file(f / "model.safetensors") for f in (folder / "model", tmp_path / "a/wild/checkpoints/rl1/final")
    )
    assert any(not torch.equal(start[name], end[name]) for name in start)
    # The same seed gives the same rollouts.
    assert columns(run(folder, tmp_path / "b", PLAIN, "concurrency = 1")) == columns(first)


def test_text_that_comes_back_continues_the_sampled_tokens(tmp_path: Path) -> None:
    """The model does not spell as the tokenizer does, and yet most samples are one segment."""
    ((row, rollouts),) = run(make_folder(tmp_path, letters=True), tmp_path / "runs", PLAIN, 'answer = "stdout"', 1)
    assert row["mismatch_max"] < 1e-4 and row["mismatch_mean"] < 1e-5 and row["trained_tokens"] > 0
    whole = [r for r in rollouts if len(r.all_segments) == 1]
    assert len(whole) == 8 and row["harness"]["segments"] == row["harness"]["spliced"] == 8
    for r in whole:
        assert "And now?" in r.text and 0 in r.sampled_mask and r.sampled_mask[-1] == 1


def test_the_openai_client_streams_several_answers(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    ((row, rollouts),) = run(folder, tmp_path, OPENAI, 'answer = "stdout"', steps=1)
    assert row["mismatch_max"] < 1e-4 and row["trained_tokens"] > 0
    assert all(len(r.all_segments) == 2 for r in rollouts)  # both answers
    assert row["harness"]["segments"] == 16


CRASH = "import sys; sys.exit('no such thing')"
SLOW = PLAIN + "\nimport subprocess, time\nsubprocess.Popen(['sleep', '987654'])\ntime.sleep(60)\n"


def processes(words: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if words in (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return [pid for pid in found if pid != os.getpid()]


def test_a_crash_is_no_reward_unless_the_recipe_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InfraError, match=r"8 of 8 verdicts failed .* ended with status 1: no such thing"):
        run(folder, tmp_path / "a", CRASH, steps=1)
    ((row, rollouts),) = run(folder, tmp_path / "b", CRASH, 'on_crash = "wrong"', steps=1)
    assert row["outcomes"] == {"no_answer": 8} and row["harness"]["crashed"] == 8 and row["trained_tokens"] == 0
    assert all(r.reward == 0.0 and not r.completion_ids for r in rollouts)


def test_limits_end_a_program_unfinished_and_leave_nothing(folder: Path, tmp_path: Path) -> None:
    ((row, rollouts),) = run(folder, tmp_path / "a", PLAIN, "max_calls = 1", steps=1)
    assert row["outcomes"] == {"unfinished": 8} and {r.stop_reason for r in rollouts} == {"turns"}
    ((row, rollouts),) = run(folder, tmp_path / "b", SLOW, "timeout_s = 3.0\nconcurrency = 8", steps=1)
    assert {r.stop_reason for r in rollouts} == {"time"} and row["harness"]["timed_out"] == 8
    deadline = time.monotonic() + 5
    while (left := processes("sleep 987654")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def test_what_does_not_go_together_is_said_before_training(folder: Path, tmp_path: Path) -> None:
    made = recipe(folder, CRASH)
    for command, words in (
        (["no-such-program"], "no program 'no-such-program'"), ([sys.executable, "none.py"], "no file at none.py"),
    ):  # fmt: skip
        made.stages["rl1"].harness.command = command
        with pytest.raises(ConfigError, match=words):
            RecipeRun(made, tmp_path).run()
    with pytest.raises(ConfigError, match="environment is set, and with harness the program decides"):
        load_recipe(folder / "wild.toml", {"stages.rl1.environment": "calculator"})
