r"""Maths sets: GSM8K, MATH, AIME 2024 and 2025, and rows of one's own in MATH's format.

One user turn that ends in the sentence about `\boxed{}`; `verify.math` judges the final answer, in
words too if there is no box.

    gsm8k           {"question", "answer": "... #### 42"}                                       Cobbe et al. 2021, arXiv 2110.14168
    math-rows       {"problem" or "question", "answer": "42" or "... #### 42"} or {..., "solution": "... \boxed{42}"}
    math500         {"problem", "answer"}                                                       Lightman et al. 2023, arXiv 2305.20050
    aime24, aime25  {"prompt" or "problem" or "question", "answer"}; sampled 64 times (avg@64)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from qwq.errors import DataError
from qwq.tasks.base import Protocol
from qwq.tasks.downloads import Published
from qwq.tasks.file_task import FileTask
from qwq.tasks.published import PLACES, QWEN
from qwq.tasks.questions import MATH_INSTRUCTION, MATH_SENTENCE, canonical, need, text_of
from qwq.types import Message, Problem

_CALCULATOR = re.compile(r"<<.*?>>")  # what GSM8K's authors gave to a calculator


class Maths(FileTask):
    """A question with a gold answer."""

    domain = "math"
    majority_votes = True

    def question(self, row: Mapping[str, Any], where: str) -> tuple[str, str] | None:
        """Question and gold answer of a row; None for a row without an answer."""
        key = next((k for k in ("prompt", "problem", "question") if k in row), "prompt")
        return text_of(row, key, where), _plain_answer(row, where)

    def read(self, row: Mapping[str, Any], where: str, ident: str) -> Problem | None:
        found = self.question(row, where)
        if found is None:
            return None
        question, gold = found
        prompt = question if MATH_SENTENCE in question else question + MATH_INSTRUCTION
        own = row.get("id") or row.get("unique_id")
        return Problem(
            f"{self.prefix}/{own}" if own else ident, "math", (Message("user", prompt),), {"gold": gold},
            canonical("math", question), source=self.prefix,
        )  # fmt: skip


class Gsm8k(Maths):
    name = "gsm8k"
    published = Published(
        "test.jsonl", PLACES["gsm8k/test.jsonl"], "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
        known=("752adc99f23132275139f1f7be57126b08735a55daf0c56859ee6df70abafbac",), hub=("openai/gsm8k",),
    )  # fmt: skip

    def question(self, row: Mapping[str, Any], where: str) -> tuple[str, str]:
        question, gold = text_of(row, "question", where), after_mark(text_of(row, "answer", where))
        if not gold:
            raise DataError(f"{where}: the answer has no '#### RESULT' at its end: bare answers are kind = \"math\"")
        return question, gold

    def steps(self, row: Mapping[str, Any], where: str) -> str:
        """The worked solution of a row, without the result and what its authors gave to a
        calculator.
        """
        return _CALCULATOR.sub("", text_of(row, "answer", where)).rpartition("####")[0].strip()


class MathRows(Maths):
    name, prefix = "math-rows", "math"
    published = Published("train.jsonl", PLACES["math/train.jsonl"], hub=("HuggingFaceH4/MATH-500",))

    def question(self, row: Mapping[str, Any], where: str) -> tuple[str, str] | None:
        question = text_of(row, "question" if row.get("problem") is None and "question" in row else "problem", where)
        if "answer" in row:
            answer = row["answer"]
            if answer is None or not str(answer).strip():
                return None
            gold = _plain_answer(row, where)
            return question, after_mark(gold) or gold
        solution = text_of(row, "solution", where)
        if "\\boxed" not in solution:
            raise DataError(f"{where}: no `answer`, and the solution has no \\boxed{{}} to read one from")
        return question, solution


class Math500(Maths):
    name = "math500"
    published = Published("test.jsonl", hub=("HuggingFaceH4/MATH-500",), hub_files=("test.jsonl",))


class Aime24(Maths):
    name = "aime24"
    protocol = Protocol(samples=64)
    published = Published(
        "test.jsonl", PLACES["aime24/test.jsonl"], "5a7a817807c8c2b6b541631deaa6d8c2eb7f0420e0f2373a25878921e920b6da"
    )


class Aime25(Maths):
    name = "aime25"
    protocol = Protocol(samples=64)
    published = Published(
        "test.jsonl", QWEN + "aime25.jsonl", "9da60057135388687f3c594476b211538d0be8e7f3b2de6e680513281412c0ec"
    )


def after_mark(answer: str) -> str:
    """The result behind GSM8K's mark, without thousands commas; empty if there is none."""
    _, mark, gold = answer.rpartition("####")
    return gold.strip().replace(",", "") if mark else ""


def _plain_answer(row: Mapping[str, Any], where: str) -> str:
    answer = need(row, "answer", where, (str, int, float))
    if isinstance(answer, float) and not math.isfinite(answer):
        raise DataError(f"{where}: field 'answer' must be text or a finite number, found {answer}")
    return str(answer).strip()
