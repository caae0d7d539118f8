"""How to run a model: one set of typed options for the command line, its configuration file and
`qwq.load`. No torch.

The text under a field is its help. `Parameter` says how the command line spells a field where that
differs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Annotated, Any

from cyclopts import Parameter

from qwq.errors import ConfigError

DTYPES = ("float32", "bfloat16", "float16")
# Other names of element types.
DTYPE_NAMES = {
    "half": "float16", "fp16": "float16", "f16": "float16", "bf16": "bfloat16",
    "float": "float32", "fp32": "float32", "f32": "float32",
}  # fmt: skip
BITS = {"int8": 8, "int4": 4}
SIZES = {"": 1, "k": 1000, "K": 1024, "m": 10**6, "M": 1 << 20}


def read_tokens(text: str) -> int | None:
    """A number of tokens: 8192, 32k (thousands), 32K (1,024 each); None for auto or -1. ConfigError
    for anything else.
    """
    if text in ("auto", "-1"):
        return None
    number = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", text.replace("_", "").replace(",", ""))
    size = float(number[1]) * SIZES[number[2]] if number else 0
    if size < 1 or size != int(size):
        raise ConfigError(f"{text}: give a number of tokens of 1 or more, such as 8192, 32k (32,000) or 32K (32,768)")
    return int(size)


def _convert_tokens(kind: Any, tokens: Any) -> int | None:
    return read_tokens(tokens[0].value)


Tokens = Annotated[int | None, Parameter(converter=_convert_tokens, n_tokens=1)]


def require_range(option: str, value: float | None, least: float, most: float | None = None) -> None:
    """ConfigError if an option's value is outside its range. None means "decide for me"."""
    if value is None or (value >= least and (most is None or value <= most)):
        return
    raise ConfigError(f"{option} {value}: give {least} {'or more' if most is None else f'to {most}'}")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How to run a model for one conversation. ConfigError for what no model can be run with."""

    dtype: str = "auto"
    """float32, bfloat16 (bf16) or float16 (half); auto is float32 on a CPU, bfloat16 on a GPU, and
    the quantised form of a GGUF file (any other value dequantises it)."""
    device: str = "cpu"
    """torch device: cpu, cuda, cuda:1."""
    max_model_len: Tokens = None
    """Longest prompt and answer together, in tokens; 32k is 32,000, 32K is 32,768. auto (or -1) is
    the model's own, at most 32,768.
    """
    threads: int | None = None
    """CPU threads."""
    deterministic: bool = False
    """Batch-invariant decoding: output is bitwise independent of other requests; slower, on a CPU
    only."""
    speculate: bool = False
    """Speculative decoding by prompt lookup: guess tokens from repeated text and verify them; the
    output stays the same.
    """
    yarn: bool = False
    """Extend the context 4 times by YaRN for requests that need it (QwQ-32B does so by itself)."""
    quantization: str | None = None
    """int8 or int4: weight-only quantisation, on a GPU."""
    draft_model: str | None = None
    """Draft model for speculative decoding: a smaller model with the same tokenizer (folder or GGUF
    file)."""
    draft_tokens: int = 4
    """Tokens the draft model proposes at once."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", DTYPE_NAMES.get(self.dtype, self.dtype))
        if self.dtype not in ("auto", *DTYPES):
            raise ConfigError(f"--dtype {self.dtype}: give auto, {', '.join(DTYPES)}")
        if self.quantization not in (None, *BITS):
            raise ConfigError(f"--quantization {self.quantization}: give {' or '.join(BITS)}")
        if self.quantization and not self.device.startswith("cuda"):
            raise ConfigError("--quantization is for GPUs; on a CPU quantised weights come as a GGUF file")
        if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", self.device):
            raise ConfigError(f"--device {self.device}: give cpu, cuda or a GPU's number, as cuda:1")
        require_range("--threads", self.threads, 1)
        require_range("--draft-tokens", self.draft_tokens, 1)

    def engine(self, **batching: Any) -> EngineOptions:
        """These options with those of a batch."""
        return EngineOptions(**{f.name: getattr(self, f.name) for f in fields(ModelOptions)}, **batching)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions(ModelOptions):
    """How to run a model for many sequences at once. None and "auto" are decided from the model and
    the machine.
    """

    kv_tokens: Tokens = None
    """Size of the KV cache over all sequences, in tokens, written like --max-model-len."""
    max_num_seqs: int = 32
    """Sequences computed at once."""
    max_num_batched_tokens: int = 512
    """Tokens computed in one step."""
    enable_prefix_caching: Annotated[bool, Parameter(negative="--no-enable-prefix-caching")] = True
    """Automatic prefix caching: reuse the KV cache of shared prompt prefixes."""
    cache_repair: Annotated[str, Parameter(parse=False)] = ""
    """What to lower if the KV cache does not fit, for a command without these options."""

    def __post_init__(self) -> None:
        super(EngineOptions, self).__post_init__()
        require_range("--kv-tokens", self.kv_tokens, 1)
        require_range("--max-num-seqs", self.max_num_seqs, 1)
        require_range("--max-num-batched-tokens", self.max_num_batched_tokens, 1)


MODEL_DEFAULTS = ModelOptions()
ENGINE_DEFAULTS = EngineOptions()
