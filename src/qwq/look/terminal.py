"""Answers in the terminal: a list, then one of them with its group. Plain text without a terminal.

What a model wrote is hostile text: it is shown without markup, and characters that steer a terminal
are made visible.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.style import Style
from rich.table import Table
from rich.text import Text

from qwq.look.index import AnswerIndex
from qwq.look.query import Query, select
from qwq.look.shown_answers import ShownAnswer, thinking_and_answer
from qwq.look.tokens import Shader
from qwq.report.wording import visible

OUTCOME_STYLES = {
    "correct": "green", "wrong": "red", "no_answer": "yellow", "unfinished": "magenta", "timeout": "yellow",
    "undecided": "cyan", "infra_error": "bold red",
}  # fmt: skip
PREVIEW_CHARS, EXPECTED_CHARS, GROUP_SHOWN = 60, 24, 32
PAGE = 20
UNLIKELY = 0.5  # a token with less probability has its figure written behind it, if there is no colour
HELP = "number: show it   Enter: next page   b: page before   /TEXT: search   t: tokens by probability   q: quit"


def listing(index: AnswerIndex, rows: Sequence[int], *, wide: bool = True) -> RenderableType:
    """A table of answers, one a line."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for name in ("#", "stage", "step", "task", "outcome", "reward", "advantage", "tokens"):
        table.add_column(name, justify="left" if name in ("stage", "task", "outcome") else "right", no_wrap=True)
    if wide:
        table.add_column("expected", no_wrap=True, overflow="ellipsis", max_width=EXPECTED_CHARS)
    table.add_column("answer", no_wrap=True, overflow="ellipsis", max_width=PREVIEW_CHARS)
    for row in rows:
        shown = index.entry(row)
        outcome = index.name("outcome", row)
        cells: list[RenderableType] = [
            str(row + 1), _line(index.name("place", row)), _step(index, row), _line(index.name("task", row)),
            Text(_line(outcome).plain, OUTCOME_STYLES.get(outcome, "")), _number(index.value("reward", row)),
            _number(index.value("advantage", row), sign=True), f"{index.columns['tokens'][row]:,}",
        ]  # fmt: skip
        cells += [_line(shown.expected)] if wide else []
        table.add_row(*cells, _line(shown.answer or thinking_and_answer(shown)[1]))
    return table


def summary(index: AnswerIndex, rows: Sequence[int], query: Query) -> Text:
    """How many fit, by outcome."""
    counts = Counter(index.columns["outcome"][rows].tolist()) if len(rows) else Counter()
    outcomes = ", ".join(f"{n:,} {visible(index.names['outcome'][o]) or 'not judged'}" for o, n in counts.most_common())
    words = f"{len(rows):,} of {len(index):,} answers" if not query.is_empty else f"{len(index):,} answers"
    damaged = f"; {index.damaged:,} damaged lines left out" if index.damaged else ""
    return Text(f"{words}{': ' if outcomes else ''}{outcomes}{damaged}", "bold")


def one(index: AnswerIndex, row: int, shader: Shader | None = None, *, colour: bool = True) -> RenderableType:
    """An answer whole: prompt, expected, thinking, answer, verdict, rewards, and its group.

    `shader` marks tokens by their probability: by shade, or without `colour` by the figure behind
    each unlikely one.
    """
    shown = index.entry(row)
    thinking, answer = thinking_and_answer(shown)
    parts: list[RenderableType] = [_heading(index, row, shown)]
    sections: list[tuple[str, Any]] = [("Prompt", shown.prompt), ("Expected", shown.expected)]
    shaded = shader.pieces(shown) if shader else []
    if shaded:
        sections.append(("Answer, tokens by probability", _shade(shaded, colour=colour)))
    else:
        sections += [("Thinking", Text(visible(thinking or ""), "dim")), ("Answer", answer)]
    sections.append(("Calls", shown.calls))
    for title, body in sections:
        if len(body):
            parts += [Rule(title, align="left", style="dim"), body if isinstance(body, Text) else Text(visible(body))]
    parts += [Rule("Verdict", align="left", style="dim"), *_verdict(shown)]
    group = index.group_of(row)
    if len(group) > 1:
        parts += [Rule(f"Group: {len(group)} answers to this prompt", align="left", style="dim")]
        parts.append(listing(index, group[:GROUP_SHOWN], wide=False))
    return Group(*parts)


def browse(index: AnswerIndex, query: Query, console: Console, shader: Shader, ask: Callable[[str], str]) -> None:
    """List and show answers until the user has seen enough.

    `ask` reads a line; EOFError ends it too.
    """
    rows, first, shaded, last = select(index, query).tolist(), 0, False, -1
    while True:
        console.print(summary(index, rows, query))
        console.print(listing(index, rows[first : first + PAGE]))
        console.print(Text(HELP, "dim"))
        try:
            word = ask("look> ").strip()
        except EOFError:
            return
        if word == "q":
            return
        if word.startswith("/"):
            query = Query(**{**_fields(query), "text": word[1:]})
            rows, first = select(index, query).tolist(), 0
        elif word == "t":
            shaded = not shaded
            if last >= 0:
                console.print(one(index, last, shader if shaded else None))
        elif word in ("", "b"):
            first = max(0, first - PAGE) if word else first + PAGE if first + PAGE < len(rows) else 0
        elif word.isdecimal() and 1 <= int(word) <= len(index):
            last = int(word) - 1
            console.print(one(index, last, shader if shaded else None))
        else:
            console.print(Text(f"no answer {word!r}: give a number from 1 to {len(index):,}", "red"))


def _fields(query: Query) -> dict[str, Any]:
    return {name: getattr(query, name) for name in query.__slots__}


def _heading(index: AnswerIndex, row: int, shown: ShownAnswer) -> Text:
    step = f", step {_step(index, row)}" if index.columns["step"][row] >= 0 else ""
    sample = f", sample {shown.sample}" if shown.sample is not None else ""
    where = f"#{row + 1}  {visible(index.name('place', row))}{step}"
    return Text(f"{where}  {visible(shown.task)}  {visible(shown.problem_id)}{sample}", "bold")


def _verdict(shown: ShownAnswer) -> Iterable[Text]:
    judged = Text(visible(shown.outcome or "not judged"), OUTCOME_STYLES.get(shown.outcome, ""))
    if shown.reason:
        judged.append(f": {visible(shown.reason)}", "default")
    yield judged
    terms = ", ".join(f"{visible(name)} {_number(value)}" for name, value in shown.rewards.items())
    yield Text(f"reward {_number(shown.reward)}" + (f" = {terms}" if terms else ""))
    facts = {"read out": shown.answer, "ended by": shown.stop_reason, "tokens": f"{shown.tokens:,}"} | shown.facts
    if shown.budget is not None:
        facts["thinking budget"] = f"{shown.budget:,}"
    yield Text("   ".join(f"{name} {visible(value)}" for name, value in facts.items() if value), "dim")


def _shade(pieces: Sequence[tuple[str, float | None]], *, colour: bool) -> Text:
    """Tokens on red if they were unlikely; grey if the model did not choose them."""
    out = Text()
    for piece, probability in pieces:
        if probability is None:
            out.append(visible(piece), "dim")
        elif colour:
            red = round(200 * (1 - probability))
            out.append(visible(piece), Style(bgcolor=f"rgb({red},0,0)", color="white") if red > 20 else "")
        else:
            out.append(visible(piece) + (f"[{probability:.2f}]" if probability < UNLIKELY else ""))
    return out


def _line(value: str) -> Text:
    return Text(" ".join(visible(value).split()))


def _step(index: AnswerIndex, row: int) -> str:
    step = int(index.columns["step"][row])
    return "" if step < 0 else str(step + 1)


def _number(value: float | None, *, sign: bool = False) -> str:
    return "" if value is None else f"{value:+.3g}" if sign and value else f"{value:.3g}"
