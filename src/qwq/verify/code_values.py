"""Comparing what a program gave with what was expected: plain values and text, with a tolerance where one is given."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
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


def equal(got: Any, expected: Any, tolerance: float | None = None) -> bool:
    """Python's `==` on plain values; with a tolerance numbers may differ by it, absolutely or relative to `expected`.

    Containers are then compared part by part: same type, same length, same keys.
    """
    if tolerance is not None:
        if _is_number(got) and _is_number(expected):
            return _near_numbers(got, expected, tolerance)
        if type(got) is type(expected) and isinstance(got, (list, tuple)):
            return len(got) == len(expected) and all(equal(g, e, tolerance) for g, e in zip(got, expected, strict=True))
        if type(got) is type(expected) is dict:
            return got.keys() == expected.keys() and all(equal(got[k], expected[k], tolerance) for k in expected)
    try:
        return bool(got == expected)
    except ArithmeticError:  # a signalling NaN of Decimal
        return False


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _near_numbers(got: int | float, expected: int | float, tolerance: float) -> bool:
    """Integers stay integers: turning one of a million digits into a Decimal takes minutes."""
    if type(got) is int and type(expected) is int:
        return abs(got - expected) <= tolerance
    if any(type(number) is int and number.bit_length() > _MAX_FLOAT_BITS for number in (got, expected)):
        return False  # the other one is a float, and no finite float is near
    return _near(Decimal(got), Decimal(expected), tolerance, False)


def _near(got: Decimal, expected: Decimal, tolerance: float, integers: bool) -> bool:
    """Within `tolerance`; relative too unless both are integers, so that large integers do not blur."""
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


def _same_token(got: str, expected: str, tolerance: float) -> bool:
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
    """None where the output is right, else the first difference in words. `line_matches` accepts more than equality."""
    got_lines = lines_of(got.decode("utf-8", errors="surrogateescape"))
    expected_lines = lines_of(to_bytes(expected).decode("utf-8", errors="surrogateescape"))
    for number, (left, right) in enumerate(zip(got_lines, expected_lines, strict=False), 1):
        if left == right or (line_matches is not None and line_matches(left, right)):
            continue
        tokens = left.split(), right.split()
        if tolerance is None or len(tokens[0]) != len(tokens[1]):
            return f"line {number} is {short(left)}, expected {short(right)}"
        if not all(_same_token(a, b, tolerance) for a, b in zip(*tokens, strict=True)):
            return f"line {number} is {short(left)}, expected {short(right)} within {tolerance:g}"
    if len(got_lines) != len(expected_lines):
        return f"{len(got_lines)} lines, expected {len(expected_lines)}"
    return None
