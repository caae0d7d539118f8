"""The RL loop as a whole learns: the real trainer, sampler and math verifier, on a model that is
right now and then.

The model (`tests/support/sums.py`) has been shown answers of which less than half are right; the
reward alone tells it which are the right ones.
"""

from __future__ import annotations

import json

import pytest
import torch
from sums import PROBLEMS, chat_of, cold_start

from qwq.config import ComputeSection, Optim
from qwq.pipeline.stages.rl1 import Rl1Stage
from qwq.reward.mixing import Rewarder
from qwq.tasks.mix import ProblemMix
from qwq.train.checkpoint import StageRun
from qwq.train.rl import RlTrainer

STEPS = 30


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    """The metrics of a whole RL stage, one row a step."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chat = chat_of(PROBLEMS)
    model = cold_start(chat, PROBLEMS)
    stage = Rl1Stage(
        kind="rl1",
        steps=STEPS,
        prompts=16,
        samples=8,
        max_new_tokens=16,
        optim=Optim(lr=2e-3, warmup=0.1),
        sources=[],
        mix={"math": 1.0},
    )
    run = StageRun(tmp_path_factory.mktemp("rise"), "rl1", "rl1")
    mix = ProblemMix(0, "rl1", {}, {"sums": (1.0, PROBLEMS)})
    trainer = RlTrainer(model, chat, stage, ComputeSection(), run, mix, Rewarder(), seed=0)
    trainer.prepare()
    trainer.train()
    torch.set_num_threads(before)
    return [json.loads(line) for line in run.metrics_path.read_text().splitlines()]


def test_reward_rises(rows):
    assert [r["step"] for r in rows] == list(range(STEPS))
    rewards = [r["reward"] for r in rows]
    first, last = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
    assert 0.2 <= first <= 0.65, rewards
    assert last - first >= 0.15, rewards
    # Nothing but the verifier pays: the reward is the share of right answers.
    assert rewards == pytest.approx([r["pass_rate"] for r in rows], abs=1e-12)


def test_sampler_and_trainer_agree_in_every_step(rows):
    """Promise 1: both sides come from one model code, so they differ by rounding alone."""
    trained = [r for r in rows if r["trained_tokens"]]
    assert len(trained) >= STEPS // 2
    assert max(r["mismatch_max"] for r in trained) <= 1e-4
    # Some difference there is: the two passes shape their matrices differently, so an exact zero
    # would be a copy.
    assert max(r["mismatch_max"] for r in trained) > 0


def test_one_update_a_batch_is_never_clipped(rows):
    assert all(r["clip_fraction"] == 0.0 for r in rows if r["trained_tokens"])


def test_entropy_falls_as_the_model_makes_up_its_mind(rows):
    entropy = [r["entropy"] for r in rows if r["trained_tokens"]]
    assert entropy[-1] < entropy[0]
