"""`events.jsonl`: all that a run did, a JSON object a line, each with the hash of the one before.

    {"n": 3, "t": 1764210000.123, "s": 4.2, "prev": "<sha256 of line 2>", "event": "result", ...}

`n` counts from 0, `t` is the time (seconds since 1970), `s` the seconds that the run has used, all
its processes together and no waiting for a person. docs/agent.md lists the kinds and their fields.
A kill leaves at most a torn last line, which the next process cuts off.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from qwq.common.files import GrowingFile, whole_lines
from qwq.common.jsonl import to_json
from qwq.errors import DataError

EVENTS = "events.jsonl"
FORMAT = 1  # of the events; a log of another format is refused
NO_LINE = "0" * 64  # `prev` of the first line

Event = dict[str, Any]


class EventKind(StrEnum):
    """What a line tells."""

    RUN = "run"  # the first: task, model, tools, limits, files
    MODEL_TURN = "model_turn"
    CALL = "call"  # one that the model made, before it runs
    APPROVAL = "approval"  # what a rule or a person decided
    TOOL_STARTED = "tool_started"
    RESULT = "result"
    SUMMARY = "summary"  # what the model wrote of turns that leave the context
    COMPACTION = "compaction"
    BUDGET = "budget"  # what the model was told of its limits, or of a loop
    CHECK = "check"  # what the model was told of its answer
    RESUME = "resume"  # another process went on
    FINISH = "finish"


# What readers of a log rely on, beside what each event has.
_FIELDS: dict[EventKind, tuple[str, ...]] = {
    EventKind.RUN: ("format", "task"),
    EventKind.MODEL_TURN: ("turn", "text", "thinking", "answer", "calls", "stop_reason", "tokens", "seconds"),
    EventKind.CALL: ("id", "tool"),
    EventKind.APPROVAL: ("id", "decision"),
    EventKind.TOOL_STARTED: ("id", "tool", "effect"),
    EventKind.RESULT: ("id", "tool", "kind", "text", "artefacts", "seconds"),
    EventKind.SUMMARY: ("turn", "turns", "text", "thinking", "answer", "calls", "stop_reason", "tokens", "seconds"),
    EventKind.COMPACTION: ("shortened", "dropped", "text"),
    EventKind.BUDGET: ("about", "last", "text"),
    EventKind.CHECK: ("text",),
    EventKind.RESUME: ("rebuilt", "changed"),
    EventKind.FINISH: ("answer", "stop_reason", "files"),
}


class EventLog:
    """The log of one run, open for appending; one process at a time (ConfigError).

    `events` are all so far. `wall` and `steady` are the clocks of `t` and `s`. `heard` is called
    with every new event. `otherwise`: what else a caller may do whose folder is in use.
    """

    def __init__(
        self,
        folder: Path,
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        heard: Callable[[Event], None] | None = None,
        otherwise: str = "",
    ) -> None:
        self.folder, self.heard = folder, heard
        self._wall, self._steady = wall, steady
        self._file = GrowingFile(
            folder / EVENTS, f"another process runs the agent in {folder}: wait for it, or stop it{otherwise}"
        )
        try:
            self.events, self._last = _read(folder)
        except BaseException:
            self._file.close()
            raise
        self._used = self.events[-1]["s"] if self.events else 0.0
        self._opened = steady()
        self._lock = threading.Lock()

    def append(self, what: EventKind, /, *, durable: bool = False, **fields: Any) -> Event:
        """Add an event; on the disk before this returns where it is `durable`, and safe from a kill
        in any case.
        """
        with self._lock:
            seconds = round(self._used + self._steady() - self._opened, 3)
            event: Event = {
                "n": len(self.events), "t": round(self._wall(), 3), "s": seconds, "prev": self._last,
                "event": what.value, **fields,
            }  # fmt: skip
            line = to_json(event) + b"\n"
            self._file.append(line, durable=durable)
            self._last = sha256(line[:-1])
            self.events.append(event)
        if self.heard is not None:
            self.heard(event)
        return event

    def close(self) -> None:
        self._file.close()


def read_events(folder: Path) -> list[Event]:
    """The events of a run, their chain checked. DataError where the file is absent, damaged or
    changed.
    """
    if not (folder / EVENTS).is_file():
        raise DataError(f"no {EVENTS} in {folder}: give the folder of a run of `qwq agent run`")
    return _read(folder)[0]


def read_run(folder: Path) -> list[Event]:
    """`read_events` of a whole run: none, or the event `run` and what followed."""
    events = read_events(folder)
    if events and events[0]["event"] != EventKind.RUN:
        raise DataError(f"{folder / EVENTS}, line 1: no run begins so: put the file back from a copy")
    return events


def _read(folder: Path) -> tuple[list[Event], str]:
    events: list[Event] = []
    last = NO_LINE
    for number, line in enumerate(whole_lines(folder / EVENTS)):
        where = f"{folder / EVENTS}, line {number + 1}"
        try:
            event = json.loads(line)
            chained, kind = event["prev"] == last and event["n"] == number, EventKind(event["event"])
            lacks = next((name for name in ("t", "s", *_FIELDS[kind]) if name not in event), None)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(f"{where}: no event of an agent's run: put the file back from a copy") from None
        if not chained:
            raise DataError(f"{where}: not the line that followed the one before: put the file back from a copy")
        if kind is EventKind.RUN and event.get("format") != FORMAT:
            raise DataError(f"{where}: format {event.get('format')}, this qwq reads format {FORMAT}")
        if lacks is not None:
            raise DataError(f"{where}: the event {kind.value} lacks {lacks!r}: put the file back from a copy")
        events.append(event)
        last = sha256(line)
    return events, last


def sha256(data: bytes | str) -> str:
    return hashlib.sha256(data.encode(errors="surrogatepass") if isinstance(data, str) else data).hexdigest()
