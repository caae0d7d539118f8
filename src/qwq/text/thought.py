"""Where a response's thinking begins and ends: rules 1 to 4 of `text.response`, on text that comes
in pieces.
"""

from __future__ import annotations

import re
from enum import Enum

from qwq.text.tool_calls import BLANKS

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
_MARK = re.compile(r"([`\"'])</?think>\1|(</?think>)")


class _Section(Enum):
    START = 0  # only blanks so far, and no thought opened
    OPENED = 1  # the same, in a thought that the template opened
    THINKING = 2
    ANSWER = 3


class ThinkingSplitter:
    """Rules 1 to 3 on streamed text: which part of it is thinking, and which is the answer.

    Marks belong to neither.
    """

    def __init__(self, *, thinking_open: bool, continued: bool = False) -> None:
        self.has_thinking = thinking_open
        self.pending = ""  # held back: blanks at the start, or what may be the beginning of a mark
        if continued:
            self._section = _Section.THINKING if thinking_open else _Section.ANSWER
        else:
            self._section = _Section.OPENED if thinking_open else _Section.START

    @property
    def inside(self) -> bool:
        """Whether the text so far ends inside the thinking."""
        return self._section in (_Section.OPENED, _Section.THINKING)

    def push(self, text: str, *, final: bool = False) -> tuple[str, str]:
        """More text in; (thinking, answer) out, either may be empty.

        `final`: nothing follows, so nothing is held back.
        """
        text, self.pending = self.pending + text, ""
        if self._section in (_Section.START, _Section.OPENED):
            head = text.lstrip(BLANKS)
            if not final and len(head) < len(THINK_OPEN) and THINK_OPEN.startswith(head):
                self.pending = text
                return "", ""
            if head.startswith(THINK_OPEN):
                text, self.has_thinking = head[len(THINK_OPEN) :], True
            self._section = _Section.THINKING if self.has_thinking else _Section.ANSWER
        if self._section is _Section.ANSWER:
            return "", text
        thinking, close, answer = text.partition(THINK_CLOSE)
        if close:
            self._section = _Section.ANSWER
        elif not final and (held := ends_inside(thinking, THINK_CLOSE)):
            thinking, self.pending = thinking[:-held], thinking[-held:]
        return thinking, answer


def ends_inside(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark` (which has its only
    "<" first).
    """
    at = text.rfind("<", max(0, len(text) - len(mark) + 1))
    return len(text) - at if at >= 0 and mark.startswith(text[at:]) else 0


def reopens_thinking(answer: str) -> bool:
    """Whether an answer ends inside another thought (rule 4)."""
    marks = [m[2] for m in _MARK.finditer(answer) if m[2]]
    return bool(marks) and marks[-1] == THINK_OPEN
