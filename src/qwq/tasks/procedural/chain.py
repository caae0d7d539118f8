"""chain: follow entries that point to each other up to the number at the end, and read again what
is busy.

Parts: the length, 4 and 5 of them held out, and `known`. Canonical form: the keys and the number.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from qwq.tasks.procedural.world_family import KNOWN, Script, WorldFamily
from qwq.types import Problem
from qwq.verify.worlds.linked_entries import BUSY

LETTERS = "ABCDEFGHJKLMNPQRSTUV"
TRAINED = (1, 2, 3)
LENGTHS = (*TRAINED, 4, 5)
BUSY_SHARE = 0.3  # of the entries, the first time they are read
SAYS = ("see {}", "moved to {}")


class Chain(WorldFamily):
    """Problems of 1 to 3 entries by default."""

    name = kind = "chain"
    parts = (*map(str, LENGTHS), KNOWN)

    def draw(self, rng: random.Random) -> Problem:
        length = 1 if self.part == KNOWN else int(self.part or rng.choice(TRAINED))
        keys: list[str] = []
        while len(keys) < length:
            key = f"{rng.choice(LETTERS)}{rng.randrange(10)}"
            if key not in keys:
                keys.append(key)
        gold = str(rng.randint(10, 99))
        says = [rng.choice(SAYS).format(key) for key in keys[1:]] + [gold]
        entries = {key: {"says": text, "busy": rng.random() < BUSY_SHARE} for key, text in zip(keys, says, strict=True)}
        spec = {"first": keys[0], "entries": entries, "gold": gold}
        canonical = f"{'>'.join(keys)}>{gold}"
        if self.part == KNOWN:
            text = f"Entry {keys[0]} holds {gold}. Which number does entry {keys[0]} hold?"
            return self.posed(text, spec | {"known": gold}, canonical)
        text = f"Follow the entries from {keys[0]}. Which number is at the end?"
        return self.posed(text, spec, canonical, length)

    def play(self, script: Script, spec: Mapping[str, Any], rng: random.Random) -> str:
        key = spec["first"]
        while True:
            result = script.call(key, "read", key=key)
            if result.isdigit():
                return result
            if result != BUSY:
                key = result.split()[-1]

    def drill(self, rng: random.Random) -> list[tuple[str, str]]:
        """Which key a result names: `see K7: ` and `K7`."""
        keys = [f"{rng.choice(LETTERS)}{rng.randrange(10)}" for _ in range(12)]
        return [(f"{rng.choice(SAYS).format(key)}: ", key) for key in keys]
