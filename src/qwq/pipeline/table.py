"""A run's results as rows of text: the table by stage, paired changes, contracts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwq.config import START


def table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table by stage: sampled score with interval, greedy score in brackets,
    in percent.
    """
    names: list[str] = []
    stages = [*([results[START]] if START in results else []), *results["stages"]]
    for stage in stages:
        names += [b for b in stage["evals"] if b not in names]
    rows = []
    for stage in stages:
        cells = [stage["name"], f"{stage['wall_s']:.0f}"]
        for b in names:
            e = stage["evals"].get(b)
            g = stage.get("evals_greedy", {}).get(b)
            cells.append("" if e is None else f"{100 * e['score']:.1f}" + (f" ({100 * g['score']:.1f})" if g else ""))
        rows.append(cells)
    return ["stage", "seconds", *names], rows


def contract_lines(results: Mapping[str, Any]) -> list[str]:
    """What became of each stage's contract, one line a stage."""
    return [
        f"{stage['name']}: contract {stage['contract_outcome']['text']}"
        for stage in results["stages"]
        if "contract_outcome" in stage
    ]


def paired_columns(results: Mapping[str, Any]) -> Sequence[str]:
    """Lines such as `rl1 math +12.1 [9.0, 15.2] against sft`, in points, sampled."""
    lines = []
    for stage in results["stages"]:
        for benchmark, e in stage["evals"].items():
            if "change" in e:
                low, high = e["change_ci95"]
                lines.append(
                    f"{stage['name']} {benchmark} {100 * e['change']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] "
                    f"against {e['against']}"
                )
    return lines
