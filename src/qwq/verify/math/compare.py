"""Typed comparison of two answers, in process and without sympy.

`compare(gold, answer)` decides what its types cover and says so where they do not (`equal` None): then sympy is
asked, unless the pair is `final`, too big for anybody to compute.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from qwq.verify.math import evaluate, numbers, units
from qwq.verify.math.evaluate import TooBig
from qwq.verify.math.expr import Tree
from qwq.verify.math.values import (
    Bag,
    Dots,
    Expr,
    Interval,
    Ratio,
    Region,
    Relation,
    Seq,
    Text,
    Unknown,
    Value,
    as_region,
    plain_words,
    read,
)


@dataclass(frozen=True, slots=True)
class Decision:
    """`equal` None: undecided here; `final`: nobody else need try."""

    equal: bool | None
    reason: str
    final: bool = False


SHORT_LIST = 8  # up to here every pair may be compared

_LETTER = re.compile(r" ?(?:\\(?:text|mathrm) ?\{ ?)?\(? ?([A-Z]) ?\)? ?\}? ?[.:)]? ?")
_CHOICE = re.compile(
    r" ?(?:\\(?:text|mathrm) ?\{ ?)?(?:\( ?([A-Z]) ?\)|([A-Z]) ?[.:)]) ?\}?[\s.:]*(?:\\ )? ?(?P<rest>\S.*)",
    re.DOTALL,
)
_OPTION = re.compile(r"\A(?:the )?(?:correct )?(?:option|choice|answer) ?:? ?(?=\(?[A-Z]\b)", re.IGNORECASE)
_SEVERAL = re.compile(r"(?:\\text ?\{)?([A-H]{2,8})\}?")
_LISTED = re.compile(r"\(?([A-H])\)?(?: ?(?:,|;|and|\\text ?\{ ?and ?\}|&|\s) ?(?:and )?\(?[A-H]\)?){1,7}")
_RADIX = re.compile(r"([+-]?[0-9A-Fa-f]+) ?_ ?\{? ?(?:\\text ?\{)? ?(\d{1,2}) ?\}{0,2}")
_QUALIFIER = re.compile(
    r" ?(?:[,;(]|\\text ?\{[^{}]{0,12}\}|\bwhere\b|\bfor\b|\bwith\b) ?(?:\\text ?\{[^{}]{0,12}\} ?)?"
    r"(?P<what>[a-z](?: ?, ?[a-z]){0,5} ?\\in ?\\mathbb ?\{? ?[ZNQRC] ?\}?[_^*+{}]{0,4}) ?\)?\Z"
)
_CONSTANT = re.compile(r"\+ ?([Cc]) ?\Z")
_FUNCTION = re.compile(r"[A-Za-z] ?\( ?([a-z]) ?\) ?=")
_HALF_OF_DAY = re.compile(r"(?:(?<=:\d\d) ?|(?<=\d) |(?<=\d) ?\\text ?\{) ?(?:\\text ?\{)? ?[ap]\.? ?m\.? ?\}? ?\Z", re.IGNORECASE)
_FOR_ALL = re.compile(r",? ?\\text ?\{ ?,? ?for (?:all|any|every|each)\b(?P<what>.{0,60})\Z")
_PARAMETER = re.compile(r"(?<![A-Za-z\\])[knm](?= ?\\pi)|(?<=\\pi) ?[knm](?! ?\^|[A-Za-z])")
_WORD = re.compile(r"[A-Z]?[a-z]{2,}")
_JOINING = re.compile(r"\band\b")
_NUMERALS = {w: i for i, w in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())}
_LETTERS = re.compile(r"[A-Za-z][A-Za-z' -]+")
_DECIMAL_COMMA = re.compile(r"[+-]?(?:0,\d+|\d+,(?:\d{1,2}|\d{4,}))\Z")


def compare(gold: str, answer: str) -> Decision:
    """Decide a cleaned pair of answers."""
    if _as_text(gold) == _as_text(answer):
        return Decision(True, "the same text")
    choice = _same_choice(gold, answer)
    if choice is not None:
        return Decision(choice, "choice letters")
    labelled = _CHOICE.fullmatch(gold)
    if labelled and (labelled[1] or labelled[2]) in "ABCDEFGH" and not re.match(r"[-+*/^_=(]", labelled["rest"]):
        return compare(labelled["rest"], answer)  # the text of the right choice, without its letter
    if (left := _RADIX.fullmatch(gold)) and (right := _RADIX.fullmatch(answer)):
        return Decision(_same_radix(left, right), "numbers with their bases")
    gold, answer = _same_names(*_without_qualifier(gold, answer))
    if _same_words(gold, answer):
        return Decision(True, "the same words")
    gold, answer = _with_point(gold, answer), _with_point(answer, gold)
    wanted, found = read(gold), read(answer)
    try:
        equal = same(wanted, found)
    except TooBig as error:
        return Decision(None, str(error), final=True)
    kinds = f"{type(wanted).__name__.lower()} and {type(found).__name__.lower()}"
    if equal is None and isinstance(wanted, Text | Unknown) and plain_words(gold) == plain_words(answer) != "":
        equal = None if isinstance(wanted, Unknown) else True
    return Decision(
        equal,
        f"{'' if equal else 'not '}equal as {kinds}" if equal is not None else f"no rule for {kinds}",
    )


def _as_text(text: str) -> str:
    r"""Without spaces, and without a `\text{...}` around it all."""
    if match := re.fullmatch(r"\\text ?\{([^{}]*)\}", text):
        text = match[1]
    return "".join(text.split())


def _same_choice(gold: str, answer: str) -> bool | None:
    """A letter against a letter with or without its text: `B` and `(B)\\ 5`. None where the gold is no letter."""
    if (several := _SEVERAL.fullmatch(gold)) and (listed := _LISTED.fullmatch(answer)):
        letters = several[1]
        if list(letters) == sorted(set(letters)):
            return sorted(re.findall(r"[A-H]", listed[0])) == list(letters)
    answer = _OPTION.sub("", answer)
    letter, other = _LETTER.fullmatch(gold), _LETTER.fullmatch(answer)
    if letter and letter[1] in "ABCDEFGH" and re.fullmatch(r"\(?[a-h]\)?", answer):
        return letter[1].lower() == answer.strip("()")
    if letter and other:
        return letter[1] == other[1]
    labelled = _CHOICE.fullmatch(answer)
    if letter and labelled:
        return letter[1] == (labelled[1] or labelled[2])
    labelled = _CHOICE.fullmatch(gold)
    if other and labelled:
        return other[1] == (labelled[1] or labelled[2])
    return None


def _same_radix(gold: re.Match[str], answer: re.Match[str]) -> bool:
    r"""`2A_{16}` and `2a_{16}`: the same base and the same digits, whatever the case of the letters."""
    digits = [m[1].upper().lstrip("+") for m in (gold, answer)]
    return int(gold[2]) == int(answer[2]) and digits[0] == digits[1]


def _without_qualifier(gold: str, answer: str) -> tuple[str, str]:
    r"""Without `, k \in \mathbb{Z}` behind a family of values, where the other side leaves it out or says the same."""
    g, a = _QUALIFIER.search(gold), _QUALIFIER.search(answer)
    if not g and not a:
        g, a = _FOR_ALL.search(gold), _FOR_ALL.search(answer)
    if g and a and "".join(g["what"].split()) != "".join(a["what"].split()):
        return gold, answer
    return (gold[: g.start()] or gold) if g else gold, (answer[: a.start()] or answer) if a else answer


def _same_names(gold: str, answer: str) -> tuple[str, str]:
    """What is only a name is the same on both sides: the constant of an integral, the variable of f(x), am and pm."""
    if (g := _CONSTANT.search(gold)) and (a := _CONSTANT.search(answer)) and g[1] != a[1]:
        answer = f"{answer[: a.start(1)]}{g[1]}{answer[a.end(1) :]}"
    g, a = _FUNCTION.match(gold), _FUNCTION.match(answer)
    if g and a and g[1] != a[1] and not re.search(rf"(?<![A-Za-z\\]){g[1]}(?![A-Za-z])", answer):
        answer = re.sub(rf"(?<![A-Za-z\\]){a[1]}(?![A-Za-z])", g[1], answer)
    if "\\pi" in gold and "\\pi" in answer:  # the integer of a family of angles has no name of its own
        names, others = set(_PARAMETER.findall(gold)), set(_PARAMETER.findall(answer))
        if len(names) == len(others) == 1 and names != others:
            answer = _PARAMETER.sub(f" {names.pop().strip()}", answer)
    if bool(g := _HALF_OF_DAY.search(gold)) != bool(a := _HALF_OF_DAY.search(answer)):
        gold, answer = (gold[: g.start()] if g else gold), (answer[: a.start()] if a else answer)
    return gold, answer


def _same_words(gold: str, answer: str) -> bool:
    r"""`\text{Even}` and `even`, `Yes` and `yes`: words, not products of letters."""
    pair = (gold, answer)
    if not any("\\text" in t or _WORD.fullmatch(t) for t in pair):
        return False
    if all(len(re.findall(r"[A-Za-z]{3,}", t)) >= 2 for t in pair) and plain_words(gold) == plain_words(answer):
        return True
    if any("\\text" in t and re.search(r"[A-Za-z]{3,}", t.replace("\\text", "")) for t in pair):
        words = [_JOINING.sub(" ", plain_words(t)) for t in pair]
        if " ".join(words[0].split()) == " ".join(words[1].split()) != "":
            return True
    bare = [re.sub(r"\\text ?\{([^{}]*)\}", r"\1", t).strip() for t in pair]
    return all(_LETTERS.fullmatch(b) for b in bare) and plain_words(bare[0]) == plain_words(bare[1]) != ""


def _with_point(text: str, other: str) -> str:
    """A decimal comma as a point, where the other side is a number that is not whole."""
    if _DECIMAL_COMMA.match(text):
        number = numbers.read(other)
        if number is not None and number.value.denominator != 1:
            return text.replace(",", ".")
    return text


def same(gold: Value, answer: Value) -> bool | None:
    """Whether two values are equal; None where the types here do not cover the pair. TooBig."""
    if isinstance(gold, Unknown) or isinstance(answer, Unknown):
        return None
    if isinstance(gold, Dots) or isinstance(answer, Dots):
        return gold == answer
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _same_relation(gold, answer)
    if isinstance(gold, Text) or isinstance(answer, Text):
        for one, other in ((gold, answer), (answer, gold)):
            if isinstance(one, Text) and one.words in _NUMERALS and isinstance(other, Expr) and other.number is not None:
                return other.number == numbers.Number(Fraction(_NUMERALS[one.words]), decimals=0)
        return gold == answer if type(gold) is type(answer) else False
    if isinstance(gold, Expr) and isinstance(answer, Expr):
        return _same_expr(gold, answer)
    if isinstance(gold, Region) or isinstance(answer, Region):
        return _same_region(gold, answer)
    if isinstance(gold, Ratio) or isinstance(answer, Ratio):
        return _same_ratio(gold, answer)
    return _same_collection(gold, answer)


# -- expressions ------------------------------------------------------------------------------------


def _same_expr(gold: Expr, answer: Expr) -> bool | None:
    if units.clash(gold.unit, answer.unit):
        return False
    if gold.number is not None and answer.number is not None:
        return numbers.same(gold.number, answer.number)
    equal = evaluate.same(gold.tree, answer.tree)
    if equal is False:
        return _rounded(gold, answer) or _percent(gold, answer)
    return equal


def _rounded(gold: Expr, answer: Expr) -> bool:
    """A decimal that is the other side, an exact expression, correctly rounded (as `number.same` has it)."""
    if (gold.number is None) == (answer.number is None):
        return False
    decimal, exact, digits = (gold.number, answer.tree, 3) if gold.number is not None else (answer.number, gold.tree, 5)
    assert decimal is not None
    if not decimal.decimals or decimal.significant < digits or evaluate.symbols(exact):
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


# -- collections ------------------------------------------------------------------------------------


def _same_collection(gold: Value, answer: Value) -> bool | None:
    if isinstance(gold, Bag) and isinstance(answer, Bag):
        return _same_bag(gold, answer)
    if isinstance(gold, Seq) and isinstance(answer, Seq):
        if len(gold.items) != len(answer.items):
            return False
        if (gold.left, gold.right) != (answer.left, answer.right):
            return False
        return _in_order(gold.items, answer.items)
    for one, other in ((gold, answer), (answer, gold)):
        if isinstance(one, Seq) and isinstance(other, Expr):
            entries = _vector(other.tree)
            return False if entries is None else _in_order_trees(one.items, entries)
        if isinstance(one, Seq) and isinstance(other, Bag):
            return False if other.braces else _in_order(one.items, other.items)
        if isinstance(one, Bag) and isinstance(other, Expr):
            return False
    return None


def _vector(tree: Tree) -> list[Tree] | None:
    if tree[0] != "matrix":
        return None
    rows = tree[1]
    if len(rows) == 1:
        return list(rows[0])
    return [row[0] for row in rows] if len(rows[0]) == 1 else None


def _in_order_trees(items: Sequence[Value], trees: Sequence[Tree]) -> bool | None:
    return _in_order(items, [Expr(t, _number_of(t)) for t in trees])


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
    if len(gold.items) != len(answer.items):
        return False
    if gold.ordered and answer.ordered and set(gold.labels) == set(answer.labels) != {""}:
        by_label = dict(zip(answer.labels, answer.items, strict=True))
        return _in_order(gold.items, [by_label[label] for label in gold.labels])
    if gold.ordered or answer.ordered:
        return _in_order(gold.items, answer.items)
    return _any_order(gold.items, answer.items)


def _any_order(gold: Sequence[Value], answer: Sequence[Value]) -> bool | None:
    """Each gold item has its own partner. Equality is as good as transitive, so taking the first match is enough.

    Long lists are tried nearest value first: a right answer then costs one comparison an item, whatever its order.
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
    """A number to sort by, the same for equal values: of an expression its value at one point; 0 for what has none."""
    if not isinstance(value, Expr) or value.tree[0] == "matrix":
        return 0.0
    names = evaluate.symbols(value.tree)
    try:
        found = abs(evaluate.numeric(value.tree, evaluate.points(names)[0] if names else {}))
        return float(found) if found < 1e300 else 0.0
    except (evaluate.Undefined, TooBig):
        return 0.0


# -- regions ----------------------------------------------------------------------------------------


def _same_region(gold: Value, answer: Value) -> bool | None:
    left, right = as_region(gold), as_region(answer)
    if left is None or right is None:
        return None if Bag in (type(gold), type(answer)) else False
    if len(left.intervals) != len(right.intervals):
        return None if left.intervals and right.intervals else False  # overlapping or touching ones: sympy merges them
    rest = list(right.intervals)
    for interval in left.intervals:
        match = next((r for r in rest if _same_interval(interval, r)), None)
        if match is None:
            return False if len(left.intervals) == 1 else None
        rest.remove(match)
    return True


def _same_interval(a: Interval, b: Interval) -> bool:
    if (a.low_closed, a.high_closed) != (b.low_closed, b.high_closed):
        return False
    return _same_bound(a.low, b.low) and _same_bound(a.high, b.high)


def _same_bound(a: Tree, b: Tree) -> bool:
    return bool(evaluate.same(a, b))


# -- relations and ratios ---------------------------------------------------------------------------


def _same_relation(gold: Value, answer: Value) -> bool | None:
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _same_relations(gold, answer)
    relation, other = (gold, answer) if isinstance(gold, Relation) else (answer, gold)
    assert isinstance(relation, Relation)
    if relation.op != "=" or not relation.label:
        return False if isinstance(other, Expr | Text) else None
    return same(gold.right, other) if relation is gold else same(other, answer.right)  # type: ignore[union-attr]


def _same_relations(gold: Relation, answer: Relation) -> bool | None:
    if gold.op == answer.op == "=":
        if gold.label and answer.label and gold.left_text == answer.left_text:
            return same(gold.right, answer.right)
        if gold.label and answer.label and "(" in gold.left_text + answer.left_text:
            return same(gold.right, answer.right)  # y = 2x and f(x) = 2x
    left, right = _difference(gold), _difference(answer)
    if left is None or right is None:
        return None
    flipped = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
    if gold.op == answer.op:
        ratio = _constant_ratio(left, right)
    elif flipped.get(gold.op) == answer.op:
        ratio = _constant_ratio(left, ("neg", right))
    else:
        return False
    if ratio is not None and (gold.op in ("=", "\\ne") or ratio > 0):
        return True
    return False if _is_linear(left) and _is_linear(right) else None


def _difference(relation: Relation) -> Tree | None:
    if relation.left is None or not isinstance(relation.right, Expr):
        return None
    return ("add", relation.left, ("neg", relation.right.tree))


def _constant_ratio(a: Tree, b: Tree) -> float | None:
    """The constant c with a = c b at every point tried, as its sign; None where there is none or all is zero."""
    ratio = None
    compared = 0
    for env in evaluate.points(evaluate.symbols(a) | evaluate.symbols(b)):
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
    """Sums and rational multiples of single symbols: two such equations are equal only if proportional."""
    kind = tree[0]
    if kind in ("num", "sym"):
        return True
    if kind in ("add", "neg"):
        return all(_is_linear(p) for p in tree[1:])
    if kind == "mul":
        return (not evaluate.symbols(tree[1]) and _is_linear(tree[2])) or (
            not evaluate.symbols(tree[2]) and _is_linear(tree[1])
        )
    return kind == "div" and not evaluate.symbols(tree[2]) and _is_linear(tree[1])


def _same_ratio(gold: Value, answer: Value) -> bool | None:
    if isinstance(gold, Ratio) and isinstance(answer, Ratio):
        if len(gold.parts) != len(answer.parts):
            return False
        equal = _in_order(gold.parts, answer.parts)
        if equal is not False or gold.clock or Dots() in gold.parts + answer.parts:
            return equal
        return _proportional(gold.parts, answer.parts)
    ratio, other = (gold, answer) if isinstance(gold, Ratio) else (answer, gold)
    assert isinstance(ratio, Ratio)
    terms = [p.tree for p in ratio.parts if isinstance(p, Expr)]
    if isinstance(other, Expr) and len(terms) == len(ratio.parts) == 2 and not ratio.clock:
        return evaluate.same(("div", *terms), other.tree)
    return False


def _proportional(gold: Sequence[Value], answer: Sequence[Value]) -> bool | None:
    trees = [p.tree for p in (*gold, *answer) if isinstance(p, Expr)]
    if len(trees) != 2 * len(gold):
        return None
    values = [evaluate.exact(t) for t in trees]
    if any(v is None for v in values):
        return None
    exact: list[Fraction] = [v for v in values if v is not None]
    first, second = exact[: len(gold)], exact[len(gold) :]
    if first[0] == 0 or second[0] == 0:
        return False
    return all(f * second[0] == s * first[0] for f, s in zip(first, second, strict=True))
