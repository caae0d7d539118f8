"""Where in a report a number is: its sentence, or the row and column of its table, and the headings
and list items above it.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter

from qwq.agent.report.reader import WrittenNumber

_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\(?\d{1,3}[.)、)])[ \t]+")
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+")
_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-*:?\s*)*\|?\s*")
_END = re.compile(
    r"(?<!\d)[.!?](?=[\s*_)\]\"']|$)|(?<=\d)[.!?](?=\s+[\"'(*_$€£]*[A-Z\d\u2e80-\u9fff]|\s*$)|[。！？]|;(?=\s)|；"
)  # fmt: skip
_SHORT = re.compile(r"\b(?:vs|e\.g|i\.e|approx|ca|cf|Mr|Mrs|Dr|St|No|Inc|Co|etc|est|avg|fig|tab)\.$", re.IGNORECASE)
_SCALES = (
    (re.compile(r"\bthousands?\b|\bin k\b|\(k\)|[$€£]k\b|\bk ?(?:[$€£]|EUR|USD)|\bT(?:EUR|€)|千", re.I), 1e3),
    (re.compile(r"\bmillions?\b|\bmn\b|\(m\)|[$€£]m\b|\bm ?(?:[$€£]|EUR\b|USD\b)|百万", re.I), 1e6),
    (re.compile(r"\bbillions?\b|\bbn\b|[$€£]b\b", re.I), 1e9),
    (re.compile(r"万"), 1e4),
    (re.compile(r"亿"), 1e8),
)
_RANK = re.compile(r"#|no|nr|rank|ranking|place|position|pos|id|index", re.I)
_IN_SCALE = re.compile(r"\b(?:in|all figures in|figures in|expressed in) (?:thousands|millions|billions|k\b)", re.I)
_PERCENT = re.compile(r"[%％]|\bpercent\b|\bpct\b|\bpp\b", re.I)
# Blank lines, which may hold spaces or end as on Windows, and the end of a line before a heading.
_BETWEEN = re.compile(r"\n(?:[ \t\r]*\n)+|\n(?= {0,3}#{1,6}[ \t])")


def paragraph_starts(text: str) -> list[int]:
    """Where the paragraphs of a text begin, from 0; a list is one of them, a heading begins one."""
    return [0, *(match.end() for match in _BETWEEN.finditer(text))]


ROW_NAME = "(row)"  # the row of a cell that names the row itself


@dataclass(frozen=True, slots=True)
class NumberPlace:
    """`text` holds the number at `start`: a sentence, or a table's cell. `row` and `column` are the
    names of a cell's row and column, `parents` the list items and headings above it, the nearest
    first, `before` the sentence before in its paragraph. `scale` and `share` are what the
    table says of all its numbers.
    """

    text: str
    start: int
    row: str = ""
    column: str = ""
    parents: tuple[str, ...] = ()
    before: str = ""
    scale: float = 1.0
    share: float = 0.0
    line: int = -1  # of a cell: where its row begins
    is_heading: bool = False

    @property
    def is_name(self) -> bool:
        """Whether it names something: a heading, a table's column, or a row; or counts the rows."""
        return self.is_heading or self.row == ROW_NAME or bool(_RANK.fullmatch(self.column.strip(" *_.")))

    @property
    def is_cell(self) -> bool:
        return bool(self.row or self.column)


@dataclass(frozen=True, slots=True)
class _Block:
    kind: str  # prose, row, heading
    start: int
    end: int
    parents: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    caption: str = ""


class Places:
    """The blocks of a report, to look numbers up in."""

    def __init__(self, text: str):
        self.text = text
        self._blocks = list(_blocks(text))
        self._starts = [block.start for block in self._blocks]
        self._ends: dict[int, list[tuple[int, int]]] = {}  # of sentences, by the start of their block

    def of(self, number: WrittenNumber) -> NumberPlace:
        block = self._blocks[bisect_right(self._starts, number.start) - 1]
        if block.kind == "row":
            return self._cell(block, number)
        start, end = self._sentence(block, number.start)
        before = self.text[slice(*self._sentence(block, start - 1))] if start > block.start else ""
        sentence = self.text[start:end]
        said = _IN_SCALE.search(sentence)
        scale = next((factor for pattern, factor in _SCALES if said and pattern.search(said[0])), 1.0)
        return NumberPlace(
            sentence, number.start - start, parents=block.parents, before=before, scale=scale,
            is_heading=block.kind == "heading",
        )  # fmt: skip

    def _sentence(self, block: _Block, at: int) -> tuple[int, int]:
        ends = self._ends.get(block.start)
        if ends is None:
            ends = self._ends[block.start] = list(self._sentence_ends(block))
        before = bisect_right(ends, at, key=itemgetter(1)) - 1
        behind = bisect_left(ends, at, key=itemgetter(0))
        return (
            ends[before][1] if before >= 0 else block.start, ends[behind][1] if behind < len(ends) else block.end
        )  # fmt: skip

    def _sentence_ends(self, block: _Block) -> Iterator[tuple[int, int]]:
        for match in _END.finditer(self.text, block.start, block.end):
            if not _SHORT.search(self.text, max(0, match.end() - 8), match.end()):
                yield match.span()

    def _cell(self, block: _Block, number: WrittenNumber) -> NumberPlace:
        cells = list(_cells(self.text, block.start, block.end))
        index = next((i for i, (a, b) in enumerate(cells) if a <= number.start < b), 0)
        texts = [self.text[a:b].strip() for a, b in cells]
        column = block.head[index] if index < len(block.head) else ""
        words = [t for i, t in enumerate(texts) if i != index and (i == 0 or not re.search(r"\d", t))]
        about = " ".join((column, block.caption, *block.head[:1]))
        scale = next((factor for pattern, factor in _SCALES if pattern.search(about)), 1.0)
        share = 100.0 if _PERCENT.search(column) or (index and _PERCENT.search(texts[0])) else 0.0
        a, b = cells[index]
        row = " | ".join(words) if index else ""
        parents = (block.caption, *block.parents)
        return NumberPlace(
            self.text[a:b], number.start - a, row or ROW_NAME, column, parents, scale=scale, share=share,
            line=block.start,
        )  # fmt: skip


def _cells(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Spans of the cells of a table's line."""
    bounds = [start - 1, *(start + m.start() for m in re.finditer(r"(?<!\\)\|", text[start:end])), end]
    for left, right in pairwise(bounds):
        outer = left < start or right == end
        if not outer or text[left + 1 : right].strip():
            yield left + 1, right


def _blocks(text: str) -> Iterator[_Block]:
    return _BlockReader(text).blocks()


class _BlockReader:
    """Reads a text line by line, with the headings and list items that are open."""

    def __init__(self, text: str):
        self.text = text
        self.lines: list[tuple[int, int]] = []
        at = 0
        for line in text.splitlines(keepends=True):
            self.lines.append((at, at + len(line.rstrip("\r\n"))))
            at += len(line)
        self.headings: list[tuple[int, str]] = []
        self.items: list[tuple[int, str]] = []
        self.last_text = ""

    @property
    def above(self) -> tuple[str, ...]:
        return tuple(t for _, t in reversed(self.items)) + tuple(t for _, t in reversed(self.headings))

    def blocks(self) -> Iterator[_Block]:
        i = 0
        while i < len(self.lines):
            start, end = self.lines[i]
            line = self.text[start:end]
            if match := _HEADING.match(line):
                yield self._heading(match, start, end)
                i += 1
            elif _starts_table(self.text, self.lines, i):
                rows = list(self._table(i))
                yield from rows
                i += len(rows)
            elif not line.strip():
                yield _Block("prose", start, end)
                i += 1
            else:
                i, span = _paragraph(self.text, self.lines, i)
                yield self._prose(line, span)

    def _heading(self, match: re.Match[str], start: int, end: int) -> _Block:
        level = len(match[1])
        self.headings = [h for h in self.headings if h[0] < level]
        self.items, self.last_text = [], ""
        block = _Block("heading", start, end, self.above)
        self.headings.append((level, match.string[match.end() :]))
        return block

    def _table(self, i: int) -> Iterator[_Block]:
        start, end = self.lines[i]
        head = tuple(self.text[a:b].strip() for a, b in _cells(self.text, start, end))
        yield _Block("heading", start, end, self.above)
        yield _Block("heading", *self.lines[i + 1], self.above)
        for span in self.lines[i + 2 :]:
            if "|" not in self.text[slice(*span)]:
                return
            yield _Block("row", *span, self.above, head, self.last_text)

    def _prose(self, line: str, span: tuple[int, int]) -> _Block:
        indent = len(line) - len(line.lstrip())
        is_item = bool(_ITEM.match(line))
        if is_item or indent == 0:
            self.items = [item for item in self.items if item[0] < indent]
        leads = is_item and not self.items and self.last_text.rstrip().endswith((":", "："))
        num_items = len(self.items)
        lead = (self.last_text,) if leads else ()
        block = _Block("prose", *span, (*self.above[:num_items], *lead, *self.above[num_items:]))
        if is_item:
            self.items.append((indent, self.text[slice(*span)]))
        else:
            self.last_text = self.text[slice(*span)]
        return block


def _starts_table(text: str, lines: Sequence[tuple[int, int]], i: int) -> bool:
    return "|" in text[slice(*lines[i])] and i + 1 < len(lines) and _is_rule(text, lines[i + 1])


def _is_rule(text: str, span: tuple[int, int]) -> bool:
    line = text[slice(*span)]
    return "-" in line and bool(_RULE.fullmatch(line))


def _paragraph(text: str, lines: Sequence[tuple[int, int]], i: int) -> tuple[int, tuple[int, int]]:
    """The next line and the span of a paragraph or list item that begins on line i."""
    start, end = lines[i]
    i += 1
    while i < len(lines):
        line = text[slice(*lines[i])]
        if not line.strip() or _ITEM.match(line) or _HEADING.match(line) or _starts_table(text, lines, i):
            break
        end = lines[i][1]
        i += 1
    return i, (start, end)
