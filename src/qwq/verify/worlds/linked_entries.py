"""chain: entries point to each other, and the last one holds a number.

A read answers `see KEY`, `moved to KEY` or the number; an entry may be busy the first time it is
read. Right is the number, and only after it has been read: of 90 numbers a blind guess hits 1.1%.
Who does not read again after `busy` gets to the end of 3 entries in 0.7^3 = 34.3%.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from qwq.envs.worlds import WorldRules, WorldTool, differs, rules

BUSY = "busy, again"


@rules("chain")
class ChainRules(WorldRules):
    """Spec: `first`, a key; `entries`: key -> `says` (what a read answers) and `busy`; `gold`, what
    the last one says.
    """

    tools: ClassVar[tuple[WorldTool, ...]] = (
        WorldTool("read", "Reads an entry: another key, a number, or busy.", {"key": "an entry's key"}),
    )

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.busy = {key for key, entry in spec["entries"].items() if entry["busy"]}
        self.reached = False

    @property
    def max_calls(self) -> int:
        return 2 * len(self.spec["entries"])

    def answer(self, tool: str, **arguments: str) -> str:
        key = arguments["key"]
        if key not in self.spec["entries"]:
            return f"error: no entry {key[:40]}"
        if key in self.busy:
            self.busy.discard(key)
            return BUSY
        says = str(self.spec["entries"][key]["says"])
        self.reached = self.reached or says == self.spec["gold"]
        return says

    def fault(self, answer: str) -> str | None:
        if not self.reached:
            return "the last entry was never read"
        return differs(answer, str(self.spec["gold"]))
