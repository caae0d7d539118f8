"""The answer on the screen: on a terminal thinking is dimmed, or folded to a counter, words are
wrapped whole and Markdown is styled; elsewhere the text is not changed.
"""

from __future__ import annotations

import shutil
import unicodedata
from typing import TextIO

from qwq.chat.markdown import Markdown

DIM, RESET, ERASE = "\x1b[2m", "\x1b[0m", "\r\x1b[K"


def width_of(c: str) -> int:
    """Columns that a character takes."""
    if unicodedata.combining(c) or c in "\u200b\u200d\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


class Wrapped:
    """Writes text so that no word is broken at the right edge. Styles take no room; code (`wrap`
    false) is not changed.
    """

    def __init__(self, out: TextIO) -> None:
        self.out, self.wrap = out, True
        self.width = max(20, shutil.get_terminal_size().columns)
        self.column = 0
        self._word, self._word_width = "", 0

    def write(self, text: str) -> None:
        for c in text:
            wide = width_of(c)
            if c in " \n\t":
                self._end_word()
                self._blank(c)
            elif wide == 2:  # scripts without blanks break anywhere
                self._end_word()
                self._word, self._word_width = self._word + c, wide
                self._end_word()
            else:
                self._word, self._word_width = self._word + c, self._word_width + wide

    def style(self, sequence: str) -> None:
        self._word += sequence

    def flush(self) -> None:
        self._end_word()
        self.out.flush()

    def _blank(self, c: str) -> None:
        if c == "\n":
            self.column = 0
        elif self.wrap and self.column >= self.width - 1:
            c, self.column = "\n", 0
        else:
            self.column += 1
        self.out.write(c)

    def _end_word(self) -> None:
        if (
            self.wrap
            and self.column > 0
            and self.column + self._word_width > self.width
            and self._word_width <= self.width
        ):
            self.out.write("\n")
            self.column = 0
        self.out.write(self._word)
        self.column += self._word_width
        self._word, self._word_width = "", 0


class Screen:
    """Shows one answer after another: `begin`, `show` for each piece, `end`. `raw`: Markdown is
    left as it was written.
    """

    def __init__(self, out: TextIO, *, fold: bool = False, raw: bool = False) -> None:
        self.out, self.colour, self.dim, self.fold, self.raw = out, out.isatty(), False, fold, raw
        self.thoughts, self.num_hidden = "", 0
        self._wrapped, self._markdown = Wrapped(out), Markdown()

    def show(self, text: str, thinking: bool) -> None:
        if thinking:
            self.thoughts += text
        if self.fold and self.colour and thinking:
            self.num_hidden += 1
            self.out.write(f"{ERASE}{DIM}thinking ... {self.num_hidden} tokens{RESET}")
            self.out.flush()
            return
        if self.num_hidden:
            self._end_fold()
            text = text.lstrip("\n")
        # A model may have learnt to write control sequences; a terminal must not obey them.
        text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
        if not self.colour:
            self.out.write(text)
            self.out.flush()
            return
        if thinking and not self.dim:
            self._styled("", final=True)
        if thinking != self.dim:
            self._wrapped.style(DIM if thinking else RESET)
            self.dim = thinking
        if thinking or self.raw:
            self._wrapped.write(text)
        else:
            self._styled(text)
        self.out.flush()

    def _styled(self, text: str, *, final: bool = False) -> None:
        for kind, piece in self._markdown.push(text, final=final):
            if kind == "style":
                self._wrapped.style(piece)
            else:
                self._wrapped.wrap = kind == "text"
                self._wrapped.write(piece)

    def _end_fold(self) -> None:
        self.out.write(f"{ERASE}{DIM}thought for {self.num_hidden} tokens (/thinking shows them){RESET}\n")
        self.num_hidden = 0

    def begin(self) -> None:
        self.thoughts = ""
        self._wrapped, self._markdown = Wrapped(self.out), Markdown()

    def end(self) -> None:
        if self.num_hidden:
            self._end_fold()
        if self.colour:
            self._styled("", final=True)
            self._wrapped.flush()
        self.out.write((RESET if self.colour and self.dim else "") + "\n")
        self.out.flush()
        self.dim = False
