"""One decode step of fixed size, recorded once as a CUDA graph and replayed: a step costs one
launch, not hundreds.

A batch is padded up to the next recorded number of rows, and its block table to the next recorded
width. A padding row feeds token 0 at position 0 into the scratch block and reads that one slot; its
logits are dropped. Where there is no CUDA, the same padded step runs as it is.

The step is Transformer.forward with two departures, as recording allows no transfer from the host:
1. cosines and sines are looked up by position in a table made once, not computed;
2. a quantised head is called as a layer (Transformer.logits would unpack its matrix).

Dimensions: B rows, D hidden width, V vocabulary, T blocks of a row, X columns of a row's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qwq.engine.backends.cuda.layout import PagedDecode
from qwq.engine.backends.cuda.paged_cache import SCRATCH, PagedCache, Table
from qwq.engine.backends.cuda.quantise import QuantLinear
from qwq.errors import CapacityError
from qwq.model.rope import rope_tables
from qwq.model.transformer import Transformer

POSITION, SLOT, YARN, TABLE = 0, 1, 2, 4  # columns; the table starts at 4, on a 16-byte boundary


def ladder(top: int, first: int = 1, factor: int = 2) -> list[int]:
    """first, first * factor, ... up to and with `top`."""
    steps = []
    while first < top:
        steps.append(first)
        first *= factor
    return [*steps, top]


class DecodeStep:
    """Feeds one token of each of up to `max_rows` tables of up to `max_tokens` tokens; gives logits
    (B, V).

    The tables must have reserved a token. The logits are overwritten by the next call. `graphs`
    False never records.
    """

    def __init__(
        self, model: Transformer, cache: PagedCache, *, max_rows: int, max_tokens: int, graphs: bool | None = None
    ) -> None:
        self.model, self.cache, self.max_tokens = model, cache, max_tokens
        on_gpu = model.device.type == "cuda"
        self.records = on_gpu if graphs is None else graphs and on_gpu
        max_blocks = -(-max_tokens // cache.block_size)
        self.sizes, self.widths = ladder(max_rows), ladder(max_blocks, first=64, factor=4)
        # All of a step's numbers but its tokens, in one matrix and so one transfer.
        self.host_BX = torch.zeros(max_rows, TABLE + max_blocks, dtype=torch.int32, pin_memory=on_gpu)
        self.static_BX = torch.zeros_like(self.host_BX, device=model.device)
        self.ids_B = torch.zeros(max_rows, dtype=torch.long, device=model.device)
        self.cos, self.sin = self._rope()
        self.recorded: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.memory: Any = None  # the graphs share one pool, as only one runs at a time

    def _rope(self) -> tuple[Tensor, Tensor]:
        """Cosine and sine (max_tokens, 1, E/2) by position; where the model has YaRN, once without
        it and then with it.
        """
        config, dtype = self.model.config, self.model.embed.weight.dtype
        positions = torch.arange(self.max_tokens, device=self.model.device)
        choices = [None] if config.rope_scaling is None else [torch.zeros_like(positions).bool(), None]
        cos, sin = zip(*(rope_tables(positions, config, yarn) for yarn in choices), strict=True)
        return torch.cat(cos).to(dtype), torch.cat(sin).to(dtype)

    @torch.inference_mode()
    def __call__(self, tables: Sequence[Table], ids_B: Tensor, yarn: Sequence[bool] | None = None) -> Tensor:
        """`yarn` says for each row whether YaRN is on; None: on where the model's config has it."""
        size, width = self._fill(tables, ids_B, yarn)
        if not self.records:
            return self._run(size, width)[: len(tables)]
        if (size, width) not in self.recorded:
            self._record(size, width)
        graph, logits_BV = self.recorded[size, width]
        graph.replay()
        return logits_BV[: len(tables)]

    @torch.inference_mode()
    def record_all(self) -> None:
        """Record every size ahead of the first request; the largest first, so that the others fit
        into its memory.
        """
        if self.records:
            self.static_BX.zero_()
            for size in reversed(self.sizes):
                for width in reversed(self.widths):
                    self._record(size, width)

    def _fill(self, tables: Sequence[Table], ids_B: Tensor, yarn: Sequence[bool] | None) -> tuple[int, int]:
        """Put a batch into the static tensors; returns the size and width it is padded to."""
        B, widest, longest = len(tables), max(len(t.blocks) for t in tables), max(len(t.ids) for t in tables)
        if self.sizes[-1] < B or longest >= self.max_tokens:
            raise CapacityError(
                f"a step of {B} rows, the longest at position {longest}, is made for {self.sizes[-1]} rows of "
                f"{self.max_tokens} tokens: raise max_rows or max_tokens"
            )
        # A table may have reserved blocks beyond max_tokens; nothing in them is read.
        size = next(s for s in self.sizes if s >= B)
        width = next((w for w in self.widths if w >= widest), self.widths[-1])
        host = self.host_BX[:size, : TABLE + width].numpy()
        host[:] = SCRATCH  # and slot, position and YaRN 0
        for row, table in zip(host, tables, strict=False):
            row[POSITION], row[SLOT] = len(table.ids), self.cache.slots(table, 1)[0]
            row[TABLE : TABLE + len(table.blocks)] = table.blocks[:width]
        if self.model.config.rope_scaling is not None:
            host[:B, YARN] = 1 if yarn is None else list(yarn)
        self.static_BX[:size, : TABLE + width].copy_(self.host_BX[:size, : TABLE + width])
        self.ids_B[:B].copy_(ids_B)
        self.ids_B[B:size].zero_()
        return size, width

    def _run(self, size: int, width: int) -> Tensor:
        rows_BX = self.static_BX[:size]
        positions_B = rows_BX[:, POSITION].long()
        layout = PagedDecode(self.cache, positions_B, rows_BX[:, SLOT].long(), rows_BX[:, TABLE : TABLE + width])
        at_B = positions_B + rows_BX[:, YARN] * self.max_tokens
        cos, sin = self.cos[at_B], self.sin[at_B]
        x_BD = self.model.embed(self.ids_B[:size])
        for block in self.model.blocks:
            x_BD = block(x_BD, cos, sin, layout)
        hidden_BD, head = self.model.norm(x_BD), self.model.head
        return head(hidden_BD) if isinstance(head, QuantLinear) else self.model.logits(hidden_BD)

    def _record(self, size: int, width: int) -> None:
        # Run once before, on a side stream as recording asks: this compiles kernels and fills
        # library caches. It writes the same keys and values as the replay will.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._run(size, width)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.memory):
            logits_BV = self._run(size, width)
        self.memory = graph.pool()
        self.recorded[size, width] = graph, logits_BV
