"""Numbers in a text: their values, the digits that are shown, and what they are not (dates, list
numbers, code, versions, references).

    [number.value for number in read_numbers("Up 12.3% to $1.2 M.")]   # [12.3, 1200000.0]

English and Chinese. Not read: Chinese numerals in characters (三成), Roman numerals, fractions in
words (two thirds), and words up to ten without a unit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
         "seventeen eighteen nineteen").split()  # fmt: skip
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
WORDS = {word: value for value, word in enumerate(_ONES)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
SCALES = {
    "hundred": 1e2, "k": 1e3, "thousand": 1e3, "thousands": 1e3, "m": 1e6, "mn": 1e6, "mm": 1e6, "mio": 1e6,
    "million": 1e6, "millions": 1e6, "b": 1e9, "bn": 1e9, "billion": 1e9, "billions": 1e9, "t": 1e12, "tn": 1e12,
    "trillion": 1e12, "千": 1e3, "万": 1e4, "百万": 1e6, "千万": 1e7, "亿": 1e8, "万亿": 1e12,
}  # fmt: skip
# What a value of 1 is in the unit: 1 is 100 percent.
SHARES = {
    "%": 1e2, "％": 1e2, "percent": 1e2, "per cent": 1e2, "pct": 1e2, "percentage point": 1e2,
    "percentage points": 1e2, "pp": 1e2, "pps": 1e2, "个百分点": 1e2, "百分点": 1e2, "basis points": 1e4,
    "basis point": 1e4, "bps": 1e4, "bp": 1e4, "‰": 1e3,
}  # fmt: skip
UNITS = frozenset(
    "usd eur gbp cny dollar dollars euro euros pound pounds yuan cent cents kg g mg t lb km m cm mm mi mile miles "
    "s ms sec second seconds min minute minutes h hour hours day days week weeks month months year years mb gb kb "
    "tb byte bytes °c °f degree degrees kwh mw kw w v hz ghz mhz mmhg point points x times px pt mph bar pa "
    "元 美元 欧元 岁 天 年 月 小时 分钟 秒 公里 米 厘米 千克 公斤 克 度 倍 分 人 次 个 家 条 件 名".split()
)
_CURRENCY = "$€£¥₹￥"
_SIGN = "-+\u2212\u2013"
_MINUS = ("-", "\u2212", "\u2013")
_SPACED = r"(?<!\d\ )\d{1,3}(?:\ \d{3})+(?:\.\d+)?(?![\d,]|\ \d)|"  # 12 345: in reports alone
_PATTERN = rf"""(?<![A-Za-z0-9_.\\/])                                # not inside a name
    (?P<open>\()?(?P<sign>[{_SIGN}])?\ ?(?:(?:US|CA|A|HK|C)?(?P<currency>[{_CURRENCY}])\ ?|(?:USD|EUR|GBP|CNY|RMB)\ )?
    (?P<inner>\()?(?P<sign2>[-\u2212])?
    (?P<digits>\d{{1,3}}(?:[,_]\d{{3}})+(?:\.\d+)?(?![\d_])|\d{{1,3}}(?:[\u202f\u00a0\u2009'’]\d{{3}})+(?:\.\d+)?
        |SPACED\d+(?:\.\d+)?|\.\d+)
    (?P<exponent>[eE][+-]?\d+)?(?P<close>\))?"""
_PRINTED = re.compile(_PATTERN.replace("SPACED", ""), re.VERBOSE)
_WRITTEN = re.compile(_PATTERN.replace("SPACED", _SPACED), re.VERBOSE)
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
    |[ \u00a0-]?(?P<scale>thousands?|millions?|billions?|trillion|hundred|mn|mm|bn|tn|[kKMBT](?![A-Za-z])|m(?![A-Za-z])
        |万亿|千万|百万|[千万亿])(?![A-Za-z])(?!²|2)""",
    re.VERBOSE | re.IGNORECASE,
)
_UNIT = re.compile(r"[ \u00a0-]?(°\s?[CF]|[A-Za-z]+|[元岁天年月小时分钟秒公里米厘克千斤度倍人次个家条件名美欧]+)")

# Regions of a text whose digits are no figures.
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|"
    r"Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_SKIPPED = [
    re.compile(pattern, flags)
    for pattern, flags in (
        (r"^(`{3,}|~{3,})[^\n]*\n.*?(?:^\1[^\n]*$|\Z)", re.M | re.S),  # fenced code
        (r"(`+)(?!`).+?(?<!`)\1(?!`)", re.S),
        (r"<!--.*?-->|</?[A-Za-z][^>\n]*>", re.S),
        (r"!\[[^\]\n]*\]\([^)\n]*\)|\]\([^)\n]*\)|\[\^?\d+\](?!\()", 0),  # pictures, targets of links, notes
        (r"https?://\S+|\b[\w./-]*[A-Za-z_][\w./-]*\.[A-Za-z][A-Za-z0-9]{0,5}\b|\b[\w-]+(?:/[\w.-]+){2,}", 0),
        (r"^[ \t]*(?:>[ \t]*)*(?:[-*+][ \t]+)?\(?\d{1,3}[.)、)](?=\s)", re.M),  # list numbers
        (r"^[ \t]*#{1,6}[ \t]+(?:[*_]{0,2})(?:\d+(?:\.\d+)*[.)]?|[A-Z]?\d+[.:)])(?=\s)", re.M),  # headings' numbers
        (r"\b\d{4}-\d{1,2}-\d{1,2}(?:[T ]\d{1,2}:\d{2}(?::\d{2})?(?:\.\d+)?Z?)?\b", 0),
        (r"\b\d{4}-(?:0[1-9]|1[0-2])\b(?!-?\d)|\b\d{1,2}[/.]\d{1,2}[/.]\d{2,4}\b|\b\d{4}/\d{1,2}(?:/\d{1,2})?\b", 0),
        (r"\b\d{1,2}:\d{2}(?::\d{2})?(?:\s?[ap]\.?m\.?)?\b", re.I),
        (rf"\b\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:,?\s+\d{{4}})?\b", 0),
        (rf"\b{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?(?:\s?[-\u2013]\s?\d{{1,2}})?(?:,?\s+\d{{4}})?\b(?!,\d)", 0),
        (rf"\b{_MONTH}\s+\d{{4}}\b", 0),
        (r"\d{4}\s?年(?:\s?\d{1,2}\s?月(?:\s?\d{1,2}\s?[日号])?)?|(?<!\d)\d{1,2}\s?月\s?\d{1,2}\s?[日号]", 0),
        (r"\b[QH][1-4](?:[ '/-]?\s?(?:FY)?\d{2,4})?\b|\bFY\s?\d{2,4}\b|\b\d{4}\s?[QH][1-4]\b|\b\d{4}s\b", 0),
        (r"\b\d{4}/\d{2}\b|\b(?:19|20)\d{2}[-\u2013](?:19|20)?\d{2}\b", 0),
        (r"\bv?\d+\.\d+\.\d+(?:[.\w-]*\w)?\b|\bv\d+(?:\.\d+)*\b", 0),  # versions
        (r"\b(?:version|release|python|pandas|numpy|matplotlib|sqlite|duckdb|scipy)\s+v?\d+(?:\.\d+)+\b", re.I),
        (r"\b(?:cells?|calls?|table|tab\.|figures?|fig\.|sections?|steps?|chapter|appendix|page|pages|p\.|line|lines|"
         r"note|footnote|equation|eq\.|question|task|phase|part|item|option|scenario|hypothesis|exhibit|panel)\s*"
         r"(?:no\.?\s*)?\(?#?\d+(?:\.\d+)*\)?(?:\s?[-\u2013,&]\s?\d+)*(?:\s+(?:and|to|or)\s+\d+(?![\d.,]*%))?", re.I),
        (r"(?:图|表|第|步骤|单元格|附录)\s?\d+(?:\.\d+)*\s?(?:节|章|步|页|行|个单元格)?", 0),
        (r"\b(?:In|Out)\s?\[\d+\]|\bH\d\b|#\d+\b", 0),
        (r"\b(?:80|90|95|98|99|99\.9)\s?[%％]\s?-?(?:CIs?\b|confidence|credible|prediction|"
         r"(?:upper |lower )?(?:interval|limit|bound|band)|置信)", re.I),
        # What is numbered: a week, a room, a release; lists of the top so many; telephones.
        (r"\b(?:week|day|room|building|floor|gate|route|store|shop|branch|team|group|site|station|patient|participant|"
         r"customer|user|order|invoice|ticket|model|type|number|windows|ios|android|macos|ubuntu|zone|cluster|topic|"
         r"batch|lot|run|epoch|fold|round|trial|experiment|seed|version|release|level|grade|stage|wave|cohort|lesson)\s+"
         r"#?\d+\b(?![.,]\d|\s?[%％])", re.I),
        (r"\b(?:ext|pp|p|vol|nos?)\.\s?\d+(?:\s?[-\u2013]\s?\d+)?\b|"
         r"\b(?:doi|isbn|issn|arxiv):?\s?[\w./-]*\d[\w./-]*", re.I),
        (r"\b(?:out of|of every|in every|per)\s+(?:100|1,?000|10,?000|100,?000)\b(?![.,]\d)", re.I),
        (r"\bsignifican\w+[^.\n]{0,30}?\b(?:at|of|level)\s+(?:the\s+)?0?\.(?:1|10|05|01|001)\b", re.I),
        (r"\b(?:due in|within(?: the)?|next|coming|every|(?:over|in|for) the (?:next|coming))\s+\d{1,3}\s+"
         r"(?:days?|weeks?|months?|years?|hours?|minutes?)\b|"
         r"\b[48]K\b(?=\s+(?:quality|video|resolution|screen|tv|display))", re.I),
        (r"\btop[ -]\d+\b(?![.,]\d|\s?[%％])", re.I),
        (r"\b\d{1,3}/\d{1,3}\b(?=[ -](?:rule|split|principle|ratio))", re.I),
        (r"(?<![\w.])\+\d{1,3}[ -]\(?\d{1,4}\)?[ -]\d[\d -]{3,}\d\b|"
         r"\b(?:tel|phone|fax)\b[^\n\d]{0,12}[\d +()-]{6,}", re.I),
        (r"\b\d{1,2}(?:st|nd|rd|th)?[\s-]centur(?:y|ies)\b", re.I),
        # Levels of significance, ratios of formats, names of standards, round the clock.
        (r"\b(?:p|P|\u03b1|alpha)\s?[<\u2264>\u2265=]{1,2}\s?0?\.(?:1|10|05|01|001|0001)\b(?!\d)", 0),
        (r"\b(?:0\.)?(?:10|5|1|05|01)(?:\s?[%\uff05]|\s+percent)?\s+(?:significance\s+)?level\b|\bsignificance\s+level\s+of\s+"
         r"(?:0\.\d+|\d+\s?%)", re.I),
        (r"\b\d{1,2}:\d{1,2}\b(?![:\d])", 0),
        (r"\b(?:ISO|IEC|RFC|DIN|EN|IFRS|GAAP|UTF|IEEE|ECMA|GDPR|HTTP|PEP|CVE|ASCII|SHA|MD)[ -]?\d[\d-]*\b", 0),
        (r"\b24/7\b|\b9-to-5\b|\b50[/:]50\b|\b101\b(?=\s*$)", 0),
    )
]  # fmt: skip
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
_HEDGE = re.compile(
    r"(?:\b(about|around|approximately|approx\.?|roughly|circa|ca\.|some|nearly|almost|close to|just under|under|below|"
    r"less than|fewer than|up to|over|more than|above|just over|at least|exceed(?:s|ed|ing)?|upwards of)\s+(?:the\s+)?"
    rf"|([~≈约近]|大约|超过|逾|不到|将近|接近|高于|低于|多于|少于)\s?)[{_CURRENCY}]?$",
    re.IGNORECASE,
)
_BELOW = {"nearly", "almost", "close to", "just under", "under", "below", "less than", "fewer than", "up to", "近",
          "不到", "将近", "接近", "低于", "少于"}  # fmt: skip
_ABOVE = {"over", "more than", "above", "just over", "at least", "exceed", "exceeds", "exceeded", "exceeding",
          "upwards of", "超过", "逾", "高于", "多于"}  # fmt: skip
SMALL = 10


@dataclass(frozen=True, slots=True)
class WrittenNumber:
    """One number as it is written.

    `value` is in the unit shown (12.3 for 12.3%), with a scale multiplied in (1.2 M is 1200000);
    `step` is one unit of the last digit shown, in the same measure. `share` is what 1 is in the
    unit (100 for percent), 0 for a plain number. `scale` is what was multiplied in. `either_sign`:
    it is in brackets, which a table may use for a negative. `hedge` is "", "about", "below" or
    "above". `is_counted`: a whole number up to ten has a unit. `may_be_year`: four digits such as
    2024; with `is_year` the words before it say so.
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

    @property
    def is_whole(self) -> bool:
        return self.step >= self.scale and self.value == int(self.value)


def fenced_spans(text: str) -> list[tuple[int, int]]:
    """Where blocks of code are."""
    return [match.span() for match in _SKIPPED[0].finditer(text)]


def skipped_spans(text: str) -> list[tuple[int, int]]:
    """Where dates, code, list numbers, headings' numbers, versions and references are, in order."""
    spans = sorted(match.span() for pattern in _SKIPPED for match in pattern.finditer(text))
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def read_numbers(text: str, *, skip: bool = True) -> list[WrittenNumber]:
    """The numbers of a text in order. `skip` False reads all of it, as for a program's output."""
    spans = skipped_spans(text) if skip else []
    numbers = [*_digits(text, spans, _WRITTEN if skip else _PRINTED), *(_spelled(text, spans) if skip else ())]
    return sorted(numbers, key=lambda number: number.start)


def _outside(spans: list[tuple[int, int]], start: int) -> bool:
    return not any(a <= start < b for a, b in spans)


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
    digits = re.sub(r"[,_'’ \u202f\u00a0\u2009]", "", match["digits"])
    sign, start = _sign(text, match)
    brackets, loss = _brackets(match)
    end = match.end() if loss else max(match.end("digits"), match.end("exponent"))
    share, scale, end, ordinal = _suffix(text, end, bool(match["currency"]))
    if text[max(0, start - 3) : start] == "百分之":
        share, start = 1e2, start - 3
    minus = loss or sign in _MINUS
    value = float(digits + (match["exponent"] or "")) * scale * (-1 if minus else 1)
    exponent = int((match["exponent"] or "e0")[1:]) - len(digits.partition(".")[2])
    step = scale * float(f"1e{exponent}")
    unit = _unit(text, end)
    has_unit = any((match["currency"], share, scale != 1, unit in UNITS, unit.startswith("°")))
    is_small = abs(value) <= SMALL and step >= 1 and not minus
    before = text[max(0, start - 24) : start]
    return WrittenNumber(
        text[start:end], start, end, value, step, share, scale,
        either_sign=brackets and not loss and not sign, has_sign=bool(sign) or loss,
        hedge=_hedge(text[: min(start, match.start())]), unit=unit,
        is_counted=(not is_small or (has_unit and not ordinal)) and not _ADJECTIVE.match(text, end),
        may_be_year=(year := not sign and (not has_unit or unit == "年") and _may_be_year(match["digits"])),
        is_year=year and bool(_YEAR_BEFORE.search(before)),
    )  # fmt: skip


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
        if not re.search(r"[\d%)]\s?\Z" if spaced else r"[\d%)]\Z", text[: match.start("sign")]):
            return match["sign"], match.start("sign")
    return "", match.start("digits")


def _unit(text: str, end: int) -> str:
    found = _UNIT.match(text, end)
    return found[1].lower().replace(" ", "") if found else ""


def _suffix(text: str, end: int, currency: bool) -> tuple[float, float, int, bool]:
    """(share, scale, new end, whether it is an ordinal) of what follows the digits."""
    share, scale, ordinal = 0.0, 1.0, False
    while suffix := _SUFFIX.match(text, end):
        word = " ".join((suffix["share"] or suffix["scale"] or suffix["ordinal"]).lower().split())
        if suffix["ordinal"]:
            ordinal = True
            share = 1e2 if text[suffix.end() :].lstrip(" -").lower().startswith("percentile") else 0.0
            end = suffix.end()
            break
        if suffix["scale"]:
            if word == "m" and suffix["scale"] == "m" and not currency:
                break  # metres
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
    found = _HEDGE.search(before[-30:])
    if not found:
        return ""
    word = (found[1] or found[2]).lower()
    return "below" if word in _BELOW else "above" if word in _ABOVE else "about"


def _spelled(text: str, spans: list[tuple[int, int]]) -> Iterator[WrittenNumber]:
    for match in _SPELLED.finditer(text):
        if not _outside(spans, match.start()):
            continue
        first = WORDS[match["first"].lower()]
        end = match.end()
        if match["second"] and first >= 20:
            first += WORDS[match["second"].lower()]
        elif match["second"]:
            end = match.end("first")
        value = first * (100 if match["hundred"] and end == match.end() else 1)
        share, scale, end, _ = _suffix(text, end, False)
        if (value * scale <= SMALL and not share) or re.match(r"[-\w]*(?:fold|th|some)\b", text[end : end + 12]):
            continue
        step = scale * (100 if match["hundred"] and scale == 1 else 1)
        yield WrittenNumber(text[match.start() : end], match.start(), end, value * scale, step, share, scale,
                     hedge=_hedge(text[: match.start()]))  # fmt: skip
