"""Plain numbers, exactly: the rung that decides most pairs, in microseconds.

Reads integers, decimals, grouped thousands, a/b, \\frac, mixed numbers, e-notation and percent into
a `Number` over `fractions.Fraction`. Nothing here is symbolic and nothing is rounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 1000
MAX_EXPONENT = 400

_INT = re.compile(r"[+-]?\d{1,18}\Z")
_GROUPED = r"[1-9]\d{0,2}(?:(?:,|\{,\}|\\,|,\\!|\\ | )\d{3})+(?!\d)"
_DECIMAL = rf"(?:{_GROUPED}|\d+)(?:\.\d*)?|\.\d+"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?) ?(?P<value>{_DECIMAL})"
    r"(?: ?(?:e|E| ?(?:\\times|\\cdot|\*) ?10 ?\^) ?\{? ?(?P<exp>[+-]? ?\d{1,5}) ?\}?)?"
    r" ?(?P<unit>\\?%)? ?\Z"
)
_FRACTION = re.compile(
    r"(?P<sign>[+-]?) ?(?P<whole>\d+(?= ?\\| ))? ?"
    r"(?:\\[dtc]?frac ?(?:\{ ?(?P<a>[+-]? ?\d+) ?\}| ?(?P<a1>\d)) ?(?:\{ ?(?P<b>[+-]? ?\d+) ?\}|(?P<b1>\d))"
    r"|(?P<p>\d+) ?/ ?(?P<q>[+-]?\d+)) ?(?P<unit>\\?%)? ?\Z"
)
_SEPARATOR = re.compile(r",|\{,\}|\\,|\\!|\\ |\s")


@dataclass(frozen=True, slots=True)
class Number:
    """`value` as written (17.5 for 17.5%), `percent`, and how many `decimals` were written (None:
    not a decimal).
    """

    value: Fraction
    percent: bool = False
    decimals: int | None = None

    @property
    def significant(self) -> int:
        """Significant digits of a number written as a decimal; 0 for fractions."""
        if self.decimals is None:
            return 0
        return len(str(abs(self.value.numerator * 10**self.decimals // self.value.denominator)))


def read(text: str) -> Number | None:
    """The number that `text` is, or None where it is not a plain number (or a hostile one: too
    long).
    """
    if _INT.match(text):
        return Number(Fraction(int(text)), decimals=0)
    if len(text) > MAX_DIGITS:
        return None
    if match := _NUMBER.match(text):
        return _decimal(match)
    if match := _FRACTION.match(text):
        return _fraction(match)
    return None


def _decimal(match: re.Match[str]) -> Number | None:
    digits = _SEPARATOR.sub("", match["value"]).rstrip(".") or "0"
    exponent = int(match["exp"].replace(" ", "")) if match["exp"] else 0
    if abs(exponent) > MAX_EXPONENT:
        return None
    value = Fraction(digits) * Fraction(10) ** exponent
    decimals = max(0, len(digits.partition(".")[2]) - exponent)
    return Number(
        -value if match["sign"] == "-" else value,
        (match["unit"] or "").endswith("%"),
        decimals,
    )


def _fraction(match: re.Match[str]) -> Number | None:
    above = int((match["a"] or match["a1"] or match["p"]).replace(" ", ""))
    below = int((match["b"] or match["b1"] or match["q"]).replace(" ", ""))
    if below == 0:
        return None
    value = Fraction(above, below)
    if match["whole"]:
        if above < 0 or below < 0:
            return None  # 3\frac{-1}{2} is a product, not a mixed number
        value += int(match["whole"])
    return Number(-value if match["sign"] == "-" else value, bool(match["unit"]))


def same(gold: Number, answer: Number) -> bool:
    """Exactly equal, with these conventions: percent signs and rounding.

    1. 50% is 0.5 and, from 1 up, also 50: questions ask for "what percent" and golds leave the sign
       out.
    2. A decimal equals a fraction that is no finite decimal where it is that fraction correctly
       rounded and has five significant digits or more (gold: three or more). Two decimals are
       compared exactly.
    """
    if gold.percent != answer.percent:
        plain, percent = (answer, gold) if gold.percent else (gold, answer)
        return plain.value * 100 == percent.value or (abs(percent.value) >= 1 and plain.value == percent.value)
    if gold.value == answer.value:
        return True
    if gold.decimals is None and answer.decimals is not None:
        return answer.significant >= 5 and rounds_to(gold.value, answer)
    if gold.decimals is not None and answer.decimals is None:
        return gold.decimals > 0 and gold.significant >= 3 and rounds_to(answer.value, gold)
    return False


def rounds_to(exact: Fraction, decimal: Number) -> bool:
    """Whether `decimal` is `exact` correctly rounded to the decimals it was written with (at least
    one).
    """
    decimals = decimal.decimals or 0
    return decimals != 0 and abs(exact - decimal.value) * 2 * 10**decimals <= 1
