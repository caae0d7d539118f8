"""Names for several tasks at once, with how many problems of each and how many samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Suite:
    """Tasks by name, each with the number of its problems (None: all);
    `samples` of each problem.
    """

    tasks: Mapping[str, int | None]
    samples: int = 1


SUITES = {
    # pass^k needs several samples. CRUXEval with and without tool: what the tool gives.
    "agent": Suite(
        {
            "dabench": None, "spider_sqlite": 200, "wtq": 200, "polyglot": None, "humanevalfix": None,
            "cruxeval": 100, "cruxeval:alone": 100, "dbbench": None,
        },
        samples=3,
    ),
}  # fmt: skip
