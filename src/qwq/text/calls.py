"""Calls of tools in a response's text: Hermes' form followed while it is written, and the other forms that models fall into.

Hermes' form is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`. `loose_call` reads what else is written in its place, where the
function is one that is on offer:

1. Qwen3-Coder's `<function=NAME><parameter=KEY>VALUE</parameter></function>`; a value is text where the schema says so or says nothing, else JSON.
2. `parameters` in the place of `arguments`, and OpenAI's `{"type": "function", "function": {...}}`.
3. A Python dictionary in single quotes.

Rewards read Hermes' form alone (`parse.split_calls`): a model is taught one form.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from enum import StrEnum
from typing import Any

import orjson

from qwq.common.source import literal
from qwq.text.parse import CALL_CLOSE, CALL_OPEN, read_call

BLANKS = " \t\r\n"
FUNCTION_OPEN, FUNCTION_CLOSE = "<function=", "</function>"
LONGEST_LOOSE = 1 << 18  # letters of a call that are held back for its end
_FENCE = re.compile(r"```[a-z_]*[ \t]*\n")
_KEYS = frozenset({"name", "arguments", "parameters", "id", "type", "function"})


class Status(StrEnum):
    OPEN = "open"
    COMPLETE = "complete"
    BROKEN = "broken"


class CallScanner:
    """Follows one call's JSON object character by character: where its name and its arguments stand, and where it ends.

    It looks at structure only; the finished object is read once more, strictly, before it counts.
    """

    def __init__(self) -> None:
        self.raw, self.status, self.announced = "", Status.OPEN, False
        self._at = 0  # characters looked at
        self._closers: list[str] = []
        self._in_string = self._escaped = False
        self._expect = "key"  # in the outermost object: key, colon, value, scalar (inside one), comma
        self._begin = 0  # of the present key or value
        self.key: str | None = None
        self.name: str | None = None
        self._arguments_at: int | None = None
        self._arguments_end: int | None = None
        self._handed = 0

    def feed(self, text: str) -> str:
        """Take in text up to the object's end or the first fault; gives back the rest."""
        self.raw += text
        while self._at < len(self.raw) and self.status is Status.OPEN:
            if not self._step(self.raw[self._at]):
                self.status = Status.BROKEN
            else:
                self._at += 1
        if self.status is Status.OPEN:
            return ""
        self.raw, rest = self.raw[: self._at], self.raw[self._at :]
        if self.status is Status.COMPLETE and not self._is_call():
            self.status = Status.BROKEN
        return rest

    def hand_out(self) -> tuple[str, str]:
        """(name, arguments): what is known by now of both and was not handed out before."""
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


def may_be_loose(raw: str) -> bool:
    """Whether text behind `<tool_call>` may yet be a call in one of the other forms."""
    raw = raw.lstrip(BLANKS)
    return raw.startswith("{") or FUNCTION_OPEN.startswith(raw[: len(FUNCTION_OPEN)])


def loose_call(raw: str, known: Mapping[str, Any] | Container[str]) -> tuple[str, str] | None:
    """(name, arguments as JSON) of a call in one of the other forms; None where it is none, or its function is not on offer."""
    raw = raw.strip(BLANKS)
    if raw.startswith(FUNCTION_OPEN):
        found = _xml_call(raw, known)
    else:
        found = _dictionary_call(raw) if raw.startswith("{") and len(raw) <= LONGEST_LOOSE else None
    return found if found is not None and found[0] in known else None


def _xml_call(raw: str, known: Mapping[str, Any] | Container[str]) -> tuple[str, str] | None:
    head = re.match(r"<function=([^<>\n]+)>", raw)
    if head is None or FUNCTION_CLOSE not in raw:
        return None
    name, inner = head[1].strip(), raw[head.end() : raw.rindex(FUNCTION_CLOSE)]
    schema = (known.get(name) if isinstance(known, Mapping) else None) or {}
    kinds = schema.get("properties") if isinstance(schema.get("properties"), Mapping) else {}
    arguments = {
        key.strip(): _value(value.removeprefix("\n").removesuffix("\n"), kinds.get(key.strip()))
        for key, value in re.findall(r"<parameter=([^<>\n]+)>(.*?)(?:</parameter>|(?=<parameter=)|\Z)", inner, re.DOTALL)
    }
    return name, orjson.dumps(arguments).decode()


def _value(text: str, schema: Any) -> Any:
    """A parameter's text as its schema means it."""
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    if kinds is None and isinstance(schema, Mapping):
        kinds = [one.get("type") for key in ("anyOf", "oneOf") for one in schema.get(key, ()) if isinstance(one, Mapping)] or None
    if kinds is None or kinds == "string":
        return text
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = {"True": True, "False": False, "None": None}.get(text.strip(), text)
    return text if isinstance(value, int | float) and not isinstance(value, bool) and "string" in kinds else value


def _dictionary_call(raw: str) -> tuple[str, str] | None:
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError:
        try:
            data = literal(raw)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
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


class HeldCalls:
    """Follows calls that a thought may end with. `text` is what was fed, `calls` are those that were whole."""

    def __init__(self, known: Mapping[str, Any] | Container[str]) -> None:
        self.text, self.calls = "", list[tuple[str, str]]()
        self._known, self._scanner = known, CallScanner()
        self._loose: str | None = None  # a call in another form, up to its end
        self._behind: str | None = None  # what follows the last call, without blanks around it; None inside a call

    @property
    def complete(self) -> bool:
        return self._behind in ("", CALL_CLOSE)

    def feed(self, text: str) -> bool:
        """False where this is no sequence of calls of known functions."""
        self.text += text
        while text:
            if self._behind is None:
                rest = self._in_call(text)
                if rest is None:
                    return False
                text = rest
                continue
            behind = (self._behind + text).lstrip(BLANKS)
            between, opened, rest = behind.partition(CALL_OPEN)
            if opened and between.rstrip(BLANKS) in ("", CALL_CLOSE):
                self._behind, self._scanner, text = None, CallScanner(), rest
                continue
            closed = behind.removeprefix(CALL_CLOSE).lstrip(BLANKS)
            self._behind = CALL_CLOSE + closed if behind.startswith(CALL_CLOSE) else behind
            return CALL_OPEN.startswith(closed) or CALL_CLOSE.startswith(behind)
        return True

    def _in_call(self, text: str) -> str | None:
        """What is left behind the call, "" while it goes on, None where it is none."""
        if self._loose is not None:
            return self._in_loose(text)
        rest = self._scanner.feed(text)
        if self._scanner.status is Status.OPEN:
            return ""
        if self._scanner.status is Status.BROKEN:
            if not may_be_loose(self._scanner.raw + rest):
                return None
            self._loose = self._scanner.raw
            return self._in_loose(rest)
        if self._scanner.name not in self._known:
            return None
        self.calls.append(self._scanner.hand_out())
        self._behind = ""
        return rest

    def _in_loose(self, text: str) -> str | None:
        self._loose = (self._loose or "") + text
        raw, closed, rest = self._loose.partition(CALL_CLOSE)
        if not may_be_loose(self._loose) or len(raw) > LONGEST_LOOSE:
            return None
        if not closed:
            return ""
        call = loose_call(raw, self._known)
        if call is None:
            return None
        self.calls.append(call)
        self._loose, self._behind = None, CALL_CLOSE
        return rest


class BareCalls:
    """Follows an answer that may be calls without `<tool_call>`, one JSON object behind the other, in a code fence or not. It counts
    where the whole answer is of that form. `text` is what was fed."""

    def __init__(self, known: Mapping[str, Any] | Container[str]) -> None:
        self.text, self.calls = "", list[tuple[str, str]]()
        self._known, self._scanner = known, CallScanner()
        self._waiting, self._fenced, self._over = "", False, False  # text between objects; inside a fence; behind its end
        self._inside = False

    @property
    def complete(self) -> bool:
        return bool(self.calls) and not self._inside and (self._over or not self._waiting)

    def feed(self, text: str) -> bool:
        """False where the answer is something else."""
        self.text += text
        while text:
            if self._inside:
                text = self._scanner.feed(text)
                if self._scanner.status is Status.OPEN:
                    return self._scanner.key in (None, *_KEYS) and (self._scanner.name is None or self._scanner.name in self._known)
                call = loose_call(self._scanner.raw, self._known)
                if call is None:
                    return False
                self.calls.append(call)
                self._inside = False
                continue
            self._waiting = (self._waiting + text).lstrip(BLANKS)
            if self._over or not self._waiting:
                return not self._waiting
            if self._waiting[0] == "{":
                self._scanner, self._inside = CallScanner(), True
                text, self._waiting = self._waiting, ""
                continue
            return self._fence()
        return True

    def _fence(self) -> bool:
        """A fence's first line, or its last."""
        if self._fenced:
            self._over = self._waiting.rstrip(BLANKS) == "```"
            if self._over:
                self._waiting = ""
            return self._over or "```".startswith(self._waiting)
        if self.calls:
            return False
        if opened := _FENCE.match(self._waiting):
            self._fenced, rest, self._waiting = True, self._waiting[opened.end() :], ""
            before, self.text = self.text, ""
            possible = self.feed(rest) if rest else True
            self.text = before
            return possible
        return bool(re.fullmatch(r"`{1,3}|```[a-z_]{0,16}[ \t]*", self._waiting))


def _string(raw: str) -> str | None:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, str) else None
