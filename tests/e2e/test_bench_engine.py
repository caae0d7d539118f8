"""`qwq bench engine`: it ends, and says what is wrong with its arguments in its own options'
names.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from little import make_model

from qwq.engine.bench import bench_engine, check
from qwq.engine.load import context_length, load_engine
from qwq.engine.options import EngineOptions
from qwq.errors import CapacityError, ConfigError, ModelError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("bench") / "little"))


@pytest.mark.parametrize(
    ("prompt", "new", "requests", "words"),
    [
        (8, 4, (0,), "--requests 0: give 1 or more"), (8, 4, (4, -1), "--requests -1"),
        (0, 4, (1,), "--prompt-tokens 0"), (8, 1, (1,), "--new-tokens 1: give 2 or more"),
        (500, 64, (1,), "564 tokens, this model reads 512"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_said(
    folder: str, prompt: int, new: int, requests: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check(folder, prompt, new, requests)


def test_what_does_not_fit_names_options_of_this_command(folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CapacityError, match=r"lower --requests \(now 9000000\)") as error:
        bench_engine(folder, EngineOptions(), prompt_tokens=400, new_tokens=64, requests=(1, 9_000_000), seed=0)
    assert "--kv-tokens" not in str(error.value)


def test_a_line_for_each_number_of_requests(
    folder: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("qwq.engine.bench.read_bandwidth", lambda device: 1e9)
    bench_engine(folder, EngineOptions(), prompt_tokens=500, new_tokens=12, requests=(1, 2), seed=0)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(li["requests"], li["prompt_tokens"], li["new_tokens"]) for li in lines] == [
        (1, 500, 12),
        (2, 500, 12),
    ] and lines[0]["tokens_per_s"] > 0


def test_a_models_context_is_known_without_its_weights(folder: str, tmp_path: Path) -> None:
    assert context_length(folder) == 512
    with pytest.raises(ModelError, match="no file"):
        context_length(str(tmp_path / "none.gguf"))


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0},
        {"max_num_seqs": 0},
        {"max_num_seqs": -1},
        {"max_num_batched_tokens": 0},
        {"kv_tokens": 0},
        {"draft_tokens": 0},
        {"device": "wibble"},
        {"dtype": "int"},
    ],
)
def test_options_that_no_model_can_be_run_with(folder: str, options: dict) -> None:
    with pytest.raises(ConfigError, match="give"):
        load_engine(folder, EngineOptions(**options))
