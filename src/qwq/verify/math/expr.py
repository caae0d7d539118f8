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

from qwq.verify.math.tokens import (
    ALIASES,
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
from qwq.verify.math.trees import Tree, flat, is_set, vector_product

MAX_DEPTH = 100  # sums and atoms inside one another, counted together
MAX_EXPONENT = 400
_INVERTED = frozenset("sin cos tan cot sec csc sinh cosh tanh".split())


def parse(text: str) -> Tree:
    """The tree of an expression. Unreadable where it is none."""
    reader = _Reader(tokens(text))
    tree = reader.sum()
    if reader.peek() is not None:
        raise Unreadable(f"stray {reader.peek()!r}")
    return tree


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._bars = 0
        self._vector_end = -1  # where the last symbol with an arrow, a hat or in bold type ended

    def peek(self, ahead: int = 0) -> str | None:
        position = self._at + ahead
        return self._tokens[position] if position < len(self._tokens) else None

    def next(self) -> str:
        token = self.peek()
        if token is None:
            raise Unreadable("ends too early")
        self._at += 1
        return token

    def expect(self, token: str) -> None:
        if self.peek() != token:
            raise Unreadable(f"{token!r} is missing")
        self._at += 1

    # -- sums and products ------------------------------------------------------------------------

    def sum(self) -> Tree:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        tree = self._signed()
        while (token := self.peek()) in ("+", "-", "\\pm", "\\mp"):
            self._at += 1
            right = self._signed() if self.peek() in ("+", "-") else self._product()
            if token in ("\\pm", "\\mp"):
                tree = ("add", tree, ("pm", right, 1 if token == "\\pm" else -1))
            else:
                tree = ("add", tree, ("neg", right) if token == "-" else right)
        self._depth -= 1
        return tree

    def _signed(self) -> Tree:
        signs = 0
        while (token := self.peek()) in ("+", "-"):
            self._at += 1
            signs += token == "-"
        if token in ("\\pm", "\\mp"):
            self._at += 1
            tree: Tree = ("pm", self._product(), 1 if token == "\\pm" else -1)
        else:
            tree = self._product()
        return ("neg", tree) if signs % 2 else tree

    def _product(self) -> Tree:
        tree = self._mixed() or self._factor()
        while (token := self.peek()) is not None:
            if token in TIMES or token in DIVIDE:
                self._at += 1
                if token in ("\\cdot", "\\times") and self._vector_end == self._at - 1 and self.peek() in DECORATIONS:
                    tree = vector_product(token, tree, self._factor())
                    continue
                sign = 0
                while self.peek() in ("+", "-"):
                    sign += self.next() == "-"
                right = self._factor()
                if token == "\\times" and is_set(tree) and is_set(right) and not sign:
                    tree = vector_product(token, tree, right)
                    continue
                right = ("neg", right) if sign % 2 else right
                tree = ("div" if token in DIVIDE else "mul", tree, right)
            elif token in ENDS and not (token == "|" and not self._bars):
                break
            elif token[0].isdigit() and self._tokens[self._at - 1][0].isdigit():
                raise Unreadable("two numbers side by side")
            else:
                tree = ("mul", tree, self._factor())
        return tree

    def _mixed(self) -> Tree | None:
        r"""`3\frac{1}{2}` as three and a half: whole number, then a proper fraction of plain
        integers.
        """
        whole, after = self.peek(), self.peek(1)
        if whole is None or not whole.isdigit():
            return None
        start = self._at
        if after == "\\frac":
            self._at += 1
            part = self._atom()
        elif after is not None and after.isdigit() and self.peek(2) == "/" and (self.peek(3) or "").isdigit():
            self._at += 4
            part = (
                "div",
                ("num", Fraction(after)),
                ("num", Fraction(self._tokens[self._at - 1])),
            )
        else:
            return None
        proper = part[0] == "div" and part[1][0] == "num" and part[2][0] == "num" and 0 < part[1][1] < part[2][1]
        integral = proper and part[1][1].denominator == part[2][1].denominator == 1
        if not integral or self.peek() in ("^", "!"):
            self._at = start
            return None
        return ("num", Fraction(whole) + part[1][1] / part[2][1])

    # -- factors ----------------------------------------------------------------------------------

    def _factor(self) -> Tree:
        tree = self._atom()
        while (token := self.peek()) is not None:
            if token == "^":
                tree = self._power(tree)
            elif token == "!":
                self._at += 1
                double = self.peek() == "!" and self.peek(1) != "!"
                self._at += double
                tree = ("fn", "factorial2" if double else "factorial", tree)
            elif token in ("%", "\\%", "\\permil"):
                self._at += 1
                tree = ("div", tree, ("num", Fraction(1000 if token == "\\permil" else 100)))
            else:
                return tree
        return tree

    def _power(self, base: Tree) -> Tree:
        self.expect("^")
        if self._is_degree():
            return ("deg", base)
        if self.peek() == "'":
            raise Unreadable("a prime as an exponent")
        exponent = self._argument(signed=True)
        if self.peek() == "_" and base[0] == "sym":  # \chi^2_5
            self._at += 1
            base = ("sym", f"{base[1]}_{flat(self._argument())}")
        if self.peek() == "^":  # x^a^b, as ASCII has it
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise Unreadable("an exponent tower")
            exponent = self._power(exponent)
            self._depth -= 1
        return ("pow", base, exponent)

    def _is_degree(self) -> bool:
        if self.peek() == "\\circ":
            self._at += 1
            return True
        if self.peek() == "{" and self.peek(1) == "\\circ" and self.peek(2) == "}":
            self._at += 3
            return True
        return False

    def _argument(self, *, signed: bool = False, digit: bool = False) -> Tree:
        """A braced group, or the one token LaTeX would take; `digit`: only the first digit of a
        number.
        """
        token = self.peek()
        if token == "{":
            return self._group("{", "}")
        if signed and token in ("-", "+"):
            self._at += 1
            tree = self._atom()
            return ("neg", tree) if token == "-" else tree
        if digit and token is not None and token.isdigit() and len(token) > 1:
            self._tokens[self._at : self._at + 1] = [token[0], token[1:]]
            token = token[0]
        if token is not None and token[0].isdigit():
            self._at += 1
            return ("num", self._plain(token))
        return self._atom()

    def _group(self, opening: str, closing: str) -> Tree:
        self.expect(opening)
        bars, self._bars = self._bars, 0
        tree = self.sum()
        self._bars = bars
        self.expect(closing)
        return tree

    def _atom(self) -> Tree:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        tree = self._bare_atom()
        self._depth -= 1
        return tree

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

    def _number(self) -> Tree:
        token = self.next()
        value = self._plain(token)
        if self.peek() == "_":
            return self._radix(token)
        if self.peek() == "\\overline":
            self._at += 1
            return ("num", value + self._repeating(token))
        return ("num", value)

    @staticmethod
    def _plain(token: str) -> Fraction:
        mantissa, _, exponent = token.lower().partition("e")
        if exponent and abs(int(exponent)) > MAX_EXPONENT:
            raise Unreadable("the exponent is too large")
        return Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(exponent or 0)

    def _repeating(self, token: str) -> Fraction:
        self.expect("{")
        digits = self.next()
        self.expect("}")
        if "." not in token or not digits.isdigit():
            raise Unreadable("an overline over no digits")
        shift = len(token.partition(".")[2])
        return Fraction(int(digits), (10 ** len(digits) - 1) * 10**shift)

    def _radix(self, digits: str) -> Tree:
        self.expect("_")
        base = self._argument()
        if base[0] != "num" or not 2 <= base[1] <= 36 or base[1].denominator != 1 or not digits.isdigit():
            raise Unreadable("a subscript on a number that is no radix")
        if any(int(d) >= base[1] for d in digits):
            raise Unreadable(f"a digit too large for base {base[1]}")
        return ("num", Fraction(int(digits, int(base[1]))))

    def _absolute(self, bar: str) -> Tree:
        self.expect(bar)
        self._bars += 1
        tree = self.sum()
        self._bars -= 1
        self.expect(bar)
        return ("fn", "abs", tree)

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

    def _wrapped(self) -> Tree:
        self.expect("{")
        word = self.next()
        self.expect("}")
        if not word.isalpha():
            raise Unreadable(f"the text {word!r}")
        name = ALIASES.get(word, word)
        return self._function(name) if name in FUNCTIONS else self._symbol(word)

    def _decorated(self, name: str) -> Tree:
        r"""`\vec{a}`, `\hat{i}`, `\mathbf{v}`: a basis vector, a decorated symbol, or what is
        merely set in bold.
        """
        start = self._at
        inner = self._bare_letters()
        letters = inner.removeprefix("\\") if inner is not None else ""
        if letters in ("i", "j", "k", "imath", "jmath"):
            return ("basis", letters[0])
        if name == "mathbf":
            if letters.isalpha() and letters not in ("e", "pi"):
                tree = self._symbol(letters)
            else:
                self._at = start
                return self._argument()
        else:
            self._at = start
            tree = ("sym", f"{name}({flat(self._argument())})")
        self._vector_end = self._at
        return tree

    def _bare_letters(self) -> str | None:
        """The one word or letter that follows, whatever groups and bold type are around it; None
        for anything else.
        """
        token = self.peek()
        if token in ("\\mathbf", "\\hat", "\\vec"):
            self._at += 1
            return self._bare_letters()
        if token == "{":
            self._at += 1
            inner = self._bare_letters()
            if inner is None or self.peek() != "}":
                return None
            self._at += 1
            return inner
        if token is not None and (token.isalpha() or token in ("\\imath", "\\jmath")):
            self._at += 1
            return token
        return None

    def _derivative(self) -> Tree | None:
        r"""`\frac{dy}{dx}`, `\frac{\partial f}{\partial x}`, `\frac{d^2y}{dx^2}` as one symbol;
        None for a fraction.
        """
        if self.peek() != "{":
            return None
        start, parts = self._at, []
        for _ in range(2):
            part: list[str] = []
            if self.peek() == "{":
                self._at += 1
                depth = 1
                while depth and (token := self.peek()) is not None and len(part) < 24:
                    self._at += 1
                    depth += (token == "{") - (token == "}")
                    if depth and token not in ("{", "}", "\\mathrm", "\\text"):
                        part.append(token)
            parts.append(part)
        above, below = parts
        if (
            above
            and len(below) > 1
            and above[0] == below[0]
            and above[0] in ("d", "\\partial")
            and set("".join(below[1:])) <= set("abcdefghijklmnopqrstuvwxyz^0123456789\\")
        ):
            if len(above) == 1 or not set(above[1:]) - set("^0123456789"):
                raise Unreadable("a derivative to be taken")
            return ("sym", f"{''.join(above)}/{''.join(below)}")
        self._at = start
        return None

    def _symbol(self, name: str) -> Tree:
        if name == "e" and self.peek() != "_":
            return ("const", "e")
        if name == "i" and self.peek() != "_":
            return ("const", "i")
        while self.peek() in ("'", "_"):
            if self.next() == "'":
                name += "'"
            else:
                name += f"_{flat(self._argument())}"
        if self.peek() == "(" and name.rstrip("'") in ("f", "g"):
            return ("sym", f"{name}({','.join(flat(a) for a in self._function_arguments())})")
        return ("sym", name)

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
        r"""`\sin 2x`: the factors that stand directly together, up to an operator or the next
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
