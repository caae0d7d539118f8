"""`qwq eval compare A B`: two results folders, problem by problem.

For each benchmark that both hold: the difference B - A of the problems' mean scores over the
problems that both answered, its 95% interval by bootstrap over problems (by Agresti and Min where
few differ), and the exact sign test over the problems that differ. Composite scores (bfcl,
livebench) are compared by problem too, so the difference need not be that of the headlines.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwq.common.estimates import paired
from qwq.errors import DataError
from qwq.eval.folder import read_object, read_samples, samples_path


def compare(a: Path, b: Path) -> list[dict[str, Any]]:
    """One entry for each benchmark in both.

    DataError where a folder holds no results or none is shared.
    """
    results = []
    for folder in (a, b):
        if not (folder / "results.json").is_file():
            raise DataError(
                f"no results.json in {folder}: `qwq eval MODEL BENCH... --out {shlex.quote(str(folder))}` writes it"
            )
        results.append(read_object(folder / "results.json"))
    shared = [name for name in results[0] if name in results[1]]
    if not shared:
        raise DataError(
            f"{a} has {', '.join(results[0]) or 'nothing'}, {b} has {', '.join(results[1]) or 'nothing'}: no "
            "benchmark is in both"
        )
    out = []
    for name in shared:
        first, second = _scores(a, name, results[0][name]), _scores(b, name, results[1][name])
        problems = [p for p in first if p in second]
        if not problems:
            raise DataError(f"{name}: {a} and {b} answered no problem in common: evaluate both on the same data")
        entry = paired([first[p] for p in problems], [second[p] for p in problems])
        means = {f"score_{k}": sum(s[p] for p in problems) / len(problems) for k, s in (("a", first), ("b", second))}
        out.append({"benchmark": name, **means, **entry})
    return out


def _scores(folder: Path, name: str, figures: dict[str, Any]) -> dict[str, float]:
    """Mean score by problem, under the headline's thinking budget."""
    path = samples_path(folder, name)
    if not path.is_file():
        raise DataError(f"no {path}: {folder} is not whole")
    found: dict[str, list[float]] = {}
    for record in read_samples(folder, name).values():
        if record["thinking_budget"] == figures["thinking_budget"]:
            found.setdefault(record["problem_id"], []).append(record["score"])
    return {p: sum(s) / len(s) for p, s in found.items()}


def table(rows: Sequence[dict[str, Any]], a: str, b: str) -> str:
    """For people; figures in percent."""
    head = ("benchmark", "n", "A", "B", "B - A", "95% interval", "better/worse", "sign test p")
    lines = [head] + [
        (
            r["benchmark"], str(r["n"]), f"{100 * r['score_a']:.1f}", f"{100 * r['score_b']:.1f}",
            f"{100 * r['difference']:+.1f}", f"[{100 * r['ci95'][0]:+.1f}, {100 * r['ci95'][1]:+.1f}]",
            f"{r['better']}/{r['worse']}", f"{r['p']:.3g}",
        )
        for r in rows
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    body = "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return f"A: {a}\nB: {b}\n{body}"
