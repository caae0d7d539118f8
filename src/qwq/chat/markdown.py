"""Markdown styled while it is written: headings, emphasis, code, lists, quotes, rules and formulas
(in `formula`).

Text is held back only where what it is depends on what comes: the sign at a line's beginning, an
emphasis' next letter, a formula or a piece of code up to its end. Tables and code stay as they were
written.
"""

from __future__ import annotations

import re

from qwq.chat.formula import formula

BOLD, ITALIC, CODE, FAINT, RESET = "\x1b[1m", "\x1b[3m", "\x1b[36m", "\x1b[2m", "\x1b[0m"
SPECIAL = re.compile(r"[\n*`$\\]")
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^\n]*)\n")
UNDECIDED = re.compile(r" *(?:#{1,6} *|`{1,2}|~{1,2}|([-*_])\1*[ \t]*|\+ *|> ?)?")
HEADING, BULLET = re.compile(r" {0,3}#{1,6} +"), re.compile(r"( *)[-*+] +(?=\S)")
QUOTE, RULE = re.compile(r" {0,3}> ?"), re.compile(r" {0,3}(?:-{3,}|\*{3,}|_{3,})[ \t]*(?=\n)")
FORMULAS = {"$$": "$$", r"\[": r"\]", r"\(": r"\)"}
LONGEST = 2000  # letters that are held back for the end of a formula or of code
Piece = tuple[str, str]  # ("text" | "code" | "style", what to write); code is not wrapped


class Markdown:
    """Text in, styled pieces out; one object for each answer."""

    def __init__(self) -> None:
        self._buffer, self._out = "", list[Piece]()
        self._line_start, self._fence, self._table = True, "", False
        self._styles: list[str] = []
        self._last = "\n"  # the last letter written

    def push(self, text: str, *, final: bool = False) -> list[Piece]:
        self._buffer += text
        while self._buffer and self._step(final):
            pass
        if final and self._styles:
            self._styles = []
            self._style()
        out, self._out = self._out, []
        return out

    def _step(self, final: bool) -> bool:
        """Take something off the buffer; False where more text must come first."""
        if self._fence:
            return self._code_line(final)
        if self._line_start:
            return self._block(final)
        if self._table:
            return self._plain_line("code")
        at = SPECIAL.search(self._buffer)
        if at is None or at.start() > 0:
            self._write(self._take(len(self._buffer) if at is None else at.start()))
            return True
        sign = self._buffer[0]
        if sign == "\n":
            return self._line_end()
        return {"*": self._emphasis, "`": self._code, "$": self._dollar, "\\": self._backslash}[sign](final)

    # -- lines -------------------------------------------------------------------------------------

    def _block(self, final: bool) -> bool:
        """What a line begins with."""
        buffer = self._buffer
        if fence := FENCE.match(buffer):
            self._fence = fence[1]
            self._take(fence.end())
            self._out.append(("style", FAINT))
            self._write(fence[0], "code")
            self._out += [("style", RESET), ("style", CODE)]
            return True
        if not final and (UNDECIDED.fullmatch(buffer) or re.match(r" {0,3}(`{3,}|~{3,})[^\n]*$", buffer)):
            return False
        self._line_start = False
        if rule := RULE.match(buffer):
            self._take(rule.end())
            self._write("─" * 24)
        elif heading := HEADING.match(buffer):
            self._take(heading.end())
            self._toggle("heading", True)
        elif bullet := BULLET.match(buffer):
            self._take(bullet.end())
            self._write(f"{bullet[1]}• ")
        elif quote := QUOTE.match(buffer):
            self._take(quote.end())
            self._write("│ ")
        self._table = buffer.lstrip(" ").startswith("|")
        return True

    def _line_end(self) -> bool:
        self._take(1)
        self._toggle("heading", False)
        if self._last == "\n":  # emphasis does not reach over a blank line
            for style in list(self._styles):
                self._toggle(style, False)
        self._write("\n")
        self._line_start, self._table = True, False
        return True

    def _plain_line(self, kind: str) -> bool:
        end = self._buffer.find("\n")
        self._write(self._take(len(self._buffer) if end < 0 else end), kind)
        return self._line_end() if end >= 0 else True

    def _code_line(self, final: bool) -> bool:
        """Lines up to the fence that closes the code."""
        line, newline, _ = self._buffer.partition("\n")
        if not newline and not final and line.strip(" ") and self._fence.startswith(line.strip(" ")[:3]):
            return False
        if (
            line.strip().startswith(self._fence)
            and not line.strip().strip(self._fence[0])
            and (newline or final)
            and self._line_start
        ):
            self._fence = ""
            self._out += [("style", RESET), ("style", FAINT)]
            self._write(self._take(len(line)), "code")
            self._out.append(("style", RESET))
            self._line_start = False
            return True
        self._write(self._take(len(line) + len(newline)), "code")
        self._line_start = bool(newline)
        return True

    # -- within a line -----------------------------------------------------------------------------

    def _emphasis(self, final: bool) -> bool:
        stars = re.match(r"\*+", self._buffer)
        assert stars is not None
        if stars.end() == len(self._buffer) and not final:
            return False
        number, following = stars.end(), self._buffer[stars.end() : stars.end() + 1]
        style = {1: "italic", 2: "bold"}.get(number)
        opens = following.strip() and not (number == 1 and self._last.isalnum())
        closes = style in self._styles and not self._last.isspace()
        self._take(number)
        if style and (closes or opens):
            self._toggle(style, not closes)
        else:
            self._write("*" * number)
        return True

    def _code(self, final: bool) -> bool:
        ticks = re.match(r"`+", self._buffer)
        assert ticks is not None
        match = re.compile(r"(`+)((?:(?!\n\n).)*?)(?<!`)\1(?!`)(?=(.))?", re.DOTALL).match(self._buffer)
        if match and match[1] == ticks[0] and match.end() <= LONGEST and (match[3] or final):
            self._take(match.end())
            self._out.append(("style", CODE))
            self._write(match[2])
            self._style()
            return True
        if not final and "\n\n" not in self._buffer and len(self._buffer) < LONGEST:
            return False
        self._write(self._take(ticks.end()))
        return True

    def _dollar(self, final: bool) -> bool:
        if len(self._buffer) == 1 and not final:
            return False
        if self._buffer.startswith("$$"):
            return self._formula("$$", final)
        match = re.match(r"\$(?!\s)((?:\\.|[^$\n\\])+?)(?<!\s)\$(?!\d)", self._buffer)
        if match and match.end() <= LONGEST and (match.end() < len(self._buffer) or final):
            self._take(match.end())
            self._write(formula(match[1]))
            return True
        if not final and "\n" not in self._buffer and len(self._buffer) < LONGEST and not self._buffer[1:2].isspace():
            return False
        self._write(self._take(1))
        return True

    def _backslash(self, final: bool) -> bool:
        if len(self._buffer) == 1 and not final:
            return False
        if self._buffer[:2] in FORMULAS:
            return self._formula(self._buffer[:2], final)
        escaped = self._buffer[1:2] in "*`$#_" and len(self._buffer) > 1
        self._write(self._take(2)[1:] if escaped else self._take(1))
        return True

    def _formula(self, opening: str, final: bool) -> bool:
        within = self._buffer.partition("\n\n")[0][:LONGEST]
        end = within.find(FORMULAS[opening], len(opening))
        if end >= 0:
            tex = self._take(end + len(FORMULAS[opening]))[len(opening) : end]
            made = formula(tex)
            display = opening != r"\("
            self._write("    " + made.replace("\n", "\n    ") if display and self._last == "\n" else made)
            return True
        if not final and len(self._buffer) < LONGEST and "\n\n" not in self._buffer:
            return False
        self._write(self._take(len(opening)))
        return True

    # -- tools -------------------------------------------------------------------------------------

    def _take(self, number: int) -> str:
        taken, self._buffer = self._buffer[:number], self._buffer[number:]
        return taken

    def _write(self, text: str, kind: str = "text") -> None:
        if text:
            self._last = text[-1]
            self._out.append((kind, text))

    def _toggle(self, style: str, on: bool) -> None:
        if on == (style in self._styles):
            return
        if on:
            self._styles.append(style)
        else:
            self._styles.remove(style)
        self._style()

    def _style(self) -> None:
        """All styles that are on, from a clean beginning."""
        sequences = {"bold": BOLD, "heading": BOLD, "italic": ITALIC}
        self._out.append(("style", RESET + "".join(sequences[s] for s in self._styles)))
