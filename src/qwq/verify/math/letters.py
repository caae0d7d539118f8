"""Numbers and symbols of an expression, among them radix, recurring decimals and derivatives."""

from __future__ import annotations

from fractions import Fraction

from qwq.verify.math.lexer import (
    ALIASES,
    FUNCTIONS,
    Unreadable,
)
from qwq.verify.math.operators import Operators, plain
from qwq.verify.math.trees import Tree, flat


class Letters(Operators):
    def _number(self) -> Tree:
        token = self.next()
        value = plain(token)
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
        """A function with its arguments. The upper layer reads it."""
        raise NotImplementedError

    def _function_arguments(self) -> list[Tree]:
        raise NotImplementedError
