r"""Units behind (or, for money, before) a number: read into dimension and factor, and taken off.

A unit that only one side gives does not matter (`15\text{ cm}^2` is 15). Two known units must have
the same dimension and the same size; another size is the same answer only where the caller has
values converted. Words that are no known unit are nouns: they tell two answers apart only as
`None`, undecided. Factors are exact, relative to SI base units with grams.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from qwq.verify.math.unit_tables import SYMBOLS, WORDS, Unit, lookup
from qwq.verify.math.words import PARTS, SCALES

_LETTER_UNITS = frozenset("m s h g l L J N W V A K C F T".split())
_ANY = frozenset("unit units square sq cubic cu".split())  # a unit that is not named
_COMPASS = {"N": "north", "S": "south", "E": "east", "W": "west"}
_CURRENCIES = {
    "$": "dollar",
    "\\$": "dollar",
    "€": "euro",
    "£": "gbp",
    "¥": "yuan",
    "₹": "rupee",
    "₽": "ruble",
    "₩": "won",
}
# Words that are mathematics, connect answers or turn their meaning round, and so are never a unit.
_NEVER = frozenset(
    "and or if is are to for where when with pi mod modulo log ln sin cos tan exp even odd remainder base below "
    "above over under less more than least most minus plus times negative positive not no none except without "
    "within between either neither maybe perhaps possibly but because since so about approximately around "
    "factorial root solution solutions from until prime true false yes only undefined infinity infinite equals "
    "equal divided by choose nor xor correct wrong incorrect unknown unclear degrees-below".split()
)
_STOP_WORDS = frozenset(
    "of the a an in total each per different possible such all these those distinct its his her their on at per".split()
)
_WORD = r"[^\W\d_]"
_TOKEN = re.compile(
    rf"\\(?:text|mathrm|operatorname|mathbf|frac|cdot|times|mu|Omega)(?![A-Za-z])|{_WORD}+|[€£¥₹₽₩¢µ°]|\d+"
    rf"|[\^{{}}()/*.,'-]| "
)
_STARTS = re.compile(
    r" ?\\(?:text|mathrm|operatorname|mathbf)(?![A-Za-z])"
    rf"|\\frac ?\{{ ?\\(?:text|mathrm)|\\(?:mu|Omega)(?![A-Za-z])|(?<![A-Za-z\\])(?={_WORD})|[€£¥₹₽₩¢]"
    r"| ?\^ ?\{? ?\\circ ?\}? ?(?=(?:\\(?:text|mathrm) ?\{ ?)?[CF](?![A-Za-z]))"
)
_WRAPPED = re.compile(r"\\(?:text|mathrm|operatorname|mathbf) ?\{(?:[^{}]|\{[^{}]*\})*+\}")
_COMMANDS = re.compile(r"\\[A-Za-z]+|\\circ ?\}? ?[CF]\Z")
_BEFORE = re.compile(
    r"([+-]?) ?(?:\\text ?\{ ?)?((?:US|HK|CA|A|NZ) ?)?(\\?\$|[€£¥₹₽₩]"
    r"|(?:USD|EUR|GBP|CNY|RMB|INR|Rs\.?) ?(?=\d)) ?\}? ?([+-]?)"
)
_AFTER_MONEY = re.compile(r" ?(\\?\$|[€£¥₹₽₩¢])\Z")
_NUMERIC = re.compile(
    r"[+-]? ?(?:\d[\d., ]*|\.\d+|\d+ ?/ ?\d+|(?:\d{1,30} ?)?\\frac ?(?:\{\d{1,30}\}|\d) ?(?:\{\d{1,30}\}|\d))"
)
_TEMPERATURE = re.compile(r" ?\^ ?\{? ?\\circ ?\}? ?(?:\\(?:text|mathrm) ?\{ ?)?([CF]) ?\}?\Z")


# Unit, scale, operation and weakness, as in `Split`.
Suffix = tuple[Unit | None, Fraction, str, bool]


@dataclass(frozen=True, slots=True)
class Split:
    """A text without its unit. `scale`: what a scale word multiplies by; `operation`: "squared",
    "cubed", "factorial" or "".

    `weak`: a single letter behind a number, which may be a variable as well.
    """

    core: str
    unit: Unit | None
    scale: Fraction = Fraction(1)
    operation: str = ""
    weak: bool = False


def split(text: str) -> Split:
    """Take the unit off.

    A text without one comes back as it is; so does one that holds words no unit has.
    """
    currency, text = _currency(text)
    if match := _TEMPERATURE.search(text):
        return Split(text[: match.start()].strip(), WORDS["celsius" if match[1] == "C" else "fahrenheit"])
    for count, start in enumerate(_STARTS.finditer(text)):
        core, rest = text[: start.start()].strip(), text[start.start() :]
        if count > 30:
            break
        if not core or not _whole(core):
            continue
        behind = _suffix(core, rest, " " in text[start.start() - 1 : start.start() + 1])
        if behind is not None:
            return _with_currency(text, core, behind, currency)
    return Split(text, currency)


def _currency(text: str) -> tuple[Unit | None, str]:
    """The currency whose sign is before or behind a text, and the text without the sign."""
    if (match := _BEFORE.match(text)) and match.end() < len(text) and not (match[1] and match[4]):
        name = _CURRENCIES.get(match[3].strip(), match[3].strip(" .").lower())
        country = (match[2] or "").strip()
        unit = WORDS.get(name) if country in ("", "US") else Unit(((f"{country}-dollar", 1),))
        return unit, (match[1] or match[4]) + text[match.end() :]
    if (match := _AFTER_MONEY.search(text)) and match.start() > 0:
        return lookup("cent" if match[1] == "¢" else _CURRENCIES[match[1]]), text[: match.start()]
    return None, text


def _with_currency(text: str, core: str, behind: Suffix, currency: Unit | None) -> Split:
    """A unit behind the number beside a currency: nouns give way to it, `$5 bills`; another unit
    stays in the text.
    """
    unit, scale, operation, weak = behind
    if currency is None or unit is None or unit == currency:
        return Split(core, unit or currency, scale, operation, weak)
    return Split(text, currency) if not unit.dims else Split(core, currency, scale, operation)


def _whole(core: str) -> bool:
    """Whether a core can stand alone: brackets closed, and no operator at its end."""
    if core.count("{") - core.count("\\{") != core.count("}") - core.count("\\}") or core.count("(") + core.count(
        "["
    ) != core.count(")") + core.count("]"):
        return False
    return core[-1] not in "+-*/^_=<>,;:|\\&" and not re.search(
        r"\\(?:times|cdot|frac|sqrt|text|mathrm|begin|end|pm|le|ge|ne|in|log|ln|sin|cos|tan|overline|bar|vec|angle"
        r"|triangle)\Z|\\begin",
        core,
    )


def _suffix(core: str, rest: str, spaced: bool) -> Suffix | None:
    """What the text behind a core says; None where it is not wholly a unit."""
    tokens = _tokens(rest)
    if not tokens:
        return None
    marked = rest.lstrip().startswith("\\")
    if marked and re.search(r"[A-Za-z]", _COMMANDS.sub(" ", _WRAPPED.sub(" ", rest))):
        return None  # a variable behind the unit
    words = [t for t in tokens if t[0].isalpha() or t[0] in "€£¥₹₽₩¢°"]
    if not words or _says_more(words):
        return None
    if core.rstrip("} ").endswith("\\circ") and len(words) == 1 and words[0] in _COMPASS:
        return WORDS[_COMPASS[words[0]]], Fraction(1), "", False
    numeric = _NUMERIC.fullmatch(core) is not None
    scale, tokens, words = _scales(tokens, words, numeric, marked)
    if words and tokens == words[:1] and words[0].lower() in ("squared", "cubed", "factorial"):
        return None, scale, words[0].lower(), False
    if not tokens:
        return None, scale, "", False
    return _unit(tokens, words, numeric=numeric, marked=marked, spaced=spaced, scale=scale)


def _says_more(words: list[str]) -> bool:
    """Whether a word is mathematics or connects answers, and so belongs to no unit; `in` alone is
    inches.
    """
    if words == ["in"] or [w.lower() for w in words] == ["factorial"]:
        return False
    return any(w.lower() in _NEVER for w in words)


def _scales(tokens: list[str], words: list[str], numeric: bool, marked: bool) -> tuple[Fraction, list[str], list[str]]:
    """The product of the scale words at the start, `million`, `thirds of`, and what follows
    them.
    """
    scale = Fraction(1)
    while words and tokens and tokens[0] == words[0] and (value := _scale(words[0], numeric, marked)) is not None:
        scale *= value
        tokens, words = tokens[1:], words[1:]
        if words[:1] == ["of"]:
            tokens, words = tokens[1:], words[1:]
    return scale, tokens, words


def _scale(word: str, numeric: bool, marked: bool) -> Fraction | None:
    if word.lower() in SCALES and (numeric or marked):
        return Fraction(SCALES[word.lower()])
    singular = "half" if word.lower() == "halves" else word.lower().removesuffix("s")
    if numeric and word.lower().endswith("s") and singular in PARTS and singular != "second":
        return Fraction(1, PARTS[singular])
    return None


def _unit(
    tokens: list[str], words: list[str], *, numeric: bool, marked: bool, spaced: bool, scale: Fraction
) -> Suffix | None:
    single = len(words) == 1 and len(words[0]) == 1 and words[0].isascii()
    unit = read(tokens)
    if unit is not None:
        if numeric and words == ["in"] and "^" in tokens:
            return unit, scale, "", False  # the word has no powers
        if single and not marked and "/" not in tokens:
            return (unit, scale, "", True) if numeric and words[0] in _LETTER_UNITS else None
        return None if _is_variable(words, single, numeric, marked) else (unit, scale, "", False)
    nouns = _nouns(tokens, words, single, marked, numeric and _are_nouns(words, spaced))
    return None if nouns is None else (Unit((), nouns=nouns), scale, "", False)


def _nouns(tokens: list[str], words: list[str], single: bool, marked: bool, long: bool) -> frozenset[str] | None:
    """The words of what is no known unit; None where they may be letters of the mathematics.
    `long`: they are long enough for nouns behind a number.
    """
    if set(tokens) - set(words) - {".", ",", "'", "-", "(", ")"} and not {w.lower() for w in words} <= _ANY:
        return None  # a noun has no powers and no quotients
    if single and (not marked or words[0] in "eixyz"):
        return None
    if "-" in tokens and all(len(w) == 1 for w in words):
        return None  # a difference of letters: `2\mathbf{i}-\mathbf{j}`
    if not marked and words[0].isascii() and not long:
        return None
    return frozenset(_singular(w.lower()) for w in _hyphenated(tokens)) - _STOP_WORDS or frozenset(["?"])


def _is_variable(words: list[str], single: bool, numeric: bool, marked: bool) -> bool:
    """Whether the name of a known unit is more likely a letter of the mathematics, or the word
    `in`.
    """
    if single and words[0] in "eix":
        return True
    if marked:
        return False
    return words[0] == "in" or (not numeric and any(len(w) == 1 for w in words))


def _hyphenated(tokens: list[str]) -> list[str]:
    """The words, those that a hyphen joins as one: a half-life is no life."""
    joined: list[str] = []
    for index, token in enumerate(tokens):
        if token[0].isalpha() and index > 1 and tokens[index - 1] == "-" and joined:
            joined[-1] += f"-{token}"
        elif token[0].isalpha():
            joined.append(token)
    return joined


def _tokens(text: str) -> list[str] | None:
    """The unit's words and operators without markup; None where anything else is there."""
    tokens: list[str] = []
    position = 0
    text = text.strip().rstrip(".")
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) > 24:
            return None
        position = match.end()
        token = match.group()
        if token in ("\\text", "\\mathrm", "\\operatorname", "\\mathbf", " ", "{", "}"):
            if token == "}" and tokens and tokens[-1] == "\\frac":
                return None
            if token == "}" and "\\frac" in tokens:
                tokens.append("}")
            elif token == "{" and "\\frac" in tokens:
                tokens.append("{")
            continue
        tokens.append({"\\cdot": "*", "\\times": "*", "\\mu": "µ", "\\Omega": "Ω"}.get(token, token))
    if "\\frac" in tokens:
        return _quotient(tokens)
    return [t for t in tokens if t != "."] if any(t not in ".,'" for t in tokens) else None


def _are_nouns(words: Sequence[str], spaced: bool) -> bool:
    """Whether words without a mark of a unit are long enough for nouns, `apples`, and no product of
    letters.
    """
    known = (len(w) >= 3 or w.lower() in _STOP_WORDS or w.lower() in ("sq", "cu") for w in words)
    return all(known) and any(len(w) >= (4 if spaced else 5) for w in words)


def _quotient(tokens: list[str]) -> list[str] | None:
    r"""`\frac{m}{s}` as `m / ( s )`."""
    plain = [t for t in tokens if t != "\\frac"]
    depth = 0
    parts: list[list[str]] = []
    current: list[str] = []
    for token in plain:
        if token == "{":
            depth += 1
        elif token == "}":
            depth -= 1
            if depth == 0:
                parts.append(current)
                current = []
        else:
            current.append(token)
    if len(parts) != 2 or current or not all(parts) or tokens.count("\\frac") != 1:
        return None
    return [*parts[0], "/", "(", *parts[1], ")"]


def read(tokens: list[str]) -> Unit | None:
    """A product and quotient of known units: `m / s ^ 2`, `square meters per second`, `degrees
    celsius`. None for others.
    """
    dims: dict[str, int] = {}
    factor = Fraction(1)
    sign, group, index, found, next_power = 1, False, 0, False, 1
    while index < len(tokens):
        token = tokens[index]
        low = token.lower()
        if token == "/" or low in ("per", "每"):
            sign, group = -1, False
        elif token in "*-'" or token == "(":
            group = group or token == "("
        elif token == ")":
            sign, group = 1, False
        elif low in ("square", "sq", "平方", "cuadrados", "quadrat"):
            next_power = 2
        elif low in ("cubic", "cu", "立方"):
            next_power = 3
        elif (hit := _named(tokens, index)) is not None:
            unit, index = hit
            power, index = _power(tokens, index)
            if power is None:
                return None
            power *= sign * next_power
            if abs(power) > 6:
                return None
            factor *= unit.factor**power
            for name, count in unit.dims:
                dims[name] = dims.get(name, 0) + count * power
            next_power, found = 1, True
            continue
        else:
            return None
        index += 1
    if not found or next_power != 1:
        return None
    return Unit(tuple(sorted((k, v) for k, v in dims.items() if v)), factor)


def _named(tokens: list[str], index: int) -> tuple[Unit, int] | None:
    """The unit of the name that starts here, in one word or two, and where it ends."""
    word = tokens[index]
    following = [t for t in tokens[index + 1 : index + 3] if t != "-"]
    width = 3 if tokens[index + 1 : index + 2] == ["-"] else 2
    if following and following[0].isalpha():
        unit = WORDS.get(f"{word}-{following[0]}".lower())
        if unit is not None:
            return unit, index + width
        if word in ("µ", "u") and (unit := SYMBOLS.get(word + following[0])) is not None and width == 2:
            return unit, index + 2
    unit = lookup(word)
    return None if unit is None else (unit, index + 1)


def _power(tokens: list[str], index: int) -> tuple[int | None, int]:
    """The power behind a unit: `^2`, `^-1`, `2` written close, `squared`."""
    if index < len(tokens) and tokens[index] == "^":
        index += 1
        sign = 1
        if index < len(tokens) and tokens[index] == "-":
            sign, index = -1, index + 1
        if index < len(tokens) and tokens[index].isdecimal() and len(tokens[index]) == 1:
            return sign * int(tokens[index]), index + 1
        return None, index
    if index < len(tokens) and tokens[index] in ("2", "3"):
        return int(tokens[index]), index + 1
    if index < len(tokens) and tokens[index].lower() in ("squared", "cubed"):
        return (2 if tokens[index].lower() == "squared" else 3), index + 1
    return 1, index


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def compatible(gold: Unit | None, answer: Unit | None) -> bool | None:
    """Whether two values with these units may be the same number; None where that cannot be told
    (different nouns).
    """
    if gold is None or answer is None or gold == answer:
        return True
    if gold.dims and answer.dims:
        return gold.dims == answer.dims and gold.factor == answer.factor
    if any(u.nouns and u.nouns <= _ANY for u in (gold, answer)):
        return True
    return True if gold.nouns & answer.nouns else None
