"""The operators of an expression and what brackets it: sums, products, powers, groups.

`Operators` is the lowest layer of the reader; `letters.Letters` adds numbers and symbols, and the
reader of `expr` commands, functions and matrices.
"""

from __future__ import annotations

from fractions import Fraction

from qwq.verify.math.lexer import (
    DECORATIONS,
    DIVIDE,
    ENDS,
    TIMES,
    Unreadable,
)
from qwq.verify.math.trees import Tree, flat, is_set, vector_product

MAX_DEPTH = 100  # sums and atoms inside one another, counted together
MAX_EXPONENT = 400


class Operators:
    """Tokens, where the reader is among them, and the operators between atoms."""

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
            return ("num", plain(token))
        return self._atom()

    def _group(self, opening: str, closing: str) -> Tree:
        self.expect(opening)
        bars, self._bars = self._bars, 0
        tree = self.sum()
        self._bars = bars
        self.expect(closing)
        return tree

    def _absolute(self, bar: str) -> Tree:
        self.expect(bar)
        self._bars += 1
        tree = self.sum()
        self._bars -= 1
        self.expect(bar)
        return ("fn", "abs", tree)

    def _atom(self) -> Tree:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        tree = self._bare_atom()
        self._depth -= 1
        return tree

    def _bare_atom(self) -> Tree:
        """What has no operator in it. The upper layers read it."""
        raise NotImplementedError


def plain(token: str) -> Fraction:
    """The value of a decimal with an optional exponent. Unreadable where that is too large."""
    mantissa, _, exponent = token.lower().partition("e")
    if exponent and abs(int(exponent)) > MAX_EXPONENT:
        raise Unreadable("the exponent is too large")
    return Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(exponent or 0)
