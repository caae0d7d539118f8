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

from qwq.verify.math import regions
from qwq.verify.math.labels import is_label, normal
from qwq.verify.math.separators import balanced, split
from qwq.verify.math.single import compound, plain_words, single, tree_or_none
from qwq.verify.math.systems import rewritten
from qwq.verify.math.trees import Tree, symbols
from qwq.verify.math.typed import (
    ALL,
    MAX_ITEMS,
    MAX_NESTING,
    Bag,
    Congruence,
    Expr,
    Interval,
    Logic,
    NumberSet,
    Piecewise,
    Region,
    Relation,
    Seq,
    SolutionFamily,
    Text,
    Unknown,
    Value,
)
from qwq.verify.math.whole import as_whole

_QUALIFIER = re.compile(
    r" ?(?:[,;(]|\\text ?\{[^{}]{0,12}\}|\bwhere\b|\bfor\b|\bwith\b) ?(?:\\text ?\{[^{}]{0,12}\} ?)?"
    r"(?P<what>[a-z])(?:(?: ?, ?[a-z]){0,5}) ?"
    r"(?:\\in ?\\mathbb ?\{? ?(?P<domain>[ZNQRC]) ?\}? ?(?P<mark>[_^]?[*+{}-]{0,4})"
    r"|(?:\\text ?\{ ?)?is an (?P<word>integer|natural number) ?\}?) ?\)?\Z"
)
_GROUPED_HEAD = re.compile(r"\A((?:\\\$ ?)?[+-]? ?[1-9]\d{0,2}(?:,\d{3})+)(?= ?(?:\\|[^\W\d]))")
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
    if (value := as_whole(text)) is not None:
        return value
    if "\\begin" in text and (system := _system(text, nesting)) is not None:
        return system
    if qualified := _qualified(text, nesting):
        return qualified
    return _congruence(text, nesting) if "\\pmod" in text else _by_separators(text, nesting)


def _by_separators(text: str, nesting: int) -> Value:
    """The value of a text by what separates its parts: list marks, relations, set operations,
    brackets.
    """
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
        pieces = [piece for _, piece in split(text, kinds)]
        if len(pieces) > 1:
            values = [read(piece, nesting + 1) for piece in pieces]
            return combine(_as_sets(values) if all(p.startswith("\\{") for p in pieces) else values, text)
    bracketed = _bracketed(text, nesting)
    return bracketed if bracketed is not None else single(text, nesting)


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
    return SolutionFamily(value, match["what"], domain)


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
        return _congruences(text, nesting)
    modulus = read(match["modulus"], nesting + 1)
    pieces = split(text[: match.start()].strip(" ,"), "r")
    sides = [side for _, side in pieces]
    if len(sides) > 2 or not all(op in ("", "\\equiv", "=", "\\cong") for op, _ in pieces):
        return Unknown(text)
    left = tree_or_none(sides[0]) if len(sides) == 2 else None
    residues = tuple(read(p, nesting + 1) for _, p in split(sides[-1], ",c") if p)
    if not residues or not all(isinstance(value, Expr) for value in (modulus, *residues)):
        return Unknown(text)
    return Unknown(text) if len(sides) == 2 and left is None else Congruence(left, residues, modulus)


def _congruences(text: str, nesting: int) -> Value:
    """Several congruences, each with its modulus."""
    parts = [p for _, p in split(text, ",c") if p]
    if len(parts) < 2 or not all("\\pmod" in p for p in parts):
        return Unknown(text)
    return Bag(tuple(read(p, nesting + 1) for p in parts), ("",) * len(parts))


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
    else as they are.
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
    if separators <= {"lor", "land"} and (trees := _variables(values)) is not None:
        return Logic(separators.pop(), trees) if len(separators) == 1 else Unknown(text)
    bounded = [v for v in values if isinstance(v, Region)]
    if bounded and len(bounded) == len(values):
        return _combined(bounded, separators, text)
    if bounded and any(isinstance(v, NumberSet | Text | Unknown) for v in values):
        return Unknown(text)
    if all(isinstance(v, Text | Unknown) for v in values):
        return Bag(tuple(values), ("",) * len(values)) if len(text) < 80 else Text(plain_words(text))
    return _listed(values)


def _variables(values: list[Value]) -> frozenset[Tree] | None:
    """The trees of values that are all expressions with variables; None where one is not."""
    trees = [v.tree for v in values if isinstance(v, Expr) and symbols(v.tree)]
    return frozenset(trees) if len(trees) == len(values) else None


def _listed(values: list[Value]) -> Bag:
    """One list of several values, with the items of lists among them, and the names that they were
    given.
    """
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
    if opening == "{" and len(parts) < 2:
        return read(inner, nesting + 1)
    if opening in ("\\{", "{"):
        return _set([read(p, nesting + 1) for p in parts])
    if "" in parts or not 2 <= len(parts) <= MAX_ITEMS:
        return None
    opening, closing = {"]": "("}.get(opening, opening), {"[": ")"}.get(closing, closing)
    return Seq(opening, closing, tuple(read(p, nesting + 1) for p in parts))


def _set(values: list[Value]) -> Value:
    """The elements in braces; those of a list among them count one by one, and one element alone is
    itself.
    """
    flat = tuple(i for v in values for i in (v.items if isinstance(v, Bag) and not v.braces else (v,)))
    if len(flat) == 1 and isinstance(flat[0], Expr | Relation | Text):
        return flat[0]
    return Bag(flat, ("",) * len(flat), braces=True)


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


def _as_sets(values: list[Value]) -> list[Value]:
    r"""Sets of one element, which alone are read as the element, as sets again: `\{1,2\} \cup
    \{3\}`.
    """
    return [Bag((v,), ("",), braces=True) if isinstance(v, Expr | Relation | Text) else v for v in values]


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
    if pieces[1][0] == "\\approx" and not pieces[0][1]:
        return read(pieces[1][1], nesting + 1) if len(pieces) == 2 and pieces[1][1] else Unknown(text)
    pieces = _without_roundings(pieces)
    sides = [side for _, side in pieces]
    ops = [_RELATIONS.get(op, op) for op, _ in pieces[1:]]
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
    return _inequality(sides, ops, text)


def _without_roundings(pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
    r"""Without the roundings behind a value: `\sqrt2 \approx 1.414`."""
    last = len(pieces)
    while pieces[last - 1][0] == "\\approx" and (last > 2 or _has_value(pieces[0][1])):
        last -= 1
    return pieces[:last]


def _inequality(sides: list[str], ops: list[str], text: str) -> Value:
    trees = [tree_or_none(s) if s else None for s in sides]
    readable = all(tree is not None or not side for tree, side in zip(trees, sides, strict=True))
    if readable and (region := regions.inequality(trees, ops)) is not None:
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
