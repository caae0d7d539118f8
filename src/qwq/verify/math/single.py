r"""One expression with its unit, a ratio, a vector in `\mathbf{i}`, or words."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from qwq.verify.math import numbers, unit_tables, units, words
from qwq.verify.math.expr import parse
from qwq.verify.math.lexer import ENGLISH, Unreadable
from qwq.verify.math.separators import split
from qwq.verify.math.trees import ZERO, Tree, components, walk
from qwq.verify.math.typed import Bag, Expr, Ratio, Seq, Text, Unknown, Value

TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|operatorname) ?\{([^{}]*)\}")
_PERCENT = re.compile(r"(?<=[\d})]) ?(?:\\text ?\{ ?)?(?:percentage|percent|pct|per cent) ?\}? ?\Z", re.IGNORECASE)
_PARTS = re.compile(r"(?<=[A-Za-z}]) ?(?=\d)")
_SAME_PHRASES = {
    "dne": "does not exist", "undefined": "does not exist", "not exist": "does not exist",
    "no real solution": "no solution", "no solutions": "no solution", "no real solutions": "no solution",
    "none": "no solution", "infinitely many solutions": "infinitely many", "infinite": "infinitely many",
    "diverges": "divergent", "converges": "convergent", "不存在": "does not exist", "是": "yes", "否": "no",
    "正确": "true", "错误": "false", "对": "true", "错": "false",
}  # fmt: skip


def single(text: str, nesting: int = 0) -> Value:
    """The value of a text that has no separators, relations or brackets around it all."""
    text = _PERCENT.sub("%", text)
    number = numbers.read(text)
    if number is not None:
        return Expr(_tree_of(number), number)
    ratio = [p for _, p in split(text, ":")]
    if len(ratio) > 1 and all(ratio):
        return Ratio(tuple(single(p, nesting + 1) for p in ratio)) if nesting < 4 else Unknown(text)
    if (quantity := compound(_PARTS.split(text))) is not None:
        return quantity
    if text.strip(" .") == "DNE":
        return Text("does not exist")
    if (spoken := _in_words(text)) is not None:
        return spoken
    found = units.split(text)
    if found.core != text and split(found.core, ":")[1:]:
        return Unknown(text)
    bare = _expression(text)
    if found.core == text and found.unit is None:
        return bare if bare is not None else _words(text)
    inner = _quantity(found)
    if inner is None:
        return bare if bare is not None else _words(text)
    if found.weak and isinstance(bare, Expr) and isinstance(inner, Expr):
        return replace(bare, other=inner)
    return inner


def _tree_of(number: numbers.Number) -> Tree:
    return ("num", number.value / 100 if number.percent else number.value)


def _quantity(found: units.Split) -> Value | None:
    """The value of a text whose unit is known: its core, scaled."""
    value = _core(found)
    if isinstance(value, Bag) and not found.operation and found.scale == 1:
        return Bag(tuple(replace(v, unit=found.unit) if isinstance(v, Expr) else v for v in value.items), value.labels)
    if not isinstance(value, Expr):
        return None
    if found.scale != 1:
        value = _scaled(value, found.scale)
    if found.operation == "factorial":
        value = Expr(("fn", "factorial", value.tree))
    elif found.operation:
        value = Expr(("pow", value.tree, ("num", Fraction({"squared": 2, "cubed": 3}[found.operation]))))
    if found.unit is not None and found.unit == unit_tables.DEGREES:
        return Expr(("deg", value.tree))
    return replace(value, unit=found.unit)


def _core(found: units.Split) -> Value | None:
    """The value before the unit: a number, an expression, or a number in words."""
    core = _PERCENT.sub("%", found.core)
    if (number := numbers.read(core)) is not None:
        return Expr(_tree_of(number), number)
    value = _expression(core) if found.core else None
    if value is None and (spoken := words.number(core)) is not None:
        return _plain(spoken)
    return value


def _plain(value: Fraction) -> Expr:
    return Expr(("num", value), numbers.Number(value, decimals=0 if value.denominator == 1 else None))


def _scaled(value: Expr, scale: Fraction) -> Expr:
    if value.number is not None and not value.number.percent:
        return _plain(value.number.value * scale)
    return Expr(("mul", value.tree, ("num", scale)))


def compound(parts: list[str]) -> Expr | None:
    r"""`5\text{ ft }3\text{ in}`, `5 dollars and 25 cents`: parts of one quantity in falling size,
    in the first part's unit.
    """
    if not 2 <= len(parts) <= 4:
        return None
    total, first, last = Fraction(0), None, None
    for part in parts:
        found = units.split(part.strip())
        number = numbers.read(found.core)
        if (
            number is None
            or number.percent
            or found.unit is None
            or not found.unit.dims
            or found.operation
            or found.scale != 1
        ):
            return None
        if first is None or last is None:
            first = found.unit
        elif found.unit.dims != first.dims or found.unit.factor >= last.factor or number.value < 0:
            return None
        last = found.unit
        assert first is not None
        total += number.value * found.unit.factor / first.factor
    return Expr(("num", total), numbers.Number(total), first)


def _in_words(text: str) -> Expr | None:
    r"""`\text{two thirds}`, `twenty-one meters`."""
    plain = TEXT_COMMAND.sub(r" \1 ", text).strip()
    if not plain or plain[0].isdigit() or "\\" in plain or len(plain) > 120:
        return None
    value, unit = words.number(plain), None
    if value is None and (leading := words.leading_number(plain)) is not None:
        value, rest = leading
        found = units.split(f"1 {rest}")
        if found.core != "1" or found.unit is None or found.weak or found.operation:
            return None
        value, unit = value * found.scale, found.unit
    if value is None and (ordinal := words.ordinal(text)) is not None:
        value = Fraction(ordinal)
    return None if value is None else replace(_plain(value), unit=unit)


def _expression(text: str) -> Value | None:
    """The value of a text that is an expression as it is; None where it is none."""
    if (ordinal := words.ordinal(text)) is not None:
        return Expr(("num", Fraction(ordinal)), numbers.Number(Fraction(ordinal), decimals=0))
    try:
        tree = parse(_inline_text(text))
    except Unreadable:
        return None
    nodes = walk(tree)
    if any(n[0] == "pm" for n in nodes):
        both = tuple(Expr(choose_sign(tree, sign)) for sign in (1, -1))
        return Bag(both, ("", ""))
    if any(n[0] == "basis" for n in nodes):
        parts = components(tree)
        return None if parts is None else Seq("v", "v", tuple(_entry(parts.get(axis, ZERO)) for axis in "ijk"))
    return Expr(tree, numbers.read(text))


def _entry(tree: Tree) -> Expr:
    return Expr(tree, numbers.Number(tree[1]) if tree[0] == "num" else None)


def tree_or_none(text: str) -> Tree | None:
    try:
        return parse(_inline_text(text))
    except Unreadable:
        return None


def _inline_text(core: str) -> str:
    r"""`\text{e}` and `\text{13}` as what they say; empty text as nothing."""
    return TEXT_COMMAND.sub(
        lambda m: m.group(1) if not m.group(1).strip() or m.group(1).strip().isdigit() else m.group(), core
    )


def choose_sign(tree: Tree, sign: int) -> Tree:
    """The tree with every plus-minus read as its upper (1) or lower (-1) sign."""
    if tree[0] == "pm":
        inner = choose_sign(tree[1], sign)
        return inner if tree[2] * sign > 0 else ("neg", inner)
    if tree[0] == "matrix":
        return ("matrix", tuple(tuple(choose_sign(e, sign) for e in row) for row in tree[1]))
    return tuple(choose_sign(p, sign) if isinstance(p, tuple) else p for p in tree)


def _words(text: str) -> Value:
    return Text(plain_words(text)) if _wordy(text) else Unknown(text)


def plain_words(text: str) -> str:
    """The words of a text in lower case, without markup, articles and punctuation.

    A factorial stays.
    """
    text = TEXT_COMMAND.sub(r" \1 ", text)
    text = re.sub(r"\\([A-Za-z]+)", r" \1 ", text)  # a root stays a root: only markup goes
    text = re.sub(r"(?<![\d)}])!|[{}$\"'`,;?()\\]", " ", text).lower()
    found = [w.strip(".:") for w in text.split()]
    found = [w for w in found if w and w not in ("a", "an", "the")]
    return _SAME_PHRASES.get(" ".join(found), " ".join(found))


def _wordy(text: str) -> bool:
    if re.fullmatch(r"[\d., ]+", text) and re.search(r"\d \d", text):
        return True  # numbers side by side are no product
    if text.strip().lower() in ENGLISH:
        return True
    text = re.sub(r"\\(?:begin|end) ?\{[^{}]*\}", "", text)
    stripped = re.sub(r"\\(?!text|mathrm|operatorname)[A-Za-z]+", "", text)
    return "\\text" in text or re.search(r"[^\W\d_]{3,}|\d[ap]\.?m|[\u3040-\u9fff\uac00-\ud7af]", stripped) is not None
