"""`qwq export`: a model in the format of another program."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class MeasureFlags:
    """What a quantised export calibrates on and is measured by."""

    imatrix: bool = False
    """Weigh the columns of a K-quant by their inputs on the task's training prompts."""
    gptq: bool = False
    """Choose the integers of w8a8, w8a16 and w4a16 by GPTQ on the task's training prompts."""
    task: str | None = None
    """Task whose prompts calibrate and measure; math by default, without a score."""
    problems: int | None = None
    """Test problems to answer for the score; 100 by default where a task is named."""
    max_new_tokens: int = 256
    """Longest answer to such a problem."""
    max_loss: float | None = None
    """Write nothing if perplexity rises, or the score falls, by more than this share (0.03)."""
    skip_quality: bool = False
    """Measure nothing."""

    def options(self) -> dict[str, Any]:
        from qwq.release.quality import QualityOptions

        problems = self.problems if self.problems is not None else 100 if self.task else 0
        quality = QualityOptions(
            self.task or "math",
            problems=problems,
            max_new_tokens=self.max_new_tokens,
            max_loss=self.max_loss,
            skip=self.skip_quality,
        )
        return {"imatrix": self.imatrix, "gptq": self.gptq, "quality": quality}


def export(
    model: str,
    out: Path,
    *,
    format: Literal["hf", "gguf", "mlx", "w8a8", "w8a16", "w4a16"] | None = None,
    quant: str | None = None,
    bits: int | None = None,
    adapter: list[Path] | None = None,
    base: str = "",
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    name: str = "",
    license: str = "",
    untie: bool = False,
    measure: MeasureFlags = MeasureFlags(),
) -> int:
    """Write a model for another program: a folder for transformers, vLLM or MLX, or a GGUF file.

    Prints each file with its size and, if quantised, perplexity and score before and after.

    Parameters
    ----------
    model
        Run folder, model folder, GGUF file, hub id, or an adapter's folder (for llama.cpp).
    out
        What to write; it must not be there yet. A name that ends in .gguf is a GGUF file.
    format
        hf (default): the model as it is. gguf: a file for llama.cpp and Ollama. mlx: for mlx_lm.
        w8a8, w8a16, w4a16: int8 or int4 weights as compressed-tensors, for vLLM and transformers.
    quant
        Weights of a GGUF file: F32, F16 (default), BF16, Q8_0, Q4_0, Q3_K_M, Q4_K_M, Q5_K_M, Q6_K.
    bits
        Bits of an MLX folder's weights: 4 (default) or 8.
    adapter
        LoRA adapter folder (ours or PEFT's) to merge; given several times, they are merged in turn.
    base
        Model of an adapter that is exported alone; the adapter's own config names it by default.
    dtype
        Type of a folder's weights that are not quantised: the model's own on disk by default,
        float32 where that is quantised.
    name
        Name of the model in the file; the folder's by default.
    license
        Short name of its licence, such as apache-2.0; what the model's card says by default.
    untie
        Store a tied head as a tensor of its own: vLLM's CPU build needs it (docs/fleet.md).
    """
    from qwq.pipeline.resolve import model_folder
    from qwq.release.export import ExportOptions
    from qwq.release.export import export as write

    own: dict[str, Any] = {"base": base, "untie": untie, **measure.options()}
    options = ExportOptions(format, quant, bits, dtype, adapter or [], name, license, **own)
    exported = write(model_folder(model), out, options)
    for file in exported.files:
        print(f"{file.num_bytes:>14,}  {file.path}")
    if exported.quality is not None:
        print("\n".join(exported.quality.lines()))
    elif options.loses(options.format_of(out)) and not measure.skip_quality:
        print("quality: not measured, the model in float32 does not fit in memory", file=sys.stderr)
    return 0
