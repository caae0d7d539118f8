r"""Names that answers give their values: `x`, `f(x)`, `|AB|`, `P(X>1)`, `m\angle A`,
`\frac{dy}{dx}`.

A name that only one side gives does not matter. Two names must be the same, in whatever dress:
`E(X)` and `\mathbb{E}[X]`, `f'(x)` and `y'`; a value of a function at another point, of another
function or of another derivative is another thing.
"""

from __future__ import annotations

import re
from typing import Any

from qwq.verify.math.lexer import FUNCTIONS
from qwq.verify.math.separators import squeeze

_LABEL = re.compile(
    r"\\?[A-Za-z]{1,12}'{0,4}(?: ?_ ?(?:\{[^{}]{0,40}\}|\w"
    r"|\\[a-z]{1,9}))?'{0,4}(?: ?\( ?[A-Za-z0-9](?: ?, ?[A-Za-z0-9]){0,5} ?\))?"
    r"|m? ?\\(?:text|mathrm|angle|triangle|overline|vec|operatorname|overrightarrow|mathbf|bar|hat"
    r"|mathcal) ?(?:\{[^{}]{0,80}\}|\s?[A-Za-z\s]{1,20})(?:_\S{1,40})?"
    r"|\\frac ?\{ ?(?:d|\\partial|\\mathrm ?\{d\}) ?(?:\^ ?\{?\d\}?)? ?(?:\\mathrm ?\{)?[A-Za-z]?\}? ?\} ?\{ ?(?:d"
    r"|\\partial|\\mathrm ?\{d\}) ?[A-Za-z](?: ?\^ ?\{?\d\}?)? ?\}"
    r"|[A-Za-z] ?\^ ?\{ ?(?:-1|\(\w\)) ?\} ?\( ?[A-Za-z] ?\)|\( ?[A-Za-z]\w{0,9}(?: ?, ?[A-Za-z]\w{0,9}){0,5} ?\)"
    r"|[A-Za-z](?:_\{?\w\}?)?(?: ?: ?[A-Za-z](?:_\{?\w\}?)?){1,5}|\\?\|{1,2} ?(?:\\vec|\\overrightarrow|\\overline"
    r"|\\mathbf)? ?[A-Za-z_0-9'{}]{1,9} ?\\?\|{1,2}"
    r"|[nN#] ?\( ?[A-Z](?: ?\\c[au]p ?[A-Z])? ?\)|\\?#? ?[A-Z] ?_ ?\{[^{}]{1,40}\}"
    r"|[A-Za-z]{1,4} ?_ ?\{ ?[^{}]{0,20}\\(?:min|max|triangle|text"
    r"|mathrm)[^{}]{0,20}(?:\{[^{}]{0,20}\})?[^{}]{0,20}\}"
    r"|(?:\\(?:mathbb|mathrm|operatorname|text) ?\{ ?(?:P|E|Var|Pr|V|D|Cov) ?\}|\\Pr|[PEVD]|Var|Cov"
    r"|Pr) ?[(\[](?:[^=()]|\([^=()]{0,20}\)|(?<![=<>!])=){1,60}[)\]]"
)
_PROBABILITY = re.compile(r"(?:\\(?:mathbb|mathrm|operatorname|text)\{?)?(Pr|P|E|Var|V|D|Cov)\}?[(\[](.*)[)\]]\Z")
_FUNCTION = re.compile(r"([A-Za-z]\w*)('*)\(([a-z])\)")
_DERIVATIVE = re.compile(
    r"\\frac(?:d|\\partial|\\mathrmd)(\^?\d?)([A-Za-z]?)(?:\([a-z]\))?(?:d|\\partial|\\mathrmd)([A-Za-z])(\^?\d?)"
)
_PLAIN = re.compile(r"[A-Za-z]\w?")


def is_label(side: str) -> bool:
    r"""A mere name of the right side: `x`, `f(x)`, `(p, q)`, `AB`, `\text{Area}`; not `\cos(x)`,
    not `2x + y`.
    """
    head = re.match(r"\\?([A-Za-z]+)", side)
    return bool(_LABEL.fullmatch(side)) and not (head and head[1] in FUNCTIONS)


def same_names(gold: str, answer: str) -> bool | None:
    """Whether two labels (squeezed) name the same thing; None where they may: `f(x)` and `g(x)`,
    `S` and `Area`.
    """
    if gold == answer:
        return True
    first, second = _kind(gold), _kind(answer)
    if first == second:
        return True
    if first[0] == second[0] == "function":
        return _same_function(first[1], second[1])
    if first[0] == second[0]:
        return False if first[0] in ("value", "probability", "plain", "indexed") else None
    if {first[0], second[0]} == {"function", "plain"}:
        function, plain = (first, second) if first[0] == "function" else (second, first)
        return function[1][0] == 0 and str(plain[1]).islower()
    return None


def _same_function(gold: tuple[int, str, str], answer: tuple[int, str, str]) -> bool | None:
    """The same order of derivation, by the same variable, of the same function: `y` and `f` may be
    the same, `x` and `y` are not.
    """
    if gold[0] != answer[0] or (gold[2] and answer[2] and gold[2] != answer[2]):
        return False
    if gold[1] == answer[1] or ("y" in (gold[1], answer[1]) and {gold[1], answer[1]} & set("fghF")):
        return True
    return None if {gold[1], answer[1]} <= set("fghFGy") else False


def _kind(label: str) -> tuple[str, Any]:
    if match := _PROBABILITY.fullmatch(label):
        name = {"Pr": "P", "Var": "V", "D": "V"}.get(match[1], match[1])
        return "probability", (name, match[2])
    if match := _DERIVATIVE.fullmatch(label):
        return "function", (int(match[1].strip("^") or 1), match[2], match[3])
    if match := re.fullmatch(r"([A-Za-z])('+)", label):
        return "function", (len(match[2]), match[1], "")
    if match := _FUNCTION.fullmatch(label):
        return "function", (len(match[2]), match[1], match[3])
    if match := re.fullmatch(r"([A-Za-z])\^-1\(([a-z])\)", label):
        return "function", (-1, match[1], match[2])
    if re.search(r"\([A-Za-z]?\d", label):
        return "value", label
    if re.search(r"_|\d", label):
        return "indexed", label.replace("\\", "")
    if _PLAIN.fullmatch(label):
        return "plain", label
    return "name", label


def normal(label: str) -> str:
    return squeeze(label).replace("\\mathrmd", "d")
