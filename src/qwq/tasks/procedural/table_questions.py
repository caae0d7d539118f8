"""table: a sum from a table whose column names stand in no prompt.

A demonstration guesses names and mends them by the error that lists the right ones, or asks for the
schema first. Part `new` has names that no training problem has; `known` tells the sum. Canonical
form: the columns, the place, and the sum.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from qwq.tasks.procedural.world_family import KNOWN, Script, WorldFamily
from qwq.types import Problem

AMOUNTS, PLACES = ("cost", "price", "fee", "pay"), ("city", "town", "shop", "site")
NEW_AMOUNTS, NEW_PLACES = ("rate", "bill", "worth", "charge"), ("area", "store", "port", "zone")
TOWNS = ("rome", "oslo", "lima", "bern", "cairo", "delhi")
CALLS = 3
SCHEMA_FIRST = 0.3  # of the demonstrations


class TableQuestions(WorldFamily):
    """Problems with the trained names by default."""

    name = kind = "table"
    parts = ("new", KNOWN)

    def draw(self, rng: random.Random) -> Problem:
        new = self.part == "new"
        amounts = rng.choice(NEW_AMOUNTS if new else AMOUNTS)
        places = rng.choice(NEW_PLACES if new else PLACES)
        columns = [amounts, places] if rng.random() < 0.5 else [places, amounts]
        asked, other = rng.sample(TOWNS, 2)
        rows: list[tuple[str, int]] = [(asked, rng.randint(5, 33)) for _ in range(rng.randint(2, 3))]
        rows += [(other, rng.randint(5, 33)) for _ in range(2)]
        rng.shuffle(rows)
        gold = sum(amount for place, amount in rows if place == asked)
        spec = {
            "columns": columns, "amounts": amounts, "places": places, "rows": [list(row) for row in rows],
            "ask": asked, "calls": CALLS,
        }  # fmt: skip
        canonical = f"{','.join(columns)}/{asked}/{gold}"
        if self.part == KNOWN:
            text = f"The sum of the amounts in {asked} is {gold}. What is the sum for {asked}?"
            return self.posed(text, spec | {"known": str(gold)}, canonical)
        return self.posed(f"What is the sum of the amounts in {asked}? You have {CALLS} calls.", spec, canonical)

    def play(self, script: Script, spec: Mapping[str, Any], rng: random.Random) -> str:
        column, where = rng.choice(AMOUNTS), rng.choice(PLACES)
        if rng.random() < SCHEMA_FIRST:
            script.call("schema", "schema")
            column, where = spec["amounts"], spec["places"]
        result = script.call(f"{column}\n{where}", "sum", column=column, where=where, **{"is": spec["ask"]})
        if not result.isdigit():
            column, where = spec["amounts"], spec["places"]
            result = script.call(f"{column}\n{where}", "sum", column=column, where=where, **{"is": spec["ask"]})
        return result

    def drill(self, rng: random.Random) -> list[tuple[str, str]]:
        """Which of two names is which: `there are city, cost: ` and cost, city, a line each."""
        page = []
        for _ in range(8):
            amounts, places = rng.choice(AMOUNTS), rng.choice(PLACES)
            both = (amounts, places) if rng.random() < 0.5 else (places, amounts)
            page.append((f"there are {', '.join(both)}: ", f"{amounts}\n{places}"))
        return page
