r"""Read an answer as a typed value: expression, text, sequence, collection, region, equation,
system, congruence, ratio.

`read` never fails: what it cannot read is `Text` where it is words, else `Unknown`. Nothing is
dropped on the way: a restriction, a modulus or a condition that has no place in a value makes the
whole `Unknown`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from qwq.verify.math import numbers, regions, words
from qwq.verify.math.labels import is_label, normal
from qwq.verify.math.single import TEXT_COMMAND, compound, plain_words, single, tree_or_none
from qwq.verify.math.split import balanced, split
from qwq.verify.math.systems import rewritten
from qwq.verify.math.trees import Tree, symbols
from qwq.verify.math.values import (
    ALL,
    MAX_ITEMS,
    MAX_NESTING,
    Bag,
    Congruence,
    Day,
    Dots,
    Expr,
    Family,
    Interval,
    Logic,
    NumberSet,
    Piecewise,
    Region,
    Relation,
    Seq,
    Text,
    Time,
    Unknown,
    Value,
)

_EMPTY = re.compile(
    r"\\emptyset|\\\{ ?\\\}|(?:\\text ?\{)? ?no (?:real )?solutions?(?: exists?)? ?\}?"
    r"|(?:\\text ?\{)?(?:the )?empty set\}?|(?:\\text ?\{)? ?(?:无解|空集) ?\}?",
    re.IGNORECASE,
)
_ALL = re.compile(
    r"\\mathbb ?\{? ?R ?\}?|\\Re|(?:\\text ?\{)? ?all real(?: number)?s? ?\}?"
    r"|(?:\\text ?\{)? ?(?:实数集|全体实数|一切实数) ?\}?",
    re.IGNORECASE,
)
_REALS = re.compile(
    r"\\mathbb ?\{? ?R ?\}? ?(?:\^ ?\{? ?(?P<up>[+*-]) ?\}?|_ ?\{? ?(?P<op>>|<|\\ge|\\le|\\ne|>=|<=|\+|-|\*|\\geq"
    r"|\\leq) ?(?P<zero>0)? ?\}?)"
)
_SET = re.compile(
    r"\\mathbb ?\{? ?(?P<name>[ZNQCP]) ?\}? ?(?:[\^_] ?\{? ?(?P<mark>[+*-]|>0|>=0|\\ge ?0|\\geq ?0|<0|\\ne ?0) ?\}?)?"
)
_DOTS = re.compile(r"(?:\\ldots|\\cdots|\.\.\.+)\Z")
_WITHOUT = re.compile(
    r"\\mathbb ?\{? ?R ?\}? ?(?:\\setminus|-|\\) ?\\\{(?P<points>[^{}]{1,80}(?:\{[^{}]{0,80}\}[^{}]{0,80}){0,20})\\\}"
)
_QUALIFIER = re.compile(
    r" ?(?:[,;(]|\\text ?\{[^{}]{0,12}\}|\bwhere\b|\bfor\b|\bwith\b) ?(?:\\text ?\{[^{}]{0,12}\} ?)?"
    r"(?P<what>[a-z])(?:(?: ?, ?[a-z]){0,5}) ?"
    r"(?:\\in ?\\mathbb ?\{? ?(?P<domain>[ZNQRC]) ?\}? ?(?P<mark>[_^]?[*+{}-]{0,4})"
    r"|(?:\\text ?\{ ?)?is an (?P<word>integer|natural number) ?\}?) ?\)?\Z"
)
_FOR_ALL = re.compile(r",? ?\\text ?\{ ?,? ?for (?:all|any|every|each)\b(?P<what>.{0,60})\Z")
_GROUPED = re.compile(r"(?:\\?[$€£¥₹] ?)?[+-]? ?(?:\\?[$€£¥₹] ?)?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)? ?(?:\\?[$€£¥₹%])?")
_GROUPED_HEAD = re.compile(r"\A((?:\\\$ ?)?[+-]? ?[1-9]\d{0,2}(?:,\d{3})+)(?= ?(?:\\|[^\W\d]))")
_GROUPED_FRACTION = re.compile(r"[+-]?(?:\d{1,20}|[1-9]\d{0,2}(?:,\d{3})+) ?/ ?[1-9]\d{0,2}(?:,\d{3})+")
_PREFIXED = re.compile(r"0(?:x([0-9A-Fa-f]{1,40})|b([01]{1,160})|o([0-7]{1,60}))")
_HEX = re.compile(r"(?:\\(?:text|mathrm) ?\{ ?)?([0-9A-Fa-f]{1,40}) ?\}? ?_ ?\{? ?(?:\\text ?\{ ?)?(\d{1,2}) ?\}{0,2}")
_MINUTES = re.compile(
    r"([+-]?\d{1,6}) ?\^ ?\{? ?\\circ ?\}? ?(\d{1,2}(?:\.\d{1,9})?) ?(?:\^ ?\{? ?)?(?:'"
    r"|\\prime) ?\}? ?(?:(\d{1,2}(?:\.\d{1,9})?) ?(?:\^ ?\{? ?)?(?:''|\"|\\prime ?\\prime|'\\prime) ?\}?)?"
)
_BOUND = re.compile(
    r"(?:\\text ?\{ ?)?(?P<words>at least|at most|(?:strictly )?(?:less|fewer|smaller|more|greater|larger|higher"
    r"|lower|bigger) than(?: or equal to)?|no (?:more|less|fewer) than|not (?:more|less) than"
    r"|no (?:greater|smaller) than|up to)"
    r" ?(?P<open>\})? ?(?P<rest>\S.*)",
    re.IGNORECASE,
)
_ENDS_IN_MODULUS = re.compile(r"\\pmod ?\{(?P<modulus>[^{}]{1,60})\} ?\Z")
_RELATIONS = {
    "\\lt": "<",
    "\\gt": ">",
    "<=": "\\le",
    ">=": "\\ge",
    "=<": "\\le",
    "!=": "\\ne",
    "==": "=",
    "\\approx": "=",
    "\\cong": "\\cong",
}


def read(text: str, nesting: int = 0) -> Value:
    """The value that `text` (cleaned) is."""
    text = text.strip()
    if nesting > MAX_NESTING:
        return Unknown(text)
    if (whole := _as_one(text)) is not None:
        return whole
    if "\\begin" in text and (system := _system(text, nesting)) is not None:
        return system
    if qualified := _qualified(text, nesting):
        return qualified
    if "\\pmod" in text:
        return _congruence(text, nesting)
    text = _GROUPED_HEAD.sub(lambda m: m.group().replace(",", ""), text)
    if (groups := _solution_groups(text, nesting)) is not None:
        return groups
    for kinds in (";", ",c"):
        parts = [(sep, part) for sep, part in split(text, kinds) if part]
        if len(parts) > 1:
            return compound([p for _, p in parts]) or _several(parts, text, nesting)
    if match := _BOUND.fullmatch(text):
        return _bound(match, text, nesting)
    relations = split(text, "r")
    if len(relations) > 1:
        return _relation(relations, text, nesting)
    for kinds, combine in (("m", _minus), ("u", _union), ("n", _intersection)):
        pieces = split(text, kinds)
        if len(pieces) > 1:
            return combine([read(p, nesting + 1) for _, p in pieces], text)
    bracketed = _bracketed(text, nesting)
    return bracketed if bracketed is not None else single(text, nesting)


def _as_one(text: str) -> Value | None:
    """What is a value only as a whole: the empty set, the reals, number sets, grouped digits,
    times, dates, radix prefixes.
    """
    if _EMPTY.fullmatch(text):
        return Region(())
    if _ALL.fullmatch(text):
        return ALL
    if _DOTS.fullmatch(text):
        return Dots()
    if match := _REALS.fullmatch(text):
        return _reals(match["up"] or match["op"], text)
    if match := _SET.fullmatch(text):
        return NumberSet(
            match["name"]
            + "".join((match["mark"] or "").split()).replace("\\geq", "\\ge").replace(">=0", "\\ge0").replace(">0", "+")
        )
    if (without := _WITHOUT.fullmatch(text)) and (points := _trees(without["points"])) is not None:
        return regions.all_but(points) or Unknown(text)
    if _GROUPED.fullmatch(text):
        return single(text, 0)
    if _GROUPED_FRACTION.fullmatch(text):
        return single(text.replace(",", ""))
    if match := _PREFIXED.fullmatch(text):
        return _whole(int(match[1] or match[2] or match[3], 16 if match[1] else 2 if match[2] else 8))
    if (
        (match := _HEX.fullmatch(text))
        and not match[1].isdecimal()
        and 2 <= int(match[2]) <= 36
        and all(int(d, 36) < int(match[2]) for d in match[1])
    ):
        return _whole(int(match[1], int(match[2])))
    if match := _MINUTES.fullmatch(text):
        sign = -1 if match[1].startswith("-") else 1
        return Expr(
            ("deg", ("num", Fraction(match[1]) + sign * (Fraction(match[2]) / 60 + Fraction(match[3] or 0) / 3600)))
        )
    if (date := words.date(TEXT_COMMAND.sub(r"\1", text).strip())) is not None:
        return Day(date)
    if (clock := words.clock(text)) is not None:
        return Time(clock)
    return None


def _reals(mark: str, text: str) -> Value:
    zero: Tree = ("num", Fraction(0))
    if mark in ("+", ">"):
        return Region((Interval(zero, False, ALL.intervals[0].high, False),))
    if mark in ("\\ge", ">=", "\\geq"):
        return Region((Interval(zero, True, ALL.intervals[0].high, False),))
    if mark in ("-", "<"):
        return Region((Interval(ALL.intervals[0].low, False, zero, False),))
    if mark in ("\\le", "<=", "\\leq"):
        return Region((Interval(ALL.intervals[0].low, False, zero, True),))
    return regions.all_but([zero]) or Unknown(text)


def _whole(value: int) -> Expr:
    return Expr(("num", Fraction(value)), numbers.Number(Fraction(value), decimals=0))


def _trees(text: str) -> list[Tree] | None:
    trees = [tree_or_none(p) for _, p in split(text, ",")]
    return None if None in trees else trees  # type: ignore[return-value]


# -- systems, qualifiers, congruences --------------------------------------------------------------


def _system(text: str, nesting: int) -> Value | None:
    found = rewritten(text)
    if found is None:
        return None
    label, rows, piecewise = found
    if not piecewise:
        return read(label + ", ".join(rows), nesting + 1)
    pairs = []
    for row in rows:
        case, _, condition = row.partition("&")
        pairs.append((read(case.strip(" ,"), nesting + 1), read(condition.strip(" ,"), nesting + 1)))
    value = Piecewise(tuple(pairs))
    name = label.rstrip(" =")
    return Relation("=", tree_or_none(name), value, normal(name), is_label(name)) if label else value


def _qualified(text: str, nesting: int) -> Value | None:
    r"""A value with `, k \in \mathbb{Z}` behind it: a family, or whole numbers only where it
    restricts what the value bounds.
    """
    match = _QUALIFIER.search(text)
    if match is None or not text[: match.start()].strip():
        return None
    domain = {"integer": "Z", "natural number": "N"}.get(
        match["word"] or "", (match["domain"] or "") + re.sub(r"[_^{}]", "", match["mark"] or "")
    )
    value = read(text[: match.start()], nesting + 1)
    if isinstance(value, Region):
        return _restricted(value, domain, text) if value.quantity in (None, ("sym", match["what"])) else Unknown(text)
    return Family(value, match["what"], domain)


def _restricted(region: Region, domain: str, text: str) -> Value:
    if domain == "R":
        return region
    if domain == "Z":
        return replace(region, integers=True)
    positive = {"Z+": 1, "N+": 1, "N*": 1, "R+": 0}.get(domain)
    if positive is None:
        return Unknown(text)  # N: with zero for some, without it for others
    floor = Region((Interval(("num", Fraction(positive)), domain != "R+", ALL.intervals[0].high, False),))
    found = regions.intersection([region, floor])
    return Unknown(text) if found is None else replace(found, integers=domain != "R+")


def _congruence(text: str, nesting: int) -> Value:
    match = _ENDS_IN_MODULUS.search(text)
    if match is None or text.count("\\pmod") != 1:
        parts = [p for _, p in split(text, ",c") if p]
        if len(parts) > 1 and all("\\pmod" in p for p in parts):
            return Bag(tuple(read(p, nesting + 1) for p in parts), ("",) * len(parts))
        return Unknown(text)
    head, modulus = text[: match.start()].strip(" ,"), read(match["modulus"], nesting + 1)
    sides = [s for _, s in split(head, "r")]
    if (
        len(sides) > 2
        or not isinstance(modulus, Expr)
        or any(op not in ("", "\\equiv", "=", "\\cong") for op, _ in split(head, "r"))
    ):
        return Unknown(text)
    left = tree_or_none(sides[0]) if len(sides) == 2 else None
    residues = tuple(read(p, nesting + 1) for _, p in split(sides[-1], ",c") if p)
    if (len(sides) == 2 and left is None) or not residues or not all(isinstance(r, Expr) for r in residues):
        return Unknown(text)
    return Congruence(left, residues, modulus)


def _solution_groups(text: str, nesting: int) -> Value | None:
    """`x=1, y=2 or x=3, y=4`: several solutions of several unknowns, each a tuple in the order of
    the unknowns' names.
    """
    for kinds in (";", "c"):
        groups = [(sep, part) for sep, part in split(text, kinds) if part]
        if len(groups) < 2 or (kinds == "c" and any(sep not in ("", "or", "lor") for sep, _ in groups)):
            continue
        values = [read(part, nesting + 1) for _, part in groups]
        if all(isinstance(v, Bag) and v.named and not v.braces for v in values):
            tuples = tuple(as_tuple(v) for v in values if isinstance(v, Bag))
            return Bag(tuples, ("",) * len(tuples))
    return None


def as_tuple(bag: Bag) -> Seq:
    """Named values as a tuple: by the names' order in the alphabet where they are single letters,
    else as they stand.
    """
    pairs = list(zip(bag.labels, bag.items, strict=True))
    if all(len(label) == 1 for label in bag.labels):
        pairs.sort(key=lambda pair: pair[0])
    return Seq("(", ")", tuple(item for _, item in pairs))


# -- collections -----------------------------------------------------------------------------------


def _several(parts: list[tuple[str, str]], text: str, nesting: int) -> Value:
    if len(parts) > MAX_ITEMS:
        return Unknown(text)
    separators = {sep for sep, _ in parts[1:]}
    values = [read(part, nesting + 1) for _, part in parts]
    if separators <= {"lor", "land"} and all(isinstance(v, Expr) and symbols(v.tree) for v in values):
        return (
            Logic(separators.pop(), frozenset(v.tree for v in values if isinstance(v, Expr)))
            if len(separators) == 1
            else Unknown(text)
        )
    bounded = [v for v in values if isinstance(v, Region)]
    if bounded and len(bounded) == len(values):
        return _combined(bounded, separators, text)
    if bounded and any(isinstance(v, NumberSet | Text | Unknown) for v in values):
        return Unknown(text)
    if all(isinstance(v, Text | Unknown) for v in values):
        return Bag(tuple(values), ("",) * len(values)) if len(text) < 80 else Text(plain_words(text))
    items: list[Value] = []
    labels: list[str] = []
    for value in values:
        label = ""
        if isinstance(value, Relation) and value.label and value.op == "=":
            label, value = value.left_text, value.right
        inner = value.items if isinstance(value, Bag) and not value.braces and not value.ordered else (value,)
        items.extend(inner)
        labels.extend([label] * len(inner))
    return Bag(tuple(items), tuple(labels))


def _combined(found: list[Region], separators: set[str], text: str) -> Value:
    """Several conditions: `or` unites them, `and` cuts them, a comma cuts them unless nothing would
    be left.
    """
    united = regions.union(found)
    if separators & {"or", "lor"}:
        return united or Unknown(text)
    common = regions.intersection(found)
    if common is None or separators & {"and", "land"} or common.intervals:
        return common or Unknown(text)
    return united or Unknown(text)


def _bracketed(text: str, nesting: int) -> Value | None:
    """Tuple, interval or set, where the whole text is one bracketed group with several parts; else
    None.
    """
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if opening not in ("(", "[", "\\{", "{", "]") or closing not in (")", "]", "\\}", "}", "["):
        return None
    inner = text[len(opening) : len(text) - len(closing)]
    if len(text) < len(opening) + len(closing) or not balanced(inner):
        return None
    if opening == "\\{" and (builder := re.split(r"\||:(?!=)", inner, maxsplit=1))[1:]:
        return _builder(builder[0], builder[1], text, nesting)
    parts = [p for _, p in split(inner, ";" if len(split(inner, ";")) > 1 else ",")]
    if opening in ("\\{", "{"):
        if opening == "{" and len(parts) < 2:
            return read(inner, nesting + 1)
        items = tuple(read(p, nesting + 1) for p in parts)
        flat = tuple(i for v in items for i in (v.items if isinstance(v, Bag) and not v.braces else (v,)))
        return (
            flat[0]
            if len(flat) == 1 and isinstance(flat[0], Expr | Relation | Text)
            else Bag(flat, ("",) * len(flat), braces=True)
        )
    if "" in parts or len(parts) > MAX_ITEMS or len(parts) < 2:
        return None
    opening, closing = {"]": "("}.get(opening, opening), {"[": ")"}.get(closing, closing)
    return Seq(opening, closing, tuple(read(p, nesting + 1) for p in parts))


def _builder(member: str, condition: str, text: str, nesting: int) -> Value:
    r"""`\{x \in \mathbb{Z} : x > 0\}`: its condition as a region of the same letter, in the domain;
    else Unknown.
    """
    name, domain = member.strip(), ""
    sides = split(member, "r")
    if len(sides) == 2 and sides[1][0] == "\\in":
        name, domain_value = sides[0][1], read(sides[1][1], nesting + 1)
        if domain_value == ALL:
            domain = "R"
        elif isinstance(domain_value, NumberSet):
            domain = domain_value.name
        elif (inside := regions.as_region(domain_value)) is not None:
            value = read(condition, nesting + 1)
            both = (
                regions.intersection([value, inside])
                if isinstance(value, Region) and value.quantity == ("sym", name)
                else None
            )
            return both or Unknown(text)
        else:
            return Unknown(text)
    value = read(condition, nesting + 1)
    if (
        not re.fullmatch(r"[A-Za-z]", name)
        or not isinstance(value, Region)
        or value.quantity not in (("sym", name), None)
    ):
        return Unknown(text)
    return _restricted(value, domain, text) if domain else value


def _of_names(op: str, values: list[Value]) -> Logic | None:
    r"""`A \cup B` of sets that have names alone: the same in any order."""
    if all(isinstance(v, Expr) and v.tree[0] == "sym" for v in values):
        return Logic(op, frozenset(v.tree for v in values if isinstance(v, Expr)))
    return None


def _union(values: list[Value], text: str) -> Value:
    if all((isinstance(v, Bag) and v.braces) or (isinstance(v, Region) and not v.intervals) for v in values):
        items = tuple(i for v in values if isinstance(v, Bag) for i in v.items)
        return Bag(items, ("",) * len(items), braces=True)
    found = [regions.as_region(v) for v in values]
    if any(r is None for r in found):
        return _of_names("cup", values) or Unknown(text)
    return regions.union([r for r in found if r is not None]) or Unknown(text)


def _intersection(values: list[Value], text: str) -> Value:
    found = [regions.as_region(v) for v in values]
    if any(r is None for r in found):
        return _of_names("cap", values) or Unknown(text)
    return regions.intersection([r for r in found if r is not None]) or Unknown(text)


def _minus(values: list[Value], text: str) -> Value:
    """A region without points, or without another region."""
    whole = regions.as_region(values[0])
    for value in values[1:]:
        if whole is None:
            break
        if isinstance(value, Bag) and value.braces and all(isinstance(i, Expr) for i in value.items):
            whole = regions.without(whole, [i.tree for i in value.items if isinstance(i, Expr)])
        elif isinstance(value, Expr):
            whole = regions.without(whole, [value.tree])
        else:
            other = regions.as_region(value)
            whole = None if other is None else regions.difference(whole, other)
    return whole or Unknown(text)


# -- relations -------------------------------------------------------------------------------------


def _bound(match: re.Match[str], text: str, nesting: int) -> Value:
    r"""`\text{at least } 12` as a region."""
    said = match["words"].lower().removeprefix("strictly ")
    down = said.startswith(
        ("at most", "less", "fewer", "smaller", "lower", "no more", "no greater", "not more", "up to")
    )
    strict = "than" in said and not said.startswith(("no", "not")) and not said.endswith("equal to")
    op = ("<" if strict else "\\le") if down else (">" if strict else "\\ge")
    rest = match["rest"]
    if rest.count("{") != rest.count("}"):
        rest = rest.rstrip("} ")
    value = read(f"{op} {rest}", nesting + 1)
    return value if isinstance(value, Region) else Unknown(text)


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
    if not sides[-1] or (not sides[0] and len(ops) > 1):
        return Unknown(text)
    if ops == ["\\in"]:
        return _membership(sides, text, nesting)
    if all(op == "=" for op in ops):
        return _equation(sides, nesting)
    if (ops[0] == "=" and len(ops) == 2 and is_label(sides[0])) or not all(op in regions.FLIP for op in ops):
        return Unknown(text)
    trees = [tree_or_none(s) if s else None for s in sides]
    if (
        all(t is not None or not s for t, s in zip(trees, sides, strict=True))
        and (region := regions.inequality(trees, ops)) is not None
    ):
        return region
    if len(ops) > 1 or trees[0] is None or trees[-1] is None:
        return Unknown(text)
    return Relation(ops[0], trees[0], Expr(trees[-1]), normal(sides[0]))


def _equation(sides: list[str], nesting: int) -> Value:
    right = read(sides[-1], nesting + 1)
    if not sides[0]:
        return right if len(sides) == 2 else Unknown("=".join(sides))
    middle = tuple(read(s, nesting + 1) for s in sides[1:-1])
    return Relation("=", tree_or_none(sides[0]), right, normal(sides[0]), is_label(sides[0]), middle)


def _membership(sides: list[str], text: str, nesting: int) -> Value:
    r"""`x \in (0,1)`: the set, as the region of what lies in it where it is one."""
    value = read(sides[1], nesting + 1)
    quantity = tree_or_none(sides[0])
    region = regions.as_region(value)
    if region is not None and quantity is not None and region.quantity is None:
        return replace(region, quantity=quantity)
    if isinstance(value, NumberSet):
        return Unknown(text)
    if quantity is None and not is_label(sides[0]):
        return Unknown(text)
    return value if isinstance(value, Bag | Seq | Region) else Unknown(text)


def _has_value(side: str) -> bool:
    tree = tree_or_none(side)
    return tree is not None and not (symbols(tree) and is_label(side))
