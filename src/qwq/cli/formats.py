"""`qwq export`: a model in the format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def export(
    model: str,
    out: Path,
    *,
    format: Literal["hf", "gguf"] | None = None,
    quant: str | None = None,
    adapter: list[Path] | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    name: str = "",
    license: str = "",
) -> int:
    """Write a model for another program: a Hugging Face folder, or a GGUF file.

    Parameters
    ----------
    model
        Run folder, model folder, GGUF file, or hub id.
    out
        What to write; it must not be there yet. A name that ends in .gguf is a GGUF file.
    format
        hf: a folder for transformers, vLLM and SGLang, the default. gguf: a file for llama.cpp and
        Ollama.
    quant
        Weights of a GGUF file: F32, F16 (default), BF16, Q8_0, Q4_0, Q3_K_M, Q4_K_M, Q5_K_M, Q6_K.
    adapter
        LoRA adapter folder (ours or PEFT's) to merge; given several times, they are merged in turn.
    dtype
        Type of the weights of an hf folder: the model's own on disk by default, float32 where that
        is quantised.
    name
        Name of the model in the file; the folder's by default.
    license
        Short name of its licence, such as apache-2.0; what the model's card says by default.
    """
    from qwq.pipeline.resolve import model_folder
    from qwq.release.export import ExportOptions
    from qwq.release.export import export as write

    options = ExportOptions(format, quant, dtype, adapter or [], name, license)
    for file in write(model_folder(model), out, options):
        print(f"{file.num_bytes:>14,}  {file.path}")
    return 0
