"""`qwq eval`: tasks on a model, two results compared, BFCL's leaderboard added up."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

eval_app = App(name="eval", help_flags=["--help", "-h"])


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Flags:
    """How samples are made; what is not given follows each task's protocol, and what is given is
    recorded in the results.
    """

    endpoint: str | None = None
    """URL of an OpenAI-compatible server; its key comes from QWQ_API_KEY or OPENAI_API_KEY."""
    n: int | None = None
    """Problems of each task, taken from its categories in turn; all by default, 500 of a procedural family."""
    samples: int | None = None
    """Answers to each problem; 64 for AIME, 8 for LiveCodeBench, 1 for the others by default."""
    max_new_tokens: int | None = None
    """Longest answer; 32,768 by default, 512 for procedural families. A longer one is unfinished."""
    greedy: bool = False
    """Take the likeliest token instead of sampling."""
    temperature: float | None = None
    """Sampling temperature; 0.6 by default, 1 for procedural families."""
    top_p: float | None = None
    """Smallest set of tokens with this probability; 0.95 by default, 1 for procedural families."""
    top_k: int | None = None
    """Likeliest tokens to choose from; 40 by default, 0 (all) for procedural families."""
    seed: int | None = None
    """Seed of the sampling; the same for every evaluation by default."""
    thinking_budgets: Annotated[tuple[int, ...], Parameter(name="--thinking-budget")] = ()
    """End the thinking after so many tokens (-1: no limit); given several times, each is run and accuracy is drawn against thinking."""
    tool_format: str = "auto"
    """How bfcl offers functions: native (the chat template's or server's tools), prompt (BFCL's system prompt), or auto."""
    tools: str | None = None
    """For agent tasks: python, sql, files, shell, several as python+sql, or none; each task's own by default."""
    tries: int | None = None
    """For agent tasks with tests or queries: answers to each problem, each after what was wrong with the one before."""
    max_calls: int | None = None
    """For agent tasks: most tool calls of a sample; 10 by default."""
    opens_thinking: Annotated[bool | None, Parameter(negative="--no-opens-thinking")] = None
    """With --endpoint: whether the server's chat template opens the thinking, as QwQ's does, so that a text without `</think>` is a
    thought. By default so for QwQ-32B and Qwen's Thinking models; a text of another model that was cut off is taken for a thought,
    one that ended by itself for an answer."""
    concurrency: Annotated[int | None, Parameter(name=["--concurrency", "--max-rows"])] = None
    """Answers made at once; 16 by default."""
    device: str = "cpu"
    """torch device."""
    dtype: str = "auto"
    """Its dtype, as for `qwq serve`."""
    threads: int | None = None
    """CPU threads."""
    deterministic: bool = False
    """An answer does not depend on what else is being answered, bit for bit; slower."""


@eval_app.default
def evaluate(model: str, *tasks: str, data: Path | None = None, out: Path | None = None, flags: Flags = Flags()) -> int:
    """Score a model on tasks; prints one JSON object, with a 95% interval for each score.

    Every sample is stored in OUT as it is made; the same command continues where it was stopped.

    Parameters
    ----------
    model
        Model folder, GGUF file, a run's folder (its last policy), or a hub name; with --endpoint
        the server's name for it.
    tasks
        aime24, aime25, livecodebench, livebench, ifeval, bfcl, gsm8k, math500, humaneval, mbpp; the
        procedural math, code, instructions, tools, preference, arithmetic, constraints; math-rows
        and code-rows, which read files of your own; NAME:PART for a part (bfcl:simple_python,
        livebench:math, arithmetic:3); NAME=PATH to read a task from a file; file.py:Name for a task
        of your own. With tools: dabench, spider_sqlite, wtq, humanevalfix, polyglot, cruxeval
        (cruxeval:alone without), dbbench; `agent` is all of these.
    data
        Folder with TASK/*.jsonl for each task; without it the published files are downloaded. Or
        the file of the one task that reads files.
    out
        Folder for samples, results.json and report.html; evals/MODEL by default.
    """
    from qwq import api

    print(json.dumps(api.evaluate(model, tasks, data=data, out=out, **asdict(flags))))
    return 0


@eval_app.command
def compare(a: Path, b: Path) -> int:
    """Compare two results folders problem by problem: a JSON line for each task that both hold, and
    a table on standard error.

    Parameters
    ----------
    a
        The OUT folder of an evaluation.
    b
        That of another: differences are B - A.
    """
    from qwq.eval import compare as comparison

    rows = comparison.compare(a, b)
    print(comparison.table(rows, str(a), str(b)), file=sys.stderr)
    for row in rows:
        print(json.dumps(row))
    return 0


@eval_app.command
def aggregate(folder: Path) -> int:
    """Compute BFCL's overall column from a leaderboard's CSV files: a JSON line for each row, the
    published accuracy and ours.

    Parameters
    ----------
    folder
        Folder with the leaderboard's CSV files.
    """
    from qwq.tasks.bfcl.aggregate import aggregate as rows

    for row in rows(folder):
        print(json.dumps(row))
        if "missing" in row:
            print(f"note: {row['model']}: {'; '.join(row['missing'])}", file=sys.stderr)
    return 0
