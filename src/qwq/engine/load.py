"""Resolve a model name (folder, hub or ModelScope id, GGUF file), print its memory estimate, load
it.

folder, org/name        our own module, in float32 on CPUs (or bfloat16 on GPUs)
modelscope:org/name     the same from ModelScope (needs the package modelscope-hub)
file.gguf               llama.cpp's kernels, in its quantised form; with dtype "float32" dequantised
                        into our module
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from qwq.common.memory import GIB, Memory, free_memory, require
from qwq.engine.backends.base import Backend
from qwq.engine.backends.llama_cpp import LlamaBackend
from qwq.engine.backends.torch import TorchBackend
from qwq.engine.options import BITS, ENGINE_DEFAULTS, EngineOptions
from qwq.engine.scheduler import Engine
from qwq.errors import ConfigError, ModelError
from qwq.model.config import QWQ_YARN, ModelConfig
from qwq.model.gguf import gguf_config, load_gguf
from qwq.model.gguf_file import GGUFFile
from qwq.model.model_folder import generation_config, read_config, resolve_folder
from qwq.model.weights import check_model, load_model
from qwq.text.gguf_tokenizer import chat_format_from_gguf
from qwq.text.sampling import default_sampling
from qwq.text.template import ChatFormat

DETERMINISTIC_ROWS = 4
DEFAULT_KV_TOKENS = 16384
DEFAULT_MODEL_LEN = 32768


@dataclass(slots=True)
class LoadedModel:
    """A model with its engine. `sampling`: the model's own defaults (QwQ's if it states none)."""

    engine: Engine
    chat: ChatFormat
    name: str
    sampling: dict[str, Any]
    config: ModelConfig
    memory: Memory
    greedy_hint: str = ""


@dataclass(frozen=True, slots=True)
class Described:
    """A model without its weights. `max_len`: tokens of a prompt and its answer together."""

    name: str
    chat: ChatFormat
    sampling: dict[str, Any]
    config: ModelConfig
    max_len: int
    weights_bytes: int


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Progress:
    """Reports progress every two seconds; a small model loads in silence."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report, self.said = report, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self.said > 2:
            self.said = time.monotonic()
            self.report(f"loading {100 * done // total}%")


def load_engine(
    model: str, options: EngineOptions = ENGINE_DEFAULTS, report: Callable[[str], None] = say
) -> LoadedModel:
    """Load a model and make its engine. ModelError, ConfigError or CapacityError if that cannot be
    done.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    folder = _located(model)
    if folder.suffix == ".gguf" or folder.is_file():
        return _load_gguf(folder, options, report)
    config = _with_yarn(read_config(folder), options)
    chat = ChatFormat.from_folder(folder)
    chat.tokenizer.check_fits(config)
    dtype = _dtype(options)
    plan = _torch_plan(config, options, dtype)
    _announce(model, plan, options, report)
    module = load_model(folder, device=options.device, dtype=dtype, progress=_Progress(report))
    module.config = config
    return _load_torch(module, chat, model, options, plan, generation_config(folder))


def _located(model: str) -> Path:
    """The model's folder, or its GGUF file."""
    path = Path(model).expanduser()
    if path.is_file() or path.suffix == ".gguf":
        return path
    folder = resolve_folder(model)
    files = sorted(folder.glob("*.gguf"))
    return files[0] if len(files) == 1 and not (folder / "config.json").is_file() else folder


def context_length(model: str) -> int:
    """Most tokens that a model reads, prompt and answer together; its weights are not loaded."""
    path = _located(model)
    if path.is_dir():
        return _with_yarn(read_config(path), EngineOptions()).max_positions
    if not path.is_file():
        raise ModelError(f"no file at {path}: give a GGUF file, or the folder of a model")
    return _with_yarn(gguf_config(GGUFFile.open(path)), EngineOptions()).max_positions


def describe_model(model: str, options: EngineOptions = ENGINE_DEFAULTS) -> Described:
    """What `load_engine` would open, without its weights. ModelError or ConfigError where it cannot
    be opened.
    """
    path, generation = _located(model), {}
    is_file = path.suffix == ".gguf" or path.is_file()
    if is_file:
        if not path.is_file():
            raise ModelError(f"no file at {path}: give a GGUF file, or the folder of a model")
        file = GGUFFile.open(path)
        config, chat = _with_yarn(gguf_config(file), options), chat_format_from_gguf(file)
    else:
        config, chat, generation = (
            _with_yarn(check_model(path), options),
            ChatFormat.from_folder(path),
            generation_config(path),
        )
        chat.tokenizer.check_fits(config)
    size = (
        path.stat().st_size if is_file and options.dtype == "auto" else _dtype(options).itemsize * config.num_parameters
    )
    name = str(path) if is_file else model
    return Described(name, chat, default_sampling(chat, generation), config, _length(config, options), size)


def release(opened: LoadedModel) -> None:
    """Free the memory of a model that nothing computes with. The caller drops its own references
    before.
    """
    for backend in (opened.engine.backend, opened.engine.draft):
        # llama.cpp's memory is freed by hand; PyTorch's goes with its last reference.
        if (close := getattr(backend, "close", None)) is not None:
            close()


def collect_memory() -> None:
    """Give memory of dropped models back: objects that refer to each other, and what PyTorch holds
    on a GPU.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        # The next model's plan counts what the driver says is free, and PyTorch's cache is not.
        torch.cuda.empty_cache()


def _load_gguf(path: Path, options: EngineOptions, report: Callable[[str], None]) -> LoadedModel:
    if not path.is_file():
        raise ModelError(f"no file at {path}: give a GGUF file, or the folder of a model")
    file = GGUFFile.open(path)
    config, chat = _with_yarn(gguf_config(file), options), chat_format_from_gguf(file)
    if options.dtype != "auto":
        dtype = _dtype(options)
        plan = _torch_plan(config, options, dtype)
        _announce(str(path), plan, options, report)
        module = load_gguf(path, device=options.device, dtype=dtype, progress=_Progress(report))
        module.config = config
        return _load_torch(module, chat, str(path), options, plan, {})
    # llama.cpp keeps keys and values in 16 bits; its graph and logits come on top.
    length = _length(config, options)
    # In deterministic mode each row has cells of its own, so there are few rows and no prefixes are
    # kept beside them.
    rows = min(options.max_num_seqs, DETERMINISTIC_ROWS) if options.deterministic else 2 * options.max_num_seqs
    kv_tokens = options.kv_tokens or (rows * length if options.deterministic else max(length, DEFAULT_KV_TOKENS))
    kv = 4 * config.num_layers * config.num_kv_heads * config.head_dim * kv_tokens
    graph = (
        4 * options.max_num_batched_tokens * (4 * config.hidden_size + 3 * config.intermediate_size)
        + 4 * 64 * config.vocab_size
    )
    plan = Memory(
        {"weights": path.stat().st_size, "key/value cache": kv, "activations": graph},
        {"key/value cache": options.cache_repair or f"--max-model-len or --kv-tokens (now {kv_tokens})"},
    )
    _announce(str(path), plan, options, report)
    progress = _Progress(report)
    backend = LlamaBackend(
        path, kv_tokens=kv_tokens, max_slots=rows, threads=options.threads, batch_tokens=options.max_num_batched_tokens,
        deterministic=options.deterministic, yarn=config.rope_scaling is not None, max_positions=length,
        progress=lambda share: progress(int(1000 * share), 1000),
    )  # fmt: skip
    engine = Engine(
        backend, chat.tokenizer, name=str(path), draft=_draft(options, length), **_engine_options(options, length)
    )
    return _loaded(engine, chat, str(path), config, plan, {})


def _load_torch(
    module: Any, chat: ChatFormat, name: str, options: EngineOptions, plan: Memory, generation: dict[str, Any]
) -> LoadedModel:
    config = module.config
    length = _length(config, options)
    kv_tokens = options.kv_tokens or _kv_tokens(config, options)
    backend: Backend
    if module.device.type == "cuda":
        backend = _paged_backend(module, options, kv_tokens, length)
    else:
        backend = TorchBackend(
            module.eval(), kv_tokens=kv_tokens, max_slots=2 * options.max_num_seqs, deterministic=options.deterministic
        )
    engine = Engine(
        backend, chat.tokenizer, name=name, draft=_draft(options, length), **_engine_options(options, length)
    )
    return _loaded(engine, chat, name, config, plan, generation)


def _draft(options: EngineOptions, length: int) -> Backend | None:
    """The backend of `--draft-model`, with a KV cache of as many tokens as the model's."""
    if options.draft_model is None:
        return None
    path, kv_tokens = Path(options.draft_model).expanduser(), options.kv_tokens or max(length, DEFAULT_KV_TOKENS)
    if path.suffix == ".gguf":
        return LlamaBackend(
            path,
            kv_tokens=kv_tokens,
            max_slots=options.max_num_seqs,
            threads=options.threads,
            batch_tokens=options.max_num_batched_tokens,
        )
    module = load_model(path, device=options.device, dtype=_dtype(options))
    return TorchBackend(module.eval(), kv_tokens=kv_tokens, max_slots=options.max_num_seqs)


def _paged_backend(module: Any, options: EngineOptions, kv_tokens: int, length: int) -> Backend:
    from qwq.engine.backends.cuda.backend import PagedBackend
    from qwq.engine.backends.cuda.quantise import quantise_model

    if options.deterministic:
        raise ConfigError(
            "--deterministic is kept on a CPU only: matrix products of a GPU round by the number of their rows"
        )
    if options.quantization:
        quantise_model(module, BITS[options.quantization])
    return PagedBackend(
        module.eval(),
        kv_tokens=kv_tokens,
        max_length=length,
        max_running=options.max_num_seqs,
        max_slots=2 * options.max_num_seqs,
    )


def _loaded(
    engine: Engine, chat: ChatFormat, name: str, config: ModelConfig, plan: Memory, generation: dict[str, Any]
) -> LoadedModel:
    hint = "greedy decoding makes reasoning models repeat themselves; QwQ is meant for T 0.6, top-p 0.95, top-k 40"
    return LoadedModel(
        engine, chat, name, default_sampling(chat, generation), config, plan, hint if chat.thinking_open else ""
    )


def _engine_options(options: EngineOptions, length: int) -> dict[str, Any]:
    return {
        "max_running": options.max_num_seqs,
        "token_budget": options.max_num_batched_tokens,
        "prefix_cache": options.enable_prefix_caching,
        "speculate": options.speculate,
        "draft_tokens": options.draft_tokens,
        "max_model_len": length,
    }


def _with_yarn(config: ModelConfig, options: EngineOptions) -> ModelConfig:
    """QwQ-32B ships YaRN in its model card, not in its config: its shape is known; for others
    --yarn asks for the same.
    """
    is_qwq = (config.hidden_size, config.num_layers, config.max_positions) == (5120, 64, 40960)
    if config.rope_scaling is not None or not (options.yarn or is_qwq):
        return config
    return replace(config, rope_scaling=QWQ_YARN, max_positions=max(config.max_positions, QWQ_YARN.max_positions))


def _length(config: ModelConfig, options: EngineOptions) -> int:
    if options.max_model_len is None:
        return min(config.max_positions, DEFAULT_MODEL_LEN)
    if not 2 <= options.max_model_len <= config.max_positions:
        raise ConfigError(
            f"--max-model-len {options.max_model_len}: this model reads 2 to {config.max_positions} tokens"
            + ("" if config.rope_scaling else ", and more with --yarn where it is of Qwen's kind")
        )
    return options.max_model_len


def _kv_tokens(config: ModelConfig, options: EngineOptions) -> int:
    length = _length(config, options)
    return max(2 * length if options.deterministic else length, min(DEFAULT_KV_TOKENS, options.max_num_seqs * length))


def _dtype(options: EngineOptions) -> torch.dtype:
    if options.dtype == "auto":
        return torch.float32 if options.device == "cpu" else torch.bfloat16
    return getattr(torch, options.dtype)


def _torch_plan(config: ModelConfig, options: EngineOptions, dtype: torch.dtype) -> Memory:
    size = dtype.itemsize
    kv_tokens = options.kv_tokens or _kv_tokens(config, options)
    width = 4 * config.hidden_size + 3 * config.num_heads * config.head_dim + 4 * config.intermediate_size
    parts = {
        "weights": size * config.num_parameters,
        "key/value cache": 2 * size * config.num_layers * config.num_kv_heads * config.head_dim * kv_tokens,
        "activations": size * options.max_num_batched_tokens * width,
        "logits": 2 * 4 * options.max_num_seqs * config.vocab_size,
    }
    return Memory(
        parts,
        {
            "key/value cache": options.cache_repair or f"--max-model-len or --kv-tokens (now {kv_tokens})",
            "logits": f"--max-num-seqs (now {options.max_num_seqs})",
        },
    )


def _announce(name: str, plan: Memory, options: EngineOptions, report: Callable[[str], None]) -> None:
    """The memory plan in one line; CapacityError where it cannot fit."""
    free = free_memory(options.device)
    parts = ", ".join(f"{part} {size / GIB:.2f}" for part, size in plan.parts.items())
    report(f"{name}: about {plan.total / GIB:.2f} GiB ({parts}), {free / GIB:.1f} GiB are free")
    require(plan, free, name)
