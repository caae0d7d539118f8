"""An episode that was compacted is trained on segment by segment: each is a sequence of its own,
with the episode's advantage.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_golden import fresh, one_thread, trainer

from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.train.groups import Group, by_segment
from qwq.train.packing import pack_groups
from qwq.types import Rollout, StopReason, TokenSegment

TEMPERATURE = 0.9
# Prompt, completion and mask of each segment of two episodes; the prompt of the first is shared.
FIRST = [([1, 2, 3], [4, 5, 6, 7], [1, 1, 0, 1]), ([1, 9, 8, 2], [10, 11], [1, 1]), ([1, 12], [13, 14, 3], [1, 0, 1])]
SECOND = [([1, 2, 3], [20, 21, 5], [1, 1, 1])]
ADVANTAGES = [0.75, -0.5]


def logprobs(model: Transformer, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Of the completion's tokens, in one whole forward pass."""
    ids = prompt + completion
    logits = model.logits(model(torch.tensor(ids[:-1]), Packed([len(ids) - 1]))) / TEMPERATURE
    return logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])][len(prompt) - 1 :]


def rollout(model: Transformer, segments: list[tuple[list[int], list[int], list[int]]], reward: float) -> Rollout:
    made = []
    for prompt, completion, mask in segments:
        with torch.no_grad():
            told = [x if m else 0.0 for x, m in zip(logprobs(model, prompt, completion).tolist(), mask, strict=True)]
        made.append(TokenSegment(prompt, completion, mask, told, [0] * len(completion)))
    first, *later = made
    columns = (first.prompt_ids, first.completion_ids, first.sampled_mask, first.sampler_logprobs)
    return Rollout("p", "math", 0, *columns, first.weight_versions, StopReason.END, reward=reward, segments=later)


def group(model: Transformer) -> Group:
    return Group([rollout(model, FIRST, 1.0), rollout(model, SECOND, 0.0)], ADVANTAGES)


def test_segments_are_packed_as_sequences_by_hand() -> None:
    """First segments share a prompt; a later one follows its own, which is not learnt."""
    parts = by_segment([group(fresh())])
    assert [[r.completion_ids for r in g.rollouts] for g in parts] == [
        [[4, 5, 6, 7], [20, 21, 5]], [[10, 11]], [[13, 14, 3]],
    ]  # fmt: skip
    assert [g.advantages for g in parts] == [[0.75, -0.5], [0.75], [0.75]]
    batch = pack_groups(
        [g.rollouts[0].prompt_ids for g in parts],
        [[r.completion_ids for r in g.rollouts] for g in parts],
        [[r.sampled_mask for r in g.rollouts] for g in parts],
        {
            "advantage": [
                [[a] * len(r.completion_ids) for r, a in zip(g.rollouts, g.advantages, strict=True)] for g in parts
            ]
        },
    )
    assert batch.ids_N.tolist() == [1, 2, 3, 4, 5, 6, 3, 20, 21, 1, 9, 8, 2, 10, 1, 12, 13, 14]
    assert batch.layout.positions_N.tolist() == [0, 1, 2, 3, 4, 5, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert batch.targets_M.tolist() == [4, 5, 7, 20, 21, 5, 10, 11, 13, 3]
    assert batch.extra["advantage"].tolist() == [0.75] * 3 + [-0.5] * 3 + [0.75] * 4


def test_first_segments_of_other_prompts_are_parts_of_their_own() -> None:
    """A program may ask something else for each sample of a problem."""
    made = group(fresh())
    made.rollouts[1].prompt_ids = [1, 2, 9]
    parts = by_segment([made])
    assert [(g.rollouts[0].prompt_ids, [r.completion_ids for r in g.rollouts], g.advantages) for g in parts] == [
        ([1, 2, 3], [[4, 5, 6, 7]], [0.75]), ([1, 2, 9], [[20, 21, 5]], [-0.5]),
        ([1, 9, 8, 2], [[10, 11]], [0.75]), ([1, 12], [[13, 14, 3]], [0.75]),
    ]  # fmt: skip


@pytest.mark.parametrize("micro_batch_tokens", [1, 40])
def test_the_gradient_is_the_sum_over_the_segments_apart(tmp_path: Path, micro_batch_tokens: int) -> None:
    """On-policy the gradient of the loss is that of -advantage x log-probability of each sampled
    token, over the normaliser: prompts x samples x max_new_tokens, 4 x 4 x 20.
    """
    with one_thread():
        rl = trainer(tmp_path, micro_batch_tokens=micro_batch_tokens, updates=1, kl=0.0, clip_low=None, clip_high=None)
        made = group(rl.model)
        updater, parameters = rl.updater, list(rl.model.parameters())
        for part in updater._micro_batches(by_segment([made])):
            found = updater._backward(part, updater._normaliser(made.rollouts))
            assert found["mismatch_max"] < 1e-5
        whole = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        apart = torch.zeros_like(whole)
        for segments, advantage in zip((FIRST, SECOND), ADVANTAGES, strict=True):
            for prompt, completion, mask in segments:
                rl.model.zero_grad()
                chosen = logprobs(rl.model, prompt, completion) * torch.tensor(mask)
                (-advantage * chosen.sum() / 320).backward()
                apart += torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    assert float(apart.norm()) > 1e-3
    assert float((whole - apart).norm() / apart.norm()) < 1e-5


def test_a_step_counts_the_tokens_of_all_segments(tmp_path: Path) -> None:
    with one_thread():
        rl = trainer(tmp_path, updates=1, kl=0.0, clip_low=None, clip_high=None, loss="dapo")
        made = group(rl.model)
        metrics = rl.updater.update(0, [made])
        assert metrics["trained_tokens"] == 10 == sum(r.num_sampled for r in made.rollouts)
        assert rl.updater._normaliser(made.rollouts) == 10
    assert metrics["mismatch_max"] < 1e-5 and [r.num_tokens for r in made.rollouts] == [9, 3]


def test_a_last_segment_without_a_token_leaves_the_earlier_ones(tmp_path: Path) -> None:
    """A compacted prompt that fills the context."""
    with one_thread():
        rl = trainer(tmp_path, updates=1, kl=0.0, clip_low=None, clip_high=None)
        made = group(rl.model)
        made.rollouts[0].segments[-1] = TokenSegment([1, 12], [], [], [], [])
        assert rl.updater.update(0, [made])["trained_tokens"] == 8


def test_a_segment_of_other_weights_stops_the_step(tmp_path: Path) -> None:
    """Promise 1 holds for later segments too."""
    with one_thread():
        rl = trainer(tmp_path, updates=1, kl=0.0, clip_low=None, clip_high=None)
        made = group(rl.model)
        made.rollouts[0].segments[0].sampler_logprobs[1] += 0.01
        with pytest.raises(RuntimeError, match="sampler and trainer disagree"):
            rl.updater.update(0, [made])


def test_the_record_of_a_rollout_keeps_its_form() -> None:
    made = group(fresh()).rollouts
    for rollout in made:
        line = json.loads(json.dumps(rollout.to_dict()))
        assert Rollout.from_dict(line) == rollout
    assert "segments" not in made[1].to_dict() and "tokens" not in made[1].to_dict()
    record = made[0].to_dict()
    assert (record["prompt_ids"], record["completion_ids"], record["tokens"]) == ([1, 2, 3], [4, 5, 6, 7], 9)
    assert [s["completion_ids"] for s in record["segments"]] == [[10, 11], [13, 14, 3]]
