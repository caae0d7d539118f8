"""A report's text with what was found of its numbers and claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwq.agent.events import Event
from qwq.agent.folder import own_task
from qwq.agent.report.deeds import DeedCheck, check_deeds
from qwq.agent.report.steps import CallRecord, number_sources
from qwq.agent.report.strict import fill, is_strict, registered_values
from qwq.agent.report.trace import NumberCheck, check_numbers

CONTEXT = 60  # characters on each side of what is listed


@dataclass(frozen=True, slots=True)
class Checked:
    """A text with what was found of its numbers and claims."""

    text: str
    numbers: Sequence[NumberCheck]
    deeds: Sequence[DeedCheck]
    is_strict: bool

    @property
    def wrong_numbers(self) -> list[NumberCheck]:
        return [check for check in self.numbers if check.source is None]

    @property
    def wrong_deeds(self) -> list[DeedCheck]:
        return [deed for deed in self.deeds if not deed.is_proven]


def check_text(text: str, events: Sequence[Event], steps: Sequence[CallRecord]) -> Checked:
    if is_strict(text):
        filled = fill(text, registered_values(steps))
        return Checked(filled.text, filled.checks, check_deeds(filled.text, events), True)
    numbers = check_numbers(text, number_sources(own_task(events[0]["task"]), steps))
    return Checked(text, numbers, check_deeds(text, events), False)


def context(text: str, start: int, end: int) -> str:
    """The words around a span, in one line."""
    a, b = max(0, start - CONTEXT), min(len(text), end + CONTEXT)
    line = " ".join(text[a:b].split())
    return f"{'... ' if a else ''}{line}{' ...' if b < len(text) else ''}"


def listed_files(steps: Sequence[CallRecord], events: Sequence[Event]) -> list[tuple[str, int, str]]:
    """(place in the run's folder, bytes, sha256) of artefacts and of files that the run made."""
    files = events[-1].get("files") or {}
    listed = [(f"artefacts/{a['name']}", a["bytes"], a["sha256"]) for step in steps for a in step.artefacts]
    listed += [(f"workspace/{n}", s["bytes"], s["sha256"]) for n, s in (files.get("added") or {}).items()]
    listed += [(f"workspace/{n}", s[1]["bytes"], s[1]["sha256"]) for n, s in (files.get("changed") or {}).items()]
    return listed
