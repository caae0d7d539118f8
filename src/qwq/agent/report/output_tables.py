"""Tables in what executed calls printed: pandas' frames and series, pipes, tabs, commas.

Each reader takes the lines from a place on and gives the table that begins there, if one does, and
how many lines it has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from qwq.agent.report.grid import Grid, OutputNumber, is_value

_FOOTER = re.compile(r"\[?\d+ rows x \d+ columns\]?|(?:Name: (?P<name>[^,]*), )?(?:Length: \d+, )?dtype: \w+(?:, .*)?")


_BARS = "|│┆"
_RULES = "+\\-=─┼├┤┌┬┐└┴┘╞═╪╡"
_TYPES = re.compile(
    r"-{3}|str|bool|date|datetime.*|u?int\d+|[uif]\d+|varchar|integer|bigint|double|float|real|hugeint|boolean|cat",
    re.I,
)


def _pipes(lines: Sequence[str], source: int, name: str) -> tuple[Grid | None, int]:
    """Columns with bars between them; polars and DuckDB print types below the names."""
    rows = []
    for line in lines:
        if not re.search(rf"[{_BARS}]", line) and not re.fullmatch(rf"\s*[{_RULES}]{{3,}}\s*", line):
            break
        rows.append(line)
    if sum(bool(re.search(rf"[{_BARS}]", r)) for r in rows) < 2:
        return None, 0
    cells = [
        [c.strip() for c in re.split(rf"[{_BARS}]", r.strip().strip("|│"))]
        for r in rows if re.search(rf"[^{_BARS}{_RULES}:\s]", r)
    ]  # fmt: skip
    cells = [row for i, row in enumerate(cells) if i == 0 or not all(map(_TYPES.fullmatch, row))]
    return _grid_of_cells(cells, source, name), len(rows)


def _separated(lines: Sequence[str], source: int, name: str) -> tuple[Grid | None, int]:
    """Lines of values with tabs or commas between them, the same number in each."""
    for separator in ("\t", ",", ";"):
        width = lines[0].count(separator)
        if not width or (
            separator == "," and (", " in lines[0] or re.search(r"\d,\d{3}\b", lines[0]) or ": " in lines[0])
        ):
            continue
        rows = []
        for line in lines:
            if _split(line, separator) is None or len(_split(line, separator) or ()) != width + 1:
                break
            rows.append(_split(line, separator) or [])
        if len(rows) >= 2:
            return _grid_of_cells(rows, source, name), len(rows)
    return None, 0


def _split(line: str, separator: str) -> list[str] | None:
    if not line.strip():
        return None
    return [cell.strip().strip('"') for cell in re.split(rf'{separator}(?=(?:[^"]*"[^"]*")*[^"]*$)', line)]


def _grid_of_cells(rows: list[list[str]], source: int, name: str) -> Grid | None:
    """Rows of texts, the first one names."""
    if len(rows) < 2:
        return None
    has_head = not any(is_value(c) for c in rows[0][1:]) or not is_value(rows[0][0] or "x")
    head = rows[0] if has_head else [f"column {i}" for i in range(len(rows[0]))]
    body = [row for row in (rows[1:] if has_head else rows) if len(row) == len(head)]
    return _with_keys(head, body, source, name)


def _are_words(column: Sequence[str]) -> bool:
    return sum(not is_value(cell) and bool(cell) for cell in column) * 2 > len(column)


def _tells_rows_apart(column: Sequence[str]) -> bool:
    return len(set(column)) == len(column) and all(re.fullmatch(r"-?\d+", cell) for cell in column)


def _with_keys(head: Sequence[str], body: Sequence[Sequence[str]], source: int, name: str) -> Grid | None:
    """A grid from columns: those of words name the rows, else the first one of whole numbers that
    differ.
    """
    if not body:
        return None
    columns = list(zip(*body, strict=True))
    words = [i for i, column in enumerate(columns) if _are_words(column)]
    keys = words[:3] or _key_column(columns)
    left_out = {i for i, column in enumerate(columns) if i not in keys and not head[i] and _is_range(column)}
    shown = [i for i in range(len(columns)) if i not in left_out and i not in words]
    grid = Grid((*(head[i] for i in keys), ""))
    for row in body:
        labels = tuple(row[k] for k in keys)
        for i in shown:
            grid.add(row[i], source, (*labels, head[i] or name))
    return grid


def _key_column(columns: Sequence[Sequence[str]]) -> list[int]:
    if len(columns) < 2 or len(columns[0]) < 2:
        return []
    return [i for i, column in enumerate(columns) if not _is_range(column) and _tells_rows_apart(column)][:1]


def _is_range(column: Sequence[str]) -> bool:
    """Whether it counts 0, 1, 2, sorted or not: pandas' index where there is no other."""
    return sorted(column) == sorted(str(n) for n in range(len(column)))


# -- pandas ----------------------------------------------------------------------------------------


def _fixed_width(lines: Sequence[str], source: int, name: str) -> tuple[Grid | None, int]:
    """A frame or a series as pandas prints it: columns end at the same place in all lines."""
    block = []
    for line in lines:
        if not line.strip() or _FOOTER.fullmatch(line.strip()):
            break
        block.append(line)
    if len(block) < 2:
        return None, 0
    footer = _FOOTER.fullmatch(lines[len(block)].strip()) if len(block) < len(lines) else None
    if footer and footer["name"]:
        name = footer["name"].strip()
    if (grid := _by_words(block, source, name)) is not None:
        return grid, len(block)
    num_head = _num_head_lines(block)
    body = [line for line in block[num_head:] if not re.fullmatch(r"[\s.]+", line)]
    edges = _edges(block[:num_head], body)
    if not body or not edges or not _is_table(body, edges) or not _is_head(block[:num_head], edges):
        return None, 0
    grid = _frame(block[:num_head], body, edges, source, name)
    return grid, len(block)


def _by_words(block: Sequence[str], source: int, name: str) -> Grid | None:
    """A table whose columns do not end at the same places, of as many words in each line."""
    words = [line.split() for line in block]
    head, body = words[0], words[1:]
    extra = {len(row) - len(head) for row in body}
    if len(head) < 3 or len(body) < 2 or extra not in ({0}, {1}) or any(map(is_value, head)):
        return None
    if all(_ends_at(line, m.end()) for m in re.finditer(r"\S+", block[0]) for line in block[1:]):
        return None  # the reader by places knows more
    rows = [row[1:] for row in body] if extra == {1} and _is_range([row[0] for row in body]) else body
    if len(rows[0]) != len(head) or not any(is_value(cell) for cell in rows[0]):
        return None
    return _with_keys(head, rows, source, name)


def _num_head_lines(block: Sequence[str]) -> int:
    """How many lines come before the first row: up to the last one without a value among the first
    four, or one that begins with blanks.
    """
    best = 0
    for i, line in enumerate(block[:5]):
        if i < len(block) - 1 and not any(is_value(word) for word in line.split()):
            best = i + 1
        elif best < i and i:
            break
    if best:
        return best
    begins = [len(line) - len(line.lstrip()) for line in block]
    return 1 if begins[0] >= 2 and min(begins[1:]) == 0 else 0


def _is_head(head: Sequence[str], edges: Sequence[int]) -> bool:
    """Lines of the head but the last, which may name the index, belong to columns."""
    return all(line[:1].isspace() or len(line.rstrip()) >= edges[-1] - 1 for line in head[:-1])


def _edges(head: Sequence[str], body: Sequence[str]) -> list[int]:
    """Where columns end: ends of words of the head at which each row has an end too; without a head
    the end of the last value.
    """
    if not body:
        return []
    last = max(len(line.rstrip()) for line in body)
    names = [line for line in head if len(line.rstrip()) >= last - 1]
    ends = {match.end() for line in names for match in re.finditer(r"\S+", line)} or {last}
    ends.add(last)
    # pandas pads the name True with a blank.
    ends = {e if all(_ends_at(line, e) for line in body) else e + 1 for e in ends}
    return sorted(e for e in ends if e <= last and all(_ends_at(line, e) for line in body))


def _ends_at(line: str, end: int) -> bool:
    line = line.rstrip() if len(line.rstrip()) >= end else line.ljust(end)
    return len(line) >= end and not line[end - 1].isspace() and (len(line) == end or line[end].isspace())


def _is_table(body: Sequence[str], edges: Sequence[int]) -> bool:
    """Whether the last words before the edges are values in most rows, and rows have a label or
    several columns.
    """
    values = [is_value(line[: edges[-1]].split()[-1]) for line in body if line[: edges[-1]].split()]
    wide = all(re.search(r"\S\s{2,}\S|^\s*\S+\s+\S", line[: edges[-1]]) for line in body)
    aligned = len(edges) > 1 or all(re.search(r"\s{2,}\S+$", line[: edges[-1]]) for line in body)
    return bool(values) and sum(values) * 2 > len(values) and wide and aligned


def _boundary(head: Sequence[str], body: Sequence[str], edges: Sequence[int]) -> int:
    """Where the labels of rows end: before the first values, and behind the longest label or the
    name that the columns have together.
    """
    labels = [_without_cell(line[: edges[0]]).rstrip() for line in body]
    boundary = max(map(len, labels))
    for line in head:
        word = re.match(r"\S+", line)
        if boundary and word and word.end() not in edges and word.end() > boundary:
            boundary = word.end()
    return boundary


def _without_cell(text: str) -> str:
    """What is left of the last value, or of the last words with two blanks before them."""
    words = text.split()
    if not words:
        return ""
    return re.sub(r"\S+\s*$" if is_value(words[-1]) else r"\S+(?: \S+)*\s*$", "", text)


def _names_index(line: str, edges: Sequence[int]) -> bool:
    """Whether a line of the head names the index: a line of columns reaches the last one."""
    return len(line.rstrip()) < edges[-1] - 1


def _parts(line: str, edges: Sequence[int], boundary: int) -> list[str]:
    """The texts of the columns, which end at the edges."""
    return [line[max(boundary, a) : b].strip() for a, b in zip([0, *edges[:-1]], edges, strict=True)]


def _frame(head: Sequence[str], body: Sequence[str], edges: Sequence[int], source: int, name: str) -> Grid | None:
    boundary = _boundary(head, body, edges)
    name_line = head[-1] if head and _names_index(head[-1], edges) else ""
    names, levels = _index_levels(name_line, [line[:boundary] for line in body], boundary)
    columns = _column_levels(head[:-1] if name_line else head, edges, boundary, name)
    rows = [_parts(line, edges, boundary) for line in body]
    is_range = len(names) == 1 and _is_range([level[0] for level in levels])
    if len(columns) == 1 and (is_range or not names) and len(edges) > 1:
        return _with_keys(columns[0], rows, source, name)
    axis = "" if is_range or len(columns) > 1 else _axis_of_columns(head, boundary)
    grid = _filled(columns, rows, levels, (*names, axis), source)
    _index_figures(grid, levels, source)
    return grid


def _filled(
    columns: Sequence[Sequence[str]], rows: Sequence[Sequence[str]], levels: Sequence[Sequence[str]],
    axes: tuple[str, ...], source: int,
) -> Grid:  # fmt: skip
    """Columns of words become a level of their own."""
    words = [i for i, cells in enumerate(zip(*rows, strict=True)) if _are_words(cells)] if len(columns) == 1 else []
    grid = Grid((*axes, *[""] * (len(columns) - 1), *([""] if words else [])))
    for row, level in zip(rows, levels, strict=True):
        _add_row(grid, row, level, columns, [" ".join(row[i] for i in words)] if words else [], source)
    return grid


def _add_row(
    grid: Grid, row: Sequence[str], level: Sequence[str], columns: Sequence[Sequence[str]], more: Sequence[str],
    source: int,
) -> None:  # fmt: skip
    for j, cell in enumerate(row):
        if is_value(cell):
            grid.add(cell, source, (*level, *(column[j] for column in columns), *more))


def _index_figures(grid: Grid, levels: Sequence[Sequence[str]], source: int) -> None:
    """Numbers among the labels of rows (years, classes, quantiles) are figures that were shown."""
    labels = Grid(())
    for label in dict.fromkeys(text for level in levels for text in level):
        labels.add(label, source, ())
    grid.figures += [OutputNumber(f.value, f.step, f.share, source, text=f.text) for f in labels.figures]


def _axis_of_columns(head: Sequence[str], boundary: int) -> str:
    """The name of the columns' level, which pandas prints left of them."""
    return head[0][:boundary].strip() if len(head) > 1 else ""


def _index_levels(name_line: str, texts: Sequence[str], boundary: int) -> tuple[list[str], list[list[str]]]:
    """(names, labels of each row) of the index; a label that is left out repeats the one above."""
    if not boundary:
        return [], [[] for _ in texts]
    starts = sorted({m.start() for text in texts for m in re.finditer(r"(?:(?<=\s\s)|^)\S", text)})
    widest = [
        s
        for s in starts
        if sum(len(t) > s and not t[s].isspace() and (s == 0 or t[s - 1].isspace()) for t in texts) * 2 > len(texts)
        or s == 0
    ]
    above = [""] * len(widest)
    levels = []
    for text in texts:
        parts = [text[a:b].strip() for a, b in zip(widest, [*widest[1:], boundary], strict=True)]
        parts = [part or (above[i] if not any(parts[:i]) else "") for i, part in enumerate(parts)]
        above = parts
        levels.append(parts)
    ends = [*widest[1:], max(boundary, len(name_line))]
    names = [name_line[a:b].strip() for a, b in zip(widest, ends, strict=True)]
    return names, levels


def _column_levels(head: Sequence[str], edges: Sequence[int], boundary: int, name: str) -> list[list[str]]:
    """Names of the columns, one list for each line of the head that has some."""
    levels = []
    for line in head:
        if not line[boundary:].strip():
            continue
        levels.append(_parts(line, edges, boundary))
    if not levels:
        return [[name] * len(edges)]
    for level in levels[:-1]:
        for j in range(1, len(level)):
            level[j] = level[j] or level[j - 1]
    return levels


def _alike(lines: Sequence[str], source: int, name: str) -> tuple[Grid | None, int]:
    """Lines of one form without a head: a word, then values: Jan 14 121.5 km."""
    first = lines[0].split()
    if not 2 <= len(first) <= 12 or is_value(first[0]) or not re.fullmatch(r"[A-Za-z][\w.-]*:?", first[0]):
        return None, 0
    rows = []
    for line in lines:
        words = line.split()
        if len(words) != len(first) or [is_value(w) for w in words] != [is_value(w) for w in first]:
            break
        rows.append([words[0].strip(":"), *words[1:]])
    columns = [i for i, word in enumerate(first) if is_value(word)]
    if len(rows) < 3 or not columns or len({row[0] for row in rows}) < len(rows):
        return None, 0
    grid = Grid(("", ""))
    for row in rows:
        for i in columns:
            unit = f" {first[i + 1]}" if i + 1 < len(first) and i + 1 not in columns else ""
            grid.add(row[i] + unit, source, (row[0], f"column {i}"))
    return grid, len(rows)


READERS: tuple[Callable[[Sequence[str], int, str], tuple[Grid | None, int]], ...] = (
    _pipes, _separated, _fixed_width, _alike,
)  # fmt: skip
