r"""Cheap normalisation of an answer's text: the same answer in other markup becomes the same string.

Only what cannot change the meaning: math delimiters, spacing commands, sizes of brackets, fraction variants,
Unicode look-alikes, bold, trailing punctuation. Units, words and order are for the typed comparison. What comes out has no
two spaces in a row, and no white space but spaces: the patterns of the modules behind this one count on it.
"""

from __future__ import annotations

import re
from functools import lru_cache

MAX_CHARS = 4000

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": "\\times ", "÷": "/", "·": "\\cdot ", "⋅": "\\cdot ", "∗": "*",
        "π": "\\pi ", "∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "∪": "\\cup ", "∩": "\\cap ",
        "∈": "\\in ", "∅": "\\emptyset ", "°": "^{\\circ}", "√": "\\sqrt ", "±": "\\pm ", "²": "^{2}", "³": "^{3}",
        "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}", "ℝ": "\\mathbb{R}", "…": "\\ldots ",
        "，": ",", "：": ":", "（": "(", "）": ")", "％": "%", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
        "⩽": "\\le ", "⩾": "\\ge ", "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ", "′": "'",
    }
)  # fmt: skip
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\.?")
_STYLES = re.compile(r"\\(?:phantom|displaystyle|textstyle|limits|nolimits|boldsymbol|bm|hline|centering)(?![A-Za-z])")
_SPACES = re.compile(
    r"(?:\\q?quad|\\(?:enspace|hfill|thinspace)(?![A-Za-z])|\\hspace\*?\{[^{}]{0,40}\}|~|(?<!\\)\\[;:> \n]|\s)+"
)
_RECURRING_DOTS = re.compile(r"(?<!\d)(\d{0,20}\.\d{0,30}?)\\dot ?\{? ?(\d) ?\}?(?:(\d{0,30})\\dot ?\{? ?(\d) ?\}?)?(?!\d)")
_GOES_ON = re.compile(r"([+-]?\d{0,20}\.\d{0,9}?)(\d{1,6})\2{2,60}\d{0,5} ?(?:\\ldots|\.\.\.)")
_CHOOSE = re.compile(r"(?<![A-Za-z\\}])C ?_ ?(?:\{(\w{1,30})\}|(\w)) ?\^ ?(?:\{(\w{1,30})\}|(\w))")
_MODULUS = re.compile(r"\\?\( ?(?:\\bmod|\\mod|mod) ?(\w{1,30}) ?\)|\\pmod ?\{? ?(\w{1,30}) ?\}?")
_BASES = {w: n for n, w in enumerate("two three four five six seven eight nine ten eleven twelve".split(), 2)}
_BASE = re.compile(r"_ ?\{? ?\\text ?\{ ?(" + "|".join(_BASES) + r") ?\} ?\}?")
_ABOUT = re.compile(r"\A(?:\\text ?\{ ?(?:approximately|about|roughly) ?\}|(?:approximately|about|roughly) ) ?")
_TEXT_WITHOUT_WORDS = re.compile(r"\\text ?\{([^A-Za-z{}\\]*)\}")
_ASCII_UNION = re.compile(r"(?<=[)\]]) ?U ?(?=[(\[])")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\! ?|\\! ?, ?|\\,|\\ |,\\,)(?=\d{3}(?!\d))")
_SYNONYMS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "geq": "ge", "leqslant": "le", "geqslant": "ge",
    "neq": "ne", "lt": "lt", "gt": "gt", "varnothing": "emptyset", "dots": "ldots", "cdots": "ldots",
    "dotsc": "ldots", "dotsb": "ldots", "dotso": "ldots", "textbf": "text", "textit": "text", "textrm": "text",
    "textnormal": "text", "mbox": "text", "hbox": "text", "textsf": "text", "texttt": "text", "emph": "text",
    "dbinom": "binom", "tbinom": "binom", "lbrace": "{", "rbrace": "}", "colon": ":", "vert": "|", "lvert": "|",
    "rvert": "|", "mid": "|", "operatorname*": "operatorname", "degree": "circ", "mathbf": "mathrm",
    "mathit": "mathrm", "mathsf": "mathrm", "mathnormal": "mathrm", "langle": "(", "rangle": ")", "lbrack": "[", "rbrack": "]", "land": "text{ and }", "lor": "text{ or }",
    "wedge": "text{ and }", "vee": "text{ or }", "thickapprox": "approx", "ast": "*", "rm": "", "bf": "", "it": "",
    "arcsec": "operatorname{arcsec}", "infin": "infty", "thinspace": " ",
}  # fmt: skip
_SYNONYM = re.compile(r"\\(" + "|".join(sorted(map(re.escape, _SYNONYMS), key=len, reverse=True)) + r")(?![A-Za-z])")
_BOLD = re.compile(r"\A\*\*(.+)\*\*\Z|\A__(.+)__\Z|\A`(.+)`\Z", re.DOTALL)
_PLAIN = re.compile(r"[+-]?\d+\Z")


def _synonym(match: re.Match[str]) -> str:
    name = _SYNONYMS[match.group(1)]
    return name if not name or not name[0].isalpha() else "\\" + name


@lru_cache(maxsize=1 << 14)
def clean(text: str) -> str:
    """The answer without markup that means nothing; "" where nothing is left."""
    text = text.strip()
    if _PLAIN.match(text):
        return text
    if not text.isascii():
        text = text.translate(_UNICODE)
    while match := _BOLD.match(text):
        text = next(g for g in match.groups() if g is not None).strip()
    text = _strip_math_signs(text)
    if "\\" in text:
        text = _SYNONYM.sub(_synonym, text)
        text = _SIZES.sub("", text)
        text = _STYLES.sub("", text)
        text = _THOUSANDS.sub("", text)
        text = text.replace("\\!", "").replace("\\,", " ").replace("\\/", "")
    text = _SPACES.sub(" ", text).strip()
    text = _spelled_alike(text)
    if "U" in text:
        text = _ASCII_UNION.sub("\\\\cup ", text)
    text = _unwrap(text)
    if "  " in text:
        text = " ".join(text.split())
    while text and (text[-1] in ".,;:" or text.endswith("\\")) and not text.endswith(("...", "\\.", "\\\\")):
        text = text[:-1].rstrip()
    return text


def _spelled_alike(text: str) -> str:
    r"""One spelling of what has several: recurring decimals, `C_5^2`, `(mod 3)`, `\text{(2,5)}`, "about"."""
    if "dot" in text:
        text = _RECURRING_DOTS.sub(lambda m: f"{m[1]}\\overline{{{m[2]}{(m[3] or '') + m[4] if m[4] else ''}}}", text)
    if match := _GOES_ON.fullmatch(text):
        text = f"{match[1]}\\overline{{{match[2]}}}"
    if "C" in text:
        text = _CHOOSE.sub(lambda m: f"\\binom{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text)
    if "mod" in text:
        text = _MODULUS.sub(lambda m: f"\\pmod{{{m[1] or m[2]}}}", text)
    if "\\text" in text:
        text = _BASE.sub(lambda m: f"_{{{_BASES[m[1]]}}}", text)
        text = _TEXT_WITHOUT_WORDS.sub(r" \1 ", text).strip()
    return _ABOUT.sub("", text)


def _strip_math_signs(text: str) -> str:
    r"""Without $, $$, \( \), \[ \]; a dollar sign of money (`\$5`, `$5` alone) goes too."""
    if "\\" in text:
        text = text.replace("\\$", "")
        text = re.sub(r"(?<!\\)\\[()]", " ", text)
        text = re.sub(r"(?<!\\)\\[\[\]](?![^\n]{0,12}pt\])", " ", text)
    return text.replace("$", " ") if "$" in text else text


def _unwrap(text: str) -> str:
    r"""Without one outer `\boxed{...}`, `{...}` of LaTeX grouping with a command inside, or `\mathrm{...}`."""
    for opening in ("\\boxed{", "\\fbox{"):
        if text.startswith(opening) and _closes_at_end(text, len(opening) - 1):
            return text[len(opening) : -1].strip()
    return text


def _closes_at_end(text: str, opening: int) -> bool:
    depth = 0
    for position in range(opening, len(text)):
        if text[position] == "{" and text[position - 1] != "\\":
            depth += 1
        elif text[position] == "}" and text[position - 1] != "\\":
            depth -= 1
            if depth == 0:
                return position == len(text) - 1
    return False
