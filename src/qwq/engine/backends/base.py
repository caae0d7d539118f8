"""Backend interface: KV cache slots and one batched forward pass; for some, decoding of many steps
in a row.

`torch` (our own module on a CPU), `dense` (the same for rollouts, many steps in a row), `llama`
(llama.cpp's kernels on a GGUF file) and `cuda` (our own module on a GPU, paged) implement it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from qwq.engine.sampler import SamplingParams


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one slot to compute in this step: `ids` are at positions start, start + 1, ...

    Logits are computed for the last `num_logits` of them. `prompt` says that they are prompt tokens
    (deterministic mode computes those in blocks of their own).
    """

    slot: int
    ids: Sequence[int]
    start: int
    num_logits: int
    yarn: bool = False
    prompt: bool = False


class Backend(Protocol):
    vocab_size: int
    max_positions: int
    max_slots: int  # slots that can exist at once, running and cached
    slot_capacity: int  # tokens that one slot alone can hold
    chunk_unit: int  # a prompt's chunks begin at multiples of this many tokens
    deterministic: bool
    has_yarn: bool
    own_threads: bool  # it computes on threads other than torch's

    def open_slot(self) -> int | None:
        """A new empty slot, None if there is no place for one."""
        ...

    def close_slot(self, slot: int) -> None: ...

    def reserve(self, slot: int, length: int) -> bool:
        """Make room for `length` tokens in a slot; False if memory does not allow it."""
        ...

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """Give an empty slot the first `length` tokens of another; False if memory does not allow
        it.
        """
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Forget a slot's tokens from `length` on."""
        ...

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """Float32 logits (total num_logits, V) on the CPU, in the chunks' order."""
        ...


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """A slot that decodes on: all its tokens are computed but `last`, at `position`.

    The next token is drawn with number `draw` of the random stream `seed`. `limit` new tokens end
    the run of steps; at most `room` will be written before the row is unloaded.
    """

    slot: int
    last: int
    position: int
    seed: int
    draw: int
    limit: int
    room: int


@dataclass(frozen=True, slots=True)
class RowOutput:
    """What a slot has written since it was loaded, with the log-probability that each token was
    drawn with.
    """

    slot: int
    ids: list[int]
    logprobs: list[float]


@runtime_checkable
class BatchBackend(Backend, Protocol):
    """A backend that decodes many steps in a row, with all loaded rows in one batch."""

    def grow(self, num_slots: int, width: int) -> None:
        """Get ready for so many slots in all, of at most `width` tokens each."""
        ...

    def copy_prefixes(self, source: int, targets: Sequence[int], length: int) -> None:
        """`copy_prefix` for many targets."""
        ...

    def load(self, rows: Sequence[DecodeRow]) -> None:
        """Add rows to those that decode."""
        ...

    def decode(self, params: SamplingParams, eos_ids: Sequence[int]) -> tuple[list[RowOutput], int]:
        """Decode all rows until at least one of them samples an end token, reaches its limit or has
        logits that are not finite (its last log-probability is NaN). Returns the outputs of these
        rows and the number of steps.
        """
        ...

    def outputs(self, slots: Sequence[int]) -> list[RowOutput]:
        """What loaded rows have written since they were loaded."""
        ...

    def set_limit(self, slot: int, limit: int) -> None:
        """The row's new limit, counted like the first one from its loading."""
        ...

    def unload(self, slots: Sequence[int], *, keep: bool) -> None:
        """Take rows out of the batch. `keep`: their keys and values are still needed."""
        ...
