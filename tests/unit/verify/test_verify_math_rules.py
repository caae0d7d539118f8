"""Every rule of the math verifier: its own examples, 300 generated equal rewritings, 300 generated
mutants.

A generator draws a gold answer and either another dress of it (`same`) or another value in much the
same dress (`apart`): a unit, a sign, a bound, a modulus, an operator, a label changed. Both are
right by construction. No mutant passes; 98% of the rewritings do.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

import pytest

from qwq.types import Outcome
from qwq.verify import math
from qwq.verify.math.rule_examples import RULES, Rule, rule_of

NUM = 300
Pair = tuple[str, str]
Maker = Callable[[random.Random], Pair]


def other(rng: random.Random, values: list, value: object) -> object:
    return rng.choice([v for v in values if v != value])


def step(rng: random.Random, n: int) -> int:
    """A whole number close to n, and not n."""
    return n + rng.choice([-3, -2, -1, 1, 2, 3])


# -- numbers ---------------------------------------------------------------------------------------


def number_same(rng: random.Random) -> Pair:
    n = rng.randint(1000, 9_999_999)
    f = Fraction(rng.randint(-40, 40), rng.choice([3, 6, 7, 9, 11]))
    return rng.choice(
        [
            (str(n), f"{n:,}"),
            (str(n), f"{n:,}".replace(",", r"\,")),
            (str(n), f"{n}.0"),
            (f"{n / 8}", rf"\frac{{{n}}}{{8}}"),
            (f"{n}", f"{n / 1000:.3f} x 10^3"),
            (rf"\frac{{{f.numerator}}}{{{f.denominator}}}", f"{f.numerator}/{f.denominator}"),
            (f"{n}", f"{n * 2}/2"),
            (f"{n / 1e6:.6f}", f"{n}e-6"),
        ]
    )


def number_apart(rng: random.Random) -> Pair:
    n, d = rng.randint(11, 9_999_999), rng.randint(2, 9)
    digits = str(n)
    at = rng.randrange(len(digits))
    changed = digits[:at] + str((int(digits[at]) + rng.randint(1, 9)) % 10) + digits[at + 1 :]
    pairs = [
        (digits, changed),
        (digits, f"-{digits}"),
        (f"{n}/{d * n + 1}", f"{n + 1}/{d * n + 1}"),
        (f"{n}e-9", f"{n}e-10"),
        (f"{n}", f"{n}.5"),
        (digits, f"{digits[0]} {digits[1:]}"),
        (f"{digits[0]},{digits[1:]}0", f"{digits[0]}.{digits[1:]}0"),
    ]
    return rng.choice(pairs if len(digits) != 4 else pairs[:5])


def radix_same(rng: random.Random) -> Pair:
    n = rng.randint(17, 4000)
    return rng.choice(
        [
            (f"{n:X}_{{16}}", f"{n:x}_{{16}}"),
            (str(n), f"0x{n:X}"),
            (str(n), f"0b{n:b}"),
            (str(n), f"0o{n:o}"),
            (f"{n:b}_2", rf"{n:b}\text{{ base }}2"),
            (f"{n:o}_8", f"({n:o})_8"),
        ]
    )


def radix_apart(rng: random.Random) -> Pair:
    n = rng.randint(17, 4000)
    return rng.choice(
        [
            (f"{n:b}_2", f"{n:b}_3"),
            (str(n), f"0x{n + 1:X}"),
            (f"{n:o}_8", f"{n + 1:o}_8"),
            (f"{n:o}_8", f"{n:o}_9"),
            (str(n), f"{n:b}"),
        ]
    )


WORDS = {
    3: "three",
    7: "seven",
    12: "twelve",
    15: "fifteen",
    20: "twenty",
    21: "twenty-one",
    45: "forty-five",
    99: "ninety-nine",
    105: "one hundred five",
    300: "three hundred",
    2000: "two thousand",
}
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "dozen": 12}
PARTS = {"halves": 2, "thirds": 3, "quarters": 4, "fifths": 5, "eighths": 8, "tenths": 10}


def words_same(rng: random.Random) -> Pair:
    n, (scale, size), (part, below) = (
        rng.choice(list(WORDS)),
        rng.choice(list(SCALES.items())),
        rng.choice(list(PARTS.items())),
    )
    k = rng.randint(2, 99)
    return rng.choice(
        [
            (str(n), WORDS[n]),
            (str(n), rf"\text{{{WORDS[n]}}}"),
            (str(k * size), rf"{k}\text{{ {scale}}}"),
            (f"{k * size}", f"{k} {scale}"),
            (rf"\frac{{{k}}}{{{below}}}", rf"{k}\text{{ {part}}}"),
            (rf"\frac{{7}}{{{below}}}", f"seven {part}"),
        ]
    )


def words_apart(rng: random.Random) -> Pair:
    n, scale, part = rng.choice(list(WORDS)), rng.choice(list(SCALES)), rng.choice(list(PARTS))
    k = rng.randint(2, 99)
    return rng.choice(
        [
            (str(n), WORDS[other(rng, list(WORDS), n)]),
            (rf"{k}\text{{ {scale}}}", rf"{k}\text{{ {other(rng, list(SCALES), scale)}}}"),
            (f"{k}", f"{k} {scale}"),
            (rf"{k}\text{{ {part}}}", rf"{k}\text{{ {other(rng, list(PARTS), part)}}}"),
            (f"{k}", rf"{k}\text{{ squared}}"),
        ]
    )


# -- units -----------------------------------------------------------------------------------------

UNITS = [
    ["m", "meters", "metres"],
    ["cm", "centimeters"],
    ["km", "kilometers"],
    ["mm", "millimeters"],
    ["kg", "kilograms"],
    ["g", "grams"],
    ["mg", "milligrams"],
    ["s", "seconds"],
    ["ms", "milliseconds"],
    ["hours", "hr", "h"],
    ["minutes", "min"],
    ["days", "day"],
    ["L", "liters", "litres"],
    ["mL", "milliliters"],
    ["J", "joules"],
    ["kJ", "kilojoules"],
    ["MJ", "megajoules"],
    ["W", "watts"],
    ["kW", "kilowatts"],
    ["Hz", "hertz"],
    ["MHz", "megahertz"],
    ["Pa", "pascals"],
    ["kPa", "kilopascals"],
    ["V", "volts"],
    ["mV", "millivolts"],
    ["A", "amperes"],
    ["mA", "milliamperes"],
    ["N", "newtons"],
    ["ft", "feet"],
    ["in", "inches"],
    ["mi", "miles"],
    ["lb", "pounds"],
    ["oz", "ounces"],
    ["mph", "miles per hour"],
    ["km/h", "kilometers per hour"],
    ["m/s", "meters per second"],
    ["m/s^2", "meters per second squared"],
    ["m^2", "square meters"],
    ["cm^2", "square centimeters"],
    ["m^3", "cubic meters"],
    ["ft^2", "square feet"],
    ["gallons", "gal"],
    ["pints", "pt"],
    ["light years", "light-years"],
    ["years", "yr"],
    ["months", "month"],
    ["euros", "€"],
    ["dollars", "USD"],
    ["acres", "acre"],
    ["MeV", "megaelectronvolts"],
    ["kcal", "kilocalories"],
]


def units_same(rng: random.Random) -> Pair:
    n, names = rng.randint(1, 999), rng.choice(UNITS)
    first, second = rng.choice(names), rng.choice(names)
    return rng.choice(
        [
            (rf"{n}\text{{ {first}}}", rf"{n} \text{{ {second}}}"),
            (str(n), rf"{n}\text{{ {first}}}"),
            (rf"{n}\text{{ {first}}}", str(n)),
            (
                rf"{n}\text{{ {first}}}",
                rf"{n}\,\mathrm{{{second}}}" if " " not in second and "-" not in second else str(n),
            ),
        ]
    )


def units_apart(rng: random.Random) -> Pair:
    n, names = rng.randint(1, 999), rng.choice(UNITS)
    mark = rng.choice([r"{n}\text{{ {u}}}", r"{n}\ \text{{{u}}}", r"{n} \text{{ {u} }}"])
    wrong = other(rng, UNITS, names)
    return rng.choice(
        [
            (mark.format(n=n, u=rng.choice(names)), mark.format(n=n, u=rng.choice(wrong))),
            (mark.format(n=n, u=names[0]), mark.format(n=step(rng, n), u=names[0])),
        ]
    )


# -- expressions -----------------------------------------------------------------------------------


def polynomial(rng: random.Random) -> tuple[list[int], str]:
    cs = [rng.choice([-5, -3, -2, 1, 2, 4, 7]) for _ in range(3)]
    return cs, "".join(f"{c:+d}{'x^' + str(2 - i) if i < 2 else ''}" for i, c in enumerate(cs)).lstrip("+")


def expression_same(rng: random.Random) -> Pair:
    (a, b, c), text = polynomial(rng)
    p, q = rng.randint(1, 9), rng.randint(2, 9)
    return rng.choice(
        [
            (text, f"{c}+{a}x^2+({b})x".replace("+-", "-")),
            (text, f"x({a}x+({b}))+({c})"),
            (f"x^2-{p * p}", f"(x-{p})(x+{p})"),
            (rf"\sqrt{{{q * q * p}}}", rf"{q}\sqrt{{{p}}}"),
            (rf"\frac{{x}}{{{q}}}", f"x/{q}"),
            (rf"\sin {q}x", rf"2\sin\frac{{{q}x}}{{2}}\cos\frac{{{q}x}}{{2}}"),
            (f"2^{{n+{p}}}", rf"{2**p}\cdot 2^n"),
            (rf"\ln {q**2}", rf"2\ln {q}"),
            (f"e^{{{p}x}}", f"(e^x)^{p}"),
        ]
    )


def expression_apart(rng: random.Random) -> Pair:
    (a, b, c), text = polynomial(rng)
    p, q = rng.randint(1, 9), rng.randint(2, 9)
    return rng.choice(
        [
            (text, f"{text}+1"),
            (text, f"{step(rng, a)}x^2+({b})x+({c})"),
            (f"x^2-{p * p}", f"x^2+{p * p}"),
            (rf"\sqrt{{{p}}}+x", rf"\sqrt{{{p}}}-x"),
            (f"x^{q}", f"x^{q + 1}"),
            (rf"\sin {q}x", rf"\cos {q}x"),
            (f"{q}!", f"{q + 1}!"),
            (rf"\ln {q}", rf"\log_{{10}} {q}"),
            (f"x_{q}", f"x_{q + 1}"),
            (rf"\chi^2_{q}", rf"\chi^2_{q + 1}"),
            (f"x+10^{{-{q * 9}}}", "x"),
            (rf"\pi+10^{{-{q * 40}}}", r"\pi"),
            (rf"\frac{{x}}{{{q}00!}}", rf"\frac{{x}}{{{q}01!}}"),
        ]
    )


def complex_same(rng: random.Random) -> Pair:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    return rng.choice(
        [
            (f"{a}+{b}i", f"{b}i+{a}"),
            (f"{a * a + b * b}", f"({a}+{b}i)({a}-{b}i)"),
            (rf"\frac{{1}}{{{a}+{b}i}}", rf"\frac{{{a}-{b}i}}{{{a * a + b * b}}}"),
            (f"{a}i", rf"{a}e^{{i\pi/2}}"),
            (f"-{a}", rf"{a}\operatorname{{cis}}\pi"),
        ]
    )


def complex_apart(rng: random.Random) -> Pair:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    return rng.choice(
        [
            (f"{a}+{b}i", f"{a}-{b}i"),
            (f"{a}+{b}i", f"{a}+{b}"),
            (f"{a}i", f"{a}"),
            (f"{a}i", rf"{a}e^{{-i\pi/2}}"),
            (f"{a}", rf"{a}\operatorname{{cis}}\pi"),
            (f"{a}+{b}i", f"{step(rng, a)}+{b}i"),
        ]
    )


def constant_same(rng: random.Random) -> Pair:
    a, k = rng.randint(1, 9), rng.randint(2, 9)
    return rng.choice(
        [
            (f"{a}x^{k}+C", f"C+{a}x^{k}".replace("C+", "", 1) + "+K"),
            (r"\ln x + C", rf"\ln({k}x)+C"),
            (r"\sin^2 x + C", r"-\cos^2 x + C"),
            (f"(x+{a})^2+C", f"x^2+{2 * a}x+C"),
            (f"{a}e^x+C", f"{a}e^x+c"),
        ]
    )


def constant_apart(rng: random.Random) -> Pair:
    a, k = rng.randint(1, 9), rng.randint(2, 9)
    return rng.choice(
        [
            (f"{a}x^{k}+C", f"{a + 1}x^{k}+C"),
            (r"\ln x + C", rf"{k}\ln x+C"),
            (r"\sin x + C", r"\cos x + C"),
            ("x^2+C", f"x^2+{a}x+C"),
            ("a+b+c", f"a+b+{a}+c"),
            ("AB+C", f"AB+{a}+C"),
        ]
    )


# -- collections -----------------------------------------------------------------------------------


def some(rng: random.Random, least: int = 2) -> list[int]:
    return rng.sample(range(-30, 31), rng.randint(least, 5))


def list_same(rng: random.Random) -> Pair:
    xs = some(rng)
    ys = rng.sample(xs, len(xs))
    g, a = ", ".join(map(str, xs)), ", ".join(map(str, ys))
    return rng.choice(
        [
            (g, a),
            (rf"\{{{g}\}}", rf"\{{{a}\}}"),
            (rf"\{{{g}\}}", a),
            (" \\text{ or } ".join(f"x={x}" for x in xs), a),
            (g, " or ".join(f"x={y}" for y in ys)),
            (rf"\{{{g}\}}", rf"\{{{a}, {ys[0]}\}}"),
            (f"\\pm {abs(xs[0]) + 1}", f"{-abs(xs[0]) - 1}, {abs(xs[0]) + 1}"),
        ]
    )


def list_apart(rng: random.Random) -> Pair:
    xs = some(rng, 3)
    ys = [*xs[:-1], xs[-1] + 61]
    g = ", ".join(map(str, xs))
    return rng.choice(
        [
            (g, ", ".join(map(str, ys))),
            (g, ", ".join(map(str, xs[:-1]))),
            (rf"\{{{g}\}}", rf"\{{{g}, 99\}}"),
            (str(xs[0]), f"{xs[0]} or {ys[-1]}"),
            (rf"\pm {abs(xs[0]) + 1}", str(abs(xs[0]) + 1)),
            (f"{g}, \\ldots", f"{', '.join(map(str, ys))}, \\ldots"),
        ]
    )


def tuple_same(rng: random.Random) -> Pair:
    x, y, z = rng.sample(range(-20, 21), 3)
    g = f"({x}, {y}, {z})"
    return rng.choice(
        [
            (g, rf"\begin{{pmatrix}}{x}\\{y}\\{z}\end{{pmatrix}}"),
            (g, rf"\langle {x},{y},{z}\rangle"),
            (g, f"{x}\\mathbf{{i}}{y:+d}\\mathbf{{j}}{z:+d}\\mathbf{{k}}"),
            (g, rf"\begin{{bmatrix}}{x}&{y}&{z}\end{{bmatrix}}^T"),
            (f"({x},{y})", rf"\left({2 * x}/2, {y}\right)"),
        ]
    )


def tuple_apart(rng: random.Random) -> Pair:
    x, y, z = rng.sample(range(-20, 21), 3)
    g = f"({x}, {y}, {z})"
    return rng.choice(
        [
            (g, f"({y}, {x}, {z})"),
            (g, f"({x}, {y})"),
            (f"({x},{y})", f"[{x},{y}]"),
            (f"({x},{y})", rf"\{{{x},{y}\}}"),
            (g, f"{x}\\mathbf{{i}}{z:+d}\\mathbf{{j}}{y:+d}\\mathbf{{k}}"),
            (r"\vec a\times\vec b", rng.choice([r"\vec b\times\vec a", r"\vec a\cdot\vec b"])),
            (g, f"({x}, {y}, {step(rng, z)})"),
            (f"(1,{abs(x) + 10})", f"(1,{str(abs(x) + 10)[0]} {str(abs(x) + 10)[1:]})"),
        ]
    )


def region_same(rng: random.Random) -> Pair:
    a = rng.randint(-20, 20)
    b, k = a + rng.randint(1, 20), rng.randint(2, 6)
    return rng.choice(
        [
            (f"({a},{b})", f"{a}<x<{b}"),
            (f"{a}<x<{b}", f"{a * k}<{k}x<{b * k}"),
            (f"{a}<x<{b}", f"{a + k}<x+{k}<{b + k}"),
            (f"[{a},{b})", f"{b}>x\\ge {a}"),
            (rf"({b},\infty)", f"x>{b}"),
            (f"x>{b}", f"-x<{-b}"),
            (f"x\\le {a}", rf"(-\infty,{a}]"),
            (f"[{-b - 21},{b + 21}]", rf"|x|\le {b + 21}"),
            (rf"(-\infty,{a})\cup({b},\infty)", rf"x<{a}\text{{ or }}x>{b}"),
            (f"({a},{b})", rf"({a - 5},{b})\cap({a},{b + 5})"),
            (rf"x\ne {a}", rf"\mathbb{{R}}\setminus\{{{a}\}}"),
            (f"({a},{b + 9})", f"({a},{b}]\\cup({b},{b + 9})"),
        ]
    )


def region_apart(rng: random.Random) -> Pair:
    a = rng.randint(1, 20)
    b, k = a + rng.randint(2, 20), rng.randint(2, 6)
    return rng.choice(
        [
            (f"({a},{b})", f"[{a},{b})"),
            (f"{a}<x<{b}", f"{a}<{k}x<{b}"),
            (f"{a}<x<{b}", f"{a}<x+{k}<{b}"),
            (f"{a}<x<{b}", f"{a}<x^2<{b}"),
            (f"x>{a}", f"x<{a}"),
            (f"x>{a}", rf"x\ge {a}"),
            (f"x>{a}", f"x>{-a}"),
            (f"{a}<x<{b}", f"{a}<p+q<{b}"),
            (f"x>{a}", f"xy>{a}"),
            (f"x>{a}", f"y>{a}"),
            (str(a), rf"\ge {a}"),
            (str(a), f"<{a}"),
            (str(a), rf"\text{{at least }} {a}"),
            (rf"({a},\infty)", rf"(-\infty,{a})"),
            (f"({a},{b})", f"({a},{b + 1})"),
            (rf"(-\infty,{a})\cup({b},\infty)", f"({a},{b})"),
            (rf"|x|<{a}", rf"|x|>{a}"),
        ]
    )


def integers_same(rng: random.Random) -> Pair:
    a = rng.randint(-9, 9)
    b = a + rng.randint(1, 9)
    inside = ",".join(map(str, range(a, b + 1)))
    return rng.choice(
        [
            (rf"\{{x\in\mathbb{{Z}}\mid {a}\le x\le {b}\}}", rf"\{{{inside}\}}"),
            (rf"\{{{inside}\}}", rf"\{{n\in\mathbb{{Z}}: {a - 1}<n<{b + 1}\}}"),
            (rf"\{{x\in\mathbb{{Z}}: x>{a}\}}", rf"\{{x\in\mathbb{{Z}}: x\ge {a + 1}\}}"),
        ]
    )


def integers_apart(rng: random.Random) -> Pair:
    a = rng.randint(-9, 9)
    b = a + rng.randint(2, 9)
    inside = ",".join(map(str, range(a, b)))
    return rng.choice(
        [
            (rf"\{{x\in\mathbb{{Z}}\mid {a}\le x\le {b}\}}", f"[{a},{b}]"),
            (rf"\{{x\in\mathbb{{Z}}\mid {a}\le x\le {b}\}}", rf"\{{{inside}\}}"),
            (rf"\{{x\in\mathbb{{Z}}: x>{a}\}}", f"x>{a}"),
            (f"x>{a}", rf"x>{a}, x\in\mathbb{{Z}}"),
            (rf"\{{x\in\mathbb{{Z}}: x>{a}\}}", rf"\{{x\in\mathbb{{Z}}: x>{a + 1}\}}"),
        ]
    )


# -- relations -------------------------------------------------------------------------------------


def equation_same(rng: random.Random) -> Pair:
    a, b, c, k = (rng.randint(1, 9) for _ in range(4))
    return rng.choice(
        [
            (f"{a}x+{b}y={c}", f"{a * k}x+{b * k}y={c * k}"),
            (f"y={a}x+{b}", f"{a}x-y+{b}=0"),
            (f"{a}x+{b}y={c}", f"{c}={b}y+{a}x"),
            (f"x^2+y^2={c * c}", rf"\frac{{x^2}}{{{c * c}}}+\frac{{y^2}}{{{c * c}}}=1"),
            (f"y=(x-{a})^2", f"y=x^2-{2 * a}x+{a * a}"),
        ]
    )


def equation_apart(rng: random.Random) -> Pair:
    a, b, c = (rng.randint(1, 9) for _ in range(3))
    return rng.choice(
        [
            (f"{a}x+{b}y={c}", f"{a}x-{b}y={c}"),
            (f"y={a}x+{b}", f"y={a}x-{b}"),
            (f"y={a}x+{b}", f"y={a + 1}x+{b}"),
            (f"x^2+y^2={c}", f"x^2-y^2={c}"),
            (f"x^2+y^2={c}", f"x^2+y^2={c + 1}"),
            (f"y^2={a}x", f"y^2={a + 1}x"),
            (f"x^2+y^2\\le {c}", f"x^2+y^2<{c}"),
            (f"{a}x+y>{c}", f"{a}x+y<{c}"),
            (f"x={a}", f"y={a}"),
        ]
    )


LABELS = [
    "x",
    "S",
    "f(2)",
    "|AB|",
    "P(X>1)",
    r"\text{Area}",
    r"m\angle A",
    "a_5",
    r"S_{\triangle ABC}",
    r"n_{\min}",
    "AB",
    r"\overline{AB}",
    r"\text{Total cost}",
    "E(X)",
    r"V_{max}",
]
APART = [
    ("x", "y"),
    ("f(2)", "f(3)"),
    ("f'(x)", "f(x)"),
    ("f''(x)", "f'(x)"),
    ("P(A)", "P(B)"),
    ("E(X)", "V(X)"),
    ("a_3", "a_4"),
    (r"\frac{dy}{dx}", r"\frac{dx}{dy}"),
    ("f^{-1}(x)", "f(x)"),
    ("P(A|B)", "P(B|A)"),
    ("f(x)", "f'(x)"),
    ("y'", "y''"),
    (r"\frac{dx}{dt}", r"\frac{dy}{dt}"),
]


def name_same(rng: random.Random) -> Pair:
    n, m, label = rng.randint(2, 99), rng.randint(1, 50), rng.choice(LABELS)
    return rng.choice(
        [
            (str(n), f"{label} = {n}"),
            (f"{label} = {n}", str(n)),
            (f"{label}={n}", f"{label} = {n}.0"),
            (str(n + m), f"{n} + {m} = {n + m}"),
            (str(n), rf"\frac{{{n * m}}}{{{m}}} = {n}"),
            (f"y={n}x", f"f(x)={n}x"),
            (f"E(X)={n}", rf"\mathbb{{E}}[X]={n}"),
            (str(n), f"a+b+c = {n}"),
            (str(n), f"m+n={n}"),
        ]
    )


def name_apart(rng: random.Random) -> Pair:
    n, m = rng.randint(2, 99), rng.randint(1, 50)
    first, second = rng.choice(APART)
    label = rng.choice(LABELS)
    return rng.choice(
        [
            (f"{first}={n}", f"{second}={n}"),
            (f"{second}={n}", f"{first}={n}"),
            (str(n), f"{label}={step(rng, n)}"),
            (str(n + m), f"{n} + {m} = {n + m + 1}"),
            (str(n), f"{rng.randint(2, 9)}x={n}"),
            (str(n), f"x+{m}={n}"),
            (str(n), f"x^2={n}"),
            (str(n), f"x<{n}"),
        ]
    )


def system_same(rng: random.Random) -> Pair:
    x, y = rng.sample(range(-20, 21), 2)
    g = rng.choice(
        [
            rf"\begin{{cases}}x={x}\\y={y}\end{{cases}}",
            rf"\left\{{\begin{{array}}{{l}}x={x}\\ y={y}\end{{array}}\right.",
            rf"\begin{{aligned}}x&={x}\\y&={y}\end{{aligned}}",
            f"x={x}, y={y}",
            rf"x={x}\text{{ and }}y={y}",
        ]
    )
    return g, rng.choice(
        [
            f"x={x}, y={y}",
            f"y={y}, x={x}",
            f"({x},{y})",
            rf"\begin{{cases}}y={y}\\x={x}\end{{cases}}",
            f"(x,y)=({x},{y})",
        ]
    )


def system_apart(rng: random.Random) -> Pair:
    x, y = rng.sample(range(-20, 21), 2)
    g = rng.choice(
        [
            rf"\begin{{cases}}x={x}\\y={y}\end{{cases}}",
            rf"\left\{{\begin{{array}}{{l}}x={x}\\ y={y}\end{{array}}\right.",
            f"x={x}, y={y}",
        ]
    )
    return g, rng.choice(
        [
            f"x={y}, y={x}",
            f"({y},{x})",
            f"x={x}, y={step(rng, y)}",
            f"x={x}",
            rf"\begin{{cases}}x={y}\\y={x}\end{{cases}}",
            f"x={x}, z={y}" if abs(y) != 99 else "1",
        ]
    )


def piecewise_same(rng: random.Random) -> Pair:
    a, b, c = rng.sample(range(-9, 10), 3)
    rows = [f"{a}x & x<{c}", f"{b} & x\\ge {c}"]
    words = [rf"{b} & \text{{if }} {c}\le x", rf"{a}x & \text{{if }} x<{c}"]
    return rf"\begin{{cases}}{rows[0]}\\{rows[1]}\end{{cases}}", rf"\begin{{cases}}{words[0]}\\ {words[1]}\end{{cases}}"


def piecewise_apart(rng: random.Random) -> Pair:
    a, b, c = rng.sample(range(-9, 10), 3)
    g = rf"\begin{{cases}}{a}x & x<{c}\\{b} & x\ge {c}\end{{cases}}"
    return g, rng.choice(
        [
            rf"\begin{{cases}}{b} & x<{c}\\{a}x & x\ge {c}\end{{cases}}",
            rf"\begin{{cases}}{a}x & x\le {c}\\{b} & x> {c}\end{{cases}}",
            rf"\begin{{cases}}{a}x & x<{c + 1}\\{b} & x\ge {c + 1}\end{{cases}}",
            rf"\begin{{cases}}{a + 1}x & x<{c}\\{b} & x\ge {c}\end{{cases}}",
            f"{a}x",
        ]
    )


def congruence_same(rng: random.Random) -> Pair:
    m = rng.randint(3, 30)
    r = rng.randrange(m)
    g = rf"n \equiv {r} \pmod{{{m}}}"
    return g, rng.choice(
        [
            rf"n\equiv{r}\pmod {m}",
            rf"n \equiv {r + m} \pmod{{{m}}}",
            rf"n\equiv {r} \bmod {m}",
            rf"n\equiv {r}\ (\text{{mod }} {m})",
            f"n ≡ {r} (mod {m})",
            rf"{r} \pmod{{{m}}}",
            rf"n\equiv {r - m}\pmod{{{m}}}",
        ]
    )


def congruence_apart(rng: random.Random) -> Pair:
    m = rng.randint(3, 30)
    r = rng.randrange(m)
    return rng.choice(
        [
            (rf"n\equiv{r}\pmod{{{m}}}", rf"n\equiv{r}\pmod{{{m + rng.randint(1, 5)}}}"),
            (rf"n\equiv{r}\pmod{{{m}}}", rf"n\equiv{(r + 1) % m}\pmod{{{m}}}"),
            (str(r), rf"{r}\pmod{{{m}}}"),
            (rf"n\equiv{r}\pmod{{{m}}}", str(r)),
            (rf"n\equiv{r}\pmod{{{m}}}", rf"n={m}k+{r + 1}"),
        ]
    )


def family_same(rng: random.Random) -> Pair:
    k = rng.randint(2, 9)
    return rng.choice(
        [
            (rf"{k}k\pi, k\in\mathbb{{Z}}", rf"{k}n\pi, n\in\mathbb{{Z}}"),
            (rf"\frac{{\pi}}{{{k}}}+k\pi", rf"\frac{{\pi}}{{{k}}}+n\pi"),
            (rf"{k}k\pi, k\in\mathbb{{Z}}", rf"{k}\pi k"),
            (rf"x=\frac{{\pi}}{{{k}}}+2k\pi, k\in\mathbb{{Z}}", rf"\frac{{\pi}}{{{k}}}+2k\pi"),
        ]
    )


def family_apart(rng: random.Random) -> Pair:
    k = rng.randint(2, 9)
    return rng.choice(
        [
            (rf"{k}k\pi, k\in\mathbb{{Z}}", rf"{k}k\pi, k\in\mathbb{{N}}"),
            (rf"{k}k\pi, k\in\mathbb{{Z}}", rf"{k + 1}k\pi, k\in\mathbb{{Z}}"),
            (rf"\frac{{\pi}}{{{k}}}+k\pi", rf"\frac{{\pi}}{{{k}}}+2k\pi"),
            (rf"\frac{{\pi}}{{{k}}}+k\pi", rf"-\frac{{\pi}}{{{k}}}+k\pi"),
            (rf"{k}k\pi", rf"{k}\pi"),
        ]
    )


def ratio_same(rng: random.Random) -> Pair:
    a, b, c, k = rng.randint(1, 9), rng.randint(1, 9), rng.randint(1, 9), rng.randint(2, 9)
    return rng.choice(
        [
            (f"{a}:{b}:{c}", f"{a * k}:{b * k}:{c * k}"),
            (f"{a}:{b}", rf"\frac{{{a}}}{{{b}}}"),
            (f"{a}:{b}", rf"{a}\text{{ to }}{b}"),
            (f"{a}:{b}", f"{a}/{b}"),
        ]
    )


def ratio_apart(rng: random.Random) -> Pair:
    a, b, c = rng.sample(range(1, 10), 3)
    return rng.choice(
        [
            (f"{a}:{b}:{c}", f"{b}:{a}:{c}"),
            (f"{a}:{b}", f"{b}:{a}"),
            (f"{a}:{b}", rf"\frac{{{b}}}{{{a}}}"),
            (f"{a}:{b}:{c}", f"{a}:{b}:{c + 1}"),
            (f"{a}:{b}", f"{a}:{b}:{c}"),
        ]
    )


def time_same(rng: random.Random) -> Pair:
    h, m = rng.randint(1, 11), rng.randint(10, 59)
    half = rng.choice(["am", "pm"])
    clock = h + 12 * (half == "pm")
    month, day = rng.choice(["January", "March", "July", "October"]), rng.randint(1, 28)
    return rng.choice(
        [
            (f"{h}:{m} {half}", f"{clock}:{m}"),
            (f"{h}:{m} {half}", rf"{h}:{m} \text{{ {half[0]}.m.}}"),
            (f"{h}:{m} {half}", f"{h}:{m}"),
            (rf"\text{{{month} {day}}}", f"{day} {month}"),
            (rf"\text{{{month} {day}}}", f"{month[:3]} {day}th"),
        ]
    )


def time_apart(rng: random.Random) -> Pair:
    h, m = rng.randint(1, 11), rng.randint(10, 58)
    month, day = rng.choice(["January", "March", "July", "October"]), rng.randint(2, 27)
    return rng.choice(
        [
            (f"{h}:{m} am", f"{h}:{m} pm"),
            (f"{h}:{m} am", f"{h + 12}:{m}"),
            (f"{h}:{m}", f"{h}:{m + 1}"),
            (f"{h}:{m} pm", f"{h}:{m + 1} pm"),
            (rf"\text{{{month} {day}}}", f"{month} {day + 1}"),
            (rf"\text{{{month} {day}}}", f"April {day}"),
        ]
    )


def choice_same(rng: random.Random) -> Pair:
    letter = rng.choice("ABCDE")
    return letter, rng.choice(
        [
            f"({letter})",
            f"{letter}.",
            f"({letter}) 5",
            f"{letter}. 5",
            rf"\text{{{letter}}}",
            f"Option {letter}",
            letter.lower(),
            f"{letter}) x=3",
            rf"\textbf{{({letter})}}\ 5",
            f"{letter}: the first",
            f"{letter} - a longer text",
            f"选{letter}",
        ]
    )


def choice_apart(rng: random.Random) -> Pair:
    letter = rng.choice("ABCDE")
    wrong = other(rng, list("ABCDE"), letter)
    return letter, rng.choice(
        [
            f"({wrong})",
            f"{wrong}.",
            f"({wrong}) 5",
            f"{wrong}. 5",
            rf"\text{{{wrong}}}",
            f"Option {wrong}",
            f"{letter}, {wrong}",
            f"not {letter}",
            f"{letter} or {wrong}",
            f"选{wrong}",
        ]
    )


WORD_PAIRS = [
    ("even", "odd"),
    ("increasing", "decreasing"),
    ("yes", "no"),
    ("true", "false"),
    ("convergent", "divergent"),
    ("Monday", "Friday"),
    ("Alice", "Bob"),
    ("parabola", "hyperbola"),
    ("no solution", "infinitely many solutions"),
    ("left", "right"),
    ("acute", "obtuse"),
]


def text_same(rng: random.Random) -> Pair:
    word = rng.choice(rng.choice(WORD_PAIRS))
    return rng.choice([word, rf"\text{{{word}}}"]), rng.choice(
        [word, word.lower(), word.capitalize(), rf"\text{{{word}}}", rf"\textbf{{{word}}}", f"{word}.", f"**{word}**"]
    )


def text_apart(rng: random.Random) -> Pair:
    first, second = rng.sample(rng.choice(WORD_PAIRS), 2)
    return rng.choice([first, rf"\text{{{first}}}"]), rng.choice(
        [second, rf"\text{{{second}}}", rf"\text{{not {first}}}", f"{first} or {second}"]
    )


def logic_same(rng: random.Random) -> Pair:
    op = rng.choice([r"\land", r"\lor", r"\cup", r"\cap"])
    a, b = rng.sample("pqrsAB", 2)
    return f"{a} {op} {b}", f"{b} {op} {a}"


def logic_apart(rng: random.Random) -> Pair:
    ops = [r"\land", r"\lor", r"\cup", r"\cap", r"\to", r"\setminus", r"\subset", r"\in"]
    op = rng.choice(ops)
    a, b = rng.sample("pqrsAB", 2)
    return f"{a} {op} {b}", rng.choice(
        [f"{a} {other(rng, ops, op)} {b}", rf"{a} {op} \neg {b}", f"{a}"] + ([f"{b} {op} {a}"] if op in ops[4:] else [])
    )


# -- responses -------------------------------------------------------------------------------------

SAID = [
    "The answer is {}.",
    "The answer should be {}.",
    "So the final answer is {}.",
    "### Answer\n\n{}",
    "**Answer:** {}",
    "Ans: {}",
    "We get the answer {}.",
    "The result turns out to be {}.",
    "<answer>\n{}\n</answer>",
    "答案是{}。",
    "故答案为：{}．",
    "Ответ: {}",
    "La respuesta es {}.",
    "Die Antwort lautet {}.",
    "La réponse est {}.",
    "答えは{}です。",
    "정답은 {}입니다.",
    "Đáp số: {}",
    "الجواب هو {}",
    "The answer is {}, as desired.",
    "The answer is {}, since the rest cancels.",
    "The final answer is {}. This answer is correct.",
    "Answer = {}",
]
UNSAID = [
    "The answer is {} or {}.",
    "The answer is not {}.",
    "The answer might be {}.",
    "The answer is {}. Or maybe it is {}.",
    "If the answer is {}, then x is {}.",
    "The answer is {}. The answer is {}.",
    "A wrong answer is {}.",
    "The answer is {}. Wait, actually it is wrong.",
    "It could be {} or {}; hard to say.",
]
BOXED = [
    r"\boxed{{{}}}",
    r"$\boxed{{\text{{{}}}}}$",
    r"\[\boxed{{x = {}}}\]",
    r"\boxed{{\color{{red}}{{{}}}}}",
    r"\framebox{{{}}}",
    r"\boxed{{\text{{The answer is }} {}}}",
    r"\boxed{{\mathbf{{{}}}}}",
]


def announced_same(rng: random.Random) -> Pair:
    n = rng.randint(2, 999)
    return (
        str(n),
        "<think>a</think>We add the parts.\n\n"
        f"{rng.choice(SAID).format(rng.choice([str(n), f'${n}$', f'**{n}**', f'$x = {n}$']))}",
    )


def announced_apart(rng: random.Random) -> Pair:
    n = rng.randint(2, 999)
    wrong = step(rng, n) + 5
    said = rng.choice([rng.choice(UNSAID).format(n, wrong), rng.choice(SAID).format(wrong)])
    return str(n), f"<think>a</think>We add the parts.\n\n{said}"


def boxed_same(rng: random.Random) -> Pair:
    n = rng.randint(2, 999)
    return str(n), "<think>a</think>" + rng.choice(
        [
            rng.choice(BOXED).format(n),
            rf"First \boxed{{{n + 1}}}, corrected to \boxed{{{n}}}.",
            rf"\boxed{{{n - 1} + 1 = {n}}}",
        ]
    )


def boxed_apart(rng: random.Random) -> Pair:
    n = rng.randint(2, 999)
    return str(n), "<think>a</think>" + rng.choice(
        [
            rng.choice(BOXED).format(n + 1),
            rf"\boxed{{{n}}} or maybe \boxed{{{n + 1}}}",
            rf"\boxed{{{n} \text{{ or }} {n + 1}}}",
            rf"\boxed{{{n}}}, corrected to \boxed{{{n + 1}}}",
            rf"\boxed{{{n} + 1 = {n}}}",
            r"\boxed{}",
            rf"\boxed{{\le {n}}}",
            rf"</think>\boxed{{{n}",
        ]
    )


MAKERS: dict[str, tuple[Maker, Maker]] = {
    "numbers": (number_same, number_apart), "radix": (radix_same, radix_apart), "words": (words_same, words_apart),
    "units": (units_same, units_apart), "expressions": (expression_same, expression_apart),
    "complex numbers": (complex_same, complex_apart), "constants of integration": (constant_same, constant_apart),
    "lists and sets": (list_same, list_apart), "tuples and vectors": (tuple_same, tuple_apart),
    "regions": (region_same, region_apart), "whole numbers of a region": (integers_same, integers_apart),
    "equations": (equation_same, equation_apart), "named values": (name_same, name_apart),
    "systems": (system_same, system_apart), "piecewise functions": (piecewise_same, piecewise_apart),
    "congruences": (congruence_same, congruence_apart), "families": (family_same, family_apart),
    "ratios": (ratio_same, ratio_apart), "times and dates": (time_same, time_apart),
    "choices": (choice_same, choice_apart), "text": (text_same, text_apart),
    "logic and sets by name": (logic_same, logic_apart), "announcements": (announced_same, announced_apart),
    "boxes": (boxed_same, boxed_apart),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_equal_rewritings_pass(name: str) -> None:
    rng, form = random.Random(f"same {name}"), form_of(name)
    failed = []
    for _ in range(NUM):
        gold, answer = MAKERS[name][0](rng)
        verdict = math.verify(answer, gold, form=form)
        if not verdict.correct:
            failed.append((gold, answer, verdict.reason))
    assert len(failed) <= 0.02 * NUM, failed[:8]


@pytest.mark.parametrize("name", MAKERS)
def test_mutants_do_not_pass(name: str) -> None:
    rng, form = random.Random(f"apart {name}"), form_of(name)
    passed = []
    for _ in range(NUM):
        gold, answer = MAKERS[name][1](rng)
        verdict = math.verify(answer, gold, form=form)
        if verdict.correct:
            passed.append((gold, answer, verdict.reason))
    assert not passed, passed[:8]


def form_of(name: str) -> str:
    return next(rule.form for rule in RULES if rule.name == name)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_examples_of_a_rule(rule: Rule) -> None:
    for pairs, right in ((rule.same, True), (rule.apart, False)):
        for gold, answer in pairs:
            verdict = math.verify(answer, gold, form=rule.form)
            assert verdict.correct == right and verdict.outcome is not Outcome.INFRA_ERROR, (gold, answer, verdict)


@pytest.mark.parametrize(
    ("gold", "rule"),
    [
        ("12", "expressions"),
        (r"[1,2)", "tuples and vectors"),
        ("x>1", "regions"),
        (r"n\equiv1\pmod 4", "congruences"),
        (r"\text{Monday}", "text"),
        (r"\nabla\cdot F", None),
    ],
)
def test_the_rule_of_a_gold(gold: str, rule: str | None) -> None:
    assert rule_of(gold) == rule


@pytest.mark.parametrize(
    ("gold", "pred", "form", "outcome"),
    [
        ("15", "所以共有15种。", "response", Outcome.CORRECT),
        ("15", "因此，共有 $15$ 种方法。", "response", Outcome.CORRECT),
        ("20", "We add. Thus, x turns out to be 20.", "response", Outcome.CORRECT),
        ("1234", "Therefore the total comes out to 1,234.", "response", Outcome.CORRECT),
        ("12", "所以共有15种，其中3种不合要求。", "response", Outcome.WRONG),
        ("15", "不对，所以共有15种？", "response", Outcome.WRONG),
        ("20", "So if y = 3, x turns out to be 20.", "response", Outcome.WRONG),
        ("20", "Thus, x turns out to be 20 times y.", "response", Outcome.WRONG),
        ("20", "Thus, x turns out to be 20. But that is wrong.", "response", Outcome.NO_ANSWER),
        ("20", "Thus, x turns out to be at least 20.", "response", Outcome.NO_ANSWER),
        ("(2,-1)", r"2\mathbf{i}-\mathbf{j}", "bare", Outcome.CORRECT),
        (r"2\mathbf{i}-\mathbf{j}", "2", "bare", Outcome.WRONG),
        ("5", "5 half-lives", "bare", Outcome.CORRECT),
        (r"\{1,2,3\}", r"\{1,2\}\cup\{3\}", "bare", Outcome.CORRECT),
        (r"\{1,2,4\}", r"\{1,2\}\cup\{3\}", "bare", Outcome.WRONG),
        ("3+4j", "3+4i", "bare", Outcome.CORRECT),
        ("3+4i", "3+4j+k", "bare", Outcome.WRONG),
        ("4i", "4j", "bare", Outcome.UNDECIDED),
        (r"\langle 3,4\rangle", "3i+4j", "bare", Outcome.CORRECT),
    ],
)
def test_conclusions_sums_of_unit_vectors_unions_and_engineers_numbers(
    gold: str, pred: str, form: str, outcome: Outcome
) -> None:
    assert math.verify(pred, gold, form=form).outcome is outcome
