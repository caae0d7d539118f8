r"""Environments with rows: systems of equations and piecewise functions, as one line each row.

`\begin{cases}x=1\\y=2\end{cases}`, an `array` behind an open brace, `aligned`, `split`, `gathered`
are the same system; rows with `&` and a condition are a piecewise function. A matrix is neither.
"""

from __future__ import annotations

import re

from qwq.verify.math.split import split

_ENVIRONMENT = re.compile(
    r"(?P<label>[^\\{}]{0,40}(?:\\[a-z]{2,8} ?(?:\{[^{}]{0,20}\})?[^\\{}]{0,40})?= ?)?(?:\\?\{ ?)?\\begin ?"
    r"\{(?P<name>cases|dcases|array|aligned|align|alignedat|split|gathered|gather|rcases|eqnarray|matrix)\*?\}"
    r"(?: ?\{[lcr| ]{0,9}\})?(?P<body>.*)\\end ?\{(?P=name)\*?\} ?(?:\\?\})?"
)
_CONDITION = re.compile(r",? ?(?:\\text ?\{ ?,? ?(?:if|when|for|where|当|若)\b ?\}?|\b(?:if|when|for)\b) ?")
_OTHERWISE = re.compile(r"(?:\\text ?\{ ?)?,? ?(?:otherwise|else|其他|其它) ?\}?", re.IGNORECASE)
_ROW_SPACE = re.compile(r"\\\\ ?(?:\[ ?-?\d{1,3}(?:\.\d{1,3})? ?(?:pt|em|ex|mm|cm)\])?")


def rewritten(text: str) -> tuple[str, list[str], bool] | None:
    """(label with its sign, rows, piecewise) of a text that is one such environment; rows of a
    piecewise function are `value & condition`.
    """
    match = _ENVIRONMENT.fullmatch(text)
    if match is None or "\\begin" in match["body"]:
        return None
    rows = [row.strip() for row in _ROW_SPACE.split(match["body"])]
    rows = [row for row in rows if row]
    if not rows or len(rows) > 20:
        return None
    label = match["label"] or ""
    if (pairs := _pairs(rows)) is not None and (match["name"] in ("cases", "dcases", "rcases") or _is_piecewise(pairs)):
        return label, [f"{value} & {condition}" for value, condition in pairs], True
    plain = [row.replace("&", " ").strip(" ,;.") for row in rows]
    if match["name"] in ("array", "matrix") and not all(_is_relation(row) for row in plain):
        return None
    if match["name"] in ("aligned", "align", "alignedat", "split", "eqnarray") and all(
        row.startswith("=") for row in plain[1:]
    ):
        return label, [" ".join(plain)], False
    if not all(_is_relation(row) for row in plain) and len(plain) > 1:
        return None
    return label, [" ".join(row.split()) for row in plain], False


def _pairs(rows: list[str]) -> list[tuple[str, str]] | None:
    """(value, condition) of each row: behind `&`, or behind "if"; None where a row has neither."""
    pairs = []
    for row in rows:
        value, sign, condition = row.partition("&")
        if not sign:
            parts = _CONDITION.split(row, maxsplit=1)
            if len(parts) != 2:
                value, comma, condition = row.rpartition(",")
                if (
                    not comma
                    or _is_relation(value)
                    or not (_is_relation(condition) or _OTHERWISE.fullmatch(condition.strip()))
                ):
                    return None
            else:
                value, condition = parts
        condition = condition.strip(" ,;.")
        if split(condition, "r")[0][1] == "" and _is_relation(condition):
            return None  # x &= 1: a row that is aligned at its sign
        if _OTHERWISE.fullmatch(condition):
            condition = "\\text{otherwise}"
        else:
            condition = _CONDITION.sub(" ", condition).strip(
                " ,;.{}" if condition.count("{") != condition.count("}") else " ,;."
            )
        value = value.strip(" ,;.")
        if not value or not condition or _is_relation(value):
            return None
        pairs.append((value, condition))
    return pairs


def _is_piecewise(pairs: list[tuple[str, str]]) -> bool:
    return all(_is_relation(condition) or condition == "\\text{otherwise}" for _, condition in pairs)


def _is_relation(text: str) -> bool:
    return len(split(text, "r")) > 1
