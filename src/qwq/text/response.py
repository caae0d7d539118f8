"""What a response says: thinking, answer, tool calls. The only place that decides it, for whole and
for streamed text.

Rewards, evaluation, distillation, chat, server and reports all read responses through this file.
The result depends on the text alone, never on where it was cut into pieces.

THINKING
1. A response begins in a thought if the chat template has opened one (`thinking_open`), or if its
   first thing but blanks is `<think>`. Else it has no thinking at all, and a `</think>` in it is
   text.
2. The first `</think>` ends the thought, wherever it is: in a sentence that names it, inside a
   call's string. What follows is the answer. Later marks are the answer's own text. A template may
   have opened the thought and the model repeat `<think>`: the repeated mark is dropped.
3. A thought that never closes leaves no answer.
4. A thought that is open again at the end voids the answer: `<think>` in the answer with no
   `</think>` behind it. The text is still shown (a stream cannot take it back), but the response
   has no final answer (`ParsedResponse.final` is ""), so it is `no_answer` for every verifier. A
   mark directly between two equal quotes or backticks (`<think>`) is named, not used, and counts
   for nothing in this rule.
5. Blanks (space, tab, line ends) around thinking and answer are dropped.

CALLS
6. A call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` in the answer, if tools were
   on offer; else it is text. It ends where its object ends, so a `</tool_call>` in a string
   argument ends nothing, and the closing tag may be missing. Of functions that are known to be on
   offer a call may also have another form (`calls.loose_call`), or be without its tags if the whole
   answer is calls.
7. What turns out to be no call (bad JSON, another shape) is malformed. It stays in the answer as
   text and is counted. A call that was `cut` by a limit of tokens is malformed too, and not part of
   the answer; a stream has handed out what there was.
8. A call inside the thinking is a thought. The one exception: if a response ends with its thought
   still open, and complete calls of functions on offer are the last thing in it, they are calls.
   (An agent that gets neither a call nor an answer stops.)

| text (`T` if the template opened the thought) | thinking | answer | calls |
|---|---|---|---|
| `It is 5, not </think> 6` | none | all of it | |
| `T It is 5, not </think> 6` | `It is 5, not` | `6` | |
| `<think>a</think> The tag </think> ends it.` | `a` | `The tag </think> ends it.` | |
| `<think>a</think> 5 <think>wait` | `a` | `5 <think>wait`; final: none | |
| `<think>a</think> 5 <think>wait</think> 6` | `a` | `5 <think>wait</think> 6` | |
| `<think>a` | `a`, open | none | |
| `<think>a<tool_call>{"name": "f"}</tool_call>` | `a`, open | none | `f` |
| `<think>a<tool_call>{"name": "f"}</tool_call></think>b` | `a<tool_call>...` | `b` | |
| `<tool_call>{"name": "f", "arguments": {"s": "</tool_call>"}}</tool_call>` | none | none | `f` |
| `<tool_call>f(1)</tool_call>` | none | all of it | 1 malformed |
| `{"name": "f", "arguments": {}}`, `f` on offer | none | none | `f` |
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from qwq.text.parts import Kind, Part, PartQueue, ResponseBuilder
from qwq.text.thought import THINK_CLOSE, THINK_OPEN, ThinkingSplitter, ends_inside, reopens_thinking
from qwq.text.tool_calls import (
    BLANKS,
    CALL_CLOSE,
    CALL_MARK,
    CALL_OPEN,
    FUNCTION_CLOSE,
    FUNCTION_OPEN,
    LONGEST_LOOSE,
    BareCalls,
    Call,
    CallScanner,
    Status,
    TrailingCalls,
    loose_call,
    may_be_loose,
    named_function,
)
from qwq.types import ParsedResponse, Response, ToolCall

_CALL_OPEN, _ANY_OPEN = re.compile(CALL_OPEN), re.compile(f"{CALL_OPEN}|{FUNCTION_OPEN}")
_ANY_MARK = re.compile(f"{CALL_OPEN}|{CALL_CLOSE}|{FUNCTION_OPEN}")
_FUNCTION_CLOSE = re.compile(FUNCTION_CLOSE)
_BLANKS = re.compile(f"[{BLANKS}]*")


# Functions on offer: their names, with their arguments' schemas if it is a mapping. Empty: none;
# None: not known.
Tools = Mapping[str, Any] | Container[str] | None


# -- whole texts -----------------------------------------------------------------------------------


def parse(text: str, *, thinking_open: bool | None = False, tools: Tools = None, cut: bool = False) -> ParsedResponse:
    """A response in its parts.

    `thinking_open`: the chat template had opened the thought; None if that is not known (a data
    set's solution, a server without a reasoning parser), and then a text that holds `</think>` is
    taken to have started in a thought. `tools`: the functions on offer; if that is not known, a
    call of any name counts. `cut`: the text was not at its end.
    """
    thinking_open = THINK_CLOSE in text if thinking_open is None else thinking_open
    return _whole(ResponseParser(thinking_open=thinking_open, tools=tools), text, cut)


def parse_answer(text: str, *, tools: Tools = None, cut: bool = False) -> ParsedResponse:
    """The same for text without its thinking, as a server with a reasoning parser gives it."""
    return _whole(ResponseParser(thinking_open=False, tools=tools, answer_only=True), text, cut)


def parts_of(response: Response, *, tools: Tools = None) -> ParsedResponse:
    """The parts of a response: its own, if whoever made it has parsed it, else those of its
    text.
    """
    return response.parts or parse(response.text, thinking_open=response.thinking_open, tools=tools)


def written(parts: ParsedResponse) -> str:
    """Thinking and answer in one text, with their marks and without calls."""
    if not parts.thinking:
        return parts.answer
    return f"{THINK_OPEN}\n{parts.thinking}" + (f"\n{THINK_CLOSE}\n\n{parts.answer}" if parts.thinking_closed else "")


def with_thinking(thinking: str, answer: str) -> str:
    """An assistant's words from their two parts, as training data writes them."""
    return f"{THINK_OPEN}\n{thinking}\n{THINK_CLOSE}\n{answer}"


def _whole(parser: ResponseParser, text: str, cut: bool) -> ParsedResponse:
    builder = ResponseBuilder()
    builder.add(parser.push(text) + parser.finish(cut=cut))
    attempts = tuple(a.strip() if isinstance(a, str) else a for a in parser.attempts)
    return ParsedResponse(
        thinking=builder.thinking if parser.has_thinking else None,
        answer=builder.answer,
        tool_calls=tuple(a for a in attempts if isinstance(a, ToolCall)),
        thinking_closed=not parser.thinking,
        malformed_calls=tuple(a for a in attempts if isinstance(a, str)),
        attempts=attempts,
        reopened=reopens_thinking(builder.answer),
    )


# -- streamed text ---------------------------------------------------------------------------------


class ResponseParser:
    """Text in, parts out.

    `tools`: see `parse`; `parallel`: whether a second call is of interest. `continued`: the text
    continues in the middle of thinking or answer, so blanks at its start are the text's own.
    `answer_only`: the text is an answer without thinking. `complete` turns true when nothing that
    follows matters any more. `attempts` grows with the text: calls, and the raw text of what turned
    out to be none.
    """

    def __init__(
        self,
        *,
        thinking_open: bool,
        tools: Tools,
        parallel: bool = True,
        continued: bool = False,
        answer_only: bool = False,
    ) -> None:
        self.complete = False
        self.attempts: list[ToolCall | str] = []
        self._splitter = ThinkingSplitter(thinking_open=thinking_open, continued=continued or answer_only)
        self._known, self._finds_calls, self._parallel = tools, tools is None or bool(tools), parallel
        self._thinking_done = not thinking_open and (continued or answer_only)
        self._buffer, self._at = "", 0  # text of the present section, and how much of it is used up
        self._out = PartQueue(begun=continued)
        self._trailing: TrailingCalls | None = None
        self._bare: BareCalls | None = None
        self._bare_tried = not tools
        # The mark before a call in another form; how much of it has no end.
        self._loose_behind, self._num_searched = "", 0
        self._state: Callable[[bool], bool] = self._text
        self._call, self._num_calls, self._cut = CallScanner(), 0, False

    @property
    def thinking(self) -> bool:
        """Whether the text so far ends inside the thinking."""
        return self._splitter.inside

    @property
    def has_thinking(self) -> bool:
        return self._splitter.has_thinking

    def push(self, text: str) -> list[Part]:
        return self._take(text, final=False)

    def finish(self, *, cut: bool = False) -> list[Part]:
        """What was held back because more might have come. `cut`: the text was not at its end."""
        self._cut = cut
        return self._take("", final=True)

    def _take(self, text: str, *, final: bool) -> list[Part]:
        thinking, answer = self._splitter.push(text, final=final)
        if not self._thinking_done:
            self._buffer += thinking
            closed = self.has_thinking and not self.thinking
            self._thought(final, closed)
            if closed or answer:
                self._thinking_done, self._trailing = True, None
                self._buffer, self._at = "", 0
                self._out.new_section()
        if self._thinking_done:
            self._buffer += answer
            while not self.complete and self._state(final):
                pass
        for held in (self._trailing, self._bare):
            if held:
                held.shift(self._at)
        self._buffer, self._at = self._buffer[self._at :], 0
        return self._out.take()

    def _thought(self, final: bool, closed: bool) -> None:
        """Hand the thinking out.

        Calls in it are held back until it is known what they are (rule 8).
        """
        if closed or not self._finds_calls:
            self._out.flow(Kind.THINKING, self._rest())
            return
        while True:
            if self._trailing is None:
                text, mark = self._until(_CALL_OPEN, final)
                self._out.flow(Kind.THINKING, text)
                if not mark:
                    return
                self._trailing = TrailingCalls(self._known, self._at + len(mark))
            possible = self._trailing.feed(self._buffer)
            if possible and not final:
                return
            if possible and self._trailing.ends(self._buffer):
                self._at = len(self._buffer)
                self._complete_calls(self._trailing.calls)
                return
            # A thought: it is handed out, and what follows is looked at once more.
            self._out.flow(Kind.THINKING, self._buffer[self._at : self._trailing.settled])
            self._at, self._trailing = self._trailing.settled, None

    # -- the answer: a state takes what it can of the buffer; True if the next has something to read

    def _text(self, final: bool) -> bool:
        if not self._finds_calls:
            self._out.flow(Kind.ANSWER, self._rest())
            return False
        head = _blanks_end(self._buffer, self._at)
        if not self._bare_tried and head < len(self._buffer):
            self._bare_tried = True
            if not self._out.begun and self._buffer[head] in "{`":
                self._bare, self._state = BareCalls(self._known or (), self._at), self._whole_answer
                return True
        text, mark = self._until(_ANY_OPEN if self._known else _CALL_OPEN, final)
        self._out.flow(Kind.ANSWER, text)
        if mark == CALL_OPEN:
            self._at += len(mark)
            self._call, self._state = CallScanner(), self._in_call
        elif mark:
            self._loose_behind, self._num_searched, self._state = "", 0, self._loose
        return bool(mark)

    def _whole_answer(self, final: bool) -> bool:
        """An answer that may be calls without their tags."""
        assert self._bare is not None
        possible = self._bare.feed(self._buffer)
        if possible and not final:
            return False
        if possible and self._bare.ends(self._buffer):
            self._at = len(self._buffer)
            self._complete_calls(self._bare.calls)
        self._bare, self._state = None, self._text
        return self._at < len(self._buffer)

    def _in_call(self, final: bool) -> bool:
        call = self._call
        # What is no call is looked at once more, so the text stays in the buffer until something of
        # it is handed out.
        end = call.feed(self._buffer, self._at if call.announced else self._at + len(call.raw))
        name, arguments = call.hand_out()
        if name:
            self._out.add(Part(Kind.CALL, name, self._num_calls))
        if arguments:
            self._out.add(Part(Kind.ARGUMENTS, arguments, self._num_calls))
        if call.announced or call.status is Status.COMPLETE:
            self._at = end
        if call.status is Status.COMPLETE:
            assert call.call is not None
            self._is_complete(call.call)
            self._state = self._behind_call
            return True
        if call.status is Status.OPEN and (not final or self._cut):
            if final:
                self.attempts.append(call.raw)
                self._at = end
            return False
        if call.status is Status.BROKEN and not call.announced and self._known and may_be_loose(self._buffer, self._at):
            self._loose_behind, self._num_searched, self._state = CALL_OPEN, 0, self._loose
            return True
        if call.announced:
            self._out.add(Part(Kind.BROKEN, "", self._num_calls))
            self._num_calls += 1
        self._is_malformed(call.raw if call.announced else "")
        return True

    def _loose(self, final: bool) -> bool:
        """A call in another form, held back up to its end."""
        start = _blanks_end(self._buffer, self._at)
        pattern = CALL_MARK
        if not self._buffer.startswith("{", start):
            pattern, named = _FUNCTION_CLOSE, _names_function(self._buffer, start, self._known)
            if named is None and not final:
                return False
            if not named:
                return self._is_not_loose()
        limit = self._at + LONGEST_LOOSE
        match = pattern.search(self._buffer, max(start, self._at + self._num_searched), limit)
        if match is None and not final and len(self._buffer) < limit:
            self._num_searched = max(0, len(self._buffer) - self._at - len(CALL_CLOSE))
            return False
        end = _loose_end(self._buffer, match, limit)
        call = None if end is None else loose_call(self._buffer[start:end], self._known or ())
        if end is None or call is None:
            return self._is_not_loose()
        self._at, self._state = end, self._behind_call
        self._complete_calls([call])
        return True

    def _is_not_loose(self) -> bool:
        if self._loose_behind:
            self._is_malformed("")
        else:
            self._out.flow(Kind.ANSWER, FUNCTION_OPEN)
            self._at += len(FUNCTION_OPEN)
            self._state = self._text
        return True

    def _is_malformed(self, raw: str) -> None:
        """What follows `<tool_call>` is no call; `raw` of it is used up already."""
        self._out.flow(Kind.ANSWER, CALL_OPEN + raw)
        self.attempts.append(raw)
        self._state = self._malformed

    def _malformed(self, final: bool) -> bool:
        """Behind a fault: the rest of what was to be a call."""
        text, mark = self._until(_ANY_MARK if self._known else CALL_MARK, final)
        if mark == FUNCTION_OPEN:
            named = _names_function(self._buffer, self._at, self._known)
            if named is None and not final:
                self._at -= len(text)
                return False
            if named:
                self._state = self._text
            else:
                text, self._at = text + mark, self._at + len(mark)
        elif mark:
            self._state = self._text
        self.attempts[-1] = f"{self.attempts[-1]}{text}"
        self._out.flow(Kind.ANSWER, text)
        if mark == CALL_CLOSE:
            self._out.flow(Kind.ANSWER, mark)
            self._at += len(mark)
        return bool(mark)

    def _behind_call(self, final: bool) -> bool:
        at = _blanks_end(self._buffer, self._at)
        if self._buffer.startswith(CALL_CLOSE, at):
            self._at = at + len(CALL_CLOSE)
        elif not final and CALL_CLOSE.startswith(self._buffer[at : at + len(CALL_CLOSE)]):
            return False
        self._state = self._text
        return True

    def _is_complete(self, call: ToolCall) -> None:
        self.attempts.append(call)
        self._num_calls += 1
        self.complete = not self._parallel

    def _complete_calls(self, calls: Sequence[Call]) -> None:
        """Calls that come whole."""
        for name, arguments in calls if self._parallel else calls[:1]:
            self._out.add(Part(Kind.CALL, name, self._num_calls))
            self._out.add(Part(Kind.ARGUMENTS, arguments, self._num_calls))
            self._is_complete(ToolCall(name, json.loads(arguments)))

    def _rest(self) -> str:
        text, self._at = self._buffer[self._at :], len(self._buffer)
        return text

    def _until(self, mark: re.Pattern[str], final: bool) -> tuple[str, str]:
        """Take the text before the first mark; the mark stays."""
        text, first = _before(mark, self._buffer, self._at, final)
        self._at += len(text)
        return text, first


def _blanks_end(buffer: str, start: int) -> int:
    return _BLANKS.match(buffer, start).end()  # type: ignore[union-attr]  # the pattern matches the empty text


def _names_function(buffer: str, start: int, known: Tools) -> bool | None:
    """Whether a function on offer is named in `<function=...>` at `start`; None while more text
    could decide it.
    """
    name, head = named_function(buffer, start), buffer[start : start + len(FUNCTION_OPEN)]
    if name == "" or (len(head) < len(FUNCTION_OPEN) and FUNCTION_OPEN.startswith(head)):
        return None
    return bool(name) and name in (known or ())


def _loose_end(buffer: str, match: re.Match[str] | None, limit: int) -> int | None:
    """Where a call in another form ends: behind its closing tag, before another mark, or with the
    text.
    """
    if match is None:
        return len(buffer) if len(buffer) <= limit else None
    if match[0] == CALL_OPEN:
        return None
    return match.end() if match[0] == FUNCTION_CLOSE else match.start()


def _before(mark: re.Pattern[str], buffer: str, start: int, final: bool) -> tuple[str, str]:
    """The text before the first mark, and the mark; without one all text but what could be a mark's
    beginning.
    """
    if match := mark.search(buffer, start):
        return buffer[start : match.start()], match[0]
    text = buffer[start:]
    held = 0 if final else max(ends_inside(text, m) for m in mark.pattern.split("|"))
    return text[: len(text) - held], ""
