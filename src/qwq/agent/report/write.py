"""`report.md`, `report.html` and what is to be said of them.

    outcome = write_report(Path("runs/agent/a"))
    outcome.unsupported, outcome.to_dict()

The text is `report.md` of the workspace where the model wrote one, else its answer. With
placeholders it is checked strictly (`strict.py`), else every number is traced (`trace.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwq.agent.events import Event, EventKind, read_run
from qwq.agent.folder import AgentFolder, resume_command
from qwq.agent.report.checked import Checked, check_text, context, listed_files
from qwq.agent.report.page import page
from qwq.agent.report.steps import CallRecord, read_steps
from qwq.common.files import write_atomic
from qwq.errors import DataError

REPORT = "report.md"
MAX_FAULTS = 20  # that the model is told
NO_ANSWER = "Your last turn has no text. Answer the task in plain text now, or call a tool."


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    """`unsupported` counts numbers that no call gave and deeds that no event proves."""

    checked: Checked
    markdown: Path
    html: Path

    @property
    def unsupported(self) -> int:
        return len(self.checked.wrong_numbers) + len(self.checked.wrong_deeds)

    def to_dict(self) -> dict[str, Any]:
        text = self.checked.text
        sources = Counter(check.source for check in self.checked.numbers if check.source)
        return {
            "unsupported": self.unsupported,
            "mode": "strict" if self.checked.is_strict else "loose",
            "numbers": [
                {"text": c.text, "start": c.start, "reason": c.reason, "context": context(text, c.start, c.end)}
                for c in self.checked.wrong_numbers
            ],
            "deeds": [
                {"text": d.text, "start": d.start, "reason": d.reason, "context": context(text, d.start, d.end)}
                for d in self.checked.wrong_deeds
            ],
            "traced": dict(sources),
            "report": str(self.html),
        }


def write_report(run: Path) -> ReportOutcome:
    """Write `report.md` and `report.html` of a run that has ended. DataError for another folder."""
    events = read_run(run)
    if not events:
        raise DataError(f"{run}: the run was stopped before its first event: there is nothing to report")
    if events[-1]["event"] != EventKind.FINISH:
        raise DataError(f"{run}: the run has not ended: `{resume_command(run)}` continues it")
    folder = AgentFolder(run)
    steps = read_steps(events, run)
    answer = str(events[-1]["answer"])
    own = folder.workspace / REPORT
    text = own.read_text(encoding="utf-8", errors="replace") if own.is_file() else answer
    checked = check_text(text, events, steps)
    write_atomic(folder.report, f"{markdown(checked, steps, events)}\n".encode(errors="replace"))
    html = run / "report.html"
    write_atomic(html, page(checked, steps, events, run, answer if own.is_file() else "").encode(errors="replace"))
    return ReportOutcome(checked, folder.report, html)


def correction(answer: str, events: Sequence[Event]) -> str:
    """What the model is told of its answer, so that it can mend it; "" where all is proven."""
    if not answer.strip():
        return NO_ANSWER
    if not events:
        return ""
    steps = read_steps(events)
    written = _written_report(steps)
    checked = check_text(answer if written is None else written, events, steps)
    faults = [f"- {c.text} (in: {context(checked.text, c.start, c.end)}): {c.reason}" for c in checked.wrong_numbers]
    faults += [f'- "{d.text}": {d.reason}' for d in checked.wrong_deeds]
    if not faults:
        return ""
    what = "your answer" if written is None else REPORT
    again = "the whole answer again" if written is None else f"the corrected {REPORT} and your answer"
    more = [f"- and {len(faults) - MAX_FAULTS} more"] if len(faults) > MAX_FAULTS else []
    return "\n".join(
        [
            f"Some of what {what} says is not supported by what was executed:",
            *faults[:MAX_FAULTS],
            *more,
            "For each one: compute it with a tool and use what comes back, also differences, sums and ratios, or leave "
            f"it out. Do the deeds, or do not claim them. Then give {again}.",
        ]
    )


def _written_report(steps: Sequence[CallRecord]) -> str | None:
    """What the last call of the tool `write` put into report.md, if one did."""
    for step in reversed(steps):
        if step.tool == "write" and step.kind == "ok" and step.arguments.get("path") == REPORT:
            return str(step.arguments.get("content", ""))
    return None


# -- report.md -------------------------------------------------------------------------------------


def markdown(checked: Checked, steps: Sequence[CallRecord], events: Sequence[Event]) -> str:
    """The text with what is unsupported marked, the pictures, and where its numbers are from."""
    marks = [(c.end, " **[unsupported]**") for c in checked.wrong_numbers]
    marks += [(d.end, f" **[not proven: {d.reason}]**") for d in checked.wrong_deeds]
    text = checked.text
    for end, mark in sorted(marks, reverse=True):
        text = text[:end] + mark + text[end:]
    names = {a["name"] for step in steps for a in step.artefacts}
    text = re.sub(r"(!\[[^\]\n]*\]\()(?:\./)?(?:artefacts/)?([^)/\s]+)\)", lambda m: _picture(m, names, events), text)
    parts = [text.rstrip(), *_pictures(text, steps)]
    below = ["## Sources", _sources(checked)] if checked.numbers or checked.deeds else []
    if files := _files(steps, events):
        below += ["## Files", files]
    return "\n\n".join([*parts, *(["---"] if below else []), *below])


def _picture(match: re.Match[str], names: set[str], events: Sequence[Event]) -> str:
    added = (events[-1].get("files") or {}).get("added") or {}
    place = "artefacts" if match[2] in names else "workspace" if match[2] in added else ""
    return f"{match[1]}{place}/{match[2]})" if place else match[0]


def _pictures(text: str, steps: Sequence[CallRecord]) -> list[str]:
    """Pictures that the text does not show itself."""
    return [
        f"![{a['title'] or a['name']}](artefacts/{a['name']})"
        for step in steps
        for a in step.artefacts
        if a["media_type"] == "image/png" and a["name"] not in text
    ]


def _sources(checked: Checked) -> str:
    sources = Counter(check.source for check in checked.numbers if check.source)
    given = ", ".join(f"{source} ({count})" for source, count in sources.items())
    lines = [f"{sum(sources.values())} numbers are traced: {given}." if sources else "No number is traced to a call."]
    if checked.wrong_numbers:
        lines += [f"{len(checked.wrong_numbers)} numbers are unsupported:", ""]
        lines += [f"- {c.text}: {c.reason}" for c in checked.wrong_numbers]
    for deed in checked.deeds:
        lines += ["", f"{'Proven' if deed.is_proven else 'Not proven'}: {deed.text} ({deed.reason})"]
    return "\n".join(lines)


def _files(steps: Sequence[CallRecord], events: Sequence[Event]) -> str:
    rows = [f"| {name} | {size:,} | `{digest}` |" for name, size, digest in listed_files(steps, events)]
    return "\n".join(["| file | bytes | sha256 |", "|---|---:|---|", *rows]) if rows else ""
