"""The object `report` of a session: numbers, tables and figures that a report may refer to.

    report.value("mean_fare", fares.mean(), "{:.2f}")      # {{mean_fare}} in the report
    report.table("by_class", frame)
    report.figure("fares")                                  # the current figure of matplotlib

Each call is shown like a value of the cell, with a record of its own beside the text.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

VALUE = "application/x-qwq-value"
MAX_TEXT = 200
MAX_ROWS = 200
_NAME = re.compile(r"[A-Za-z_][\w.-]{0,79}")


class _Shown:
    """What was registered, as it is shown."""

    def __init__(self, fields: dict[str, Any], text: str):
        self._fields, self._text = fields, text

    def _repr_mimebundle_(self) -> dict[str, str]:
        return {VALUE: json.dumps(self._fields, default=str), "text/plain": self._text}


class Report:
    """`show` displays a value in the cell that runs."""

    def __init__(self, show: Callable[[Any], None]):
        self._show = show

    def value(self, name: str, x: Any, fmt: str = "{}") -> None:
        """Register a number or a word. `fmt` is a format such as "{:.2f}" or ".1%"."""
        text = fmt.format(_plain(x)) if "{" in fmt else format(_plain(x), fmt)
        if not text.strip() or len(text) > MAX_TEXT:
            raise ValueError(f"value {name!r} is {len(text)} characters long: give 1 to {MAX_TEXT}")
        self._register({"name": name, "kind": "value", "text": text}, f"{name} = {text}")

    def table(self, name: str, frame: Any, fmt: str = "{:,.4g}") -> None:
        """Register a frame or series of pandas, a list of dictionaries, or a list of rows whose
        first one names the columns. `fmt` is for numbers that are not whole.
        """
        columns, rows = _columns_and_rows(frame)
        if len(rows) > MAX_ROWS:
            raise ValueError(f"table {name!r} has {len(rows)} rows: give up to {MAX_ROWS}, such as frame.head(20)")
        texts = [[_cell(value, fmt) for value in row] for row in rows]
        lines = ["\t".join(columns), *("\t".join(row) for row in texts)]
        fields = {"name": name, "kind": "table", "columns": columns, "rows": texts}
        self._register(fields, f"table {name}:\n" + "\n".join(lines))

    def figure(self, name: str, title: str = "") -> None:
        """Register the current figure of matplotlib, which is shown when the cell ends."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        numbers = pyplot.get_fignums() if pyplot is not None else []
        if pyplot is None or not numbers:
            raise ValueError(f"no figure is open for {name!r}: draw one in the same cell, before report.figure")
        index = numbers.index(pyplot.gcf().number) + 1
        self._register({"name": name, "kind": "figure", "index": index, "title": title}, f"figure {name}")

    def _register(self, fields: dict[str, Any], text: str) -> None:
        if not isinstance(fields["name"], str) or not _NAME.fullmatch(fields["name"]):
            raise ValueError(f"{fields['name']!r} is no name: letters, digits, _ . - and a letter first")
        self._show(_Shown(fields, text))


def _plain(value: Any) -> Any:
    """A number of numpy as Python's, which has all formats."""
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", 0) == 0 else value


def _cell(value: Any, fmt: str) -> str:
    value = _plain(value)
    if isinstance(value, float):
        text = fmt.format(value) if "{" in fmt else format(value, fmt)
    elif isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:,}"
    else:
        text = str(value)
    return " ".join(text.split())[:MAX_TEXT]


def _columns_and_rows(frame: Any) -> tuple[list[str], list[list[Any]]]:
    if hasattr(frame, "to_frame") and not hasattr(frame, "columns"):  # a series
        frame = frame.to_frame()
    if hasattr(frame, "columns"):
        if type(frame.index).__name__ != "RangeIndex":
            frame = frame.reset_index()
        names = [" ".join(map(str, c)) if isinstance(c, tuple) else str(c) for c in frame.columns]
        return names, [list(row) for row in frame.itertuples(index=False, name=None)]
    rows: Sequence[Any] = list(frame)
    if rows and all(isinstance(row, Mapping) for row in rows):
        names = list(dict.fromkeys(str(key) for row in rows for key in row))
        return names, [[row.get(name, "") for name in names] for row in rows]
    if len(rows) < 2 or not all(isinstance(row, (list, tuple)) for row in rows):
        raise ValueError("a table is a frame, a list of dictionaries, or rows of which the first names the columns")
    return [str(name) for name in rows[0]], [list(row) for row in rows[1:]]
