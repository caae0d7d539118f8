"""What an answer can be: the typed values that `read` makes of a text and `compare` compares."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qwq.verify.math.numbers import Number
from qwq.verify.math.trees import Tree
from qwq.verify.math.unit_tables import Unit
from qwq.verify.math.words import Date, TimeOfDay

MAX_ITEMS = 200
_ROOT = re.compile(r"(?:[xzrt]|\\lambda|\\alpha)_?\d")
MAX_NESTING = 8


@dataclass(frozen=True, slots=True)
class Expr:
    """An expression.

    `number`: where it is a plain one; `other`: a second reading, `12m` as twelve metres.
    """

    tree: Tree
    number: Number | None = None
    unit: Unit | None = None
    other: Expr | None = None


@dataclass(frozen=True, slots=True)
class Text:
    words: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """What is read by no rule: equal to the same text, otherwise left to sympy or undecided."""

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
    """Several values: a list, or a set in braces.

    `labels` are the names they were given ("" for none).
    """

    items: tuple[Value, ...]
    labels: tuple[str, ...]
    braces: bool = False

    @property
    def named(self) -> bool:
        """Each value has a name of its own: p=5, q=2; a_1=3, a_2=5; f(0)=1, f(1)=2.

        Not x_1 and x_2, the roots of one equation.
        """
        names = set(self.labels)
        return (
            len(names) == len(self.labels) > 1
            and "" not in names
            and not all(_ROOT.fullmatch(label) for label in names)
        )

    @property
    def ordered(self) -> bool:
        """Named by different letters, or going on with dots."""
        return self.named or Dots() in self.items


@dataclass(frozen=True, slots=True)
class Interval:
    low: Tree
    low_closed: bool
    high: Tree
    high_closed: bool


@dataclass(frozen=True, slots=True)
class Region:
    """A union of intervals; none is the empty set. `quantity`: what lies in it, None where that is
    not said.

    `integers`: only its whole numbers are meant.
    """

    intervals: tuple[Interval, ...]
    quantity: Tree | None = None
    integers: bool = False


@dataclass(frozen=True, slots=True)
class NumberSet:
    """A set with a name that is no region: Z, N, Q, C, with its marks (`Z+`, `N*`)."""

    name: str


@dataclass(frozen=True, slots=True)
class SolutionFamily:
    """A value for each member of a set: `2k\\pi, k \\in \\mathbb{Z}`."""

    value: Value
    parameter: str
    domain: str


@dataclass(frozen=True, slots=True)
class Relation:
    """`left op right` that is no region; chains of `=` keep their first and last side. `label`: a
    mere name of `right`.

    `middle`: the sides between, of a chain.
    """

    op: str
    left: Tree | None
    right: Value
    left_text: str
    label: bool = False
    middle: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Congruence:
    """`left` (None where only residues are given) leaves one of `residues` on division by
    `modulus`.
    """

    left: Tree | None
    residues: tuple[Value, ...]
    modulus: Value


@dataclass(frozen=True, slots=True)
class Piecewise:
    """(value, condition) pairs in any order; the condition is a text or a value, "otherwise" among
    them.
    """

    rows: tuple[tuple[Value, Value], ...]


@dataclass(frozen=True, slots=True)
class Logic:
    """Statements joined by one of `lor` and `land`, or sets by `cup` or `cap`."""

    op: str
    items: frozenset[Tree]


@dataclass(frozen=True, slots=True)
class Ratio:
    parts: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Time:
    clock: TimeOfDay


@dataclass(frozen=True, slots=True)
class Day:
    date: Date


Value = (
    Expr
    | Text
    | Unknown
    | Dots
    | Seq
    | Bag
    | Region
    | NumberSet
    | SolutionFamily
    | Relation
    | Congruence
    | Piecewise
    | Logic
    | Ratio
    | Time
    | Day
)

INF: Tree = ("const", "oo")
NEG_INF: Tree = ("neg", INF)
ALL = Region((Interval(NEG_INF, False, INF, False),))
