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

from qwq.verify.math.words import PARTS, SCALES

Dims = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """`dims`: powers of base quantities, sorted; empty for a noun, whose words are `nouns`."""

    dims: Dims
    factor: Fraction = Fraction(1)
    nouns: frozenset[str] = frozenset()


# name(s): factor and dimension. Symbols keep their case; words of three letters or more are read in
# any case.
_LENGTH, _TIME, _MASS, _ANGLE = {"m": 1}, {"s": 1}, {"g": 1}, {"deg": 1}
_AREA, _VOLUME, _SPEED = {"m": 2}, {"m": 3}, {"m": 1, "s": -1}
_FORCE, _ENERGY, _POWER = {"g": 1, "m": 1, "s": -2}, {"g": 1, "m": 2, "s": -2}, {"g": 1, "m": 2, "s": -3}
_PRESSURE = {"g": 1, "m": -1, "s": -2}
_TABLE: tuple[tuple[str, str, dict[str, int]], ...] = (
    ("in inch inches", "0.0254", _LENGTH), ("ft foot feet", "0.3048", _LENGTH),
    ("yd yds yard yards", "0.9144", _LENGTH), ("mi mile miles", "1609.344", _LENGTH),
    ("nmi nautical-mile nautical-miles", "1852", _LENGTH),
    ("ly light-year light-years lightyear lightyears", "9460730472580800", _LENGTH),
    ("au AU astronomical-unit astronomical-units", "149597870700", _LENGTH),
    ("angstrom angstroms Å", "0.0000000001", _LENGTH), ("里", "500", _LENGTH),
    ("min mins minute minutes 分钟 minutos Minuten мин", "60", _TIME),
    ("h hr hrs hour hours 小时 时 horas heures Stunden часов часа час", "3600", _TIME),
    ("d day days 天 日 días dias Tage jours дней", "86400", _TIME),
    ("wk week weeks 周 星期 semanas Wochen", "604800", _TIME), ("fortnight fortnights", "1209600", _TIME),
    ("sec secs second seconds 秒 segundos Sekunden secondes", "1", _TIME), ("month months 月 个月", "1", {"month": 1}),
    ("yr yrs year years 年 岁 años Jahre ans лет", "12", {"month": 1}), ("decade decades", "120", {"month": 1}),
    ("century centuries", "1200", {"month": 1}), ("lb lbs lbm pound pounds", "453.59237", _MASS),
    ("oz ounce ounces", "28.349523125", _MASS), ("tonne tonnes metric-ton metric-tons 吨", "1000000", _MASS),
    ("ton tons short-ton short-tons", "907184.74", _MASS), ("stone stones", "6350.29318", _MASS),
    ("kilo kilos 千克 公斤 кг", "1000", _MASS), ("斤", "500", _MASS), ("克 г", "1", _MASS), ("毫克", "0.001", _MASS),
    ("厘米 公分 см", "0.01", _LENGTH), ("米 公尺 м", "1", _LENGTH), ("千米 公里 км", "1000", _LENGTH),
    ("毫米 мм", "0.001", _LENGTH), ("分米", "0.1", _LENGTH), ("平方厘米", "0.0001", _AREA), ("平方米", "1", _AREA),
    ("平方分米", "0.01", _AREA), ("平方千米 平方公里", "1000000", _AREA), ("立方厘米", "0.000001", _VOLUME),
    ("立方米", "1", _VOLUME), ("立方分米 升 л", "0.001", _VOLUME), ("毫升 мл", "0.000001", _VOLUME),
    ("acre acres", "4046.8564224", _AREA), ("ha hectare hectares 公顷", "10000", _AREA),
    ("gal gallon gallons", "0.003785411784", _VOLUME), ("qt qts quart quarts", "0.000946352946", _VOLUME),
    ("pt pint pints", "0.000473176473", _VOLUME), ("cup cups", "0.0002365882365", _VOLUME),
    ("floz fluid-ounce fluid-ounces fl-oz", "0.0000295735295625", _VOLUME),
    ("tbsp tablespoon tablespoons", "0.00001478676478125", _VOLUME),
    ("tsp teaspoon teaspoons", "0.00000492892159375", _VOLUME), ("cc", "0.000001", _VOLUME), ("mph", "0.44704", _SPEED),
    ("kph kmh kmph", "5/18", _SPEED), ("knot knots kn", "463/900", _SPEED), ("fps", "0.3048", _SPEED),
    ("ms", "0.001", _TIME), ("deg degree degrees 度 grados Grad", "1", _ANGLE),
    ("arcmin arcminute arcminutes", "1/60", _ANGLE), ("rad radian radians 弧度", "1", {"rad": 1}),
    ("rev revolution revolutions", "360", _ANGLE), ("rpm", "6", {"deg": 1, "s": -1}),
    ("degC °C celsius degree-celsius degrees-celsius 摄氏度", "1", {"celsius": 1}),
    ("degF °F fahrenheit degree-fahrenheit degrees-fahrenheit", "1", {"fahrenheit": 1}),
    ("kelvin kelvins", "1", {"K": 1}), ("kWh kilowatt-hour kilowatt-hours", "3600000000", _ENERGY),
    ("Wh watt-hour watt-hours", "3600000", _ENERGY), ("hp horsepower", "745699.87158227022", _POWER),
    ("atm atmosphere atmospheres", "101325000", _PRESSURE), ("psi", "6894757.293168", _PRESSURE),
    ("mmHg torr", "133322.387415", _PRESSURE),
    ("dollar dollars usd buck bucks US-dollar US-dollars 美元", "1", {"dollar": 1}),
    ("cent cents ¢ 美分", "0.01", {"dollar": 1}), ("dime dimes", "0.1", {"dollar": 1}),
    ("€ euro euros eur 欧元", "1", {"euro": 1}), ("£ gbp sterling pounds-sterling", "1", {"sterling": 1}),
    ("pence penny p", "0.01", {"sterling": 1}), ("¥ yuan rmb cny 元 块 人民币", "1", {"yuan": 1}),
    ("角", "0.1", {"yuan": 1}), ("yen jpy 円 日元", "1", {"yen": 1}), ("₹ rupee rupees rs inr", "1", {"rupee": 1}),
    ("paise", "0.01", {"rupee": 1}), ("₽ ruble rubles rouble roubles rub рублей рубля рубль руб", "1", {"ruble": 1}),
    ("₩ won 원", "1", {"won": 1}), ("franc francs chf", "1", {"franc": 1}), ("peso pesos", "1", {"peso": 1}),
    ("bit bits", "1", {"bit": 1}), ("bps", "1", {"bit": 1, "s": -1}),
    ("percentage-point percentage-points percentage_points", "1", {"point": 1}),
    ("° north N-direction", "1", {"north": 1}), ("south", "1", {"south": 1}), ("east", "1", {"east": 1}),
    ("west", "1", {"west": 1}),
)  # fmt: skip
_PREFIXED: tuple[tuple[str, str, str, dict[str, int]], ...] = (
    ("m", "meter meters metre metres metro metros Meter mètre mètres", "1", _LENGTH),
    ("g", "gram grams gramme grammes gramm gramo gramos", "1", _MASS), ("s", "", "1", _TIME),
    ("A", "ampere amperes amp amps", "1", {"A": 1}), ("W", "watt watts", "1000", _POWER),
    ("J", "joule joules", "1000", _ENERGY), ("N", "newton newtons", "1000", _FORCE), ("Hz", "hertz", "1", {"s": -1}),
    ("Pa", "pascal pascals", "1000", _PRESSURE), ("V", "volt volts", "1000", {"g": 1, "m": 2, "s": -3, "A": -1}),
    ("Ω", "ohm ohms", "1000", {"g": 1, "m": 2, "s": -3, "A": -2}),
    ("F", "farad farads", "1/1000", {"g": -1, "m": -2, "s": 4, "A": 2}),
    ("C", "coulomb coulombs", "1", {"A": 1, "s": 1}), ("T", "tesla teslas", "1000", {"g": 1, "s": -2, "A": -1}),
    ("H", "henry henries", "1000", {"g": 1, "m": 2, "s": -2, "A": -2}),
    ("eV", "electronvolt electronvolts electron-volt electron-volts", "1", {"eV": 1}),
    ("L", "liter liters litre litres litro litros Liter", "0.001", _VOLUME), ("l", "", "0.001", _VOLUME),
    ("B", "byte bytes", "8", {"bit": 1}), ("b", "", "1", {"bit": 1}), ("mol", "mole moles", "1", {"mol": 1}),
    ("cal", "calorie calories", "4184", _ENERGY), ("K", "", "1", {"K": 1}), ("bar", "bars", "100000000", _PRESSURE),
    ("Bq", "becquerel", "1", {"Bq": 1}), ("cd", "candela", "1", {"cd": 1}),
)  # fmt: skip
_SYMBOL_PREFIXES = {
    "p": -12,
    "n": -9,
    "u": -6,
    "µ": -6,
    "m": -3,
    "c": -2,
    "d": -1,
    "h": 2,
    "k": 3,
    "M": 6,
    "G": 9,
    "T": 12,
}
_WORD_PREFIXES = {
    "pico": -12,
    "nano": -9,
    "micro": -6,
    "milli": -3,
    "centi": -2,
    "deci": -1,
    "hecto": 2,
    "kilo": 3,
    "mega": 6,
    "giga": 9,
    "tera": 12,
}


def _build() -> tuple[dict[str, Unit], dict[str, Unit]]:
    """Units by symbol (case kept) and by word in lower case."""
    symbols: dict[str, Unit] = {}
    words: dict[str, Unit] = {}

    def put(name: str, unit: Unit) -> None:
        symbols.setdefault(name, unit)
        if len(name) >= 2:
            words.setdefault(name.lower(), unit)

    for names, factor, dims in _TABLE:
        for name in names.split():
            put(name, Unit(tuple(sorted(dims.items())), Fraction(factor)))
    for symbol, names, factor, dims in _PREFIXED:
        unit = Unit(tuple(sorted(dims.items())), Fraction(factor))
        symbols[symbol] = unit
        for name in names.split():
            put(name, unit)
    for symbol, names, factor, dims in _PREFIXED:
        key = tuple(sorted(dims.items()))
        for prefix, power in _SYMBOL_PREFIXES.items():
            put(prefix + symbol, Unit(key, Fraction(factor) * Fraction(10) ** power))
        for prefix, power in _WORD_PREFIXES.items():
            for name in names.split():
                put(prefix + name.lower(), Unit(key, Fraction(factor) * Fraction(10) ** power))
    return symbols, words


_SYMBOLS, _WORDS = _build()
DEGREES = _WORDS["degree"]
# Read in another case only where no other unit differs from it by the case alone: MA and mA, Mg and
# mg do.
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
    currency: Unit | None = None
    if (match := _BEFORE.match(text)) and match.end() < len(text) and not (match[1] and match[4]):
        name = _CURRENCIES.get(match[3].strip(), match[3].strip(" .").lower())
        currency = (
            _WORDS.get(name) if not match[2] or match[2].strip() == "US" else Unit(((f"{match[2].strip()}-dollar", 1),))
        )
        text = (match[1] or match[4]) + text[match.end() :]
    elif (match := _AFTER_MONEY.search(text)) and match.start() > 0:
        currency, text = _lookup("cent" if match[1] == "¢" else _CURRENCIES[match[1]]), text[: match.start()]
    if match := _TEMPERATURE.search(text):
        return Split(text[: match.start()].strip(), _WORDS["celsius" if match[1] == "C" else "fahrenheit"])
    for count, start in enumerate(_STARTS.finditer(text)):
        core, rest = text[: start.start()].strip(), text[start.start() :]
        if count > 30:
            break
        if not core or not _whole(core):
            continue
        if (found := _suffix(core, rest, " " in text[start.start() - 1 : start.start() + 1])) is not None:
            unit, scale, operation, weak = found
            if currency is not None and unit is not None and unit != currency:
                return Split(text, currency) if not unit.dims else Split(core, currency, scale, operation)
            return Split(core, unit or currency, scale, operation, weak)
    return Split(text, currency)


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


def _suffix(core: str, rest: str, spaced: bool) -> tuple[Unit | None, Fraction, str, bool] | None:
    """Unit, scale, operation and weakness of the text behind a core; None where it is not wholly a
    unit.
    """
    tokens = _tokens(rest)
    if tokens is None or not tokens:
        return None
    marked = rest.lstrip().startswith("\\")
    if marked and re.search(r"[A-Za-z]", _COMMANDS.sub(" ", _WRAPPED.sub(" ", rest))):
        return None  # a variable behind the unit
    numeric = _NUMERIC.fullmatch(core) is not None
    words = [t for t in tokens if t[0].isalpha() or t[0] in "€£¥₹₽₩¢°"]
    if not words:
        return None
    if any(w.lower() in _NEVER and not (w == "in" and len(words) == 1) for w in words) and not (
        words[0].lower() == "factorial" and len(words) == 1
    ):
        return None
    if core.rstrip("} ").endswith("\\circ") and len(words) == 1 and words[0] in _COMPASS:
        return _WORDS[_COMPASS[words[0]]], Fraction(1), "", False
    scale, operation = Fraction(1), ""
    while words and tokens and tokens[0] == words[0] and (value := _scale(words[0], numeric, marked)) is not None:
        scale *= value
        tokens, words = tokens[1:], words[1:]
        if words[:1] == ["of"]:
            tokens, words = tokens[1:], words[1:]
    if words and words[0].lower() in ("squared", "cubed", "factorial") and tokens[0] == words[0] and len(tokens) == 1:
        return None, scale, words[0].lower(), False
    if not tokens:
        return None, scale, operation, False
    return _unit(tokens, words, numeric=numeric, marked=marked, spaced=spaced, scale=scale)


def _scale(word: str, numeric: bool, marked: bool) -> Fraction | None:
    if word.lower() in SCALES and (numeric or marked):
        return Fraction(SCALES[word.lower()])
    singular = "half" if word.lower() == "halves" else word.lower().removesuffix("s")
    if numeric and word.lower().endswith("s") and singular in PARTS and singular != "second":
        return Fraction(1, PARTS[singular])
    return None


def _unit(
    tokens: list[str], words: list[str], *, numeric: bool, marked: bool, spaced: bool, scale: Fraction
) -> tuple[Unit | None, Fraction, str, bool] | None:
    unit = read(tokens)
    known = unit is not None
    single = len(words) == 1 and len(words[0]) == 1 and words[0].isascii()
    if known and unit is not None:
        if single and not marked and "/" not in tokens:
            return (unit, scale, "", True) if numeric and words[0] in _LETTER_UNITS else None
        if single and words[0] in "eix":
            return None
        if not marked and not numeric and any(len(w) == 1 for w in words):
            return None
        if not marked and words[0] == "in":
            return None
        return unit, scale, "", False
    if set(tokens) - set(words) - {".", ",", "'", "-", "(", ")"} and not {w.lower() for w in words} <= _ANY:
        return None  # a noun has no powers and no quotients
    if single and not marked:
        return None
    if single and words[0] in "eixyz":
        return None
    if not marked and words[0].isascii() and not (numeric and _are_nouns(words, spaced)):
        return None
    nouns = frozenset(_singular(w.lower()) for w in _hyphenated(tokens)) - _STOP_WORDS
    return Unit((), nouns=nouns or frozenset(["?"])), scale, "", False


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
    """The unit's words and operators without markup; None where anything else stands there."""
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
        unit = _WORDS.get(f"{word}-{following[0]}".lower())
        if unit is not None:
            return unit, index + width
        if word in ("µ", "u") and (unit := _SYMBOLS.get(word + following[0])) is not None and width == 2:
            return unit, index + 2
    unit = _lookup(word)
    return None if unit is None else (unit, index + 1)


def _lookup(word: str) -> Unit | None:
    if word in _SYMBOLS:
        return _SYMBOLS[word]
    low = word.lower()
    if len(word) < 3 and sum(name.lower() == low for name in _SYMBOLS) > 1:
        return None  # Mg and mg: in another case it might be either
    return _WORDS.get(low)


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
