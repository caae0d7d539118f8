"""Numbers in a text: their values, the digits that are shown, and what they are not (dates, list
numbers, code, versions, references; `skipped.py`).

    [number.value for number in read_numbers("Up 12.3% to $1.2 M.")]   # [12.3, 1200000.0]

English and Chinese, and numbers with a decimal comma or in lakhs (`number_forms.py`). Not read:
Chinese numerals in characters (三成), Roman numerals, fractions in words (two thirds), and words up
to ten without a unit.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

from qwq.agent.report.number_forms import CLOCK, DURATION, INDIAN, is_unit, local_digits, plain_digits
from qwq.agent.report.skipped import joined, skipped_spans

_ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
         "seventeen eighteen nineteen").split()  # fmt: skip
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
WORDS = {word: value for value, word in enumerate(_ONES)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
SCALES = {
    "hundred": 1e2, "k": 1e3, "thousand": 1e3, "thousands": 1e3, "m": 1e6, "mn": 1e6, "mm": 1e6, "mio": 1e6,
    "million": 1e6, "millions": 1e6, "b": 1e9, "bn": 1e9, "billion": 1e9, "billions": 1e9, "t": 1e12, "tn": 1e12,
    "trillion": 1e12, "千": 1e3, "万": 1e4, "百万": 1e6, "千万": 1e7, "亿": 1e8, "万亿": 1e12,
    "tsd": 1e3, "tausend": 1e3,
    "millionen": 1e6, "mrd": 1e9, "milliarden": 1e9, "lakh": 1e5, "lakhs": 1e5, "crore": 1e7, "crores": 1e7, "cr": 1e7,
}  # fmt: skip
# What a value of 1 is in the unit: 1 is 100 percent.
SHARES = {
    "%": 1e2, "％": 1e2, "percent": 1e2, "per cent": 1e2, "pct": 1e2, "percentage point": 1e2,
    "percentage points": 1e2, "pp": 1e2, "pps": 1e2, "个百分点": 1e2, "百分点": 1e2, "basis points": 1e4,
    "basis point": 1e4, "bps": 1e4, "bp": 1e4, "‰": 1e3, "prozent": 1e2, "prozentpunkte": 1e2, "prozentpunkten": 1e2,
}  # fmt: skip
UNITS = frozenset(
    "usd eur gbp cny chf inr jpy dollar dollars euro euros pound pounds yuan rupees cent cents kg g mg t lb km m cm mm "
    "mi mile miles s ms sec second seconds min minute minutes h hour hours day days week weeks month months year years "
    "mb gb kb tb byte bytes °c °f degree degrees kwh mw kw w v hz ghz mhz mmhg point points x times px pt mph bar pa "
    "元 美元 欧元 岁 天 年 月 小时 分钟 秒 公里 米 厘米 千克 公斤 克 度 倍 分 人 次 个 家 条 件 名".split()
)
_CURRENCY = "$€£¥₹￥"
_SIGN = "-+\u2212\u2013"
_MINUS = ("-", "\u2212", "\u2013")
_SPACED = r"(?<!\d\ )\d{1,3}(?:\ \d{3})+(?:\.\d+)?(?![\d,]|\ \d)|"  # 12 345: in reports alone
_NEVER = r"(?!)"
_PATTERN = rf"""(?<![A-Za-z0-9_.\\/])                                # not inside a name
    (?P<open>\()?(?P<sign>[{_SIGN}])?\ ?
    (?:(?:US|CA|A|HK|C)?(?P<currency>[{_CURRENCY}])\ ?|(?:USD|EUR|GBP|CNY|RMB|INR|CHF|JPY|Rs\.?)\ )?
    (?P<inner>\()?(?P<sign2>[-\u2212])?
    (?P<digits>(?P<local>LOCAL)|INDIAN
        |\d{{1,3}}(?:[,_]\d{{3}})+(?:\.\d+)?(?![\d_])|\d{{1,3}}(?:[\u202f\u00a0\u2009'’]\d{{3}})+(?:\.\d+)?
        |SPACED\d+(?:\.\d+)?|\.\d+)
    (?P<exponent>[eE][+-]?\d+|\ ?(?:[×x·*]|\\times)\ ?10(?:\^\{{?[-+\u2212]?\d{{1,3}}\}}?|[⁺⁻]?[⁰¹²³⁴-⁹]{{1,3}}))?
    (?P<close>\))?"""
_SPELLED = re.compile(
    rf"(?<![\w-])(?P<first>{'|'.join(sorted(WORDS, key=len, reverse=True))})"
    rf"(?:[- ](?P<second>{'|'.join(_ONES[1:10])}))?"
    r"(?:[- ](?P<hundred>hundred))?(?![\w])",
    re.IGNORECASE,
)
_share_words = "|".join(re.escape(word) for word in sorted(SHARES, key=len, reverse=True))
_SUFFIX = re.compile(
    rf"""(?P<ordinal>st|nd|rd|th)\b
    |(?:[ \u00a0]|-(?=[a-z]))?(?P<share>{_share_words})(?![A-Za-z])
    |[ \u00a0-]?(?P<scale>thousands?|millions?|billions?|trillion|hundred|mn|mm|bn|tn|lakhs?|crores?|cr
        |millionen|milliarden|tausend|(?:mio|mrd|tsd)\b\.?|[kKMBT](?![A-Za-z])|m(?![A-Za-z])
        |万亿|千万|百万|[千万亿])(?![A-Za-z])(?!²|2)""",
    re.VERBOSE | re.IGNORECASE,
)
_UNIT = re.compile(r"[ \u00a0-]?(°\s?[CF]|[A-Za-z]+|[元岁天年月小时分钟秒公里米厘克千斤度倍人次个家条件名美欧]+)")
_OF_HUNDRED = re.compile(
    r" (?:out of|in|of|per)(?: every| each)? (?:(?P<hundred>100|a hundred|hundred)|1,?000|a thousand|"
    r"thousand)\b(?![.,]\d)",
    re.I,
)
_YEAR_BEFORE = re.compile(
    r"(?:\b(?:the|our|its|this|a|in|since|from|until|till|by|during|of|year|years|for|fiscal|calendar|end|early|late|mid|before|after|to|"
    r"through|between|and|or|vs\.?|versus|than|FY|Q[1-4]|class|season|edition|census|dated|full-year|year-end)|[(,/&]|"
    r"^|\d{4}\s?[-\u2013,])\s*[*_]{0,2}$",
    re.IGNORECASE,
)
_CENTS = re.compile(r" (?:cents?|pence|pennies) (?:of|in|out of) (?:every|each|the|a) (?:euro|dollar|pound)", re.I)
# A 12-month plan, a 5-star hotel: what the number says is a name.
_ADJECTIVE = re.compile(
    r"-(?:month|day|week|year|hour|minute|quarter|point|step|way|star|sided|digit|page|person|item|bit|core|part|tier|"
    r"level|dimensional|decimal|column|row|word|figure)s?\b(?!-over)",
    re.I,
)
_BELOW = ("nearly", "almost", "close to", "close on", "just under", "slightly under",
          "slightly less than", "just below",
          "just short of", "not quite", "under", "below", "less than", "fewer than", "up to", "knapp", "unter",
          "weniger als", "近", "不到", "将近", "接近", "低于", "少于")  # fmt: skip
_ABOVE = ("over", "more than", "well over", "above", "just over", "just above", "slightly over", "slightly more than",
          "a little over", "a little more than",
          "barely over", "at least", "exceed", "exceeds", "exceeded", "exceeding",
          "upwards of", "mehr als", "超过", "逾", "高于", "多于")  # fmt: skip
_ABOUT = ("about", "around", "approximately", "approx", "approx.", "roughly", "circa", "ca.", "some", "rund", "etwa",
          "in the region of", "on the order of", "more or less", "~", "≈", "约", "大约")  # fmt: skip
_hedges = "|".join(re.escape(word) for word in sorted((*_BELOW, *_ABOVE, *_ABOUT), key=len, reverse=True))
_HEDGE = re.compile(rf"(?<![A-Za-z])({_hedges})\s?(?:the\s+|a\s+)?[*_]{{0,2}}[{_CURRENCY}]?$", re.IGNORECASE)
_AND_A_HALF = re.compile(r" and a half(?= (?:hundred|thousand|million|billion|%|percent))", re.I)
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻\u2212", "0123456789+--")
_NO_NUMBER = re.compile(r"[-\w]*(?:fold|th|some)\b", re.I)
SMALL = 10


@dataclass(frozen=True, slots=True)
class WrittenNumber:
    """One number as it is written.

    `value` is in the unit shown (12.3 for 12.3%), with a scale multiplied in (1.2 M is 1200000);
    `step` is one unit of the last digit shown, in the same measure. `share` is what 1 is in the
    unit (100 for percent), 0 for a plain number. `scale` is what was multiplied in. `either_sign`:
    it is in brackets, which a table may use for a negative. `hedge` is "", "about", "below" or
    "above". `is_counted`: a whole number up to ten has a unit. `may_be_year`: four digits such as
    2024; with `is_year` the words before it say so. `is_odds`: 86 out of 100, which is a share or a
    count.
    """

    text: str
    start: int
    end: int
    value: float
    step: float
    share: float = 0.0
    scale: float = 1.0
    either_sign: bool = False
    has_sign: bool = False
    hedge: str = ""
    unit: str = ""
    is_counted: bool = True
    may_be_year: bool = False
    is_year: bool = False
    is_odds: bool = False

    @property
    def is_whole(self) -> bool:
        return self.step >= self.scale and self.value == int(self.value)

    @property
    def is_points(self) -> bool:
        """Whether it is in percentage points, which are a difference of shares."""
        return bool(self.share) and bool(re.search(r"point|\bpps?\b|百分点", self.text, re.I))

    @property
    def num_digits(self) -> int:
        """How many digits say something: 3 of 17.5 and of 17,500."""
        digits = re.sub(r"\D", "", re.split(r"[e×x·*\\]", self.text)[0]).lstrip("0")
        return len(digits.rstrip("0") if self.is_whole else digits) or 1


def grain(number: WrittenNumber) -> float:
    """The round figure that a number with "about" or "over" is given in: 100 of 1,200."""
    whole, size = round(abs(number.value) / number.step), number.step
    while whole and whole % 10 == 0:
        whole, size = whole // 10, size * 10
    return min(size, abs(number.value) / 10)


def read_numbers(text: str, *, skip: bool = True) -> list[WrittenNumber]:
    """The numbers of a text in order. `skip` False reads all of it, as for a program's output."""
    spans = skipped_spans(text) if skip else []
    durations = list(_durations(text, skip))
    spans = joined([*spans, *((n.start, n.end) for n in durations)])
    pattern = _pattern(local_digits(text)) if skip else _printed()
    numbers = [*durations, *_digits(text, spans, pattern), *(_spelled(text, spans) if skip else ())]
    return sorted(numbers, key=lambda number: number.start)


@lru_cache(maxsize=4)
def _pattern(local: str) -> re.Pattern[str]:
    written = _PATTERN.replace("LOCAL", local).replace("INDIAN", INDIAN).replace("SPACED", _SPACED)
    return re.compile(written, re.VERBOSE)


@lru_cache(maxsize=1)
def _printed() -> re.Pattern[str]:
    printed = _PATTERN.replace("LOCAL", _NEVER).replace("INDIAN", _NEVER).replace("SPACED", "")
    return re.compile(printed, re.VERBOSE)


def _outside(spans: list[tuple[int, int]], start: int) -> bool:
    """Whether a place is in none of the spans, which are in order and apart."""
    before = bisect_right(spans, start, key=itemgetter(0)) - 1
    return before < 0 or start >= spans[before][1]


def _durations(text: str, skip: bool) -> Iterator[WrittenNumber]:
    """3 h 14 min, and in an output 3:14:00, in their smaller unit."""
    for match in DURATION.finditer(text):
        large, small = (match["hours"], match["minutes"]) if match["hours"] else (match["min"], match["sec"])
        value = 60.0 * int(large) + int(small)
        unit = "minutes" if match["hours"] else "seconds"
        yield WrittenNumber(
            match[0], match.start(), match.end(), value, 1.0, hedge=_hedge(text[: match.start()]), unit=unit
        )
    for match in () if skip else CLOCK.finditer(text):
        value = 3600.0 * int(match[1]) + 60 * int(match[2]) + int(match[3])
        yield WrittenNumber(match[0], match.start(), match.end(), value, 1.0, unit="s")


def _digits(text: str, spans: list[tuple[int, int]], pattern: re.Pattern[str]) -> Iterator[WrittenNumber]:
    for match in pattern.finditer(text):
        at = match.start("digits")
        if not _outside(spans, at) or _is_part_of_a_name(text, match):
            continue
        number = _number(text, match)
        if math.isfinite(number.value) and 0 < number.step < math.inf:  # not 1e999
            yield number


def _is_part_of_a_name(text: str, match: re.Match[str]) -> bool:
    """`COVID-19`, `2x4`, `12abc3`, `1.2.3`, and a minus that belongs to a word."""
    before, after = text[: match.start()], text[match.end() :]
    if re.search(r"[A-Za-z_]\Z" if match["sign"] else r"[A-Za-z_]-\Z", before):
        return True
    if re.match(r"\.\d|_|[A-Za-z]+[\d_]", after) and not re.match(r"[a-zA-Z]+2\b", after):
        return True
    letters = re.match(r"[A-Za-z]+", after)
    return bool(letters) and not _SUFFIX.match(after) and letters[0].lower() not in UNITS  # type: ignore[index]


def _number(text: str, match: re.Match[str]) -> WrittenNumber:
    digits = plain_digits(match["digits"], bool(match["local"]))
    sign, start = _sign(text, match)
    brackets, loss = _brackets(match)
    end = match.end() if loss else max(match.end("digits"), match.end("exponent"))
    share, scale, end, ordinal = _suffix(text, end, bool(match["currency"]))
    if text[max(0, start - 3) : start] == "百分之":
        share, start = 1e2, start - 3
    minus = loss or sign in _MINUS
    power = _power(match["exponent"])
    value = float(f"{digits}e{power}") * scale * (-1 if minus else 1)
    step = scale * float(f"1e{power - len(digits.partition('.')[2])}")
    odds = 0.0 if share or minus else _odds(text, end, value)
    unit = _unit(text, end)
    has_unit = any((match["currency"], share, odds, scale != 1, _is_known(unit.rstrip("/"))))
    is_name = _is_name(text, end, ordinal, share)
    is_small = abs(value) <= SMALL and step >= 1 and not minus
    before = text[max(0, start - 24) : start]
    return WrittenNumber(
        text[start:end], start, end, value, step, share or odds, scale,
        either_sign=brackets and not loss and not sign, has_sign=bool(sign) or loss,
        hedge=_hedge(text[: min(start, match.start())]), unit=unit,
        is_counted=not is_name and not (is_small and (ordinal or not has_unit)),
        may_be_year=(year := _may_be_year(match["digits"]) and _is_bare(sign, unit, has_unit)),
        is_year=year and bool(_YEAR_BEFORE.search(before)), is_odds=bool(odds),
    )  # fmt: skip


def _power(exponent: str | None) -> int:
    """6 of e6, of × 10^6 and of × 10⁶."""
    if exponent is None:
        return 0
    plain = exponent.translate(_SUPERSCRIPT)
    return int(plain[1:] if plain[0] in "eE" else plain.partition("10")[2].strip("^{}"))


def _is_name(text: str, end: int, ordinal: bool, share: float) -> bool:
    """A 12-month plan, the 95th percentile."""
    return bool(_ADJECTIVE.match(text, end)) or (ordinal and share > 0)


def _is_bare(sign: str, unit: str, has_unit: bool) -> bool:
    return not sign and (not has_unit or unit == "年")


def _is_known(unit: str) -> bool:
    return unit in UNITS or is_unit(unit) or unit.startswith("°")


def _odds(text: str, end: int, value: float) -> float:
    """100 for 86 out of 100, 1000 for 12 per 1,000."""
    found = _OF_HUNDRED.match(text, end)
    whole = 0.0 if not found else 1e2 if found["hundred"] else 1e3
    return whole if value <= whole else 0.0


def _brackets(match: re.Match[str]) -> tuple[bool, bool]:
    """Whether the number is in brackets, and whether they make a loss of it: $(1.9)."""
    brackets = bool(match["close"] and (match["open"] or match["inner"]))
    return brackets, bool(brackets and match["currency"] and match["inner"])


def _may_be_year(digits: str) -> bool:
    return bool(re.fullmatch(r"(?:18|19|20)\d\d", digits))


def _sign(text: str, match: re.Match[str]) -> tuple[str, int]:
    """(sign, where the number starts); the dash of a range such as 10-20 is none."""
    if match["sign2"]:
        return match["sign2"], match.start("sign2")
    if match["sign"]:
        spaced = text[match.end("sign") :].startswith(" ")
        before = text[: match.start("sign")]
        if not re.search(r"[^\s(|:=][ \t]*\Z" if spaced else r"[\d%)]\Z", before):
            return match["sign"], match.start("sign")
    return "", match.start("digits")


def _unit(text: str, end: int) -> str:
    found = _UNIT.match(text, end)
    if not found:
        return ""
    rate = "/" if text[found.end() : found.end() + 1] == "/" else ""  # mg/kg is no mg
    return found[1].lower().replace(" ", "") + rate


def _suffix(text: str, end: int, currency: bool) -> tuple[float, float, int, bool]:
    """(share, scale, new end, whether it is an ordinal) of what follows the digits."""
    share, scale, ordinal = 0.0, 1.0, False
    while suffix := _SUFFIX.match(text, end):
        word = " ".join((suffix["share"] or suffix["scale"] or suffix["ordinal"]).lower().rstrip(".").split())
        if suffix["ordinal"]:
            ordinal = True
            share = 1e2 if text[suffix.end() :].lstrip(" -").lower().startswith("percentile") else 0.0
            end = suffix.end()
            break
        if suffix["scale"]:
            if suffix["scale"] in ("m", "mm", "mM", "t", "b") and not currency:
                break  # metres, millimetres, millimolar, tonnes, bytes
            if scale != 1:
                break
            scale = SCALES[word]
        else:
            share = SHARES[word]
        end = suffix.end()
        if share:
            break
    return share or (1e2 if _CENTS.match(text, end) else 0.0), scale, end, ordinal


def _hedge(before: str) -> str:
    found = _HEDGE.search(before[-40:])
    if not found:
        return ""
    word = found[1].lower()
    return "below" if word in _BELOW else "above" if word in _ABOVE else "about"


def _spelled(text: str, spans: list[tuple[int, int]]) -> Iterator[WrittenNumber]:
    for match in _SPELLED.finditer(text):
        if not _outside(spans, match.start()):
            continue
        value, end = _spelled_value(text, match)
        share, scale, end, _ = _suffix(text, end, False)
        odds = 0.0 if share or scale != 1 else _odds(text, end, value)
        if (value * scale <= SMALL and not share and not odds) or _NO_NUMBER.match(text, end):
            continue
        step = scale * (0.1 if value % 1 else 100 if match["hundred"] and scale == 1 else 1)
        yield WrittenNumber(
            text[match.start() : end], match.start(), end, value * scale, step, share or odds, scale,
            hedge=_hedge(text[: match.start()]), unit=_unit(text, end), is_odds=bool(odds),
        )  # fmt: skip


def _spelled_value(text: str, match: re.Match[str]) -> tuple[float, int]:
    """(value, where its words end) of twenty-five, three hundred, two and a half."""
    first, end = WORDS[match["first"].lower()], match.end()
    if match["second"] and first >= 20:
        first += WORDS[match["second"].lower()]
    elif match["second"]:
        end = match.end("first")
    value = first * (100.0 if match["hundred"] and end == match.end() else 1.0)
    if half := _AND_A_HALF.match(text, end):
        return value + 0.5, half.end()
    return value, end
