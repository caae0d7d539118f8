"""Options of other servers, and configuration files, as `qwq serve` reads them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from qwq.cli import foreign as cli_foreign
from qwq.cli import main, run
from qwq.cli.foreign import ABSENT, FLAGS, NOT_NEEDED, ONLY_AT, SAME, TAKES_NOTHING, own_options
from qwq.engine.options import EngineOptions, read_tokens
from qwq.errors import ConfigError
from qwq.serve.options import ServeOptions


def called_with(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `qwq serve` is called with: models, engine options, server options."""
    pytest.importorskip("fastapi")
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr("qwq.serve.command.serve", lambda *call, **more: calls.append(call) or 0)
    return calls


def read(*tokens: str) -> tuple[list[str], list[str]]:
    said: list[str] = []
    return own_options(tokens, said.append), said


def test_options_that_mean_ours_are_read_as_ours() -> None:
    assert read("-m", "x.gguf", "-c", "4096", "-t", "4", "-np", "2", "--alias", "q") == (
        [
            "--model",
            "x.gguf",
            "--max-model-len",
            "4096",
            "--threads",
            "4",
            "--max-num-seqs",
            "2",
            "--served-model-name",
            "q",
        ],
        [],
    )
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
        (["x", "--tensor-parallel-size", "2"], "one device"), (["x", "-ngl", "99"], "--device cuda"),
        (["x", "--lora-modules", "a=b"], "qwq export"), (["x", "--mmproj", "f"], "text only"),
        (["x", "--embedding"], "no embeddings"), (["x", "--rope-scaling", "{}"], "--yarn"), (["x", "-c"], "no value"),
        (["x", "--temp", "0"], "requests set the sampling"),
    ],
)  # fmt: skip
def test_what_is_not_here_ends_with_what_there_is(tokens: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(*tokens)


def test_no_option_of_ours_is_taken_for_anothers() -> None:
    options = ("model", "config", *(f.name for kind in (EngineOptions, ServeOptions) for f in fields(kind)))
    ours = {f"--{name.replace('_', '-')}" for name in options}
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
    seen = called_with(monkeypatch)
    file = tmp_path / "serve.toml"
    file.write_text(
        'model = "m"\nmax-model-len = "32K"\npage = false\ndeterministic = true\ndtype = "bf16"\nport = 1\n'
        'default-chat-template-kwargs = \'{"mood": "calm"}\'\n'
    )
    assert run(["serve", "--config", str(file), "--kv-tokens", "auto", "--host=h"]) == 0
    paths, engine, options = seen[-1]
    assert paths == ("m",)
    assert engine == EngineOptions(max_model_len=32768, dtype="bfloat16", deterministic=True)
    assert options == ServeOptions(page=False, host="h", port=1, default_chat_template_kwargs={"mood": "calm"})


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--port", "65536"], "--port 65536: give 0 to 65535"),
        (["--max-waiting", "-1"], "--max-waiting -1: give 0 or more"), (["--api-key", " "], "--api-key is empty"),
        (["--ssl-keyfile", "k"], "needs --ssl-certfile"), (["--max-num-seqs", "0"], "--max-num-seqs 0: give 1 or more"),
        (["--dtype", "int3"], "--dtype int3: give auto"), (["--device", "gpu"], "--device gpu"),
        (["--quantization", "int4"], "for GPUs"), (["--max-model-len", "3x"], "32k"),
        (["--default-chat-template-kwargs", "[]"], "give an object"),
    ],
)  # fmt: skip
def test_values_out_of_range(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "m", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert hint in line


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = called_with(monkeypatch)
    monkeypatch.setenv("QWQ_API_KEY", "a,b c,")
    assert run(["serve", "m"]) == 0 and run(["serve", "m", "--api-key", "z"]) == 0
    assert [options.api_key for _, _, options in seen] == [("a", "b c"), ("z",)]


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
    ],
)
def test_numbers_of_tokens(given: str, size: int | None) -> None:
    assert read_tokens(given) == size


@pytest.mark.parametrize("given", ["", "0", "-2", "k", "3.3", "1e4", "32kb"])
def test_what_is_no_number_of_tokens(given: str) -> None:
    with pytest.raises(ConfigError, match="32k"):
        read_tokens(given)


def test_notes_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    cli_foreign.own_options(["x", "--jinja"])
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("--jinja: not needed")


def test_several_names_behind_one_option_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = called_with(monkeypatch)
    assert run(["serve", "m", "--served-model-name", "a", "*"]) == 0
    assert run(["serve", "m", "--served-model-name", "a", "--served-model-name", "b"]) == 0
    assert [options.served_model_name for _, _, options in seen] == [("a", "*"), ("a", "b")]


@pytest.mark.parametrize(
    ("paths", "names", "models"),
    [
        (["m"], ("a", "*"), [("m", ("a", "*"))]), (["dir/m"], ("*",), [("m", ("m", "*"))]),
        (["dir/m.gguf"], (), [("m.gguf", ("m",))]),
        (["dir/a", "b=x/y.gguf", "org/c"], (), [("a", ("a",)), ("y.gguf", ("b",)), ("c", ("c",))]),
    ],
)  # fmt: skip
def test_models_and_their_names(
    paths: list[str], names: tuple[str, ...], models: list[tuple[str, tuple[str, ...]]]
) -> None:
    pytest.importorskip("fastapi")
    from qwq.serve.command import served_models

    served = served_models(paths, names, lambda path: Path(path).name)
    assert [(m.model, m.names) for m in served] == models


def test_a_folder_with_an_equals_sign(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from qwq.serve.command import served_models

    (tmp_path / "odd=name").mkdir()
    (served,) = served_models([str(tmp_path / "odd=name")], (), str)
    assert served.names == ("odd=name",)


@pytest.mark.parametrize(
    ("paths", "names", "hint"),
    [
        (["a/m", "b/m"], (), "called m: write NAME=MODEL"),
        (["a", "b"], ("c",), "is for one model"),
        (["a", ""], (), "is empty"),
    ],
)
def test_models_that_cannot_be_told_apart(paths: list[str], names: tuple[str, ...], hint: str) -> None:
    pytest.importorskip("fastapi")
    from qwq.serve.command import served_models

    with pytest.raises(ConfigError, match=hint):
        served_models(paths, names, str)
