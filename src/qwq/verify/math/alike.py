"""Two answers as texts: what is the same whatever it means, and what is only written
differently.
"""

from __future__ import annotations

import re

from qwq.verify.math import numbers
from qwq.verify.math.separators import squeeze
from qwq.verify.math.single import plain_words

_FUNCTION = re.compile(r"[A-Za-z]'{0,3} ?\( ?([a-z]) ?\) ?=")
_FOR_ALL = re.compile(r",? ?\\text ?\{ ?,? ?for (?:all|any|every|each)\b(?P<what>.{0,60})\Z")
_PARAMETER = re.compile(r"(?<![A-Za-z\\])[knm](?= ?\\pi)|(?<=\\pi) ?[knm](?! ?\^|[A-Za-z])")
_WORD = re.compile(r"[A-Z]?[a-z]{2,}")
_JOINING = re.compile(r"\band\b")
_LETTERS = re.compile(r"[A-Za-z][A-Za-z' -]+")
_DECIMAL_COMMA = re.compile(r"[+-]?(?:0,\d+|\d+,(?:\d{1,2}|\d{4,}))\Z")


def as_text(text: str) -> str:
    r"""Without a `\text{...}` around it all, and without spaces but those between two digits."""
    if match := re.fullmatch(r"\\text ?\{([^{}]*)\}", text):
        text = match[1].strip()
    return re.sub(r"(?<!\d) | (?!\d)", "", text)


def same_radix(gold: re.Match[str], answer: re.Match[str]) -> bool:
    r"""`2A_{16}` and `2a_{16}`: the same base and the same digits, whatever the case of the
    letters.
    """
    digits = [m[1].upper().lstrip("+") for m in (gold, answer)]
    return int(gold[2]) == int(answer[2]) and digits[0] == digits[1]


def same_names(gold: str, answer: str) -> tuple[str, str]:
    """What is only a name is the same on both sides: the variable of f(x), the parameter of a
    family of angles, "for all x".
    """
    g, a = _FOR_ALL.search(gold), _FOR_ALL.search(answer)
    if bool(g) != bool(a) or (g and a and squeeze(g["what"]) == squeeze(a["what"])):
        gold, answer = (gold[: g.start()] or gold) if g else gold, (answer[: a.start()] or answer) if a else answer
    g, a = _FUNCTION.match(gold), _FUNCTION.match(answer)
    if g and a and g[1] != a[1] and not re.search(rf"(?<![A-Za-z\\]){g[1]}(?![A-Za-z])", answer):
        answer = re.sub(rf"(?<![A-Za-z\\]){a[1]}(?![A-Za-z])", g[1], answer)
    if "\\pi" in gold and "\\pi" in answer:  # the integer of a family of angles has no name of its own
        names, others = {n.strip() for n in _PARAMETER.findall(gold)}, {n.strip() for n in _PARAMETER.findall(answer)}
        if len(names) == len(others) == 1 and names != others:
            old, new = others.pop(), names.pop()
            answer = re.sub(rf"(?<=\\pi) ?{old}(?![A-Za-z])", f" {new}", answer)
            answer = re.sub(rf"(?<![A-Za-z\\]){old}(?![A-Za-z])", new, answer)
    return gold, answer


def same_words(gold: str, answer: str) -> bool:
    r"""`\text{Even}` and `even`, `Yes` and `yes`: words, not products of letters."""
    pair = (gold, answer)
    if not any("\\text" in t or _WORD.fullmatch(t) for t in pair):
        return False
    if all(len(re.findall(r"[A-Za-z]{3,}", t)) >= 2 for t in pair) and plain_words(gold) == plain_words(answer):
        return True
    if any("\\text" in t and re.search(r"[A-Za-z]{3,}", t.replace("\\text", "")) for t in pair):
        found = [_JOINING.sub(" ", plain_words(t)) for t in pair]
        if " ".join(found[0].split()) == " ".join(found[1].split()) != "":
            return True
    bare = [re.sub(r"\\text ?\{([^{}]*)\}", r"\1", t).strip() for t in pair]
    return all(_LETTERS.fullmatch(b) for b in bare) and plain_words(bare[0]) == plain_words(bare[1]) != ""


def with_point(answer: str, gold: str) -> str:
    """A decimal comma of the answer as a point, where the gold is a number that is not whole.

    A gold's comma makes a list.
    """
    if _DECIMAL_COMMA.match(answer):
        number = numbers.read(gold)
        if number is not None and number.value.denominator != 1:
            return answer.replace(",", ".")
    return answer
