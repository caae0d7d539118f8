"""Does an answer keep to its rules? Judged on the final answer alone, never on the thinking."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from qwq.common.callables import make_callable
from qwq.errors import DataError
from qwq.text.response import parse
from qwq.types import Outcome, ParsedResponse, Verdict
from qwq.verify.instructions.rules import resolve

VERIFIER = "instructions"


def verify(
    response: str | ParsedResponse,
    rules: Sequence[Mapping[str, Any]],
    *,
    finished: bool = True,
    thinking_open: bool | None = False,
) -> Verdict:
    """Correct where every rule holds; `passed` of `total` counts the rules that hold.

    `rules` are in the form of `qwq.verify.instructions.rules`. An empty list, an unknown rule or
    parameter is a DataError. An unfinished response is `unfinished`, an empty answer `no_answer`,
    whatever the rules are.
    """
    start = time.perf_counter()
    if isinstance(rules, str | Mapping) or not rules:
        raise DataError("rules must be a list of at least one rule, got none")
    resolved = [(resolve(spec), spec["id"]) for spec in rules]  # bad rules are reported whatever the answer is
    total = len(resolved)

    def verdict(outcome: Outcome, reason: str, passed: int = 0, answer: str | None = None) -> Verdict:
        seconds = time.perf_counter() - start
        return Verdict(
            outcome,
            reason,
            VERIFIER,
            passed=passed,
            total=total,
            seconds=seconds,
            answer=answer,
        )

    if not finished:
        return verdict(Outcome.UNFINISHED, "the response never ended")
    answer = _final(response, thinking_open)
    if not answer:
        return verdict(Outcome.NO_ANSWER, "nothing after the thinking")
    broken = [f"{rule_id}: {found}" for (check, params), rule_id in resolved if (found := check(answer, **params))]
    if broken:
        return verdict(Outcome.WRONG, "; ".join(broken), total - len(broken), answer)
    return verdict(Outcome.CORRECT, f"all {total} rules hold", total, answer)


def verify_listed(
    response: str | ParsedResponse,
    truth: Mapping[str, Any],
    *,
    finished: bool = True,
    thinking_open: bool | None = False,
) -> Verdict:
    """IFEval's form: `instruction_id_list` and `kwargs` (optional `prompt`), each instruction in
    its strict reading for rewards.

    Correct where the final answer follows all of them. Outcomes as in `verify`.
    """
    # The libraries that these types need are optional, so they are loaded with the first such
    # problem.
    from qwq.verify.instructions.ifeval import grade

    start = time.perf_counter()
    names, kwargs = truth["instruction_id_list"], truth["kwargs"]
    answer = _final(response, thinking_open)
    followed = (
        grade(answer, names, kwargs, truth.get("prompt"), reward=True)[0]
        if finished and answer
        else [False] * len(names)
    )
    broken = [name for name, good in zip(names, followed, strict=True) if not good]
    outcome, reason = Outcome.CORRECT, f"all {len(names)} instructions are followed"
    if not finished:
        outcome, reason = Outcome.UNFINISHED, "the response never ended"
    elif not answer:
        outcome, reason = Outcome.NO_ANSWER, "nothing after the thinking"
    elif broken:
        outcome, reason = Outcome.WRONG, f"not followed: {', '.join(broken)}"
    return Verdict(
        outcome,
        reason,
        VERIFIER,
        passed=len(names) - len(broken),
        total=len(names),
        seconds=time.perf_counter() - start,
        answer=answer or None,
    )


def _final(response: str | ParsedResponse, thinking_open: bool | None) -> str:
    return (parse(response, thinking_open=thinking_open) if isinstance(response, str) else response).final


make_callable(__name__, f"{__name__}:verify")
