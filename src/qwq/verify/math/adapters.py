"""The math verifier in the call signatures of other trainers, for use without the rest of this
project.

TRL: `GRPOTrainer(reward_funcs=[reward_function], ...)`; the data set has a column `gold`, `answer`
or `solution`. verl: `custom_reward_function.path=.../verify/math/adapters.py` and
`custom_reward_function.name=compute_score`.

Sources: TRL's documentation "Using a custom reward function" (called with prompts, completions and
the data set's columns as keywords, returns one float or None each); verl's `default_compute_score`
signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwq.errors import DataError, InfraError
from qwq.types import Outcome
from qwq.verify import math

_GOLD_COLUMNS = ("gold", "answer", "solution", "ground_truth")


def reward_function(
    prompts: Sequence[Any] | None = None,
    completions: Sequence[Any] = (),
    **columns: Any,
) -> list[float | None]:
    """1.0 for correct, 0.0 for every other verdict, None where our own machinery failed.

    `completions` are strings, or conversations whose last message holds the answer. The gold
    answers are in the first of the columns gold, answer, solution, ground_truth that is there. A
    completion is taken as finished unless the column `finished` says otherwise; `thinking_open` is
    a column too.
    """
    column = next((name for name in _GOLD_COLUMNS if name in columns), None)
    if column is None:
        raise DataError(f"no gold column: need one of {', '.join(_GOLD_COLUMNS)}, got {', '.join(columns) or 'none'}")
    golds = columns[column]
    finished = columns.get("finished") or [True] * len(completions)
    opened = columns.get("thinking_open") or [False] * len(completions)
    if not len(golds) == len(finished) == len(opened) == len(completions):
        raise DataError(f"{len(completions)} completions but {len(golds)} golds: the columns must have one each")
    rewards: list[float | None] = []
    for completion, gold, ended, thinking in zip(completions, golds, finished, opened, strict=True):
        verdict = math.verify(
            _text(completion),
            str(gold),
            finished=bool(ended),
            thinking_open=bool(thinking),
        )
        rewards.append(None if verdict.outcome is Outcome.INFRA_ERROR else float(verdict.correct))
    return rewards


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
) -> float:
    """verl's signature: 1.0 for correct, else 0.0. verl knows no missing score, so an infra error
    raises InfraError.

    `extra_info` may hold `finished` and `thinking_open`. `data_source` names the set and changes
    nothing.
    """
    info = extra_info or {}
    verdict = math.verify(
        solution_str,
        str(ground_truth),
        finished=bool(info.get("finished", True)),
        thinking_open=bool(info.get("thinking_open", False)),
    )
    if verdict.outcome is Outcome.INFRA_ERROR:
        raise InfraError(f"{data_source or 'math'}: {verdict.reason}")
    return float(verdict.correct)


def _text(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    return str(completion[-1]["content"])
