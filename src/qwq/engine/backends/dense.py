"""The engine's backend for many short sequences of one kind: RL rollouts on the tensors that are
trained (design promise 1).

It is `TorchBackend` with two differences. Every slot has the same width, so that a decode step is
one attention call over the first B places of one tensor. And it decodes many steps in a row: token
ids, log-probabilities, positions and random counters stay in tensors, all rows are sampled at once,
and the scheduler is asked only when a sequence ends or reaches its limit. Per token there is no
work in Python for each sequence.

A *slot* is a sequence's number at the scheduler; its *place* is where its keys and values are. The
rows that decode take the first places; when one leaves, the last one moves into the hole. Behind
them are slots that wait for tokens to be computed, and idle ones that are kept for their prefix.

Dimensions: B decoding rows, P places, N new tokens of a row, L layers, K key/value heads, W width,
E head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwq.engine.backends.base import Chunk, DecodeRow, RowOutput
from qwq.engine.backends.torch import TorchBackend
from qwq.engine.sampler import SamplingParams, sample
from qwq.model.layouts import Decode, Prefill, Siblings
from qwq.model.transformer import Transformer

# From here on a shared prompt is read once for all its rows; chosen, not tuned: a short one gains
# little.
LONG_PROMPT, MANY_SAMPLES = 96, 4


class DenseCache:
    """Slots of one width in two tensors (L, P, K, W, E), which grow when asked. It is its own only
    arena (see `slots`).
    """

    def __init__(self, model: Transformer) -> None:
        self.config, self.model = model.config, model
        self.width = 0
        self.k = self.v = self._zeros(0, 0)
        self.place_of: dict[int, tuple[int, int]] = {}  # slot -> (width, place)
        self.slot_at: dict[int, int] = {}  # place -> slot
        self.origin: dict[int, tuple[int, int]] = {}  # slot -> (whose prefix it shares, how many tokens of it)
        self.longest_shared = 0  # of all prefixes that were ever copied
        self._next = 0

    @property
    def arenas(self) -> dict[int, DenseCache]:
        return {self.width: self}

    @property
    def num_places(self) -> int:
        return self.k.shape[1]

    def _zeros(self, places: int, width: int) -> Tensor:
        c, weight = self.config, self.model.embed.weight
        # Zeros, not empty: a masked column must not hold a NaN.
        return torch.zeros(
            c.num_layers, places, c.num_kv_heads, width, c.head_dim, dtype=weight.dtype, device=weight.device
        )

    def grow(self, places: int, width: int) -> None:
        """Room for at least so many slots of at least so many tokens."""
        places, width = max(places, self.num_places), max(width, self.width)
        if (places, width) == (self.num_places, self.width):
            return
        for name in ("k", "v"):
            old, new = getattr(self, name), self._zeros(places, width)
            new[:, : old.shape[1], :, : old.shape[3]] = old
            setattr(self, name, new)
        self.width = width
        self.place_of = {slot: (width, place) for slot, (_, place) in self.place_of.items()}

    def open(self) -> int:
        self._next += 1
        place = next((p for p in range(self.num_places) if p not in self.slot_at), self.num_places)
        if place == self.num_places:
            self.grow(max(1, 2 * place), self.width)
        self.place_of[self._next], self.slot_at[place] = (self.width, place), self._next
        return self._next

    def close(self, slot: int) -> None:
        del self.slot_at[self.place_of.pop(slot)[1]]
        self.origin.pop(slot, None)
        if not self.place_of:  # training may need the memory now
            self.width, self.k, self.v = 0, self._zeros(0, 0), self._zeros(0, 0)

    def copy_prefix(self, source: int, targets: Sequence[int], length: int) -> None:
        self.origin.setdefault(source, (source, length))
        self.longest_shared = max(self.longest_shared, length)
        root, shared = self.origin[source]
        (_, at), to = self.place_of[source], torch.tensor([self.place_of[t][1] for t in targets], device=self.k.device)
        for kv in (self.k, self.v):
            kv[:, to, :, :length] = kv[:, at : at + 1, :, :length]
        for t in targets:
            self.origin[t] = (root, min(shared, length))

    def move(self, sources: Sequence[int], targets: Sequence[int], length: int, *, swap: bool = True) -> None:
        """Move the first `length` tokens of places to other places; what was there goes to the
        source's place.

        `swap` False: what was there is needed no more, so that its slot alone changes places.
        """
        src, dst = (torch.tensor(places, device=self.k.device) for places in (sources, targets))
        swap = swap and any(place in self.slot_at for place in targets)
        for kv in (self.k, self.v):
            held = kv[:, dst] if swap else None  # a copy
            kv[:, dst, :, :length] = kv[:, src, :, :length]
            if held is not None:
                kv[:, src] = held
        for s, d in zip(sources, targets, strict=True):
            mover, other = self.slot_at.pop(s), self.slot_at.pop(d, None)
            self.slot_at[d], self.place_of[mover] = mover, (self.width, d)
            if other is not None:
                self.slot_at[s], self.place_of[other] = other, (self.width, s)


@dataclass(slots=True)
class _Rows:
    """What the decoding rows carry from step to step, by place. `num` counts the tokens written
    since the row was loaded.
    """

    last: Tensor
    position: Tensor
    seed: Tensor
    draw: Tensor
    num: Tensor
    limit: Tensor
    ids: Tensor
    logprobs: Tensor

    @staticmethod
    def zeros(places: int, max_new: int, device: torch.device) -> _Rows:
        def longs(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.long, device=device)

        last, position, seed, draw, num, limit = (longs(places) for _ in range(6))
        logprobs = torch.zeros(places, max_new, device=device)
        return _Rows(last, position, seed, draw, num, limit, longs(places, max_new), logprobs)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.last, self.position, self.seed, self.draw, self.num, self.limit, self.ids, self.logprobs)

    def grown(self, places: int, max_new: int) -> _Rows:
        """The same rows with room for more of them, or for more tokens of each."""
        if places <= self.ids.shape[0] and max_new <= self.ids.shape[1]:
            return self
        new = _Rows.zeros(max(places, self.ids.shape[0]), max(max_new, self.ids.shape[1]), self.ids.device)
        for a, b in zip(new.tensors, self.tensors, strict=True):
            a[tuple(slice(n) for n in b.shape)] = b
        return new


class DenseBackend(TorchBackend):
    """See `base.BatchBackend`. Memory is `max_slots` times the longest sequence asked for."""

    cache: DenseCache  # type: ignore[assignment]

    def __init__(self, model: Transformer, *, max_slots: int) -> None:
        # YaRN is decided by the model's config for all tokens, as in training.
        super().__init__(model, kv_tokens=model.config.max_positions, max_slots=max_slots, has_yarn=False)
        self.cache = DenseCache(model)
        self.num_rows = 0
        self._rows = _Rows.zeros(0, 0, model.device)
        self._siblings: Siblings | None = None
        self._changed = True  # rows came, left or moved since the last step

    def grow(self, num_slots: int, width: int) -> None:
        places = min(num_slots, self.max_slots)
        if places > self.cache.num_places > 0:
            places = min(self.max_slots, max(places, 2 * self.cache.num_places))
        self.cache.grow(places, width)

    def reserve(self, slot: int, length: int) -> bool:
        if length > self.cache.width:
            self.cache.grow(self.cache.num_places, min(-(-length // 64) * 64, max(length, self.max_positions)))
        return True

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        self.copy_prefixes(source, [target], length)
        return True

    @torch.inference_mode()
    def copy_prefixes(self, source: int, targets: Sequence[int], length: int) -> None:
        self.reserve(source, length)
        self.cache.copy_prefix(source, targets, length)

    def truncate(self, slot: int, length: int) -> None:
        if (origin := self.cache.origin.get(slot)) is not None and origin[1] > length:
            self.cache.origin[slot] = (origin[0], length)

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """See `Backend.forward`. Whole prompts without logits are packed, as in training."""
        fresh = [c for c in chunks if c.start == 0 and not c.num_logits]
        if fresh:
            device = self.model.device
            ids_N = torch.tensor([t for c in fresh for t in c.ids], device=device)
            place_S = torch.tensor([self.cache.place_of[c.slot][1] for c in fresh], device=device)
            self.model(ids_N, Prefill([len(c.ids) for c in fresh], self.cache, place_S, device))  # type: ignore[arg-type]
        others = [c for c in chunks if c.start or c.num_logits]
        return super().forward(others) if others else torch.zeros(0, self.vocab_size)

    # -- many steps --------------------------------------------------------------------------------

    @torch.inference_mode()
    def load(self, rows: Sequence[DecodeRow]) -> None:
        """Add rows to those that decode. All tokens of a row but `last` are computed."""
        first, count = self.num_rows, len(rows)
        self.cache.grow(self.cache.num_places, max(row.position + row.room for row in rows))
        for at, row in enumerate(rows, first):
            if (place := self.cache.place_of[row.slot][1]) != at:
                self.cache.move([place], [at], self.cache.width)
        room = max(row.room for row in rows)
        self._rows = r = self._rows.grown(self.cache.num_places, room)
        table = torch.tensor([(x.last, x.position, x.seed, x.draw, 0, x.limit) for x in rows]).T
        for tensor, values in zip(r.tensors, table, strict=False):
            tensor[first : first + count] = values.to(tensor.device)
        self.num_rows, self._changed = first + count, True

    @torch.inference_mode()
    def decode(self, params: SamplingParams, eos_ids: Sequence[int]) -> tuple[list[RowOutput], int]:
        """See `BatchBackend.decode`."""
        eos = torch.tensor(sorted(set(eos_ids)), device=self.model.device)
        r, B = self._rows, self.num_rows
        last_B, position_B, seed_B, draw_B, num_B, limit_B = (t[:B] for t in r.tensors[:6])
        place_B = torch.arange(B, device=self.model.device)
        if self._changed:
            self._siblings, self._changed = self._shared_prefixes(), False
        longest, steps = int(position_B.max()) + 1, 0
        while True:
            width = min(self.cache.width, -(-longest // 16) * 16)
            hidden_BD = self.model(last_B, Decode(self.cache, position_B, width, self._siblings))  # type: ignore[arg-type]
            tokens_B, logprobs_B = sample(self.model.logits(hidden_BD), params, seed_B, draw_B)
            r.ids[place_B, num_B] = tokens_B
            r.logprobs[place_B, num_B] = logprobs_B
            last_B.copy_(tokens_B)
            for counter_B in (num_B, position_B, draw_B):
                counter_B += 1
            longest, steps = longest + 1, steps + 1
            stop_B = torch.isin(tokens_B, eos) | (num_B >= limit_B) | logprobs_B.isnan()
            stopped = stop_B.nonzero()[:, 0].tolist()
            if stopped:
                return self._outputs(stopped), steps

    def outputs(self, slots: Sequence[int]) -> list[RowOutput]:
        """See `BatchBackend.outputs`."""
        return self._outputs([self.cache.place_of[slot][1] for slot in slots])

    def _outputs(self, places: list[int]) -> list[RowOutput]:
        at = torch.tensor(places, dtype=torch.long, device=self.model.device)
        counts = self._rows.num[at].tolist()
        most = max(counts, default=0)
        ids, logprobs = self._rows.ids[at, :most].tolist(), self._rows.logprobs[at, :most].tolist()
        return [
            RowOutput(self.cache.slot_at[p], i[:n], x[:n])
            for p, n, i, x in zip(places, counts, ids, logprobs, strict=True)
        ]

    @torch.inference_mode()
    def set_limit(self, slot: int, limit: int) -> None:
        self._rows.limit[self.cache.place_of[slot][1]] = limit

    @torch.inference_mode()
    def unload(self, slots: Sequence[int], *, keep: bool) -> None:
        """See `BatchBackend.unload`."""
        places = sorted(self.cache.place_of[slot][1] for slot in slots)
        leaving, left = set(places), self.num_rows - len(places)
        movers = [p for p in range(left, self.num_rows) if p not in leaving]
        holes = [p for p in places if p < left]
        if holes:
            src, dst = (torch.tensor(p, device=self.model.device) for p in (movers, holes))
            for tensor in self._rows.tensors:
                tensor[dst] = tensor[src]
            self.cache.move(movers, holes, int(self._rows.position[src].max()), swap=keep)
        self.num_rows, self._changed = left, True

    def _shared_prefixes(self) -> Siblings | None:
        """The rows by shared prompt, if reading its keys and values once for all of them saves
        much.
        """
        if self.cache.longest_shared < LONG_PROMPT or self.model.device.type != "cpu":
            return None
        groups: dict[int, list[int]] = {}
        lengths: list[int] = []
        positions = self._rows.position[: self.num_rows].tolist()
        for place in range(self.num_rows):
            slot = self.cache.slot_at[place]
            root, length = self.cache.origin.get(slot, (slot, positions[place]))
            groups.setdefault(root, []).append(place)
            lengths.append(length)
        pays = min(lengths) >= LONG_PROMPT and self.num_rows >= MANY_SAMPLES * len(groups)
        return Siblings(list(groups.values()), min(lengths)) if pays else None
