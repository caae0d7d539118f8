r"""Unicode that people and models write, as the LaTeX it stands for: `x⁴`, `⅓`, `√2`, `ℝ`, `３６`,
`𝑥`.

Characters that are not seen (zero-width, direction marks, byte order marks, soft hyphens) go; what
has no counterpart here stays as it is.
"""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = (
    "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064"
    "\u2066\u2067\u2068\u2069\ufe0e\ufe0f\ufeff\u00ad\u180e"
)
_COMMANDS = {
    "×": "times", "✕": "times", "✖": "times", "⨯": "times", "·": "cdot", "⋅": "cdot", "∙": "cdot", "•": "cdot",
    "π": "pi", "∞": "infty", "≤": "le", "≥": "ge", "≦": "le", "≧": "ge", "⩽": "le", "⩾": "ge", "≠": "ne", "≈": "approx",
    "≃": "approx", "≅": "cong", "≡": "equiv", "∼": "sim", "∝": "propto", "∪": "cup", "∩": "cap", "∈": "in",
    "∉": "notin", "⊂": "subset", "⊆": "subseteq", "⊃": "supset", "⊇": "supseteq", "∖": "setminus", "∅": "emptyset",
    "⌀": "emptyset", "±": "pm", "∓": "mp", "∧": "land", "∨": "lor", "¬": "neg", "⊕": "oplus", "⊗": "otimes", "→": "to",
    "⟶": "to", "←": "leftarrow", "⇒": "Rightarrow", "⟹": "Rightarrow", "⇔": "Leftrightarrow", "↔": "leftrightarrow",
    "↦": "mapsto", "∀": "forall", "∃": "exists", "∂": "partial", "∇": "nabla", "∑": "sum", "∏": "prod", "∫": "int",
    "∠": "angle", "△": "triangle", "∆": "Delta", "⊥": "perp", "∥": "parallel", "∣": "mid", "∤": "nmid", "⌊": "lfloor",
    "⌋": "rfloor", "⌈": "lceil", "⌉": "rceil", "⟨": "langle", "⟩": "rangle", "〈": "langle", "〉": "rangle",
    "√": "sqrt", "…": "ldots", "⋯": "ldots", "ℓ": "ell", "ℏ": "hbar", "ϕ": "phi", "ϵ": "epsilon", "ϑ": "vartheta",
    "∘": "circ", "✓": "checkmark", "✔": "checkmark", "†": "dagger",
}  # fmt: skip
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau "
    "upsilon phi chi psi omega"
).split()
_PLAIN = {
    "−": "-", "–": "-", "—": "-", "‒": "-", "‐": "-", "‑": "-", "﹣": "-", "∗": "*", "⁎": "*", "÷": "/", "∕": "/",
    "⁄": "/", "∶": ":", "′": "'", "’": "'", "‘": "'", "″": "''", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"',
    "、": ",", "，": ",", "。": ".", "｡": ".", "：": ":", "；": ";", "（": "(", "）": ")", "【": "[", "】": "]",
    "〔": "[", "〕": "]", "％": "%", "٪": "%", "‰": "\\permil ", "°": "^{\\circ}", "º": "^{\\circ}", "˚": "^{\\circ}",
    "℃": "^{\\circ}C", "℉": "^{\\circ}F", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}",
    "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}", "ℙ": "\\mathbb{P}", "ⅈ": "i", "ⅉ": "j", "ⅇ": "e",
    "＄": "$", "￥": "¥", "￡": "£", "\u2126": "\\Omega ", "µ": "\\mu ", "٫": ".", "٬": ",", "۔": ".", "﹐": ",",
    "．": ".", "～": "~", "〜": "~",
}  # fmt: skip
_LIKE_LATIN = dict(
    zip(
        "alpha beta epsilon zeta eta iota kappa mu nu omicron rho tau upsilon chi".split(),
        "ABEZHIKMNOPTYX",
        strict=True,
    )
)  # capitals
_SUPERSCRIPT = dict(
    zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱᵃᵇᶜᵈᵉᶠᵍʰʲᵏˡᵐᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀ", "0123456789+-=()niabcdefghjklmoprstuvwxyzT", strict=True)
)
_SUBSCRIPT = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", "0123456789+-=()aehijklmnoprstuvx", strict=True))
_RAISED = re.compile(f"[{''.join(map(re.escape, _SUPERSCRIPT))}]+")
_LOWERED = re.compile(f"[{''.join(map(re.escape, _SUBSCRIPT))}]+")
_MIXED = re.compile(r"(?<=\d) ?(?=[¼-¾⅐-⅞↉])")


def _greek() -> dict[str, str]:
    table = {}
    for index, name in enumerate(_GREEK):
        table[chr(0x3B1 + index)] = "o" if name == "omicron" else f"\\{name} "
        if 0x391 + index != 0x3A2:
            table[chr(0x391 + index)] = _LIKE_LATIN.get(name) or f"\\{name.capitalize()} "
    return table


_TABLE = str.maketrans(
    dict.fromkeys(_INVISIBLE, "") | _greek() | {c: f"\\{name} " for c, name in _COMMANDS.items()} | _PLAIN
)


def to_latex(text: str) -> str:
    """`text` with its mathematical characters as ASCII and LaTeX. ASCII comes back as it is."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda m: "^{" + "".join(_SUPERSCRIPT[c] for c in m.group()) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + "".join(_SUBSCRIPT[c] for c in m.group()) + "}", text)
    text = text.translate(_TABLE)
    return text if text.isascii() else _compatible(_MIXED.sub(" ", text))


def _compatible(text: str) -> str:
    """Digits of other scripts, full-width and styled letters, fractions in one character: as
    Unicode itself decomposes them.
    """
    out: list[str] = []
    for char in text:
        code = ord(char)
        if char.isdecimal():
            out.append(str(unicodedata.decimal(char)))
        elif 0xFF01 <= code <= 0xFF5E or 0x1D400 <= code <= 0x1D7FF or 0x2100 <= code <= 0x214F:
            out.append(unicodedata.normalize("NFKC", char).translate(_TABLE))
        elif char in "¼½¾↉" or 0x2150 <= code <= 0x215E:
            above, _, below = unicodedata.normalize("NFKC", char).partition("⁄")
            out.append(f"\\frac{{{above}}}{{{below}}}")
        elif char.isspace():
            out.append(" ")
        else:
            out.append(char)
    return "".join(out)
