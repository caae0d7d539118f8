"""Numbers, times of day and dates in words: `two thirds`, `十二`, `7:30 pm`, `5th of March`.

Each reader takes the whole text or nothing: what it does not understand it does not drop.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_UNITS = {w: i for i, w in enumerate(
    (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen"
    ).split()
)}  # fmt: skip
_TENS = {w: 10 * i for i, w in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
SCALES = {
    "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "quadrillion": 10**15,
    "dozen": 12, "score": 20, "lakh": 10**5, "crore": 10**7, "万": 10**4, "亿": 10**8, "万亿": 10**12, "千": 1000,
    "百": 100, "千万": 10**7, "百万": 10**6, "억": 10**8, "만": 10**4, "億": 10**8, "萬": 10**4,
}  # fmt: skip
PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12, "twentieth": 20, "hundredth": 100, "thousandth": 1000,
    "millionth": 10**6,
}  # fmt: skip
MONTHS = {
    name: i
    for i, name in enumerate(
        "january february march april may june july august september october november december".split(), 1
    )
}
_SHORT_MONTHS = {name[:3]: i for name, i in MONTHS.items()} | {"sept": 9}
_CHINESE = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "壹": 1, "贰": 2, "叁": 3}
_CHINESE_STEPS = {"十": 10, "百": 100, "千": 1000}

_CLOCK = re.compile(
    r"(?P<hour>\d{1,2}) ?(?:[:h] ?(?P<minute>\d\d) ?(?:[:m] ?(?P<second>\d\d) ?)?)?"
    r"(?:\\text ?\{ ?)?(?P<half>[ap]\.? ?m\.?|in the (?:morning|afternoon|evening)|o'clock|noon"
    r"|midnight)? ?\}? ?(?P<zone>[A-Z]{3,4})?",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"(?:(?P<month>[A-Za-z]{3,9})\.? ?(?:the )?(?P<day>\d{1,2})(?:st|nd|rd|th)?"
    r"|(?:the )?(?P<day1>\d{1,2})(?:st|nd|rd|th)? ?(?:of )?(?P<month1>[A-Za-z]{3,9})\.?)"
    r"(?:,? (?P<year>\d{4}))?",
    re.IGNORECASE,
)
_CHINESE_DATE = re.compile(r"(?:(?P<year>\d{4})年)?(?P<month>\d{1,2})月(?P<day>\d{1,2})[日号]")
_ORDINAL = re.compile(r"([+-]?\d{1,15})(?:\^? ?\{? ?(?:\\text ?\{ ?)?(?:st|nd|rd|th) ?\}?\}?)")


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    """A time of day. `half`: "am", "pm" or "" where it is not said."""

    hour: int
    minute: int
    second: int
    half: str


@dataclass(frozen=True, slots=True)
class Date:
    month: int
    day: int
    year: int | None


def number(text: str) -> Fraction | None:
    """The number that words are: `minus twenty-one`, `two and a half`, `three quarters`, `one point
    five`, `二十一`.
    """
    if text and all(c in _CHINESE or c in _CHINESE_STEPS or c in "万亿负点" for c in text):
        return _chinese(text)
    words = text.lower().replace("-", " ").split()
    sign = 1
    if words and words[0] in ("minus", "negative"):
        sign, words = -1, words[1:]
    value = _english(words)
    return None if value is None else sign * value


def _english(words: list[str]) -> Fraction | None:
    if not words or len(words) > 20:
        return None
    if "point" in words:
        at = words.index("point")
        whole, digits = _english(words[:at]), [_UNITS.get(w, 99) for w in words[at + 1 :]]
        if whole is None or not digits or max(digits) > 9:
            return None
        return whole + Fraction(int("".join(map(str, digits))), 10 ** len(digits))
    last = words[-1].removesuffix("s") if words[-1] != "halves" else "half"
    if last in PARTS and len(words) > 1:
        return _with_part(words[:-1], PARTS[last], plural=words[-1] not in PARTS)
    return _whole(words)


def _with_part(words: list[str], part: int, *, plural: bool) -> Fraction | None:
    """`two [thirds]`, `a [half]`, `two and a [half]`."""
    whole = Fraction(0)
    if "and" in words and words[-2:-1] != ["hundred"]:
        at = len(words) - 1 - words[::-1].index("and")
        before = _whole(words[:at])
        if before is None:
            return None
        whole, words = before, words[at + 1 :]
    if words in (["a"], ["an"], ["one"]) and not plural:
        return whole + Fraction(1, part)
    above = _whole(words)
    return None if above is None or not plural else whole + above / part


def _whole(words: list[str]) -> Fraction | None:
    if words and words[0] in ("a", "an") and len(words) > 1 and words[1] in SCALES:
        words = ["one", *words[1:]]
    total = group = 0
    spoken = False  # a number since the last scale
    for index, word in enumerate(words):
        if word == "and" and 0 < index < len(words) - 1 and not spoken:
            continue
        if (step := _next_word(word, total, group, spoken)) is None:
            return None
        total, group, spoken = step
    return Fraction(total + group) if words else None


def _next_word(word: str, total: int, group: int, spoken: bool) -> tuple[int, int, bool] | None:
    """(total, group, spoken) after one more word of a number; None where it cannot follow."""
    if word in _UNITS and not (spoken and (group % 10 or _UNITS[word] >= 10 or group % 100 == 10)):
        return total, group + _UNITS[word], True
    if word in _TENS and not (spoken and group % 100):
        return total, group + _TENS[word], True
    if word == "hundred":
        return (total, group * 100, False) if 0 < group < 100 else None
    if word in SCALES and group and not (total and total < group * SCALES[word]):
        return total + group * SCALES[word], 0, False
    return None


def _chinese(text: str) -> Fraction | None:
    if text.startswith("负"):
        value = _chinese(text[1:])
        return None if value is None else -value
    total = section = digit = 0
    for char in text:
        if char in _CHINESE:
            digit = _CHINESE[char]
        elif char in _CHINESE_STEPS:
            section += (digit or (1 if not section else 0)) * _CHINESE_STEPS[char]
            digit = 0
        elif char in "万亿":
            total, section, digit = (total + section + digit) * SCALES[char], 0, 0
        else:
            return None
    if not any(c in _CHINESE_STEPS or c in "万亿" for c in text) and len(text) > 1:
        return None  # digits side by side: a year, not a number
    return Fraction(total + section + digit)


def leading_number(text: str) -> tuple[Fraction, str] | None:
    """A number in words at the start, and what is left: `two meters` -> (2, "meters").

    None where nothing follows it.
    """
    words = text.split()
    for end in range(min(len(words) - 1, 12), 0, -1):
        if (value := number(" ".join(words[:end]))) is not None:
            return value, " ".join(words[end:])
    return None


def ordinal(text: str) -> int | None:
    """`4th`, `21^{st}`, `7\\text{th}`."""
    match = _ORDINAL.fullmatch(text)
    return int(match[1]) if match else None


def clock(text: str) -> TimeOfDay | None:
    """A time of day. A number alone is none, nor is 7:60."""
    match = _CLOCK.fullmatch(text)
    if match is None or match["zone"] or re.fullmatch(r"\d{1,2}[ap]m", text):
        return None  # 5am may be a product
    minute, half = match["minute"], (match["half"] or "").lower().replace(".", "").replace(" ", "")
    if minute is None and half in ("", "noon", "midnight") and not (half and match["hour"] == "12"):
        return None
    hour, minutes, seconds = int(match["hour"]), int(minute or 0), int(match["second"] or 0)
    if hour > 24 or minutes > 59 or seconds > 59:
        return None
    half = {
        "inthemorning": "am",
        "intheafternoon": "pm",
        "intheevening": "pm",
        "noon": "pm",
        "midnight": "am",
        "o'clock": "",
    }.get(half, half)
    if half and not 1 <= hour <= 12:
        return None
    return TimeOfDay(hour, minutes, seconds, half)


def same_clock(gold: TimeOfDay, answer: TimeOfDay) -> bool:
    """7:30 pm is 19:30, and 7:30 where one side does not say which half; 7:30 am is neither."""
    if (gold.minute, gold.second) != (answer.minute, answer.second):
        return False
    if (gold.half and answer.half) or (not gold.half and not answer.half):
        return (gold.hour % 24, gold.half) == (answer.hour % 24, answer.half)
    spoken, bare = (gold, answer) if gold.half else (answer, gold)
    hour = spoken.hour % 12 + (12 if spoken.half == "pm" else 0)
    return bare.hour % 24 == hour or bare.hour == spoken.hour


def date(text: str) -> Date | None:
    """`March 5`, `5 March`, `5th of March, 2024`, `3月5日`."""
    if chinese := _CHINESE_DATE.fullmatch(text):
        return _valid(int(chinese["month"]), int(chinese["day"]), chinese["year"])
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    name = (match["month"] or match["month1"]).lower()
    month = MONTHS.get(name) or _SHORT_MONTHS.get(name)
    return _valid(month, int(match["day"] or match["day1"]), match["year"]) if month else None


def _valid(month: int, day: int, year: str | None) -> Date | None:
    return Date(month, day, int(year) if year else None) if 1 <= month <= 12 and 1 <= day <= 31 else None


def same_date(gold: Date, answer: Date) -> bool:
    """A year that only one side says does not matter."""
    return (gold.month, gold.day) == (answer.month, answer.day) and (
        None in (gold.year, answer.year) or gold.year == answer.year
    )
