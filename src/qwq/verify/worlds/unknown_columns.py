"""table: a sum from a table whose columns have names that the question does not tell.

A wrong name is answered with the names that there are; `schema` lists them too. Right is the sum,
and only after a call has given it. With 4 x 4 possible names one blind pair is right in 6.2% and
three different ones in 18.8%.
"""

from __future__ import annotations

from typing import ClassVar

from qwq.envs.worlds import WorldRules, WorldTool, differs, rules


@rules("table")
class TableRules(WorldRules):
    """Spec: `columns`, two names in the table's order; `amounts` and `places`, which of them holds
    what; `rows`: [place, amount]; `ask`, the place; `calls`.
    """

    tools: ClassVar[tuple[WorldTool, ...]] = (
        WorldTool("schema", "The names of the columns.", {}),
        WorldTool(
            "sum", "The sum of a column over the rows in which another column is a value.",
            {"column": "the column to add up", "where": "the column to choose by", "is": "the value there"},
        ),
    )  # fmt: skip
    summed = False

    @property
    def max_calls(self) -> int:
        return int(self.spec["calls"])

    @property
    def gold(self) -> str:
        return str(sum(amount for place, amount in self.spec["rows"] if place == self.spec["ask"]))

    def answer(self, tool: str, **arguments: str) -> str:
        columns = self.spec["columns"]
        if tool == "schema":
            return ", ".join(columns)
        column, where, value = arguments["column"], arguments["where"], arguments["is"]
        for name in (column, where):
            if name not in columns:
                return f"error: no column {name[:40]}; there are {', '.join(columns)}"
        if column != self.spec["amounts"]:
            return f"error: {column} holds no numbers"
        found = [amount for place, amount in self.spec["rows"] if where == self.spec["places"] and place == value]
        if not found:
            return f"error: no row in which {where} is {value[:40]}"
        self.summed = self.summed or value == self.spec["ask"]
        return str(sum(found))

    def fault(self, answer: str) -> str | None:
        if not self.summed:
            return f"no call gave the sum for {self.spec['ask']}"
        return differs(answer, self.gold)
