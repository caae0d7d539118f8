r"""Read an answer as a typed value: expression, text, sequence, collection, region, equation, ratio.

`read` never fails: what it cannot read is `Text` where it is words, else `Unknown`, which is left to sympy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qwq.verify.math import evaluate, numbers, units
from qwq.verify.math.evaluate import TooBig
from qwq.verify.math.expr import FUNCTIONS, Tree, Unreadable, parse, symbols, walk
from qwq.verify.math.numbers import Number

MAX_ITEMS = 200
MAX_NESTING = 8


@dataclass(frozen=True, slots=True)
class Expr:
    tree: Tree
    number: Number | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    words: str


@dataclass(frozen=True, slots=True)
class Unknown:
    text: str


@dataclass(frozen=True, slots=True)
class Dots:
    pass


@dataclass(frozen=True, slots=True)
class Seq:
    """Ordered, in brackets: tuple, vector, or an interval of two."""

    left: str
    right: str
    items: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Bag:
    """Several values: a list, or a set in braces. `labels` are the names they were given ("" for none)."""

    items: tuple[Value, ...]
    labels: tuple[str, ...]
    braces: bool = False

    @property
    def ordered(self) -> bool:
        """Named by different letters (p=5, q=2; not x_1, x_2), or going on with dots."""
        bases = {re.split(r"[_\d]", label)[0] for label in self.labels}
        return (len(bases) == len(self.labels) > 1 and "" not in bases) or Dots() in self.items


@dataclass(frozen=True, slots=True)
class Interval:
    low: Tree
    low_closed: bool
    high: Tree
    high_closed: bool


@dataclass(frozen=True, slots=True)
class Region:
    """A union of intervals; none is the empty set."""

    intervals: tuple[Interval, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """`left op right` that is no region; chains of `=` keep their first and last side. `label`: a mere name of `right`."""

    op: str
    left: Tree | None
    right: Value
    left_text: str
    label: bool = False


@dataclass(frozen=True, slots=True)
class Ratio:
    parts: tuple[Value, ...]
    clock: bool


Value = Expr | Text | Unknown | Dots | Seq | Bag | Region | Relation | Ratio

INF: Tree = ("const", "oo")
NEG_INF: Tree = ("neg", INF)
ALL = Region((Interval(NEG_INF, False, INF, False),))

_EMPTY = re.compile(
    r"\\emptyset|\\\{ ?\\\}|(?:\\text ?\{)? ?no (?:real )?solutions? ?\}?|(?:\\text ?\{)?empty set\}?",
    re.IGNORECASE,
)
_ALL = re.compile(
    r"\\mathbb ?\{? ?R ?\}?|\\Re|(?:\\text ?\{)? ?all real(?: number)?s? ?\}?",
    re.IGNORECASE,
)
_DOTS = re.compile(r"(?:\\ldots|\\cdots|\.\.\.+)\Z")
_SCAN = re.compile(
    r"\\text ?\{ ?,? ?(?P<conj>and|or) ?,? ?\}|(?<![A-Za-z\\])(?P<word>and|or)(?![A-Za-z])"
    r"|(?P<open>\\begin ?\{[^{}]*\}|\\\{|[(\[{])|(?P<close>\\end ?\{[^{}]*\}|\\\}|[)\]}])"
    r"|(?P<rel>\\(?:le|ge|ne|lt|gt|in|approx|equiv|sim|to|Rightarrow|implies)(?![A-Za-z])|!=|<=|>=|=<|=>|==?|<|>)"
    r"|(?P<cup>\\cup(?![A-Za-z]))|(?P<cmd>\\[A-Za-z]+|\\.)|(?P<sep>[,;:])",
    re.DOTALL,
)
_RELATIONS = {
    "\\lt": "<",
    "\\gt": ">",
    "<=": "\\le",
    ">=": "\\ge",
    "=<": "\\le",
    "!=": "\\ne",
    "==": "=",
    "\\approx": "=",
}
_FLIP = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_LABEL = re.compile(
    r"\\?[A-Za-z]{1,12}'{0,4}(?: ?_ ?(?:\{[^{}]*\}|\w))?'{0,4}(?: ?\( ?[A-Za-z0-9](?: ?, ?[A-Za-z0-9])* ?\))?"
    r"|\\(?:text|mathrm|angle|triangle|overline|vec|operatorname|overrightarrow) ?(?:\{[^{}]*\}|\s[A-Za-z\s]+)(?:_\S+)?"
    r"|\\frac ?\{ ?d(?:\^\{?\d\}?)? ?[A-Za-z]? ?\} ?\{ ?d ?[A-Za-z](?:\^\{?\d\}?)? ?\}"
    r"|[A-Za-z] ?\^ ?\{ ?(?:-1|\(\w\)) ?\} ?\( ?[A-Za-z] ?\)"
    r"|\( ?[A-Za-z]\w*(?: ?, ?[A-Za-z]\w*)* ?\)"
    r"|[A-Za-z](?:_\{?\w\}?)?(?: ?: ?[A-Za-z](?:_\{?\w\}?)?)+"
)
_WITHOUT = re.compile(r"\\mathbb ?\{? ?R ?\}? ?(?:\\setminus|\\backslash|-|\\) ?\\\{(?P<points>[^{}]{1,80}(?:\{[^{}]*\}[^{}]*)*)\\\}")
_PERCENT = re.compile(
    r"(?<=[\d})]) ?(?:\\text ?\{ ?)?(?:percentage|percent|pct) ?\}? ?\Z",
    re.IGNORECASE,
)
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|operatorname) ?\{([^{}]*)\}")
_SAME_PHRASES = {
    "dne": "does not exist", "undefined": "does not exist", "not exist": "does not exist",
    "no real solution": "no solution", "no solutions": "no solution", "none": "no solution",
    "infinitely many solutions": "infinitely many", "infinite": "infinitely many", "diverges": "divergent",
    "converges": "convergent",
}  # fmt: skip
_GROUPED = re.compile(r"[+-]? ?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_GROUPED_HEAD = re.compile(r"\A([+-]? ?[1-9]\d{0,2}(?:,\d{3})+)(?= ?(?:\\|[A-Za-z]))")


def split(text: str, kinds: str) -> list[tuple[str, str]]:
    """(separator before, piece) at depth 0; `kinds`: "," ";" ":" "c" (and, or) "r" (relations) "u" (cup)."""
    pieces: list[tuple[str, str]] = []
    depth, start, before = 0, 0, ""
    for match in _SCAN.finditer(text):
        group = match.lastgroup
        if group == "open":
            depth += 1
        elif group == "close":
            depth -= 1
        elif depth == 0 and _separates(group, match.group(), kinds):
            pieces.append((before, text[start : match.start()].strip()))
            before, start = match["conj"] or match["word"] or match.group(), match.end()
    pieces.append((before, text[start:].strip()))
    return pieces


def _separates(group: str | None, token: str, kinds: str) -> bool:
    if group == "sep":
        return token in kinds
    return {"conj": "c", "word": "c", "rel": "r", "cup": "u"}.get(group or "", "\0") in kinds


def read(text: str, nesting: int = 0) -> Value:
    """The value that `text` (cleaned) is."""
    text = text.strip()
    if nesting > MAX_NESTING:
        return Unknown(text)
    if _EMPTY.fullmatch(text):
        return Region(())
    if _ALL.fullmatch(text):
        return ALL
    if _DOTS.fullmatch(text):
        return Dots()
    if without := _WITHOUT.fullmatch(text):
        return _all_but([p for _, p in split(without["points"], ",")], text)
    if _GROUPED.fullmatch(text):
        return _single(text, nesting)
    text = _GROUPED_HEAD.sub(lambda m: m.group().replace(",", ""), text)
    for kinds in (";", ",c"):
        parts = [(sep, part) for sep, part in split(text, kinds) if part]
        if len(parts) > 1:
            return _several(parts, text, nesting)
    relations = split(text, "r")
    if len(relations) > 1:
        return _relation(relations, text, nesting)
    pieces = split(text, "u")
    if len(pieces) > 1:
        return _union([read(p, nesting + 1) for _, p in pieces], text)
    bracketed = _bracketed(text, nesting)
    return bracketed if bracketed is not None else _single(text, nesting)


def _several(parts: list[tuple[str, str]], text: str, nesting: int) -> Value:
    if len(parts) > MAX_ITEMS:
        return Unknown(text)
    values = [read(part, nesting + 1) for _, part in parts]
    regions = [as_region(v) if isinstance(v, Region) else None for v in values]
    if all(r is not None for r in regions):
        return _combine([r for r in regions if r is not None], {sep for sep, _ in parts[1:]}, text)
    if all(isinstance(v, Text | Unknown) for v in values):
        return Bag(tuple(values), ("",) * len(values)) if len(text) < 80 else Text(plain_words(text))
    items: list[Value] = []
    labels: list[str] = []
    for value in values:
        label = ""
        if isinstance(value, Relation) and value.label:
            label, value = value.left_text, value.right
        inner = value.items if isinstance(value, Bag) and not value.braces and not value.ordered else (value,)
        items.extend(inner)
        labels.extend([label] * len(inner))
    return Bag(tuple(items), tuple(labels))


def _bracketed(text: str, nesting: int) -> Value | None:
    """Tuple, interval or set, where the whole text is one bracketed group with several parts; else None."""
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if opening not in ("(", "[", "\\{", "{", "]") or closing not in (
        ")",
        "]",
        "\\}",
        "}",
        "[",
    ):
        return None
    inner = text[len(opening) : len(text) - len(closing)]
    if len(text) < len(opening) + len(closing) or not _balanced(inner):
        return None
    if opening == "\\{" and (builder := re.split(r"\||:(?!=)", inner, maxsplit=1))[1:]:
        condition = read(builder[1], nesting + 1)
        return condition if isinstance(condition, Region) else Unknown(text)
    parts = [p for _, p in split(inner, ";" if len(split(inner, ";")) > 1 else ",")]
    if opening in ("\\{", "{"):
        if opening == "{" and len(parts) < 2:
            return read(inner, nesting + 1)
        items = tuple(read(p, nesting + 1) for p in parts)
        flat = tuple(i for v in items for i in (v.items if isinstance(v, Bag) and not v.braces else (v,)))
        return flat[0] if len(flat) == 1 else Bag(flat, ("",) * len(flat), braces=True)
    if len(parts) < 2 or "" in parts or len(parts) > MAX_ITEMS:
        return None
    opening, closing = (
        {"]": "("}.get(opening, opening),
        {"[": ")"}.get(closing, closing),
    )
    return Seq(opening, closing, tuple(read(p, nesting + 1) for p in parts))


def _balanced(inner: str) -> bool:
    depth = 0
    for match in _SCAN.finditer(inner):
        if match.lastgroup == "open":
            depth += 1
        elif match.lastgroup == "close":
            depth -= 1
            if depth < 0:
                return False
    return depth == 0


def _single(text: str, nesting: int) -> Value:
    """One expression, with its unit taken off; a ratio; words."""
    text = _PERCENT.sub("%", text)
    number = numbers.read(text)
    if number is not None:
        return Expr(("num", number.value / 100 if number.percent else number.value), number)
    ratio = [p for _, p in split(text, ":")]
    if len(ratio) > 1 and all(ratio):
        clock = bool(re.search(r":\d\d(?!\d)", text)) and "\\" not in text
        return Ratio(tuple(read(p, nesting + 1) for p in ratio), clock)
    core, unit = units.split(text)
    if core != text and (inner := numbers.read(_PERCENT.sub("%", core))) is not None:
        return Expr(("num", inner.value / 100 if inner.percent else inner.value), inner, unit)
    if core != text and split(core, ":")[1:]:
        return Unknown(text)
    try:
        tree = parse(_inline_text(core))
    except Unreadable:
        return Text(plain_words(text)) if _wordy(text) else Unknown(text)
    if any(n[0] == "pm" for n in walk(tree)):
        both = tuple(Expr(choose_sign(tree, sign)) for sign in (1, -1))
        return Bag(both, ("", ""))
    return Expr(tree, numbers.read(core), unit)


def _inline_text(core: str) -> str:
    r"""`\text{e}` and `\text{13}` as what they say; empty text as nothing."""
    return _TEXT_COMMAND.sub(
        lambda m: m.group(1) if not m.group(1).strip() or m.group(1).strip().isdigit() else m.group(),
        core,
    )


def choose_sign(tree: Tree, sign: int) -> Tree:
    """The tree with every plus-minus read as its upper (1) or lower (-1) sign."""
    if tree[0] == "pm":
        inner = choose_sign(tree[1], sign)
        return inner if tree[2] * sign > 0 else ("neg", inner)
    if tree[0] == "matrix":
        return (
            "matrix",
            tuple(tuple(choose_sign(e, sign) for e in row) for row in tree[1]),
        )
    return tuple(choose_sign(p, sign) if isinstance(p, tuple) else p for p in tree)


def plain_words(text: str) -> str:
    """The words of a text in lower case, without markup, articles and punctuation."""
    text = _TEXT_COMMAND.sub(r" \1 ", text)
    text = re.sub(r"\\([A-Za-z]+)", r" \1 ", text)  # a root stays a root: only markup goes
    text = re.sub(r"[{}$\"'`,;!?()\\]", " ", text).lower()
    words = [w.strip(".:") for w in text.split()]
    words = [w for w in words if w and w not in ("a", "an", "the")]
    return _SAME_PHRASES.get(" ".join(words), " ".join(words))


def _wordy(text: str) -> bool:
    if re.fullmatch(r"[\d., ]+", text) and re.search(r"\d \d", text):
        return True  # numbers side by side are no product
    text = re.sub(r"\\(?:begin|end) ?\{[^{}]*\}", "", text)
    stripped = re.sub(r"\\(?!text|mathrm|operatorname)[A-Za-z]+", "", text)
    return "\\text" in text or re.search(r"[A-Za-z]{3,}|\d[ap]\.?m", stripped) is not None


# -- relations and regions --------------------------------------------------------------------------


def _relation(pieces: list[tuple[str, str]], text: str, nesting: int) -> Value:
    sides = [side for _, side in pieces]
    if pieces[1][0] == "\\approx" and not sides[0]:
        return read(sides[1], nesting + 1) if len(sides) == 2 and sides[1] else Unknown(text)
    ops = [_RELATIONS.get(op, op) for op, _ in pieces[1:]]
    while pieces[-1][0] == "\\approx" and (len(pieces) > 2 or _has_value(sides[0])):  # a value, then its rounding
        pieces.pop()
        ops.pop()
        sides.pop()
    if not ops:
        return read(sides[0], nesting + 1) if sides[0] else Unknown(text)
    if not sides[-1] or (not sides[0] and ops != ["="]):
        return Unknown(text)
    if ops == ["\\in"]:
        return read(sides[1], nesting + 1)
    if all(op == "=" for op in ops):
        right = read(sides[-1], nesting + 1)
        return Relation("=", tree_or_none(sides[0]), right, squeeze(sides[0]), _is_label(sides[0]))
    if len(ops) == 2 and ops[0] == "=" and ops[1] != "=" or not all(op in _FLIP or op == "\\ne" for op in ops):
        return Unknown(text)
    region = _inequality(sides, ops)
    if region is not None:
        return region
    left, right_tree = tree_or_none(sides[0]), tree_or_none(sides[-1])
    if len(ops) > 1 or left is None or right_tree is None:
        return Unknown(text)
    return Relation(ops[0], left, Expr(right_tree), squeeze(sides[0]))


def _has_value(side: str) -> bool:
    tree = tree_or_none(side)
    return tree is not None and not (symbols(tree) and _is_label(side))


def _is_label(side: str) -> bool:
    """A mere name of the right side: `x`, `f(x)`, `(p, q)`, `AB`, `\\text{Area}`; not `\\cos(x)`, not `2x + y`."""
    head = re.match(r"\\?([A-Za-z]+)", side)
    return bool(_LABEL.fullmatch(side)) and not (head and head[1] in FUNCTIONS)


def squeeze(text: str) -> str:
    return "".join(text.replace("{", "").replace("}", "").split())


def tree_or_none(text: str) -> Tree | None:
    try:
        return parse(_inline_text(text))
    except Unreadable:
        return None


def _inequality(sides: list[str], ops: list[str]) -> Region | None:
    """The region that bounds one quantity by constants: `x > 2`, `1 < x \\le 3`, `-x > -1`, `x \\ne 3`."""
    trees = [tree_or_none(s) for s in sides]
    if any(t is None for t in trees):
        return None
    constant = [not symbols(t) for t in trees]  # type: ignore[arg-type]
    if len(ops) == 2 and constant == [True, False, True] and {ops[0], ops[1]} in ({"<"}, {"\\le"}, {"<", "\\le"}):
        return Region((Interval(trees[0], ops[0] == "\\le", trees[2], ops[1] == "\\le"),))  # type: ignore[arg-type]
    if len(ops) == 2 and constant == [True, False, True] and set(ops) <= {">", "\\ge"}:
        return Region((Interval(trees[2], ops[1] == "\\ge", trees[0], ops[0] == "\\ge"),))  # type: ignore[arg-type]
    if len(ops) != 1 or constant[0] == constant[1]:
        return None
    quantity, bound, op = (
        (trees[0], trees[1], ops[0]) if constant[1] else (trees[1], trees[0], _FLIP.get(ops[0], ops[0]))
    )
    assert quantity is not None and bound is not None
    if quantity[0] == "neg" and quantity[1][0] == "sym":
        quantity, bound, op = quantity[1], ("neg", bound), _FLIP.get(op, op)
    if quantity[0] == "mul" and quantity[1][0] == "num" and quantity[2][0] == "sym":
        factor = quantity[1]
        bound, op = ("div", bound, factor), _FLIP.get(op, op) if factor[1] < 0 else op
        quantity = quantity[2]
    if quantity[:2] == ("fn", "abs") and quantity[2][0] == "sym" and bound[0] == "num" and bound[1] > 0:
        low, high, closed = ("neg", bound), bound, op in ("\\le", "\\ge")
        if op in ("<", "\\le"):
            return Region((Interval(low, closed, high, closed),))
        if op in (">", "\\ge"):
            return Region((Interval(NEG_INF, False, low, closed), Interval(high, closed, INF, False)))
    if quantity[0] not in ("sym", "mul", "fn"):
        return None
    if quantity[0] == "fn" or (quantity[0] == "mul" and quantity[1][0] != "sym"):
        return None  # |x| < 2 bounds x by two sides: left to sympy
    if op == "\\ne":
        return Region((Interval(NEG_INF, False, bound, False), Interval(bound, False, INF, False)))
    if op in ("<", "\\le"):
        return Region((Interval(NEG_INF, False, bound, op == "\\le"),))
    return Region((Interval(bound, op == "\\ge", INF, False),))


def as_region(value: Value) -> Region | None:
    """A region, also out of a pair of expressions in brackets."""
    if isinstance(value, Region):
        return value
    if isinstance(value, Seq) and len(value.items) == 2:
        low, high = value.items
        if isinstance(low, Expr) and isinstance(high, Expr):
            return Region((Interval(low.tree, value.left == "[", high.tree, value.right == "]"),))
    return None


def _union(values: list[Value], text: str) -> Value:
    if all(isinstance(v, Bag) and v.braces for v in values):
        items = tuple(i for v in values if isinstance(v, Bag) for i in v.items)
        return Bag(items, ("",) * len(items), braces=True)
    regions = [as_region(v) for v in values]
    if any(r is None for r in regions):
        return Unknown(text)
    return Region(tuple(i for r in regions if r is not None for i in r.intervals))


def _combine(regions: list[Region], separators: set[str], text: str) -> Value:
    """Several conditions: `or` unites them, `and` cuts them, a comma cuts them unless nothing would be left."""
    united = Region(tuple(i for r in regions for i in r.intervals))
    if "or" in separators:
        return united
    common = regions[0]
    for other in regions[1:]:
        if not _ordered((*common.intervals, *other.intervals)):
            return Unknown(text)
        pairs = (cut((a, b)) for a in common.intervals for b in other.intervals)
        common = Region(tuple(i for i in pairs if i is not None))
    return common if common.intervals or "and" in separators else united


def _all_but(points: list[str], text: str) -> Value:
    r"""`\mathbb{R} \setminus \{0, 1\}`: the line without these points."""
    trees = [tree_or_none(p) for p in points]
    holes = [Region((Interval(NEG_INF, False, t, False), Interval(t, False, INF, False))) for t in trees if t is not None]
    return _combine(holes, {"and"}, text) if len(holes) == len(points) else Unknown(text)


def _ordered(intervals: Sequence[Interval]) -> bool:
    """Whether every bound is a real number, so that the intervals can be cut."""
    for tree in {t for i in intervals for t in (i.low, i.high)}:
        try:
            value = None if evaluate.symbols(tree) else evaluate.value(tree)
        except TooBig:
            return False
        if value is None or evaluate.context().im(value) != 0:
            return False
    return True


def cut(intervals: Sequence[Interval]) -> Interval | None:
    """The intersection, or None where it is empty or the bounds have no order."""
    low, high = intervals[0], intervals[0]
    values: dict[Tree, object] = {}
    for interval in intervals:
        for bound in (interval.low, interval.high):
            try:
                values[bound] = evaluate.value(bound) if not evaluate.symbols(bound) else None
            except TooBig:
                return None
    if any(v is None or evaluate.context().im(v) != 0 for v in values.values()):
        return None
    for interval in intervals[1:]:
        if (values[interval.low], not interval.low_closed) > (
            values[low.low],
            not low.low_closed,
        ):
            low = interval
        if (values[interval.high], interval.high_closed) < (
            values[high.high],
            high.high_closed,
        ):
            high = interval
    if values[low.low] > values[high.high]:  # type: ignore[operator]
        return None
    if values[low.low] == values[high.high] and not (low.low_closed and high.high_closed):
        return None
    return Interval(low.low, low.low_closed, high.high, high.high_closed)
