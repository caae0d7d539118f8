r"""Expression trees: nested tuples `(kind, *parts)`, as `expr` describes them.

Walking, naming, and matrices worked out.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

Tree = tuple[Any, ...]

ZERO: Tree = ("num", Fraction(0))
ONE: Tree = ("num", Fraction(1))
MAX_MATRIX = 12  # rows or columns of a matrix that is worked with


def is_set(tree: Tree) -> bool:
    r"""A capital letter: `A \times B` may be a product of sets or matrices, which is not `B \times
    A`.
    """
    return tree[0] == "sym" and len(tree[1]) == 1 and tree[1].isupper()


def vector_product(sign: str, a: Tree, b: Tree) -> Tree:
    r"""`\vec a \cdot \vec b`, the same in any order, and `\vec a \times \vec b`, which changes its
    sign: each a symbol of its own.
    """
    first, second = sorted((flat(a), flat(b)))
    tree: Tree = ("sym", f"{'dot' if sign == chr(92) + 'cdot' else 'cross'}({first},{second})")
    return ("neg", tree) if sign == "\\times" and flat(a) != first else tree


def flat(tree: Tree) -> str:
    """A short name of a subscript."""
    if tree[0] == "num":
        return str(tree[1])
    if tree[0] in ("sym", "const"):
        return str(tree[1])
    return "(" + ",".join(flat(p) if isinstance(p, tuple) else str(p) for p in tree) + ")"


def walk(tree: Tree) -> list[Tree]:
    """All nodes, without recursion."""
    found, todo = [], [tree]
    while todo:
        node = todo.pop()
        found.append(node)
        if node[0] == "matrix":
            todo.extend(entry for row in node[1] for entry in row)
        else:
            todo.extend(p for p in node[1:] if isinstance(p, tuple))
    return found


def symbols(tree: Tree) -> frozenset[str]:
    return frozenset(n[1] for n in walk(tree) if n[0] == "sym")


# -- matrices --------------------------------------------------------------------------------------


def worked_out(tree: Tree) -> Tree | None:
    r"""The tree with sums, products, powers, transposes and determinants of matrices carried out;
    None where that cannot be done.

    A tree without matrices comes back as it is.
    """
    if not any(n[0] == "matrix" for n in walk(tree)):
        return tree
    kind = tree[0]
    if kind == "matrix":
        return tree
    if kind == "pow" and tree[1][0] == "matrix" and tree[2] in (("sym", "T"), ("sym", "top"), ("sym", "intercal")):
        return _transposed(tree[1])
    if kind == "pow":
        base = worked_out(tree[1])
        return None if base is None else _power(base, tree[2])
    if kind == "fn":
        inner = worked_out(tree[2]) if len(tree) == 3 else None
        return (
            determinant(inner[1]) if inner is not None and inner[0] == "matrix" and tree[1] in ("det", "abs") else None
        )
    parts = [worked_out(p) if isinstance(p, tuple) else p for p in tree[1:]]
    if None in parts:
        return None
    return _combined(kind, parts)


def _combined(kind: str, parts: list[Any]) -> Tree | None:
    first, second = parts[0], parts[-1]
    matrices = [isinstance(p, tuple) and p[0] == "matrix" for p in (first, second)]
    if kind == "neg":
        return _each(first, lambda e: ("neg", e)) if matrices[0] else ("neg", first)
    if not any(matrices):
        return (kind, *parts)
    if kind == "add":
        if not all(matrices) or _shape(first) != _shape(second):
            return None
        return (
            "matrix",
            tuple(
                tuple(("add", x, y) for x, y in zip(a, b, strict=True))
                for a, b in zip(first[1], second[1], strict=True)
            ),
        )
    if kind == "mul" and all(matrices):
        return _product(first, second)
    if kind == "mul":
        scalar, matrix = (second, first) if matrices[0] else (first, second)
        return _each(matrix, lambda e: ("mul", scalar, e))
    if kind == "div" and matrices == [True, False]:
        return _each(first, lambda e: ("div", e, second))
    return None


def _each(matrix: Tree, change: Any) -> Tree:
    return ("matrix", tuple(tuple(change(e) for e in row) for row in matrix[1]))


def _shape(matrix: Tree) -> tuple[int, int]:
    return len(matrix[1]), len(matrix[1][0])


def _transposed(matrix: Tree) -> Tree:
    return ("matrix", tuple(zip(*matrix[1], strict=True)))


def _product(a: Tree, b: Tree) -> Tree | None:
    if _shape(a)[1] != _shape(b)[0] or max(*_shape(a), *_shape(b)) > 5:
        return None
    columns = list(zip(*b[1], strict=True))
    rows = []
    for row in a[1]:
        entries = []
        for column in columns:
            total: Tree = ("mul", row[0], column[0])
            for x, y in zip(row[1:], column[1:], strict=True):
                total = ("add", total, ("mul", x, y))
            entries.append(total)
        rows.append(tuple(entries))
    return ("matrix", tuple(rows))


def _power(base: Tree, exponent: Tree) -> Tree | None:
    if base[0] != "matrix":
        return ("pow", base, exponent)
    if exponent in (("neg", ONE), ("num", Fraction(-1))):
        return _inverse(base)
    if exponent[0] != "num" or exponent[1] not in (1, 2, 3, 4) or _shape(base)[0] != _shape(base)[1]:
        return None
    tree: Tree | None = base
    for _ in range(int(exponent[1]) - 1):
        tree = None if tree is None else _product(tree, base)
    return tree


def _inverse(matrix: Tree) -> Tree | None:
    """Of two by two only."""
    if _shape(matrix) != (2, 2):
        return None
    (a, b), (c, d) = matrix[1]
    det = determinant(matrix[1])
    return _each(("matrix", ((d, ("neg", b)), (("neg", c), a))), lambda e: ("div", e, det))


def determinant(rows: tuple[tuple[Tree, ...], ...]) -> Tree | None:
    """By the first row; None for what is not square or larger than four."""
    if len(rows) != len(rows[0]) or len(rows) > 4:
        return None
    if len(rows) == 1:
        return rows[0][0]
    total: Tree = ZERO
    for column, entry in enumerate(rows[0]):
        minor = determinant(tuple((*row[:column], *row[column + 1 :]) for row in rows[1:]))
        term: Tree = ("mul", entry, minor)
        total = ("add", total, ("neg", term) if column % 2 else term)
    return total


# -- linear pieces ---------------------------------------------------------------------------------


def affine(tree: Tree) -> tuple[str, Tree, Tree] | None:
    """(symbol, factor, constant) of a tree that is factor times symbol plus constant; None for any
    other.
    """
    kind = tree[0]
    if kind == "sym":
        return tree[1], ONE, ZERO
    if kind == "neg":
        inner = affine(tree[1])
        return None if inner is None else (inner[0], ("neg", inner[1]), ("neg", inner[2]))
    if kind not in ("add", "mul", "div"):
        return None
    free = [not symbols(p) for p in tree[1:]]
    if kind == "add" and any(free):
        inner = affine(tree[2] if free[0] else tree[1])
        constant = tree[1] if free[0] else tree[2]
        return None if inner is None else (inner[0], inner[1], ("add", inner[2], constant))
    if kind == "mul" and any(free):
        inner, by = affine(tree[2] if free[0] else tree[1]), tree[1] if free[0] else tree[2]
        return None if inner is None else (inner[0], ("mul", by, inner[1]), ("mul", by, inner[2]))
    if kind == "div" and free[1]:
        inner = affine(tree[1])
        return None if inner is None else (inner[0], ("div", inner[1], tree[2]), ("div", inner[2], tree[2]))
    return None


def components(tree: Tree) -> dict[str, Tree] | None:
    r"""The components of a vector written with `\mathbf{i}`, `\mathbf{j}`, `\mathbf{k}`; None where
    it is not linear in them.
    """
    kind = tree[0]
    if kind == "basis":
        return {tree[1]: ONE}
    if not _has_basis(tree):
        return {} if tree == ZERO else None
    if kind == "neg":
        inner = components(tree[1])
        return None if inner is None else {k: ("neg", v) for k, v in inner.items()}
    if kind == "add":
        first, second = components(tree[1]), components(tree[2])
        if first is None or second is None:
            return None
        return {k: ("add", first.get(k, ZERO), second.get(k, ZERO)) for k in {**first, **second}}
    if kind in ("mul", "div"):
        return _scaled_components(tree)
    return None


def _scaled_components(tree: Tree) -> dict[str, Tree] | None:
    """Of a vector times or over a scalar; None for two vectors, and for a vector below."""
    kind = tree[0]
    first, second = (_has_basis(part) for part in tree[1:])
    if (first and second) or (kind == "div" and second):
        return None
    vector, scalar = (tree[1], tree[2]) if first else (tree[2], tree[1])
    inner = components(vector)
    if inner is None:
        return None
    return {axis: ("div", part, scalar) if kind == "div" else ("mul", scalar, part) for axis, part in inner.items()}


def _has_basis(tree: Tree) -> bool:
    return any(node[0] == "basis" for node in walk(tree))
