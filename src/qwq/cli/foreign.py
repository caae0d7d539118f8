"""Options of other servers (vLLM's, llama.cpp's, SGLang's) that people have in their scripts, and configuration files.

An option that means one of `qwq serve` is read as it. One that is not needed here is said to be so, and the server starts; one that asks
for what is not here ends the command with what there is instead.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

from qwq.errors import ConfigError

SAME = {
    "-m": "--model", "-a": "--served-model-name", "--alias": "--served-model-name", "-c": "--max-model-len", "--ctx-size": "--max-model-len",
    "--context-length": "--max-model-len", "--max-seq-len": "--max-model-len", "-t": "--threads", "-np": "--max-num-seqs", "--parallel": "--max-num-seqs",
    "--max-running-requests": "--max-num-seqs", "-b": "--max-num-batched-tokens", "--batch-size": "--max-num-batched-tokens",
    "--chunked-prefill-size": "--max-num-batched-tokens", "--model-path": "--model", "-md": "--draft-model", "--model-draft": "--draft-model",
    "--speculative-model": "--draft-model", "--draft-max": "--draft-tokens", "--num-speculative-tokens": "--draft-tokens", "--chat-template-file": "--chat-template",
    "--chat-template-kwargs": "--default-chat-template-kwargs", "--ssl-key-file": "--ssl-keyfile", "--ssl-cert-file": "--ssl-certfile",
}  # fmt: skip
FLAGS = {"--no-webui": "--no-page", "--no-ui": "--no-page"}
PARSERS = "not needed: thinking and calls are read without a flag"
# Words for each option that changes nothing here; with a value behind it where the second list has it.
NOT_NEEDED = {
    "--reasoning-parser": PARSERS, "--enable-reasoning": PARSERS, "--tool-call-parser": PARSERS, "--enable-auto-tool-choice": PARSERS, "--reasoning-format": PARSERS,
    "--jinja": "not needed: the model's own chat template is always used", "--trust-remote-code": "not needed: no code of a model is ever run",
    "--disable-log-requests": "not needed: requests are logged with --access-log alone", "--no-enable-log-requests": "not needed: requests are logged with --access-log alone",
    "--disable-log-stats": "not needed: counts are given at /metrics alone", "--metrics": "not needed: /metrics is always there", "--enable-metrics": "not needed: /metrics is always there",
    "--enforce-eager": "not needed: it concerns CUDA graphs, which are an inner matter here", "--enable-chunked-prefill": "not needed: prompts are always read in parts",
    "-fa": "not needed: the engine chooses its attention", "--flash-attn": "not needed: the engine chooses its attention", "--attention-backend": "not needed: the engine chooses its attention",
    "--cont-batching": "not needed: requests are always batched", "-cb": "not needed: requests are always batched", "--no-mmap": "not needed: weights are read as the format wants it",
    "--mlock": "not needed: weights are not locked into memory", "--load-format": "not needed: safetensors and GGUF are told apart by their files",
    "--guided-decoding-backend": "not needed: forms are always held by llguidance", "--structured-outputs-config": "not needed: forms are always held by llguidance",
    "--grammar-backend": "not needed: forms are always held by llguidance", "--max-logprobs": "not needed: up to 20 log-probabilities may be asked for",
    "--enable-tokenizer-info-endpoint": "not needed: /tokenizer_info is always there", "--swap-space": "not needed: a request that has lost its place is computed again",
    "--slots": "not needed: /slots is always there", "--props": "not needed: /props is always there",
    "--disable-custom-all-reduce": "not needed: this server runs on one device", "--gpu-memory-utilization": "not needed: --kv-tokens and --max-num-seqs say what is kept in memory",
    "--mem-fraction-static": "not needed: --kv-tokens and --max-num-seqs say what is kept in memory", "--block-size": "not needed: the cache decides on its blocks",
    "--kv-cache-dtype": "not needed: keys and values have the type of --dtype (16 bits with a GGUF file)", "--uvicorn-log-level": "not needed: the server logs warnings alone",
    "--generation-config": "not needed: the model's own sampling defaults are always read", "--cache-reuse": "not needed: prefixes are always kept",
    "--download-dir": "the environment's HF_HOME says where models from the hub are kept", "-ub": "not needed: --max-num-batched-tokens is the batch", "--ubatch-size": "not needed: --max-num-batched-tokens is the batch",
}  # fmt: skip
TAKES_NOTHING = frozenset({
    "--enable-reasoning", "--enable-auto-tool-choice", "--jinja", "--trust-remote-code", "--disable-log-requests", "--no-enable-log-requests", "--disable-log-stats", "--metrics",
    "--enable-metrics", "--enforce-eager", "--enable-chunked-prefill", "--cont-batching", "-cb", "--no-mmap", "--mlock", "--enable-tokenizer-info-endpoint",
    "--disable-custom-all-reduce", "--slots", "--props",
})  # fmt: skip
# True at these values, and absent at any other.
ONE_DEVICE = "this server runs on one device: --device says which"
ONLY_AT = {
    "--tensor-parallel-size": (("1",), ONE_DEVICE), "-tp": (("1",), ONE_DEVICE), "--tp-size": (("1",), ONE_DEVICE), "--tp": (("1",), ONE_DEVICE),
    "--pipeline-parallel-size": (("1",), ONE_DEVICE), "-pp": (("1",), ONE_DEVICE), "--data-parallel-size": (("1",), ONE_DEVICE), "-dp": (("1",), ONE_DEVICE),
    "-ngl": (("0",), "a GGUF file is computed on the CPU; a model folder with --device cuda is computed on a GPU"),
    "--n-gpu-layers": (("0",), "a GGUF file is computed on the CPU; a model folder with --device cuda is computed on a GPU"),
    "--gpu-layers": (("0",), "a GGUF file is computed on the CPU; a model folder with --device cuda is computed on a GPU"),
    "--cpu-offload-gb": (("0",), "weights are not shared between GPU and memory: a GGUF file runs in memory alone"),
    "--tokenizer-mode": (("auto", "hf"), "there is one tokenizer mode"), "--task": (("auto", "generate"), "this server generates text"),
    "--runner": (("auto", "generate"), "this server generates text"),
}  # fmt: skip
ABSENT = {
    "--lora-modules": "one adapter is served by merging it: `qwq export BASE DIR --adapter ADAPTER`, then `qwq serve DIR`",
    "--enable-lora": "one adapter is served by merging it: `qwq export BASE DIR --adapter ADAPTER`, then `qwq serve DIR`",
    "--lora": "one adapter is served by merging it: `qwq export BASE DIR --adapter ADAPTER`, then `qwq serve DIR`",
    "--tokenizer": "the tokenizer is the one in the model's folder or file", "--mmproj": "this server reads text only",
    "--limit-mm-per-prompt": "this server reads text only", "--embedding": "this server makes no embeddings", "--embeddings": "this server makes no embeddings",
    "--is-embedding": "this server makes no embeddings", "--reranking": "this server makes no scores of texts", "--rope-scaling": "--yarn stretches the context 4 times",
    "--hf-overrides": "the model's config.json is read as it is", "--speculative-config": "--draft-model and --draft-tokens, or --speculate, ask for guessed tokens",
    "--override-generation-config": "sampling is said in requests; defaults are the model's generation_config.json", "--temp": "sampling is said in requests; defaults are the model's generation_config.json",
    "--top-p": "sampling is said in requests; defaults are the model's generation_config.json", "--top-k": "sampling is said in requests; defaults are the model's generation_config.json",
    "--n-predict": "the length of answers is said in requests (max_tokens)", "-n": "the length of answers is said in requests (max_tokens)",
    "--hf-repo": "give the hub's name in the place of the model", "-hf": "give the hub's name in the place of the model", "-hfr": "give the hub's name in the place of the model",
}  # fmt: skip


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def own_options(tokens: Sequence[str], note: Callable[[str], None] = _note) -> list[str]:
    """`qwq serve`'s arguments with other servers' options read, `--config FILE` put in. ConfigError where one asks for what is not here."""
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
        elif name in NOT_NEEDED:
            if name not in TAKES_NOTHING and not equals and waiting and not waiting[0].startswith("--"):
                waiting.pop(0)
            note(f"{name}: {NOT_NEEDED[name]}")
        elif name in ONLY_AT:
            values, words = ONLY_AT[name]
            given = value if equals else _value(name, waiting)
            if given not in values:
                raise ConfigError(f"{name} {given}: {words}")
            note(f"{name} {given}: not needed: {words}")
        elif name in ABSENT:
            raise ConfigError(f"{name} is not an option here: {ABSENT[name]}")
        else:
            out.append(token)
    given_names = {t.partition("=")[0].replace("_", "-") for t in out if t.startswith("--")}
    # The file's first: an option with several values would take its models for some of them.
    return (
        _besides(config, given_names, has_model="--model" in given_names or bool(out) and not out[0].startswith("-"))
        + out
    )


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
            raise ConfigError(f"--config {path}: {key} is a table, and options stand at the top: write {key} = VALUE")
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
