"""TeX formulas as models write them, in characters that a terminal has: fractions as a/b, powers
and indices raised and lowered where Unicode has them, symbols by name. What is not known here stays
as it was written.
"""

from __future__ import annotations

import re

SYMBOLS = {
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "delta": "δ",
    "epsilon": "ε",
    "varepsilon": "ε",
    "zeta": "ζ",
    "eta": "η",
    "theta": "θ",
    "iota": "ι",
    "kappa": "κ",
    "lambda": "λ",
    "mu": "μ",
    "nu": "ν",
    "xi": "ξ",
    "pi": "π",
    "rho": "ρ",
    "sigma": "σ",
    "tau": "τ",
    "phi": "φ",
    "varphi": "φ",
    "chi": "χ",
    "psi": "ψ",
    "omega": "ω",
    "Gamma": "Γ",
    "Delta": "Δ",
    "Theta": "Θ",
    "Lambda": "Λ",
    "Xi": "Ξ",
    "Pi": "Π",
    "Sigma": "Σ",
    "Phi": "Φ",
    "Psi": "Ψ",
    "Omega": "Ω",
    "times": "×",
    "cdot": "·",
    "div": "÷",
    "pm": "±",
    "mp": "∓",
    "ast": "∗",
    "star": "⋆",
    "circ": "∘",
    "bullet": "•",
    "oplus": "⊕",
    "otimes": "⊗",
    "le": "≤",
    "leq": "≤",
    "ge": "≥",
    "geq": "≥",
    "ne": "≠",
    "neq": "≠",
    "approx": "≈",
    "equiv": "≡",
    "sim": "∼",
    "cong": "≅",
    "propto": "∝",
    "ll": "≪",
    "gg": "≫",
    "in": "∈",
    "notin": "∉",
    "subset": "⊂",
    "subseteq": "⊆",
    "supset": "⊃",
    "cup": "∪",
    "cap": "∩",
    "setminus": "∖",
    "emptyset": "∅",
    "varnothing": "∅",
    "forall": "∀",
    "exists": "∃",
    "neg": "¬",
    "land": "∧",
    "wedge": "∧",
    "lor": "∨",
    "vee": "∨",
    "mid": "|",
    "parallel": "∥",
    "perp": "⊥",
    "angle": "∠",
    "triangle": "△",
    "to": "→",
    "rightarrow": "→",
    "leftarrow": "←",
    "Rightarrow": "⇒",
    "implies": "⇒",
    "Leftarrow": "⇐",
    "iff": "⇔",
    "Leftrightarrow": "⇔",
    "mapsto": "↦",
    "infty": "∞",
    "partial": "∂",
    "nabla": "∇",
    "sum": "∑",
    "prod": "∏",
    "int": "∫",
    "oint": "∮",
    "sqrt": "√",
    "degree": "°",
    "prime": "′",
    "ldots": "…",
    "dots": "…",
    "cdots": "⋯",
    "vdots": "⋮",
    "lfloor": "⌊",
    "rfloor": "⌋",
    "lceil": "⌈",
    "rceil": "⌉",
    "langle": "⟨",
    "rangle": "⟩",
    "therefore": "∴",
    "because": "∵",
    "hbar": "ℏ",
    "ell": "ℓ",
    "quad": "  ",
    "qquad": "    ",
    "pmod": "mod ",
    "bmod": "mod",
    "mod": "mod",
}
FUNCTIONS = (
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "log",
    "ln",
    "exp",
    "lim",
    "max",
    "min",
    "gcd",
    "lcm",
    "det",
    "dim",
    "deg",
    "arg",
    "sup",
    "inf",
)
SPACES = {
    ",": " ",
    ";": " ",
    ":": " ",
    " ": " ",
    "!": "",
    "{": "{",
    "}": "}",
    "%": "%",
    "$": "$",
    "#": "#",
    "&": "&",
    "_": "_",
    "|": "‖",
    "\\": "\n",
}
PLAIN = (
    "text",
    "textbf",
    "textit",
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "mathcal",
    "boldsymbol",
    "operatorname",
    "mbox",
    "displaystyle",
    "hat",
    "vec",
    "overline",
    "bar",
)
BLACKBOARD = {"R": "ℝ", "N": "ℕ", "Z": "ℤ", "Q": "ℚ", "C": "ℂ", "P": "ℙ"}
IGNORED = ("left", "right", "big", "Big", "bigg", "Bigg", "displaystyle", "limits", "nonumber", "label")
UP = dict(zip("0123456789+-=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", strict=True))
DOWN = dict(zip("0123456789+-=()aeijnoxkm", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑᵢⱼₙₒₓₖₘ", strict=True))
TOKEN = re.compile(r"\\([a-zA-Z]+)\*?|\\(.)|([{}^_&])|(\s+)|(.)", re.DOTALL)


def formula(tex: str) -> str:
    """The formula in plain characters."""
    tex = re.sub(r"\\(?:begin|end)\{[a-zA-Z]+\*?\}(?:\{[lcr|]+\})?", "", tex)
    made = _Reader(tex).text(top=True)
    return "\n".join(" ".join(line.split()) for line in made.strip().split("\n"))


class _Reader:
    def __init__(self, tex: str) -> None:
        self.tokens = [m for m in TOKEN.finditer(tex)]
        self.at = 0

    def text(self, *, one: bool = False, top: bool = False) -> str:
        """Up to the end of the group, one argument of a command, or (`top`) all."""
        out = ""
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            self.at += 1
            command, escaped, sign, blank, plain = token.groups()
            if sign == "}":
                if top:
                    continue
                return out
            if sign == "{":
                out += self.text()
            elif sign in ("^", "_"):
                out += _script(self.text(one=True), UP if sign == "^" else DOWN, sign)
            elif sign == "&":
                out += " "
            elif command:
                out += self._command(command, token.group(0))
            else:
                out += SPACES.get(escaped, f"\\{escaped}") if escaped else (plain or " ")
            if one and not blank:
                return out
        return out

    def _command(self, name: str, written: str) -> str:
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            return f"{_grouped(self.text(one=True))}/{_grouped(self.text(one=True))}"
        if name in ("binom", "dbinom"):
            return f"C({self.text(one=True)}, {self.text(one=True)})"
        if name == "sqrt":
            return self._root()
        if name in ("boxed", "fbox"):
            return f"⟦{self.text(one=True)}⟧"
        if name == "mathbb":
            letters = self.text(one=True)
            return BLACKBOARD.get(letters, letters)
        if name in IGNORED:
            if name in ("left", "right") and self._next() == ".":  # a bracket that is not shown
                self.at += 1
            return ""
        if name in PLAIN:
            return self.text(one=True)
        if name in SYMBOLS:
            return SYMBOLS[name]
        if name in FUNCTIONS:
            return f"{name} "
        return f"{written}{{{self.text(one=True)}}}" if self._next() == "{" else written

    def _next(self) -> str:
        return self.tokens[self.at].group(0) if self.at < len(self.tokens) else ""

    def _root(self) -> str:
        degree = ""
        if self._next() == "[":
            self.at += 1
            while (sign := self._next()) not in ("]", ""):
                degree += sign
                self.at += 1
            self.at += 1
        return _script(degree, UP, "") + "√" + _grouped(self.text(one=True))


def _grouped(text: str) -> str:
    """In brackets where it is more than a number or a word."""
    text = text.strip()
    return text if re.fullmatch(r"[\w.⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ₀₁₂₃₄₅₆₇₈₉√π]*", text) else f"({text})"


def _script(text: str, letters: dict[str, str], sign: str) -> str:
    text = text.strip()
    if text in ("∘", "°") and sign == "^":
        return "°"
    if text and all(c in letters for c in text):
        return "".join(letters[c] for c in text)
    return f"{sign}{text}" if len(text) <= 1 else f"{sign}({text})"
