r"""Read one expression, LaTeX or ASCII, into a tree of tuples. Small, strict, and bounded.

A tree is `(kind, *parts)`:

    ("num", Fraction)  ("sym", name)  ("const", "pi" | "e" | "i" | "oo")
    ("add", a, b)  ("mul", a, b)  ("div", a, b)  ("neg", a)  ("pow", a, b)  ("pm", a, sign)
    ("root", a, n)  ("fn", name, a, ...)  ("deg", a)  ("matrix", ((a, ...), ...))
    ("basis", "i" | "j" | "k")

What it cannot read raises `Unreadable` (it is then text, or left to sympy): integrals, sums,
limits, logic. Departures from LaTeX: `\sqrt12` is the root of 12 and `x^12` the 12th power, as
models mean them; `1e3` is 1000; `\log` is the natural logarithm; `i` is the imaginary unit and `e`
Euler's number, in whatever font; `\mathbf{i}`, `\hat{i}` and `\vec{i}` are unit vectors; `f(...)`
and `g(...)` are the value of a function and no product; `\frac{dy}{dx}` is one symbol.
"""

from __future__ import annotations

from fractions import Fraction

from qwq.verify.math.letters import Letters
from qwq.verify.math.lexer import (
    CONSTANTS,
    DECORATIONS,
    DIVIDE,
    ENDS,
    FUNCTIONS,
    GREEK,
    TIMES,
    WRAPPERS,
    Unreadable,
    tokens,
)
from qwq.verify.math.trees import Tree

_INVERTED = frozenset("sin cos tan cot sec csc sinh cosh tanh".split())


def parse(text: str) -> Tree:
    """The tree of an expression. Unreadable where it is none."""
    reader = _ExpressionReader(tokens(text))
    tree = reader.sum()
    if reader.peek() is not None:
        raise Unreadable(f"stray {reader.peek()!r}")
    return tree


class _ExpressionReader(Letters):
    def _bare_atom(self) -> Tree:
        token = self.peek()
        if token is None:
            raise Unreadable("ends too early")
        if token[0].isdigit() or token[0] == ".":
            return self._number()
        if token == "(":
            return self._group("(", ")")
        if token == "[":
            return self._group("[", "]")
        if token == "{":
            return self._group("{", "}")
        if token in ("|", "\\|"):
            return self._absolute(token)
        self._at += 1
        if token[0] == "\\":
            return self._command(token)
        if token.isalpha():
            return self._symbol(token)
        raise Unreadable(f"stray {token!r}")

    def _command(self, token: str) -> Tree:
        name = token[1:]
        if name == "frac" and (derivative := self._derivative()) is not None:
            return derivative
        if name in ("frac", "binom"):
            above, below = self._argument(digit=True), self._argument(digit=True)
            return ("div", above, below) if name == "frac" else ("fn", "binom", above, below)
        if name == "sqrt":
            index: Tree = ("num", Fraction(2))
            if self.peek() == "[":
                index = self._group("[", "]")
            return ("root", self._argument(), index)
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in FUNCTIONS:
            return self._function(name)
        if name == "Gamma" and self.peek() == "(":
            return ("fn", "gamma", *self._function_arguments())
        if name in GREEK:
            return self._symbol(name)
        if token in WRAPPERS:
            return self._wrapped()
        if token in DECORATIONS:
            return self._decorated(name)
        if name in ("lfloor", "lceil"):
            tree = self.sum()
            self.expect("\\rfloor" if name == "lfloor" else "\\rceil")
            return ("fn", "floor" if name == "lfloor" else "ceil", tree)
        if name == "begin":
            return self._matrix()
        raise Unreadable(f"the command {token}")

    def _function(self, name: str) -> Tree:
        base: Tree | None = None
        power: Tree | None = None
        while self.peek() in ("_", "^"):
            if self.next() == "_":
                base = self._argument()
            elif self._is_degree():
                raise Unreadable("a degree sign on a function name")
            else:
                power = self._argument(signed=True)
        arguments = self._function_arguments()
        if name == "log" and base is not None:
            tree: Tree = ("fn", "log", *arguments, base)
        elif base is not None:
            raise Unreadable(f"a subscript on {name}")
        else:
            tree = ("fn", name, *arguments)
        if power is None:
            return tree
        if power == ("neg", ("num", Fraction(1))) and name in _INVERTED:
            return ("fn", "arc" + name, *arguments)
        return ("pow", tree, power)

    def _function_arguments(self) -> list[Tree]:
        if self.peek() in ("(", "{", "[", "\\{"):
            opening = self.next()
            closing = {"(": ")", "{": "}", "[": "]", "\\{": "\\}"}[opening]
            arguments = [self.sum()]
            while self.peek() == ",":
                self._at += 1
                arguments.append(self.sum())
            self.expect(closing)
            if self.peek() == "^" and len(arguments) == 1 and opening == "(":
                return [*arguments]  # sin(x)^2 is (sin x)^2: the caller's postfix loop takes the power
            return arguments
        if self.peek() == "-":
            self._at += 1
            return [("neg", self._bare_argument())]
        return [self._bare_argument()]

    def _bare_argument(self) -> Tree:
        r"""`\sin 2x`: the factors that are directly together, up to an operator or the next
        function.
        """
        tree = self._factor()
        while (token := self.peek()) is not None and token not in ENDS | TIMES | DIVIDE | {"(", "["}:
            if token[1:] in FUNCTIONS or token in WRAPPERS:
                break
            tree = ("mul", tree, self._factor())
        return tree

    def _matrix(self) -> Tree:
        self.expect("{")
        kind = "".join(iter(self.next, "}"))
        if not (kind.endswith("matrix") or kind == "array"):
            raise Unreadable(f"the environment {kind}")
        if kind == "array" and self.peek() == "{":
            while self.next() != "}":
                pass
        rows: list[tuple[Tree, ...]] = []
        row: list[Tree] = []
        while True:
            if self.peek() == "\\end":
                break
            row.append(self.sum())
            token = self.peek()
            if token == "&":
                self._at += 1
            elif token == "\\\\":
                self._at += 1
                rows.append(tuple(row))
                row = []
            elif token != "\\end":
                raise Unreadable("a matrix entry that does not end")
        if row:
            rows.append(tuple(row))
        self.expect("\\end")
        self.expect("{")
        if "".join(iter(self.next, "}")) != kind or not rows or len({len(r) for r in rows}) > 1:
            raise Unreadable("a matrix with uneven rows")
        tree: Tree = ("matrix", tuple(rows))
        return ("fn", "det", tree) if kind == "vmatrix" else tree
