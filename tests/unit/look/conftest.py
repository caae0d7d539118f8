"""A small run's folder with rollouts, evaluations and hostile text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwq.rollout.store import RolloutStore
from qwq.types import Outcome, Rollout, StopReason, Verdict

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202eabc</textarea><img src=x onerror=alert(2)>"


def rollout(group: int, reward: float | None, text: str, **fields: Any) -> Rollout:
    outcome = Outcome.INFRA_ERROR if reward is None else Outcome.CORRECT if reward == 1 else Outcome.WRONG
    given = {
        "problem_id": f"p{group}",
        "domain": "math",
        "prompt": f"What is {group}?<think>\n",
        "expected": "7",
    } | fields
    return Rollout(
        group=group, prompt_ids=[1, 2], completion_ids=[3, 4, 5], sampled_mask=[1, 1, 0],
        sampler_logprobs=[-0.1, -2.0, 0.0], weight_versions=[2, 2, 2], stop_reason=StopReason.END, text=text,
        rewards={} if reward is None else {"accuracy": reward}, reward=reward,
        verdicts=[Verdict(outcome, f"reason {group}", "math", answer="7")], **given,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two steps of rl2 (first in the recipe), one of rl1, one evaluation.

    Rows 1 to 6, 7 and 8, 9.
    """
    folder = tmp_path / "run"
    (folder / "evals" / "rl2").mkdir(parents=True)
    (folder / "recipe.toml").write_text('name = "x"\n[stages.rl2]\nkind = "rl1"\n[stages.rl1]\nkind = "rl1"\n')
    second = RolloutStore(folder / "rollouts" / "rl2")
    second.write(
        0, [rollout(0, 1.0, "add</think>seven"), rollout(0, 0.0, f"hm</think>{HOSTILE}"), rollout(1, None, "x")]
    )
    second.write(
        1, [rollout(2, 1.0, "Ä stra\u00dfe </think>b"), rollout(2, 0.5, "never closed"), rollout(2, 0.0, "half \ud83d")]
    )
    first = RolloutStore(folder / "rollouts" / "rl1")
    first.write(0, [rollout(0, 0.0, "one", domain="code"), rollout(0, 0.0, "two", domain="code", expected=None)])
    row = {
        "benchmark": "gsm8k", "problem_id": "q", "prompt": "How many?", "text": "<think>a</think>\nSeven",
        "stop_reason": "end", "tokens": 12, "verdict": Verdict(Outcome.NO_ANSWER, "no box", "math").to_dict(),
    }  # fmt: skip
    (folder / "evals" / "rl2" / "sampled.jsonl").write_text(json.dumps(row) + "\n")
    return folder
