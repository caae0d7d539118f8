r"""Units behind a number: found, named in one way, and taken off.

A unit that only one side gives does not matter (`15\text{ cm}^2` is 15). Two known units of different kinds or
sizes are different answers; a unit that is not in the table is compared with nothing.
"""

from __future__ import annotations

import re

_TABLE = {
    "cm": "cm centimeter centimeters centimetre centimetres", "mm": "mm millimeter millimeters millimetre",
    "m": "m meter meters metre metres", "km": "km kilometer kilometers kilometre kilometres",
    "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard yards", "mi": "mi mile miles",
    "s": "s sec second seconds", "min": "min mins minute minutes", "h": "h hr hrs hour hours", "d": "day days",
    "week": "week weeks", "month": "month months", "year": "yr year years",
    "g": "g gram grams", "kg": "kg kilogram kilograms", "lb": "lb lbs pound pounds", "oz": "oz ounce ounces",
    "l": "l liter liters litre litres", "ml": "ml milliliter milliliters", "gal": "gal gallon gallons",
    "deg": "degree degrees", "rad": "rad radian radians", "mph": "mph", "kmh": "km/h kph kmh", "ms": "m/s",
    "dollar": "dollar dollars usd", "cent": "cent cents", "euro": "euro euros eur", "yuan": "yuan rmb",
    "J": "joule joules", "N": "newton newtons", "W": "watt watts", "Hz": "hz hertz", "kJ": "kj", "eV": "ev",
    "%": "percent pct percentage",
}  # fmt: skip
CANONICAL = {name: key for key, names in _TABLE.items() for name in names.split()}
_POWERS = {"square": "2", "sq": "2", "cubic": "3"}
_WORDS = frozenset(CANONICAL) | frozenset(_POWERS) | {"unit", "units", "per", "squared", "cubed", "each"}
# Words that are mathematics or connect answers, and so never a unit.
_NEVER = frozenset(
    [
        "and",
        "or",
        "if",
        "is",
        "to",
        "in",
        "of",
        "for",
        "where",
        "when",
        "with",
        "pi",
        "mod",
        "log",
        "ln",
        "sin",
        "cos",
        "tan",
        "exp",
        "even",
        "odd",
    ]
)

_BEHIND = re.compile(
    r"(?P<core>.*?(?:[\d})!\]]|\\pi ?(?=\\))) ?"
    r"(?:\\(?:text|mathrm|operatorname) ?\{ ?(?P<tex>[^{}\\]*?) ?\}|(?P<ascii>[A-Za-z][A-Za-z/ .-]*))"
    r" ?(?:\^ ?\{? ?(?P<power>-?[1-4]) ?\}?)? ?\.?\Z",
    re.DOTALL,
)
_QUOTIENT = re.compile(
    r"(?P<core>.*\d) ?\\frac ?\{ ?\\(?:text|mathrm) ?\{[^{}]*\} ?\} ?"
    r"\{ ?\\(?:text|mathrm) ?\{[^{}]*\} ?(?:\^ ?\{? ?\d ?\}?)? ?\}\Z",
    re.DOTALL,
)
_UNIT_PART = r"\\(?:text|mathrm) ?\{[~\s]*[A-Za-z]{1,12} ?\} ?(?:\^ ?\{? ?-?\d ?\}?)?"
_COMPOUND = re.compile(rf"(?P<core>.*[\d}}]) ?{_UNIT_PART}(?: ?(?:/|\\cdot|\s) ?{_UNIT_PART}){{1,3}}\Z", re.DOTALL)
_CURRENCY = re.compile(r"\A([+-]?) ?[€£¥]|[€£¥]\Z")


def split(text: str) -> tuple[str, str]:
    """(the text without its unit, the unit's canonical name or ""). Text without a unit comes back as it is."""
    text = _CURRENCY.sub(r"\1", text)
    if quotient := _QUOTIENT.match(text):
        return quotient["core"], ""
    if compound := _COMPOUND.match(text):
        return compound["core"], ""  # m/s^2 and the like: compared with nothing
    match = _BEHIND.match(text)
    if match is None:
        return text, ""
    tex, ascii_words = match["tex"], match["ascii"]
    words = re.findall(r"[A-Za-z/]+", tex if tex is not None else ascii_words)
    if not words:
        return (match["core"], "") if tex is not None and not tex.strip(" .,;") else (text, "")
    lowered = [w.lower() for w in words]
    if tex is not None and (lowered == ["in"] or (lowered[0] == "of" and len(words) > 1)):
        return match["core"].strip(), "in" if lowered == ["in"] else ""  # inches; "of the cake" says what is counted
    if any(w in _NEVER for w in lowered):
        return text, ""
    if tex is None and not _plausible(words, lowered, match["core"]):
        return text, ""
    if tex is not None and len(words) == 1 and len(words[0]) == 1 and words[0] in "eix":
        return text, ""
    return match["core"].strip(), _canonical(lowered, match["power"])


def _plausible(words: list[str], lowered: list[str], core: str) -> bool:
    """ASCII words behind a number: a known unit of two letters or more, or words too long to be a product."""
    if "\\begin" in core:
        return False
    if all(w in _WORDS and len(w) > 1 for w in lowered):
        return True
    return core[-1].isdigit() and all(len(w) >= 3 for w in words) and any(len(w) >= 5 for w in words)


def _canonical(words: list[str], power: str | None) -> str:
    names = [CANONICAL[w] for w in words if w in CANONICAL]
    if len(names) != 1:
        return ""  # none known, or a compound such as "miles per hour": compared with nothing
    size = power or next((_POWERS[w] for w in words if w in _POWERS), "")
    if "per" in words:
        return ""
    return names[0] + (size if size not in ("", "1") else "")


def clash(a: str, b: str) -> bool:
    return bool(a) and bool(b) and a != b
