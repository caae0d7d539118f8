"""The GGUF container: metadata, a table of tensors and their bytes in one memory-mapped file; and a
small writer.

Covers versions 2 and 3, little-endian. Does not cover big-endian files and arrays of arrays
(llama.cpp refuses them too). A file is somebody else's: every count and length in its header is
held against the bytes that are left before anything is made of it, so a damaged header costs a
ModelError, never memory. Memory and time for a header are bounded by the MAX_ constants. A file
that is cut short while it is mapped kills the process, as with any mapping.

Source: the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md).
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from qwq.common.files import need_room
from qwq.errors import ModelError
from qwq.model.gguf_quants import BY_NUMBER, ENCODINGS, OTHER_ENCODINGS, dequantise, encoding, quantise

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT, MAX_ALIGNMENT = 32, 1 << 20
MAX_HEADER_BYTES = 128 << 20  # the largest vocabularies take about 20 MiB
MAX_ENTRIES = 1 << 16  # metadata keys, and tensors
MAX_STRINGS = 1 << 22  # in all arrays together; the largest vocabularies and their merges come to a million
MAX_KEY_BYTES, MAX_NAME_BYTES, MAX_DIMS = 65535, 64, 4  # the specification's
# Decoded at a time. A processor wants them in its cache, an accelerator wants few kernels.
CHUNK_WEIGHTS, DEVICE_CHUNK_WEIGHTS = 1 << 18, 1 << 24
WRITE_CHUNK_BYTES = 16 << 20

STRING, ARRAY, BOOL = 8, 9, 7
# The specification's number of each scalar type. Booleans are read as bytes, because other values
# than 0 and 1 are damage.
SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """Where a tensor is.

    `shape` is in torch's order, slowest first; `offset` counts from the start of the file.
    """

    name: str
    shape: tuple[int, ...]
    encoding: str
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class GGUFFile:
    """An open file.

    Arrays of numbers in `metadata` are NumPy arrays that read from the file, all else is plain
    Python.
    """

    path: Path
    version: int
    alignment: int
    metadata: dict[str, Any] = field(repr=False)
    tensors: dict[str, GGUFTensor] = field(repr=False)
    _map: mmap.mmap = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> GGUFFile:
        """Read the header; the weights stay on disk.

        ModelError where the file is missing, damaged or of another kind.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise ModelError(f"no GGUF file at {path}: give the path of a .gguf file")
        with path.open("rb") as f:
            size = os.fstat(f.fileno()).st_size
            if size < 24:
                raise ModelError(f"{path}: {size} bytes, a GGUF header has at least 24: fetch or write it again")
            mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        return _Header(path, mapped).read()

    def raw(self, tensor: GGUFTensor) -> np.ndarray:
        """The tensor's bytes as they are stored, a read-only view of the file."""
        return np.frombuffer(self._map, np.uint8, tensor.num_bytes, tensor.offset)

    def chunks(self, tensor: GGUFTensor, device: torch.device | str = "cpu") -> Iterator[tuple[slice, Tensor]]:
        """The tensor's weights as float32 on `device`, some rows at a time: which rows, and their
        values.

        A vector comes as one row of shape (1, length). At most (DEVICE_)CHUNK_WEIGHTS weights, or
        one row, are held at a time.
        """
        cols = tensor.shape[-1]
        num_rows = math.prod(tensor.shape[:-1])
        row_bytes = ENCODINGS[tensor.encoding].num_bytes(cols)
        data = self.raw(tensor)
        step = max(1, (CHUNK_WEIGHTS if torch.device(device).type == "cpu" else DEVICE_CHUNK_WEIGHTS) // cols)
        for start in range(0, num_rows, step):
            end = min(start + step, num_rows)
            # Copied, because torch takes no read-only memory.
            part = torch.from_numpy(data[start * row_bytes : end * row_bytes].copy()).to(device)
            yield slice(start, end), dequantise(part, tensor.encoding).view(-1, cols)

    def read(self, name: str, device: torch.device | str = "cpu") -> Tensor:
        """One whole tensor as float32. ModelError where the file has none of that name."""
        if name not in self.tensors:
            raise ModelError(f"{self.path}: no tensor {name!r} among its {len(self.tensors)}: check the name")
        tensor = self.tensors[name]
        out = torch.empty(math.prod(tensor.shape[:-1]), tensor.shape[-1], device=device)
        for rows, values in self.chunks(tensor, device):
            out[rows] = values
        return out.view(tensor.shape)


class _Header:
    """Reads a header from front to back."""

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self.path, self.map, self.at = path, mapped, 0
        self.size = len(mapped)
        self.end = min(self.size, MAX_HEADER_BYTES)
        self.strings_left = MAX_STRINGS

    def read(self) -> GGUFFile:
        if (magic := self.map[:4]) != MAGIC:
            raise self.fault(f"begins with {magic!r}", f"{MAGIC!r} is expected")
        self.at = 4
        version = self.scalar(4, "the version")
        if version not in VERSIONS:
            kind = "a big-endian file" if version in (1 << 24, 2 << 24, 3 << 24) else f"version {version}"
            raise self.fault(f"is {kind}", "little-endian GGUF of version 2 or 3 is read here")
        num_tensors, num_keys = self.scalar(10, "the number of tensors"), self.scalar(10, "the number of metadata keys")
        # At least: a key of one letter, its type and one byte; a name of one letter, one dimension,
        # type and offset.
        self.entries(num_keys, 14, "metadata keys")
        metadata: dict[str, Any] = {}
        for i in range(num_keys):
            key = self.string(f"metadata key {i}", MAX_KEY_BYTES)
            if key in metadata:
                raise self.fault(f"has metadata key {short(key)} twice", "once is expected")
            metadata[key] = self.value(self.scalar(4, f"the type of {short(key)}"), short(key))
        self.entries(num_tensors, 33, "tensors")
        table: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for i in range(num_tensors):
            name = self.string(f"the name of tensor {i}", MAX_NAME_BYTES)
            if name in table:
                raise self.fault(f"has tensor {short(name)} twice", "once is expected")
            table[name] = self.entry(short(name))
        alignment = self.alignment(metadata)
        start = -(-self.at // alignment) * alignment
        tensors = {name: self.placed(name, *entry, start, alignment) for name, entry in table.items()}
        self.check_apart(tensors)
        return GGUFFile(self.path, version, alignment, metadata, tensors, self.map)

    # -- values ------------------------------------------------------------------------------------

    def fault(self, found: str, expected: str) -> ModelError:
        return ModelError(f"{self.path} {found}, {expected}: fetch or write it again")

    def need(self, num_bytes: int, what: str) -> None:
        """ModelError unless `num_bytes` can still follow."""
        left = self.end - self.at
        if num_bytes <= left:
            return
        if num_bytes <= self.size - self.at:
            most = f"{MAX_HEADER_BYTES >> 20} MiB"
            raise self.fault(f"has a header of more than {most}", f"at most {most} are expected")
        found = f"is cut short or damaged: {left} bytes are left at byte {self.at}"
        raise self.fault(found, f"{num_bytes} are needed for {what}")

    def entries(self, count: int, item_bytes: int, what: str) -> None:
        self.need(count * item_bytes, f"{count} {what}")
        if count > MAX_ENTRIES:
            raise self.fault(f"has {count} {what}", f"at most {MAX_ENTRIES} are expected")

    def scalar(self, kind: int, what: str) -> Any:
        dtype = np.dtype(SCALARS[kind])
        self.need(dtype.itemsize, what)
        value = np.frombuffer(self.map, dtype, 1, self.at)[0].item()
        self.at += dtype.itemsize
        return value

    def string(self, what: str, longest: int | None = None) -> str:
        """A text; where `longest` is given, a name: 1 to so many bytes allowed in a
        message.
        """
        length = self.scalar(10, f"the length of {what}")
        if longest is not None and not 1 <= length <= longest:
            raise self.fault(f"has {length} bytes for {what}", f"1 to {longest} are expected")
        self.need(length, what)
        start, self.at = self.at, self.at + length
        found = self.text(start, what)
        if longest is not None and not found.isprintable():
            raise self.fault(f"has {short(found)} for {what}", "printable characters are expected")
        return found

    def text(self, start: int, what: str) -> str:
        try:
            return str(self.map[start : self.at], "utf-8")
        except UnicodeDecodeError as error:
            where = start + error.start
            raise self.fault(f"has a byte at {where} in {what} that is no UTF-8", "text is expected") from None

    def value(self, kind: int, what: str) -> Any:
        if kind == STRING:
            return self.string(what)
        if kind == ARRAY:
            return self.array(what)
        if kind not in SCALARS:
            raise self.fault(f"gives {what} the value type {kind}", "0 to 12 are expected")
        value = self.scalar(kind, what)
        return self.booleans(np.array([value]), what).item() if kind == BOOL else value

    def booleans(self, values: np.ndarray, what: str) -> np.ndarray:
        if values.size and values.max() > 1:
            raise self.fault(f"has {values.max()} for a truth value of {what}", "0 or 1 is expected")
        return values.astype(bool)

    def array(self, what: str) -> np.ndarray | list[str]:
        kind, count = self.scalar(4, f"the item type of {what}"), self.scalar(10, f"the length of {what}")
        if kind == STRING:
            return self.strings(count, what)
        if kind not in SCALARS:
            raise self.fault(f"gives items of {what} the value type {kind}", "numbers or texts are expected")
        dtype = np.dtype(SCALARS[kind])
        self.need(count * dtype.itemsize, f"{count} numbers of {what}")
        values = np.frombuffer(self.map, dtype, count, self.at) if count else np.empty(0, dtype)
        self.at += values.nbytes
        return self.booleans(values, what) if kind == BOOL else values

    def strings(self, count: int, what: str) -> list[str]:
        """A vocabulary has some hundred thousand: this loop does without `string`, which takes ten
        times as long.
        """
        self.need(8 * count, f"{count} texts of {what}")
        self.strings_left -= count
        if self.strings_left < 0:
            raise self.fault(f"has more than {MAX_STRINGS} texts", f"at most {MAX_STRINGS} are expected")
        unpack, mapped, end = struct.Struct("<Q").unpack_from, self.map, self.end
        out: list[str] = []
        for _ in range(count):
            if self.at + 8 > end:
                self.need(8, f"a text of {what}")
            (length,) = unpack(mapped, self.at)
            self.at += 8
            if length > end - self.at:
                self.need(length, f"a text of {what}")
            start, self.at = self.at, self.at + length
            out.append(self.text(start, what))
        return out

    # -- tensors -----------------------------------------------------------------------------------

    def entry(self, shown: str) -> tuple[tuple[int, ...], int, int]:
        """Dimensions as stored (fastest first), number of the encoding, and offset from the start
        of the data.
        """
        num_dims = self.scalar(4, f"the number of dimensions of {shown}")
        if not 1 <= num_dims <= MAX_DIMS:
            raise self.fault(f"gives {shown} {num_dims} dimensions", f"1 to {MAX_DIMS} are expected")
        dims = tuple(self.scalar(10, f"a dimension of {shown}") for _ in range(num_dims))
        return dims, self.scalar(4, f"the encoding of {shown}"), self.scalar(10, f"the offset of {shown}")

    def alignment(self, metadata: Mapping[str, Any]) -> int:
        found = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(found) is not int or not 8 <= found <= MAX_ALIGNMENT or found & (found - 1):
            raise self.fault(f"has alignment {short(found)}", f"a power of two from 8 to {MAX_ALIGNMENT} is expected")
        return found

    def placed(
        self, name: str, dims: tuple[int, ...], number: int, offset: int, start: int, alignment: int
    ) -> GGUFTensor:
        shown = f"tensor {short(name)}"
        if number not in BY_NUMBER:
            kind = OTHER_ENCODINGS.get(number, f"type {number}")
            raise ModelError(
                f"{self.path}: {shown} is stored as {kind}; {', '.join(ENCODINGS)} are read here: use a Q4_K_M or "
                "Q8_0 file"
            )
        e = BY_NUMBER[number]
        if min(dims) < 1 or dims[0] % e.block_weights:
            whole = f"a row of whole blocks of {e.block_weights} weights" if min(dims) else "no empty dimension"
            raise self.fault(f"has {shown} of {list(dims[::-1])} in {e.name}", f"{whole} is expected")
        num_bytes = e.num_bytes(math.prod(dims))
        if offset % alignment:
            raise self.fault(f"has {shown} at offset {offset}", f"a multiple of {alignment} is expected")
        if start + offset + num_bytes > self.size:
            needed = f"{start + offset + num_bytes} are needed for {shown} {list(dims[::-1])} in {e.name}"
            raise self.fault(f"is cut short or damaged: {self.size} bytes are there", needed)
        return GGUFTensor(name, dims[::-1], e.name, start + offset, num_bytes)

    def check_apart(self, tensors: Mapping[str, GGUFTensor]) -> None:
        ordered = sorted(tensors.values(), key=lambda t: t.offset)
        for a, b in itertools.pairwise(ordered):
            if a.offset + a.num_bytes > b.offset:
                found = f"has tensor {short(b.name)} at byte {b.offset}, inside {short(a.name)}"
                raise self.fault(found, f"{a.offset + a.num_bytes} or later is expected")


def short(value: Any) -> str:
    """A name or value from the file, fit for a message of one line."""
    if isinstance(value, list | np.ndarray):
        value = list(value[:40]) if isinstance(value, list) else value[:40].tolist()
    elif isinstance(value, str):
        value = value[:80]
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# -- writing ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tensor to write whose bytes come piece by piece, so that a file may be larger than memory.

    `shape` is torch's.
    """

    encoding: str
    shape: tuple[int, ...]
    chunks: Iterable[bytes | memoryview | np.ndarray]

    @property
    def num_bytes(self) -> int:
        e = encoding(self.encoding)
        if not self.shape or min(self.shape) < 1 or self.shape[-1] % e.block_weights:
            raise ModelError(
                f"{self.encoding} has blocks of {e.block_weights} weights, rows are of {list(self.shape)}: write F16"
            )
        return e.num_bytes(math.prod(self.shape))


def encode(weights: Tensor, name: str) -> Encoded:
    """A tensor as F32, F16, BF16, Q8_0 or Q4_0, converted some rows at a time while it is
    written.
    """

    def chunks() -> Iterator[np.ndarray]:
        rows = weights.detach().reshape(-1, weights.shape[-1])
        for part in rows.split(max(1, WRITE_CHUNK_BYTES // 4 // rows.shape[1])):
            yield quantise(part.cpu(), name).numpy()

    return Encoded(name, tuple(weights.shape), chunks())


PLAIN = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_gguf(
    path: str | Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Tensor | Encoded],
    *,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write a GGUF file of version 3, whole or not at all. Tensors are F32, F16 or BF16 as their
    dtype says, or `Encoded`.

    `check` sees the finished file before it takes its place; what it raises leaves nothing behind.
    Metadata: bool, int (uint32 where it fits), float (float32), str, NumPy arrays, and lists of one
    of these kinds. ModelError where a value has no place in the format, or pieces do not add up to
    their tensor.
    """
    path = Path(path)
    encoded = {k: t if isinstance(t, Encoded) else encode(t, PLAIN[t.dtype]) for k, t in tensors.items()}
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    header = bytearray(MAGIC + struct.pack("<IQQ", VERSIONS[-1], len(encoded), len(metadata)))
    for key, value in metadata.items():
        header += _string(key) + _value(key, value)
    offset = 0
    for name, tensor in encoded.items():
        dims = tensor.shape[::-1]
        number = encoding(tensor.encoding).number
        header += _string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, number, offset)
        offset += tensor.num_bytes + -tensor.num_bytes % alignment
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    need_room(path, len(header) + alignment + offset)
    try:
        with partial.open("wb") as f:
            f.write(header + bytes(-len(header) % alignment))
            for name, tensor in encoded.items():
                written = sum(f.write(cast("bytes", chunk)) for chunk in tensor.chunks)
                if written != tensor.num_bytes:
                    raise ModelError(
                        f"{path}: pieces of {name} give {written} bytes, its shape needs {tensor.num_bytes}: give "
                        "them all"
                    )
                f.write(bytes(-written % alignment))
            f.flush()
            os.fsync(f.fileno())
        if check is not None:
            check(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(key: str, value: Any) -> bytes:
    """Type number and bytes of a metadata value."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_string, value))
    array = value if isinstance(value, np.ndarray | np.generic) else np.array(value)
    if not isinstance(value, np.ndarray | np.generic) and array.dtype.kind in "if":
        narrow = np.dtype("u4" if array.ndim == 0 else "i4") if array.dtype.kind == "i" else np.dtype("f4")
        fits = array.dtype.kind == "f" or (array == array.astype(narrow)).all()
        array = array.astype(narrow if fits else "i8")
    kinds = {np.dtype(code): kind for kind, code in SCALARS.items() if kind != BOOL} | {np.dtype(bool): BOOL}
    dtype = array.dtype.newbyteorder("<") if array.dtype.kind in "iuf" else array.dtype
    if dtype not in kinds or array.ndim > 1:
        raise ModelError(
            f"metadata {key} is {short(value)}, of no type that GGUF has: give numbers, texts or a list of one kind"
        )
    kind = struct.pack("<I", kinds[dtype])
    if array.ndim == 0:
        return kind + array.astype(dtype).tobytes()
    return struct.pack("<I", ARRAY) + kind + struct.pack("<Q", array.size) + array.astype(dtype).tobytes()
