"""Weights between this module's fused matrices and Hugging Face's names, and whole model folders in
and out.

    theirs                                             ours
    model.embed_tokens.weight                          embed.weight
    model.layers.I.self_attn.{q,k,v}_proj.{weight,bias}  blocks.I.qkv.{weight,bias}, rows q, k, v
    model.layers.I.self_attn.{q,k}_norm.weight         blocks.I.{q,k}_norm.weight, if there are any
    model.layers.I.self_attn.o_proj.weight             blocks.I.o.weight
    model.layers.I.mlp.{gate,up}_proj.weight           blocks.I.gate_up.weight, rows gate then up
    model.layers.I.mlp.down_proj.weight                blocks.I.down.weight
    model.layers.I.{input,post_attention}_layernorm.weight  blocks.I.{input,post}_norm.weight
    model.norm.weight                                  norm.weight
    lm_head.weight                                     head.weight, absent where it is tied
    score.weight (reward models)                       kept beside the transformer

Loading holds the model once: it is laid out without memory, each matrix is allocated when its parts
are read, and the parts come memory-mapped from safetensors. No pickle is ever loaded.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from qwq.common.files import sync, write_atomic
from qwq.common.memory import check_device
from qwq.errors import ModelError
from qwq.model.config import ModelConfig
from qwq.model.families import FAMILIES
from qwq.model.model_folder import (
    INDEX,
    SINGLE,
    StoredTensor,
    eos_ids,
    generation_config,
    inherited_generation,
    read_config,
    resolve_folder,
    stored_tensors,
)
from qwq.model.names import EMBEDDING, HEAD, UNTIED, few, fused_parts, hf_shapes, state_to_hf
from qwq.model.transformer import Transformer

__all__ = [
    "eos_ids", "generation_config", "hf_shapes", "inherited_generation", "load_model", "load_reward_model",
    "save_model", "save_reward_model", "state_from_hf", "state_to_hf", "stored_dtype",
]  # fmt: skip

SHARD_BYTES = 5 << 30
Progress = Callable[[int, int], None]
SCORE = "score.weight"
CLASSIFIERS = {name: family.classifier for name, family in FAMILIES.items()}
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def state_from_hf(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Hugging Face state dict under our names.

    ModelError where a name is missing or unknown, or a shape is wrong.
    """
    _check(
        {n: StoredTensor(Path("state dict"), tuple(t.shape), "F32") for n, t in tensors.items()}, config, "state dict"
    )
    return {ours: torch.cat([tensors[name] for name, _ in parts]) for ours, parts in fused_parts(config)}


# -- loading ---------------------------------------------------------------------------------------


def stored_dtype(model: str | Path) -> torch.dtype | None:
    """The type that most weights of a model have on disk; None where they are quantised (GGUF)."""
    sizes: Counter[str] = Counter()
    if str(model).endswith(".gguf"):
        from qwq.model.gguf_file import GGUFFile

        for tensor in GGUFFile.open(model).tensors.values():
            sizes[tensor.encoding] += math.prod(tensor.shape)
    else:
        for stored in stored_tensors(resolve_folder(model)).values():
            sizes[stored.dtype] += math.prod(stored.shape)
    return DTYPES.get(max(sizes, key=lambda kind: sizes[kind])) if sizes else None


def load_model(
    model: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Transformer:
    """The causal model in a folder (or on the hub) or in a GGUF file, converted to `dtype`.
    ModelError names what is wrong with it.

    `progress` is called with the weights (of a GGUF file: bytes) read so far and all of them.
    """
    if str(model).endswith(".gguf"):
        from qwq.model.gguf import load_gguf

        return load_gguf(model, device=device, dtype=dtype, progress=progress)
    check_device(str(device))
    config, stored = checked_folder(resolve_folder(model))
    return _fill(config, stored, device, dtype, progress)


def check_model(model: str | Path) -> ModelConfig:
    """The shape of the causal model that `load_model` would load, its files checked as far as their
    headers go. ModelError as there.

    Nothing but config, tokenizer and template is downloaded.
    """
    if str(model).endswith(".gguf"):
        from qwq.model.gguf import gguf_config
        from qwq.model.gguf_file import GGUFFile

        return gguf_config(GGUFFile.open(model))
    folder = resolve_folder(model, weights=False)
    if not Path(model).expanduser().exists() and not any(folder.glob("*.safetensors")):
        return read_config(folder)  # a hub's model whose weights are not here yet
    return checked_folder(folder)[0]


def checked_folder(folder: Path) -> tuple[ModelConfig, dict[str, StoredTensor]]:
    """The shape of the causal model in a folder and where its tensors are, held against each other.

    ModelError where they do not agree.
    """
    config, stored = read_config(folder), stored_tensors(folder)
    if SCORE in stored:
        raise ModelError(
            f"{folder} is a reward model (it has {SCORE}) and cannot write text: give the folder of a policy"
        )
    _check(stored, config, str(folder))
    return config, stored


def load_reward_model(
    model: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Transformer, Tensor]:
    """A transformer without a vocabulary head, and the score vector (1, D), in float32, of a
    one-label sequence classifier.

    The returned config has `tie_embeddings` set, as there is no head to hold.
    """
    check_device(str(device))
    folder = resolve_folder(model)
    config, stored = replace(read_config(folder), tie_embeddings=True), stored_tensors(folder)
    if SCORE not in stored:
        raise ModelError(
            f"{folder} is no reward model: it has no {SCORE}; the reward_model stage of a recipe writes one"
        )
    score = stored.pop(SCORE)
    if score.shape != (1, config.hidden_size):
        wanted = [1, config.hidden_size]
        raise ModelError(f"{score.file}: {SCORE} is {list(score.shape)}, config.json asks for {wanted}")
    _check(stored, config, str(folder))
    with safe_open(score.file, framework="pt") as file:
        weight = file.get_tensor(SCORE).to(device=device, dtype=torch.float32, copy=True)
    return _fill(config, stored, device, dtype), weight


def _check(stored: Mapping[str, StoredTensor], config: ModelConfig, where: str) -> None:
    """ModelError unless the stored tensors are those that the config asks for."""
    wanted = hf_shapes(config)
    harmless = ("rotary_emb.inv_freq", *((HEAD,) if config.tie_embeddings else ()))
    missing = [name for name in wanted if name not in stored]
    unknown = [name for name in stored if name not in wanted and not name.endswith(harmless)]
    if missing or unknown:
        kinds = ((missing, "missing"), (unknown, "unexpected"))
        sides = [f"{len(names)} {what} ({few(names)})" for names, what in kinds if names]
        kind = f"{config.family}, {config.num_layers} layers"
        raise ModelError(f"{where}: tensors do not match config.json ({kind}): {' and '.join(sides)}")
    for name, shape in wanted.items():
        found = stored[name]
        if found.shape != shape:
            raise ModelError(
                f"{found.file}: {name} is {list(found.shape)}, config.json asks for {list(shape)}: "
                "weights and config are not of one model"
            )
        if found.dtype not in DTYPES:
            raise ModelError(
                f"{found.file}: {name} is stored as {found.dtype}; {', '.join(DTYPES)} are read here: "
                "use the unquantised model"
            )


def _fill(
    config: ModelConfig,
    stored: Mapping[str, StoredTensor],
    device: torch.device | str,
    dtype: torch.dtype,
    progress: Progress | None = None,
) -> Transformer:
    with torch.device("meta"):
        model = Transformer(config)
    state: dict[str, Tensor] = {}
    done = 0
    with ExitStack() as stack:
        files = {f: stack.enter_context(safe_open(f, framework="pt")) for f in {t.file for t in stored.values()}}
        for ours, parts in fused_parts(config):
            rows = sum(shape[0] for _, shape in parts)
            whole = state[ours] = torch.empty((rows, *parts[0][1][1:]), dtype=dtype, device=device)
            at = 0
            for name, shape in parts:
                whole[at : at + shape[0]].copy_(files[stored[name].file].get_tensor(name))
                at += shape[0]
            low, high = whole.aminmax()  # a NaN is passed on
            if not (low.isfinite() and high.isfinite()):
                names = few([name for name, _ in parts])
                raise ModelError(
                    f"{stored[parts[0][0]].file}: {names} holds NaN or infinite weights: fetch or write the folder "
                    "again"
                )
            done += whole.numel()
            if progress is not None:
                progress(done, config.num_parameters)
    model.load_state_dict(state, assign=True)
    return model


@torch.no_grad()
def refill(model: Transformer, folder: str | Path) -> None:
    """Overwrite a model's weights, in place and in their dtype, with those of a folder of the same
    shape.

    ModelError where the shapes differ or a weight is NaN or infinite; after the latter the model
    holds a mixture, and its owner must not use it.
    """
    config, stored = checked_folder(resolve_folder(folder))
    if hf_shapes(config) != hf_shapes(model.config):
        kinds = [f"{c.num_layers} layers of {c.hidden_size}, {c.vocab_size:,} tokens" for c in (config, model.config)]
        raise ModelError(f"{folder} holds a model of {kinds[0]}, {kinds[1]} are loaded: give weights of the same model")
    state = model.state_dict()
    with ExitStack() as stack:
        files = {f: stack.enter_context(safe_open(f, framework="pt")) for f in {t.file for t in stored.values()}}
        for ours, parts in fused_parts(config):
            at = 0
            for name, shape in parts:
                part = files[stored[name].file].get_tensor(name)
                low, high = part.aminmax()
                if not (low.isfinite() and high.isfinite()):
                    raise ModelError(f"{stored[name].file}: {name} holds NaN or infinite weights: write it again")
                state[ours][at : at + shape[0]].copy_(part)
                at += shape[0]


# -- saving ----------------------------------------------------------------------------------------


def save_model(
    model: Transformer,
    folder: str | Path,
    *,
    max_shard_bytes: int = SHARD_BYTES,
    generation: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    durable: bool = True,
    untie: bool = False,
) -> None:
    """Write config.json, safetensors and, where given, generation_config.json, as transformers
    reads them.

    A folder that is not there yet appears whole, by one rename. In one that is there, each file is
    replaced whole, weights first, and other files are left alone. Weights keep their dtype unless
    `dtype` is given. `generation` may hold several `eos_token_id`. `durable` False does not wait
    for the disk: for weights that need not survive a power cut. `untie` writes a tied head as a
    tensor of its own.
    """
    state = state_to_hf(model.config, model.state_dict())
    extra: Mapping[str, Any] = {}
    if untie and model.config.tie_embeddings:
        extra = UNTIED
        state[HEAD] = state[EMBEDDING]
    _save(model, state, extra, Path(folder), max_shard_bytes, generation, dtype, durable=durable)


def save_reward_model(
    backbone: Transformer, score: Tensor, folder: str | Path, *, max_shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a transformer and its score vector (1, D) as a sequence classifier with one label.

    The vector stays in float32 whatever the transformer has: rounded to 16 bits it would give like
    answers equal scores.
    """
    state = state_to_hf(backbone.config, backbone.state_dict())
    state.pop(HEAD, None)
    state[SCORE] = score.detach().view(1, backbone.config.hidden_size).float()
    # num_labels is not stored as such: transformers counts the entries of id2label.
    extra = {
        "architectures": [CLASSIFIERS[backbone.config.family]],
        "id2label": {"0": "score"},
        "label2id": {"score": 0},
    }
    _save(backbone, state, extra, Path(folder), max_shard_bytes, None, None)


def _save(
    model: Transformer,
    state: dict[str, Tensor],
    extra: Mapping[str, Any],
    folder: Path,
    max_shard_bytes: int,
    generation: Mapping[str, Any] | None,
    dtype: torch.dtype | None,
    *,
    durable: bool = True,
) -> None:
    dtype = dtype or model.embed.weight.dtype
    config = model.config.to_hf() | dict(extra) | {"dtype": str(dtype).removeprefix("torch.")}
    documents = {"config.json": config} | (
        {"generation_config.json": dict(generation)} if generation is not None else {}
    )
    target = folder
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        target = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
    try:
        # Copied, because parts of a fused matrix share their memory.
        tensors = (
            (name, t.to(device="cpu", dtype=torch.float32 if name == SCORE else dtype, copy=True).contiguous())
            for name, t in state.items()
        )
        write_shards(target, tensors, max_shard_bytes, durable=durable)
        for name, document in documents.items():
            write_atomic(target / name, json.dumps(document, indent=2) + "\n")
    except BaseException:
        if target is not folder:
            shutil.rmtree(target, ignore_errors=True)  # half a model would only take the room that is missing
        raise
    if target is not folder:
        target.rename(folder)
    for path in (folder, folder.parent) if durable else ():
        sync(path)


def write_shards(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], max_shard_bytes: int = SHARD_BYTES, *, durable: bool = True
) -> None:
    """Write tensors to the safetensors files of a model folder, holding one file's at a time.

    They are cut in their order so that no file but one of a single tensor is over
    `max_shard_bytes`. ModelError for NaN and infinite weights: no program could use the model.
    """
    mark = f".{os.getpid()}.partial"
    files: list[list[str]] = []
    held: dict[str, Tensor] = {}
    total = size = 0

    def finish() -> None:
        partial = folder / f".model-{len(files)}{mark}"
        _check_finite(held)
        save_file(held, partial, metadata={"format": "pt"})
        if durable:
            sync(partial)
        files.append(list(held))
        held.clear()

    try:
        for name, tensor in tensors:
            if held and size + tensor.nbytes > max_shard_bytes:
                finish()
                size = 0
            held[name] = tensor
            size, total = size + tensor.nbytes, total + tensor.nbytes
        finish()
    except BaseException:
        for partial in folder.glob(f".model-*{mark}"):
            partial.unlink()
        raise
    names = [SINGLE] if len(files) == 1 else [_shard_name(i, len(files)) for i in range(len(files))]
    for i, name in enumerate(names):
        (folder / f".model-{i}{mark}").replace(folder / name)
    if len(files) > 1:
        weight_map = {tensor: name for name, shard in zip(names, files, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_atomic(folder / INDEX, json.dumps(index, indent=2) + "\n")
    # Weights of an earlier save with another number of files would be read instead of these, or
    # lie about.
    stale = [p for p in (*folder.glob("model-*-of-*.safetensors"), folder / SINGLE) if p.name not in names]
    for path in (*stale, *([folder / INDEX] if len(files) == 1 else [])):
        path.unlink(missing_ok=True)


def _shard_name(index: int, num: int) -> str:
    return f"model-{index + 1:05}-of-{num:05}.safetensors"


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    """A model with NaN or infinite weights is never written: no program could use it, and
    `load_model` refuses it.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        low, high = tensor.aminmax()  # a NaN is passed on
        if not (low.isfinite() and high.isfinite()):
            raise ModelError(
                f"{name} holds NaN or infinite weights as {str(tensor.dtype).removeprefix('torch.')}, so the model "
                "is not written: train with a lower learning rate, or write a wider dtype"
            )
