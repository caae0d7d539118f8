"""Preference pairs of a model's own answers."""

import json

import pytest
from scripted_policy import ScriptedPolicy

from qwq.data.examples import pair_splits
from qwq.distill.run import DistillPlan, TeacherSampling, distill
from qwq.errors import DataError
from qwq.text.response import parse
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe
from qwq.types import StopReason, Turn

# Samples of a problem: right, long; wrong, short; right, short; cut; wrong, long; no answer; wrong.
TEXTS = [
    "<think>\nA long thought about it.\n</think>\n\\boxed{%d}",
    "I guess \\boxed{1}",
    "\\boxed{%d}",
    "<think>\nIt is %d",
    "<think>\nA long thought of another kind.\n</think>\n\\boxed{1}",
    "<think>\nSo.\n</think>",
    "I guess \\boxed{1}",
]


def teacher(texts):
    def turn(request):
        problem, number = request.key.episode.job.key
        text = texts[number].replace("%d", problem.truth["gold"])
        return Turn(parse(text), StopReason.LENGTH if text.startswith("<think>\nIt is") else StopReason.END, text)

    return ScriptedPolicy(turn)


def made(tmp_path, texts, keep=4, num=3):
    rows = [{"question": f"What is {i} plus {i}, say?", "answer": f"#### {2 * i}"} for i in range(1, num + 1)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    plan = DistillPlan((f"gsm8k={tmp_path / 'train.jsonl'}",), samples=len(texts), keep=keep, pairs=True)
    summary = distill(plan, teacher(texts), TeacherSampling(), tmp_path / "pairs.jsonl")
    return summary, [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]


def test_right_answers_against_wrong_ones_of_like_length(tmp_path):
    summary, rows = made(tmp_path, TEXTS)
    assert summary["pairs"] == len(rows) == 2 * summary["problems"] and summary["problems_paired"] > 0
    for short, long in zip(rows[::2], rows[1::2], strict=True):
        gold = 2 * int(short["prompt"][0]["content"].split()[2])
        assert {long["chosen"], short["chosen"]} == {TEXTS[0] % gold, TEXTS[2] % gold}
        for row in (short, long):
            thinks = row["chosen"].startswith("<think>")
            assert row["rejected"] == TEXTS[4 if thinks else 1]
    assert len(made(tmp_path, TEXTS, keep=1)[1]) == summary["problems"]


def test_the_reward_model_reads_them(tmp_path):
    _, rows = made(tmp_path, TEXTS, num=20)
    chat = ChatFormat(train_bpe([rows[0]["chosen"], rows[0]["prompt"][0]["content"]], 300), default_template())
    splits, use = pair_splits(chat, str(tmp_path / "pairs.jsonl"), max_tokens=512)
    assert sum(map(len, splits.values())) == len(rows) and not use.left_out


def test_problems_that_are_always_or_never_solved_make_none(tmp_path):
    with pytest.raises(DataError, match="has both a right and a wrong answer of scripted: take more --samples"):
        made(tmp_path, TEXTS[1:2] + TEXTS[3:])
