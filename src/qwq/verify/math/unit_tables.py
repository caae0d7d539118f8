"""The known units: their names in several languages, their dimensions and factors.

Factors are exact, relative to SI base units with grams.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

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


SYMBOLS, WORDS = _build()
DEGREES = WORDS["degree"]


def lookup(word: str) -> Unit | None:
    """The unit of a symbol or word.

    Read in another case only where no other unit differs from it by the case alone: MA and mA, Mg
    and mg do.
    """
    if word in SYMBOLS:
        return SYMBOLS[word]
    low = word.lower()
    if len(word) < 3 and sum(name.lower() == low for name in SYMBOLS) > 1:
        return None  # Mg and mg: in another case it might be either
    return WORDS.get(low)
