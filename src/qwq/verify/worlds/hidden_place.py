"""seek: a place is hidden among letters; each look says found, higher or lower.

Right is the hidden place, and only after a look has found it: an answer that no look has confirmed
is a guess. Without feedback `tries` of N places can be looked at, tries / N.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar

from qwq.envs.worlds import WorldRules, WorldTool, differs, rules


@rules("seek")
class SeekRules(WorldRules):
    """Spec: `secret`, a letter between `after` and `before`, both excluded; `tries`."""

    tools: ClassVar[tuple[WorldTool, ...]] = (
        WorldTool("look", "Looks at a place. Says found, higher or lower.", {"place": "one letter"}),
    )
    found = False

    @property
    def max_calls(self) -> int:
        return int(self.spec["tries"])

    def answer(self, tool: str, **arguments: str) -> str:
        place, secret = arguments["place"], str(self.spec["secret"])
        if len(place) != 1 or not self.spec["after"] < place < self.spec["before"]:
            return f"error: a place is one letter between {self.spec['after']} and {self.spec['before']}"
        self.found = self.found or place == secret
        return "found" if place == secret else "higher" if place < secret else "lower"

    def fault(self, answer: str) -> str | None:
        if not self.found:
            return f"none of {self.max_calls} looks found {self.spec['secret']}"
        return differs(answer, str(self.spec["secret"]))


@cache
def bisection(places: int, tries: int) -> int:
    """How many of so many places the best player finds."""
    if not places or not tries:
        return 0
    return max(1 + bisection(i, tries - 1) + bisection(places - 1 - i, tries - 1) for i in range(places))


@cache
def random_inside(places: int, tries: int) -> float:
    """Share found by a player who looks anywhere inside what the answers have left."""
    if not places or not tries:
        return 0.0
    sides = [(i, places - 1 - i) for i in range(places)]
    return sum((1 + sum(side * random_inside(side, tries - 1) for side in both)) / places for both in sides) / places
