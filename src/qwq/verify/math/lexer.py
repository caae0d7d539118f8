"""The tokens of an expression, LaTeX or ASCII, and the names that mean something."""

from __future__ import annotations

import re

MAX_TOKENS = 800
MAX_DIGITS = 400

FUNCTIONS = frozenset(
    "sin cos tan sec csc cot arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth arcsinh arccosh arctanh "
    "ln log lg lb exp max min gcd lcm abs floor ceil sgn cis det".split()
)
ALIASES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "arsinh": "arcsinh", "arcosh": "arccosh", "artanh": "arctanh",
    "cosec": "csc", "sign": "sgn", "GCD": "gcd", "LCM": "lcm", "hcf": "gcd", "HCF": "gcd", "gcf": "gcd", "GCF": "gcd",
    "mcd": "gcd", "mcm": "lcm", "ggT": "gcd", "kgV": "lcm",
}  # fmt: skip
GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar".split()
)
CONSTANTS = {"pi": ("const", "pi"), "infty": ("const", "oo"), "infinity": ("const", "oo"), "oo": ("const", "oo")}
TIMES = frozenset({"*", "\\cdot", "\\times"})
DIVIDE = frozenset({"/", "\\div"})
ENDS = frozenset(
    {")", "]", "}", "\\}", ",", ";", "|", "&", "\\\\", "+", "-", "\\pm", "\\mp", "\\rfloor", "\\rceil", "\\end"}
)
WRAPPERS = frozenset({"\\mathrm", "\\text", "\\operatorname", "\\mathbb", "\\mathcal", "\\mathfrak", "\\mathscr"})
DECORATIONS = frozenset({"\\vec", "\\hat", "\\bar", "\\tilde", "\\overrightarrow", "\\widehat", "\\dot", "\\mathbf"})
NAMED = WRAPPERS | {"\\begin", "\\end", "\\mathbf"}

_TOKEN = re.compile(
    r"(?P<num>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+(?![\d.]{0,400}[A-Za-z]))?)"
    r"|(?P<cmd>\\[A-Za-z]+|\\[{}|%\\])|(?P<word>[A-Za-z]+)|(?P<op>\*\*|[-+*/^_!(){}\[\]|,;&%'])|(?P<space>\s|\\ )"
)
# Words of four letters or fewer that are words, and no product of letters.
ENGLISH = frozenset(
    "yes no on true none odd even all any both up down left east west zero one two four five six nine ten prime and "
    "or not if".split()
)


class Unreadable(ValueError):
    """Not an expression that is read here."""


def tokens(text: str) -> list[str]:
    """The tokens in order.

    Unreadable: a character that has no place in one, too many of them, too many digits.
    """
    found: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable(f"cannot read {text[position]!r}")
        position = match.end()
        token = match.group()
        if match.lastgroup == "word":
            found.extend(_word(token, raw=found[-2:] if found else []))
        elif match.lastgroup == "num" and len(token) > MAX_DIGITS:
            raise Unreadable("too many digits")
        elif match.lastgroup != "space":
            found.append("^" if token == "**" else token)
        if len(found) > MAX_TOKENS:
            raise Unreadable("too long")
    return found


def _word(word: str, raw: list[str]) -> list[str]:
    r"""An ASCII word: a function or constant by name, else single letters; whole inside `\text{`,
    `\mathrm{`.
    """
    if len(raw) == 2 and raw[1] == "{" and raw[0] in NAMED:
        return [word]
    name = ALIASES.get(word, word)
    if name in FUNCTIONS or name == "sqrt" or name in CONSTANTS or (name in GREEK and len(name) > 2):
        return ["\\" + name]
    for function in ("sqrt", "pi"):
        if word != function and word.startswith(function) and len(word) <= len(function) + 2:
            return ["\\" + function, *word[len(function) :]]
        if word != function and word.endswith(function) and len(word) <= len(function) + 2:
            return [*word[: -len(function)], "\\" + function]
    if len(word) > 4 or word.lower() in ENGLISH:
        raise Unreadable(f"the word {word!r}")
    return list(word)
