"""What the scheduler needs of a machine that computes logits: slots of keys and values, and one forward pass.

Two exist: `torch_backend` (our own module) and `llama_backend` (llama.cpp's kernels on a GGUF file).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one slot to compute in this step: `ids` stand at positions start, start + 1, ...

    Logits are wanted for the last `num_logits` of them. `prompt` says that they are prompt tokens (deterministic mode
    computes those in blocks of their own).
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
        """A new empty slot, None where there is no place for one."""
        ...

    def close_slot(self, slot: int) -> None: ...

    def reserve(self, slot: int, length: int) -> bool:
        """Make room for `length` tokens in a slot; False where memory does not allow it."""
        ...

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """Give an empty slot the first `length` tokens of another; False where memory does not allow it."""
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Forget a slot's tokens from `length` on."""
        ...

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """Float32 logits (total num_logits, V) on the CPU, in the chunks' order."""
        ...
