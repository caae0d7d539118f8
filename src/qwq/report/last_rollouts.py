"""Answers of the last step of RL, task by task: what a run on data of one's own has to show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwq.common.jsonl import read_jsonl
from qwq.report.run_data import RunData
from qwq.report.wording import both_ends, grey_thinking, number, text, without_end

MAX_TASKS = 6  # of a stage
SHOWN_CHARS = 4000
Row = Mapping[str, Any]


def rollout_section(run: RunData) -> str:
    """For each RL stage and task the first group of the last step: best and worst answer."""
    blocks = []
    for stage in run.stages:
        files = sorted(run.folder.rollouts(stage.name).glob("step-*.jsonl"))
        groups = _first_groups(files[-1]) if files else {}
        if groups:
            step = int(files[-1].stem.removeprefix("step-")) + 1
            blocks.append(f'<h3 class="sticky">{text(stage.name)} <span class="soft small">step {step}</span></h3>')
            blocks += [_group(domain, rows) for domain, rows in list(groups.items())[:MAX_TASKS]]
    if not blocks:
        return ""
    return (
        "<h2>Rollouts</h2><p class='soft small'>The first group of each task in the last step, not chosen: its answer "
        "of the highest and of the lowest reward. <code>qwq look</code> shows all of them.</p>" + "".join(blocks)
    )


def _first_groups(path: Path) -> dict[str, list[Row]]:
    """The rows of each domain's first group."""
    out: dict[str, list[Row]] = {}
    for _, row in read_jsonl(path):
        rows = out.setdefault(row["domain"], [])
        if not rows or rows[0]["group"] == row["group"]:
            rows.append(row)
    return out


def _group(domain: str, rows: Sequence[Row]) -> str:
    ranked = sorted(rows, key=lambda row: -_reward(row))
    shown = ranked[:1] if len({_reward(row) for row in ranked}) == 1 else [ranked[0], ranked[-1]]
    same = f": all {len(rows)} answers earned the same" if len(shown) == 1 and len(rows) > 1 else ""
    expected = rows[0].get("expected")
    answer = ""
    if expected is not None:
        words = expected if isinstance(expected, str) else json.dumps(expected, ensure_ascii=False)
        answer = f'<div class="small soft">expected: {text(_cut(words))}</div>'
    return (
        f'<details class="pair"><summary>{text(domain)} <span class="soft small">{text(rows[0]["problem_id"])}{same}'
        f'</span></summary><div><div class="ask">{text(_cut(rows[0].get("prompt", "")))}</div>{answer}'
        f'<div class="sides">{"".join(_side(row) for row in shown)}</div></div></details>'
    )


def _reward(row: Row) -> float:
    return row["reward"] if isinstance(row.get("reward"), int | float) else float("-inf")


def _side(row: Row) -> str:
    verdict = row["verdicts"][-1] if row.get("verdicts") else {"outcome": "not judged", "reason": ""}
    right = verdict["outcome"] == "correct"
    terms = ", ".join(f"{text(name)} {number(value)}" for name, value in (row.get("rewards") or {}).items())
    reward = "no reward" if _reward(row) == float("-inf") else f"reward {number(_reward(row))}"
    return (
        f'<div class="side{" right" if right else ""}"><div class="small soft">{reward} ({terms}), '
        f"{row.get('tokens', len(row['completion_ids'])):,} tokens, ended by {text(row['stop_reason'])}</div>"
        f'<pre>{grey_thinking(without_end(row["text"]), _cut)}</pre><div class="small">'
        f'<b class="{"good" if right else "bad"}">{text(verdict["outcome"].replace("_", " "))}</b> '
        f"{text(verdict['reason'])}</div></div>"
    )


def _cut(value: str) -> str:
    return both_ends(value, SHOWN_CHARS)
