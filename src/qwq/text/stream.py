"""A response taken apart while it is written: thinking, answer, tool calls.

One parser for streamed and whole answers: what it hands out depends on the text alone and never on where the text was cut
into pieces. The rules:

1. Thinking is the first thing in a response (opened by the chat template, or by the model with `<think>`) and ends at the first
   `</think>`. A marker further on is the answer's own text, and a call inside the thinking is a thought, with one exception: where a
   response ends with its thinking still open and calls of `known` functions stand last in it, they are its calls (an agent that
   gets neither a call nor an answer stops).
2. Blanks around thinking and answer are dropped, as `parse.parse_response` does.
3. A call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`. Its arguments are handed out as they are written, from the
   moment the name is known. It is over when its object is: a close tag inside a JSON string ends nothing. Of `known` functions a call
   may also be in one of the forms of `calls.loose_call`, or without its tags where it is the whole answer; such a call is handed out
   once it is whole.
4. What turns out to be no call is text. If parts of it were handed out already, a `BROKEN` part takes them back. A call that was
   `cut` off in its middle (by a limit of tokens) stays a call, with the arguments that there are.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from qwq.text.calls import (
    BLANKS,
    FUNCTION_CLOSE,
    FUNCTION_OPEN,
    LONGEST_LOOSE,
    BareCalls,
    CallScanner,
    HeldCalls,
    Status,
    loose_call,
    may_be_loose,
)
from qwq.text.parse import CALL_CLOSE, CALL_OPEN, THINK_CLOSE, THINK_OPEN


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
class Whole:
    """A response put together from its parts. `calls` are pairs of name and arguments (JSON text), in order."""

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


def read_response(text: str, *, thinking_open: bool, tools: bool = False, known: Container[str] = ()) -> Whole:
    """A whole response by the rules of the parser."""
    parser, whole = ResponseParser(thinking_open=thinking_open, tools=tools, known=known), Whole()
    whole.add(parser.push(text) + parser.finish())
    return whole


class ResponseParser:
    """Text in, parts out. `tools`: whether calls are looked for; `parallel`: whether a second one is of interest. `known`: names of the
    functions on offer (with their arguments' schemas, where it is a mapping), whose calls count in other forms too, and where they end a
    thinking that was never closed.

    `continued`: the text goes on in the middle of thinking or answer, so blanks at its start are the text's own.
    `complete` turns true where nothing that follows matters any more.
    """

    def __init__(
        self, *, thinking_open: bool, tools: bool, parallel: bool = True, continued: bool = False, known: Container[str] = (),
    ) -> None:  # fmt: skip
        self.thinking_closed, self.complete = not thinking_open, False
        self._tools, self._parallel, self._known = tools, parallel, known
        self._held = HeldCalls(known)
        self._state = self._thinking_start if thinking_open else self._start
        self._buffer, self._blanks = "", ""
        self._begun = False  # something of the present section has been handed out
        if continued:
            self._state, self._begun = self._thinking if thinking_open else self._answer, True
        self._num_calls, self._cut = 0, False
        self._call, self._bare = CallScanner(), BareCalls(known)
        self._bare_tried = not (tools and known)
        self._loose, self._opened_by = "", ""  # a call in another form, and the tag before it
        self._parts: list[Part] = []

    def push(self, text: str) -> list[Part]:
        self._buffer += text
        return self._take(final=False)

    def finish(self, *, cut: bool = False) -> list[Part]:
        """What was held back because more might have come. `cut`: the text was not at its end."""
        self._cut = cut
        return self._take(final=True)

    def _take(self, *, final: bool) -> list[Part]:
        while not self.complete and self._state(final):
            pass
        parts, self._parts = self._parts, []
        return parts

    # -- states: each takes what it can from the buffer; True where the next one has something to look at ------------------

    def _start(self, final: bool) -> bool:
        opened = self._marker_first(THINK_OPEN, final)
        if opened is None:
            return False
        self._enter(self._thinking if opened else self._answer)
        self.thinking_closed = not opened
        return True

    def _thinking_start(self, final: bool) -> bool:
        """A model may repeat the marker that its template has written."""
        if self._marker_first(THINK_OPEN, final) is None:
            return False
        self._enter(self._thinking)
        return True

    def _thinking(self, final: bool) -> bool:
        text, marker = self._until((THINK_CLOSE, CALL_OPEN) if self._tools and self._known else (THINK_CLOSE,), final)
        self._flow(Kind.THINKING, text)
        if marker == THINK_CLOSE:
            self.thinking_closed = True
            self._enter(self._answer)
        elif marker:
            self._held = HeldCalls(self._known)
            self._state = self._thought_calls
        return bool(marker)

    def _thought_calls(self, final: bool) -> bool:
        """Calls inside the thinking are held back until it is known what they are."""
        text, closed = self._until((THINK_CLOSE,), final)
        held = self._held
        possible = held.feed(text) and not closed
        if possible and not final:
            return False
        if possible and held.complete:
            self._hand_out(held.calls)
            return False
        # A thought: the marker is handed out, and what follows it is looked at once more.
        self._flow(Kind.THINKING, CALL_OPEN)
        self._buffer = held.text + closed + self._buffer
        self._state = self._thinking
        return True

    def _answer(self, final: bool) -> bool:
        if not self._begun and not self._bare_tried and (head := self._buffer.lstrip(BLANKS)[:1]):
            self._bare_tried = True
            if head in "{`":
                self._state = self._whole_answer
                return True
        if not self._tools:
            text, self._buffer, called = self._buffer, "", ""
        else:
            text, called = self._until((CALL_OPEN, FUNCTION_OPEN) if self._known else (CALL_OPEN,), final)
        self._flow(Kind.ANSWER, text)
        if called == FUNCTION_OPEN:
            self._loose, self._opened_by, self._state = FUNCTION_OPEN, "", self._loose_call
        elif called:
            self._call = CallScanner()
            self._state = self._in_call
        return bool(called)

    def _whole_answer(self, final: bool) -> bool:
        """An answer that may be calls without their tags."""
        text, self._buffer = self._buffer, ""
        possible = self._bare.feed(text)
        if possible and not final:
            return False
        self._state = self._answer
        if possible and self._bare.complete:
            self._hand_out(self._bare.calls)
            return False
        self._buffer = self._bare.text
        return True

    def _in_call(self, final: bool) -> bool:
        call, index = self._call, self._num_calls
        self._buffer, status = call.feed(self._buffer), call.status
        name, arguments = call.hand_out()
        if name:
            self._add(Part(Kind.CALL, name, index))
        if arguments:
            self._add(Part(Kind.ARGUMENTS, arguments, index))
        if status is Status.COMPLETE:
            self._num_calls += 1
            self._state = self._behind_call
            self.complete = not self._parallel
            return True
        if status is Status.OPEN and (not final or self._cut):
            return False
        if status is Status.BROKEN and not call.announced and self._known and may_be_loose(call.raw + self._buffer):
            self._loose, self._opened_by, self._state = call.raw, CALL_OPEN, self._loose_call
            return True
        if call.announced:
            self._add(Part(Kind.BROKEN, "", index))
            self._num_calls += 1
        self._flow(Kind.ANSWER, CALL_OPEN + call.raw)
        self._state = self._answer
        return True

    def _loose_call(self, final: bool) -> bool:
        """A call in another form, held back up to its end."""
        head = (self._loose + self._buffer).lstrip(BLANKS)
        if not final and len(head) < len(FUNCTION_OPEN) and FUNCTION_OPEN.startswith(head):
            return False
        tagged = head.startswith(FUNCTION_OPEN)
        text, marker = self._until((FUNCTION_CLOSE,) if tagged else (CALL_CLOSE, CALL_OPEN), final)
        self._loose += text
        if not marker and not final and may_be_loose(head) and len(self._loose) <= LONGEST_LOOSE:
            return False
        raw = self._loose + marker if tagged else self._loose
        call = None if marker == CALL_OPEN else loose_call(raw, self._known)
        if call is not None:
            self._hand_out([call])
            self.complete = not self._parallel
            self._state = self._behind_call if tagged else self._answer
            return True
        # Only the tag that opens another call is looked at once more.
        self._flow(Kind.ANSWER, self._opened_by + raw + (marker if marker == CALL_CLOSE else ""))
        self._buffer = (marker if marker == CALL_OPEN else "") + self._buffer
        self._state = self._answer
        return True

    def _hand_out(self, calls: Sequence[tuple[str, str]]) -> None:
        for name, arguments in calls if self._parallel else calls[:1]:
            self._add(Part(Kind.CALL, name, self._num_calls))
            self._add(Part(Kind.ARGUMENTS, arguments, self._num_calls))
            self._num_calls += 1

    def _behind_call(self, final: bool) -> bool:
        if self._marker_first(CALL_CLOSE, final) is None:
            return False
        self._state = self._answer
        return True

    # -- tools of the states ---------------------------------------------------------------------------------------------

    def _enter(self, state: object) -> None:
        self._state, self._begun, self._blanks = state, False, ""  # type: ignore[assignment]

    def _marker_first(self, marker: str, final: bool) -> bool | None:
        """Whether the next thing but blanks is the marker (which is then taken); None where that cannot be said yet."""
        head = self._buffer.lstrip(BLANKS)
        if head.startswith(marker):
            self._buffer = head[len(marker) :]
            return True
        return None if marker.startswith(head) and not final else False

    def _until(self, markers: Sequence[str], final: bool) -> tuple[str, str]:
        """Take the text before the first of the markers, and that marker; without one all text but what could be one's beginning."""
        text = self._buffer
        at, marker = min(((i, m) for m in markers if (i := text.find(m)) >= 0), default=(-1, ""))
        if marker:
            self._buffer = text[at + len(marker) :]
            return text[:at], marker
        keep = 0 if final else max((n for m in markers for n in range(1, len(m)) if text.endswith(m[:n])), default=0)
        cut = len(text) - keep
        self._buffer = text[cut:]
        return text[:cut], ""

    def _flow(self, kind: Kind, text: str) -> None:
        """Hand text out, without the blanks before it, and with those behind it only once more text follows."""
        text = self._blanks + text
        body = text.rstrip(BLANKS)
        self._blanks = text[len(body) :]
        if not self._begun:
            body = body.lstrip(BLANKS)
            self._begun = bool(body)
            if not body:
                self._blanks = ""
        if body:
            self._add(Part(kind, body))

    def _add(self, part: Part) -> None:
        last = self._parts[-1] if self._parts else None
        if last is not None and last.kind is part.kind and part.kind in (Kind.THINKING, Kind.ANSWER, Kind.ARGUMENTS):
            self._parts[-1] = Part(part.kind, last.text + part.text, part.index)
        else:
            self._parts.append(part)
