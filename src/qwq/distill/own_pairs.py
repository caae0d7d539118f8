"""Preference pairs of a model's own answers: to one problem, an answer that the verifier finds
right against one that it finds wrong.

They are on-policy where the teacher is the model that the reward model is for. Each right answer is
paired with the wrong one of the nearest length that is still free, so that length alone says
little. Answers that did not end, and verdicts other than correct and wrong, make no pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwq.distill.filters import Answer, parts_of
from qwq.errors import DataError
from qwq.text.response import with_thinking
from qwq.types import Outcome, Problem, Verdict

Judged = tuple[Answer, Verdict]


def pairs_of(problem: Problem, answers: Sequence[Judged], keep: int) -> list[dict[str, Any]]:
    """At most `keep` rows {"prompt", "chosen", "rejected", ...}, no answer in two of them."""
    texts: dict[Outcome, list[str]] = {Outcome.CORRECT: [], Outcome.WRONG: []}
    for answer, verdict in answers:
        side = texts.get(verdict.outcome)
        text = _written(problem, answer)
        if side is not None and text is not None and text not in side:
            side.append(text)
    right, wrong = texts[Outcome.CORRECT], texts[Outcome.WRONG]
    nearest = sorted((abs(len(r) - len(w)), i, j) for i, r in enumerate(right) for j, w in enumerate(wrong))
    rows: list[dict[str, Any]] = []
    taken: set[str] = set()
    for _, i, j in nearest:
        chosen, rejected = right[i], wrong[j]
        if len(rows) < keep and not taken & {chosen, rejected}:
            taken |= {chosen, rejected}
            prompt = [{"role": m.role, "content": m.content} for m in problem.messages]
            row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            rows.append(row | {"problem_id": problem.id, "source": problem.source})
    return rows


def _written(problem: Problem, answer: Answer) -> str | None:
    """The whole answer with its thinking marked; None for one that did not end."""
    thinking, final = parts_of(problem, answer)
    if not answer.finished or thinking == "unclosed" or not final:
        return None
    return with_thinking(thinking, final) if thinking else final


def need_pairs(rows: Sequence[object], problems: int, name: str) -> None:
    """DataError where no problem has both kinds of answers."""
    if not rows:
        raise DataError(
            f"none of {problems:,} problems has both a right and a wrong answer of {name}: take more --samples, or "
            "problems that it solves now and then"
        )
