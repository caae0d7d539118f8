"""Calls of tools in a response's text: Hermes' form followed while it is written, and the other
forms that models fall into.

Hermes' form is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`. It ends where its JSON
object ends, so a `</tool_call>` inside a string argument ends nothing. `loose_call` reads what else
is written in its place, if the function is on offer:

1. Qwen3-Coder's `<function=NAME><parameter=KEY>VALUE</parameter></function>`; a value is text if
   the schema says so or says nothing, else JSON.
2. `parameters` in the place of `arguments`, and OpenAI's `{"type": "function", "function": {...}}`.
3. A Python dictionary in single quotes.

Nothing is repaired: text that is none of these is no call. `text.response` says which calls of a
response count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from enum import StrEnum
from typing import Any

import orjson

from qwq.common.source import literal
from qwq.types import ToolCall

CALL_OPEN = "<tool_call>"
CALL_CLOSE = "</tool_call>"
FUNCTION_OPEN, FUNCTION_CLOSE = "<function=", "</function>"
BLANKS = " \t\r\n"
PIECE_CHARS = 256  # copied at a time, so that many faults in one long text cost no more than the text
LONGEST_LOOSE = 1 << 18  # characters of a call in another form that are held back for its end
LONGEST_NAME = 256
CALL_MARK = re.compile(f"{CALL_OPEN}|{CALL_CLOSE}")
_FENCE = re.compile(r"```[a-z_]{0,16}[ \t]*\n")
_FENCE_BEGINS = re.compile(r"`{1,3}|```[a-z_]{0,16}[ \t]*")
_FUNCTION = re.compile(r"<function=([^<>\n]*)([<>\n]?)")
_BLANKS = re.compile(f"[{BLANKS}]*")
_KEYS = frozenset({"name", "arguments", "parameters", "id", "type", "function"})

Call = tuple[str, str]  # a function's name, and its arguments as JSON text


def read_call(raw: str) -> ToolCall | None:
    """One call from its JSON, or None if it is not `{"name": str, "arguments": object}`.

    Arguments may be given as a JSON string of the object, as some chat templates write them.
    """
    data = load_object(raw)
    return None if data is None or set(data) - {"name", "arguments", "id"} else call_of(data)


def call_of(data: Mapping[str, Any]) -> ToolCall | None:
    """The call that `name` and `arguments` (an object, or its JSON text) of an object make; None if
    they make none.
    """
    name, arguments = data.get("name"), data.get("arguments", {})
    if isinstance(arguments, str):
        arguments = load_object(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, Mapping):
        return None
    ident = data.get("id")
    return ToolCall(name=name, arguments=arguments, id=ident if isinstance(ident, str) else "")


def load_object(raw: str) -> dict | None:
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):  # RecursionError: thousands of nested brackets
        return None
    return data if isinstance(data, dict) else None


class Status(StrEnum):
    OPEN = "open"
    COMPLETE = "complete"
    BROKEN = "broken"


class CallScanner:
    """Follows one call's JSON object character by character: where its name and its arguments are,
    and where it ends.

    It looks at structure only; the finished object is parsed once more, strictly, before it counts.
    """

    def __init__(self) -> None:
        self.raw, self.status = "", Status.OPEN
        self.call: ToolCall | None = None  # once complete
        self.name: str | None = None
        self.announced = False  # the name has been handed out
        self._at = 0  # characters looked at
        self._closers: list[str] = []
        self._in_string = self._escaped = False
        self._expect = "key"  # in the outermost object: key, colon, value, scalar (inside one), comma
        self._begin = 0  # of the present key or value
        self.key: str | None = None
        self._arguments_at: int | None = None
        self._arguments_end: int | None = None
        self._handed = 0

    def feed(self, text: str, start: int) -> int:
        """Read `text` from `start` up to the object's end or the first fault; returns the position
        behind what was read.
        """
        offset = start - len(self.raw)
        for at in range(start, len(text), PIECE_CHARS):
            self.raw += text[at : at + PIECE_CHARS]
            while self._at < len(self.raw) and self.status is Status.OPEN:
                if not self._step(self.raw[self._at]):
                    self.status = Status.BROKEN
                else:
                    self._at += 1
            if self.status is not Status.OPEN:
                break
        else:
            return len(text)
        self.raw = self.raw[: self._at]
        if self.status is Status.COMPLETE and not self._is_call():
            self.status = Status.BROKEN
        return offset + self._at

    def hand_out(self) -> Call:
        """What is known by now and was not handed out before: the name (once), and more of the
        arguments' JSON text.
        """
        name = arguments = ""
        start, complete = self._arguments_at, self.status is Status.COMPLETE
        as_object = start is not None and start < len(self.raw) and self.raw[start] == "{"
        if not self.announced and self.name and (as_object or complete):
            self.announced, name = True, self.name
            self._handed = start or 0
        if self.announced and as_object:
            end = self._arguments_end if self._arguments_end is not None else self._at
            arguments, self._handed = self.raw[self._handed : end], max(end, self._handed)
        elif self.announced and complete:
            arguments = orjson.loads(self.raw).get("arguments", "{}")
        return name, arguments

    def _is_call(self) -> bool:
        try:
            data = orjson.loads(self.raw)
        except orjson.JSONDecodeError:
            return False
        self.call = read_call(self.raw)
        # A key given twice reads as its last value; what was handed out was the first.
        return self.call is not None and self.call.name == self.name and data["name"] == self.name

    def _step(self, c: str) -> bool:
        """One character; False if no JSON object continues so."""
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
            case (("key" | "comma"), "}"):
                self._closers.pop()
                self.status = Status.COMPLETE
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
        if self.key == "arguments":
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
        self.key = _string(self.raw[self._begin : self._at + 1])
        self._expect = "colon"
        return self.key is not None

    def _value_ends(self, end: int) -> bool:
        self._expect = "comma"
        if self.key == "arguments":
            self._arguments_end = end
        elif self.key == "name":
            if self.name is not None:
                return False
            self.name = _string(self.raw[self._begin : end])
            return bool(self.name)
        return True


def named_function(text: str, at: int) -> str | None:
    """The name in `<function=NAME>` at this position; "" if it may yet be written, None if there is
    none.
    """
    head = _FUNCTION.match(text, at)
    if head is None or (head[2] and head[2] != ">") or len(head[1]) > LONGEST_NAME:
        return None
    return head[1].strip() or None if head[2] else ""


def may_be_loose(text: str, start: int = 0) -> bool:
    """Whether text behind `<tool_call>` may yet be a call in one of the other forms."""
    start = _BLANKS.match(text, start).end()  # type: ignore[union-attr]
    return text.startswith("{", start) or FUNCTION_OPEN.startswith(text[start : start + len(FUNCTION_OPEN)])


def loose_call(raw: str, known: Mapping[str, Any] | Container[str]) -> Call | None:
    """(name, arguments as JSON) of a call in one of the other forms; None if it is none, or its
    function is not on offer.
    """
    raw = raw.strip(BLANKS)
    if raw.startswith(FUNCTION_OPEN):
        found = _xml_call(raw, known)
    else:
        found = _dictionary_call(raw) if raw.startswith("{") and len(raw) <= LONGEST_LOOSE else None
    return found if found is not None and found[0] in known else None


def _xml_call(raw: str, known: Mapping[str, Any] | Container[str]) -> Call | None:
    head = re.match(r"<function=([^<>\n]+)>", raw)
    if head is None or FUNCTION_CLOSE not in raw:
        return None
    name, inner = head[1].strip(), raw[head.end() : raw.rindex(FUNCTION_CLOSE)]
    schema = (known.get(name) if isinstance(known, Mapping) else None) or {}
    properties = schema.get("properties")
    kinds = properties if isinstance(properties, Mapping) else {}
    arguments = {
        key.strip(): _value(value.removeprefix("\n").removesuffix("\n"), kinds.get(key.strip()))
        for key, value in re.findall(
            r"<parameter=([^<>\n]+)>(.*?)(?:</parameter>|(?=<parameter=)|\Z)", inner, re.DOTALL
        )
    }
    try:
        return name, orjson.dumps(arguments).decode()
    except orjson.JSONEncodeError:  # half of a character
        return None


def _value(text: str, schema: Any) -> Any:
    """A parameter's text as its schema means it."""
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    if kinds is None and isinstance(schema, Mapping):
        kinds = [
            one.get("type") for key in ("anyOf", "oneOf") for one in schema.get(key) or () if isinstance(one, Mapping)
        ] or None
    if kinds is None or kinds == "string":
        return text
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = {"True": True, "False": False, "None": None}.get(text.strip(), text)
    return text if isinstance(value, int | float) and not isinstance(value, bool) and "string" in kinds else value


def _dictionary_call(raw: str) -> Call | None:
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError:
        try:
            data = literal(raw)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # TypeError: a list as a key
            return None
    if isinstance(data, dict) and isinstance(data.get("function"), dict) and data.keys() <= _KEYS:
        data = data["function"]
    if not isinstance(data, dict) or not data.keys() <= _KEYS or not isinstance(data.get("name"), str):
        return None
    arguments = data.get("arguments", data.get("parameters", {}))
    try:
        arguments = orjson.loads(arguments) if isinstance(arguments, str) else arguments
        return (data["name"], orjson.dumps(arguments).decode()) if isinstance(arguments, dict) else None
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None


class TrailingCalls:
    """Follows calls, one behind the other, that may be the last thing in a text. `calls` are those
    that are complete.

    `at` is the position reached, where the first call begins (behind its `<tool_call>`) at first;
    `known`: names that count, with their arguments' schemas if it is a mapping; None for any. If
    other text follows, nothing before `settled` is or begins such a row of calls.
    """

    def __init__(self, known: Mapping[str, Any] | Container[str] | None, at: int) -> None:
        self.calls: list[Call] = []
        self.at = self.settled = at
        self._known = known
        self._scanner: CallScanner | None = CallScanner()
        self._loose_at: int | None = None  # where a call in another form begins
        self._close_seen = False  # behind the last call

    def feed(self, text: str) -> bool:
        """Read on to the text's end, or to what may be the beginning of a mark there; False if
        other text follows.
        """
        while self.at < len(text):
            if self._loose_at is not None:
                if not self._loose(text, self._loose_at):
                    return self._loose_at is not None and self._waits(text, self._loose_at)
            elif self._scanner is not None:
                start = self.at - len(self._scanner.raw)
                self.at = self._scanner.feed(text, self.at)
                if self._scanner.status is Status.OPEN:
                    return True
                if self._scanner.status is Status.BROKEN:
                    self._loose_at, self._scanner = start, None
                elif self._known is not None and self._scanner.name not in self._known:
                    return False
                else:
                    self._complete(self._scanner.hand_out(), self.at, closed=False)
            elif text[self.at] in BLANKS:
                self.at += 1
            elif text.startswith(CALL_OPEN, self.at):
                self.at += len(CALL_OPEN)
                self._scanner, self.settled = CallScanner(), self.at
            elif text.startswith(CALL_CLOSE, self.at) and not self._close_seen:
                self._close_seen = True
                self.at += len(CALL_CLOSE)
            else:
                rest = text[self.at : self.at + len(CALL_CLOSE)]
                return CALL_OPEN.startswith(rest) or (CALL_CLOSE.startswith(rest) and not self._close_seen)
        return self._loose_at is None or self._waits(text, self._loose_at)

    def ends(self, text: str) -> bool:
        """Whether the text, all of which was fed, ends behind a complete call."""
        return self._scanner is None and self._loose_at is None and self.at == len(text)

    def shift(self, num_chars: int) -> None:
        """The text has lost so many characters at its beginning."""
        self.at -= num_chars
        self.settled -= num_chars
        if self._loose_at is not None:
            self._loose_at -= num_chars

    def _loose(self, text: str, start: int) -> bool:
        """Whether a call in another form is complete. It holds no mark of a call."""
        end = CALL_MARK.search(text, max(start, self.at - len(CALL_CLOSE)), start + LONGEST_LOOSE + len(CALL_CLOSE))
        closed = end is not None and end[0] == CALL_CLOSE and bool(self._known) and may_be_loose(text, start)
        call = loose_call(text[start : end.start()], self._known or ()) if end is not None and closed else None
        if end is None:
            self.at = len(text)
        elif call is None:
            self._loose_at = None
        else:
            self._complete(call, end.end(), closed=True)
        return call is not None

    def _waits(self, text: str, start: int) -> bool:
        return bool(self._known) and may_be_loose(text, start) and len(text) - start < LONGEST_LOOSE + len(CALL_CLOSE)

    def _complete(self, call: Call, at: int, *, closed: bool) -> None:
        self.calls.append(call)
        self._scanner, self._loose_at, self._close_seen = None, None, closed
        self.at = self.settled = at


class BareCalls:
    """Follows an answer that may be calls without `<tool_call>`, one JSON object behind the other,
    in a code fence or not.

    It counts if the whole answer is of that form. `at` is the position reached.
    """

    def __init__(self, known: Mapping[str, Any] | Container[str], at: int) -> None:
        self.calls: list[Call] = []
        self.at = at
        self._known = known
        self._scanner: CallScanner | None = None
        self._fenced = self._over = False  # behind the first line of a fence; behind its last

    def feed(self, text: str) -> bool:
        """Read on to the text's end, or to what may be the beginning of a fence there; False if the
        answer is something else.
        """
        while True:
            if self._scanner is None:
                self.at = _BLANKS.match(text, self.at).end()  # type: ignore[union-attr]
            if self.at == len(text):
                return True
            if self._scanner is not None:
                if not self._object(text, self._scanner):
                    return False
            elif self._over:
                return False
            elif text[self.at] == "{":
                self._scanner = CallScanner()
            elif not self._fence(text):
                return self._fence_begins(text)

    def shift(self, num_chars: int) -> None:
        """The text has lost so many characters at its beginning."""
        self.at -= num_chars

    def ends(self, text: str) -> bool:
        """Whether the text, all of which was fed, is calls and nothing else."""
        return bool(self.calls) and self._scanner is None and self.at == len(text)

    def _object(self, text: str, scanner: CallScanner) -> bool:
        start = self.at - len(scanner.raw)
        self.at = scanner.feed(text, self.at)
        possible = scanner.key in (None, *_KEYS) and (scanner.name is None or scanner.name in self._known)
        if scanner.status is Status.OPEN or not possible:
            return possible
        call = loose_call(text[start : self.at], self._known)
        if call is not None:
            self.calls.append(call)
            self._scanner = None
        return call is not None

    def _fence(self, text: str) -> bool:
        """Read a fence's first line, or its last."""
        if self._fenced and text.startswith("```", self.at):
            self._over = True
            self.at += 3
            return True
        if not self._fenced and not self.calls and (opened := _FENCE.match(text, self.at)):
            self._fenced, self.at = True, opened.end()
            return True
        return False

    def _fence_begins(self, text: str) -> bool:
        if self._fenced:
            return "```".startswith(text[self.at :])
        return not self.calls and bool(_FENCE_BEGINS.fullmatch(text, self.at))


def _string(raw: str) -> str | None:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, str) else None
