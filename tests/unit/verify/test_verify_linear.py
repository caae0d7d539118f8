"""No text makes the verifier slow: every regular expression under `qwq.verify`, and the math
verifier's whole scans, are linear.

The patterns are collected from the sources: those that a module compiles, and those written inside
a call. Each is run the way the code uses it on texts that almost match for a long time: fixed ones,
and ones pumped out of the pattern itself. CPU time, so that other work on the machine does not
matter; sizes grow until a run takes long enough to be measured.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]

import pytest

import qwq.verify
from qwq.types import Outcome
from qwq.verify import math

ROOT = Path(qwq.verify.__file__).parent
SIZES = (64, 256, 1024, 4096, 16384)
MEASURABLE_S = 0.01
RATIO = 3.0
METHODS = frozenset({"match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"})
SCANNING = frozenset({"search", "sub", "subn", "split", "findall", "finditer"})
UNITS = (
    " ", "\n", "\t", "1", "a", "A", ".", ",", ":", ";", "-", "!", "(", ")", "[", "]", "{", "}", "$", "*", "_", "^", "|",
    "\\", "#", "`", "/", "'", "1 ", "1,", "1.", "a ", " a", "a, ", ",000", "\\[", "\\(", "$x", "**", "{}", "\\text{",
    "\\text{a}", "\\text{ ", "\\boxed{", "\\pi", "\\dot", "\\ ", "\\frac", "x=", "1:", "C_", "(mod ", "0.1", "is ",
    "the answer is ", "final answer", "answer**", "答案", "\\mathrm{", "^{", "\\\\", "<", "> ", "==", "~", "&",
)  # fmt: skip
FRAMES = (("", ""), ("x", "!"), ("0.", "\\ldots"), ("answer", "q"), ("\\text{", "\\"), ("1", "\x00"), ("(", "?"))


class Used:
    """One regular expression and the methods that the code calls on it."""

    def __init__(self, where: str, pattern: re.Pattern[str], methods: frozenset[str]) -> None:
        self.where, self.pattern, self.methods = where, pattern, methods


@cache
def patterns() -> tuple[Used, ...]:
    found: list[Used] = []
    for info in pkgutil.walk_packages([str(ROOT)], "qwq.verify."):
        module = importlib.import_module(info.name)
        if module.__file__ is None:
            continue
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        calls = [
            n
            for n in ast.walk(tree)
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and isinstance(n.func.value, ast.Name)
        ]
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
                methods = frozenset(c.func.attr for c in calls if c.func.value.id == name) & METHODS
                found.append(Used(f"{info.name}.{name}", value, methods or METHODS))
        for call in calls:
            if call.func.value.id == "re" and call.func.attr in METHODS and isinstance(call.args[0], ast.Constant):
                found.append(
                    Used(f"{info.name}:{call.lineno}", re.compile(call.args[0].value), frozenset({call.func.attr}))
                )
    return tuple({(u.pattern.pattern, u.pattern.flags, u.methods): u for u in reversed(found)}.values())


# -- texts -----------------------------------------------------------------------------------------


def _sample(nodes: object) -> str:
    """A short text that the parsed nodes match, as good as can be told without running them."""
    return "".join(_one(op, value) for op, value in nodes)  # type: ignore[attr-defined]


def _one(op: object, value: object) -> str:
    if op is sre.LITERAL:
        return chr(value)  # type: ignore[arg-type]
    if op is sre.NOT_LITERAL:
        return next(c for c in "a1 " if ord(c) != value)
    if op is sre.ANY:
        return "a"
    if op is sre.IN:
        return _member(value)  # type: ignore[arg-type]
    if op is sre.BRANCH:
        return _sample(value[1][0])  # type: ignore[index]
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        low, _, body = value  # type: ignore[misc]
        return _sample(body) * low
    if op is sre.SUBPATTERN:
        return _sample(value[-1])  # type: ignore[index]
    if op is sre.ATOMIC_GROUP:
        return _sample(value)
    return ""


def _member(items: list[tuple[object, object]]) -> str:
    for char in "a1 .,-\n\\{}(x%$A:=中，":
        if re.match(_char_class(items), char):
            return char
    kind, value = items[0]
    return chr(value if kind is sre.LITERAL else value[0]) if kind in (sre.LITERAL, sre.RANGE) else "a"  # type: ignore[index, arg-type]


def _char_class(items: list[tuple[object, object]]) -> str:
    names = {
        sre.CATEGORY_DIGIT: r"\d",
        sre.CATEGORY_SPACE: r"\s",
        sre.CATEGORY_WORD: r"\w",
        sre.CATEGORY_NOT_DIGIT: r"\D",
        sre.CATEGORY_NOT_SPACE: r"\S",
        sre.CATEGORY_NOT_WORD: r"\W",
    }
    text = ""
    for kind, value in items:
        if kind is sre.NEGATE:
            text += "^"
        elif kind is sre.LITERAL:
            text += re.escape(chr(value))  # type: ignore[arg-type]
        elif kind is sre.RANGE:
            text += f"{re.escape(chr(value[0]))}-{re.escape(chr(value[1]))}"  # type: ignore[index]
        else:
            text += names[value]  # type: ignore[index]
    return f"[{text}]"


def pumped(nodes: object, before: str = "") -> Iterator[tuple[str, str]]:
    """(prefix, unit) for every repeat in a pattern: the unit, repeated behind the prefix, keeps the
    repeat going.
    """
    for op, value in nodes:  # type: ignore[attr-defined]
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            _, high, body = value
            if high is sre.MAXREPEAT or high > 8:
                yield before, _sample(body) or "a"
            yield from pumped(body, before)
        elif op is sre.SUBPATTERN:
            yield from pumped(value[-1], before)
        elif op is sre.BRANCH:
            for branch in value[1]:
                yield from pumped(branch, before)
        before += _one(op, value)


def units(pattern: re.Pattern[str]) -> Iterator[tuple[str, str, str]]:
    for unit in UNITS:
        yield "", unit, ""
        yield FRAMES[len(unit) % len(FRAMES)][0], unit, "\x00"
    tree = _parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE | re.UNICODE)
    for prefix, unit in set(pumped(tree)):
        for repeated in {unit, prefix + unit, unit + " "}:
            yield prefix, repeated, "\x00"
            yield prefix, repeated, ""


def seconds(run: Callable[..., object], *args: object) -> float:
    start = time.process_time()
    run(*args)
    return time.process_time() - start


def grows(run: Callable[[str], object], prefix: str, unit: str, suffix: str, sizes: tuple[int, ...] = SIZES) -> float:
    """How much longer twice the text takes, once it takes long enough to tell; 0 where the largest
    is still quick.
    """

    def text(size: int) -> str:
        return prefix + unit * (size // len(unit)) + suffix

    for size in sizes:
        if seconds(run, text(size)) > MEASURABLE_S:
            once, twice = text(size), text(2 * size)
            ratio = 99.0
            for _ in range(5):  # the smallest of several: what a collection or a cold cache adds is not the pattern's
                ratio = min(ratio, seconds(run, twice) / max(1e-9, seconds(run, once)))
                if ratio < RATIO:
                    break
            return ratio
    return 0.0


def drive(pattern: re.Pattern[str], method: str) -> Callable[[str], object]:
    if method == "finditer":
        return lambda text: sum(1 for _ in pattern.finditer(text))
    if method in ("sub", "subn"):
        return lambda text: pattern.sub("", text)
    return getattr(pattern, method)


def test_the_patterns_are_found() -> None:
    names = [u.where for u in patterns()]
    assert len(names) >= 100 and any("extract" in n for n in names)


@pytest.mark.parametrize("used", patterns(), ids=lambda u: u.where.removeprefix("qwq.verify."))
def test_every_pattern_is_linear(used: Used) -> None:
    methods = {m for m in used.methods if m not in SCANNING} | ({"finditer"} if used.methods & SCANNING else set())
    for method in sorted(methods):
        run = drive(used.pattern, method)
        for prefix, unit, suffix in units(used.pattern):
            ratio = grows(run, prefix, unit, suffix)
            assert ratio < RATIO, (
                f"{used.where}.{method}: {prefix!r} + {unit!r} * n + {suffix!r}: twice the text takes {ratio:.1f} "
                "times as long"
            )


SCANS: dict[str, Callable[[str], object]] = {
    form: (lambda text, form=form: math.verify(text, "12", form=form)) for form in ("extract", "response")
} | {
    "after thinking": lambda text: math.verify(f"<think>a</think>So it is twelve.{text}x", "12"),
    "announced": lambda text: math.verify(f"<think>a</think>The answer is {text}", "12"),
    "as gold": lambda text: math.gold_answer(text + "#### 12"),
}


@pytest.mark.parametrize("scan", SCANS)
def test_a_whole_verdict_is_linear_in_its_text(scan: str) -> None:
    for index, unit in enumerate(UNITS):
        for suffix in ("", "\x00")[index % 2 :][:1]:
            ratio = grows(SCANS[scan], "", unit, suffix, (1024, 8192, 32768))
            assert ratio < RATIO, f"{scan}: {unit!r} * n + {suffix!r}: twice the text takes {ratio:.1f} times as long"


@pytest.mark.parametrize("unit", UNITS)
def test_an_answer_of_the_longest_size_that_is_read_is_judged_quickly(unit: str) -> None:
    """4,000 characters reach the typed comparison, whose recursion and item loops no pattern test
    covers.
    """
    for text in (
        unit * (3990 // len(unit)),
        f"({unit * (1990 // len(unit))}1" + "," + unit * (1990 // len(unit)) + ")",
    ):
        took = seconds(lambda t: math.verify(t, r"\frac{x}{7}", form="bare"), text)
        assert took < 0.5, f"{unit!r}: {took:.2f} s of CPU time"


def test_runs_of_white_space_do_not_hang() -> None:
    for text in (
        "\n" * 200_000,
        " " * 200_000,
        "final answer" + " " * 190_000 + "1",
        "\n" * 100_000 + "I hope it is" + " " * 90_000,
    ):
        took = seconds(lambda t: math.verify("<think>a</think>So it is twelve." + t + "x", "12"), text)
        assert took < 0.1, f"{text[:12]!r}...: {took:.2f} s of CPU time"
    assert (
        math.verify("<think>a</think>It is so.\nThe answer is 12.\nI hope it is correct." + "\n" * 50_000, "12").outcome
        is Outcome.CORRECT
    )
