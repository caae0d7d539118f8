"""Typed comparison of two answers, in process and without sympy.

`compare(gold, answer)` decides what its types cover and says so where they do not (`equal` None):
then sympy is asked, unless the pair is `final`, too big for anybody to compute.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from qwq.verify.math import alike, choices, evaluate, numbers, regions, relations, units, words
from qwq.verify.math.evaluate import TooBig
from qwq.verify.math.read import as_tuple, read
from qwq.verify.math.separators import balanced, squeeze
from qwq.verify.math.single import plain_words
from qwq.verify.math.trees import ZERO, Tree, affine, symbols, walk, worked_out
from qwq.verify.math.typed import (
    Bag,
    Congruence,
    Day,
    Dots,
    Expr,
    Logic,
    NumberSet,
    Piecewise,
    Ratio,
    Region,
    Relation,
    Seq,
    SolutionFamily,
    Text,
    Time,
    Unknown,
    Value,
)


@dataclass(frozen=True, slots=True)
class Decision:
    """`equal` None: undecided here; `final`: nobody else need try."""

    equal: bool | None
    reason: str
    final: bool = False


SHORT_LIST = 8  # up to here every pair may be compared

_RADIX = re.compile(r"([+-]?[0-9A-Fa-f]+) ?_ ?\{? ?(?:\\text ?\{)? ?(\d{1,2}) ?\}{0,2}")
_TO = re.compile(r"\A(\d{1,9}) ?(?:\\text ?\{ ?to ?\}|\bto\b) ?(\d{1,9})\Z")
_ZERO_COMMA = re.compile(r"\A([+-]?0),(?=\d{3,}\Z)")
_CONSTANTS = frozenset({"C", "c", "K", "C_1", "const", "constant"})


def compare(gold: str, answer: str, *, convert: bool = False) -> Decision:
    """Decide a cleaned pair of answers.

    `convert`: other units of the same dimension are the same answer when converted.
    """
    if (decision := _as_texts(gold, answer)) is not None:
        return decision
    if (text := choices.text_of(gold)) is not None:
        return compare(text, answer, convert=convert)  # the text of the right choice, without its letter
    left, right = _RADIX.fullmatch(gold), _RADIX.fullmatch(answer)
    if left and right:
        return Decision(alike.same_radix(left, right), "numbers with their bases")
    gold, answer = alike.same_names(gold, answer)
    if ":" in gold:
        answer = _TO.sub(r"\1:\2", answer)
    if alike.same_words(gold, answer):
        return Decision(True, "the same words")
    if right and right[2] != "10" and numbers.read(gold) is not None:
        return Decision(None, "digits with a base against a number without one", final=True)
    return _as_values(gold, answer, convert)


def _as_texts(gold: str, answer: str) -> Decision | None:
    """A decision that needs no reading: the same text, or the letters of choices."""
    if alike.as_text(gold) == alike.as_text(answer):
        return Decision(True, "the same text")
    choice = choices.same(gold, answer)
    return None if choice is None else Decision(choice, "choice letters")


def _as_values(gold: str, answer: str, convert: bool) -> Decision:
    wanted, got = read(_ZERO_COMMA.sub(r"\1.", gold)), read(alike.with_point(answer, gold))
    if convert:
        wanted, got = _in_base_units(wanted), _in_base_units(got)
    try:
        equal = same(wanted, got)
    except TooBig as error:
        return Decision(None, str(error), final=True)
    except RecursionError:
        return Decision(None, "nested too deeply to compare", final=True)
    if equal is None and isinstance(got, Unknown) and not isinstance(wanted, Unknown) and not balanced(answer):
        return Decision(False, "an answer that is cut off or has a bracket too many")
    if equal is None and isinstance(wanted, Text) and plain_words(gold) == plain_words(answer) != "":
        equal = True
    kinds = f"{type(wanted).__name__.lower()} and {type(got).__name__.lower()}"
    if equal is None:
        return Decision(None, f"no rule for {kinds}")
    return Decision(equal, f"{'' if equal else 'not '}equal as {kinds}")


def _in_base_units(value: Value) -> Value:
    """Every quantity in the base units of its dimension."""
    if isinstance(value, Expr) and value.unit is not None and value.unit.dims and value.unit.factor != 1:
        factor = value.unit.factor
        number = None if value.number is None or value.number.percent else numbers.Number(value.number.value * factor)
        return replace(
            value,
            tree=("mul", value.tree, ("num", factor)),
            number=number,
            unit=replace(value.unit, factor=Fraction(1)),
        )
    if isinstance(value, Seq | Bag):
        return replace(value, items=tuple(_in_base_units(i) for i in value.items))
    if isinstance(value, Relation):
        return replace(value, right=_in_base_units(value.right))
    return value


def same(gold: Value, answer: Value) -> bool | None:
    """Whether two values are equal; None where the types here do not cover the pair. TooBig.

    The first rule that covers one of the two types decides.
    """
    if isinstance(gold, Expr) and isinstance(answer, Expr):
        return _same_expr(gold, answer)
    for types, rule in _RULES:
        if isinstance(gold, types) or isinstance(answer, types):
            return rule(gold, answer)
    return _same_collection(gold, answer)


def _same_unknown(gold: Value, answer: Value) -> bool | None:
    if isinstance(gold, Unknown) and isinstance(answer, Unknown) and squeeze(gold.text) == squeeze(answer.text):
        return True
    return None


def _same_named_set(gold: Value, answer: Value) -> bool | None:
    if gold == answer:
        return True
    return None if {type(gold), type(answer)} <= {NumberSet, Logic, Region, Seq, Bag} else False


def _same_family(gold: Value, answer: Value) -> bool | None:
    """A domain that only one side gives does not matter."""
    if isinstance(gold, SolutionFamily) and isinstance(answer, SolutionFamily) and gold.domain != answer.domain:
        return False
    plain = [v.value if isinstance(v, SolutionFamily) else v for v in (gold, answer)]
    return same(*plain)


def _same_piecewise(gold: Value, answer: Value) -> bool | None:
    if not (isinstance(gold, Piecewise) and isinstance(answer, Piecewise)):
        return None
    if len(gold.rows) != len(answer.rows):
        return None
    pairs = [[Seq("(", ")", row) for row in side.rows] for side in (gold, answer)]
    return _any_order(*pairs)


def _same_time(gold: Value, answer: Value) -> bool | None:
    if isinstance(gold, Time) and isinstance(answer, Time):
        return words.same_clock(gold.clock, answer.clock)
    if isinstance(gold, Day) and isinstance(answer, Day):
        return words.same_date(gold.date, answer.date)
    moment, other = (gold, answer) if isinstance(gold, Time) else (answer, gold)
    if isinstance(moment, Time) and isinstance(other, Ratio) and not moment.clock.half:
        numbers_of = [moment.clock.hour, moment.clock.minute, moment.clock.second][: len(other.parts)]
        ratio = Ratio(tuple(Expr(("num", Fraction(n)), numbers.Number(Fraction(n), decimals=0)) for n in numbers_of))
        return (
            relations.same_ratio(ratio, other, _in_order)
            if moment.clock.second == 0 or len(other.parts) == 3
            else False
        )
    if isinstance(moment, Time) and moment.clock.half and isinstance(other, Expr) and other.number is not None:
        return other.number.value == moment.clock.hour and moment.clock.minute == 0
    return None if isinstance(other, Ratio | Expr | Unknown) and isinstance(moment, Time) else False


# -- expressions -----------------------------------------------------------------------------------


def _same_expr(gold: Expr, answer: Expr) -> bool | None:
    for one, other in ((gold, answer), (answer, gold)):
        if _has_imaginary_unit(other.tree) and (parts := _in_engineering_form(one.tree)) is not None:
            if parts[1] == ZERO:
                return None  # 4j: along the second axis, or the imaginary unit of engineers
            number = Expr(("add", ("mul", parts[0], ("const", "i")), parts[1]))
            return _same_expr(number, other) if one is gold else _same_expr(other, number)
    if (answer.other is not None and not symbols(gold.tree)) or (gold.other is not None and answer.unit is not None):
        gold, answer = (
            gold.other if gold.other is not None else gold,
            answer.other if answer.other is not None else answer,
        )
    compatible = units.compatible(gold.unit, answer.unit)
    if compatible is False:
        return False
    equal = _same_value(gold, answer)
    return None if compatible is None and equal else equal


def _has_imaginary_unit(tree: Tree) -> bool:
    return not symbols(tree) and any(node == ("const", "i") for node in walk(tree))


def _in_engineering_form(tree: Tree) -> tuple[Tree, Tree] | None:
    """(imaginary part, real part) of `3+4j`: a number and a multiple of j, and no other letter;
    None for others.
    """
    parts = affine(tree) if symbols(tree) == {"j"} and not any(n == ("const", "i") for n in walk(tree)) else None
    if parts is None:
        return None
    real = ZERO if evaluate.same(parts[2], ZERO) else parts[2]
    return parts[1], real


def _same_value(gold: Expr, answer: Expr) -> bool | None:
    if gold.number is not None and answer.number is not None:
        return numbers.same(gold.number, answer.number)
    radians = any(e.unit is not None and e.unit.dims == (("rad", 1),) for e in (gold, answer))
    equal = evaluate.same(gold.tree, answer.tree, bare_degrees=not radians)
    if equal is False:
        return _rounded(gold, answer) or _percent(gold, answer) or _but_for_constant(gold.tree, answer.tree)
    return equal


def _rounded(gold: Expr, answer: Expr) -> bool:
    """A decimal that is the other side, an exact expression, correctly rounded (as `numbers.same`
    has it).
    """
    if (gold.number is None) == (answer.number is None):
        return False
    decimal, exact, digits = (gold.number, answer.tree, 3) if gold.number is not None else (answer.number, gold.tree, 5)
    assert decimal is not None
    if not decimal.decimals or decimal.significant < digits or symbols(exact):
        return False
    value = evaluate.value(exact) if exact[0] != "matrix" else None
    mp = evaluate.context()
    if value is None or mp.im(value) != 0 or mp.isinf(value):
        return False
    target = mp.mpf(decimal.value.numerator) / decimal.value.denominator
    return bool(abs(mp.re(value) - target) * 2 * mp.mpf(10) ** decimal.decimals <= 1)


def _percent(gold: Expr, answer: Expr) -> bool:
    """25% against an expression that is 25 (the sign left out)."""
    for one, other in ((gold, answer), (answer, gold)):
        if one.number is not None and one.number.percent and other.number is None and abs(one.number.value) >= 1:
            return bool(evaluate.same(("num", one.number.value), other.tree))
    return False


def _but_for_constant(gold: Tree, answer: Tree) -> bool | None:
    """Two integrals, each with a constant of its own: the same but for its name, or, where it is C
    or K behind small letters, but for a number.
    """
    first, second = _without_constant(gold), _without_constant(answer)
    if first is None or second is None:
        return False
    if first[1] != second[1] and evaluate.same(first[0], second[0]):
        return True
    if {first[1], second[1]} & {"c"} or not all(n.islower() for n in symbols(first[0]) | symbols(second[0])):
        return False
    return evaluate.differ_by_constant(first[0], second[0])


def _without_constant(tree: Tree) -> tuple[Tree, str] | None:
    """What precedes `+ C`, and the constant's name."""
    if tree[0] != "add":
        return None
    last = tree[2][1] if tree[2][0] == "neg" else tree[2]
    if last[0] == "sym" and last[1] in _CONSTANTS and last[1] not in symbols(tree[1]) and symbols(tree[1]):
        return tree[1], last[1]
    return None


# -- collections -----------------------------------------------------------------------------------


def _in_braces(one: Value, other: Value) -> Seq | None:
    """The tuple in a set of one, against a tuple."""
    if isinstance(one, Bag) and one.braces and len(one.items) == 1 and isinstance(other, Seq):
        return one.items[0] if isinstance(one.items[0], Seq) else None
    return None


def _same_collection(gold: Value, answer: Value) -> bool | None:
    if (inner := _in_braces(gold, answer)) is not None:
        return same(inner, answer)
    if (inner := _in_braces(answer, gold)) is not None:
        return same(gold, inner)
    if isinstance(gold, Bag) and isinstance(answer, Bag):
        return _same_bag(gold, answer)
    if isinstance(gold, Seq) and isinstance(answer, Seq):
        return _same_seq(gold, answer)
    for one, other in ((gold, answer), (answer, gold)):
        if isinstance(one, Seq) and isinstance(other, Expr):
            return _same_vector(one, other)
        if isinstance(one, Seq) and isinstance(other, Bag):
            if other.braces:
                return False
            found = as_tuple(other).items if other.named else other.items
            return _in_order(one.items, found) if one is gold else _in_order(found, one.items)
        if isinstance(one, Bag) and isinstance(other, Expr):
            return False
    return None


def _same_seq(gold: Seq, answer: Seq) -> bool | None:
    first, second = gold.items, answer.items
    if "v" in (gold.left, answer.left):
        first, second = (
            _flat(v, 3 if other.left == "v" else len(other.items)) for v, other in ((gold, answer), (answer, gold))
        )
    elif (gold.left, gold.right) != (answer.left, answer.right):
        return False
    return _in_order(first, second) if len(first) == len(second) else False


def _flat(vector: Seq, size: int) -> tuple[Value, ...]:
    r"""The entries of a vector; one in `\mathbf{i}` and `\mathbf{j}` alone lies in the plane where
    the other does.
    """
    last = vector.items[-1]
    if vector.left == "v" and size == 2 and isinstance(last, Expr) and last.tree == ("num", Fraction(0)):
        return vector.items[:2]
    return vector.items


def _same_vector(vector: Seq, other: Expr) -> bool | None:
    """A tuple against a row or column, a list of rows against a matrix, or against `i+2j+3k`."""
    tree = worked_out(other.tree) or other.tree
    if tree[0] == "matrix":
        return _same_matrix(vector, tree[1])
    if symbols(tree) & {"j", "k"} and len(vector.items) in (2, 3):
        plain = _as_basis(tree)
        if plain is not None:
            return _in_order(_flat(vector, len(vector.items)), plain[: len(vector.items)])
    return False


def _same_matrix(vector: Seq, rows: Sequence[Sequence[Tree]]) -> bool | None:
    """A matrix of one row or column against its entries, any other against a list of its rows."""
    if len(rows) == 1 or len(rows[0]) == 1:
        entries = list(rows[0]) if len(rows) == 1 else [row[0] for row in rows]
        return _in_order(_flat(vector, len(entries)), [Expr(t, _number_of(t)) for t in entries])
    inner = [v.items for v in vector.items if isinstance(v, Seq)]
    if len(inner) != len(vector.items) or [len(i) for i in inner] != [len(r) for r in rows]:
        return False
    return _in_order([i for row in inner for i in row], [Expr(t, _number_of(t)) for row in rows for t in row])


def _as_basis(tree: Tree) -> tuple[Value, ...] | None:
    """`i+2j+3k` in plain letters, as a vector."""
    from qwq.verify.math.trees import ZERO, components

    def named(node: Tree) -> Tree:
        if node == ("const", "i"):
            return ("basis", "i")
        if node in (("sym", "j"), ("sym", "k")):
            return ("basis", node[1])
        return tuple(named(p) if isinstance(p, tuple) else p for p in node)

    parts = components(named(tree)) if tree[0] != "matrix" else None
    return None if parts is None else tuple(Expr(t, _number_of(t)) for t in (parts.get(axis, ZERO) for axis in "ijk"))


def _number_of(tree: Tree) -> numbers.Number | None:
    return numbers.Number(tree[1]) if tree[0] == "num" else None


def _in_order(gold: Sequence[Value], answer: Sequence[Value]) -> bool | None:
    if len(gold) != len(answer):
        return False
    unsure = False
    for g, a in zip(gold, answer, strict=True):
        equal = same(g, a)
        if equal is False:
            return False
        unsure |= equal is None
    return None if unsure else True


def _same_bag(gold: Bag, answer: Bag) -> bool | None:
    if gold.named and answer.named and set(gold.labels) == set(answer.labels):
        by_label = dict(zip(answer.labels, answer.items, strict=True))
        return _in_order(gold.items, [by_label[label] for label in gold.labels])
    if len(gold.items) != len(answer.items) and not (gold.braces or answer.braces):
        return False
    if gold.named and answer.named:
        return False if not _any_order(gold.items, answer.items) else None
    if (gold.ordered or answer.ordered) and len(gold.items) == len(answer.items):
        return _in_order(gold.items, answer.items)
    if gold.braces or answer.braces:
        return _same_set(gold.items, answer.items)
    return _any_order(gold.items, answer.items)


def _same_set(gold: Sequence[Value], answer: Sequence[Value]) -> bool | None:
    """In a set the same element twice is one."""
    if len(gold) == len(answer) and (equal := _any_order(gold, answer)):
        return equal
    kept: list[list[Value]] = [[], []]
    for side, items in zip(kept, (gold, answer), strict=True):
        for item in items:
            if len(items) > SHORT_LIST * 4 or not any(same(item, other) for other in side):
                side.append(item)
    return _any_order(*kept) if len(kept[0]) == len(kept[1]) else False


def _any_order(gold: Sequence[Value], answer: Sequence[Value]) -> bool | None:
    """Each gold item has its own partner. Equality is as good as transitive, so taking the first
    match is enough.

    Long lists are tried nearest value first: a right answer then costs one comparison an item,
    whatever its order.
    """
    left = list(answer)
    sizes = {id(v): _size(v) for v in (*gold, *answer)} if len(left) > SHORT_LIST else {}
    unsure = False
    for wanted in gold:
        partner = maybe = None
        for item in sorted(left, key=lambda v: abs(sizes[id(v)] - sizes[id(wanted)])) if sizes else left:
            equal = same(wanted, item)
            if equal:
                partner = item
                break
            if equal is None and maybe is None:
                maybe = item
        if partner is None and maybe is None:
            return False
        unsure |= partner is None
        partner = partner if partner is not None else maybe
        left.pop(next(index for index, item in enumerate(left) if item is partner))
    return None if unsure else True


def _size(value: Value) -> float:
    """A number to sort by, the same for equal values: of an expression its value at one point; 0
    for what has none.
    """
    if not isinstance(value, Expr) or value.tree[0] == "matrix":
        return 0.0
    names = symbols(value.tree)
    try:
        found = abs(evaluate.numeric(value.tree, evaluate.points(names)[0] if names else {}))
        return float(found) if found < 1e300 else 0.0
    except (evaluate.Undefined, TooBig):
        return 0.0


# -- regions ---------------------------------------------------------------------------------------


def _same_region(gold: Value, answer: Value) -> bool | None:
    region, other = (gold, answer) if isinstance(gold, Region) else (answer, gold)
    if isinstance(other, Bag) and isinstance(region, Region):
        if not region.integers and region.intervals:
            return False
        found = regions.integers_of(region)
        if found is None or len(found) != len(other.items):
            return False
        return _any_order([Expr(t, _number_of(t)) for t in found], other.items)
    left, right = regions.as_region(gold), regions.as_region(answer)
    return False if left is None or right is None else regions.same_region(left, right)


# What compares a pair where one of its two values has one of the types, in this order.
_RULES: tuple[tuple[Any, Callable[[Value, Value], bool | None]], ...] = (
    (Unknown, _same_unknown),
    (Dots, lambda gold, answer: gold == answer),
    (Congruence, lambda gold, answer: relations.same_congruence(gold, answer, same)),
    (SolutionFamily, _same_family),
    (Relation, lambda gold, answer: relations.same_relation(gold, answer, same)),
    (Piecewise, _same_piecewise),
    ((Time, Day), _same_time),
    ((NumberSet, Logic), _same_named_set),
    (Text, lambda gold, answer: gold == answer),
    (Region, _same_region),
    (Ratio, lambda gold, answer: relations.same_ratio(gold, answer, _in_order)),
)
