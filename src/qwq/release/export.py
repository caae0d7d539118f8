"""`qwq export`: any model that qwq reads, in the format of another program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from qwq.common.files import atomic_folder, writing_to
from qwq.errors import ConfigError, nearest
from qwq.model.gguf_metadata import FILE_TYPES
from qwq.model.names import UNTIED, fused_parts
from qwq.model.transformer import Transformer
from qwq.release import to_mlx
from qwq.release.activations import importance, task_windows
from qwq.release.folders import plain_tensors, write_folder
from qwq.release.gptq import gptq
from qwq.release.lora_gguf import export_adapter, is_adapter
from qwq.release.model_source import ModelSource, open_source
from qwq.release.quality import HeldOut, Quality, QualityOptions, Reading, fits
from qwq.release.read_back import read_back
from qwq.release.to_compressed import (
    SCHEMES,
    Quantiser,
    compressed_config,
    compressed_tensors,
    group_size,
)
from qwq.release.to_compressed import (
    nearest as to_nearest,
)
from qwq.release.to_gguf import PLAIN, export_gguf

FORMATS = ("hf", "gguf", "mlx", *SCHEMES)
CALIBRATION_TOKENS, CALIBRATION_LONGEST = 16_384, 512


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How a model is written. `None` is what the format itself suggests.

    `format` is one of FORMATS: None is gguf for a name that ends in .gguf, hf otherwise. `quant`
    (gguf) is one of FILE_TYPES. `bits` (mlx) is 4 or 8. `dtype` (folders) is float32, bfloat16 or
    float16. `adapters` are merged in turn. `imatrix` (K-quants) and `gptq` (w8a8, w8a16, w4a16)
    calibrate on the task of `quality`, which also says what is measured. `base` is the model of an
    adapter that is exported alone. `untie` (hf) writes a tied head as a tensor of its own.
    """

    format: str | None = None
    quant: str | None = None
    bits: int | None = None
    dtype: str | None = None
    adapters: Sequence[Path] = ()
    name: str = ""
    licence: str = ""
    imatrix: bool = False
    gptq: bool = False
    base: str = ""
    untie: bool = False
    quality: QualityOptions = field(default_factory=QualityOptions)

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
        self._check_extras(name)
        return name

    def _check_extras(self, name: str) -> None:
        kinds = "hf, mlx, w8a8, w8a16 and w4a16"
        extras = (
            ("--dtype", self.dtype, name != "gguf", f"--format {kinds}"),
            ("--bits", self.bits, name == "mlx", "--format mlx"),
            ("--imatrix", self.imatrix, name == "gguf" and "_K" in self.quant_name, "the K-quants of a GGUF file"),
            ("--untie", self.untie, name == "hf", "--format hf"),
            ("--gptq", self.gptq, name in SCHEMES, "--format w8a8, w8a16 and w4a16"),
            ("--max-loss", self.quality.max_loss is not None, self.loses(name), "a quantised format"),
        )
        for option, given, fits_format, needs in extras:
            if given and not fits_format:
                what = f"{name} {self.quant_name}" if name == "gguf" else name
                raise ConfigError(f"{option} goes with {needs}, this is {what}: leave it out")
        if self.bits not in (None, *to_mlx.BITS):
            raise ConfigError(f"--bits {self.bits}: give {' or '.join(map(str, to_mlx.BITS))}")

    def check_adapter(self, out: Path, name: str) -> None:
        """ConfigError unless the options make sense for an adapter."""
        if name != "gguf" or self.quant or self.imatrix or self.adapters:
            raise ConfigError(
                f"an adapter alone is written as one GGUF file in float32, {out} and its options mean something else: "
                "name OUT.gguf, or export the base model with --adapter"
            )

    @property
    def quant_name(self) -> str:
        return (self.quant or "F16").upper()

    def loses(self, name: str) -> bool:
        """Whether the weights are quantised."""
        return name != "hf" and not (name == "gguf" and self.quant_name in PLAIN)


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file of an export, and its size."""

    path: Path
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written. `quality` is None for a format that loses nothing and where nothing was
    measured.
    """

    files: list[WrittenFile]
    quality: Quality | None = None


def export(model: str, out: Path, options: ExportOptions | None = None) -> Exported:
    """Write `model` (a folder, hub id or GGUF file) to `out`, which must not be there yet: the new
    file or folder appears whole or not at all.

    ConfigError for options that do not go together and for a place where nothing may be written,
    CapacityError where the disk has no room, ModelError for whatever is wrong with the model and
    where more is lost than may be.
    """
    options = options or ExportOptions()
    kind = options.format_of(out)
    if out.exists():
        raise ConfigError(f"{out} is there already: name a {'file' if kind == 'gguf' else 'folder'} that is not")
    with writing_to(out, at="OUT"):  # before anything is read, which takes longer
        out.parent.mkdir(parents=True, exist_ok=True)
        if is_adapter(model):
            options.check_adapter(out, kind)
            export_adapter(Path(model).expanduser(), out, options.base)
            return Exported(written_files(out))
    source = open_source(model, adapters=options.adapters, name=options.name, licence=options.licence)
    work = _Export(source, out, kind, options)
    with writing_to(out, at="OUT"):
        if kind == "gguf":
            work.file()
        else:
            work.folder()
    return Exported(written_files(out), work.quality)


def written_files(out: Path) -> list[WrittenFile]:
    """The file `out`, or the files of the folder `out`, by name."""
    paths = sorted(p for p in out.rglob("*") if p.is_file()) if out.is_dir() else [out]
    return [WrittenFile(path, path.stat().st_size) for path in paths]


@dataclass(slots=True)
class _Export:
    """One export under way."""

    source: ModelSource
    out: Path
    kind: str
    options: ExportOptions
    quality: Quality | None = None

    def file(self) -> None:
        o, check = self.options, self._checker()
        weighed = None
        if o.imatrix:
            weighed = importance(self._loaded(), self._calibration())
        export_gguf(self.source, self.out, o.quant_name, importance=weighed, importance_of=o.quality.task, check=check)

    def folder(self) -> None:
        weights, kind, check = self.source.weights, self.kind, self._checker()
        dtype = getattr(torch, self.options.dtype) if self.options.dtype else weights.dtype or torch.float32
        with atomic_folder(self.out) as partial:
            if kind == "mlx":
                tensors = to_mlx.mlx_tensors(self.source, self._bits, dtype)
                write_folder(self.source, partial, tensors, dtype, to_mlx.mlx_config(weights.config, self._bits))
            elif kind in SCHEMES:
                tensors = compressed_tensors(self.source, SCHEMES[kind], dtype, self._quantiser(dtype))
                write_folder(self.source, partial, tensors, dtype, compressed_config(weights.config, SCHEMES[kind]))
            else:
                untie = self.options.untie
                plain = plain_tensors(self.source, dtype, untie=untie)
                write_folder(self.source, partial, plain, dtype, UNTIED if untie else None)
            if check is not None:
                check(partial)

    @property
    def _bits(self) -> int:
        return self.options.bits or to_mlx.BITS[0]

    def _quantiser(self, dtype: torch.dtype) -> Quantiser:
        if not self.options.gptq:
            return to_nearest(dtype)
        scheme, config = SCHEMES[self.kind], self.source.weights.config
        chosen = gptq(self._loaded(), self._calibration(), scheme.bits, group_size(config, scheme), dtype)
        return lambda name, weight, bits, group: chosen[name]

    def _calibration(self) -> list[list[int]]:
        task = self.options.quality.task
        return task_windows(task, "train", self.source.chat, CALIBRATION_TOKENS, CALIBRATION_LONGEST)

    def _loaded(self) -> Transformer:
        """The model itself in float32."""
        weights = self.source.weights
        with torch.device("meta"):
            model = Transformer(weights.config)
        parts = fused_parts(weights.config)
        state = {ours: torch.cat([weights.read(name).float() for name, _ in names]) for ours, names in parts}
        model.load_state_dict(state, assign=True)
        return model

    def _checker(self) -> Callable[[Path], None] | None:
        """Reads the model before it is written; the result compares what was written with it."""
        quality, config = self.options.quality, self.source.weights.config
        if quality.skip or not self.options.loses(self.kind) or not fits(config, quality):
            return None
        held_out = HeldOut.of(quality, self.source.chat)
        before = held_out.read(self._loaded())

        def check(path: Path) -> None:
            after: Reading = held_out.read(read_back(path, self.kind, config, self._bits))
            self.quality = held_out.compare(before, after)

        return check
