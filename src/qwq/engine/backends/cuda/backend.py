"""The engine's backend on a GPU: paged keys and values, recorded decode steps, prompts in chunks
beside them.

A slot is a `Table` of blocks. A prefix that slots share is the same blocks with a count, copied
when one of them writes into the last one. Single tokens of all slots go through one `DecodeStep` (a
recorded graph on CUDA), longer chunks through `PagedPrefill`. Runs on a CPU too, without graphs and
kernels, which is how its logic is tested.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwq.engine.backends.base import Chunk
from qwq.engine.backends.cuda.graphs import DecodeStep
from qwq.engine.backends.cuda.layout import PagedPrefill
from qwq.engine.backends.cuda.paged_cache import PagedCache, Table
from qwq.errors import CapacityError
from qwq.model.transformer import Transformer


class PagedBackend:
    """See `backend.Backend`. `kv_tokens` sets the number of blocks, `max_length` the longest slot,
    `max_running` the batch.
    """

    own_threads = False
    deterministic = False
    chunk_unit = 1

    def __init__(
        self,
        model: Transformer,
        *,
        kv_tokens: int,
        max_length: int,
        max_running: int = 256,
        max_slots: int = 512,
        block_size: int = 16,
    ) -> None:
        self.model, self.max_slots = model, max_slots
        self.vocab_size, self.max_positions = model.config.vocab_size, min(max_length, model.config.max_positions)
        self.has_yarn = model.config.rope_scaling is not None
        self.cache = PagedCache(
            model.config,
            1 + -(-kv_tokens // block_size),
            block_size,
            device=model.device,
            dtype=model.embed.weight.dtype,
        )
        self.step = DecodeStep(model, self.cache, max_rows=max_running, max_tokens=self.max_positions)
        self.slot_capacity = (self.cache.num_blocks - 1) * block_size
        self.slots: dict[int, Table] = {}
        self._next = 0

    def open_slot(self) -> int | None:
        if len(self.slots) >= self.max_slots:
            return None
        self._next += 1
        self.slots[self._next] = self.cache.open([])
        return self._next

    def close_slot(self, slot: int) -> None:
        self.cache.close(self.slots.pop(slot))

    def reserve(self, slot: int, length: int) -> bool:
        table = self.slots[slot]
        try:
            self.cache.reserve(table, max(0, length - len(table.ids)))
        except CapacityError:
            return False
        return True

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        self.cache.close(self.slots[target])
        self.slots[target] = self.cache.fork(self.slots[source])
        self.cache.truncate(self.slots[target], length)
        return True

    def truncate(self, slot: int, length: int) -> None:
        self.cache.truncate(self.slots[slot], length)

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """See `Backend.forward`; the logits stay on the model's device and are valid until the next
        pass.
        """
        parts: list[Tensor | None] = [None] * len(chunks)
        singles = [i for i, c in enumerate(chunks) if len(c.ids) == 1]
        longer = [i for i, c in enumerate(chunks) if len(c.ids) > 1]
        if longer:
            self._prefill([chunks[i] for i in longer], longer, parts)
        if singles:
            tables = [self.slots[chunks[i].slot] for i in singles]
            ids = torch.tensor([chunks[i].ids[0] for i in singles])
            logits = self.step(tables, ids, [chunks[i].yarn for i in singles] if self.has_yarn else None)
            for i, table, row_V in zip(singles, tables, logits, strict=True):
                self.cache.commit(table, chunks[i].ids)
                parts[i] = row_V[None][: chunks[i].num_logits]
        wanted = [p for p in parts if p is not None and len(p)]
        return torch.cat(wanted).float() if wanted else torch.zeros(0, self.vocab_size)

    def _prefill(self, chunks: list[Chunk], places: list[int], parts: list[Tensor | None]) -> None:
        device = self.model.device
        yarn = None
        if self.has_yarn:
            yarn = torch.tensor([c.yarn for c in chunks for _ in c.ids], device=device)
        tables = [self.slots[c.slot] for c in chunks]
        layout = PagedPrefill(self.cache, tables, [len(c.ids) for c in chunks], yarn)
        hidden_ND = self.model(torch.tensor([t for c in chunks for t in c.ids], device=device), layout)
        for i, c, table, part in zip(
            places, chunks, tables, hidden_ND.split([len(c.ids) for c in chunks]), strict=True
        ):
            self.cache.commit(table, c.ids)
            parts[i] = self.model.logits(part[len(c.ids) - c.num_logits :]) if c.num_logits else None
