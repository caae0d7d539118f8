"""`qwq data`: makes and cleans training data."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

data_app = App(name="data", help="Make and clean training data.")


@data_app.command
def decontaminate(
    train: Path,
    *,
    against: Annotated[list[str], Parameter(consume_multiple=True)],
    out: Path,
    data: Path | None = None,
    n: int = 13,
    report: Path | None = None,
) -> int:
    """Leave out the rows of a training file that share n words in a row with a benchmark's question.

    Prints one JSON object: rows, kept, and how many were dropped for which benchmark.

    Parameters
    ----------
    train
        JSON lines with prompt, question, problem, text, instruction, messages or conversations.
    against
        Benchmarks: files, folders, or names in the data folder.
    out
        File for the clean rows; it appears when all are written.
    data
        Folder with a folder for each benchmark, such as DATA/gsm8k/test.jsonl.
    n
        Words in a row that make a match; shorter questions are looked for whole.
    report
        File for a JSON line on each dropped row: its line, the benchmark, the question's number there, the words.
    """
    from qwq.problems.decontaminate import build_index, decontaminate_file

    summary = decontaminate_file(train, build_index(against, data, n), out, report)
    print(json.dumps(summary))
    reasons = ", ".join(f"{count} by {name}" for name, count in sorted(summary["dropped"].items())) or "none"
    print(f"{summary['rows']} rows, {summary['rows'] - summary['kept']} dropped ({reasons}); {summary['kept']} in {out}", file=sys.stderr)
    return 0


@data_app.command
def constraints(*, out: Path, n: int = 1000, split: str = "train", seed: int = 0) -> int:
    """Write prompts with constraints that rules can check, in IFEval's layout: prompt, instruction_id_list, kwargs.

    Parameters
    ----------
    out
        File for the JSON lines.
    n
        Number of prompts.
    split
        train, validation or test; no writing task stands in two of them.
    seed
        Seed of the choice.
    """
    from qwq.errors import ConfigError, nearest
    from qwq.problems.constraints import constraint_problem
    from qwq.types import SPLITS

    if split not in SPLITS:
        raise ConfigError(f"--split {split}: {nearest(split, SPLITS)}")
    if n < 1:
        raise ConfigError(f"--n is {n}: give at least 1")
    lines = []
    for index in range(n):
        truth = constraint_problem(seed, split, index).truth
        lines.append(json.dumps({"key": index, **{k: truth[k] for k in ("prompt", "instruction_id_list", "kwargs")}}, ensure_ascii=False))
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{n} prompts in {out}", file=sys.stderr)
    return 0
