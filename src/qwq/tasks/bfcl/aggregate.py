"""BFCL's overall accuracy from its leaderboard's CSV files, by the rules of version 3 and of
version 4.

Version 3: the mean of non-live, live and multi-turn. Non-live is the mean of its four AST
categories and irrelevance (of nine where a file has the four categories of executed calls); live is
weighted by its numbers of problems; multi-turn is the mean of its four. Version 4 (a file with `Web
Search Acc`): 10% non-live, 10% live without irrelevance, 10% irrelevance, 30% multi-turn, 40%
agentic (the mean of web search and memory). Source: gorilla's bfcl-eval and its leaderboard files.
Percentages in, percentages out.

A model that lacks a figure (the leaderboard writes `N/A`) gets a row that names it, and no accuracy
of ours.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from qwq.errors import DataError

AST = ("Simple AST", "Multiple AST", "Parallel AST", "Parallel Multiple AST")
EXECUTED = ("Simple Exec", "Multiple Exec", "Parallel Exec", "Parallel Multiple Exec")
LANGUAGES = ("Python Simple AST", "Java Simple AST", "JavaScript Simple AST")
LIVE = {
    "Python Simple AST": 258, "Python Multiple AST": 1053, "Python Parallel AST": 16,
    "Python Parallel Multiple AST": 24, "Irrelevance Detection": 882, "Relevance Detection": 18,
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

    def percents(self, model: str, columns: Iterable[str], missing: list[str]) -> dict[str, float]:
        """The model's figures by column; what is no percentage is added to `missing` in words, and
        0 in its place.
        """
        row = self.rows.get(model)
        if row is None:
            missing.append(f"{self.path.name} has no row")
            return dict.fromkeys(columns, 0.0)
        out = {}
        for column in columns:
            found = row.get(column)
            try:
                out[column] = float((found or "").strip().rstrip("%"))
            except ValueError:
                out[column] = math.nan
            if not math.isfinite(out[column]):
                out[column] = 0.0
                missing.append(f"{self.path.name}: {column} is {'not there' if found is None else repr(found)}")
        return out

    def has(self, *columns: str) -> bool:
        return set(columns) <= set(next(iter(self.rows.values())))


def aggregate(folder: str | Path) -> Iterator[dict[str, Any]]:
    """For each row of each `*overall.csv`: `model`, `published`, `ours`, in percent.

    Where a figure lacks it is None, and `missing` names it. DataError where a file is missing.
    """
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
    columns = (*languages, *AST[1:], "Irrelevance Detection", *executed)
    for model in overall.rows:
        missing: list[str] = []
        parts = non_live.percents(model, columns, missing)
        ours = overall_v3(parts, live.percents(model, LIVE, missing), multi_turn.percents(model, TURNS, missing))
        yield _line(overall, model, ours, missing)


def _version4(overall: _Table) -> Iterator[dict[str, Any]]:
    fixed, turns = [f"Non-Live {c}" for c in AST], [f"Multi Turn {c}" for c in TURNS]
    agentic, irrelevance = ["Web Search Acc", "Memory Acc"], "Irrelevance Detection"
    for model in overall.rows:
        missing: list[str] = []
        got = overall.percents(model, [*fixed, *LIVE_V4, irrelevance, *turns, *agentic], missing)
        live = sum(got[c] * n for c, n in LIVE_V4.items()) / sum(LIVE_V4.values())
        means = [fmean(got[c] for c in columns) for columns in (fixed, turns, agentic)]
        yield _line(overall, model, overall_v4(means[0], live, got[irrelevance], means[1], means[2]), missing)


# -- the rules, on figures (or arrays of them) by the leaderboard's column names -------------------


def overall_v3(non_live: Mapping[str, Any], live: Mapping[str, Any], multi_turn: Mapping[str, Any]) -> Any:
    return (non_live_v3(non_live) + live_v3(live) + _mean([multi_turn[c] for c in TURNS])) / 3


def non_live_v3(parts: Mapping[str, Any]) -> Any:
    """The mean of simple (itself the mean of its languages), the other AST categories, irrelevance,
    and executed ones if there are.
    """
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


def _line(overall: _Table, model: str, ours: float, missing: list[str]) -> dict[str, Any]:
    unpublished: list[str] = []
    published = overall.percents(model, ("Overall Acc",), unpublished)["Overall Acc"]
    shown = {"published": None if unpublished else published, "ours": None if missing else round(ours, 4)}
    return {"model": model, **shown} | ({"missing": [*unpublished, *missing]} if unpublished or missing else {})
