"""The slots of a backend that has no model."""

from __future__ import annotations


class FakeSlots:
    """The slots of a backend without a model: the tokens that each holds."""

    slot_capacity, max_positions, max_slots, chunk_unit = 8192, 2048, 64, 1
    deterministic = has_yarn = own_threads = False

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.held: dict[int, list[int]] = {}

    def open_slot(self) -> int | None:
        slot = next((r for r in range(self.max_slots) if r not in self.held), None)
        if slot is not None:
            self.held[slot] = []
        return slot

    def close_slot(self, slot: int) -> None:
        del self.held[slot]

    def reserve(self, slot: int, length: int) -> bool:
        return True

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        self.held[target] = self.held[source][:length]
        return True

    def truncate(self, slot: int, length: int) -> None:
        del self.held[slot][length:]
