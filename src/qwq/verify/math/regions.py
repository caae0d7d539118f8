r"""Regions of the line: intervals, inequalities, unions, intersections, differences, whole numbers
only.

An inequality bounds a quantity. Two regions are the same where their quantities are the same up to
scale and shift and their bounds follow: `1<2x<5` is `\frac12<x<\frac52`, and is neither `1<x<5` nor
`1<x^2<5`. A quantity linear in one symbol is solved for it, so that it can be compared with an
interval that names none.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from qwq.verify.math import evaluate
from qwq.verify.math.evaluate import TooBig
from qwq.verify.math.trees import Tree, affine, symbols, walk
from qwq.verify.math.typed import ALL, INF, NEG_INF, Expr, Interval, Region, Seq, Value

FLIP = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\ne": "\\ne"}
MAX_INTEGERS = 200


# -- inequalities ----------------------------------------------------------------------------------


def inequality(trees: Sequence[Tree | None], ops: Sequence[str]) -> Region | None:
    """The region of `x > 2`, `1 < 2x \\le 3`, `|x-1| < 2`, `\\le 12` (its left side None); None
    where no constants bound one quantity.
    """
    constant = [t is not None and not symbols(t) and not _has(t, "basis") for t in trees]
    if len(ops) == 2:
        upward = set(ops) <= {"<", "\\le"}
        if constant != [True, False, True] or not (upward or set(ops) <= {">", "\\ge"}):
            return None
        low, middle, high = trees if upward else reversed(list(trees))
        first, second = ops if upward else (ops[1], ops[0])
        closed = [op in ("\\le", "\\ge") for op in (first, second)]
        return _solved(middle, (Interval(low, closed[0], high, closed[1]),))  # type: ignore[arg-type]
    if len(ops) != 1 or constant[0] == constant[1]:
        return None
    quantity, bound, op = (
        (trees[0], trees[1], ops[0]) if constant[1] else (trees[1], trees[0], FLIP.get(ops[0], ops[0]))
    )
    if bound is None:
        return None
    closed_end = op in ("\\le", "\\ge")
    if op == "\\ne":
        pieces: tuple[Interval, ...] = (Interval(NEG_INF, False, bound, False), Interval(bound, False, INF, False))
    elif op in ("<", "\\le"):
        pieces = (Interval(NEG_INF, False, bound, closed_end),)
    elif op in (">", "\\ge"):
        pieces = (Interval(bound, closed_end, INF, False),)
    else:
        return None
    return _solved(quantity, pieces)


def _solved(quantity: Tree | None, intervals: tuple[Interval, ...]) -> Region:
    """The region in terms of the one symbol that the quantity is linear in, of its absolute value
    or square; else as it is.
    """
    if quantity is None:
        return Region(intervals)
    if (line := affine(quantity)) is not None and (moved := _moved(line, intervals)) is not None:
        return Region(moved, ("sym", line[0]))
    inner, power = _folded(quantity)
    if inner is not None and (line := affine(inner)) is not None:
        unfolded = _unfolded(intervals, power)
        moved = None if unfolded is None else _moved(line, unfolded)
        if moved is not None:
            return Region(moved, ("sym", line[0]))
    return Region(intervals, quantity)


def _moved(line: tuple[str, Tree, Tree], intervals: Sequence[Interval]) -> tuple[Interval, ...] | None:
    """Bounds of factor * x + constant as bounds of x."""
    _, factor, constant = line
    sign = _sign(factor)
    if not sign:
        return None
    moved = []
    for piece in intervals:
        low, high = (_inverse(bound, factor, constant, sign) for bound in (piece.low, piece.high))
        moved.append(
            Interval(low, piece.low_closed, high, piece.high_closed)
            if sign > 0
            else Interval(high, piece.high_closed, low, piece.low_closed)
        )
    return tuple(moved)


def _inverse(bound: Tree, factor: Tree, constant: Tree, sign: int) -> Tree:
    if bound in (INF, NEG_INF):
        return bound if sign > 0 else {INF: NEG_INF, NEG_INF: INF}[bound]
    if factor == ("num", Fraction(1)) and constant == ("num", Fraction(0)):
        return bound
    return ("div", ("add", bound, ("neg", constant)), factor)


def _folded(quantity: Tree) -> tuple[Tree | None, int]:
    """The inside of an absolute value (power 1) or a square (power 2)."""
    if quantity[:2] == ("fn", "abs") and len(quantity) == 3:
        return quantity[2], 1
    if quantity[0] == "pow" and quantity[2] == ("num", Fraction(2)):
        return quantity[1], 2
    return None, 0


def _unfolded(intervals: Sequence[Interval], power: int) -> tuple[Interval, ...] | None:
    """The intervals of q for those of |q| or q squared."""
    pieces: list[Interval] = []
    for piece in intervals:
        low, high = _real(piece.low), _real(piece.high)
        if low is None or high is None:
            return None
        upper = piece.high if piece.high == INF or power == 1 else ("root", piece.high, ("num", Fraction(2)))
        if high < 0 or (high == 0 and not piece.high_closed):
            continue
        if low < 0 or (low == 0 and piece.low_closed):
            pieces.append(Interval(("neg", upper), piece.high_closed and upper != INF, upper, piece.high_closed))
            continue
        lower = piece.low if power == 1 else ("root", piece.low, ("num", Fraction(2)))
        pieces.append(Interval(("neg", upper), piece.high_closed, ("neg", lower), piece.low_closed))
        pieces.append(Interval(lower, piece.low_closed, upper, piece.high_closed))
    return tuple(pieces)


# -- sets of regions -------------------------------------------------------------------------------


def as_region(value: Value) -> Region | None:
    """A region, also out of a pair of expressions in brackets."""
    if isinstance(value, Region):
        return value
    if isinstance(value, Seq) and len(value.items) == 2:
        low, high = value.items
        if isinstance(low, Expr) and isinstance(high, Expr):
            return Region((Interval(low.tree, value.left == "[", high.tree, value.right == "]"),))
    return None


def _shared(regions: Sequence[Region]) -> tuple[Tree | None, bool] | None:
    """The quantity and kind that regions have in common (one that is not named fits any); None
    where they have none.
    """
    named = {r.quantity for r in regions if r.quantity is not None}
    if len(named) > 1:
        return None
    return (named.pop() if named else None), any(r.integers for r in regions)


def union(regions: Sequence[Region]) -> Region | None:
    if (shared := _shared(regions)) is None or len({r.integers for r in regions}) > 1:
        return None
    return Region(tuple(i for r in regions for i in r.intervals), *shared)


def intersection(regions: Sequence[Region]) -> Region | None:
    """None where the bounds have no order, or the regions bound different quantities."""
    if (shared := _shared(regions)) is None:
        return None
    common = regions[0].intervals
    for other in regions[1:]:
        if not ordered((*common, *other.intervals)):
            return None
        pairs = (cut((a, b)) for a in common for b in other.intervals)
        common = tuple(i for i in pairs if i is not None)
    return Region(common, *shared)


def without(region: Region, points: Sequence[Tree]) -> Region | None:
    """A region without single points."""
    holes = [Region((Interval(NEG_INF, False, p, False), Interval(p, False, INF, False))) for p in points]
    return intersection([region, *holes])


def difference(region: Region, other: Region) -> Region | None:
    """What is in the first and not in the second."""
    left: Region | None = region
    for piece in other.intervals:
        outside = (
            Interval(NEG_INF, False, piece.low, not piece.low_closed),
            Interval(piece.high, not piece.high_closed, INF, False),
        )
        left = (
            None
            if left is None
            else intersection([left, Region(tuple(i for i in outside if i.high != NEG_INF and i.low != INF))])
        )
    return left


def all_but(points: Sequence[Tree]) -> Region | None:
    return without(ALL, points)


def ordered(intervals: Sequence[Interval]) -> bool:
    """Whether every bound is a real number, so that the intervals can be cut."""
    return all(_real(tree) is not None for tree in {t for i in intervals for t in (i.low, i.high)})


def cut(intervals: Sequence[Interval]) -> Interval | None:
    """The intersection, or None where it is empty. The bounds must be `ordered`."""
    low = max(intervals, key=lambda i: (_real(i.low), not i.low_closed))
    high = min(intervals, key=lambda i: (_real(i.high), i.high_closed))
    bottom, top = _real(low.low), _real(high.high)
    assert bottom is not None and top is not None
    if bottom > top or (bottom == top and not (low.low_closed and high.high_closed)):
        return None
    return Interval(low.low, low.low_closed, high.high, high.high_closed)


def integers_of(region: Region) -> list[Tree] | None:
    """The whole numbers in a region that has few of them; None for many or infinitely many."""
    found: set[int] = set()
    mp = evaluate.context()
    for piece in region.intervals:
        low, high = _real(piece.low), _real(piece.high)
        if (
            low is None
            or high is None
            or mp.isinf(low)
            or mp.isinf(high)
            or high - low > MAX_INTEGERS
            or abs(low) > 10**15
        ):
            return None
        first, last = int(mp.ceil(low)), int(mp.floor(high))
        found.update(
            n for n in range(first, last + 1) if (n != low or piece.low_closed) and (n != high or piece.high_closed)
        )
    return [("num", Fraction(n)) for n in sorted(found)]


# -- equality --------------------------------------------------------------------------------------


def same_region(gold: Region, answer: Region) -> bool | None:
    """Whether two regions are the same; None where their quantities have nothing to do with each
    other, or bounds no order.
    """
    if gold.integers != answer.integers:
        return False
    if gold.quantity is not None and answer.quantity is not None and gold.quantity != answer.quantity:
        mapped = _mapped(gold.quantity, answer)
        if mapped is None:
            return None if gold.quantity[0] == answer.quantity[0] == "sym" else False
        answer = mapped
    elif (gold.quantity is None) != (answer.quantity is None) and not _nameable(gold.quantity or answer.quantity):
        return False
    first, second = _merged(gold), _merged(answer)
    if first is None or second is None:
        return _same_pieces(gold.intervals, answer.intervals)
    return len(first) == len(second) and all(_close(a, b) for a, b in zip(first, second, strict=True))


def _nameable(quantity: Tree | None) -> bool:
    """Whether an interval alone may stand for a region of this quantity: a letter, `f(x)`, `a+b`;
    no product, no power.
    """
    return quantity is not None and all(n[0] in ("sym", "add", "neg") for n in walk(quantity))


def _mapped(quantity: Tree, answer: Region) -> Region | None:
    """The answer's region in terms of the gold's quantity, where that is a multiple of the answer's
    plus a constant.
    """
    assert answer.quantity is not None
    names = symbols(quantity) | symbols(answer.quantity)
    if symbols(quantity) != symbols(answer.quantity):
        return None
    values: list[tuple[Any, Any]] = []
    for env in evaluate.points(names):
        try:
            values.append((evaluate.numeric(quantity, env), evaluate.numeric(answer.quantity, env)))
        except (evaluate.Undefined, TooBig):
            continue
    if len(values) < 4 or values[0][1] == values[1][1]:
        return None
    factor = (values[0][0] - values[1][0]) / (values[0][1] - values[1][1])
    shift = values[0][0] - factor * values[0][1]
    mp = evaluate.context()
    if (
        mp.im(factor) != 0
        or factor == 0
        or not all(
            evaluate.close(w, factor * f + shift) or abs(w - factor * f - shift) < mp.mpf(10) ** -60 for w, f in values
        )
    ):
        return None
    scale, constant = _rational(factor), _rational(shift)
    if scale is None or constant is None:
        return None
    line = ("q", ("num", 1 / scale), ("num", -constant / scale))
    moved = _moved(line, answer.intervals)
    return None if moved is None else Region(moved, quantity, answer.integers)


def _rational(value: Any) -> Fraction | None:
    """The small fraction that a number is, within rounding."""
    mp = evaluate.context()
    found = Fraction(str(mp.nstr(mp.re(value), 40))).limit_denominator(10**6)
    return found if abs(mp.mpf(found.numerator) / found.denominator - value) < mp.mpf(10) ** -30 else None


def _merged(region: Region) -> list[tuple[Any, bool, Any, bool]] | None:
    """(low, closed, high, closed) in order, overlapping and touching pieces joined; None where a
    bound is no real number.
    """
    pieces = []
    for piece in region.intervals:
        low, high = _real(piece.low), _real(piece.high)
        if low is None or high is None:
            return None
        if region.integers:
            low, high, closed = *_whole_bounds(low, piece.low_closed, high, piece.high_closed), True
            pieces.append((low, closed, high, closed))
        elif low < high or (low == high and piece.low_closed and piece.high_closed):
            pieces.append((low, piece.low_closed, high, piece.high_closed))
        elif low > high:
            return None  # (3,1): a mistake or a point of the plane, and no empty set
    pieces.sort(key=lambda p: (p[0], not p[1]))
    joined: list[tuple[Any, bool, Any, bool]] = []
    for low, low_closed, high, high_closed in pieces:
        if joined and (low < joined[-1][2] or (low == joined[-1][2] and (low_closed or joined[-1][3]))):
            last = joined.pop()
            joined.append((last[0], last[1], *max((last[2], last[3]), (high, high_closed))))
        else:
            joined.append((low, low_closed, high, high_closed))
    return joined


def _whole_bounds(low: Any, low_closed: bool, high: Any, high_closed: bool) -> tuple[Any, Any]:
    mp = evaluate.context()
    if not mp.isinf(low):
        low = mp.ceil(low) + (low == mp.ceil(low) and not low_closed)
    if not mp.isinf(high):
        high = mp.floor(high) - (high == mp.floor(high) and not high_closed)
    return low, high


def _close(a: tuple[Any, bool, Any, bool], b: tuple[Any, bool, Any, bool]) -> bool:
    mp = evaluate.context()
    closed = [(x and not mp.isinf(y)) for x, y in ((a[1], a[0]), (a[3], a[2]))] == [
        (x and not mp.isinf(y)) for x, y in ((b[1], b[0]), (b[3], b[2]))
    ]
    return closed and evaluate.close(a[0], b[0]) and evaluate.close(a[2], b[2])


def _same_pieces(gold: Sequence[Interval], answer: Sequence[Interval]) -> bool | None:
    """Bounds with symbols: piece by piece."""
    if len(gold) != len(answer):
        return None if gold and answer else False
    rest = list(answer)
    for piece in gold:
        match = next((r for r in rest if _same_piece(piece, r)), None)
        if match is None:
            return False if len(gold) == 1 else None
        rest.remove(match)
    return True


def _same_piece(a: Interval, b: Interval) -> bool:
    if (a.low_closed, a.high_closed) != (b.low_closed, b.high_closed):
        return False
    return bool(evaluate.same(a.low, b.low)) and bool(evaluate.same(a.high, b.high))


def _real(tree: Tree) -> Any | None:
    """The bound as a real number, infinities included; None where it is none or has symbols."""
    if symbols(tree) or _has(tree, "matrix") or _has(tree, "basis"):
        return None
    try:
        value = evaluate.value(tree)
    except TooBig:
        return None
    mp = evaluate.context()
    return None if value is None or mp.im(value) != 0 else mp.re(value)


def _sign(tree: Tree) -> int:
    value = _real(tree)
    return 0 if value is None else int(value > 0) - int(value < 0)


def _has(tree: Tree, kind: str) -> bool:
    return any(n[0] == kind for n in walk(tree))
