"""Comparing what a program gave with what was expected: plain values and text, with a tolerance
where one is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from qwq.sandbox.jail.codec import to_bytes

MAX_SHOWN = 80
_MAX_NUMBER = 400  # characters of a token that is read as a number
_MAX_FLOAT_BITS = 1100  # beyond it an integer is further from every float than any tolerance


def short(value: Any) -> str:
    """A repr that is never long and never fails."""
    if type(value) is int and value.bit_length() > 300:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value).encode("utf-8", "backslashreplace").decode()  # a forged type name may hold lone surrogates
    except ValueError:  # an integer inside with more digits than Python converts
        return f"a {type(value).__name__} with a very long integer"
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


EXACT = "exact"


def as_json(got: Any, expected: Any) -> Any:
    """What JSON would hold of a returned value, where `expected` is what JSON can hold: arrays and
    tuples become lists, keys of objects strings. What is no such case stays as it is.
    """
    if is_array(got):
        got = got.tolist()
    if type(expected) is list and type(got) in (list, tuple):
        if len(got) != len(expected):
            return list(got)
        return [as_json(g, e) for g, e in zip(got, expected, strict=True)]
    if type(expected) is dict and isinstance(got, dict) and len(got) == len(expected):
        keys = (
            {key: _json_key(key) for key in got} if all(type(k) is str for k in expected) else {key: key for key in got}
        )
        if len(set(keys.values())) == len(got):
            return {keys[k]: as_json(v, expected.get(keys[k])) for k, v in got.items()}
    return got


def _json_key(key: Any) -> Any:
    if key is None or type(key) is bool:
        return {None: "null", True: "true", False: "false"}[key]
    return repr(key) if type(key) in (int, float) and (type(key) is float or key.bit_length() < 300) else key


def is_array(value: Any) -> bool:
    """Whether a value is an array of numpy, which is not imported for it."""
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray"


def equal(got: Any, expected: Any, tolerance: float | None = None, nan: bool = False) -> bool:
    """Python's `==` on plain values; with a tolerance numbers may differ by it, absolutely or
    relative to `expected`.

    Containers are then compared part by part: same type, same length, same keys. With `nan`,
    not-a-number equals itself.
    """
    if _plainly_equal(got, expected):
        return True
    if tolerance is None and not nan:
        return False
    if nan and _is_nan(got) and _is_nan(expected):
        return True
    if tolerance is not None and _is_number(got) and _is_number(expected):
        return _near_numbers(got, expected, tolerance)
    if type(got) is type(expected) and isinstance(got, (list, tuple)):
        return len(got) == len(expected) and all(
            equal(g, e, tolerance, nan) for g, e in zip(got, expected, strict=True)
        )
    if type(got) is type(expected) is dict:
        return got.keys() == expected.keys() and all(equal(got[k], expected[k], tolerance, nan) for k in expected)
    return False


def _plainly_equal(got: Any, expected: Any) -> bool:
    try:
        return bool(got == expected)
    except (ArithmeticError, ValueError, TypeError):  # a signalling NaN of Decimal; arrays
        return is_array(got) and is_array(expected) and got.shape == expected.shape and bool((got == expected).all())


def _is_nan(value: Any) -> bool:
    return type(value) is float and math.isnan(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float, Decimal, Fraction)


def _near_numbers(got: Any, expected: Any, tolerance: float) -> bool:
    """Integers stay integers: turning one of a million digits into a Decimal takes minutes."""
    if type(got) is int and type(expected) is int:
        return abs(got - expected) <= tolerance
    if any(type(number) is int and number.bit_length() > _MAX_FLOAT_BITS for number in (got, expected)):
        return False  # the other one is a float, and no finite float is near
    left, right = _decimal(got), _decimal(expected)
    return left is not None and right is not None and _near(left, right, tolerance, False)


def _decimal(number: Any) -> Decimal | None:
    if type(number) is Fraction:
        if number.numerator.bit_length() + number.denominator.bit_length() > 4 * _MAX_FLOAT_BITS:
            return None
        return Decimal(number.numerator) / Decimal(number.denominator)
    value = Decimal(number)
    return None if value.is_finite() and abs(value.adjusted()) > 2 * _MAX_NUMBER else value


def _near(got: Decimal, expected: Decimal, tolerance: float, integers: bool) -> bool:
    """Within `tolerance`; relative too unless both are integers, so that large integers do not
    blur.
    """
    if not got.is_finite() or not expected.is_finite():
        return not got.is_nan() and got == expected
    allowed = Decimal(tolerance)
    if not integers:
        allowed = max(allowed, allowed * abs(expected))
    return abs(got - expected) <= allowed


def _number(token: str) -> Decimal | None:
    try:
        value = Decimal(token) if len(token) <= _MAX_NUMBER and token.isascii() and "_" not in token else None
    except InvalidOperation:
        return None
    if value is not None and value.is_finite() and abs(value.adjusted()) > 2 * _MAX_NUMBER:
        return None
    return value


def _is_integer(token: str) -> bool:
    return token.lstrip("+-").isdigit()


def same_token(got: str, expected: str, tolerance: float) -> bool:
    if got == expected:
        return True
    left, right = _number(got), _number(expected)
    if left is None or right is None:
        return False
    return _near(left, right, tolerance, _is_integer(got) and _is_integer(expected))


def lines_of(text: str) -> list[str]:
    """Lines with their right end stripped, without the blank ones at the end."""
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def output_difference(
    got: bytes, expected: str, tolerance: float | None = None, line_matches: Callable[[str, str], bool] | None = None
) -> str | None:
    """None where the output is right, else the first difference in words.

    `line_matches` accepts more than equality.
    """
    got_lines = lines_of(decoded(got))
    expected_lines = lines_of(decoded(to_bytes(expected)))
    for number, (left, right) in enumerate(zip(got_lines, expected_lines, strict=False), 1):
        if left == right or (line_matches is not None and line_matches(left, right)):
            continue
        tokens = left.split(), right.split()
        if tolerance is None or len(tokens[0]) != len(tokens[1]):
            return f"line {number} is {short(left)}, expected {short(right)}"
        if not all(same_token(a, b, tolerance) for a, b in zip(*tokens, strict=True)):
            return f"line {number} is {short(left)}, expected {short(right)} within {tolerance:g}"
    if len(got_lines) != len(expected_lines):
        return f"{len(got_lines)} lines, expected {len(expected_lines)}"
    return None


def decoded(output: bytes) -> str:
    """Text of a program's output; bytes that are not UTF-8 stay apart from all text."""
    return output.decode("utf-8", errors="surrogateescape")
