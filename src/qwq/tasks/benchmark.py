"""What a benchmark is: problems, how they are asked, how a reply is marked, how marks become a score.

A file of this package beside the others defines each one; `registry.py` lists them. A `Problem` carries its messages, its
tools and, in `truth`, what the marking needs; `source` names the group it belongs to (a category, a task), "" where there
is one group only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwq.common.estimates import mean_of_means
from qwq.errors import DataError
from qwq.tasks.base import Protocol
from qwq.types import Outcome, Problem, Turn, Verdict

__all__ = ["Benchmark", "REOPENED", "Figures", "Mark", "Protocol", "Row", "marked", "need"]

REOPENED = "the response ends inside another thought"

Row = Mapping[str, Any]
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mark:
    """A reply's verdict, its score from 0 to 1, and what else the summary needs."""

    verdict: Verdict
    score: float
    detail: Figures = field(default_factory=dict)


def marked(verdict: Verdict, **detail: Any) -> Mark:
    return Mark(verdict, float(verdict.correct), detail)


class Benchmark:
    """The base of all benchmarks: one turn, one group, the mean over problems of the mean over samples."""

    name = ""
    protocol = Protocol()
    majority_votes = False  # whether equal answers mean the same, so that samples can vote
    needs_data = True  # whether its problems are read from a data folder
    parts: tuple[str, ...] = ()  # what NAME:PART may choose

    def __init__(self, part: str = "", *, native_tools: bool = True) -> None:
        self.part, self.native_tools = part, native_tools

    def label(self, asked: str) -> str:
        """What results and files call it, asked for by the name `asked`."""
        return asked

    def load(self, data: Any) -> list[Problem]:
        """All problems, in a fixed order. `data` is a `data.DataFolder`. DataError names the file, row and field at fault."""
        raise NotImplementedError

    def first(self, problems: list[Problem], n: int | None) -> list[Problem]:
        """The n that are asked: taken from the groups in turn, so that a few cover them all."""
        if n is None:
            return problems
        groups: dict[str, list[Problem]] = {}
        for problem in problems:
            groups.setdefault(problem.source, []).append(problem)
        rounds = [g[i] for i in range(max(map(len, groups.values()))) for g in groups.values() if i < len(g)]
        chosen = {p.id for p in rounds[:n]}
        return [p for p in problems if p.id in chosen]

    def go_on(self, problem: Problem, replies: Sequence[Turn]) -> list[dict[str, Any]] | None:
        """Messages that answer the last reply's calls, where the benchmark has several turns; None ends the sample."""
        return None

    def tools(self, problem: Problem, replies: Sequence[Turn]) -> Sequence[Mapping[str, Any]]:
        """The tools on offer in the turn after these replies."""
        return problem.tools

    def mark(self, problem: Problem, replies: Sequence[Turn]) -> Mark:
        """The mark of a sample. What did not end, or says nothing, is told apart before `judge` is asked."""
        last = replies[-1]
        if not last.finished:
            return marked(
                Verdict(Outcome.UNFINISHED, f"the response never ended ({last.stop_reason.value})", self.name)
            )
        if last.parts.reopened and not last.calls:
            return marked(Verdict(Outcome.NO_ANSWER, REOPENED, self.name))
        if not last.answer and not last.calls and not last.malformed:
            return marked(Verdict(Outcome.NO_ANSWER, "nothing stands after the thinking", self.name))
        return self.judge(problem, replies)

    def judge(self, problem: Problem, replies: Sequence[Turn]) -> Mark:
        raise NotImplementedError

    def combine(self, means: Mapping[str, Any]) -> Any:
        """The headline from the groups' means (fractions, or arrays of them)."""
        return mean_of_means(means)

    def figures(self, means: Mapping[str, float], records: Sequence[Row]) -> Figures:
        """Further entries of the benchmark's results."""
        return {}


def need(row: Row, key: str, where: str, kind: type | tuple[type, ...] = str) -> Any:
    """A field of a row. DataError with row and field where it is missing or of another type."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    value = row.get(key)
    if (
        not isinstance(value, kinds)
        or isinstance(value, bool)
        and bool not in kinds
        or (isinstance(value, str) and not value.strip())
    ):
        names = " or ".join(
            {"str": "text", "list": "a list", "dict": "an object", "int": "a number", "float": "a number"}.get(
                k.__name__, k.__name__
            )
            for k in kinds
        )
        raise DataError(
            f"{where}: field {key!r} must be {names}, found {str(value)[:40]!r} (the row has {', '.join(map(str, row)) or 'no fields'})"
        )
    return value
