"""The numbers in what executed calls printed, each with the labels of its row and column.

Read are: frames and series of pandas (also with several levels of rows and columns), tables with
pipes, tabs or commas (`output_tables.py`), dictionaries, lists and JSON, and lines such as `mean
fare: 32.20`. What has none of these forms gives numbers without labels.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qwq.agent.report.grid import Grid, OutputNumber, is_value
from qwq.agent.report.label_words import forms
from qwq.agent.report.output_forms import counted, ruled, same_form
from qwq.agent.report.output_tables import READERS
from qwq.agent.report.reader import WrittenNumber, read_numbers

_SCALAR = re.compile(r"\b(?:np|numpy)\.\w+\(([^()]*)\)")
_READERS = (ruled, counted, *READERS[:-1], same_form, READERS[-1])
_MAX_DEPTH = 6
_MAX_LINES = 20_000


def read_figures(text: str, source: int, lines_grid: Grid, name: str = "") -> list[OutputNumber]:
    """All numbers of an output. Those in lines of words go into `lines_grid`, which the outputs of
    a run share. `name` is what the code calls a series without a name of its own.
    """
    text = re.sub(r"\+/?-(?=\d)", "\u00b1 ", text)  # no number is negative there
    text = _SCALAR.sub(r"\1", text.expandtabs(8) if "\t" not in text else text)
    if (tree := _parsed(text.strip())) is not None:
        return _of_tree(tree, source)
    grids: list[Grid] = []
    loose: list[str] = []
    unread: list[OutputNumber] = []
    lines = text.splitlines()[:_MAX_LINES]
    i = 0
    while i < len(lines):
        taken = 0
        for reader in _READERS:
            grid, taken = reader(lines[i:], source, name)
            if taken:
                grids += [grid] if grid else []
                unread += _not_read(lines[i : i + taken], grid, source)
                break
        if not taken:
            loose.append(lines[i])
            taken = 1
        i += taken
    figures = [figure for grid in grids for figure in grid.figures]
    return figures + unread + _of_lines(loose, source, lines_grid)


def _not_read(lines: Sequence[str], grid: Grid | None, source: int) -> list[OutputNumber]:
    """The numbers of a table's lines that its columns do not have: without labels."""
    known = Counter(figure.text for figure in grid.figures) if grid else Counter()
    left = []
    for number in (n for line in lines for n in read_numbers(line.replace(" ", "  "))):  # dates are no figures
        known[number.text] -= 1
        if known[number.text] < 0 and not (number.is_whole and number.value < 100):
            left.append(_bare(number, source))
    return left


# -- trees -----------------------------------------------------------------------------------------


def _parsed(text: str) -> Any:
    """A dictionary or list that the text writes down, or None."""
    if text[:1] not in "{[(" or len(text) > 200_000:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                tree = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return tree if isinstance(tree, (dict, list, tuple)) and tree else None
    return None


def _of_tree(tree: Any, source: int) -> list[OutputNumber]:
    by_depth: dict[int, Grid] = {}
    for path, value in _leaves(tree, ()):
        grid = by_depth.setdefault(len(path), Grid(("",) * len(path)))
        grid.add(value, source, path)
    return [figure for grid in by_depth.values() for figure in grid.figures]


def _leaves(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Numbers of a tree with their keys."""
    if len(path) > _MAX_DEPTH:
        return
    if isinstance(tree, Mapping):
        # A record is called by its words: {"city": "Oslo", "price": 12}.
        words = [value for value in tree.values() if isinstance(value, str) and not is_value(value)][:3]
        for key, value in tree.items():
            named = words if words and not _is_inner(value) else []
            yield from _leaves(value, (*path, *named, str(key)))
    elif isinstance(tree, (list, tuple)):
        yield from _list_leaves(tree, path)
    elif _is_plain(tree):
        yield path, repr(tree)
    elif isinstance(tree, str) and is_value(tree):
        yield path, tree


def _list_leaves(items: Sequence[Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """A tuple is a row, called by its words, else by its first number; a list is values of one
    kind.
    """
    if any(map(_is_inner, items)):
        for value in items:
            yield from _leaves(value, path)
        return
    words = [value for value in items if isinstance(value, str)] or [str(v) for v in items[:1] if _is_plain(v)]
    for i, value in enumerate(items):
        named = (" ".join(words), f"column {i}") if isinstance(items, tuple) else ("", "")
        yield from _leaves(value, (*path, *named))


def _is_inner(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# -- lines -----------------------------------------------------------------------------------------


_KEY = re.compile(r"(?:^|[,;|(\t:]|\s{2,}|(?<=[\d%)])\s)\s*((?:(?!\s{2})[^,;|\t:=])*?)\s*[:=]\s*(?=[-+$€£¥]{0,2}\d)")


_RULED = re.compile(r"[=*#~_-]{4,}")  # a heading of an output
_INFO = re.compile(r"\s*\d+\s+\S.*\d+ non-null\s+\S+\s*")  # a line of DataFrame.info()


def _repeated_keys(lines: Sequence[str]) -> set[str]:
    """Keys that come second or later in several lines: what comes first names the row."""
    later = Counter(match[1].strip() for line in lines for match in list(_KEY.finditer(line))[1:])
    return {key for key, count in later.items() if count > 1}


def _lead(line: str, keys: Sequence[tuple[int, int]], row_keys: set[str]) -> str:
    """What all of a line is about: what it begins with, before a colon that no number follows, or
    its first key where other lines have the same keys behind it.
    """
    texts = [line[a:b].strip() for a, b in keys]
    if row_keys.intersection(texts[1:]):
        return texts[0]
    lead, colon, rest = line.partition(":")
    if not colon or not forms(lead) or lead.strip() in texts or re.match(r"\W*\d", lead):
        return ""
    first = keys[0][0] - len(lead) - 1 if keys else 0
    return lead.strip() if not rest[: max(0, first)].strip() else ""  # `model: x   R-squared: 0.7` has no lead


def _of_lines(lines: Sequence[str], source: int, grid: Grid) -> list[OutputNumber]:
    """Numbers in lines of words: named by the words before them, or behind them, and by what the
    line begins with (`junior: n=3, mean 4.5`).
    """
    given: list[OutputNumber] = []
    row_keys = _repeated_keys(lines)
    for line in lines:
        tree = re.search(r"[{\[].*[}\]]\s*$", line) or re.search(r"\{[^{}]+\}", line)
        if tree and (parsed := _parsed(tree[0].strip())) is not None:
            given += _of_tree(parsed, source)
            line = line[: tree.start()] + line[tree.end() :]
        numbers = read_numbers(line, skip=False)
        if _INFO.fullmatch(line) or _RULED.search(line):
            given += [_bare(number, source) for number in numbers]
        elif _COUNTS.fullmatch(line):
            given += _of_counts(line, numbers, source)
        else:
            given += _of_line(line, numbers, source, grid, row_keys)
    grid.figures += [figure for figure in given if figure.grid is grid]
    return given


def _bare(number: WrittenNumber, source: int) -> OutputNumber:
    return OutputNumber(number.value, number.step, number.share, source, text=number.text, unit=number.unit)


_COUNTS = re.compile(
    r"[\s=*]*\d[\d,.]*%? [A-Za-z][A-Za-z ]*(?:[,;] ?\d[\d,.]*%? [A-Za-z][A-Za-z ]*)+\b.*"
)  # 2 failed, 120 passed


def _keys(line: str) -> list[tuple[int, int]]:
    return [match.span(1) for match in _KEY.finditer(line)]


def _key_of(number: WrittenNumber, line: str, keys: Sequence[tuple[int, int]]) -> str:
    return next((line[a:b] for a, b in keys if number.start - 4 <= b <= number.start), "")


def _of_counts(line: str, numbers: Sequence[WrittenNumber], source: int) -> Iterator[OutputNumber]:
    """2 failed, 120 passed in 7.93s: the whole numbers are a table of their own."""
    grid = Grid(("",))
    for i, number in enumerate(numbers):
        end = numbers[i + 1].start if i + 1 < len(numbers) else len(line)
        label = line[number.end : end].strip(" ,;=.")
        if not number.is_whole or not forms(label):
            yield _bare(number, source)
            continue
        grid.figures.append(
            OutputNumber(number.value, number.step, number.share, source, (label,), grid, number.text, number.unit)
        )
    yield from grid.figures


def _of_line(
    line: str, numbers: Sequence[WrittenNumber], source: int, grid: Grid, row_keys: set[str]
) -> Iterator[OutputNumber]:
    keys = _keys(line)
    lead = _lead(line, keys, row_keys)
    # In a sentence of several numbers the words between them are no names of rows.
    table = grid if keys or len(numbers) == 1 else None
    previous = 0
    for i, number in enumerate(numbers):
        if any(a <= number.start < b for a, b in keys):  # `older than 60: 10` says 10
            yield _bare(number, source)
            continue
        end = numbers[i + 1].start if i + 1 < len(numbers) else len(line)
        key = _key_of(number, line, keys)
        before, after = line[previous : number.start], line[number.end : end]
        if keys and not (key or forms(before)) and len(numbers) > 1:  # `all: 12 of 30 ML` has no name for 30
            previous = number.end
            yield _bare(number, source)
            continue
        label = (key or next((text for text in (before, after) if forms(text)), lead)).strip(" ,;:=|()")
        previous = number.end
        labels = (lead, label) if lead and lead != label else (label, "")
        named = bool(forms(label))
        yield OutputNumber(
            number.value, number.step, number.share, source, labels if named else (), table if named else None,
            number.text, number.unit,
        )  # fmt: skip
