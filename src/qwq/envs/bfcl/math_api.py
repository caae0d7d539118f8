"""MathAPI: a calculator without a state."""

from __future__ import annotations

import decimal
import math
from collections.abc import Sequence

from qwq.envs.bfcl.base import CallRefused, Json, World

METRES = {"km": 1000, "m": 1, "cm": 0.01, "mm": 0.001, "um": 1e-6, "nm": 1e-9}
FACTORS = {
    ("cm", "in"): 0.393701, ("in", "cm"): 2.54, ("m", "ft"): 3.28084, ("ft", "m"): 0.3048, ("m", "yd"): 1.09361,
    ("yd", "m"): 0.9144, ("km", "miles"): 0.621371, ("miles", "km"): 1.60934, ("kg", "lb"): 2.20462,
    ("lb", "kg"): 0.453592,
}  # fmt: skip
MAX_DIGITS = 1000  # of a result; a call must not be able to keep the checker busy


def _numbers(*values: float) -> None:
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        raise CallRefused("all inputs must be numbers")


def _list(numbers: Sequence[float]) -> Sequence[float]:
    if not numbers:
        raise CallRefused("the list of numbers is empty")
    _numbers(*numbers)
    return numbers


def _digits(precision: int) -> decimal.Context:
    if not 0 < precision <= MAX_DIGITS:
        raise CallRefused(f"precision must be 1 to {MAX_DIGITS}")
    return decimal.Context(prec=int(precision))


class MathAPI(World):
    def add(self, a: float, b: float) -> Json:
        _numbers(a, b)
        return {"result": a + b}

    def subtract(self, a: float, b: float) -> Json:
        _numbers(a, b)
        return {"result": a - b}

    def multiply(self, a: float, b: float) -> Json:
        _numbers(a, b)
        return {"result": a * b}

    def divide(self, a: float, b: float) -> Json:
        _numbers(a, b)
        if b == 0:
            raise CallRefused("cannot divide by zero")
        return {"result": a / b}

    def power(self, base: float, exponent: float) -> Json:
        _numbers(base, exponent)
        if base and abs(exponent) * abs(math.log10(abs(base))) > MAX_DIGITS:
            raise CallRefused("the result is too large or too small to write")
        result = base**exponent
        if isinstance(result, complex):
            raise CallRefused("the result is not a real number")
        return {"result": result}

    def percentage(self, part: float, whole: float) -> Json:
        _numbers(part, whole)
        if whole == 0:
            raise CallRefused("the whole cannot be zero")
        return {"result": part / whole * 100}

    def absolute_value(self, number: float) -> Json:
        _numbers(number)
        return {"result": abs(number)}

    def round_number(self, number: float, decimal_places: int = 0) -> Json:
        _numbers(number)
        return {"result": round(number, max(-MAX_DIGITS, min(MAX_DIGITS, decimal_places)))}

    def logarithm(self, value: float, base: float, precision: int) -> Json:
        _numbers(value, base)
        if value <= 0 or base <= 0 or base == 1:
            raise CallRefused("a logarithm needs a positive value and a positive base other than 1")
        digits = _digits(precision)
        wide = decimal.Context(prec=digits.prec + 5)
        quotient = wide.divide(wide.ln(decimal.Decimal(value)), wide.ln(decimal.Decimal(base)))
        return {"result": float(digits.plus(quotient))}

    def square_root(self, number: float, precision: int) -> Json:
        _numbers(number)
        if number < 0:
            raise CallRefused("a negative number has no real square root")
        return {"result": float(_digits(precision).sqrt(decimal.Decimal(number)))}

    def mean(self, numbers: list[float]) -> Json:
        return {"result": sum(_list(numbers)) / len(numbers)}

    def standard_deviation(self, numbers: list[float]) -> Json:
        mean = sum(_list(numbers)) / len(numbers)
        return {"result": math.sqrt(sum((x - mean) ** 2 for x in numbers) / len(numbers))}

    def min_value(self, numbers: list[float]) -> Json:
        return {"result": min(_list(numbers))}

    def max_value(self, numbers: list[float]) -> Json:
        return {"result": max(_list(numbers))}

    def sum_values(self, numbers: list[float]) -> Json:
        return {"result": sum(_list(numbers))}

    def si_unit_conversion(self, value: float, unit_in: str, unit_out: str) -> Json:
        _numbers(value)
        if unit_in not in METRES or unit_out not in METRES:
            raise CallRefused(f"no conversion from {unit_in} to {unit_out}: the units are {', '.join(METRES)}")
        return {"result": value * METRES[unit_in] * (1 / METRES[unit_out])}

    def imperial_si_conversion(self, value: float, unit_in: str, unit_out: str) -> Json:
        _numbers(value)
        if unit_in == unit_out:
            return {"result": value}
        if (unit_in, unit_out) == ("celsius", "fahrenheit"):
            return {"result": value * 1.8 + 32}
        if (unit_in, unit_out) == ("fahrenheit", "celsius"):
            return {"result": (value - 32) * 5 / 9}
        if (unit_in, unit_out) not in FACTORS:
            raise CallRefused(f"no conversion from {unit_in} to {unit_out}")
        return {"result": value * FACTORS[unit_in, unit_out]}
