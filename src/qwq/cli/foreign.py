"""Options of other servers (vLLM's, llama.cpp's, SGLang's) that people have in their scripts, and
configuration files.

An option that means one of `qwq serve` is read as it. One that is not needed here is said to be so,
and the server starts; one that asks for what is not here ends the command with what there is
instead.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

from qwq.errors import ConfigError


def _each(groups: dict[str, str]) -> dict[str, str]:
    """{words: options} as {option: words}."""
    return {name: words for words, names in groups.items() for name in names.split()}


# Options under another name here.
SAME = _each(
    {
        "--model": "-m --model-path",
        "--served-model-name": "-a --alias",
        "--max-model-len": "-c --ctx-size --context-length --max-seq-len",
        "--threads": "-t",
        "--max-num-seqs": "-np --parallel --max-running-requests",
        "--max-num-batched-tokens": "-b --batch-size --chunked-prefill-size",
        "--draft-model": "-md --model-draft --speculative-model",
        "--draft-tokens": "--draft-max --num-speculative-tokens",
        "--chat-template": "--chat-template-file",
        "--default-chat-template-kwargs": "--chat-template-kwargs",
        "--ssl-keyfile": "--ssl-key-file",
        "--ssl-certfile": "--ssl-cert-file",
    }
)
FLAGS = {"--no-webui": "--no-page", "--no-ui": "--no-page"}
# Options that change nothing here, and what is said of them; with a value behind them unless
# TAKES_NOTHING has them.
NOT_NEEDED = _each(
    {
        "not needed: thinking and calls are read without a flag": (
            "--reasoning-parser --enable-reasoning --tool-call-parser --enable-auto-tool-choice --reasoning-format"
        ),
        "not needed: the model's own chat template is always used": "--jinja",
        "not needed: no code of a model is ever run": "--trust-remote-code",
        "not needed: requests are logged only with --access-log": "--disable-log-requests --no-enable-log-requests",
        "not needed: counts are at /metrics only": "--disable-log-stats",
        "not needed: /metrics is always there": "--metrics --enable-metrics",
        "not needed: CUDA graphs are used where they help": "--enforce-eager",
        "not needed: prefill is always chunked": "--enable-chunked-prefill",
        "not needed: the engine chooses its attention": "-fa --flash-attn --attention-backend",
        "not needed: requests are always batched": "--cont-batching -cb",
        "not needed: the file format decides how weights are read": "--no-mmap",
        "not needed: weights are not locked into memory": "--mlock",
        "not needed: safetensors and GGUF are told apart by their files": "--load-format",
        "not needed: structured output is always by llguidance": (
            "--guided-decoding-backend --structured-outputs-config --grammar-backend"
        ),
        "not needed: up to 20 log-probabilities may be asked for": "--max-logprobs",
        "not needed: /tokenizer_info is always there": "--enable-tokenizer-info-endpoint",
        "not needed: a preempted sequence is recomputed": "--swap-space",
        "not needed: /slots is always there": "--slots",
        "not needed: /props is always there": "--props",
        "not needed: this server runs on one device": "--disable-custom-all-reduce",
        "not needed: --kv-tokens and --max-num-seqs say what is kept in memory": (
            "--gpu-memory-utilization --mem-fraction-static"
        ),
        "not needed: the cache chooses its block size": "--block-size",
        "not needed: the KV cache has the type of --dtype (16 bits with a GGUF file)": "--kv-cache-dtype",
        "not needed: the server logs warnings only": "--uvicorn-log-level",
        "not needed: the model's own sampling defaults are always read": "--generation-config",
        "not needed: prefixes are always kept": "--cache-reuse",
        "the environment's HF_HOME says where models from the hub are kept": "--download-dir",
        "not needed: --max-num-batched-tokens is the batch": "-ub --ubatch-size",
    }
)
TAKES_NOTHING = frozenset(
    (
        "--enable-reasoning --enable-auto-tool-choice --jinja --trust-remote-code --disable-log-requests "
        "--no-enable-log-requests --disable-log-stats --metrics --enable-metrics --enforce-eager "
        "--enable-chunked-prefill --cont-batching -cb --no-mmap --mlock --enable-tokenizer-info-endpoint --slots "
        "--props --disable-custom-all-reduce"
    ).split()
)
# Options that are true at these values, and absent at any other.
ONLY_AT = {
    name: (values, words)
    for values, words, names in (
        (
            ("1",),
            "this server runs on one device: --device says which",
            "--tensor-parallel-size -tp --tp-size --tp --pipeline-parallel-size -pp --data-parallel-size -dp",
        ),
        (
            ("0",),
            "a GGUF file is computed on the CPU; a model folder with --device cuda is computed on a GPU",
            "-ngl --n-gpu-layers --gpu-layers",
        ),
        (("0",), "weights are not shared between GPU and memory: a GGUF file runs in memory alone", "--cpu-offload-gb"),
        (("auto", "hf"), "there is one tokenizer mode", "--tokenizer-mode"),
        (("auto", "generate"), "this server generates text", "--task --runner"),
    )
    for name in names.split()
}
# Options for what is not here, and what there is instead.
ABSENT = _each(
    {
        "one adapter is served by merging it: `qwq export BASE DIR --adapter ADAPTER`, then `qwq serve DIR`": (
            "--lora-modules --enable-lora --lora"
        ),
        "the tokenizer is the one in the model's folder or file": "--tokenizer",
        "this server reads text only": "--mmproj --limit-mm-per-prompt",
        "this server makes no embeddings": "--embedding --embeddings --is-embedding",
        "this server makes no scores of texts": "--reranking",
        "--yarn stretches the context 4 times": "--rope-scaling",
        "the model's config.json is read as it is": "--hf-overrides",
        "--draft-model and --draft-tokens, or --speculate, turn on speculative decoding": "--speculative-config",
        "requests set the sampling; defaults are the model's generation_config.json": (
            "--override-generation-config --temp --top-p --top-k"
        ),
        "requests set the length of answers (max_tokens)": "--n-predict -n",
        "give the hub's name instead of the model": "--hf-repo -hf -hfr",
    }
)


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def own_options(tokens: Sequence[str], note: Callable[[str], None] = _note) -> list[str]:
    """`qwq serve`'s arguments with other servers' options read, `--config FILE` put in. ConfigError
    where one asks for what is not here.
    """
    out: list[str] = []
    waiting = list(tokens)
    config: list[str] = []
    while waiting:
        token = waiting.pop(0)
        name, equals, value = token.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
        if name == "--config":
            config = read_config(Path(value if equals else _value(name, waiting)))
        elif name in FLAGS:
            out.append(FLAGS[name])
        elif name in SAME:
            out += [SAME[name], value if equals else _value(name, waiting)]
        elif name in NOT_NEEDED or name in ONLY_AT or name in ABSENT:
            note(_without_effect(name, value if equals else None, waiting))
        else:
            out.append(token)
    given_names = {t.partition("=")[0].replace("_", "-") for t in out if t.startswith("--")}
    # The file's first: an option with several values would take its models for some of them.
    return (
        _besides(config, given_names, has_model="--model" in given_names or (bool(out) and not out[0].startswith("-")))
        + out
    )


def _without_effect(name: str, value: str | None, waiting: list[str]) -> str:
    """What is said of an option that changes nothing here. ConfigError where it asks for
    something.
    """
    if name in ABSENT:
        raise ConfigError(f"{name} is not an option here: {ABSENT[name]}")
    if name in ONLY_AT:
        values, words = ONLY_AT[name]
        value = _value(name, waiting) if value is None else value
        if value not in values:
            raise ConfigError(f"{name} {value}: {words}")
        return f"{name} {value}: not needed: {words}"
    if name not in TAKES_NOTHING and value is None and waiting and not waiting[0].startswith("--"):
        waiting.pop(0)
    return f"{name}: {NOT_NEEDED[name]}"


def _value(name: str, waiting: list[str]) -> str:
    if not waiting or waiting[0].startswith("--"):
        raise ConfigError(f"{name} has no value: write {name} VALUE")
    return waiting.pop(0)


def read_config(path: Path) -> list[str]:
    """Options from a TOML file: a key for each, named as on the command line, with - or _."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        hint = "; YAML is not read here" if path.suffix in (".yaml", ".yml") else ""
        raise ConfigError(
            f"--config {path}: not TOML ({error}){hint}: write lines such as max-model-len = 8192"
        ) from None
    out: list[str] = []
    for key, value in data.items():
        name = f"--{key.replace('_', '-')}"
        if isinstance(value, dict):
            raise ConfigError(f"--config {path}: {key} is a table, and options are top-level keys: write {key} = VALUE")
        if key == "model":
            out += [str(one) for one in value] if isinstance(value, list) else [str(value)]
            continue
        for one in value if isinstance(value, list) else [value]:
            out.append(f"{name}={json.dumps(one) if isinstance(one, bool) else one}")
    return out


def _besides(config: list[str], given: set[str], *, has_model: bool) -> list[str]:
    """Options of a file, without those that the command line gives."""
    taken = given | {n.replace("--no-", "--", 1) for n in given}
    return [t for t in config if t.partition("=")[0] not in taken and (t.startswith("--") or not has_model)]
