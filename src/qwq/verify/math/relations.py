"""Equality of equations, named values, inequalities in several unknowns, congruences, ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from qwq.verify.math import evaluate, labels
from qwq.verify.math.trees import Tree, affine, symbols, walk
from qwq.verify.math.typed import Bag, Congruence, Expr, Ratio, Relation, SolutionFamily, Text, Value

_INTEGER_NAMES = frozenset("kmnjlpqst")
_ASKED = frozenset("det abs sin cos tan cot sec csc gcd lcm max min".split())

Same = Callable[[Value, Value], bool | None]


def same_relation(gold: Value, answer: Value, same: Same) -> bool | None:
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _both(gold, answer, same)
    relation, other = (gold, answer) if isinstance(gold, Relation) else (answer, gold)
    assert isinstance(relation, Relation)
    if relation.op != "=":
        return False if isinstance(other, Expr | Text) else None
    if _names_its_value(relation, other, in_answer=relation is answer):
        return same(relation.right, other) if relation is gold else same(other, relation.right)
    return False if isinstance(other, Expr | Text) else None


def _names_its_value(relation: Relation, other: Value, *, in_answer: bool) -> bool:
    """Whether an equation only says what its right side is: `x = 5`, `5 + 7 = 12`, in an answer
    also `a + b = 12`.
    """
    if relation.label:
        return True
    if in_answer and isinstance(other, Expr) and not symbols(other.tree) and _is_asked_for(relation.left):
        return True
    return _holds(relation)


def _is_asked_for(left: Tree | None) -> bool:
    r"""What a question may ask the value of: `a+b`, `\frac{a}{b}`, `\tan\theta`, `\det A`, also
    what is no expression here, `\int f`; nothing with numbers in it.
    """
    if left is None:
        return True
    nodes = walk(left)
    if left[0] == "neg" or not symbols(left):
        return False
    return all(n[0] in ("sym", "const", "add", "neg", "mul", "div") or (n[0] == "fn" and n[1] in _ASKED) for n in nodes)


def _holds(relation: Relation) -> bool:
    """Whether all sides are the same identically: a calculation, `\\frac{10}{5} = 2`, and no
    condition.
    """
    if relation.left is None or not isinstance(relation.right, Expr):
        return False
    sides = [relation.left, *(m.tree for m in relation.middle if isinstance(m, Expr))]
    if len(sides) != 1 + len(relation.middle):
        return False
    try:
        return all(evaluate.same(s, relation.right.tree) is True for s in sides)
    except evaluate.TooBig:
        return False


def _both(gold: Relation, answer: Relation, same: Same) -> bool | None:
    if gold.op == answer.op == "=" and gold.label and answer.label:
        named = labels.same_names(gold.left_text, answer.left_text)
        if named:
            return same(gold.right, answer.right)
        mirrored = _as_equations(gold, answer)
        return mirrored if mirrored else named
    if gold.op == answer.op == "=" and _holds(gold) and _holds(answer):
        return same(gold.right, answer.right)
    return _as_equations(gold, answer)


def _as_equations(gold: Relation, answer: Relation) -> bool | None:
    """Proportional equations are the same, and linear ones only then."""
    left, right = _difference(gold), _difference(answer)
    if left is None or right is None:
        return None
    flipped = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
    if gold.op == answer.op:
        ratio = constant_ratio(left, right)
    elif flipped.get(gold.op) == answer.op:
        ratio = constant_ratio(left, ("neg", right))
    else:
        return False
    if ratio is not None and (gold.op in ("=", "\\ne") or ratio > 0):
        return True
    if {gold.op, answer.op} & {"<", ">", "\\le", "\\ge"} and constant_ratio(left, right) is not None:
        return False  # the other side of the same line
    if _is_linear(left) and _is_linear(right):
        return False
    return False if gold.op == answer.op == "=" and _shown_different(left, right) else None


def _shown_different(first: Tree, second: Tree) -> bool:
    """Whether some solution of the one equation, found by its change of sign, is no solution of the
    other.
    """
    names = symbols(first) | symbols(second)
    mp = evaluate.context()
    for env in evaluate.points(names)[:2]:
        for unknown in sorted(symbols(first)):
            root = _root(first, {**env}, unknown)
            if root is None:
                continue
            try:
                gap = evaluate.numeric(second, {**env, unknown: root})
            except (evaluate.Undefined, evaluate.TooBig):
                continue
            if not mp.isnan(gap) and abs(gap) > mp.mpf(10) ** -12:
                return True
    return False


def _root(tree: Tree, env: dict[str, Any], unknown: str) -> Any | None:
    """A real root between -9.7 and 9.7 by bisection; None where no change of sign is seen on the
    grid.
    """
    mp = evaluate.context()

    def value(at: Any) -> Any | None:
        try:
            found = evaluate.numeric(tree, {**env, unknown: at})
        except (evaluate.Undefined, evaluate.TooBig):
            return None
        return mp.re(found) if mp.im(found) == 0 and not mp.isnan(found) else None

    before = None
    for step in range(-32, 33):
        here = mp.mpf(step) * 3 / 10 + mp.mpf(1) / 17
        there = value(here)
        if there is not None and before is not None and before[1] * there < 0:
            low, high = before[0], here
            for _ in range(80):
                middle = (low + high) / 2
                at = value(middle)
                if at is None:
                    return None
                low, high = (middle, high) if at * before[1] > 0 else (low, middle)
            at = value(low)
            return low if at is not None and abs(at) < mp.mpf(10) ** -15 else None  # a pole changes its sign too
        before = None if there is None else (here, there)
    return None


def _difference(relation: Relation) -> Tree | None:
    if relation.left is None or not isinstance(relation.right, Expr) or relation.right.unit is not None:
        return None
    return ("add", relation.left, ("neg", relation.right.tree))


def constant_ratio(a: Tree, b: Tree) -> float | None:
    """The constant c with a = c b at every point tried, as its sign; None where there is none or
    all is zero.
    """
    ratio = None
    compared = 0
    for env in evaluate.points(symbols(a) | symbols(b)):
        try:
            x, y = evaluate.numeric(a, env), evaluate.numeric(b, env)
        except evaluate.Undefined:
            continue
        if x == 0 or y == 0:
            return None
        if ratio is None:
            ratio = x / y
        elif not evaluate.close(x / y, ratio):
            return None
        compared += 1
    mp = evaluate.context()
    return float(mp.sign(mp.re(ratio))) if ratio is not None and compared >= 3 and mp.im(ratio) == 0 else None


def _is_linear(tree: Tree) -> bool:
    """Sums and rational multiples of single symbols: two such equations are equal only if
    proportional.
    """
    kind = tree[0]
    if kind in ("num", "sym"):
        return True
    if kind in ("add", "neg"):
        return all(_is_linear(p) for p in tree[1:])
    if kind == "mul":
        return (not symbols(tree[1]) and _is_linear(tree[2])) or (not symbols(tree[2]) and _is_linear(tree[1]))
    return kind == "div" and not symbols(tree[2]) and _is_linear(tree[1])


# -- congruences -----------------------------------------------------------------------------------


def same_congruence(gold: Value, answer: Value, same: Same) -> bool | None:
    r"""The same modulus and the same residues of it, of the same number; a residue class is no
    number.
    """
    gold, answer = _residue_class(gold), _residue_class(answer)
    if not (isinstance(gold, Congruence) and isinstance(answer, Congruence)):
        others = Expr | Text | Relation | SolutionFamily
        return False if isinstance(gold, others) or isinstance(answer, others) else None
    if not same(gold.modulus, answer.modulus):
        return False
    if gold.left is not None and answer.left is not None and not evaluate.same(gold.left, answer.left):
        return None
    modulus = evaluate.exact(gold.modulus.tree) if isinstance(gold.modulus, Expr) else None
    first, second = _residues(gold, modulus), _residues(answer, modulus)
    if first is not None and second is not None:
        return first == second
    if len(gold.residues) == len(answer.residues) == 1:
        return same(gold.residues[0], answer.residues[0]) or None
    return None


def _residue_class(value: Value) -> Value:
    """`x = 7k + 3`, of any whole k, as the residue class of 3 modulo 7; any other value as it
    is.
    """
    relation = value.value if isinstance(value, SolutionFamily) and value.domain == "Z" else value
    if not (isinstance(relation, Relation) and relation.label and isinstance(relation.right, Expr)):
        return value
    line = affine(relation.right.tree)
    if line is None or line[0] not in _INTEGER_NAMES or relation.left == ("sym", line[0]):
        return value
    modulus, residue = evaluate.exact(line[1]), evaluate.exact(line[2])
    if modulus is None or residue is None or modulus.denominator != 1 or residue.denominator != 1 or abs(modulus) < 2:
        return value
    return Congruence(relation.left, (Expr(("num", residue % abs(modulus))),), Expr(("num", abs(modulus))))


def _residues(value: Congruence, modulus: Fraction | None) -> set[Fraction] | None:
    if not modulus:
        return None
    found = [evaluate.exact(r.tree) for r in value.residues if isinstance(r, Expr)]
    return None if None in found else {r % modulus for r in found if r is not None}


# -- ratios ----------------------------------------------------------------------------------------


def same_ratio(
    gold: Value, answer: Value, in_order: Callable[[Sequence[Value], Sequence[Value]], bool | None]
) -> bool | None:
    if isinstance(gold, Ratio) and isinstance(answer, Ratio):
        if len(gold.parts) != len(answer.parts):
            return False
        equal = in_order(gold.parts, answer.parts)
        if equal is not False or not all(isinstance(p, Expr) for p in gold.parts + answer.parts):
            return equal
        return _proportional(gold.parts, answer.parts)
    ratio, other = (gold, answer) if isinstance(gold, Ratio) else (answer, gold)
    assert isinstance(ratio, Ratio)
    terms = [p.tree for p in ratio.parts if isinstance(p, Expr)]
    if isinstance(other, Expr) and len(terms) == len(ratio.parts) == 2:
        return evaluate.same(("div", *terms), other.tree)
    return None if isinstance(other, Bag) else False


def _proportional(gold: Sequence[Value], answer: Sequence[Value]) -> bool | None:
    values = [evaluate.exact(p.tree) for p in (*gold, *answer) if isinstance(p, Expr)]
    if any(v is None for v in values):
        return None
    exact: list[Fraction] = [v for v in values if v is not None]
    first, second = exact[: len(gold)], exact[len(gold) :]
    if first[0] == 0 or second[0] == 0:
        return False
    return all(f * second[0] == s * first[0] for f, s in zip(first, second, strict=True))
