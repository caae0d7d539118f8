"""A model folder in the layout of Hugging Face: where it is, its JSON files, and its safetensors
headers.

Covers local folders and, for names such as `org/name` that are no local path, the Hugging Face hub.
Only safetensors are ever read: a pickle can run code when it is loaded, so a folder with nothing
else is refused.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwq.common.hub_files import download, parse_hub_name
from qwq.errors import ModelError
from qwq.model.config import ModelConfig

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt"]
MAX_HEADER_BYTES = 100 << 20  # the limit of the safetensors format


def resolve_folder(model: str | Path, *, weights: bool = True) -> Path:
    """The local folder of `model`: a path, or a name on a hub, which is downloaded.

    ModelError where there is neither. The forms of names are those of common/hub_files.py.

    Without `weights` a hub's model is downloaded without them: config, tokenizer and template.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"{path} is a file: give the folder that holds config.json and {SINGLE}")
    if (name := parse_hub_name(str(model))) and not name.names_file:
        return download(name, HUB_FILES if weights else [f for f in HUB_FILES if not f.endswith("safetensors")])
    raise ModelError(
        f"no model folder at {path}: give a folder with config.json and {SINGLE} "
        "(`qwq train RECIPE` writes runs/NAME/checkpoints/STAGE/final), or a hub name such as Qwen/QwQ-32B "
        "or modelscope:Qwen/QwQ-32B"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder. ModelError where it is missing or something else."""
    if not path.is_file():
        hint = ""
        if (runs := sorted(path.parent.glob("checkpoints/*/final"))) and path.name == "config.json":
            hint = f"; this is a run's folder, its models are {', '.join(map(str, runs))}"
        raise ModelError(f"no {path.name} in {path.parent}: a model folder needs config.json and {SINGLE}{hint}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error}): fetch or write the folder again") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path}: holds a {type(data).__name__}, an object is needed: fetch or write the folder again")
    return data


def read_config(folder: Path) -> ModelConfig:
    """The model's shape.

    ModelError for what this project does not compute, quantised weights among it.
    """
    path = folder / "config.json"
    hf = read_json(path)
    quantised = hf.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, Mapping) else quantised
        raise ModelError(
            f"{path}: weights are quantised ({method}), float weights are read here: use the unquantised model"
        )
    try:
        return ModelConfig.from_hf(hf, str(path))
    except (TypeError, ZeroDivisionError, AttributeError) as error:
        raise ModelError(f"{path}: a field has the wrong type ({error}): fetch or write the folder again") from None


def generation_config(folder: str | Path) -> dict[str, Any]:
    """generation_config.json; empty where the folder has none.

    `eos_token_id` is an int or a list.
    """
    path = Path(folder) / "generation_config.json"
    return read_json(path) if path.is_file() else {}


def inherited_generation(source: str | Path | None, config: ModelConfig, eos_ids: Sequence[int]) -> dict[str, Any]:
    """generation_config.json of a model made from `source`: the source's own, so that it is sampled
    as its base is, with its end tokens.

    Temperature, top-p, top-k, repetition penalty and whatever else the source's file names are
    kept; beginning and padding tokens come from `config` where the file names none. `source` is a
    folder, a hub name, a GGUF file (whose metadata may hold such defaults), or None.
    """
    base = {} if source is None else _sampling_of(source)
    kept = {k: v for k, v in base.items() if not k.startswith("_")}  # private marks of the library that wrote it
    special = {"bos_token_id": config.bos_token_id, "pad_token_id": config.pad_token_id}
    return {k: v for k, v in special.items() if v is not None} | kept | {"eos_token_id": list(eos_ids)}


def _sampling_of(source: str | Path) -> dict[str, Any]:
    if not str(source).endswith(".gguf"):
        return generation_config(resolve_folder(source, weights=False))
    from qwq.model.gguf_file import GGUFFile
    from qwq.model.gguf_metadata import sampling_defaults

    return sampling_defaults(GGUFFile.open(source).metadata)


def eos_ids(folder: str | Path) -> tuple[int, ...]:
    """All end tokens that generation_config.json and config.json name, in that order, each once.

    Either may be absent.
    """
    found: list[int] = []
    for path in (Path(folder) / "generation_config.json", Path(folder) / "config.json"):
        eos = read_json(path).get("eos_token_id") if path.is_file() else None
        ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
        if odd := [i for i in ids if type(i) is not int]:
            raise ModelError(
                f"{path}: eos_token_id has {str(odd[0])[:40]!r}, whole numbers are expected: mend it there"
            )
        found += [i for i in ids if i >= 0]  # -1 says that there is none
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor is, and its shape and dtype (safetensors' names: F32, BF16, ...)."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a model folder by name, from the headers alone.

    ModelError where a file is missing or cut short.
    """
    out: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        for name, entry in read_header(file).items():
            out[name] = StoredTensor(file, tuple(entry["shape"]), entry["dtype"])
    return out


def _weight_files(folder: Path) -> Iterator[Path]:
    if (folder / SINGLE).is_file():
        yield folder / SINGLE
        return
    if not (folder / INDEX).is_file():
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
        if pickles:
            raise ModelError(
                f"{folder} has weights only as {pickles[0]}, a pickle, which is never loaded here because it can "
                f"run code: convert it to {SINGLE} where you trust it"
            )
        raise ModelError(f"no weights in {folder}: neither {SINGLE} nor {INDEX} is there")
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{folder / INDEX}: no weight_map: fetch or write the folder again")
    for name in sorted(set(weight_map.values())):
        file = folder / name
        # A name from a file could point anywhere; shards lie beside their index.
        if Path(name).name != name or not file.is_file():
            raise ModelError(
                f"{folder / INDEX} names {name}, which is not in {folder}: fetch or write the folder again"
            )
        yield file


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Header of a safetensors file: name to dtype, shape and data_offsets.

    ModelError where the file is cut short.
    """
    size = file.stat().st_size
    with file.open("rb") as f:
        start = f.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if len(start) < 8 or (8 + length > size and length <= MAX_HEADER_BYTES):
            raise ModelError(_truncated(file, size, 8 + length))
        if length > MAX_HEADER_BYTES:
            raise ModelError(
                f"{file}: not a safetensors file (its header would be {length} bytes): fetch or write it again"
            )
        try:
            header = json.loads(f.read(length))
            header.pop("__metadata__", None)
            end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ModelError(f"{file}: its safetensors header cannot be read: fetch or write it again") from None
    if size < 8 + length + end:
        raise ModelError(_truncated(file, size, 8 + length + end))
    return header


def _truncated(file: Path, size: int, needed: int) -> str:
    return f"{file} is cut short: {size} bytes are there, {needed} are needed: fetch or write it again"
