"""BFCL's overall accuracy from its leaderboard's CSV files, by the rules of version 3 and of version 4.

Version 3: the mean of non-live, live and multi-turn. Non-live is the mean of its four AST categories and irrelevance (of nine
where a file has the four categories of executed calls); live is weighted by its numbers of problems; multi-turn is the mean
of its four. Version 4 (a file with `Web Search Acc`): 10% non-live, 10% live without irrelevance, 10% irrelevance, 30%
multi-turn, 40% agentic (the mean of web search and memory).
Source: gorilla's bfcl-eval and its leaderboard files. Percentages in, percentages out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from qwq.errors import DataError

AST = ("Simple AST", "Multiple AST", "Parallel AST", "Parallel Multiple AST")
EXECUTED = ("Simple Exec", "Multiple Exec", "Parallel Exec", "Parallel Multiple Exec")
LANGUAGES = ("Python Simple AST", "Java Simple AST", "JavaScript Simple AST")
LIVE = {
    "Python Simple AST": 258, "Python Multiple AST": 1053, "Python Parallel AST": 16, "Python Parallel Multiple AST": 24,
    "Irrelevance Detection": 882, "Relevance Detection": 18,
}  # fmt: skip
LIVE_V4 = {"Live Simple AST": 258, "Live Multiple AST": 1053, "Live Parallel AST": 16, "Live Parallel Multiple AST": 24}
TURNS = ("Base", "Miss Func", "Miss Param", "Long Context")

Row = Mapping[str, str]


class _Table:
    """One CSV file by model."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open(encoding="utf-8-sig", newline="") as file:
            self.rows = {(row.get("Model") or "").strip(): row for row in csv.DictReader(file)}
        if not self.rows or "" in self.rows:
            raise DataError(f"{path}: no column Model: give the leaderboard's own files")

    def percent(self, model: str, column: str) -> float:
        row = self.rows.get(model)
        if row is None:
            raise DataError(f"{self.path}: no row for {model}, which the overall file has")
        text = (row.get(column) or "").strip().rstrip("%")
        try:
            return float(text)
        except ValueError:
            raise DataError(f"{self.path}, {model}: {column} is {row.get(column)!r}, a percentage is needed") from None

    def has(self, *columns: str) -> bool:
        return set(columns) <= set(next(iter(self.rows.values())))

    def mean(self, model: str, columns: Iterator[str] | tuple[str, ...]) -> float:
        return fmean(self.percent(model, c) for c in columns)

    def weighted(self, model: str, weights: Mapping[str, int]) -> float:
        return sum(self.percent(model, c) * n for c, n in weights.items()) / sum(weights.values())


def aggregate(folder: str | Path) -> Iterator[dict[str, Any]]:
    """For each row of each `*overall.csv`: `model`, `published`, `ours`, in percent. DataError where a file is missing."""
    folder = Path(folder)
    files = sorted(folder.glob("*overall.csv"))
    if not files:
        raise DataError(f"no *overall.csv in {folder}: give the folder of the leaderboard's CSV files")
    for path in files:
        overall = _Table(path)
        if overall.has("Web Search Acc"):
            yield from _version4(overall)
            continue
        parts = {}
        for part in ("non_live", "live", "multi_turn"):
            file = path.with_name(path.name.removesuffix("overall.csv") + f"{part}.csv")
            if not file.is_file():
                raise DataError(f"no {file.name} beside {path}: version 3 needs non_live, live and multi_turn")
            parts[part] = _Table(file)
        yield from _version3(overall, **parts)


def _version3(overall: _Table, non_live: _Table, live: _Table, multi_turn: _Table) -> Iterator[dict[str, Any]]:
    executed = EXECUTED if non_live.has(*EXECUTED) else ()
    languages = LANGUAGES if non_live.has(*LANGUAGES) else ("Simple AST",)
    for model in overall.rows:
        parts = {c: non_live.percent(model, c) for c in (*languages, *AST[1:], "Irrelevance Detection", *executed)}
        ours = overall_v3(parts, {c: live.percent(model, c) for c in LIVE}, {c: multi_turn.percent(model, c) for c in TURNS})
        yield _line(overall, model, ours)


def _version4(overall: _Table) -> Iterator[dict[str, Any]]:
    for model in overall.rows:
        fixed = overall.mean(model, tuple(f"Non-Live {c}" for c in AST))
        turns = overall.mean(model, tuple(f"Multi Turn {c}" for c in TURNS))
        agentic = overall.mean(model, ("Web Search Acc", "Memory Acc"))
        irrelevance = overall.percent(model, "Irrelevance Detection")
        yield _line(overall, model, overall_v4(fixed, overall.weighted(model, LIVE_V4), irrelevance, turns, agentic))


# -- the rules, on figures (or arrays of them) by the leaderboard's column names --------------------------------------------


def overall_v3(non_live: Mapping[str, Any], live: Mapping[str, Any], multi_turn: Mapping[str, Any]) -> Any:
    return (non_live_v3(non_live) + live_v3(live) + _mean([multi_turn[c] for c in TURNS])) / 3


def non_live_v3(parts: Mapping[str, Any]) -> Any:
    """The mean of simple (itself the mean of its languages), the other AST categories, irrelevance, and executed ones if there are."""
    simple = _mean([parts[c] for c in LANGUAGES if c in parts] or [parts["Simple AST"]])
    return _mean([simple, *(parts[c] for c in (*AST[1:], "Irrelevance Detection", *EXECUTED) if c in parts)])


def live_v3(parts: Mapping[str, Any]) -> Any:
    """Weighted by the leaderboard's numbers of problems; over those categories that are there."""
    weights = {c: n for c, n in LIVE.items() if c in parts}
    return sum(parts[c] * n for c, n in weights.items()) / sum(weights.values())


def overall_v4(non_live: Any, live: Any, irrelevance: Any, multi_turn: Any, agentic: Any) -> Any:
    return 0.1 * non_live + 0.1 * live + 0.1 * irrelevance + 0.3 * multi_turn + 0.4 * agentic


def _mean(values: Sequence[Any]) -> Any:
    return sum(values) / len(values)


def _line(overall: _Table, model: str, ours: float) -> dict[str, Any]:
    return {"model": model, "published": overall.percent(model, "Overall Acc"), "ours": round(ours, 4)}
