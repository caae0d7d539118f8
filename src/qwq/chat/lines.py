"""What the user says, read from a terminal or a pipe: questions of one line or many, and commands.

1. Lines that are pasted together are one question: what is there already when a line has ended
   belongs to it. A terminal's bracketed paste is read by readline, which leaves its line ends in
   the line.
2. The text between two lines of triple double quotes is one question, blank lines included.
3. What comes through a pipe is one question, up to its end or to a line with a command.
"""

from __future__ import annotations

import difflib
import re
import select
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

QUOTES = '"""'
PROMPT, MORE = "> ", "... "
PASTE_S = 0.05  # a paste comes faster than anyone types


@dataclass(frozen=True, slots=True)
class InputLine:
    """A question, or a command with its argument behind a blank."""

    text: str
    command: bool


def more_is_there() -> bool:
    return bool(select.select([sys.stdin], [], [], PASTE_S)[0])


class Lines:
    """Entries one after another. EOFError at the end of the input, KeyboardInterrupt where the user
    takes an entry back.
    """

    def __init__(self, commands: Iterable[str], *, terminal: bool, pending: Callable[[], bool] = more_is_there) -> None:
        self.commands, self.terminal, self.pending = tuple(commands), terminal, pending
        self._next: str | None = None  # a piped line that was read, and belongs to the next entry

    def read(self) -> InputLine:
        return self._typed() if self.terminal else self._piped()

    def _typed(self) -> InputLine:
        text = input(PROMPT)
        if text.lstrip().startswith(QUOTES):
            return InputLine(self._quoted(text.lstrip()), command=False)
        lines = [text]
        while self.pending():
            try:
                lines.append(input(""))
            except EOFError:
                break
        text = "\n".join(lines).strip()
        return InputLine(text, command=text.startswith("/") and "\n" not in text)

    def _quoted(self, first: str) -> str:
        """The text between the quotes; the input's end closes them too."""
        text = first.removeprefix(QUOTES)
        while not text.rstrip().endswith(QUOTES):
            try:
                text += "\n" + input(MORE if self.terminal else "")
            except EOFError:
                return text.strip()
        return text.rstrip().removesuffix(QUOTES).strip()

    def _piped(self) -> InputLine:
        lines: list[str] = []
        while True:
            try:
                line, self._next = self._next if self._next is not None else input(""), None
            except EOFError:
                if text := "\n".join(lines).strip():
                    return InputLine(text, command=False)
                raise
            ends = self._is_command(line) or line.startswith(QUOTES)
            if ends and (text := "\n".join(lines).strip()):
                self._next = line
                return InputLine(text, command=False)
            if line.startswith(QUOTES):
                return InputLine(self._quoted(line), command=False)
            if ends:
                return InputLine(line.strip(), command=True)
            lines.append(line)

    def _is_command(self, line: str) -> bool:
        """A command, or what was meant for one; a path or a comment is text."""
        word = re.match(r"/[a-z]+(?=\s|$)", line)
        return word is not None and bool(difflib.get_close_matches(word[0], self.commands, n=1))
