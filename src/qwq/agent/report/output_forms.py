"""Tables that programs print in forms of their own: with rules or blank lines between head and rows
(sklearn's reports, coverage, statsmodels), counts in front of keys (`uniq -c`, `wc`), and lines of
one form (`merge  0.91  fit 4.8s`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwq.agent.report.grid import Grid, OutputNumber, is_value
from qwq.agent.report.label_words import forms
from qwq.agent.report.reader import WrittenNumber, read_numbers

_BREAK = re.compile(r"\s*|\s*[-=_]{4,}\s*")
_CELL = re.compile(r"\S+(?: \S+)*")
_COUNTED = re.compile(r"(\s+\d+) (\S.*)")
_FAR = 4  # characters between the end of a value and the end of its column's name


def ruled(lines: Sequence[str], source: int, name: str) -> tuple[Grid | None, int]:
    """A head, then a rule or a blank line, then rows that end in values below the head's cells."""
    head = list(_CELL.finditer(lines[0]))
    if len(head) < 2 or len(lines) < 4 or not lines[1:2] or not _BREAK.fullmatch(lines[1]):
        return None, 0
    if any(is_value(cell[0]) for cell in head) or re.search(r"[=:]\s", lines[0]):
        return None, 0
    grid, taken, num_rows = Grid(("", "")), 1, 0
    for i, line in enumerate(lines[1:], 1):
        if _BREAK.fullmatch(line):
            continue
        words = list(re.finditer(r"\S+", line))
        first = next((j for j, word in enumerate(words) if all(is_value(w[0]) for w in words[j:])), len(words))
        label = line[: words[first].start()].strip() if first < len(words) else ""
        columns = [_column(head, word.end()) for word in words[first:]]
        if not label or not all(columns) or len(set(columns)) < len(columns):
            break
        for word, column in zip(words[first:], columns, strict=True):
            grid.add(word[0], source, (label, column))
        taken, num_rows = i + 1, num_rows + 1
    return (grid, taken) if num_rows >= 2 else (None, 0)


def _column(head: Sequence[re.Match[str]], end: int) -> str:
    cell = min(head, key=lambda cell: abs(cell.end() - end))
    return cell[0] if abs(cell.end() - end) <= _FAR else ""


def counted(lines: Sequence[str], source: int, name: str) -> tuple[Grid | None, int]:
    """Counts that end at one place, each with its key behind it."""
    rows: list[re.Match[str]] = []
    for line in lines:
        row = _COUNTED.fullmatch(line.rstrip())
        if not row or (rows and row.end(1) != rows[0].end(1)):
            break
        rows.append(row)
    if len(rows) < 2 or len({row[2] for row in rows}) < len(rows):
        return None, 0
    grid = Grid(("", ""))
    for row in rows:
        grid.add(row[1], source, (row[2].strip(), "count"))
    keys = Grid(())
    for row in rows:
        keys.add(row[2] if row[2].isdigit() else "", source, ())
    grid.figures += [OutputNumber(f.value, f.step, f.share, source, text=f.text) for f in keys.figures]
    return grid, len(rows)


def same_form(lines: Sequence[str], source: int, name: str) -> tuple[Grid | None, int]:
    """Lines that differ in what they begin with and in their numbers: the words between are the
    columns.
    """
    first = _form(lines[0])
    if first is None:
        return None, 0
    rows = []
    for line in lines:
        form = _form(line)
        if form is None or form[1] != first[1]:
            break
        rows.append(form)
    if len(rows) < 2 or len({row[0] for row in rows}) < len(rows):
        return None, 0
    grid = Grid(("", ""))
    for lead, columns, numbers in rows:
        grid.figures += [
            # A name right behind a number is the next one's (`0.42 Km=0.87`), not its unit.
            OutputNumber(
                n.value,
                n.step,
                n.share,
                source,
                (lead, column),
                grid,
                n.text,
                "" if following.lower().startswith(n.unit) else n.unit,
            )
            for column, following, n in zip(columns, (*columns[1:], ""), numbers, strict=True)
        ]
    return grid, len(rows)


def _form(line: str) -> tuple[str, tuple[str, ...], list[WrittenNumber]] | None:
    """(what the line begins with, the columns' names, the numbers) of a line of several numbers."""
    numbers = read_numbers(line, skip=False)
    if len(numbers) < 2 or re.search(r"[{}\[\]]", line):
        return None
    begin = line[: numbers[0].start]
    parts = re.fullmatch(r"\s*(\S.*?)(?::\s+|\s{2,})(.*)", begin)
    if parts is None or not forms(parts[1]):
        return None
    ends = [*(n.start for n in numbers[1:]), len(line)]
    texts = [parts[2], *(line[n.end : end] for n, end in zip(numbers, ends, strict=True))]
    if not _name(texts[0]) and all(map(_name, texts[1:])):
        columns = [_name(text) for text in texts[1:]]  # 5876 words, 1602 different
    else:
        columns = [f"\u00b1 {i}" if "\u00b1" in t else _name(t) or f"column {i}" for i, t in enumerate(texts[:-1])]
    return (parts[1].strip(" :"), tuple(columns), numbers) if len(set(columns)) == len(columns) else None


def _name(text: str) -> str:
    return text.strip(" ,;:=|()\t/") if forms(text) else ""
