"""What rows, columns and printed lines are called, and where a text mentions them.

Words are compared in a plain form: lower case, no plural, one word for what statistics call by
several (average, mean, 平均), ordinals as digits (third class is class 3).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from qwq.agent.report.number_forms import is_unit

_SAME = {
    "mean": "average avg averaged averaging averages mean means 平均 均值 平均值",
    "median": "median mdn 50% 中位数 中位",
    "min": "min minimum lowest smallest cheapest coldest youngest shortest 最小 最低 最小值",
    "max": "max maximum highest largest dearest warmest hottest oldest longest greatest 最大 最高 最大值",
    "std": "std deviation sd stdev 标准差",
    "sum": "sum total totals totaled totalled overall 总 合计 总计 总和 总数",
    "count": "count counts size n number headcount 数量 数",
    "share": "share proportion fraction percentage pct percent 占比 比例 份额",
    "rate": "rate rates 率",
    "correlation": "corr correlation correlated correlates correlate coefficient 相关系数 相关",
    "female": "female females woman women girl girls 女 女性",
    "male": "male males man men boy boys 男 男性",
    "sex": "sex gender 性别", "price": "price prices priced 价格", "cost": "cost costs 成本",
    "revenue": "revenue sales turnover 收入 营收 销售额",
    "survive": "survived survival survivor survivors survive surviving", "age": "age ages aged older younger 年龄",
    "default": "default defaulted defaults defaulting", "left": "left leaver leavers attrition churn churned",
    "cancel": "cancel cancelled canceled cancellation cancellations 取消", "score": "score scores rating ratings 评分",
    "date": "date dates 日期", "quarter": "quarter quarters quarterly 季度", "half": "half halves",
    "month": "month months monthly 月", "year": "year years yearly annual 年",
    "difference": "difference diff delta change changed changes 变化 差异 差值",
    "growth": "growth grew grow increase increased 增长", "city": "city cities 城市",
    "product": "product products 产品",
    "region": "region regions 地区", "passenger": "passenger passengers 乘客",
    "yes": "yes true", "no": "no false not without", "north": "north northern 北", "south": "south southern 南",
    "east": "east eastern 东", "west": "west western 西",
}  # fmt: skip
_FORMS = {word: form for form, words in _SAME.items() for word in words.split()}
_CHINESE = sorted((word for word in _FORMS if ord(word[0]) > 0x2E80), key=len, reverse=True)
_ORDINALS = {
    word: str(i) for i, word in enumerate("first second third fourth fifth sixth seventh eighth ninth tenth".split(), 1)
} | {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
_MONTHS = ("january february march april may june july august september october november december").split()
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
NAMED_STATISTICS = ("mean", "median", "min", "max", "std")
STATISTICS = frozenset((*NAMED_STATISTICS, *"sum count share 25% 75% size var sem se n".split()))
_STOP = frozenset(
    "a an the of in on at for by to from with and or as is was were are be been it its their this that these those "
    "has have had dtype name float64 int64 object nan values value array dataframe series print".split()
)
_AS_A_MEASURE = re.compile(r" (?:earlier|later|ago|before that)\b", re.I)  # an hour earlier is no column "hour"
_PER = re.compile(r"\b(?:per|each|every) $", re.I)
_QUARTILES = {"1": "25%", "2": "median", "3": "75%", "lower": "25%", "low": "25%", "upper": "75%", "upp": "75%"}
_TOKEN = re.compile(
    r"(?P<ordinal>\d+(?:st|nd|rd|th)\b)|(?P<mixed>[A-Za-z]{1,4}\d+(?:\.\d+)?(?=s?\b|[^A-Za-z]))|(?P<percent>\d+(?:\.\d+)?%)"
    r"|(?P<number>\d+(?:[.,-]\d+)*)|(?P<word>[A-Za-zÀ-ɏЀ-ӿ]+)|(?P<cjk>[\u2e80-\u9fff\uac00-\ud7af\u3040-\u30ff]+)"
)


@dataclass(frozen=True, slots=True)
class Token:
    form: str
    start: int
    end: int
    kind: str = "word"  # word, ordinal (a number in words or with an ending), number, cjk


def _plain(word: str) -> str:
    if word in _FORMS:
        return _FORMS[word]
    if len(word) > 3 and word[:3] in {m[:3] for m in _MONTHS} and any(m.startswith(word) for m in _MONTHS):
        return word[:3]
    if len(word) > 5 and word.endswith("day") and word[:3] in _DAYS:
        return word[:3]
    word = _singular(word)
    for ending in ("ing", "ed", "er"):
        if len(word) > 6 and word.endswith(ending):
            word = word.removesuffix(ending)
            break
    return _FORMS.get(word, word.removesuffix("e") if len(word) > 5 else word)


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    if len(word) > 5 and word.endswith("ves"):
        return word[:-3] + "f"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


@lru_cache(maxsize=4096)
def tokens(text: str) -> tuple[Token, ...]:
    """Words and numbers of a text in their plain form; names in snake_case and camelCase are taken
    apart.
    """
    out: list[Token] = []
    for match in _TOKEN.finditer(text):
        kind, word = match.lastgroup or "", match[0]
        if kind == "word":
            for part in re.finditer(r"[A-Z]?[a-zÀ-ɏЀ-ӿ]+|[A-Z]+(?![a-z])|[А-я]+", word):
                lower = part[0].lower()
                start, end = match.start() + part.start(), match.start() + part.end()
                if part[0] == word == "A":  # a grade, unless it begins a sentence
                    before = text[: match.start()].rstrip()
                    if before and before[-1] not in ".!?:;*":
                        out.append(Token("a", start, end))
                elif lower in _ORDINALS:
                    out.append(Token(_ORDINALS[lower], start, end, "ordinal"))
                elif lower not in _STOP:
                    out.append(Token(_plain(lower), start, end))
        elif kind == "cjk":
            out += _chinese(word, match.start())
        elif kind == "mixed" and (year := re.fullmatch(r"[FC]Y(\d{4})", word)):
            out.append(Token(year[1], match.start(), match.end(), "number"))
        elif kind == "mixed":
            out.append(Token(word.lower().replace(".", ""), match.start(), match.end()))
        elif kind == "percent":
            form = _FORMS.get(word, word)
            out.append(Token(form, match.start(), match.end(), "word" if form != word else "number"))
        elif kind == "number" and (month := re.fullmatch(r"((?:19|20)\d\d)-(0[1-9]|1[0-2])(-\d\d)?", word)):
            out.append(Token(month[1], match.start(), match.start() + 4, "number"))
            form = _MONTHS[int(month[2]) - 1][:3] + (month[3] or "")
            out.append(Token(form, match.start() + 5, match.end()))
        else:
            form = word.rstrip("stndrh") if kind == "ordinal" else word.replace(",", "")
            out.append(Token(form, match.start(), match.end(), kind))
    return _joined(out)


def _joined(out: list[Token]) -> tuple[Token, ...]:
    """Two words that are one name: the third quarter is Q3, the first quartile 25%."""
    for i, (one, other) in enumerate(pairwise(out)):
        if one.kind == "ordinal" and other.form in ("quarter", "half"):
            out[i] = Token(other.form[0] + one.form, one.start, other.end)
        elif one.form in _QUARTILES and other.form.startswith("quartil"):
            out[i] = Token(_QUARTILES[one.form], one.start, other.end)
        elif one.kind == "ordinal" and other.form.startswith("percentil"):
            out[i] = Token(f"{int(one.form) / 100:g}", one.start, other.end)
    return tuple(out)


def _chinese(run: str, at: int) -> Iterable[Token]:
    """Known words of a run of Chinese, and the run itself."""
    yield Token(run, at, at + len(run), "cjk")
    for word in _CHINESE:
        if (where := run.find(word)) >= 0:
            yield Token(_FORMS[word], at + where, at + where + len(word))


def forms(text: str) -> frozenset[str]:
    """The plain words of a text; "A" alone is a name."""
    return frozenset(token.form for token in tokens(text)) or frozenset(["a"] if text.strip() == "A" else [])


@dataclass(frozen=True, slots=True)
class Mention:
    label: int  # its place in the vocabulary
    start: int
    end: int


def _name_statistics(labels: Sequence[str]) -> bool:
    named = [forms(label) for label in labels]
    return sum(bool(words) and words <= STATISTICS for words in named) * 2 > len(named)


@dataclass
class Vocabulary:
    """The labels of one level: all rows, or all columns, of a table. `axis` is the level's own name
    (Pclass), which tells class 3 from a plain 3.
    """

    labels: list[str]
    axis: str = ""
    _sets: list[frozenset[str]] = field(default_factory=list)
    _needed: list[tuple[frozenset[str], frozenset[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.num_printed = len(self.labels)
        self.is_statistic = _name_statistics(self.labels)
        if self.is_statistic:  # a text may name a statistic that the table does not have
            known = {form for label in self.labels for form in forms(label)}
            self.labels = [*self.labels, *(name for name in NAMED_STATISTICS if name not in known)]
        self._sets = [forms(label) for label in self.labels]
        counts = Counter(form for words in set(self._sets) for form in words)
        shared_by_all = {form for form, count in counts.items() if count == len(set(self._sets)) > 1}
        for words in self._sets:
            own = words - shared_by_all
            unique = frozenset(form for form in own if counts[form] == 1)
            self._needed.append((unique or own, own - unique if unique else frozenset()))
        self._axis = forms(self.axis)
        self._forms = frozenset(form for words in self._sets for form in words)

    def __len__(self) -> int:
        return len(self.labels)

    def mentions(self, text: str) -> list[Mention]:
        """Where the text mentions a label, in order. A label counts as mentioned where all words
        are there that only it has, and half of those that it shares with some others; of labels at
        one place the longer one.
        """
        words = tokens(text)
        at: dict[str, list[Token]] = {}
        for word in words:
            at.setdefault(word.form, []).append(word)
        found: list[Mention] = []
        for label, (needed, shared) in enumerate(self._needed):
            if not needed:
                continue
            found += self._of(label, needed, shared, at, words, text)
        found.sort(key=lambda m: (m.start, m.start - m.end))
        kept: list[Mention] = []
        for mention in found:
            if kept and mention.start < kept[-1].end and self._sets[mention.label] < self._sets[kept[-1].label]:
                continue
            kept.append(mention)
        return kept

    def fills(self, mention: Mention, text: str) -> bool:
        """Whether a mention is half of a text or more: a heading that is called like the label."""
        words = forms(text)
        return 2 * len(words & self._sets[mention.label]) >= len(words)

    def _of(
        self, label: int, needed: frozenset[str], shared: frozenset[str], at: dict[str, list[Token]],
        words: Sequence[Token], text: str,
    ) -> Iterable[Mention]:  # fmt: skip
        places = []
        if len(needed) > 1:
            needed = self._said(needed, at, text)
        for form in needed:
            usable = self._usable(form, label, at, words, text)
            if not usable:
                return
            places.append(usable)
        if shared and sum(form in at for form in shared) * 2 < len(shared):
            return
        for anchor in places[0]:
            near = [min(others, key=lambda t: abs(t.start - anchor.start)) for others in places]
            start, end = min(t.start for t in near), max(t.end for t in near)
            if end - start <= 60 or len(self.labels[label]) > 60:
                yield Mention(label, start, end)

    def _usable(
        self, form: str, label: int, at: dict[str, list[Token]], words: Sequence[Token], text: str
    ) -> list[Token]:  # fmt: skip
        """Where the text has a word of a label as a name; an hour earlier and per hour are none."""
        usable = [
            t
            for t in _of_form(form, at, self._forms)
            if self._is_name(t, words, text, self._sets[label])
            and not _AS_A_MEASURE.match(text, t.end)
            and not _PER.search(text, max(0, t.start - 9), t.start)
        ]
        if usable or form.isascii():
            return usable
        return [Token(form, m.start(), m.end(), "cjk") for m in re.finditer(re.escape(form), text)]

    def _is_axis(self, words: set[str]) -> bool:
        """Whether one of the words is the level's name, or part of it."""
        return bool(words & self._axis) or any(
            a in form or form in a for a in self._axis for form in words if len(form) > 3
        )

    @staticmethod
    def _said(needed: frozenset[str], at: Mapping[str, Sequence[Token]], text: str) -> frozenset[str]:
        """The words of a name that the text has, where they are half of it and written as names:
        Alvarez for Alvarez & Sons.
        """
        said = frozenset(
            f for f in needed if any(text[t.start].isupper() and t.end - t.start > 3 for t in at.get(f, ()))
        )
        return said if len(said) < len(needed) <= 2 * len(said) else needed

    def _is_name(self, token: Token, words: Sequence[Token], text: str, among: frozenset[str]) -> bool:
        """Whether a number in the text is a label: it follows the level's name, is written as
        an ordinal, a year, or joined to a word.
        """
        if token.kind in ("word", "cjk") or not token.form[:1].isdigit():
            return True
        index = next(i for i, t in enumerate(words) if t.start == token.start and t.end == token.end)
        near = {t.form for t in words[max(0, index - 1) : index + 2] if t is not token}
        if index and words[index - 1].form in among and words[index - 1].kind == "word":
            return True  # RTX 4090, where labels have both
        joined = text[token.end : token.end + 1] == "-" and text[token.end + 1 : token.end + 2].isalpha()
        if joined or self._is_axis(near):
            return True
        if token.kind == "ordinal":
            return text[token.start : token.end].lower() not in ("one", "two", "three", "four", "five")
        return bool(re.fullmatch(r"(?:19|20)\d\d(?:-\d\d.*)?", token.form)) or (
            token.form.isdigit() and int(token.form) > 10 and not self._axis
        )


def _of_form(form: str, at: Mapping[str, Sequence[Token]], known: frozenset[str]) -> Sequence[Token]:
    """The words of a form; of one that a name only adds a few letters to (class for Pclass), unless
    it is `known` as another label's (male, female).
    """
    if form in at or len(form) < 5 or form.isdigit():
        return at.get(form, ())
    for word in at:
        near = len(word) >= 4 and len(form) - len(word) <= 4 and word not in known and not is_unit(word)
        if near and (form.endswith(word) or form.startswith(word)):
            return at[word]
    return ()


def are_times(*labels: frozenset[str]) -> bool:
    """Whether labels are years, months or quarters, but for some words among them (a total)."""
    times = sum(any(re.match(r"(?:19|20)\d\d|[qh]\d$", word) for word in label) for label in labels)
    return times >= 2 and times * 2 > len(labels)
