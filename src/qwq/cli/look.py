"""`qwq look`: what models answered, in the terminal, as JSON lines, or as a page. `qwq watch`: a
running recipe.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from qwq.errors import ConfigError

if TYPE_CHECKING:
    from qwq.look.index import AnswerIndex
    from qwq.look.query import Query

PIPED_WIDTH = 160  # of a list that goes to a file or another program


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which answers, and in which order."""

    text: Annotated[str, Parameter(allow_leading_hyphen=True)] = ""
    """Only answers that hold this text in prompt, answer, reason, expected or problem id; case does not matter."""
    outcome: str = ""
    """Only this outcome: correct, wrong, no_answer, unfinished, timeout, undecided, infra_error."""
    stage: str = ""
    """Only this stage (rl1), evaluation (eval sft) or benchmark."""
    task: str = ""
    """Only this domain or benchmark."""
    problem: str = ""
    """Only this problem id."""
    step: str = ""
    """Only this step of its stage, counted from 1, or a range such as 10:20."""
    min_reward: float | None = None
    """Only rewards of at least this."""
    max_reward: float | None = None
    """Only rewards of at most this."""
    sort: Literal["order", "reward", "advantage", "tokens"] = "order"
    """Order: as sampled, or by reward, advantage or tokens."""
    reverse: bool = False
    """Largest or last first."""

    def query(self) -> Query:
        from qwq.look.query import Query

        return Query(
            self.outcome, self.stage, self.task, self.problem, self.step, self.min_reward, self.max_reward, self.text,
            self.sort, self.reverse,
        )  # fmt: skip


def look(
    target: Path,
    *,
    show: int | None = None,
    tokens: bool = False,
    filters: Filters | None = None,
    limit: int | None = None,
    json_lines: Annotated[bool, Parameter(name="--json")] = False,
    html: Path | None = None,
    serve: bool = False,
    port: int = 0,
) -> int:
    """Read the answers of a run or an evaluation: prompt, expected, thinking, answer, verdict,
    rewards, the group.

    On a terminal you can page, search and open answers. Elsewhere a list is printed, or one answer
    with --show. The advantage shown is the reward minus the mean of its group (the default form of
    `advantage`).

    Parameters
    ----------
    target
        A run's folder (its rollouts and evaluations), a results folder of `qwq eval`, or a file of
        samples (.jsonl).
    show
        Show the answer with this number whole, with its group.
    tokens
        With --show: mark each token by its probability.
    limit
        Print at most so many answers (20; all with --json and --html).
    json_lines
        Print JSON lines, one an answer, with all of its text.
    html
        Write one self-contained page to this file, with a list, filters and the answers (up to 16
        MiB of them).
    serve
        Serve the page for all answers, however many, on 127.0.0.1 until Ctrl-C.
    port
        Port of --serve; 0 takes a free one.
    """
    from qwq.look.index import open_index

    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}: give at least 1")
    target = target.expanduser()
    if serve:
        return _serve(target, port)
    index = open_index(target)
    query = (filters or Filters()).query()
    if show is not None and not 1 <= show <= len(index):
        raise ConfigError(f"--show {show}: {target} holds answers 1 to {len(index):,}")
    rows = _rows(index, query, show)
    if json_lines:
        for row in rows[:limit]:
            sys.stdout.write(json.dumps(index.public(row)) + "\n")
    elif html is not None:
        _write_page(index, rows[:limit], html)
    else:
        _print(index, query, rows, show, tokens, limit)
    return 0


def _rows(index: AnswerIndex, query: Query, show: int | None) -> list[int]:
    """The rows that fit; of `show` its own alone. ConfigError if that does not fit."""
    from qwq.look.query import select

    rows: list[int] = select(index, query).tolist()
    if show is None:
        return rows
    if show - 1 not in rows:
        raise ConfigError(f"--show {show}: that answer does not fit the filters beside it: leave them out")
    return [show - 1]


def _print(
    index: AnswerIndex, query: Query, rows: list[int], show: int | None, tokens: bool, limit: int | None
) -> None:
    from rich.console import Console

    from qwq.look import terminal
    from qwq.look.tokens import Shader

    width = None if sys.stdout.isatty() else PIPED_WIDTH
    console = Console(highlight=False, width=width, soft_wrap=width is not None)
    shader = Shader(index.target)
    if show is not None:
        colour = bool(console.color_system)
        console.print(terminal.one(index, show - 1, shader if tokens else None, colour=colour))
    elif sys.stdin.isatty() and console.is_terminal and limit is None:
        terminal.browse(index, query, console, shader, input)
    else:
        console.print(terminal.summary(index, rows, query))
        console.print(terminal.listing(index, rows[: limit or terminal.PAGE]))
        if limit is None and len(rows) > terminal.PAGE:
            more = len(rows) - terminal.PAGE
            print(f"{more:,} more: --limit {len(rows)} lists all, a filter fewer", file=sys.stderr)


def _write_page(index: AnswerIndex, rows: list[int], path: Path) -> None:
    from qwq.look.page import write_page

    held = write_page(index, rows, path)
    less = "" if held == len(rows) else f" of {len(rows):,}: filter, or use --serve, to see the others"
    print(f"{path}: {held:,} answers{less}")


def _serve(target: Path, port: int) -> int:
    from qwq.look.index import open_index
    from qwq.look.page import serve as make
    from qwq.look.server import run

    return run(make(lambda: open_index(target), port))


def watch(
    run: Path,
    *,
    once: bool = False,
    json_state: Annotated[bool, Parameter(name="--json")] = False,
    serve: bool = False,
    port: int = 0,
) -> int:
    """Follow a running recipe: stage, step, reward, loss, alarms, speed, time left. It ends when
    the run has finished.

    It reads the run's files only: the run is not slowed down, and need not be on this machine's
    screen. On a terminal the view is live; elsewhere a line is printed when a step is new.

    Parameters
    ----------
    run
        The run's folder, such as runs/tiny.
    once
        Show the state once and exit.
    json_state
        Print the state once as JSON.
    serve
        Serve a live page on 127.0.0.1 until Ctrl-C.
    port
        Port of --serve; 0 takes a free one.
    """
    from rich.console import Console

    from qwq.look import watch as view
    from qwq.look.live import RunWatch
    from qwq.look.server import run as serve_forever

    folder = run.expanduser()
    if serve:
        return serve_forever(view.serve(folder, port))
    watched = RunWatch(folder)
    console = Console(highlight=False)
    if json_state:
        print(json.dumps(watched.state()))
    elif once:
        console.print(view.screen(watched.state()))
    else:
        with contextlib.suppress(KeyboardInterrupt):
            view.follow(watched, console)
    return 0
