"""Keys and values of many slots of very different lengths, for machines where attention over a
dense tensor is fast (CPUs).

A slot lives in an arena of its width class (128, 256, 512, ... tokens) and moves to the next one
when it outgrows it, so memory stays within twice what is held, and the slots of a class are
attended to in one call. Arenas are (layers, R, K, width, E) for keys and values; R doubles as slots
come.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qwq.model.config import ModelConfig

MIN_WIDTH = 128
START_PLACES = 2


class _Arena:
    def __init__(self, config: ModelConfig, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.width = width
        shape = (config.num_layers, START_PLACES, config.num_kv_heads, width, config.head_dim)
        # Zeros, not empty: a masked column must not hold a NaN.
        self.k, self.v = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.free = list(range(START_PLACES))

    def take(self) -> int:
        if not self.free:
            places = self.k.shape[1]
            self.k, self.v = (torch.cat((t, torch.zeros_like(t)), 1) for t in (self.k, self.v))
            self.free = list(range(places, 2 * places))
        place = min(self.free)  # low places first keeps the slots in use together
        self.free.remove(place)
        return place


class SlotCache:
    """Slots by number. `capacity` is in tokens, over all slots, counted by the widths of their
    classes.
    """

    def __init__(
        self,
        config: ModelConfig,
        capacity: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        self.config, self.capacity, self.dtype, self.device = config, capacity, dtype, torch.device(device)
        self.arenas: dict[int, _Arena] = {}
        self.place_of: dict[int, tuple[int, int]] = {}  # slot -> (width, place)
        self._next = 0

    @property
    def reserved(self) -> int:
        return sum(width for width, _ in self.place_of.values())

    def open(self) -> int:
        self._next += 1
        self.place_of[self._next] = (0, -1)
        return self._next

    def close(self, slot: int) -> None:
        width, place = self.place_of.pop(slot)
        self._give_back(width, place)

    def _give_back(self, width: int, place: int) -> None:
        if width:
            arena = self.arenas[width]
            arena.free.append(place)
            if len(arena.free) == arena.k.shape[1] and width > MIN_WIDTH:
                del self.arenas[width]

    def width_for(self, length: int) -> int:
        width = MIN_WIDTH
        while width < length:
            width *= 2
        # The last class ends at the model's context or at all there is, which need not be a power
        # of two.
        return max(min(width, self.config.max_positions, self.capacity), length)

    def reserve(self, slot: int, length: int) -> bool:
        """Room for `length` tokens in `slot`; False where that would exceed the capacity."""
        width, place = self.place_of[slot]
        if length <= width:
            return True
        wider = self.width_for(length)
        if self.reserved - width + wider > self.capacity:
            return False
        if wider not in self.arenas:
            self.arenas[wider] = _Arena(self.config, wider, self.dtype, self.device)
        arena = self.arenas[wider]
        new = arena.take()
        if width:
            old = self.arenas[width]
            for a, b in ((arena.k, old.k), (arena.v, old.v)):
                a[:, new, :, :width] = b[:, place]
            self._give_back(width, place)
        self.place_of[slot] = (wider, new)
        return True

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        if not self.reserve(target, length):
            return False
        (sw, sp), (tw, tp) = self.place_of[source], self.place_of[target]
        a, b = self.arenas[sw], self.arenas[tw]
        b.k[:, tp, :, :length] = a.k[:, sp, :, :length]
        b.v[:, tp, :, :length] = a.v[:, sp, :, :length]
        return True

    def tensors(self, slot: int) -> tuple[Tensor, Tensor]:
        """Keys and values (layers, K, width, E) of one slot; views."""
        width, place = self.place_of[slot]
        arena = self.arenas[width]
        return arena.k[:, place], arena.v[:, place]
