"""`qwq look`: what models answered, in the terminal, as JSON lines, or as a page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from qwq.errors import ConfigError

PIPED_WIDTH = 160  # of a list that goes to a file or another program


def look(
    target: Path,
    *,
    show: int | None = None,
    text: str = "",
    outcome: str = "",
    stage: str = "",
    task: str = "",
    problem: str = "",
    step: str = "",
    min_reward: float | None = None,
    max_reward: float | None = None,
    sort: Literal["order", "reward", "advantage", "tokens"] = "order",
    reverse: bool = False,
    limit: int | None = None,
    json_lines: Annotated[bool, Parameter(name="--json")] = False,
    tokens: bool = False,
) -> int:
    """Read the answers of a run or an evaluation: prompt, expected, thinking, answer, verdict, rewards, the group.

    On a terminal you can page, search and open answers. Elsewhere a list is printed, or one answer with --show. The
    advantage shown is the reward minus the mean of its group (the default form of `advantage`).

    Parameters
    ----------
    target
        A run's folder (its rollouts and evaluations), a results folder of `qwq eval`, or a file of samples (.jsonl).
    show
        Show the answer with this number whole, with its group.
    text
        Only answers that hold this text in prompt, answer, reason, expected or problem id; case does not matter.
    outcome
        Only this outcome: correct, wrong, no_answer, unfinished, timeout, undecided, infra_error.
    stage
        Only this stage (rl1), evaluation (eval sft) or benchmark.
    task
        Only this domain or benchmark.
    problem
        Only this problem id.
    step
        Only this step of its stage, counted from 1, or a range such as 10:20.
    min_reward
        Only rewards of at least this.
    max_reward
        Only rewards of at most this.
    sort
        Order: as sampled, or by reward, advantage or tokens.
    reverse
        Largest or last first.
    limit
        Print at most so many answers (20; all with --json).
    json_lines
        Print JSON lines, one an answer, with all of its text.
    tokens
        With --show: mark each token by its probability.
    """
    from rich.console import Console

    from qwq.look import terminal
    from qwq.look.index import open_index
    from qwq.look.query import Query, select
    from qwq.look.tokens import Shader

    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}: give at least 1")
    index = open_index(target.expanduser())
    query = Query(outcome, stage, task, problem, step, min_reward, max_reward, text, sort, reverse)
    rows = select(index, query).tolist()
    if show is not None:
        if not 1 <= show <= len(index):
            raise ConfigError(f"--show {show}: {target} holds answers 1 to {len(index):,}")
        rows = [show - 1]
    if json_lines:
        for row in rows[:limit]:
            sys.stdout.write(json.dumps(index.public(row)) + "\n")
        return 0
    terminal_width = None if sys.stdout.isatty() else PIPED_WIDTH
    console = Console(highlight=False, width=terminal_width, soft_wrap=terminal_width is not None)
    shader = Shader(target)
    if show is not None:
        console.print(terminal.one(index, show - 1, shader if tokens else None, colour=bool(console.color_system)))
    elif sys.stdin.isatty() and console.is_terminal and limit is None:
        terminal.browse(index, query, console, shader, input)
    else:
        console.print(terminal.summary(index, rows, query))
        console.print(terminal.listing(index, rows[: limit or terminal.PAGE]))
    return 0
