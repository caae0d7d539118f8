"""Are two trees the same number, or the same function? Exactly where possible, else with enough
digits to tell.

Rational trees are compared as fractions. Everything else is evaluated with mpmath, at 100 digits
and more where the trees hold numbers far from 1, so that a tiny term is not rounded away; trees
with symbols at several fixed points, which tells different functions apart with near certainty (two
different analytic expressions agree only on a set of measure zero). Magnitudes are bounded before
anything is computed: what is too big raises `TooBig`, and nothing here can run long.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import Any

from qwq.verify.math.trees import Tree, symbols, walk, worked_out

DIGITS = 100
MAX_DIGITS = 6000
MAX_BITS = 20_000  # of an exact numerator or denominator
MAX_LOG2 = 100_000  # of a magnitude in floating point
MAX_FACTORIAL = 2_000
_local = threading.local()


class TooBig(ValueError):
    """Larger than anything that is computed here."""


class Undefined(ValueError):
    """No value: a division by zero, a logarithm of zero, an infinity where a number is needed."""


def context() -> Any:
    """This thread's mpmath context (mpmath's global one is not safe to share)."""
    if not hasattr(_local, "mp"):
        from mpmath.ctx_mp import MPContext

        _local.mp = MPContext()
        _local.mp.dps = DIGITS
    return _local.mp


@contextmanager
def _precision(digits: int) -> Iterator[Any]:
    mp = context()
    before = mp.dps
    mp.dps = digits
    try:
        yield mp
    finally:
        mp.dps = before


# -- exact -----------------------------------------------------------------------------------------


def exact(tree: Tree) -> Fraction | None:
    """The value as a fraction, or None where it is not plainly rational. TooBig, Undefined."""
    kind = tree[0]
    if kind == "num":
        return tree[1]
    if kind in ("add", "mul", "div", "pow"):
        a, b = exact(tree[1]), exact(tree[2])
        if a is None or b is None:
            return None
        return _exact_binary(kind, a, b)
    if kind == "neg":
        a = exact(tree[1])
        return None if a is None else -a
    if kind == "fn" and tree[1] in _EXACT:
        parts = [exact(p) for p in tree[2:]]
        if None in parts:
            return None
        return _exact_function(tree[1], parts)  # type: ignore[arg-type]
    return None


def _exact_binary(kind: str, a: Fraction, b: Fraction) -> Fraction | None:
    if kind == "add":
        return _bounded(a + b)
    if kind == "mul":
        return _bounded(a * b)
    if kind == "div":
        if b == 0:
            raise Undefined("a division by zero")
        return _bounded(a / b)
    if b.denominator != 1:
        return None
    if a == 0 and b <= 0:
        raise Undefined("a power of zero")
    if abs(b) * max(a.numerator.bit_length(), a.denominator.bit_length()) > MAX_BITS:
        if abs(a) == 1:
            return a if b % 2 else Fraction(1)
        raise TooBig("a power with more than thousands of digits")
    return a ** int(b)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 2 * MAX_BITS:
        raise TooBig("a number with more than thousands of digits")
    return value


_EXACT = frozenset("factorial factorial2 binom abs gcd lcm max min floor ceil sgn gamma".split())


def _exact_function(name: str, parts: list[Fraction]) -> Fraction | None:
    if name in ("max", "min"):
        return max(parts) if name == "max" else min(parts)
    if name in ("gcd", "lcm"):
        return _divisor_or_multiple(name, parts)
    if name != "binom" and len(parts) != 1:
        return None
    if name in _ROUNDED:
        return Fraction(_ROUNDED[name](parts[0]))
    if any(p.denominator != 1 or p < 0 for p in parts) or (name == "gamma" and parts[0] < 1):
        return None
    if any(p > MAX_FACTORIAL for p in parts):
        raise TooBig(f"a {name} of more than {MAX_FACTORIAL}")
    return _counted(name, [int(p) for p in parts])


def _divisor_or_multiple(name: str, parts: list[Fraction]) -> Fraction | None:
    if any(p.denominator != 1 for p in parts) or max(abs(p) for p in parts).numerator.bit_length() > MAX_BITS:
        return None
    return Fraction((math.gcd if name == "gcd" else math.lcm)(*(int(p) for p in parts)))


_ROUNDED: dict[str, Callable[[Fraction], Fraction | int]] = {
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "sgn": lambda value: (value > 0) - (value < 0),
}


def _counted(name: str, numbers: list[int]) -> Fraction:
    """A binomial coefficient, a factorial or a double factorial of natural numbers."""
    if name == "binom":
        return Fraction(math.comb(*numbers))
    if name == "factorial2":
        return Fraction(math.prod(range(numbers[0], 0, -2)))
    return Fraction(math.factorial(numbers[0] - (name == "gamma")))


# -- numeric ---------------------------------------------------------------------------------------


def numeric(tree: Tree, env: Mapping[str, Any], degree: Any = None) -> Any:
    """The value at `env` (symbol -> mpf) in this thread's context.

    `degree`: what 1° counts outside trigonometry.
    """
    mp = context()
    kind = tree[0]
    if kind == "num":
        return mp.mpf(tree[1].numerator) / tree[1].denominator
    if kind == "sym":
        return env[tree[1]]
    if kind == "const":
        return _constant(tree[1], mp)
    if kind == "neg":
        return -numeric(tree[1], env, degree)
    if kind == "deg":
        return numeric(tree[1], env, degree) * (mp.pi / 180 if degree is None else degree)
    if kind == "root":
        return _root(numeric(tree[1], env, degree), numeric(tree[2], env, degree), mp)
    if kind == "fn":
        inner = None if tree[1] in _TRIGONOMETRY else degree
        return _function(tree[1], [numeric(p, env, inner) for p in tree[2:]], mp)
    if kind in ("pm", "matrix", "basis"):
        raise Undefined(f"{kind} has no single value")
    a, b = numeric(tree[1], env, degree), numeric(tree[2], env, degree)
    if kind == "add":
        return a + b
    if kind == "mul":
        return a * b
    if kind == "div":
        if b == 0:
            raise Undefined("a division by zero")
        return a / b
    return _power(a, b, mp)


def _constant(name: str, mp: Any) -> Any:
    if name == "oo":
        return mp.inf
    return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1)}[name]


def _power(a: Any, b: Any, mp: Any) -> Any:
    if a == 0:
        if mp.re(b) > 0:
            return mp.mpf(0)
        raise Undefined("a power of zero")
    if mp.isinf(a) or mp.isinf(b):
        raise Undefined("a power with infinity")
    if abs(b) * (abs(mp.log(abs(a), 2)) + 1) > MAX_LOG2:
        raise TooBig("a power too large to compare")
    return mp.power(a, b)


def _root(a: Any, n: Any, mp: Any) -> Any:
    if n == 0:
        raise Undefined("a zeroth root")
    real = not isinstance(a, mp.mpc) or a.imag == 0
    if real and mp.re(a) < 0 and n == mp.floor(mp.re(n)) and int(n) % 2 == 1:
        return -_power(-mp.re(a), 1 / n, mp)  # the real root of a negative number
    return _power(a, 1 / n, mp)


_TRIGONOMETRY = frozenset(["sin", "cos", "tan", "sec", "csc", "cot", "cis"])
_DIRECT = {
    "sin": "sin", "cos": "cos", "tan": "tan", "sec": "sec", "csc": "csc", "cot": "cot", "arcsin": "asin",
    "arccos": "acos", "arctan": "atan", "arccot": "acot", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh",
    "coth": "coth", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "abs": "fabs", "floor": "floor",
    "ceil": "ceil", "sgn": "sign", "arcsec": "asec", "arccsc": "acsc",
}  # fmt: skip


_OF_LARGE = frozenset("abs max min sgn ln log lg lb floor ceil".split())


def _function(name: str, parts: list[Any], mp: Any) -> Any:
    if any(mp.isinf(p) or mp.isnan(p) for p in parts):
        raise Undefined(f"{name} of infinity")
    if name not in _OF_LARGE and any(abs(p) > 10**6 for p in parts):
        raise TooBig(f"{name} of a large number")
    if name in ("ln", "log", "lg", "lb"):
        return _logarithm(name, parts, mp)
    if name == "exp":
        return _power(+mp.e, parts[0], mp)
    if name == "cis":
        return mp.expj(parts[0])
    gamma = {"factorial": mp.factorial, "factorial2": mp.fac2, "gamma": mp.gamma, "binom": mp.binomial}.get(name)
    if gamma is not None:
        return _gamma_of(gamma, parts, mp)
    if name in ("max", "min"):
        if any(isinstance(p, mp.mpc) for p in parts):
            raise Undefined(f"{name} of complex numbers")
        return max(parts) if name == "max" else min(parts)
    if name not in _DIRECT or len(parts) != 1:
        raise Undefined(f"{name} is not evaluated here")
    try:
        return getattr(mp, _DIRECT[name])(parts[0])
    except (ZeroDivisionError, ValueError) as error:
        raise Undefined(f"{name}: {error}") from None


def _logarithm(name: str, parts: list[Any], mp: Any) -> Any:
    if parts[0] == 0 or (len(parts) > 1 and parts[1] in (0, 1)):
        raise Undefined("a logarithm of zero, or to base 0 or 1")
    base = parts[1] if len(parts) > 1 else {"lg": 10, "lb": 2}.get(name)
    return mp.log(parts[0]) if base is None else mp.log(parts[0]) / mp.log(base)


def _gamma_of(function: Any, parts: list[Any], mp: Any) -> Any:
    if any(abs(p) > MAX_FACTORIAL for p in parts):
        raise TooBig("a factorial too large to compare")
    try:
        return function(*parts)
    except ValueError as error:  # a pole
        raise Undefined(str(error)) from None


# -- equality --------------------------------------------------------------------------------------


def same(a: Tree, b: Tree, *, bare_degrees: bool = True) -> bool | None:
    """Whether two trees are the same number or function; None where that cannot be told. TooBig.

    `bare_degrees`: 30° is also a bare 30.
    """
    if a == b:
        return True
    if _has(a, "matrix") or _has(b, "matrix"):
        return _same_matrices(a, b)
    if _has(a, "basis") or _has(b, "basis"):
        return None
    try:
        left, right = exact(a), exact(b)
        if left is not None and right is not None:
            return left == right
    except Undefined:
        return False  # 0/0 equals nothing but itself
    names = symbols(a) | symbols(b)
    with _precision(_digits(a, b)):
        plain = _agree(a, b, names, degree=None)
        if plain is not True and bare_degrees and _has(a, "deg") != _has(b, "deg"):
            return _agree(a, b, names, degree=1)
    return plain


def _digits(*trees: Tree) -> int:
    """Digits enough to see the smallest rational number in the trees beside the largest. TooBig."""
    digits = DIGITS + 2 * sum(_spread(t) for t in trees)
    if digits > MAX_DIGITS:
        raise TooBig("numbers too far apart to compare")
    return int(digits)


def _spread(tree: Tree) -> float:
    """The powers of ten, up or down, of the rational subtrees together; of `e^{-300}` its
    exponent.
    """
    try:
        value = exact(tree)
    except Undefined:
        value = None
    if value is not None:
        return max(value.numerator.bit_length(), value.denominator.bit_length()) * 0.302
    if tree[0] == "matrix":
        return sum(_spread(e) for row in tree[1] for e in row)
    if tree[0] == "pow" and not symbols(tree[1]) and (power := _exponent(tree[2])) is not None:
        return min(abs(power), 10**6) + _spread(tree[1])
    return sum(_spread(p) for p in tree[1:] if isinstance(p, tuple))


def _exponent(tree: Tree) -> float | None:
    try:
        value = exact(tree)
    except Undefined:
        return None
    return None if value is None else float(min(abs(value), Fraction(10**7)))


def _same_matrices(a: Tree, b: Tree) -> bool | None:
    left, right = worked_out(a), worked_out(b)
    if left is None or right is None:
        return None
    if left[0] == right[0] == "matrix":
        return _same_matrix(left, right)
    if "matrix" in (left[0], right[0]):
        return False  # a matrix is no scalar
    return None if _has(left, "matrix") or _has(right, "matrix") else same(left, right)


def _has(tree: Tree, kind: str) -> bool:
    return any(n[0] == kind for n in walk(tree))


def _same_matrix(a: Tree, b: Tree) -> bool | None:
    if [len(r) for r in a[1]] != [len(r) for r in b[1]]:
        return False
    unsure = False
    for row_a, row_b in zip(a[1], b[1], strict=True):
        for x, y in zip(row_a, row_b, strict=True):
            equal = same(x, y)
            if equal is False:
                return False
            unsure |= equal is None
    return None if unsure else True


def close(x: Any, y: Any) -> bool:
    """Equal to 70% of the digits worked with, relative to the larger; both zero counts as equal."""
    mp = context()
    if mp.isinf(x) or mp.isinf(y):
        return x == y
    return abs(x - y) <= mp.mpf(10) ** -int(0.7 * mp.dps) * max(abs(x), abs(y))


def value(tree: Tree, degree: Any = None) -> Any | None:
    """The number a tree without symbols is, or None where it has none. TooBig."""
    try:
        found = numeric(tree, {}, degree)
    except Undefined:
        return None
    return None if context().isnan(found) else found


def _agree(a: Tree, b: Tree, names: frozenset[str], degree: Any) -> bool | None:
    if not names:
        x, y = value(a, degree), value(b, degree)
        return False if x is None or y is None else close(x, y) or _cancelled(a, b, {}, degree, x, y)
    compared = apart = 0
    many_valued = _many_valued(a) or _many_valued(b)
    mp = context()
    for env in points(names):
        try:
            x, y = numeric(a, env, degree), numeric(b, env, degree)
        except Undefined:
            continue
        if mp.isnan(x) or mp.isnan(y):
            continue
        equal = close(x, y) or _cancelled(a, b, env, degree, x, y)
        branched = many_valued and abs(mp.im(x)) + abs(mp.im(y)) != 0
        if not equal and not branched:
            return False  # (branches of roots and logarithms may differ where their arguments are negative)
        compared += equal
        apart += not close(abs(x), abs(y))
    if compared >= 3:
        return True
    return False if apart >= 3 and not compared else None  # not even the magnitudes agree anywhere


def _cancelled(a: Tree, b: Tree, env: Mapping[str, Any], degree: Any, x: Any, y: Any) -> bool:
    """Two values that are both rounding noise around zero, such as sin(pi) and 0: with twice the
    digits they shrink.
    """
    mp = context()
    tiny = mp.mpf(10) ** -(mp.dps // 2)
    if max(abs(x), abs(y)) > tiny:
        return False
    digits = 2 * mp.dps
    if digits > 2 * MAX_DIGITS:
        return False
    with _precision(digits):
        again = points(frozenset(env)) if env else [{}]
        exact_env = next((e for e in again if all(abs(e[n] - env[n]) < tiny for n in env)), None)
        if exact_env is None:
            return False
        try:
            finer = numeric(a, exact_env, degree), numeric(b, exact_env, degree)
        except Undefined:
            return False
        return all(new == 0 or abs(new) <= tiny * abs(old) for new, old in zip(finer, (x, y), strict=True) if old != 0)


def differ_by_constant(a: Tree, b: Tree) -> bool:
    """Whether two functions differ by the same number at every point where both are real."""
    names = symbols(a) | symbols(b)
    with _precision(_digits(a, b)) as mp:
        gaps = []
        for env in points(names):
            try:
                x, y = numeric(a, env), numeric(b, env)
            except Undefined:
                continue
            if mp.im(x) == 0 and mp.im(y) == 0 and not (mp.isnan(x) or mp.isinf(x) or mp.isnan(y) or mp.isinf(y)):
                gaps.append((mp.re(x - y), max(abs(x), abs(y), 1)))
        tiny = mp.mpf(10) ** -(mp.dps // 2)
        return len(gaps) >= 3 and all(abs(gap - gaps[0][0]) <= tiny * max(scale, gaps[0][1]) for gap, scale in gaps)


def _many_valued(tree: Tree) -> bool:
    return any(n[0] == "root" or (n[0] == "pow" and exact_or_none(n[2]) is None) or n[0] == "fn" for n in walk(tree))


def exact_or_none(tree: Tree) -> int | None:
    """A whole exponent, else None."""
    tree, sign = (tree[1], -1) if tree[0] == "neg" else (tree, 1)
    return sign * int(tree[1]) if tree[0] == "num" and tree[1].denominator == 1 else None


@lru_cache(maxsize=1024)
def _draws(names: frozenset[str]) -> tuple[dict[str, Fraction], ...]:
    source = random.Random(",".join(sorted(names)))
    spans = (
        (0.3, 1.0),
        (1.1, 2.5),
        (0.5, 4.0),
        (2.0, 9.0),
        (-3.0, 3.0),
        (-1.0, 1.0),
        (-9.0, -1.0),
    )
    return tuple(
        {n: Fraction(source.uniform(low, high)).limit_denominator(10**6) for n in sorted(names)} for low, high in spans
    )


def points(names: frozenset[str]) -> list[dict[str, Any]]:
    """Fixed points for these symbols, the first ones positive."""
    mp = context()
    return [{n: mp.mpf(v.numerator) / v.denominator for n, v in draw.items()} for draw in _draws(names)]
