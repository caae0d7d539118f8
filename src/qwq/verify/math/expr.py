r"""Read one expression, LaTeX or ASCII, into a tree of tuples. Small, strict, and bounded.

A tree is `(kind, *parts)`:

    ("num", Fraction)  ("sym", name)  ("const", "pi" | "e" | "i" | "oo")
    ("add", a, b)  ("mul", a, b)  ("div", a, b)  ("neg", a)  ("pow", a, b)  ("pm", a, sign)
    ("root", a, n)  ("fn", name, a, ...)  ("deg", a)  ("matrix", ((a, ...), ...))

What it cannot read raises `Unreadable` (it is then text, or left to sympy): integrals, sums, limits, logic.
Departures from LaTeX: `\sqrt12` is the root of 12 and `x^12` the 12th power, as models mean them; `1e3` is 1000;
`\log` is the natural logarithm; `i` is the imaginary unit and `e` Euler's number, in whatever font.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

Tree = tuple[Any, ...]

MAX_DEPTH = 100  # sums and atoms inside one another, counted together
MAX_TOKENS = 800
MAX_DIGITS = 400
MAX_EXPONENT = 400

FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "sec",
        "csc",
        "cot",
        "arcsin",
        "arccos",
        "arctan",
        "arccot",
        "sinh",
        "cosh",
        "tanh",
        "coth",
        "ln",
        "log",
        "lg",
        "exp",
        "max",
        "min",
        "gcd",
        "lcm",
        "abs",
        "floor",
        "ceil",
        "sgn",
    ]
)
_ALIASES = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "arsinh": "arcsinh",
    "cosec": "csc",
    "sign": "sgn",
}
GREEK = frozenset(
    [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "varepsilon",
        "zeta",
        "eta",
        "theta",
        "vartheta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "rho",
        "sigma",
        "tau",
        "upsilon",
        "phi",
        "varphi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Xi",
        "Pi",
        "Sigma",
        "Upsilon",
        "Phi",
        "Psi",
        "Omega",
        "ell",
        "hbar",
    ]
)
_CONSTANTS = {
    "pi": ("const", "pi"),
    "infty": ("const", "oo"),
    "infinity": ("const", "oo"),
    "oo": ("const", "oo"),
}
_TIMES = {"*", "\\cdot", "\\times"}
_DIVIDE = {"/", "\\div"}
_ENDS = {
    ")",
    "]",
    "}",
    "\\}",
    ",",
    ";",
    "|",
    "&",
    "\\\\",
    "+",
    "-",
    "\\pm",
    "\\mp",
    "\\rfloor",
    "\\rceil",
    "\\end",
}
_WRAPPERS = {
    "\\mathrm",
    "\\text",
    "\\operatorname",
    "\\mathbb",
    "\\mathcal",
    "\\mathfrak",
}
_NAMED = _WRAPPERS | {"\\begin", "\\end"}
_DECORATIONS = {
    "\\vec",
    "\\hat",
    "\\bar",
    "\\tilde",
    "\\overrightarrow",
    "\\widehat",
    "\\dot",
}

_TOKEN = re.compile(
    r"(?P<num>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+(?![\d.]*[A-Za-z]))?)"
    r"|(?P<cmd>\\[A-Za-z]+|\\[{}|%\\])|(?P<word>[A-Za-z]+)|(?P<op>\*\*|[-+*/^_!(){}\[\]|,;&%'])|(?P<space>\s+|\\ )"
)


class Unreadable(ValueError):
    """Not an expression that is read here."""


def parse(text: str) -> Tree:
    """The tree of an expression. Unreadable where it is none."""
    reader = _Reader(_tokens(text))
    tree = reader.sum()
    if reader.peek() is not None:
        raise Unreadable(f"stray {reader.peek()!r}")
    return tree


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable(f"cannot read {text[position]!r}")
        position = match.end()
        token = match.group()
        if match.lastgroup == "word":
            tokens.extend(_word(token, raw=tokens[-2:] if tokens else []))
        elif match.lastgroup == "num" and len(token) > MAX_DIGITS:
            raise Unreadable("too many digits")
        elif match.lastgroup != "space":
            tokens.append("^" if token == "**" else token)
        if len(tokens) > MAX_TOKENS:
            raise Unreadable("too long")
    return tokens


def _word(word: str, raw: list[str]) -> list[str]:
    r"""An ASCII word: a function or constant by name, else single letters; whole inside `\text{`, `\mathrm{`."""
    if len(raw) == 2 and raw[1] == "{" and raw[0] in _NAMED:
        return [word]
    name = _ALIASES.get(word, word)
    if name in FUNCTIONS or name == "sqrt" or name in _CONSTANTS or (name in GREEK and len(name) > 2):
        return ["\\" + name]
    for function in ("sqrt", "pi"):
        if word != function and word.startswith(function) and len(word) <= len(function) + 2:
            return ["\\" + function, *word[len(function) :]]
        if word != function and word.endswith(function) and len(word) <= len(function) + 2:
            return [*word[: -len(function)], "\\" + function]
    if len(word) > 4:
        raise Unreadable(f"the word {word!r}")
    return list(word)


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._bars = 0

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
            if token in _TIMES or token in _DIVIDE:
                self._at += 1
                sign = 0
                while self.peek() in ("+", "-"):
                    sign += self.next() == "-"
                right = self._factor()
                right = ("neg", right) if sign % 2 else right
                tree = ("div" if token in _DIVIDE else "mul", tree, right)
            elif token in _ENDS and not (token == "|" and not self._bars):
                break
            elif token[0].isdigit() and self._tokens[self._at - 1][0].isdigit():
                raise Unreadable("two numbers side by side")
            else:
                tree = ("mul", tree, self._factor())
        return tree

    def _mixed(self) -> Tree | None:
        r"""`3\frac{1}{2}` as three and a half: whole number, then a proper fraction of plain integers."""
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
                tree = ("fn", "factorial", tree)
            elif token in ("%", "\\%"):
                self._at += 1
                tree = ("div", tree, ("num", Fraction(100)))
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
        """A braced group, or the one token LaTeX would take; `digit`: only the first digit of a number."""
        token = self.peek()
        if token == "{":
            return self._group("{", "}")
        if signed and token in ("-", "+"):
            self._at += 1
            tree = self._atom()
            return ("neg", tree) if token == "-" else tree
        if digit and token is not None and token.isdigit() and len(token) > 1:
            self._tokens[self._at : self._at + 1] = [token[0], token[1:]]
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
        mantissa, _, exponent = token.lower().partition("e")
        if exponent and abs(int(exponent)) > MAX_EXPONENT:
            raise Unreadable("the exponent is too large")
        value = Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(exponent or 0)
        if self.peek() == "_":
            return self._radix(token)
        if self.peek() == "\\overline":
            self._at += 1
            return ("num", value + self._repeating(token))
        return ("num", value)

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
        if name in ("frac", "binom"):
            above, below = self._argument(digit=True), self._argument(digit=True)
            return ("div", above, below) if name == "frac" else ("fn", "binom", above, below)
        if name == "sqrt":
            index: Tree = ("num", Fraction(2))
            if self.peek() == "[":
                index = self._group("[", "]")
            return ("root", self._argument(), index)
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in FUNCTIONS:
            return self._function(name)
        if name in GREEK:
            return self._symbol(name)
        if token in _WRAPPERS:
            return self._wrapped()
        if token in _DECORATIONS:
            return ("sym", f"{name}({self._argument()})")
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
        name = _ALIASES.get(word, word)
        return self._function(name) if name in FUNCTIONS else self._symbol(word)

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
        if power == ("neg", ("num", Fraction(1))) and name in (
            "sin",
            "cos",
            "tan",
            "cot",
            "sinh",
            "cosh",
            "tanh",
        ):
            return ("fn", "arc" + name, *arguments)
        return ("pow", tree, power)

    def _function_arguments(self) -> list[Tree]:
        if self.peek() in ("(", "{", "["):
            opening = self.next()
            closing = {"(": ")", "{": "}", "[": "]"}[opening]
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
        r"""`\sin 2x`: the factors that stand directly together, up to an operator or the next function."""
        tree = self._factor()
        while (token := self.peek()) is not None and token not in _ENDS | _TIMES | _DIVIDE | {"(", "["}:
            if token[1:] in FUNCTIONS or token in _WRAPPERS:
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
        if kind == "vmatrix":
            raise Unreadable("a determinant")
        return tree


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
