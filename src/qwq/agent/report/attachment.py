"""Which row or column a number of a sentence belongs to, and whether a figure of the same value
belongs to another one.

A sentence attaches numbers to labels in one of three ways: the label before the number ("North
sold 12, South 9"), behind it ("12 in the North, 9 in the South"), or both in lists of one order
("North and South sold 12 and 9"). Where the sentence leaves that open, nothing is concluded. So a
value of another row is caught only where the text names the rows; a sentence that names none, or
names them by words that the output does not have, can say the right number of the wrong row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from qwq.agent.report.grid import Grid, OutputNumber, is_code
from qwq.agent.report.label_words import STATISTICS, Mention, Vocabulary, are_times, forms
from qwq.agent.report.number_forms import factors, is_unit
from qwq.agent.report.places import NumberPlace
from qwq.agent.report.reader import WrittenNumber

MAX_COST = 1.6
AT_ONCE = 0.15
_JOINS = re.compile(
    r"^[\s*_(\"'|]*(?:[:=\u2013\u2014-]|was|were|is|are|at|of|had|has|paid|averaged|reached|with|sold|made|led with|"
    r"came to|为|是|达|占|:|了)?[\s*_(\"'$€£¥约~]*(?:about |around |USD |EUR )?$",
    re.IGNORECASE,
)
_BEHIND = re.compile(
    r"\b(?:for|in|of|among|by|from|at|on|to|with|under|within|during|went to|were|was|are|is|per)\b|\(|来自|属于", re.I
)
_CLAUSE = re.compile(
    r"[,;，；、]|\b(?:and|while|whereas|but|versus|vs|against|compared (?:with|to)|than|followed by)\b|\)|以及|[而和]",
    re.I,
)
_LISTED = re.compile(
    r"[\s*_%]*(?:\w+[\s*_%]*)?(?:[,/&、;]|\band\b|\bor\b|和|与|及)+[\s*_$€£]*(?:(?:and|or|the)\s+)*(?:\w+\s+)?[$€£]?",
    re.I,
)
_EARLIER = re.compile(
    r"\b(?:year|quarter|month|week|period|day)s?\s+(?:earlier|ago|before|prior)|year-ago|year-earlier|previously|"
    r"\b(?:prior|previous|last|preceding|same)[\s-]+(?:fiscal\s+)?(?:year|quarter|month|period|week)|上年|去年|同期|上季",
    re.I,
)
_RANGES = re.compile(r"\b(?:rang(?:e|es|ed|ing)|var(?:y|ies|ied|ying)|span(?:s|ned|ning)?)\b", re.I)
_COMPARES = re.compile(
    r"\b(?:than|versus|vs|against|over|and|leads?|beats?|trails?|exceeds?|outs\w+|ahead|behind|above|below)\b", re.I
)
_OPPOSED = re.compile(r"[\s%]*\(?(?:against|versus|vs\.?|compared (?:with|to))[\s$€£¥]*", re.I)
_AGAINST = re.compile(r"[\s%]*\(?(?:against|versus|vs\.?|to|compared (?:with|to)|and|/|-|\u2013)[\s$€£¥]*", re.I)
_TURNED = re.compile(r"\b(?:compared (?:with|to)|unlike|than|against|versus|relative to)\s+(?:the\s+)?$", re.I)
_BESIDE = re.compile(r"[\s%*_(]*(?:(?:in|for|during|by|at|of)\s+(?:the\s+)?)?", re.I)
_TO = re.compile(r"\W*(?:to|bis|auf|until|through|and|vs\.?|versus|\u2192|-|\u2013|到|至)\W*", re.I)
_NAMES_NEXT = re.compile(r"[)\s]*[=<>\u2264\u2265\u2248]|\s*:")  # `p = 0.03`: a name of the number that follows
_STATISTIC_NEXT = re.compile(r"[)\s]*[=<>\u2264\u2265\u2248]|\s*:|\s+[-+$€£]?\d")
_NEVER = re.compile(r"\b(?:no|none|never|nothing|not|nobody|neither)\b", re.I)
_ASIDE = re.compile(r"[\s*_%]*\((?:about |or |i\.e\. |= ?|a share of )?[$€£~]?")
_OF_ANOTHER = re.compile(
    r"\b(?:leader|winner|rival|other|competitor|group|company|market|runner-up|best|latter|former)(?:['\u2019]s|s['\u2019])"
    r"[\s*_]*[$€£¥]?$",
    re.I,
)
_SPREAD = re.compile(r"(?:\u00b1|\+/-|\+-)\s*$")
_CHANGE_LABEL = re.compile(r"growth|change|chg|diff|delta|yoy|lift|uplift|变化|增长", re.I)
_CHANGE_WORDS = re.compile(
    r"\b(?:grew|grow\w*|rose|ris\w+|increas\w*|chang\w*|fell|fall\w*|declin\w*|drop\w*|decreas\w*|up|down|gain\w*|"
    r"climb\w*|jump\w*|shr[aiu]nk|lost|improv\w*|slip\w*)\b|增长|下降",
    re.I,
)
_EACH = re.compile(r"\b(?:each|every|per|respectively)\b|每", re.I)
_WORD = re.compile(r"[A-Za-z]+|[\u2e80-\u9fff]{2}")
_OVERALL = re.compile(r"\b(?:overall|in total|total|across all|altogether)\b|总体|整体|全部|总计", re.I)
_EXTREME = re.compile(
    r"\b(?:highest|lowest|most|least|best|worst|top|largest|smallest|peak\w*|lead\w*|max\w*|min\w*)\b|最", re.I
)


@dataclass(frozen=True, slots=True)
class _Sentence:
    mentions: tuple[Mention, ...]
    numbers: tuple[tuple[int, int], ...]  # spans in the sentence that are no labels

    def without_names_of_others(self, start: int, text: str, is_statistic: bool) -> _Sentence:
        """For the number at `start`: `p = 0.03` behind it names another one, and so does `SD 3`."""
        names = _STATISTIC_NEXT if is_statistic else _NAMES_NEXT
        kept = tuple(m for m in self.mentions if m.end <= start or not names.match(text, m.end))
        return self if len(kept) == len(self.mentions) else _Sentence(kept, self.numbers)


class Attachments:
    """Answers for the numbers of one report; reads each sentence once for each vocabulary."""

    def __init__(self, text: str, numbers: Sequence[WrittenNumber]):
        self._numbers = numbers
        self._sentences: dict[tuple[int, int], _Sentence] = {}
        self._keep: list[Vocabulary] = []

    def overlap(self, place: NumberPlace, figure: OutputNumber, code: str) -> int:
        """How many words of the figure's labels, or else of the code, are around the number."""
        around = forms(" ".join((place.text, place.row, place.column, *place.parents[:2])))
        return len(around & forms(" ".join(figure.labels) if any(figure.labels) else code))

    def conflict(self, number: WrittenNumber, place: NumberPlace, figure: OutputNumber) -> str:
        """Why the figure is not what the number is meant to be; "" where it may be."""
        if figure.grid is None:
            return ""
        vocabularies = figure.grid.vocabularies
        if _is_symmetric(vocabularies):
            return self._pair_conflict(number, place, figure, vocabularies[0])
        for level in range(len(figure.labels)):
            if reason := self._at_level(number, place, figure, level):
                return reason
        before = place.text[max(0, place.start - 40) : place.start]
        said = _OVERALL.search(re.split(r"[\d,;(]", before)[-1])
        if place.is_cell or not said or _EXTREME.search(place.text) or _EACH.search(place.text):
            return ""
        return self._overall_conflict(place, figure, vocabularies)

    def _at_level(self, number: WrittenNumber, place: NumberPlace, figure: OutputNumber, level: int) -> str:
        """Why the figure's label of one level is not the one that the text means."""
        vocabulary, label = figure.grid.vocabularies[level], figure.labels[level]  # type: ignore[union-attr]
        if len(vocabulary) < 2 or not forms(label) or _is_its_unit(number, label) or is_code(figure, label):
            return ""
        own = vocabulary.labels.index(label)
        is_column = 0 < level == len(figure.labels) - 1 and not vocabulary.is_statistic
        meant = self._meant(number, place, vocabulary, own, is_column)
        lines = figure.grid if figure.grid and figure.grid.is_lines else None
        if lines and meant is not None and self._names_a_line(lines, vocabulary.labels[meant]):
            meant = self._meant(number, place, vocabulary, own, True)
        if meant is None or meant == own or vocabulary.labels[meant] == label:
            return ""
        right = _value_of(figure, level, vocabulary.labels[meant])
        if right is not None and right.value == figure.value:
            return ""
        if _can_both_be(forms(vocabulary.labels[meant]), forms(label)) or self._is_excused(
            number, place, figure, level, meant, right
        ):
            return ""
        there = f", {right.text} to {_shown(vocabulary, meant)}" if right is not None else ""
        return f"{figure.text} belongs to {_shown(vocabulary, own)}{there}"

    def _is_excused(
        self, number: WrittenNumber, place: NumberPlace, figure: OutputNumber, level: int, meant: int,
        right: OutputNumber | None,
    ) -> bool:  # fmt: skip
        """Whether the words say that the figure's own label is meant all the same: a highest mean,
        the growth of what the sentence names, a deviation behind its mean, a year before.
        """
        vocabularies: list[Vocabulary] = figure.grid.vocabularies  # type: ignore[union-attr]
        label, other = forms(figure.labels[level]), forms(vocabularies[level].labels[meant])
        if not _ends_a_range(number, place, vocabularies, level, meant, right) and _is_superlative(
            other, label, place.text
        ):
            return True
        if _CHANGE_LABEL.search(figure.labels[level]) and _CHANGE_WORDS.search(place.text):
            return True
        if vocabularies[level].is_statistic and _SPREAD.search(place.text[: place.start]):
            return True
        return are_times(other, label) and bool(_EARLIER.search(self._behind_text(number, place)))

    def _behind_text(self, number: WrittenNumber, place: NumberPlace) -> str:
        """The text from the number to the next one."""
        if place.is_cell:
            return f"{place.row} {place.column}"
        rest = number.start - place.start + len(place.text)
        following = min((n.start for n in self._numbers if number.end <= n.start < rest), default=rest)
        return place.text[place.start + len(number.text) : place.start + following - number.start]

    # -- which label is meant ----------------------------------------------------------------------

    def _meant(
        self, number: WrittenNumber, place: NumberPlace, vocabulary: Vocabulary, own: int, is_column: bool
    ) -> int | None:  # fmt: skip
        if place.is_cell:
            return self._meant_by_cell(place, vocabulary, own)
        if _OF_ANOTHER.search(place.text, 0, place.start):
            return None  # the leader's 84.15
        sentence = self._sentence(number, place, vocabulary)
        sentence = sentence.without_names_of_others(place.start, place.text, vocabulary.is_statistic)
        if not sentence.mentions and not vocabulary.is_statistic:
            return self._meant_by_parents(place, vocabulary, own)
        span = (place.start, place.start + len(number.text))
        if (end := _end_of_range(place.text, span)) and end in vocabulary.labels:
            return vocabulary.labels.index(end)
        return self._meant_in(number, place, sentence, vocabulary, own, is_column)

    def _meant_in(
        self, number: WrittenNumber, place: NumberPlace, sentence: _Sentence, vocabulary: Vocabulary, own: int,
        is_column: bool,
    ) -> int | None:  # fmt: skip
        """The label of the sentence that the number is for."""
        labels = {mention.label for mention in sentence.mentions}
        span = (place.start, place.start + len(number.text))
        attached = attach(place.text, span, sentence.numbers, sentence.mentions)
        if own in attached:
            return own
        if is_column:  # columns are not said for all numbers of a sentence
            attached = [label for label in attached if _is_beside(place.text, span, sentence.mentions, label)]
        first = _first(sentence.mentions, attached)
        if first is None or self._is_second(place, span, sentence, first):
            return None
        if attached:
            return None if self._has_own_row(number, place, vocabulary) else attached[0]
        single = len(sentence.numbers) == 1
        alone = labels == {first.label} and not vocabulary.is_statistic and (single or not is_column)
        if alone and own not in labels and (single or first.end <= place.start):
            return first.label
        if are_times(*map(forms, vocabulary.labels)) and self._are_taken(place, span, sentence):
            return self._meant_by_parents(place, vocabulary, own)
        return None

    @staticmethod
    def _names_a_line(grid: Grid, label: str) -> bool:
        """Whether a label is the name of one number (`gifts: 415`), not of a line of several."""
        return all(f.labels[1] == "" for f in grid.figures if f.labels and f.labels[0] == label)

    def _has_own_row(self, number: WrittenNumber, place: NumberPlace, vocabulary: Vocabulary) -> bool:
        """Whether the text behind the number speaks of a row by a name that the output does not
        have: 58.3 in the control arm.
        """
        behind = self._behind_text(number, place)
        axis = forms(vocabulary.axis)
        return bool(axis and axis & forms(behind)) and not vocabulary.mentions(behind)

    @staticmethod
    def _is_second(place: NumberPlace, span: tuple[int, int], sentence: _Sentence, mention: Mention) -> bool:
        """Whether the number is set against the one before it, which the label is for: 6.4 vs
        2.5.
        """
        earlier = [n for n in sentence.numbers if n[1] <= span[0]]
        alone = len({m.label for m in sentence.mentions}) == 1
        if not alone or not earlier or not mention.end <= earlier[-1][0]:
            return False
        return bool(_OPPOSED.fullmatch(place.text, earlier[-1][1], span[0]))

    def _are_taken(self, place: NumberPlace, span: tuple[int, int], sentence: _Sentence) -> bool:
        """Whether every label of the sentence belongs to other numbers."""
        others = [n for n in sentence.numbers if n != span]
        taken = {label for n in others for label in attach(place.text, n, sentence.numbers, sentence.mentions)}
        return {m.label for m in sentence.mentions} <= taken

    def _meant_by_cell(self, place: NumberPlace, vocabulary: Vocabulary, own: int) -> int | None:
        names = [*place.row.split(" | "), place.column]
        found = {m.label for text in names for m in vocabulary.mentions(text)}
        found |= {i for i, label in enumerate(vocabulary.labels) if label in names}
        if not found:
            return self._meant_by_parents(place, vocabulary, own)
        return own if own in found else next(iter(found)) if len(found) == 1 else None

    def _meant_by_parents(self, place: NumberPlace, vocabulary: Vocabulary, own: int) -> int | None:
        if vocabulary.is_statistic:
            return None
        if own in {m.label for m in vocabulary.mentions(place.before)}:
            return own
        by_time = are_times(*map(forms, vocabulary.labels))
        for text in place.parents:
            found = {m.label for m in vocabulary.mentions(text) if by_time or vocabulary.fills(m, text)}
            if found:
                return own if own in found else next(iter(found)) if len(found) == 1 else None
        return None

    def _sentence(self, number: WrittenNumber, place: NumberPlace, vocabulary: Vocabulary) -> _Sentence:
        key = (number.start - place.start, id(vocabulary))
        if key not in self._sentences:
            self._keep.append(vocabulary)
            offset = number.start - place.start
            spans = [
                (n.start - offset, n.end - offset)
                for n in self._numbers
                if offset <= n.start < offset + len(place.text) and n.is_counted and not n.is_year
            ]
            read = vocabulary.mentions(place.text)
            free = tuple(s for s in spans if not any(m.start < s[1] and s[0] < m.end for m in read))
            self._sentences[key] = _Sentence(tuple(read), free)
        sentence = self._sentences[key]
        span = (place.start, place.start + len(number.text))
        if span not in sentence.numbers:  # the number may look like a label itself
            mentions = tuple(m for m in sentence.mentions if not (m.start < span[1] and span[0] < m.end))
            return _Sentence(mentions, tuple(sorted((*sentence.numbers, span))))
        return sentence

    def _pair_conflict(
        self, number: WrittenNumber, place: NumberPlace, figure: OutputNumber, vocabulary: Vocabulary
    ) -> str:
        """In a matrix of pairs (correlations) both names must be near the number."""
        sentence = self._sentence(number, place, vocabulary)
        spans = sentence.numbers
        index = spans.index((place.start, place.start + len(number.text)))
        left = spans[index - 1][1] if index else 0
        right = spans[index + 1][0] if index + 1 < len(spans) else len(place.text)
        texts = (place.text[left : place.start], place.text[place.start : right]) if not place.is_cell else (
            f"{place.row} {place.column}",)  # fmt: skip
        named = [{vocabulary.labels[m.label] for m in vocabulary.mentions(text)} for text in texts]
        own = set(figure.labels)
        pair = next((names for names in named if len(names) >= 2), None)
        if pair is not None and not own <= pair:
            return f"{figure.text} belongs to {' and '.join(figure.labels)}"
        return ""

    def _overall_conflict(self, place: NumberPlace, figure: OutputNumber, vocabularies: Sequence[Vocabulary]) -> str:
        """The text speaks of all rows, the figure is of one that it does not name."""
        around = " ".join((place.text, *place.parents))
        for vocabulary, label in zip(vocabularies, figure.labels, strict=True):
            own = vocabulary.labels.index(label)
            if len(vocabulary) < 2 or not vocabulary.axis or vocabulary.is_statistic:
                continue
            if own not in {m.label for m in vocabulary.mentions(around)}:
                return f"{figure.text} belongs to {_shown(vocabulary, own)}, the text speaks of all"
        return ""


def _first(mentions: Sequence[Mention], attached: Sequence[int]) -> Mention | None:
    return next((m for m in mentions if not attached or m.label == attached[0]), None)


def _is_beside(text: str, span: tuple[int, int], mentions: Sequence[Mention], label: int) -> bool:
    """Whether a label is right before or behind the number: 415 gifts, price: 3.2."""
    for mention in mentions:
        if mention.label == label:
            if mention.end <= span[0] and _JOINS.fullmatch(text[mention.end : span[0]]):
                return True
            if mention.start >= span[1] and _BESIDE.fullmatch(text[span[1] : mention.start]):
                return True
    return False


def _is_its_unit(number: WrittenNumber, label: str) -> bool:
    """Whether the number's unit is what the label says: 910 g of `grams`."""
    return any(1.0 in factors(number.unit, word) for word in label.lower().split() if is_unit(word))


def _ends_a_range(
    number: WrittenNumber, place: NumberPlace, vocabularies: Sequence[Vocabulary], level: int, meant: int,
    right: OutputNumber | None,
) -> bool:  # fmt: skip
    """Whether a lowest or highest is the min or max of one column, and compares no rows."""
    if right is None:
        return False
    alone = all(len(v) < 2 or v.is_statistic for i, v in enumerate(vocabularies) if i != level)
    return alone or vocabularies[level].labels[meant] == _range_end(number, place)


def _range_end(number: WrittenNumber, place: NumberPlace) -> str:
    return _end_of_range(place.text, (place.start, place.start + len(number.text)))


def _end_of_range(text: str, span: tuple[int, int]) -> str:
    """min or max for a number that a sentence calls the end of a range."""
    before = text[: span[0]]
    if _NEVER.search(before):  # nothing was below this or above that
        if re.search(r"\b(?:below|under|less than|lower than|cheaper than)[\s*_$€£¥]*$", before):
            return "min"
        if re.search(r"\b(?:above|over|more than|higher than|beyond|exceed(?:s|ed|ing)?)[\s*_$€£¥]*$", before):
            return "max"
    if not _RANGES.search(before):
        return ""
    if re.search(r"\b(?:from|between)[\s*_$€£¥(]*(?:EUR |USD )?$", before):
        return "min"
    ends = re.search(r"\b(?:from|between)\b[^;]*\d[^;]{0,14}\b(?:to|and)[\s*_$€£¥(]*(?:EUR |USD )?$", before)
    return "max" if ends else ""


def attach(
    text: str, span: tuple[int, int], numbers: Sequence[tuple[int, int]], mentions: Sequence[Mention]
) -> list[int]:
    """The labels that the number at `span` may belong to: one, two where the sentence leaves open
    which, or none.
    """
    earlier = [n for n in numbers if n[1] <= span[0]]
    if earlier and _ASIDE.fullmatch(text, earlier[-1][1], span[0]):
        return attach(text, earlier[-1], numbers, mentions)  # 84.15 (39% of all)
    listed = _in_lists(text, numbers, mentions)
    if listed is not None and span in numbers:
        return [listed[numbers.index(span)]]
    bonus = _prefers_before(text, numbers, mentions)
    near = []
    for (mention, cost), preference in (
        (_before(text, span, numbers, mentions), -bonus), (_behind(text, span, numbers, mentions), bonus)
    ):  # fmt: skip
        if mention is None:
            continue
        raw = cost
        if preference >= 0:  # else the sentence goes this way as a whole
            cost += _taken(text, span, mention, cost, numbers, mentions)
        if cost <= MAX_COST or raw <= AT_ONCE:
            near.append((cost + preference, mention.label, raw))
    near.sort()
    # A label right behind the number is its unit (4.4 years), whatever the rest says.
    return list(dict.fromkeys(label for cost, label, raw in near if cost - near[0][0] < 0.4 or raw <= AT_ONCE))


def _taken(
    text: str, span: tuple[int, int], mention: Mention, cost: float, numbers: Sequence[tuple[int, int]],
    mentions: Sequence[Mention],
) -> float:  # fmt: skip
    """What a label costs more that a number on its other side is nearer to."""
    if mention.end <= span[0]:
        rivals = [_behind(text, n, numbers, mentions) for n in numbers if n[1] <= mention.start]
    else:
        rivals = [_before(text, n, numbers, mentions) for n in numbers if n[0] >= mention.end]
    return 1.5 if any(other is mention and price < cost - 0.05 for other, price in rivals) else 0.0


def _in_lists(text: str, numbers: Sequence[tuple[int, int]], mentions: Sequence[Mention]) -> list[int] | None:
    """Labels of the numbers where all labels come first and then all numbers, or the other way."""
    labels = [m.label for m in mentions]
    if len(labels) == len(numbers) == 2 and labels[0] != labels[1] and mentions[1].end <= numbers[0][0]:
        between = (text[mentions[0].end : mentions[1].start], text[numbers[0][1] : numbers[1][0]])
        compares = _COMPARES.search(between[0]) or _OPPOSED.fullmatch(between[1])
        if all(map(_TO.fullmatch, between)):
            return labels  # from Q1 to Q4 (from 12 to 15)
        if compares and _AGAINST.fullmatch(between[1]) and not _TURNED.search(text[: mentions[0].start]):
            return labels  # A sold more than B: 12 against 9
    if len(labels) != len(numbers) or len(set(labels)) != len(labels) or len(labels) < 2:
        return None
    if not (mentions[-1].end <= numbers[0][0] or numbers[-1][1] <= mentions[0].start):
        return None
    spans = [[(m.start, m.end) for m in mentions], numbers]
    gaps = [text[a[1] : b[0]] for listed in spans for a, b in pairwise(listed)]
    return labels if all(_LISTED.fullmatch(gap) for gap in gaps) else None


def _prefers_before(text: str, numbers: Sequence[tuple[int, int]], mentions: Sequence[Mention]) -> float:
    """Above 0 where labels before numbers explain the sentence better."""
    before = sum(min(5.0, _before(text, n, numbers, mentions)[1]) for n in numbers)
    behind = sum(min(5.0, _behind(text, n, numbers, mentions)[1]) for n in numbers)
    return 0.5 if before + 0.5 < behind else -0.5 if behind + 0.5 < before else 0.0


def _before(
    text: str, span: tuple[int, int], numbers: Sequence[tuple[int, int]], mentions: Sequence[Mention]
) -> tuple[Mention | None, float]:
    earlier = [m for m in mentions if m.end <= span[0]]
    if not earlier:
        return None, 9.0
    mention = earlier[-1]
    gap = text[mention.end : span[0]]
    between = sum(mention.end <= a and b <= span[0] for a, b in numbers)
    cost = 0.2 * len(_WORD.findall(gap)) + 1.2 * between + 0.6 * len(_CLAUSE.findall(gap))
    return mention, 0.0 if _JOINS.match(gap) else cost + 0.2


def _behind(
    text: str, span: tuple[int, int], numbers: Sequence[tuple[int, int]], mentions: Sequence[Mention]
) -> tuple[Mention | None, float]:
    later = [m for m in mentions if m.start >= span[1] and not _NAMES_NEXT.match(text, m.end)]
    if not later:
        return None, 9.0
    mention = later[0]
    gap = re.sub(r"^%?\)", "  ", text[span[1] : mention.start])  # the number is in brackets itself
    gap = gap.rjust(mention.start - span[1])
    aside = [(span[1] + m.start(), span[1] + m.end()) for m in re.finditer(r"\([^()]*\)", gap)]
    gap = re.sub(r"\([^()]*\)", " ", gap)
    between = sum(span[1] <= a and b <= mention.start and not any(c <= a < d for c, d in aside) for a, b in numbers)
    cost = 0.2 * len(_WORD.findall(gap)) + 3.0 * between + 1.5 * len(_CLAUSE.findall(gap))
    return mention, cost + (0.1 if _BEHIND.search(gap) or not gap.strip(" -*_") else 1.5)


def _can_both_be(meant: frozenset[str], own: frozenset[str]) -> bool:
    """Whether two labels do not exclude each other: one says less (price, mean price), or only one
    of them is a statistic (the share of missing ages) or a number (2024 and its growth).
    """
    is_less = meant <= own
    return is_less or (meant <= STATISTICS) != (own <= STATISTICS) or _are_numbers(meant) != _are_numbers(own)


def _are_numbers(words: frozenset[str]) -> bool:
    return all(word[0].isdigit() for word in words)


def _is_superlative(meant: frozenset[str], own: frozenset[str], text: str) -> bool:
    """Whether `meant` is read out of a highest or lowest, which compares rows and is no column."""
    extremes = {"max", "min"}
    return bool(meant & extremes) and not own & extremes and not re.search(r"\b(?:max|min)", text, re.IGNORECASE)


# -- labels ----------------------------------------------------------------------------------------


def _is_symmetric(vocabularies: Sequence[Vocabulary]) -> bool:
    return (
        len(vocabularies) == 2
        and len(vocabularies[0]) > 1
        and set(vocabularies[0].labels) == set(vocabularies[1].labels)
    )


def _value_of(figure: OutputNumber, level: int, label: str) -> OutputNumber | None:
    """The figure of the same table whose label differs in one level."""
    grid: Grid = figure.grid  # type: ignore[assignment]
    labels = (*figure.labels[:level], label, *figure.labels[level + 1 :])
    return next((other for other in grid.figures if other.labels == labels), None)


def _shown(vocabulary: Vocabulary, label: int) -> str:
    name = vocabulary.labels[label].strip(" :=,")
    return f"{vocabulary.axis} {name}" if vocabulary.axis else name
