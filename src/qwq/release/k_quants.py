"""K-quants by llama.cpp: its kernels encode the rows, and it says itself which tensor is stored
how.

`llama_model_quantize` turns one file into another, so a 32B model would need 65 GB of disk for the
file between. Here it runs on a miniature instead: the model's own metadata and tensor names, two
short rows a tensor. The encodings it gives those are the mix of the whole model, because llama.cpp
chooses by name, layer, number of layers and heads, and by whether a row is whole blocks of 256 or
32. The rows of the model itself go through `ggml_quantize_chunk`, the same kernel with the same
importance matrix. The files are the same byte for byte (tests/unit/release/test_gguf_export.py).
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwq.engine.backends.llama_cpp import llama_cpp
from qwq.errors import InfraError
from qwq.model.config import ModelConfig
from qwq.model.gguf_file import GGUFFile, write_gguf
from qwq.model.gguf_metadata import config_metadata
from qwq.model.gguf_quants import encoding

CHUNK_WEIGHTS = 1 << 20  # encoded by one thread at a time


def mix(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], file_type: int) -> dict[str, str]:
    """How llama.cpp would store each tensor in a file of type `file_type`.

    ConfigError where llama.cpp is not installed.
    """
    library = llama_cpp()
    with tempfile.TemporaryDirectory() as folder:
        small, out = Path(folder) / "small.gguf", Path(folder) / "out.gguf"
        tensors = {name: torch.ones(_small(shape)) for name, shape in shapes.items()}
        write_gguf(small, config_metadata(config) | {"general.quantization_version": 2}, tensors)
        quantise_file(library, small, out, file_type)
        return {name: tensor.encoding for name, tensor in GGUFFile.open(out).tensors.items()}


def _small(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that llama.cpp treats as it treats `shape`: 256, 32 or 1 divide its rows."""
    if len(shape) == 1:
        return (8,)
    return (2, 256 if shape[1] % 256 == 0 else 288 if shape[1] % 32 == 0 else 257)


def quantise_file(
    library: Any,
    source: Path,
    out: Path,
    file_type: int,
    importance: Mapping[str, np.ndarray] | None = None,
) -> None:
    """llama.cpp's own conversion of a whole file."""
    params = library.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = file_type, torch.get_num_threads(), False
    if importance:
        rows = {name: np.ascontiguousarray(values, np.float32) for name, values in importance.items()}
        entries = [
            library.llama_model_imatrix_data(
                name.encode(), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), values.size
            )
            for name, values in rows.items()
        ]
        entries.append(library.llama_model_imatrix_data(None, None, 0))
        params.imatrix = (library.llama_model_imatrix_data * len(entries))(*entries)
    if library.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)):
        raise InfraError(f"llama.cpp could not quantise {source}: run the same command again, or use --quant Q8_0")


def quantised(weight: Tensor, kind: str, importance: np.ndarray | None) -> Iterator[np.ndarray]:
    """A matrix's bytes in the encoding `kind`, some rows at a time.

    `importance` (columns,) weighs the squared error of each column. Several threads encode rows
    side by side; the bytes do not depend on their number.
    """
    if kind in ("F32", "F16", "BF16"):
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
        yield weight.to(dtype).contiguous().view(torch.uint8).flatten().numpy()
        return
    e, rows = encoding(kind), weight.reshape(-1, weight.shape[-1])
    cols = rows.shape[1]
    weights_of_columns = None if importance is None else np.ascontiguousarray(importance, np.float32)
    encode = llama_cpp().llama_cpp._lib.ggml_quantize_chunk
    encode.restype = ctypes.c_size_t
    encode.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip

    def part(rows_RC: Tensor) -> np.ndarray:
        values = rows_RC.float().contiguous().numpy()
        out = np.empty(e.num_bytes(values.size), np.uint8)
        columns = None if weights_of_columns is None else weights_of_columns.ctypes.data
        encode(e.number, values.ctypes.data, out.ctypes.data, 0, len(values), cols, columns)
        return out

    threads = torch.get_num_threads()
    parts = rows.split(max(1, CHUNK_WEIGHTS // cols))
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(parts), 4 * threads):  # so that few encoded parts wait to be written
            yield from pool.map(part, parts[start : start + 4 * threads])
