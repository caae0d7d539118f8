r"""Cheap normalisation of an answer's text: the same answer in other markup becomes the same
string.

Only what cannot change the meaning: math delimiters, spacing commands, sizes of brackets, colours,
fraction variants, Unicode look-alikes, bold, an announcement in front, trailing punctuation. Units,
words and order are for the typed comparison. What comes out has no two spaces in a row, and no
white space but spaces: the patterns of the modules behind this one count on it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from qwq.verify.math.unicode import to_latex

MAX_CHARS = 4000

_SYNONYMS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "geq": "ge", "leqslant": "le", "geqslant": "ge",
    "leqq": "le", "geqq": "ge", "neq": "ne", "not=": "ne", "lt": "<", "gt": ">", "varnothing": "emptyset",
    "dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "dotsb": "ldots", "dotso": "ldots", "textbf": "text",
    "textit": "text", "textrm": "text", "textnormal": "text", "mbox": "text", "hbox": "text", "textsf": "text",
    "texttt": "text", "textup": "text", "textsc": "text", "emph": "text", "dbinom": "binom", "tbinom": "binom",
    "lbrace": "\\{", "rbrace": "\\}", "colon": ":", "vert": "|", "lvert": "|", "rvert": "|", "Vert": "\\|",
    "lVert": "\\|", "rVert": "\\|", "mid": "|", "operatorname*": "operatorname", "degree": "^{\\circ}",
    "mathit": "mathrm", "mathsf": "mathrm", "mathnormal": "mathrm", "boldsymbol": "mathbf", "bm": "mathbf",
    "pmb": "mathbf", "langle": "(", "rangle": ")", "lbrack": "[", "rbrack": "]", "vee": "lor", "wedge": "land",
    "thickapprox": "approx", "ast": "*", "rm": "", "bf": "", "it": "", "arcsec": "operatorname{arcsec}",
    "infin": "infty", "thinspace": " ", "rightarrow": "to", "lnot": "neg", "longrightarrow": "to",
    "implies": "Rightarrow", "iff": "Leftrightarrow", "cis": "operatorname{cis}", "R": "mathbb{R}", "N": "mathbb{N}",
    "Z": "mathbb{Z}", "Q": "mathbb{Q}", "C": "mathbb{C}", "reals": "mathbb{R}", "backslash": "setminus",
    "smallsetminus": "setminus", "euro": "€", "pounds": "£", "yen": "¥", "textdollar": "\\$", "dollar": "\\$",
    "textdegree": "^{\\circ}", "celsius": "^{\\circ}C", "permil": "permil", "rm{": "mathrm{", "upvarphi": "phi",
    "varphi": "phi", "varepsilon": "epsilon", "vartheta": "theta",
    "uppi": "pi", "tg": "tan", "ctg": "cot", "cosec": "csc", "arctg": "arctan", "sh": "sinh", "ch": "cosh",
    "th": "tanh", "bigcup": "cup", "bigcap": "cap", "ne=": "ne", "prime": "'",
}  # fmt: skip
_SYNONYM = re.compile(r"\\(" + "|".join(sorted(map(re.escape, _SYNONYMS), key=len, reverse=True)) + r")(?![A-Za-z])")
_SIZES = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])\.?"
    r"|\\(?:tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge)(?![A-Za-z])"
)
_STYLES = re.compile(
    r"\\(?:displaystyle|textstyle|limits|nolimits|hline|centering|checkmark|therefore|because|square|blacksquare|qed"
    r"|nonumber|notag|ensuremath|uline|underline|underbar|mathstrut|strut)(?![A-Za-z])"
    r"|\\(?:color|textcolor|colorbox|bbox|[hv]?phantom|label|tag|hspace"
    r"|vspace)\*? ?(?:\[[^\[\]]{0,30}\])? ?\{[^{}]{0,60}\}"
)
_DOUBLED = re.compile(
    r"\\\\(?=(?:boxed|fbox|d?frac|tfrac|sqrt|left|right|text|mathrm|pi|cdot|times|circ|begin|end)(?![a-z]))"
)
_SPACES = re.compile(r"(?:\\q?quad|\\(?:enspace|hfill)(?![A-Za-z])|~|(?<!\\)\\[;:> \n]|\s)+")
_RECURRING_DOTS = re.compile(
    r"(?<!\d)(\d{0,20}\.\d{0,30}?)\\dot ?\{? ?(\d) ?\}?(?:(\d{0,30})\\dot ?\{? ?(\d) ?\}?)?(?!\d)"
)
_GOES_ON = re.compile(r"([+-]?\d{0,20}\.\d{0,9}?)(\d{1,6})\2{2,60}\d{0,5} ?(?:\\ldots|\.\.\.)")
_RECURRING_BRACKETS = re.compile(r"([+-]?\d{1,20}[.,]\d{0,30})\((\d{1,30})\)")
_CHOOSE = re.compile(r"(?<![A-Za-z\\}])C ?_ ?(?:\{(\w{1,30})\}|(\w)) ?\^ ?(?:\{(\w{1,30})\}|(\w))")
_CHOOSE_FIRST = re.compile(r"(?:\{\})? ?[\^_] ?\{? ?(\w{1,9}) ?\}? ?C ?_ ?\{? ?(\w{1,9}) ?\}?(?!\w)")
_CHOOSE_CALL = re.compile(r"(?:(?<![A-Za-z\\])C|\\binom|\\operatorname ?\{C\}) ?\( ?(\d{1,6}) ?, ?(\d{1,6}) ?\)")
_CHOOSE_WORD = re.compile(
    r"\{? ?(?<![\w.])(\w{1,9}) ?\\choose ?(\w{1,9}) ?\}?|\b(\d{1,6}) ?(?:C| choose ) ?(\d{1,6})(?!\w)"
)
_MODULUS = re.compile(
    r"\\?\( ?(?:\\(?:bmod|mod|pmod)|mod(?:ulo)?"
    r"|\\(?:text|mathrm|operatorname) ?\{ ?mod(?:ulo)?\.? ?\})[ :]*\{? ?(\w{1,30}) ?\}? ?\\?\)"
    r"|\\(?:pmod|bmod|mod) ?(?:\{ ?([^{}]{1,30}?) ?\}|(\w{1,30}))|(?:\\(?:text|mathrm"
    r"|operatorname) ?\{ ?mod(?:ulo)? ?\}|(?<![A-Za-z\\])mod(?:ulo)?) ?\{? ?(\w{1,30}) ?\}?"
)
_BASES = {
    w: n
    for n, w in enumerate(
        "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split(), 2
    )
}
_BASE = re.compile(r"_ ?\{? ?\\text ?\{ ?(" + "|".join(_BASES) + r") ?\} ?\}?")
_IN_BASE = re.compile(
    r"(?<![\w.])(\d[0-9A-Fa-f]{0,39})(?: ?\\text ?\{ ?(?:in )?base ?\}| ?\\text ?\{ ?(?:in )?base (\w{1,9}) ?\}"
    r"| (?:in )?base(?: (?=\w))?) ?(\w{0,9})"
)
_BRACKETED_DIGITS = re.compile(r"(?<![\w)])\( ?([0-9A-Fa-f]{1,40}) ?\) ?_(?= ?\{? ?\d)")
_CIRCLED = re.compile(r"[\u2460-\u2473](?:(?:,|;| |\\text ?\{ ?and ?\}){0,3}[\u2460-\u2473])+")
_ABOUT = re.compile(
    r"\A(?:\\text ?\{ ?(?:approximately|about|roughly|approx\.?) ?\}|(?:approximately|about|roughly) |\\approx ) ?"
)
_TEXT_WITHOUT_WORDS = re.compile(r"\\text ?\{([^A-Za-z{}\\\u3000-\uffff]*)\}")
_ASCII_UNION = re.compile(r"(?<=[)\]]) ?U ?(?=[(\[])")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\! ?|\\! ?, ?|\\,|\\ |,\\,)(?=\d{3}(?!\d))")
_TIMES = re.compile(r"(?<=\d) ?[xX] ?(?=10 ?(?:\^|\*\*))")
_BOLD = re.compile(r"\A\*\*(.+)\*\*\Z|\A__(.+)__\Z|\A`(.+)`\Z|\A\"(.+)\"\Z", re.DOTALL)
_PLAIN = re.compile(r"[+-]?\d+\Z")
_ENVIRONMENT = re.compile(
    r"\\(?:begin|end) ?\{(?:equation|displaymath|math|gather|gathered|multline|center|flushleft)\*?\}"
)
_SAYS = (
    r"(?:so |thus,? |hence,? |therefore,? )?(?:the |my |our |correct |final |right |exact )*(?:answers?|result"
    r"|solution|ans\.?)(?: (?:is|are|equals?))?(?: ?[:=])?"
)
_ANNOUNCED = re.compile(
    rf"\A(?:\\text ?\{{ ?{_SAYS} ?(?:\}} ?[:=]?|(?P<open>(?=[^{{}}]*\}}))) ?"
    r"|\\text ?\{ ?(?:[A-Za-z][A-Za-z' ]{0,60} (?:is|are|equals|is equal to)|So|Thus|Hence|Therefore|Then)[,:]? ?\} ?"
    rf"|{_SAYS}(?<=[:= ]) ?"
    r"|(?:答案|答|结果|解) ?(?:应该是|应为|就是|是|为|等于|[:=])+ ?"
    r"|(?:Ответ|Respuesta|Antwort|Réponse|Resposta|Đáp số|Đáp án|답|답은|答え|解答) ?[:=は] ?)",
    re.IGNORECASE,
)
_TEXT_NUMBER = re.compile(r"\\text ?\{ ?((?:\\?\$ ?)?[-+]?\d[^{}]*)\}")
_OR_AND = re.compile(r"(?<=[!-~ ]) ?(或者|或|和|与|及|以及|且|ou|oder|и|или|または|또는|それとも) ?(?=[!-~])")
_CONJUNCTIONS = {"和": "and", "与": "and", "及": "and", "以及": "and", "且": "and", "и": "and"}
_OF_TEXT = re.compile(
    r"\\text ?\{(?: ?(oder|ou|или|und|et|и|或者?|和|与|且|および|と|または|그리고|또는|hoặc|và) ?| (o|u|y|e) )\}"
)
_TEXT_AND = frozenset(["und", "et", "y", "e", "и", "和", "与", "且", "および", "と", "그리고", "và"])


def _synonym(match: re.Match[str]) -> str:
    name = _SYNONYMS[match.group(1)]
    return name if not name or not name[0].isalpha() else "\\" + name


@lru_cache(maxsize=1 << 14)
def clean(text: str) -> str:
    """The answer without markup that means nothing; "" where nothing is left."""
    text = text.strip()
    if _PLAIN.match(text) and text.isascii():
        return text
    if len(text) > MAX_CHARS * 50:
        text = text[: MAX_CHARS * 50]
    text = _conjunctions(text)
    text = to_latex(text).strip()
    while match := _BOLD.match(text):
        text = next(g for g in match.groups() if g is not None).strip()
    text = _strip_math_signs(text)
    if "\\" in text:
        if "\\\\" in text and "\\begin" not in text:
            text = _DOUBLED.sub(r"\\", text)
        text = _SYNONYM.sub(_synonym, text)
        text = _SIZES.sub("", text)
        text = _STYLES.sub("", text)
        text = _ENVIRONMENT.sub(" ", text)
        text = _THOUSANDS.sub("", text)
        text = text.replace("\\!", "").replace("\\,", " ").replace("\\/", "")
    text = _SPACES.sub(" ", text).strip()
    if announced := _ANNOUNCED.match(text):
        rest = ("\\text{" if announced["open"] is not None else "") + text[announced.end() :]
        text = rest.strip() or text
    if wrapped := _TEXT_NUMBER.fullmatch(text):
        text = wrapped[1].strip()
    text = _spelled_alike(text)
    if "U" in text:
        text = _ASCII_UNION.sub("\\\\cup ", text)
    text = _unwrap(text)
    if "  " in text:
        text = " ".join(text.split())
    text = text.strip()
    while text and (text[-1] in ".,;:" or text.endswith("\\")) and not text.endswith(("...", "\\.", "\\\\")):
        text = text[:-1].rstrip()
    return text


def _conjunctions(text: str) -> str:
    """`x=2或x=-3` as `x=2 \\text{ or } x=-3`, in the languages that data sets come in."""
    if not text.isascii():
        text = _OR_AND.sub(lambda m: f" \\text{{ {_CONJUNCTIONS.get(m[1], 'or')} }} ", text)
    if "\\text" in text:
        text = _OF_TEXT.sub(lambda m: f" \\text{{ {'and' if (m[1] or m[2]) in _TEXT_AND else 'or'} }} ", text)
    return text


def _spelled_alike(text: str) -> str:
    r"""One spelling of what has several: recurring decimals, `C_5^2`, `(mod 3)`, `\text{(2,5)}`,
    "about".
    """
    if "dot" in text:
        text = _RECURRING_DOTS.sub(_overlined, text)
    if match := _GOES_ON.fullmatch(text) or _RECURRING_BRACKETS.fullmatch(text):
        text = f"{match[1]}\\overline{{{match[2]}}}".replace(",", ".")
    if "C" in text or "c" in text or "binom" in text:
        text = _binomials(text)
    if "mod" in text:
        text = _MODULUS.sub(lambda m: f"\\pmod{{{m[1] or m[2] or m[3] or m[4]}}}", text)
    if "x" in text or "X" in text:
        text = _TIMES.sub(r"\\times ", text)
    if "_" in text:
        text = _BRACKETED_DIGITS.sub(r"\1_", text)
    if not text.isascii():
        text = _CIRCLED.sub(lambda m: "".join(sorted(c for c in m.group() if c >= "\u2460")), text)
    if "base" in text:
        text = _IN_BASE.sub(_in_base, text)
    if "\\text" in text:
        text = _BASE.sub(lambda m: f"_{{{_BASES[m[1]]}}}", text)
        text = _TEXT_WITHOUT_WORDS.sub(r" \1 ", text).strip()
    return _ABOUT.sub("", text)


def _overlined(match: re.Match[str]) -> str:
    last = (match[3] or "") + match[4] if match[4] else ""
    return f"{match[1]}\\overline{{{match[2]}{last}}}"


def _binomials(text: str) -> str:
    text = _CHOOSE.sub(lambda m: f"\\binom{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text)
    text = _CHOOSE_FIRST.sub(lambda m: f"\\binom{{{m[1]}}}{{{m[2]}}}", text)
    text = _CHOOSE_CALL.sub(lambda m: f"\\binom{{{m[1]}}}{{{m[2]}}}", text)
    return _CHOOSE_WORD.sub(lambda m: f"\\binom{{{m[1] or m[3]}}}{{{m[2] or m[4]}}}", text)


def _in_base(match: re.Match[str]) -> str:
    base = match[2] or match[3]
    base = str(_BASES.get(base, base))
    return f"{match[1]}_{{{base}}}" if base.isdigit() else match.group()


def _strip_math_signs(text: str) -> str:
    r"""Without $, $$, \( \), \[ \]. A dollar sign of money (`\$5`, or a lone `$5`) becomes, or
    stays, `\$`.
    """
    if "\\" in text:
        text = re.sub(r"(?<!\\)\\[()]", " ", text)
        text = re.sub(r"(?<!\\)\\[\[\]](?![^\n]{0,12}pt\])", " ", text)
    if "$" not in text:
        return text
    if len(re.findall(r"(?<!\\)\$", text)) == 1:
        return re.sub(r"(?<!\\)\$", lambda _: "\\$", text)
    return re.sub(r"(?<!\\)\$", " ", text)


def _unwrap(text: str) -> str:
    r"""Without one outer `\boxed{...}`."""
    for opening in ("\\boxed{", "\\fbox{", "\\framebox{"):
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
