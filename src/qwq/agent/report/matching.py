"""Which figures of the outputs a number of a report may be: rounded to the digits shown, percent
against fraction, in thousands or another unit, a fall without its minus.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from qwq.agent.report.directions import direction
from qwq.agent.report.grid import OutputNumber
from qwq.agent.report.number_forms import all_factors, factors, is_unit, speaks_of, unit_of_label
from qwq.agent.report.places import NumberPlace
from qwq.agent.report.reader import WrittenNumber, grain

_TIMES_100 = re.compile(r"\*\s*100(?:\.0*)?\b|\b100(?:\.0*)?\s*\*|\bmul\(\s*100|pct|percent|%['\"}]", re.IGNORECASE)
_PERCENT = re.compile(r"[%％]|pct|perc|百分", re.IGNORECASE)
_RATE = re.compile(r"rate|share|ratio|margin|yield|interest|率|占比", re.IGNORECASE)
_CHANGE = re.compile(r"growth|change|chg|return|increase|diff|delta|yoy|lift|uplift|gain|变化|增长", re.IGNORECASE)
_LOSS = re.compile(r"drop|decline|decrease|fall|loss|reduc|下降|减少", re.IGNORECASE)
_BASIS = re.compile(r"basis|bps|\bbp\b", re.IGNORECASE)
_DOWN = re.compile(
    r"\b(?:fell|fall(?:s|ing|en)?|declin\w*|drop\w*|decreas\w*|reduc\w*|lower\w*|down|lost|loss(?:es)?|negativ\w*|"
    r"invers\w*|minus|below|shr[aiu]nk\w*|contract\w*|slip\w*|slid\w*|under|less|deficit|refund\w*|outflow\w*|debits?|cut\w*|"
    r"cool\w*|shorter|smaller|tak(?:es|ing) off|took off|dip\w*|los\w+|cost\w*|early|earlier|ahead of)"
    r"|下降|减少|下跌|下滑|降低|负|亏损",
    re.IGNORECASE,
)
_FELL_BY = re.compile(
    r"(?:\b(?:fell|falls|fallen|declined|declines|dropped|drops|decreased|decreases|shrank|shrunk|down|slipped|contracted)"
    r"(?:\s+by)?|\b(?:decline|drop|decrease|fall|reduction|loss)\s+of|下降了?|减少了?|下跌了?)\s*(?:about|around|~)?\s*[$€£¥]?$",
    re.IGNORECASE,
)
_LEVEL = re.compile(r"\b(?:fell|dropped|declined|down|sank|went|fallen) (?:down )?to[\s*_]*$", re.I)
_QUANTILES = ("1%", "5%", "10%", "25%", "50%", "75%", "90%", "95%", "99%")
_BELOW = re.compile(
    r"below|under|less|fewer|lower|above|over|more|at (?:most|least)|or (?:less|more)|up to|quantile|quartile|"
    r"percentile|median|middle|half|within|between|exceed|top|bottom|分位",
    re.I,
)
_FACTORS = (1.0, 1e2, 1e3, 1e4, 1e-2, 1e-3, 1e-4)  # from a figure to a number in its unit
_SCALE_WORDS = {
    1e3: re.compile(r"thousand|1e3\b|/\s*1_?000\b|\(k\)|_k\b|千", re.I),
    1e6: re.compile(r"million|1e6\b|1_?000_?000\b|_m\b|_mn\b|\bmn\b|\bM\b|百万", re.I),
    1e9: re.compile(r"billion|1e9\b|1_?000_?000_?000\b|_bn(?:\b|_)|\bbn\b", re.I),
    1e4: re.compile(r"万|1e4\b|/\s*1_?0000\b"),
    1e8: re.compile(r"亿|1e8\b"),
}


class Figures:
    """The figures of the outputs, by size. `codes` has the code of each source."""

    def __init__(self, figures: Sequence[OutputNumber], codes: Sequence[str]):
        self.figures = figures
        self.codes = codes
        self._order = sorted(range(len(figures)), key=lambda i: abs(figures[i].value))
        self._sizes = [abs(figures[i].value) for i in self._order]
        self._signed = {_column(f) for f in figures if f.value < 0 and f.grid is not None and not f.grid.is_lines}

    def equal(self, number: WrittenNumber, place: NumberPlace) -> list[OutputNumber]:
        """What the number may be, in the order of the outputs."""
        return [f for f in self._near(number, place) if self._is_same(number, f, place)]

    def exact(self, number: WrittenNumber, place: NumberPlace, figure: OutputNumber) -> float:
        """The figure in the number's unit."""
        values = self._values(number, figure, place)
        return next((v for v in values if close(number, v, ignore_sign=True)), number.value)

    def _near(self, number: WrittenNumber, place: NumberPlace) -> list[OutputNumber]:
        """The figures whose size fits in some unit, in the order of the outputs."""
        shown = abs(number.value)
        reach = number.step + (shown / 5 if number.hedge else 0.0)
        chosen: set[int] = set()
        units = all_factors(_unit(number, place))
        scales = _SCALE_WORDS if number.scale > 1 else ()
        for factor in {*_FACTORS, *units, *scales, number.scale, 1 / number.scale, place.scale, 1 / place.scale}:
            low, high = (shown - reach) / factor, (shown + reach) / factor
            low, high = low - 1e-9 * abs(low), high + 1e-9 * abs(high)
            chosen.update(self._order[bisect_left(self._sizes, low) : bisect_right(self._sizes, high)])
        return [self.figures[i] for i in sorted(chosen)]

    def _is_same(self, number: WrittenNumber, figure: OutputNumber, place: NumberPlace) -> bool:
        if figure.share and figure.grid is None and figure.text in _QUANTILES and not _BELOW.search(place.text):
            return False  # the name of a row of describe()
        return any(
            self._fits(number, value, figure, place) for value in self._values(number, figure, place)
        )  # fmt: skip

    def _values(self, number: WrittenNumber, figure: OutputNumber, place: NumberPlace) -> Iterable[float]:
        """What the figure is in the number's unit, in each way that it may be meant."""
        value, share = figure.value, number.share or place.share
        if share:
            yield from self._shares(share, figure)
            if number.is_odds:
                yield value
        else:
            yield from _in_unit(number, figure, place, self.codes[figure.source])
            if figure.share:
                yield value / figure.share
        scale = number.scale if number.scale != 1 else place.scale
        if scale != 1:
            words = " ".join((*figure.labels, self.codes[figure.source]))
            if number.scale == 1:
                yield value / scale
            elif scale in _SCALE_WORDS and _SCALE_WORDS[scale].search(words):
                yield value * scale
            else:  # trillions of what is in billions
                yield from (
                    value * s for s, w in _SCALE_WORDS.items() if s < scale and w.search(" ".join(figure.labels))
                )

    def _shares(self, share: float, figure: OutputNumber) -> Iterable[float]:
        value, labels = figure.value, " ".join(figure.labels)
        if figure.share:
            yield value * share / figure.share
            return
        as_percent = bool(_PERCENT.search(labels) or _TIMES_100.search(self.codes[figure.source]))
        if abs(value) <= 1 or (abs(value) <= 10 and _CHANGE.search(labels)):
            yield value * share
        if share == 100 and ((abs(value) > 1 and (figure.step < 1 or _RATE.search(labels))) or as_percent):
            yield value
        if share == 1e4 and (abs(value) >= 1 or _BASIS.search(labels)):
            yield value
            if as_percent:
                yield value * 100

    def _fits(self, number: WrittenNumber, value: float, figure: OutputNumber, place: NumberPlace) -> bool:
        if not close(number, value, ignore_sign=True):
            return False
        way = 0 if place.is_cell else direction(place.text, place.start, place.start + len(number.text))
        if value == 0 or (value < 0) == (number.value < 0):
            is_change = figure.text.startswith("+") or bool(_CHANGE.search(" ".join(figure.labels)))
            fell = _FELL_BY.search(place.text[: place.start])
            # A fall by -3 is a rise, and so is what the call calls a change and gives as a plus.
            if fell and (number.value < 0 or (value > 0 and is_change)):
                return False
            return not (way < 0 < value and not number.has_sign and _column(figure) in self._signed)
        if number.either_sign:
            return True
        if number.has_sign and number.value > 0:
            return False  # +0.8% of -0.0077
        if number.value < 0:
            return bool(_LOSS.search(" ".join(figure.labels)))
        if _LEVEL.search(place.text, 0, place.start) and _column(figure) in self._signed:
            return False  # it fell to 21.7
        around = place.text[max(0, place.start - 70) : place.start + len(number.text) + 40] + place.row + place.column
        return way <= 0 and bool(_DOWN.search(around))


def _column(figure: OutputNumber) -> tuple[int, str]:
    return id(figure.grid), figure.labels[-1] if figure.labels else ""


def _unit(number: WrittenNumber, place: NumberPlace) -> str:
    if is_unit(number.unit):
        return number.unit
    return unit_of_label(place.column) if place.column else ""


def _in_unit(number: WrittenNumber, figure: OutputNumber, place: NumberPlace, code: str) -> Iterable[float]:
    """The figure in the unit that the number has: 3,189 MWh of a column of kWh, or of an output
    whose code names such a column.
    """
    shown = _unit(number, place)
    given = figure.unit if is_unit(figure.unit) else next(filter(None, map(unit_of_label, figure.labels)), "")
    known = factors(shown, given) if shown and given else ()
    if known:
        yield from (figure.value * factor for factor in known)
        return
    yield figure.value
    words = " ".join(figure.labels)
    if shown and not given and number.num_digits > 1:
        units = dict.fromkeys(filter(None, map(unit_of_label, re.findall(r"\w+", code))))
        yield from (figure.value * factor for unit in units for factor in factors(shown, unit))
    if shown and not given and number.num_digits > 1 and speaks_of(shown, words):
        yield from (figure.value * factor for factor in factors(shown, ""))


def close(number: WrittenNumber, value: float, *, ignore_sign: bool = False) -> bool:
    """Whether `value` rounds to the number as it is shown; with "about", to its round figure."""
    shown = number.value
    if ignore_sign:
        shown, value = abs(shown), abs(value)
    half = number.step / 2 * (1 + 1e-9) + 1e-12 * abs(value)
    if abs(value - shown) <= half:
        return True
    if not number.hedge:
        return False
    room = grain(number)
    if number.hedge == "about":
        return abs(value - shown) <= room / 2
    return 0 <= (value - shown if number.hedge == "above" else shown - value) < room
