"""`qwq export`: any model that qwq reads, in the format of another program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from qwq.common.files import atomic_folder, writing_to
from qwq.errors import ConfigError, nearest
from qwq.release.folders import plain_tensors, write_folder
from qwq.release.model_source import ModelSource, open_source
from qwq.release.to_gguf import FILE_TYPES, export_gguf

FORMATS = ("hf", "gguf")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How a model is written. `None` is what the format itself suggests.

    `format` is one of FORMATS: None is gguf for a name that ends in .gguf, hf otherwise. `quant`
    (gguf) is one of FILE_TYPES. `dtype` (hf) is float32, bfloat16 or float16. `adapters` are merged
    in turn.
    """

    format: str | None = None
    quant: str | None = None
    dtype: str | None = None
    adapters: Sequence[Path] = ()
    name: str = ""
    licence: str = ""

    def format_of(self, out: Path) -> str:
        """The format for `out`. ConfigError for one that is not known, or does not go with it."""
        name = self.format or ("gguf" if out.suffix == ".gguf" or self.quant else "hf")
        if name not in FORMATS:
            raise ConfigError(f"--format {name}: {nearest(name, FORMATS)}")
        if name == "gguf" and out.suffix != ".gguf":
            raise ConfigError(f"--format gguf writes one file, and {out} does not end in .gguf: name it {out}.gguf")
        if name != "gguf" and (out.suffix == ".gguf" or self.quant):
            raise ConfigError(
                f"--format {name} writes a folder, and {out.name if out.suffix == '.gguf' else '--quant'} means a GGUF "
                "file: leave one of them out"
            )
        if name == "gguf" and self.quant_name not in FILE_TYPES:
            raise ConfigError(f"--quant {self.quant}: {nearest(self.quant_name, FILE_TYPES)}")
        if name != "hf" and self.dtype:
            raise ConfigError(f"--dtype goes with --format hf, this is {name}: leave it out")
        return name

    @property
    def quant_name(self) -> str:
        return (self.quant or "F16").upper()


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file of an export, and its size."""

    path: Path
    num_bytes: int


def export(model: str, out: Path, options: ExportOptions | None = None) -> list[WrittenFile]:
    """Write `model` (a folder, hub id or GGUF file) to `out`, which must not be there yet: the new
    file or folder appears whole or not at all.

    ConfigError for options that do not go together and for a place where nothing may be written,
    CapacityError where the disk has no room, ModelError for whatever is wrong with the model.
    """
    options = options or ExportOptions()
    kind = options.format_of(out)
    if out.exists():
        raise ConfigError(f"{out} is there already: name a {'file' if kind == 'gguf' else 'folder'} that is not")
    source = open_source(model, adapters=options.adapters, name=options.name, licence=options.licence)
    with writing_to(out, at="OUT"):
        out.parent.mkdir(parents=True, exist_ok=True)
        if kind == "gguf":
            export_gguf(source, out, options.quant_name)
        else:
            _export_folder(source, out, options.dtype)
    return written_files(out)


def written_files(out: Path) -> list[WrittenFile]:
    """The file `out`, or the files of the folder `out`, by name."""
    paths = sorted(p for p in out.rglob("*") if p.is_file()) if out.is_dir() else [out]
    return [WrittenFile(path, path.stat().st_size) for path in paths]


def _export_folder(source: ModelSource, out: Path, dtype: str | None) -> None:
    """A Hugging Face folder, in the type that the weights have on disk (float32 where they are
    quantised) unless `dtype` names another.
    """
    written = getattr(torch, dtype) if dtype else source.weights.dtype or torch.float32
    with atomic_folder(out) as partial:
        write_folder(source, partial, plain_tensors(source, written), written)
