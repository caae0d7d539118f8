r"""overthinking: easy questions of the kind that models think about for too long.

Letters in words, comparisons such as 9.11 and 9.9, sums of two digits, dates, each as a part; half
of them in English, half in Chinese. Any model that is worth asking answers them in a line, so what
is measured is the thinking: its median and 99th percentile in tokens, and the share that was cut by
a budget or by the longest answer, beside the score.

    qwq eval MODEL overthinking --thinking-budget 32 --thinking-budget 128 --thinking-budget 512

Canonical form: the kind and its numbers or words; of a comparison both numbers, whichever is asked
for. A sum has the canonical form that `arithmetic` gives it, so both keep it in one split.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from itertools import zip_longest
from typing import Any

from qwq.data.examples import FileUse
from qwq.tasks.agent.figures import rate, share
from qwq.tasks.base import Figures, Protocol
from qwq.tasks.downloads import DataFiles
from qwq.tasks.procedural.base import Family, answer_turn
from qwq.types import Message, Problem

NUM_TEST = 200
WORDS = (
    "strawberry blueberry raspberry banana pineapple apple cherry coconut lettuce pepper carrot potato butter coffee "
    "cheese cookie bottle kettle ladder hammer pillow mirror window letter button jacket zipper sleeve mitten summer "
    "winter season weather thunder rainbow mountain river valley forest meadow village street station airport harbour "
    "library theatre museum hospital university engineer professor committee accommodation occurrence successful "
    "necessary different difference address business happiness possession mississippi tennessee massachusetts "
    "parallel millennium bookkeeper balloon raccoon kangaroo crocodile elephant giraffe hippopotamus rhinoceros"
).split()
ENDINGS = {"en": " Put the final answer in \\boxed{}.", "zh": "请把最终答案写在 \\boxed{} 里。"}

# As drawn: canonical form, text in both languages, the answer, a wrong one, a line of work.
Question = tuple[str, dict[str, str], str, str, str]


def _letters(rng: random.Random) -> Question:
    word = rng.choice(WORDS)
    letter = rng.choice(word if rng.random() < 0.9 else "bcdfghklmnprst")
    count = word.count(letter)
    texts = {
        "en": f"How many times does the letter {letter} occur in the word {word}?",
        "zh": f"单词 {word} 里有几个字母 {letter}？",
    }
    work = "".join(f"{c}({word[: i + 1].count(letter)}) " if c == letter else f"{c} " for i, c in enumerate(word))
    return f"letters/{word}/{letter}", texts, str(count), str(count + 1), work.rstrip()


def _comparisons(rng: random.Random) -> Question:
    """One number has one decimal, the other two, and more digits do not make it larger or
    smaller.
    """
    whole = rng.randint(1, 60)
    first, second = f"{whole}.{rng.randint(1, 9)}", f"{whole}.{rng.randint(1, 9)}{rng.randint(1, 9)}"
    low, high = sorted((first, second), key=float)
    shown = [first, second] if rng.random() < 0.5 else [second, first]
    larger = rng.random() < 0.5
    texts = {
        "en": f"Which number is {'larger' if larger else 'smaller'}, {shown[0]} or {shown[1]}?",
        "zh": f"{shown[0]} 和 {shown[1]} 哪个更{'大' if larger else '小'}？",
    }
    answer, other = (high, low) if larger else (low, high)
    return f"comparisons/{low}/{high}", texts, answer, other, f"{float(low):.2f} < {float(high):.2f}"


def _sums(rng: random.Random) -> Question:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    if rng.random() < 0.5:
        terms, answer, words = f"{a} + {b}", a + b, f"{a} 加 {b}"
    else:
        a, b = max(a, b), min(a, b)
        terms, answer, words = f"{a} - {b}", a - b, f"{a} 减 {b}"
    texts = {"en": f"What is {terms}?", "zh": f"{words} 等于多少？"}
    return f"arithmetic/{terms}", texts, str(answer), str(answer + 10), f"{terms} = {answer}"


def _dates(rng: random.Random) -> Question:
    start = date(rng.randint(2024, 2031), rng.randint(1, 12), rng.randint(1, 28))
    days = rng.randint(3, 40)
    end = start + timedelta(days)
    english, chinese = (
        [f"{d:%B} {d.day}, {d.year}" for d in (start, end)],
        [f"{d.year} 年 {d.month} 月 {d.day} 日" for d in (start, end)],
    )
    form = f"dates/{start}/{days}"  # both questions are about the same fact
    work = f"{english[0]} + {days} = {english[1]}"
    if rng.random() < 0.5:
        texts = {
            "en": f"How many days after {english[0]} is {english[1]}?",
            "zh": f"{chinese[0]}之后第几天是 {chinese[1]}？",
        }
        return form, texts, str(days), str(days + 1), work
    texts = {
        "en": f"What day of the month is it {days} days after {english[0]}?",
        "zh": f"{chinese[0]}再过 {days} 天是几号？",
    }
    return form, texts, str(end.day), str(end.day % 28 + 1), work


KINDS = {"letters": _letters, "comparisons": _comparisons, "sums": _sums, "dates": _dates}


class Overthinking(Family):
    """200 test problems: 50 of each kind."""

    name = "overthinking"
    domain = "math"
    parts = tuple(KINDS)
    majority_votes = True
    protocol = Protocol()  # QwQ's own, not that of families for small models
    swept = ("thinking", "cut")

    def draw(self, rng: random.Random) -> Problem:
        kind = self.part or rng.choice(self.parts)
        canonical, texts, answer, other, work = KINDS[kind](rng)
        language = rng.choice(("en", "zh"))
        text = texts[language] + ENDINGS[language]
        return Problem(
            f"{self.name}/{canonical}#{text}", self.domain, (Message("user", text),),
            {"gold": answer, "other": other, "work": work}, canonical, source=f"{self.name}:{kind}",
        )  # fmt: skip

    def demonstrate(self, problem: Problem, rng: random.Random, *, noisy: bool = False) -> tuple[Message, ...]:
        """A line of work; a noisy one ends with a wrong answer."""
        answer = problem.truth["other" if noisy else "gold"]
        return (answer_turn(problem.truth["work"], f"\\boxed{{{answer}}}"),)

    def problems(
        self, split: str, num: int | None = None, *, data: DataFiles | None = None, use: FileUse | None = None
    ) -> list[Problem]:
        return super().problems(split, num or NUM_TEST, data=data, use=use)

    def fixed(self, split: str, num: int) -> list[Problem]:
        """The kinds in turn, so that a few problems cover them all."""
        if self.part:
            return super().fixed(split, num)
        kinds = [type(self)(part) for part in self.parts[:num]]
        sets = [kind.fixed(split, len(range(i, num, len(kinds)))) for i, kind in enumerate(kinds)]
        return [p for turn in zip_longest(*sets) for p in turn if p is not None]

    def figures(self, means: Mapping[str, float], records: Sequence[Mapping[str, Any]]) -> Figures:
        """`thinking`: its tokens at the median and the 99th percentile (nearest rank). `cut`: the
        share of answers whose thinking reached its budget, or that did not end. `kinds`: the scores
        of the kinds.
        """
        lengths = sorted(r["thinking_tokens"] for r in records)
        kinds = {kind: [r for r in records if r["group"] == f"{self.name}:{kind}"] for kind in self.parts}
        return {
            "thinking": {name: lengths[math.ceil(q * len(lengths)) - 1] for name, q in (("p50", 0.5), ("p99", 0.99))},
            "cut": share(sum(map(_is_cut, records)), len(records)),
            "kinds": {kind: rate(rows, lambda r: r["score"]) for kind, rows in kinds.items() if rows},
        }


def _is_cut(record: Mapping[str, Any]) -> bool:
    budget = record["thinking_budget"]
    return record["stop_reason"] != "end" or (budget is not None and record["thinking_tokens"] >= budget)
