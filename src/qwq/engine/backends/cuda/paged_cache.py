"""A key/value cache in blocks: shared by forks, kept for later requests with the same beginning.

The life of a block: free; held by one table or several (its count); after its last table closed,
free again or, when it is full and known by its key, cached: counted 0, its content kept, the one
unused longest given up first when no block is free. A key hashes the block's tokens with the key
before it, so equal keys mean equal sequences up to there (vLLM's automatic prefix caching;
PagedAttention, Kwon et al. 2023, arXiv 2309.06180). Only full blocks have keys and full blocks are
not written again (a truncated one loses its key first); the last partial block is copied before it
is written if another table holds it.

How a request uses it: `open` (finds its cached beginning), then for each forward pass `reserve`,
run the layout, `commit` the tokens; `fork` for more samples; `truncate` after rejected drafts;
`close`. Block 0 is scratch: padding rows of a fixed-size batch write there.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from qwq.errors import CapacityError
from qwq.model.config import ModelConfig

SCRATCH = 0


@dataclass(slots=True, eq=False)
class Table:
    """One sequence's tokens in the cache and the blocks that hold them (int32, some perhaps
    reserved and still empty).
    """

    extra: str = ""  # what else the keys and values depend on, YaRN on or off for one
    ids: list[int] = field(default_factory=list)
    blocks: array[int] = field(default_factory=lambda: array("i"))
    keys: list[bytes] = field(default_factory=list)  # of its full blocks
    num_cached: int = 0  # tokens found by `open`
    stale: bool = False  # opened before `forget`: its blocks are not offered to others


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Blocks by state (scratch not counted) and what happened so far; tokens for `asked` and
    `hits`, blocks otherwise.
    """

    free: int
    cached: int
    in_use: int
    asked: int
    hits: int
    evictions: int
    copies: int


def block_key(parent: bytes, ids: Sequence[int], extra: str) -> bytes:
    """16 bytes that stand for `ids` after everything `parent` stands for."""
    words = array("q", ids).tobytes()
    return hashlib.blake2b(b"|".join((parent, extra.encode(), words)), digest_size=16).digest()


class BlockPool:
    """The accounting of `num_blocks` blocks, without tensors. Every change is all or nothing."""

    def __init__(self, num_blocks: int, block_size: int = 16) -> None:
        if num_blocks < 2:
            raise CapacityError(
                f"a key/value cache of {num_blocks} blocks holds nothing: 1 is scratch, give it 2 or more"
            )
        self.num_blocks, self.block_size = num_blocks, block_size
        self.free = list(range(num_blocks - 1, SCRATCH, -1))  # a stack
        self.counts = [0] * num_blocks
        self.cached: OrderedDict[int, None] = OrderedDict()  # oldest first
        self.block_of: dict[bytes, int] = {}
        self.key_of: dict[int, bytes] = {}
        self.tables: set[Table] = set()
        self.asked = self.hits = self.evictions = self.copies = 0

    @property
    def num_available(self) -> int:
        """Blocks that `reserve` can still give out."""
        return len(self.free) + len(self.cached)

    def open(self, ids: Sequence[int], extra: str = "") -> Table:
        """A table that starts with as many cached blocks of `ids` as there are, one token at least
        left to compute.
        """
        table, size = Table(extra), self.block_size
        for end in range(size, len(ids), size):
            key = block_key(table.keys[-1] if table.keys else b"", ids[end - size : end], extra)
            if (block := self.block_of.get(key)) is None:
                break
            self._hold(block)
            table.blocks.append(block)
            table.keys.append(key)
        table.num_cached = len(table.keys) * size
        table.ids.extend(ids[: table.num_cached])
        self.asked += len(ids)
        self.hits += table.num_cached
        self.tables.add(table)
        return table

    def fork(self, table: Table) -> Table:
        """A second table of the same tokens in the same blocks."""
        used = -(-len(table.ids) // self.block_size)
        twin = Table(table.extra, list(table.ids), table.blocks[:used], list(table.keys), table.num_cached, table.stale)
        for block in twin.blocks:
            self._hold(block)
        self.tables.add(twin)
        return twin

    def blocks_needed(self, table: Table, num_tokens: int) -> int:
        """How many blocks `reserve` would take."""
        more = -(-(len(table.ids) + num_tokens) // self.block_size) - len(table.blocks)
        return max(more, 0) + self._must_copy(table)

    def reserve(self, table: Table, num_tokens: int) -> None:
        """Room for the next `num_tokens` tokens, in blocks that no other table reads. Raises
        CapacityError, changing nothing.
        """
        if (need := self.blocks_needed(table, num_tokens)) > self.num_available:
            raise CapacityError(
                f"need {need} more key/value blocks of {self.block_size} tokens, {self.num_available} of "
                f"{self.num_blocks - 1} are free: run fewer rows at once or give the cache more memory"
            )
        if self._must_copy(table):
            at = len(table.ids) // self.block_size
            shared, own = table.blocks[at], self._take()
            self._copy(shared, own)
            self._drop(shared)
            table.blocks[at] = own
            self.copies += 1
        elif len(table.ids) % self.block_size:
            self._unpublish(table.blocks[len(table.ids) // self.block_size])  # full before it was truncated
        while len(table.blocks) * self.block_size < len(table.ids) + num_tokens:
            table.blocks.append(self._take())

    def slots(self, table: Table, num_tokens: int) -> list[int]:
        """Where the next `num_tokens` tokens go: block * block_size + place in it. They must be
        reserved.
        """
        start, size = len(table.ids), self.block_size
        return [table.blocks[t // size] * size + t % size for t in range(start, start + num_tokens)]

    def commit(self, table: Table, ids: Sequence[int]) -> None:
        """Tokens whose keys and values were written (or are next on the GPU's stream); full blocks
        become findable.
        """
        table.ids.extend(ids)
        size = self.block_size
        assert len(table.ids) <= len(table.blocks) * size, "commit of tokens that were not reserved"
        for at in range(len(table.keys), len(table.ids) // size):
            key = block_key(table.keys[-1] if table.keys else b"", table.ids[at * size : (at + 1) * size], table.extra)
            table.keys.append(key)
            # Two tables may compute the same block side by side: the first is found, the second
            # stays unknown.
            if not table.stale and key not in self.block_of:
                self.block_of[key], self.key_of[table.blocks[at]] = table.blocks[at], key

    def truncate(self, table: Table, length: int) -> None:
        """Forget a table's tokens from `length` on, and the blocks reserved behind them."""
        assert 0 <= length <= len(table.ids)
        del table.ids[length:], table.keys[length // self.block_size :]
        for block in reversed(table.blocks[-(-length // self.block_size) :]):
            self._drop(block)
        del table.blocks[-(-length // self.block_size) :]

    def close(self, table: Table) -> None:
        """Let go of a table's blocks, the last first, so that a sequence's end is evicted before
        its beginning.
        """
        self.tables.remove(table)
        for block in reversed(table.blocks):
            self._drop(block)
        table.blocks = array("i")

    def forget(self) -> None:
        """Nothing written so far is found again: the weights changed. Open tables keep their
        blocks.
        """
        self.free.extend(self.cached)
        for known in (self.cached, self.block_of, self.key_of):
            known.clear()
        for table in self.tables:
            table.stale = True

    def stats(self) -> CacheStats:
        in_use = self.num_blocks - 1 - self.num_available
        return CacheStats(len(self.free), len(self.cached), in_use, self.asked, self.hits, self.evictions, self.copies)

    def check(self) -> None:
        """Every invariant, for tests: asserts."""
        held = Counter(block for table in self.tables for block in table.blocks)
        states = [*self.free, *self.cached, *held]
        assert sorted(states) == list(range(1, self.num_blocks)), "a block is in no state, or in two"
        assert all(self.counts[b] == held[b] for b in range(self.num_blocks)), "a count is not the number of its tables"
        assert self.block_of == {key: block for block, key in self.key_of.items()}, "keys and blocks do not match"
        assert set(self.cached) <= set(self.key_of), "a cached block without a key"
        assert not set(self.free) & set(self.key_of), "a free block with a key"
        for table in self.tables:
            full = len(table.ids) // self.block_size
            assert len(table.ids) <= len(table.blocks) * self.block_size and len(table.keys) == full
            assert len(set(table.blocks)) == len(table.blocks), "a table holds a block twice"
            for at, block in enumerate(table.blocks):
                if block in self.key_of and at < full:
                    assert self.key_of[block] == table.keys[at], "a block's key is not its content's"
                if at > full:
                    assert self.counts[block] == 1 and block not in self.key_of, "an empty block is shared or known"

    def _must_copy(self, table: Table) -> bool:
        at = len(table.ids) // self.block_size
        return at < len(table.blocks) and self.counts[table.blocks[at]] > 1

    def _hold(self, block: int) -> None:
        self.cached.pop(block, None)
        self.counts[block] += 1

    def _take(self) -> int:
        if self.free:
            block = self.free.pop()
        else:
            block, _ = self.cached.popitem(last=False)
            self._unpublish(block)
            self.evictions += 1
        self.counts[block] = 1
        return block

    def _unpublish(self, block: int) -> None:
        if (key := self.key_of.pop(block, None)) is not None:
            del self.block_of[key]

    def _drop(self, block: int) -> None:
        self.counts[block] -= 1
        if not self.counts[block]:
            if block in self.key_of:
                self.cached[block] = None
            else:
                self.free.append(block)

    def _copy(self, source: int, target: int) -> None:
        """What copies a block's content, where there is any."""


class PagedCache(BlockPool):
    """A BlockPool with its keys and values: `k`, `v` (layers, blocks, block size, K heads, E)."""

    def __init__(
        self, config: ModelConfig, num_blocks: int, block_size: int = 16, *,
        device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__(num_blocks, block_size)
        shape = (config.num_layers, num_blocks, block_size, config.num_kv_heads, config.head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)

    @staticmethod
    def block_bytes(config: ModelConfig, block_size: int = 16, bytes_per_value: int = 2) -> int:
        return 2 * config.num_layers * config.num_kv_heads * config.head_dim * block_size * bytes_per_value

    def block_table(self, tables: Sequence[Table]) -> Tensor:
        """Block numbers (B, T) int32 on the CPU, rows filled up with the scratch block."""
        width = max(len(t.blocks) for t in tables)
        out_BT = np.full((len(tables), width), SCRATCH, dtype=np.int32)
        for row, table in zip(out_BT, tables, strict=True):
            row[: len(table.blocks)] = table.blocks
        return torch.from_numpy(out_BT)

    def _copy(self, source: int, target: int) -> None:
        self.k[:, target] = self.k[:, source]
        self.v[:, target] = self.v[:, source]
