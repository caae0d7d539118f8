"""Layouts (model/transformer.py) over the paged cache: one new token a row, or a chunk of each
prompt.

Dimensions: N flat tokens, T blocks of the longest row, H query heads, K key/value heads, E head
width, L tokens that a sequence holds at the end of its chunk, C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from qwq.engine.backends.cuda.paged_attention import paged_attention, write_kv
from qwq.engine.backends.cuda.paged_cache import PagedCache, Table

QUERY_TILE = 512  # queries at once: bounds the scores where no fused attention serves, and so keeps memory linear in L


class PagedDecode:
    """One new token for each of N rows: written at `slots_N`, then attending to positions
    0..positions_N of its row.

    `block_table_NT` int32, `slots_N` int64. A captured graph hands in static tensors; `of` makes
    them from tables.
    """

    def __init__(
        self,
        cache: PagedCache,
        positions_N: Tensor,
        slots_N: Tensor,
        block_table_NT: Tensor,
        yarn_N: Tensor | None = None,
    ) -> None:
        self.cache, self.positions_N, self.slots_N = cache, positions_N, slots_N
        self.block_table_NT, self.yarn_N = block_table_NT, yarn_N
        self.lengths_N = (positions_N + 1).int()

    @classmethod
    def of(cls, cache: PagedCache, tables: Sequence[Table], yarn_N: Tensor | None = None) -> PagedDecode:
        """For tables that have each reserved one token."""
        device = cache.k.device
        positions_N = torch.tensor([len(t.ids) for t in tables], device=device)
        slots_N = torch.tensor([cache.slots(t, 1)[0] for t in tables], device=device)
        return cls(cache, positions_N, slots_N, cache.block_table(tables).to(device), yarn_N)

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        k_cache, v_cache = self.cache.k[layer], self.cache.v[layer]
        write_kv(k_cache, v_cache, k_NKE, v_NKE, self.slots_N)
        return paged_attention(q_NHE, k_cache, v_cache, self.block_table_NT, self.lengths_N).flatten(1)


class PagedPrefill:
    """The next `counts` tokens of each table, one chunk after the other; they must be reserved.

    A chunk attends to what its table holds and causally to itself. Sequences attend one by one,
    each over its own keys gathered from the cache, so none depends on its batch-mates and nothing
    is padded.
    """

    def __init__(
        self, cache: PagedCache, tables: Sequence[Table], counts: Sequence[int], yarn_N: Tensor | None = None
    ) -> None:
        device = cache.k.device
        self.cache, self.counts, self.yarn_N = cache, list(counts), yarn_N
        pairs = list(zip(tables, counts, strict=True))
        self.positions_N = torch.cat([torch.arange(len(t.ids), len(t.ids) + n) for t, n in pairs]).to(device)
        self.slots_N = torch.tensor([s for t, n in pairs for s in cache.slots(t, n)], device=device)
        self.lengths = [len(t.ids) + n for t, n in pairs]
        self.blocks = [
            torch.tensor(t.blocks[: -(-length // cache.block_size)], device=device)
            for (t, _), length in zip(pairs, self.lengths, strict=True)
        ]

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        k_cache, v_cache = self.cache.k[layer], self.cache.v[layer]
        write_kv(k_cache, v_cache, k_NKE, v_NKE, self.slots_N)
        out = []
        for q_CHE, blocks, length in zip(q_NHE.split(self.counts), self.blocks, self.lengths, strict=True):
            k_LKE, v_LKE = (c[blocks].flatten(0, 1)[:length] for c in (k_cache, v_cache))
            out.append(causal_attention(q_CHE, k_LKE, v_LKE).flatten(1))
        return torch.cat(out)


def causal_attention(q_CHE: Tensor, k_LKE: Tensor, v_LKE: Tensor) -> Tensor:
    """The last C of a sequence's L tokens over it, each up to itself: (C, H, E)."""
    C, H, _ = q_CHE.shape
    L, K, _ = k_LKE.shape
    out = []
    for start in range(0, C, QUERY_TILE):
        end = min(start + QUERY_TILE, C)
        seen = L - C + end
        q, k, v = (x.to(q_CHE.dtype).transpose(0, 1)[None] for x in (q_CHE[start:end], k_LKE[:seen], v_LKE[:seen]))
        causal = causal_lower_right(end - start, seen)
        out.append(F.scaled_dot_product_attention(q, k, v, attn_mask=causal, enable_gqa=H != K)[0].transpose(0, 1))
    return torch.cat(out)
