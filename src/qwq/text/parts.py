"""The parts of which a response is made: their kinds, how they are put together, how they are
handed out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from qwq.text.tool_calls import BLANKS


class Kind(StrEnum):
    THINKING = "thinking"
    ANSWER = "answer"
    CALL = "call"  # a call begins; the text is its function's name
    ARGUMENTS = "arguments"  # more of the call's arguments, as JSON text
    BROKEN = "broken"  # the call was none; its text comes as part of the answer


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a response. `index` numbers the calls from 0."""

    kind: Kind
    text: str
    index: int = 0


@dataclass(slots=True)
class ResponseBuilder:
    """A response put together from its parts.

    `calls` are pairs of name and arguments (JSON text), in order.
    """

    thinking: str = ""
    answer: str = ""
    _calls: dict[int, list[str]] = field(default_factory=dict)

    def add(self, parts: Iterable[Part]) -> None:
        for part in parts:
            match part.kind:
                case Kind.THINKING:
                    self.thinking += part.text
                case Kind.ANSWER:
                    self.answer += part.text
                case Kind.CALL:
                    self._calls[part.index] = [part.text, ""]
                case Kind.ARGUMENTS:
                    self._calls[part.index][1] += part.text
                case Kind.BROKEN:
                    del self._calls[part.index]

    @property
    def calls(self) -> list[tuple[str, str]]:
        return [(name, arguments) for name, arguments in self._calls.values()]


class PartQueue:
    """Parts on their way out.

    Blanks at both ends of a section (thinking, answer) are dropped, and neighbours of one kind
    become one part.
    """

    def __init__(self, *, begun: bool) -> None:
        self.begun = begun  # something of the present section has been handed out
        self._blanks = ""
        self._runs: list[list[Part]] = []  # of one kind each

    def new_section(self) -> None:
        self.begun, self._blanks = False, ""

    def flow(self, kind: Kind, text: str) -> None:
        """Add text without the blanks before it, and with those behind it only once more text
        follows.
        """
        text = self._blanks + text
        body = text.rstrip(BLANKS)
        self._blanks = text[len(body) :]
        if not self.begun:
            body = body.lstrip(BLANKS)
            self.begun = bool(body)
            if not body:
                self._blanks = ""
        if body:
            self.add(Part(kind, body))

    def add(self, part: Part) -> None:
        last = self._runs[-1][0] if self._runs else None
        if last is not None and last.kind is part.kind and part.kind in (Kind.THINKING, Kind.ANSWER, Kind.ARGUMENTS):
            self._runs[-1].append(part)
        else:
            self._runs.append([part])

    def take(self) -> list[Part]:
        runs, self._runs = self._runs, []
        return [replace(run[0], text="".join(p.text for p in run)) if len(run) > 1 else run[0] for run in runs]
