"""Reports with placeholders: `{{mean_fare}}` is filled with what a cell registered.

In the session `report.value("mean_fare", x, "{:.2f}")`, `report.table("by_age", frame)` and
`report.figure("fares")` register (`sandbox/jail/report_values.py`); a name that is registered again
has its last value. In a text with placeholders every other number is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwq.agent.report.reader import read_numbers
from qwq.agent.report.steps import CallRecord
from qwq.agent.report.trace import NumberCheck
from qwq.errors import nearest

PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_][\w.-]*)\s*\}\}")
BY_HAND = "typed by hand: register it in a cell, report.value(name, x), and write {{name}}"


@dataclass(frozen=True, slots=True)
class Registered:
    """What a call registered under a name; `step` is that call."""

    step: CallRecord
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Filled:
    """A text whose placeholders are filled, and what is to be said of its numbers."""

    text: str
    checks: Sequence[NumberCheck]


def registered_values(steps: Sequence[CallRecord]) -> dict[str, Registered]:
    return {str(fields.get("name")): Registered(step, fields) for step in steps for fields in step.values}


def is_strict(text: str) -> bool:
    return bool(PLACEHOLDER.search(text))


def fill(text: str, values: Mapping[str, Registered]) -> Filled:
    """Put the registered values in, and check that no number was typed."""
    out: list[str] = []
    spans: list[tuple[int, int, Registered]] = []
    missing: list[NumberCheck] = []
    last = length = 0
    for match in PLACEHOLDER.finditer(text):
        value = values.get(match[1])
        shown = match[0] if value is None else _shown(value)
        out += [text[last : match.start()], shown]
        start = length + match.start() - last
        length, last = start + len(shown), match.end()
        if value is None:
            hint = nearest(match[1], values) if values else "no cell registered a value"
            missing.append(NumberCheck(shown, start, length, None, f"no value {match[1]!r} was registered: {hint}"))
        else:
            spans.append((start, length, value))
    filled = "".join([*out, text[last:]])
    checks = [_check(number, spans) for number in read_numbers(filled) if not number.is_year or _span(number, spans)]
    return Filled(filled, sorted([*checks, *missing], key=lambda check: check.start))


def _span(number: Any, spans: Sequence[tuple[int, int, Registered]]) -> Registered | None:
    return next((value for start, end, value in spans if number.start < end and start < number.end), None)


def _check(number: Any, spans: Sequence[tuple[int, int, Registered]]) -> NumberCheck:
    value = _span(number, spans)
    span = (number.text, number.start, number.end)
    if value is None:
        return NumberCheck(*span, None, BY_HAND)
    return NumberCheck(*span, value.step.label, kind="value", given=str(value.fields.get("text", "")))


def _shown(value: Registered) -> str:
    fields = value.fields
    if fields.get("kind") == "table":
        return _table(fields.get("columns") or [], fields.get("rows") or [])
    if fields.get("kind") == "figure":
        return f"![{fields.get('title') or fields['name']}]({figure_name(value)})"
    return str(fields.get("text", ""))


def figure_name(value: Registered) -> str:
    """The artefact of a registered figure: the cell's picture of that place."""
    pictures = [a["name"] for a in value.step.artefacts if a["media_type"] == "image/png"]
    index = int(value.fields.get("index") or 1) - 1
    return pictures[index] if 0 <= index < len(pictures) else f"{value.fields['name']}.png"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |" for line in lines)
