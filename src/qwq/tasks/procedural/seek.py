"""seek: find a hidden place by looks that answer found, higher or lower.

Demonstrations look anywhere inside what the answers have left, which finds 60.4% of 15 places in 4
looks; looking in the middle finds all. So a model that only imitates stays at 60.4%, and what is
above that was learnt from rewards. Parts: the number of places (21 is held out: wider than any that
is trained on), and `known`. Canonical form: name of the box, bounds and place.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from qwq.tasks.procedural.world_family import KNOWN, Script, WorldFamily
from qwq.types import Problem

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BOX = "RSTUVWXYZ"
PLACES = {"3": 2, "7": 3, "15": 4, "21": 5}  # number of places: looks
TRAINED = LETTERS[:17]  # the bounds of 15 places, and what is between


class Seek(WorldFamily):
    """Problems over 15 places by default."""

    name = kind = "seek"
    parts = (*PLACES, KNOWN)

    def draw(self, rng: random.Random) -> Problem:
        box = "".join(rng.choice(BOX) for _ in range(3))
        if self.part == KNOWN:
            place = rng.choice(TRAINED[1:-1])
            spec = {"secret": place, "after": "a", "before": "q", "tries": 4, "known": place}
            return self.posed(f"Box {box} hides a key at {place}. Where is the key?", spec, f"{box}/{place}")
        places = int(self.part or 15)
        letters = LETTERS if places > 15 else TRAINED
        low = rng.randrange(len(letters) - places - 1)
        after, before = letters[low], letters[low + places + 1]
        tries = PLACES[str(places)]
        spec = {
            "secret": rng.choice(letters[low + 1 : low + places + 1]),
            "after": after, "before": before, "tries": tries,
        }  # fmt: skip
        text = f"Box {box} hides a key between {after} and {before}. Find it in {tries} looks."
        return self.posed(text, spec, f"{box}/{after}{before}/{spec['secret']}", tries)

    def play(self, script: Script, spec: Mapping[str, Any], rng: random.Random) -> str:
        low, high = spec["after"], spec["before"]
        for _ in range(script.world.max_calls):
            inside = [c for c in LETTERS if low < c < high]
            place = rng.choice(inside)
            result = script.call(f"{low}\n{high}", "look", place=place)
            if result == "found":
                return place
            low, high = (place, high) if result == "higher" else (low, place)
        return "none"

    def wrong(self, answer: str, rng: random.Random) -> str:
        return rng.choice([c for c in TRAINED[1:-1] if c != answer])

    def drill(self, rng: random.Random) -> list[tuple[str, str]]:
        """The bounds that a look leaves: a, q, f, higher: f, q. A line each: so a letter is one
        token, the same wherever it is.
        """
        page = []
        for _ in range(10):
            low, place, high = sorted(rng.sample(TRAINED, 3))
            higher = rng.random() < 0.5
            left = f"{place}\n{high}" if higher else f"{low}\n{place}"
            page.append((f"{low}\n{high}\n{place}\n{'higher' if higher else 'lower'}:\n", left))
        return page
