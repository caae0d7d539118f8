"""`qwq eval` on a small model in process and through `qwq serve`: the same greedy answers; a run
that is started twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Command

from qwq.cli import run as cli
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.model.weights import save_model
from qwq.text.template import ChatFormat, ChatTemplate, default_template
from qwq.text.tokenizer import train_bpe

# Opens the thinking itself, as QwQ-32B's template does, and offers tools.
OPENING = """{% if tools %}<|im_start|>system
{{ tools | tojson }}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content.split('</think>')[-1] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
<think>
{% endif %}"""
TEMPLATES = {"opened": OPENING, "own": default_template().source}
QUESTIONS = [{"question": f"question {i}: what is {i} and {i + 1}?", "answer": f"#### {2 * i + 1}"} for i in range(4)]
FUNCTION = {
    "name": "a.b",
    "description": "d",
    "parameters": {"type": "dict", "properties": {"x": {"type": "integer", "description": "e"}}, "required": ["x"]},
}


@pytest.fixture(scope="module", params=list(TEMPLATES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("models") / f"little-{request.param}"
    words = [
        f"question {a}: what is {a} and {b}? so it is \\boxed{{{a + b}}}</think>" for a in range(30) for b in range(9)
    ]
    tokenizer = train_bpe(words, 400)
    config = preset("tiny", vocab_size=tokenizer.vocab_size, max_positions=512, eos_token_id=tokenizer.eos_ids[0])
    module = Transformer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(0, 0.12, generator=generator)
    save_model(module, path)
    ChatFormat(tokenizer, ChatTemplate(TEMPLATES[request.param])).save(path)
    return path


@contextlib.contextmanager
def served(model: Path) -> Iterator[str]:
    words = ("serve", model, "--port", "0", "--threads", "1", "--deterministic")
    process = Command(*words, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    url = next((m[1] for line in process.stderr if (m := re.search(r"ready on (http://[\d.:]+)/v1", line))), None)
    reader = threading.Thread(target=process.stderr.read, daemon=True)
    reader.start()
    try:
        assert url is not None
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
        reader.join()
        process.stderr.close()


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def records(out: Path, name: str) -> dict[str, tuple[Any, ...]]:
    rows = [json.loads(line) for line in (out / "samples" / f"{name}.jsonl").read_text().splitlines()]
    return {
        r["problem_id"]: (
            r["output"],
            r["stop_reason"],
            r["tokens"],
            r["thinking_tokens"],
            r["score"],
            r["verdict"]["outcome"],
        )
        for r in rows
    }


@pytest.mark.parametrize("budget", [(), ("--thinking-budget", "12")])
def test_in_process_and_served_give_the_same_greedy_answers(
    model: Path, tmp_path: Path, budget: tuple[str, ...]
) -> None:
    data = tmp_path / "data"
    write(data / "gsm8k/test.jsonl", QUESTIONS)
    calls = [
        {"id": f"irrelevance_{i}", "question": [[{"role": "user", "content": f"question {i}"}]], "function": [FUNCTION]}
        for i in range(2)
    ]
    write(data / "bfcl/BFCL_v4_irrelevance.json", calls)
    options = ["gsm8k", "bfcl", "--data", str(data), "--greedy", "--max-new-tokens", "48", *budget]
    cli(["eval", str(model), *options, "--out", str(tmp_path / "a"), "--threads", "1", "--deterministic"])
    with served(model) as url:
        cli(["eval", model.name, *options, "--out", str(tmp_path / "b"), "--endpoint", url, "--tool-format", "native"])
    for name in ("gsm8k", "bfcl"):
        ours = records(tmp_path / "a", name)
        assert ours == records(tmp_path / "b", name) and any(output for output, *_ in ours.values())
    first = (tmp_path / "a/samples/gsm8k.jsonl").read_bytes()
    cli(["eval", str(model), *options, "--out", str(tmp_path / "a"), "--threads", "1", "--deterministic"])
    assert (tmp_path / "a/samples/gsm8k.jsonl").read_bytes() == first


def test_a_prompt_longer_than_the_context_and_an_answer_cut_by_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data/gsm8k/test.jsonl", [QUESTIONS[0], {"question": "what is " * 600, "answer": "#### 1"}])
    assert (
        cli(
            [
                "eval",
                str(model),
                "gsm8k",
                "--data",
                str(tmp_path / "data"),
                "--out",
                str(tmp_path / "o"),
                "--threads",
                "1",
            ]
        )
        == 0
    )
    figures = json.loads((tmp_path / "o/results.json").read_text())["gsm8k"]
    rows = records(tmp_path / "o", "gsm8k")
    assert rows["gsm8k/test/2"][1:3] == ("context", 0) and figures["n"] == 2
    assert "32,768 new tokens are asked for, the context of 512 leaves" in capsys.readouterr().err


def test_a_family_with_tools_and_a_changed_model(model: Path, tmp_path: Path) -> None:
    from qwq.errors import ConfigError

    command = [
        "eval",
        str(model),
        "tools",
        "math",
        "--n",
        "2",
        "--max-new-tokens",
        "8",
        "--out",
        str(tmp_path / "o"),
        "--threads",
        "1",
    ]
    assert cli(command) == 0
    results = json.loads((tmp_path / "o/results.json").read_text())
    assert {n: r["n"] for n, r in results.items()} == {"tools": 2, "math": 2}
    with pytest.raises(ConfigError, match="tools in .* holds samples made with other settings .model was"):
        cli([*command, "--dtype", "bfloat16"])
    assert cli([*(o if o != str(tmp_path / "o") else str(tmp_path / "p") for o in command), "--dtype", "bfloat16"]) == 0
    with pytest.raises(ConfigError, match="--dtype is about a model run here"):
        cli(["eval", "m", "tools", "--endpoint", "http://127.0.0.1:1/v1", "--dtype", "bfloat16"])
    weights = next(model.glob("*.safetensors"))
    os.utime(weights, (1, 1))
    with pytest.raises(ConfigError, match="tools in .* holds samples made with other settings .model was"):
        cli(command)
