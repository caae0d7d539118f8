"""Easy questions: right answers, kinds and languages in balance, splits apart, the figures of
thinking.
"""

import random
import re
from collections import Counter
from datetime import date, timedelta

import pytest

from qwq.config.problem_sets import Mix
from qwq.eval.options import TaskSelection
from qwq.eval.summarise import describe, summarise
from qwq.tasks import get
from qwq.types import SPLITS, Response
from qwq.verify.grade import grade

KINDS = ("letters", "comparisons", "sums", "dates")
TASK = get("overthinking")


def solved(text: str) -> str:
    """The answer, worked out from the question's own words."""
    if found := re.search(r"letter (\w) occur in the word (\w+)|单词 (\w+) 里有几个字母 (\w)", text):
        letter, word = (found[1], found[2]) if found[1] else (found[4], found[3])
        return str(list(word).count(letter))
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    if "larger" in text or "smaller" in text or "哪个更" in text:
        pair = re.findall(r"\d+\.\d+", text)
        return (max if "larger" in text or "哪个更大" in text else min)(pair, key=float)
    if re.search(r"What is \d|等于多少", text):
        return str(numbers[0] - numbers[1] if " - " in text or "减" in text else numbers[0] + numbers[1])
    if "年" in text:
        dates = [date(*map(int, d)) for d in re.findall(r"(\d+) 年 (\d+) 月 (\d+) 日", text)]
        days = re.search(r"再过 (\d+) 天", text)
    else:
        named = re.findall(r"([A-Z][a-z]+) (\d+), (\d+)", text)
        dates = [
            date(int(y), "JanFebMarAprMayJunJulAugSepOctNovDec".index(m[:3]) // 3 + 1, int(d)) for m, d, y in named
        ]
        days = re.search(r"is it (\d+) days", text)
    return str((dates[0] + timedelta(int(days[1]))).day if days else (dates[1] - dates[0]).days)


def test_two_hundred_easy_questions_in_two_languages():
    problems = TASK.problems("test")
    assert len({p.messages for p in problems}) == 200
    assert Counter(p.source for p in problems) == dict.fromkeys([f"overthinking:{k}" for k in KINDS], 50)
    chinese = [p for p in problems if re.search(r"[\u4e00-\u9fff]", p.messages[0].content)]
    assert 70 < len(chinese) < 130 and len({p.source for p in chinese}) == 4
    assert [p.truth["gold"] for p in problems] == [solved(p.messages[0].content) for p in problems]
    assert get("overthinking:dates").problems("test", 50) == [p for p in problems if p.source.endswith("dates")]


def test_splits_share_no_question_also_with_the_other_sums():
    forms = {split: {p.canonical for p in TASK.problems(split)} for split in SPLITS}
    assert sum(map(len, forms.values())) == len(set.union(*forms.values()))
    sums = {p.canonical for p in get("arithmetic").problems("train")}
    assert sums & forms["train"] and not sums & forms["test"]


@pytest.mark.parametrize("noisy", [False, True])
def test_the_verifier_accepts_demonstrations_and_no_noisy_ones(noisy):
    for problem in TASK.problems("validation"):
        turns = TASK.demonstrate(problem, random.Random(0), noisy=noisy)
        assert grade(problem, Response(turns[-1].content)).correct is not noisy
    gold = TASK.problems("test", 1)[0]
    assert grade(gold, Response(f"<think>x</think>答案是 {gold.truth['gold']}。")).correct


def test_it_can_be_mixed_and_figures_say_how_long_the_thinking_is():
    assert Mix.model_validate({"overthinking": 1.0}).weights() == {"overthinking": 1.0}
    records = [
        {
            "problem_id": str(n), "sample": 0, "thinking_budget": budget, "group": f"overthinking:{KINDS[n % 4]}",
            "tokens": n + 10, "thinking_tokens": min(n, budget), "score": float(n % 4 != 0), "output": "x",
            "stop_reason": "length" if n == 99 and budget > 100 else "end", "verdict": {"outcome": "correct"},
        }
        for budget in (50, 200) for n in range(100)
    ]  # fmt: skip
    figures = summarise(TaskSelection("overthinking", TASK, [], TASK.protocol), records, 0)
    assert figures["score"] == 0.75 and figures["kinds"]["letters"]["share"] == 0
    assert figures["thinking"] == {"p50": 49, "p99": 98} and figures["cut"]["share"] == 0.01
    short, long = figures["by_budget"]
    assert short["thinking"] == {"p50": 49, "p99": 50} and short["cut"]["share"] == 0.5
    assert long["thinking"] == figures["thinking"]
    line, *under = describe("overthinking", figures).splitlines()
    assert "49 at the median, 98 at 99%, 1.0% cut" in line
    # Under 50: 0 to 49 and fifty times 50 are 3,725 tokens in 100 answers; tokens 10 to 109.
    assert [re.sub(r" \[.*?\]", "", text) for text in under] == [
        "  under a budget of 50: 75.0%; 60 tokens an answer, 37 of them thinking, 49 at the median, "
        "50 at 99%, 50.0% cut",
        "  under a budget of 200: 75.0%; 60 tokens an answer, 50 of them thinking, 49 at the median, "
        "98 at 99%, 1.0% cut",
    ]
