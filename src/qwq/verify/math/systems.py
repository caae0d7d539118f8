r"""Environments with rows: systems of equations and piecewise functions, as one line each row.

`\begin{cases}x=1\\y=2\end{cases}`, an `array` behind an open brace, `aligned`, `split`, `gathered`
are the same system; rows with `&` and a condition are a piecewise function. A matrix is neither.
"""

from __future__ import annotations

import re

from qwq.verify.math.separators import split

_ENVIRONMENT = re.compile(
    r"(?P<label>[^\\{}]{0,40}(?:\\[a-z]{2,8} ?(?:\{[^{}]{0,20}\})?[^\\{}]{0,40})?= ?)?(?:\\?\{ ?)?\\begin ?"
    r"\{(?P<name>cases|dcases|array|aligned|align|alignedat|split|gathered|gather|rcases|eqnarray|matrix)\*?\}"
    r"(?: ?\{[lcr| ]{0,9}\})?(?P<body>.*)\\end ?\{(?P=name)\*?\} ?(?:\\?\})?"
)
_CONDITION = re.compile(r",? ?(?:\\text ?\{ ?,? ?(?:if|when|for|where|当|若)\b ?\}?|\b(?:if|when|for)\b) ?")
_OTHERWISE = re.compile(r"(?:\\text ?\{ ?)?,? ?(?:otherwise|else|其他|其它) ?\}?", re.IGNORECASE)
_ALIGNED = frozenset({"aligned", "align", "alignedat", "split", "eqnarray"})
_ROW_SPACE = re.compile(r"\\\\ ?(?:\[ ?-?\d{1,3}(?:\.\d{1,3})? ?(?:pt|em|ex|mm|cm)\])?")


def rewritten(text: str) -> tuple[str, list[str], bool] | None:
    """(label with its sign, rows, piecewise) of a text that is one such environment; rows of a
    piecewise function are `value & condition`.
    """
    match = _ENVIRONMENT.fullmatch(text)
    if match is None or "\\begin" in match["body"]:
        return None
    rows = [row for part in _ROW_SPACE.split(match["body"]) if (row := part.strip())]
    if not 1 <= len(rows) <= 20:
        return None
    label, name = match["label"] or "", match["name"]
    if (pairs := _pairs(rows)) is not None and (name in ("cases", "dcases", "rcases") or _is_piecewise(pairs)):
        return label, [f"{value} & {condition}" for value, condition in pairs], True
    lines = _lines([row.replace("&", " ").strip(" ,;.") for row in rows], name)
    return None if lines is None else (label, lines, False)


def _lines(rows: list[str], name: str) -> list[str] | None:
    """The rows of a system of relations, or the one line that aligned rows make; None for other
    rows.
    """
    relations = all(_is_relation(row) for row in rows)
    if name in ("array", "matrix") and not relations:
        return None
    if name in _ALIGNED and all(row.startswith("=") for row in rows[1:]):
        return [" ".join(rows)]
    return [" ".join(row.split()) for row in rows] if relations or len(rows) == 1 else None


def _pairs(rows: list[str]) -> list[tuple[str, str]] | None:
    """(value, condition) of each row: behind `&`, or behind "if"; None where a row has neither."""
    pairs = [_pair(row) for row in rows]
    return None if None in pairs else [pair for pair in pairs if pair is not None]


def _pair(row: str) -> tuple[str, str] | None:
    if (parts := _value_and_condition(row)) is None:
        return None
    value, condition = parts[0].strip(" ,;."), parts[1].strip(" ,;.")
    if split(condition, "r")[0][1] == "" and _is_relation(condition):
        return None  # x &= 1: a row that is aligned at its sign
    if _OTHERWISE.fullmatch(condition):
        condition = "\\text{otherwise}"
    else:
        ends = " ,;.{}" if condition.count("{") != condition.count("}") else " ,;."
        condition = _CONDITION.sub(" ", condition).strip(ends)
    return (value, condition) if value and condition and not _is_relation(value) else None


def _value_and_condition(row: str) -> tuple[str, str] | None:
    value, sign, condition = row.partition("&")
    if sign:
        return value, condition
    parts = _CONDITION.split(row, maxsplit=1)
    if len(parts) == 2:
        return parts[0], parts[1]
    value, comma, condition = row.rpartition(",")
    if not comma or _is_relation(value):
        return None
    return (value, condition) if _is_relation(condition) or _OTHERWISE.fullmatch(condition.strip()) else None


def _is_piecewise(pairs: list[tuple[str, str]]) -> bool:
    return all(_is_relation(condition) or condition == "\\text{otherwise}" for _, condition in pairs)


def _is_relation(text: str) -> bool:
    return len(split(text, "r")) > 1
