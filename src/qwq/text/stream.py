"""A response taken apart while it is written: thinking, answer, tool calls.

One parser for streamed and whole answers: what it hands out depends on the text alone and never on where the text was cut
into pieces. The rules:

1. Thinking is the first thing in a response (opened by the chat template, or by the model with `<think>`) and ends at the first
   `</think>`. A marker further on is the answer's own text, and a call inside the thinking is a thought, with one exception: where a
   response ends with its thinking still open and calls of `known` functions stand last in it, they are its calls (an agent that
   gets neither a call nor an answer stops).
2. Blanks around thinking and answer are dropped, as `parse.parse_response` does.
3. A call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`. Its arguments are handed out as they are written, from the
   moment the name is known. It is over when its object is: a close tag inside a JSON string ends nothing.
4. What turns out to be no call is text. If parts of it were handed out already, a `BROKEN` part takes them back. A call that was
   `cut` off in its middle (by a limit of tokens) stays a call, with the arguments that there are.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import orjson

from qwq.text.parse import CALL_CLOSE, CALL_OPEN, THINK_CLOSE, THINK_OPEN, read_call

BLANKS = " \t\r\n"


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
    functions whose calls count even where they end a thinking that was never closed.

    `continued`: the text goes on in the middle of thinking or answer, so blanks at its start are the text's own.
    `complete` turns true where nothing that follows matters any more.
    """

    def __init__(
        self, *, thinking_open: bool, tools: bool, parallel: bool = True, continued: bool = False, known: Container[str] = (),
    ) -> None:  # fmt: skip
        self.thinking_closed, self.complete = not thinking_open, False
        self._tools, self._parallel, self._known = tools, parallel, known
        self._held = _HeldCalls(known)
        self._state = self._thinking_start if thinking_open else self._start
        self._buffer, self._blanks = "", ""
        self._begun = False  # something of the present section has been handed out
        if continued:
            self._state, self._begun = self._thinking if thinking_open else self._answer, True
        self._num_calls, self._cut = 0, False
        self._call = _CallScanner()
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
            self._held = _HeldCalls(self._known)
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
            for call in held.calls if self._parallel else held.calls[:1]:
                for kind, piece in call.hand_out():
                    self._add(Part(kind, piece, self._num_calls))
                self._num_calls += 1
            return False
        # A thought: the marker is handed out, and what follows it is looked at once more.
        self._flow(Kind.THINKING, CALL_OPEN)
        self._buffer = held.text + closed + self._buffer
        self._state = self._thinking
        return True

    def _answer(self, final: bool) -> bool:
        if not self._tools:
            text, self._buffer, called = self._buffer, "", ""
        else:
            text, called = self._until((CALL_OPEN,), final)
        self._flow(Kind.ANSWER, text)
        if called:
            self._call = _CallScanner()
            self._state = self._in_call
        return bool(called)

    def _in_call(self, final: bool) -> bool:
        call, index = self._call, self._num_calls
        self._buffer, status = call.feed(self._buffer), call.status
        for kind, text in call.hand_out():
            self._add(Part(kind, text, index))
        if status is _Status.COMPLETE:
            self._num_calls += 1
            self._state = self._behind_call
            self.complete = not self._parallel
            return True
        if status is _Status.OPEN and (not final or self._cut):
            return False
        if call.announced:
            self._add(Part(Kind.BROKEN, "", index))
            self._num_calls += 1
        self._flow(Kind.ANSWER, CALL_OPEN + call.raw)
        self._state = self._answer
        return True

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


class _Status(StrEnum):
    OPEN = "open"
    COMPLETE = "complete"
    BROKEN = "broken"


class _CallScanner:
    """Follows one call's JSON object character by character: where its name and its arguments stand, and where it ends.

    It looks at structure only; the finished object is read once more, strictly, before it counts.
    """

    def __init__(self) -> None:
        self.raw, self.status, self.announced = "", _Status.OPEN, False
        self._at = 0  # characters looked at
        self._closers: list[str] = []
        self._in_string = self._escaped = False
        self._expect = "key"  # in the outermost object: key, colon, value, scalar (inside one), comma
        self._begin = 0  # of the present key or value
        self._key: str | None = None
        self.name: str | None = None
        self._arguments_at: int | None = None
        self._arguments_end: int | None = None
        self._handed = 0

    def feed(self, text: str) -> str:
        """Take in text up to the object's end or the first fault; gives back the rest."""
        self.raw += text
        while self._at < len(self.raw) and self.status is _Status.OPEN:
            if not self._step(self.raw[self._at]):
                self.status = _Status.BROKEN
            else:
                self._at += 1
        if self.status is _Status.OPEN:
            return ""
        self.raw, rest = self.raw[: self._at], self.raw[self._at :]
        if self.status is _Status.COMPLETE and not self._is_call():
            self.status = _Status.BROKEN
        return rest

    def hand_out(self) -> list[tuple[Kind, str]]:
        """What is known by now and was not handed out before."""
        out: list[tuple[Kind, str]] = []
        start, complete = self._arguments_at, self.status is _Status.COMPLETE
        as_object = start is not None and start < len(self.raw) and self.raw[start] == "{"
        if not self.announced and self.name and (as_object or complete):
            self.announced = True
            out.append((Kind.CALL, self.name))
            self._handed = start or 0
        if self.announced and as_object:
            end = self._arguments_end if self._arguments_end is not None else self._at
            if end > self._handed:
                out.append((Kind.ARGUMENTS, self.raw[self._handed : end]))
                self._handed = end
        elif self.announced and complete:
            arguments = orjson.loads(self.raw).get("arguments", "{}")
            out.append((Kind.ARGUMENTS, arguments))
        return out

    def _is_call(self) -> bool:
        try:
            data = orjson.loads(self.raw)
        except orjson.JSONDecodeError:
            return False
        call = read_call(self.raw)
        # A key given twice reads as its last value; what was handed out was the first.
        return call is not None and call.name == self.name and data["name"] == self.name

    def _step(self, c: str) -> bool:
        """One character; False where no JSON object goes on so."""
        if self._in_string:
            return self._in_a_string(c)
        depth = len(self._closers)
        if c in BLANKS:
            return self._expect != "scalar" or depth != 1 or self._value_ends(self._at)
        if depth == 0:
            self._closers.append("}")
            return c == "{"
        if depth > 1:
            return self._nested(c)
        return self._outermost(c)

    def _in_a_string(self, c: str) -> bool:
        if self._escaped:
            self._escaped = False
        elif c == "\\":
            self._escaped = True
        elif c == '"':
            self._in_string = False
            if len(self._closers) == 1:
                return self._key_ends() if self._expect == "key" else self._value_ends(self._at + 1)
        return c >= " "

    def _nested(self, c: str) -> bool:
        if c == '"':
            self._in_string = True
        elif c in "{[":
            self._closers.append("}" if c == "{" else "]")
        elif c in "}]":
            if self._closers.pop() != c:
                return False
            if len(self._closers) == 1:
                return self._value_ends(self._at + 1)
        return c in '"{[}],:+-.' or (c.isascii() and c.isalnum())

    def _outermost(self, c: str) -> bool:
        if self._expect == "scalar" and c in ",}" and not self._value_ends(self._at):
            return False
        match self._expect, c:
            case ("key" | "comma"), "}":
                self._closers.pop()
                self.status = _Status.COMPLETE
            case "key", '"':
                self._in_string, self._begin = True, self._at
            case "colon", ":":
                self._expect = "value"
            case "comma", ",":
                self._expect = "key"
            case "value", _:
                return self._value_begins(c)
            case "scalar", _:
                return c.isascii() and (c.isalnum() or c in "+-.")
            case _:
                return False
        return True

    def _value_begins(self, c: str) -> bool:
        self._begin = self._at
        if self._key == "arguments":
            if self._arguments_at is not None:
                return False
            self._arguments_at = self._at
        if c == '"':
            self._in_string = True
        elif c in "{[":
            self._closers.append("}" if c == "{" else "]")
        else:
            self._expect = "scalar"
            return c == "-" or (c.isascii() and c.isalnum())
        return True

    def _key_ends(self) -> bool:
        self._key = _string(self.raw[self._begin : self._at + 1])
        self._expect = "colon"
        return self._key is not None

    def _value_ends(self, end: int) -> bool:
        self._expect = "comma"
        if self._key == "arguments":
            self._arguments_end = end
        elif self._key == "name":
            if self.name is not None:
                return False
            self.name = _string(self.raw[self._begin : end])
            return bool(self.name)
        return True


class _HeldCalls:
    """Follows calls that a thought may end with. `text` is what was fed, `calls` are those that were whole."""

    def __init__(self, known: Container[str]) -> None:
        self.text, self.calls = "", list[_CallScanner]()
        self._known, self._scanner = known, _CallScanner()
        self._behind: str | None = None  # what follows the last call, without blanks around it; None inside a call

    @property
    def complete(self) -> bool:
        return self._behind in ("", CALL_CLOSE)

    def feed(self, text: str) -> bool:
        """False where this is no sequence of calls of known functions."""
        self.text += text
        while text:
            if self._behind is None:
                text = self._scanner.feed(text)
                if self._scanner.status is _Status.OPEN:
                    return True
                if self._scanner.status is _Status.BROKEN or self._scanner.name not in self._known:
                    return False
                self.calls.append(self._scanner)
                self._behind = ""
                continue
            behind = (self._behind + text).lstrip(BLANKS)
            between, opened, rest = behind.partition(CALL_OPEN)
            if opened and between.rstrip(BLANKS) in ("", CALL_CLOSE):
                self._behind, self._scanner, text = None, _CallScanner(), rest
                continue
            closed = behind.removeprefix(CALL_CLOSE).lstrip(BLANKS)
            self._behind = CALL_CLOSE + closed if behind.startswith(CALL_CLOSE) else behind
            return CALL_OPEN.startswith(closed) or CALL_CLOSE.startswith(behind)
        return True


def _string(raw: str) -> str | None:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, str) else None
