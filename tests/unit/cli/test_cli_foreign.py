"""Options of other servers, and configuration files, as `qwq serve` reads them."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from qwq.cli import foreign as cli_foreign
from qwq.cli import run
from qwq.cli.engine import _tokens, serve
from qwq.cli.foreign import ABSENT, FLAGS, NOT_NEEDED, ONLY_AT, SAME, TAKES_NOTHING, own_options
from qwq.errors import ConfigError


def read(*tokens: str) -> tuple[list[str], list[str]]:
    said: list[str] = []
    return own_options(tokens, said.append), said


def test_options_that_mean_ours_are_read_as_ours() -> None:
    assert read("-m", "x.gguf", "-c", "4096", "-t", "4", "-np", "2", "--alias", "q") == (
        ["--model", "x.gguf", "--max-model-len", "4096", "--threads", "4", "--max-num-seqs", "2", "--served-model-name", "q"], [],
    )  # fmt: skip
    assert read("x", "--ctx_size=8k", "--no-webui", "--max_model_len", "3", "--port=1") == (
        ["x", "--max-model-len", "8k", "--no-page", "--max_model_len", "3", "--port=1"],
        [],
    )


def test_what_is_not_needed_is_said_and_left_out() -> None:
    rest, said = read(
        "x",
        "--reasoning-parser",
        "deepseek_r1",
        "--enable-auto-tool-choice",
        "--tool-call-parser=hermes",
        "--jinja",
        "--gpu-memory-utilization",
        "0.9",
        "--port",
        "1",
    )
    assert (
        rest == ["x", "--port", "1"]
        and len(said) == 5
        and all("\n" not in line and "not needed" in line for line in said)
    )
    assert read("x", "-fa", "on", "--trust-remote-code", "--port", "1")[0] == ["x", "--port", "1"]
    assert read("x", "--tensor-parallel-size", "1", "-tp=1", "-ngl", "0")[0] == ["x"]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["x", "--tensor-parallel-size", "2"], "one device"), (["x", "-ngl", "99"], "--device cuda"), (["x", "--lora-modules", "a=b"], "qwq export"), (["x", "--mmproj", "f"], "text only"),
        (["x", "--embedding"], "no embeddings"), (["x", "--rope-scaling", "{}"], "--yarn"), (["x", "-c"], "no value"), (["x", "--temp", "0"], "in requests"),
    ],
)  # fmt: skip
def test_what_is_not_here_ends_with_what_there_is(tokens: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(*tokens)


def test_no_option_of_ours_is_taken_for_anothers() -> None:
    ours = {f"--{name.replace('_', '-')}" for name in inspect.signature(serve).parameters}
    foreign = [*SAME, *FLAGS, *NOT_NEEDED, *ONLY_AT, *ABSENT]
    assert not ours & set(foreign) and len(set(foreign)) == len(foreign)
    assert (
        set(SAME.values()) <= ours
        and NOT_NEEDED.keys() >= TAKES_NOTHING
        and {f.replace("--no-", "--") for f in FLAGS.values()} <= ours
    )


def test_a_file_of_options(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(
        'model = "m"\nmax_model_len = "8k"\napi-key = ["a", "b"]\npage = false\nport = 8001\ndeterministic = true\n'
    )
    assert read("--config", str(file)) == (
        [
            "m",
            "--max-model-len=8k",
            "--api-key=a",
            "--api-key=b",
            "--page=false",
            "--port=8001",
            "--deterministic=true",
        ],
        [],
    )
    assert read("own", "--port", "9", f"--config={file}", "--no-page")[0] == [
        "--max-model-len=8k",
        "--api-key=a",
        "--api-key=b",
        "--deterministic=true",
        "own",
        "--port",
        "9",
        "--no-page",
    ]
    for text, words in (("a: 1", "YAML"), ("[table]\nx = 1", "is a table")):
        (tmp_path / "serve.yaml").write_text(text)
        with pytest.raises(ConfigError, match=words):
            read("--config", str(tmp_path / "serve.yaml"))
    with pytest.raises(ConfigError, match="No such file"):
        read("--config", str(tmp_path / "none.toml"))


def test_a_file_of_options_reaches_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    seen = {}
    monkeypatch.setattr(
        "qwq.serve.command.serve",
        lambda models, options, serving, **more: (
            seen.update(models=models, options=options, serving=serving, **more) or 0
        ),
    )
    file = tmp_path / "serve.toml"
    file.write_text(
        'model = "m"\nmax-model-len = "32K"\npage = false\ndeterministic = true\ndtype = "bf16"\nport = 1\n'
    )
    assert run(["serve", "--config", str(file), "--kv-tokens", "auto", "--host=h"]) == 0
    assert (
        seen["models"][0].model,
        seen["options"].max_model_len,
        seen["options"].dtype,
        seen["options"].deterministic,
    ) == ("m", 32768, "bfloat16", True)
    assert not seen["serving"].page and (seen["host"], seen["port"], seen["options"].kv_tokens) == ("h", 1, None)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("8192", 8192),
        ("32k", 32000),
        ("32K", 32768),
        ("1.5k", 1500),
        ("1M", 1 << 20),
        ("131,072", 131072),
        ("auto", None),
        ("-1", None),
        (None, None),
    ],
)
def test_numbers_of_tokens(given: str | None, size: int | None) -> None:
    assert _tokens("--x", given) == size


@pytest.mark.parametrize("given", ["", "0", "-2", "k", "3.3", "1e4", "32kb"])
def test_what_is_no_number_of_tokens(given: str) -> None:
    with pytest.raises(ConfigError, match="32k"):
        _tokens("--x", given)


def test_notes_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    cli_foreign.own_options(["x", "--jinja"])
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("--jinja: not needed")


def test_several_names_behind_one_option_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    seen: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        "qwq.serve.command.serve", lambda models, options, serving, **more: seen.append(models[0].names) or 0
    )
    for words in (
        ["m", "--served-model-name", "a", "*"],
        ["m", "--served-model-name", "a", "--served-model-name", "b"],
        ["dir/m", "--served-model-name", "*"],
        ["dir/m.gguf"],
    ):
        assert run(["serve", *words]) == 0
    assert seen == [("a", "*"), ("a", "b"), ("m", "*"), ("m",)]


def test_several_models_and_their_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    seen: list[list[tuple[str, tuple[str, ...]]]] = []
    monkeypatch.setattr(
        "qwq.serve.command.serve",
        lambda models, options, serving, **more: seen.append([(m.model, m.names) for m in models]) or 0,
    )
    assert run(["serve", "dir/a", "b=x/y.gguf", "org/c", "--port", "1"]) == 0
    assert seen[-1] == [("dir/a", ("a",)), ("x/y.gguf", ("b",)), ("org/c", ("c",))]
    (tmp_path / "odd=name").mkdir()
    (tmp_path / "s.toml").write_text(f'model = ["q=x.gguf", "{tmp_path / "odd=name"}"]\nport = 3\n')
    assert run(["serve", "--config", str(tmp_path / "s.toml")]) == 0
    assert seen[-1] == [("x.gguf", ("q",)), (str(tmp_path / "odd=name"), ("odd=name",))]
    for words, hint in (
        (["a/m", "b/m"], "NAME=MODEL"),
        (["a", "b", "--served-model-name", "c"], "is for one model"),
        (["a", ""], "is empty"),
    ):
        with pytest.raises(ConfigError, match=hint):
            run(["serve", *words])
