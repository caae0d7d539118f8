"""How numbers are written in different places: 1,234.5 and 1.234,5 and 12,34,567, and the units
that a text may change (kWh for MWh, minutes for hours).
"""

from __future__ import annotations

import re

# -- digits ----------------------------------------------------------------------------------------

# Written in Europe beyond doubt: 1.234,5 and 1.234.567 and 1 234,57 and 58,3 %.
_CERTAIN = (
    r"\d{1,3}(?:\.\d{3})+,\d{1,2}(?![\d,])|\d{1,3}(?:\.\d{3}){2,}(?![\d.,]\d)|"
    r"(?<!\d\ )\d{1,3}(?:\ \d{3})+,\d{1,2}(?![\d,])|"
    r"\d+,\d{1,2}(?=[\s\u00a0]?(?:[%\uff05\u20ac]|EUR\b|Mio|Mrd|Tsd|Prozent))"
)
# In a text of which a language writes so: also 1.234 and 1 234 and 58,3.
_EUROPEAN = (
    r"(?!0\.)\d{1,3}(?:[.\u00a0\u202f]\d{3})+(?:,\d+)?(?![\d.]\d)|\d{1,3}(?:\ \d{3})+(?:,\d+)?(?!\d)|\d+,\d+(?!\d)"
)
INDIAN = r"\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?(?!,?\d)"
_EUROPEAN_WORDS = re.compile(
    r"\b(?:der|die|das|und|von|im|ist|den|mit|f\u00fcr|bei|les|des|est|dans|une|pour|el|los|las|una|del|con|il|della|che|"
    r"het|een|voor|uma|dos)\b",
    re.IGNORECASE,
)
_ENGLISH_WORDS = re.compile(r"\b(?:the|and|of|is|are|was|were|for|with|to|by|that|at)\b", re.IGNORECASE)


def local_digits(text: str) -> str:
    """The pattern of numbers with a decimal comma, as far as a text may have such."""
    words = len(_EUROPEAN_WORDS.findall(text))
    return _EUROPEAN if words > 2 and words > 2 * len(_ENGLISH_WORDS.findall(text)) else _CERTAIN


def plain_digits(digits: str, is_local: bool) -> str:
    """Digits as `float` reads them."""
    digits = re.sub(r"[_'\u2019 \u202f\u00a0\u2009]", "", digits)
    return digits.replace(".", "").replace(",", ".") if is_local else digits.replace(",", "")


# -- units -----------------------------------------------------------------------------------------

# What a unit is in the smallest one of its kind.
_KINDS: tuple[dict[str, float], ...] = (
    {"wh": 1, "kwh": 1e3, "mwh": 1e6, "gwh": 1e9, "twh": 1e12},
    {"mg": 1e-3, "g": 1, "gram": 1, "grams": 1, "kg": 1e3, "t": 1e6, "ton": 1e6, "tons": 1e6,
     "tonne": 1e6, "tonnes": 1e6},
    {"mm": 1e-3, "cm": 1e-2, "m": 1, "metres": 1, "meters": 1, "km": 1e3, "kilometres": 1e3, "kilometers": 1e3},
    {"b": 1, "byte": 1, "bytes": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
     "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40},
    {"ms": 1e-3, "s": 1, "sec": 1, "secs": 1, "second": 1, "seconds": 1, "min": 60, "mins": 60, "minute": 60,
     "minutes": 60, "h": 3600, "hr": 3600, "hrs": 3600, "hour": 3600, "hours": 3600, "day": 86400, "days": 86400,
     "week": 604800, "weeks": 604800},
    {"ml": 1e-3, "l": 1, "litre": 1, "litres": 1, "liter": 1, "liters": 1},
    {"cent": 1e-2, "cents": 1e-2, "pence": 1e-2, "dollar": 1, "dollars": 1, "euro": 1,
     "euros": 1, "pound": 1, "pounds": 1},
)  # fmt: skip
_BYTES = _KINDS[3]
_SIZES = {unit: kind for kind in _KINDS for unit in kind}
# Letters that a column's name may have for something else (t, s, min) need brackets or a dash
# before them.
_SURE = re.compile(
    r"(?:[_\s(\[/#]|^)(mm|cm|km|mg|kg|[kmg]wh|[kmgt]i?b|bytes|ms|secs?|seconds?|minutes?|hours?|hrs|days?)(?:[)\]]?$|_\d)|"
    r"[_(\[/ ](m|g|t|s|h|l)[)\]]?$|[(\[](min)[)\]]$",
    re.IGNORECASE,
)
_RATE = re.compile(
    r"(?:mg|kg|g|km|m|kwh|mb|gb|ml|l|bytes)[_/ ](?:per[_ ])?(?:kg|g|m2|m|km|h|s|d|l|day|sec|second|hour)\b|/",
    re.IGNORECASE,
)
DURATION = re.compile(
    r"(?<![\w.,])(?P<hours>\d{1,3})[ \u00a0-]?(?:h|hrs?|hours?)(?:,| and)? ?"
    r"(?P<minutes>[0-5]?\d)[ \u00a0-]?(?:m|mins?|minutes?)\b"
    r"|(?<![\w.,])(?P<min>\d{1,3})[ \u00a0-]?(?:mins?|minutes?)(?:,| and)? ?(?P<sec>[0-5]?\d)[ \u00a0-]?"
    r"(?:s|secs?|seconds?)\b",
    re.IGNORECASE,
)
CLOCK = re.compile(r"(?<![\w:.-])(\d{1,3}):([0-5]\d):([0-5]\d)(?![\w:])")


def unit_of_label(label: str) -> str:
    """The unit that the name of a column ends with: rain_mm, weight (kg)."""
    found = None if _RATE.search(label) else _SURE.search(label)
    return next((unit.lower() for unit in found.groups() if unit), "") if found else ""


def is_unit(word: str) -> bool:
    return word in _SIZES


def factors(shown: str, given: str) -> tuple[float, ...]:
    """What a value in the unit `given` is multiplied with to be in `shown`; none where the units
    are of different kinds. A unit that is not known ("") may be any of the kind.
    """
    kind = _SIZES.get(shown)
    if kind is None:
        return ()
    if given:
        if given not in kind:
            return ()
        binary = (kind[given] / 1024 ** round(_log1000(kind[shown])),) if kind is _BYTES else ()
        return tuple(dict.fromkeys((kind[given] / kind[shown], *binary)))
    if shown == "m":
        return (1e-6,)  # millions
    if len(shown) == 1 and shown not in "hs":
        return ()
    sizes = {size / kind[shown] for size in kind.values() if size < kind[shown]}
    if kind is _BYTES:
        sizes |= {1024.0**-i for i in range(1, 4)}
    return tuple(sorted(sizes))


def _log1000(size: float) -> int:
    return sum(size >= limit for limit in (1e3, 1e6, 1e9, 1e12))


_HINTS = (
    re.compile(r"wh\b|energy|electric|power|use|consum", re.I),
    re.compile(r"weight|mass|kg|gram|ton", re.I),
    re.compile(r"dist|length|height|width|metre|meter|km|altitude", re.I),
    re.compile(r"byte|size|mem|rss|vsz|heap|disk|storage", re.I),
    re.compile(r"time|durat|elapsed|sec|min|hour|latency|day|age|delay|ms\b", re.I),
    re.compile(r"volume|litre|liter", re.I),
    re.compile(r"cent|price|cost|dollar|euro|revenue|usd|eur|payout", re.I),
)


def speaks_of(unit: str, words: str) -> bool:
    """Whether the names of a figure speak of what the unit measures."""
    kind = _SIZES.get(unit)
    return (
        unit == "m" or kind is _BYTES or any(k is kind and h.search(words) for k, h in zip(_KINDS, _HINTS, strict=True))
    )


def all_factors(shown: str) -> tuple[float, ...]:
    """What values in any unit of the kind are multiplied with to be in `shown`."""
    kind = _SIZES.get(shown)
    if kind is None:
        return ()
    binary = [1024.0**i for i in range(-4, 5)] if kind is _BYTES else []
    return tuple({*(size / kind[shown] for size in kind.values()), *binary, *([1e-6] if shown == "m" else [])})
