"""lm-eval, unmodified: its command on a task of three questions, over text completions, chats, and
a remote tokenizer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

QUESTIONS = [
    {"q": "The capital of France is", "choices": ["Paris", "London"], "a": 0},
    {"q": "2 + 2 =", "choices": ["5", "4"], "a": 1},
    {"q": "The sky is", "choices": ["blue", "granite"], "a": 0},
]
HEAD = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n"
CHOICE = HEAD + (
    "task: choice\noutput_type: multiple_choice\ndoc_to_text: '{{{{q}}}}'\ndoc_to_choice: '{{{{choices}}}}'\n"
    "doc_to_target: a\n"
    "metric_list:\n  - metric: acc\n  - metric: acc_norm\n"
)
WRITE = HEAD + (
    "task: write\noutput_type: generate_until\ndoc_to_text: 'hello {{{{q}}}}'\ndoc_to_target: 'Hello, wörld!'\n"
    "generation_kwargs:\n  until: ['ZZ']\n  max_gen_toks: 60\n  do_sample: false\nmetric_list:\n"
    "  - metric: exact_match\n"
)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    for name, text in (("choice", CHOICE), ("write", WRITE)):
        (tmp_path / f"{name}.yaml").write_text(text.format(data=data))
    return tmp_path


def run(tasks: Path, task: str, model: str, arguments: str, *more: str) -> dict[str, float]:
    command = [
        sys.executable, "-m", "lm_eval", "--model", model, "--model_args", arguments, "--tasks", task, "--include_path",
        str(tasks), "--output_path", str(tasks / "out"), *more,
    ]  # fmt: skip
    environment = os.environ | {"OPENAI_API_KEY": "x", "HF_HOME": str(tasks / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (tasks / "out").rglob("results*.json")
    return json.loads(file.read_text())["results"][task]


@pytest.mark.parametrize("task", ["choice", "write"])
def test_completions_with_a_remote_tokenizer(base_url: str, tasks: Path, task: str) -> None:
    arguments = (
        f"model=scripted,base_url={base_url}/completions,tokenizer_backend=remote,num_concurrent=1,max_retries=1"
    )
    scores = run(tasks, task, "local-completions", arguments)
    if task == "choice":
        assert 0 <= scores["acc,none"] <= 1 and 0 <= scores["acc_norm,none"] <= 1


def test_completions_as_text(base_url: str, tasks: Path) -> None:
    arguments = f"model=scripted,base_url={base_url}/completions,tokenizer_backend=None,num_concurrent=1,max_retries=1"
    run(tasks, "write", "local-completions", arguments)


def test_chats(base_url: str, tasks: Path) -> None:
    arguments = f"model=scripted,base_url={base_url}/chat/completions,num_concurrent=1,max_retries=1"
    scores = run(tasks, "write", "local-chat-completions", arguments, "--apply_chat_template")
    assert scores["exact_match,none"] == 1.0
