"""A run's log as the run goes: what is recorded is served first, then new events are appended.

A run that resumes is the same loop from its start. Every event that it would write is compared with
the recorded one instead, until none is left; so what is decided after a kill is decided from what
was decided before it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from qwq.agent.events import Event, EventKind, EventLog
from qwq.errors import DataError

DECIDED = ("approved", "denied")  # a person's decisions, which come from outside the loop


class Tape:
    """`seconds` is the run's clock: what it had used at the last event, recorded or new.

    `rebuilt` and `changed` are ids of calls that ran again to rebuild a session, and of those whose
    text was another than before.
    """

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.seconds = 0.0
        self.rebuilt: list[str] = []
        self.changed: list[str] = []
        self._recorded = deque(event for event in log.events if _of_the_loop(event))
        self._resumed = bool(self._recorded)

    @property
    def live(self) -> bool:
        """Whether all that was recorded has been served."""
        return not self._recorded

    def peek(self, kind: EventKind, call: str | None = None) -> Event | None:
        """The next recorded event where it is of this kind, and of this call."""
        event = self._recorded[0] if self._recorded else None
        if event is None or event["event"] != kind or (call is not None and event.get("id") != call):
            return None
        return event

    def put(self, what: EventKind, /, *, durable: bool = False, **fields: Any) -> Event:
        """The recorded event in this place, or `fields` as a new one. DataError where the log holds
        something else here.
        """
        if self._recorded:
            event = self._recorded.popleft()
            for key in ("id", "tool", "arguments"):
                if event["event"] != what or (key in fields and event.get(key) != fields[key]):
                    raise DataError(
                        f"{self.log.folder}, event {event['n']}: the log holds {_shown(event)}, this run makes "
                        f"{_shown({'event': what.value, **fields})}: resume with the qwq that made the log"
                    )
        else:
            self._say_resumed()
            event = self.log.append(what, durable=durable, **fields)
        self.seconds = event["s"]
        return event

    def _say_resumed(self) -> None:
        if self._resumed:
            self._resumed = False
            self.log.append(EventKind.RESUME, rebuilt=self.rebuilt, changed=self.changed)

    def decisions(self) -> dict[str, Event]:
        """What a person has decided, by call."""
        return {e["id"]: e for e in self.log.events if e["event"] == EventKind.APPROVAL and e["decision"] in DECIDED}


def _of_the_loop(event: Event) -> bool:
    if event["event"] == EventKind.APPROVAL:
        return event["decision"] not in DECIDED
    return event["event"] not in (EventKind.RESUME, EventKind.RUN)


def _shown(event: Event) -> str:
    return " ".join(str(event[key]) for key in ("event", "id", "tool", "arguments") if key in event)[:120]
