"""Which way a sentence says that a number goes: it rose by 3, 3% less, 增长了3%."""

from __future__ import annotations

import re

_UP = (
    r"\b(?:rose|rises?|risen|rising|grew|grow|grows|grown|growing|growth|increas\w*|climb\w*|up|gain(?:s|ed)?|jump\w*|"
    r"surg\w*|soar\w*|rais\w+|higher|more|ahead|advanc\w*|profits?|stieg\w*|wuchs|gewachsen|mehr)\b|"
    r"增长|上升|增加|提高|上涨|高出|增至"
)
_DOWN = (
    r"\b(?:fell|falls?|fallen|falling|declin\w*|drop\w*|decreas\w*|reduc\w*|lower\w*|down|shr[aiu]nk\w*|contract(?:s|ed)|"
    r"slip\w*|slid\w*|dip\w*|plung\w*|sank|sunk|less|fewer|behind|loss|losses|lost|loses|cut|cuts|sank|zur\u00fcck|weniger)\b|"
    r"下降|减少|下跌|下滑|降低|降至"
)
_WAY = re.compile(f"(?P<up>{_UP})|(?P<down>{_DOWN})", re.IGNORECASE)
_HEDGE = re.compile(
    r"(?:\b(?:more|less|fewer|lower|higher|mehr|weniger) (?:than|als)|\bup to)[\s*_~$\u20ac\u00a3]*$", re.IGNORECASE
)
_BEHIND = re.compile(
    rf"[\s*_)]*(?:[A-Za-z%]+\s+){{0,2}}(?:(?P<up>{_UP}|\babove\b)|(?P<down>{_DOWN}|\bbelow\b|\bunder\b|\bshort of\b))",
    re.IGNORECASE,
)
_FROM_TO = re.compile(
    r"\bfrom\s[\s*_$€£]*(-?\d[\d,]*(?:\.\d+)?)[^\d,;.]{0,20}\bto\s[\s*_$€£]*(-?\d[\d,]*(?:\.\d+)?)", re.IGNORECASE
)
REACH = 45  # characters before the number
BESIDE = 20  # characters between a change and its two values


def direction(text: str, start: int, end: int) -> int:
    """1 where the words at the number text[start:end] say up, -1 where they say down, else 0. The
    words right behind it (3% more) go before those in front of it.
    """
    behind = _BEHIND.match(text, end)
    if behind and not re.search(r"[,;.(]", text[end : behind.end()]):
        return 1 if behind["up"] else -1
    before = _HEDGE.sub("", text[max(0, start - REACH) : start])
    ways = list(_WAY.finditer(before))
    return 0 if not ways else 1 if ways[-1]["up"] else -1


def goes_other_way(text: str, start: int, end: int, change: float) -> bool:
    """Whether the text says "climbed by 4.5, from 34.2 to 29.7": the words at the `change` in
    text[start:end] against the two values that it is the difference of.
    """
    way = direction(text, start, end)
    for match in _FROM_TO.finditer(text) if way else ():
        if max(match.start() - end, start - match.end()) > BESIDE:
            continue
        first, last = (float(value.replace(",", "")) for value in match.groups())
        if abs(abs(last - first) - abs(change)) <= 0.01 * abs(change):
            return (last - first) * way < 0
    return False
