"""The size of an RL step: fixed before anything is left out, the same for any division into
micro-batches, whatever the loss.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_golden import fixed_rollouts, one_thread, trainer
from test_losses import own_registry  # noqa: F401  # a fixture

from qwq.config import LOSS_CLIPS
from qwq.pipeline.stages.rl1 import Rl1Stage
from qwq.pipeline.stages.rl2 import Rl2Stage
from qwq.train.groups import form_groups
from qwq.types import Outcome, Rollout, StopReason, Verdict

LOSSES = sorted(LOSS_CLIPS)
ADVANTAGES = ("group_mean", "group_std", "group_rate", "rloo", "batch_std", "batch_norm")


def rollouts(rl, *, signal: tuple[int, ...] = (0,)) -> list[Rollout]:
    """Four prompts with four completions each; verdicts differ in the groups `signal` alone, and
    one has failed by infrastructure.
    """
    made = fixed_rollouts(rl.model, torch.Generator().manual_seed(31), 0.9)
    for i, r in enumerate(made):
        if r.reward is None:
            r.verdicts = [Verdict(Outcome.INFRA_ERROR, "a worker died", "test")]
            continue
        right = r.group in signal and i % 3 == 0
        r.verdicts, r.rewards, r.reward = (
            [Verdict(Outcome.CORRECT if right else Outcome.WRONG, "", "test")],
            {"accuracy": float(right)},
            float(right),
        )
    return made


def step(folder: Path, made=rollouts, **options) -> dict[str, float]:
    """One whole step on logged rollouts."""
    with one_thread():
        rl = trainer(folder, **({"updates": 1, "kl": 0.0, "clip_low": None, "clip_high": None} | options))
        rl.store.write(0, made(rl))
        return rl.step(0)


@pytest.mark.parametrize("loss", LOSSES)
def test_leaving_groups_without_signal_out_changes_the_time_and_not_the_step(tmp_path, loss):
    """One prompt of four has signal.

    A KL term of nearly no weight switches dropping off, and is no other step either.
    """
    dropped = step(tmp_path / "a", loss=loss)
    kept = step(tmp_path / "b", loss=loss, drop_zero_signal=False)
    regularised = step(tmp_path / "c", loss=loss, kl=1e-9)
    assert dropped["trained_tokens"] < kept["trained_tokens"] == regularised["trained_tokens"]
    assert dropped["zero_signal"] == kept["zero_signal"] == 0.75
    assert kept["grad_norm"] == pytest.approx(dropped["grad_norm"], rel=1e-4) and dropped["grad_norm"] > 1e-3
    assert regularised["grad_norm"] == pytest.approx(dropped["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_micro_batches_do_not_change_the_step_of_any_loss(tmp_path, loss):
    small, large = (step(tmp_path / str(n), loss=loss, updates=2, micro_batch_tokens=n) for n in (1, 10_000))
    for name in ("loss", "grad_norm", "clip_fraction"):
        assert small[name] == pytest.approx(large[name], rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_dropping_changes_no_step_under_any_advantage_form(tmp_path, advantage):
    dropped = step(tmp_path / "a", advantage=advantage)
    assert step(tmp_path / "b", advantage=advantage, drop_zero_signal=False)["grad_norm"] == pytest.approx(
        dropped["grad_norm"], rel=1e-4
    )


def test_the_divisor_of_dapo_counts_every_sampled_token(tmp_path):
    """The step of `dr_grpo` times prompts x samples x max_new_tokens (320) over the tokens sampled,
    those without a verdict too.
    """
    tokens = sum(
        r.num_sampled for r in fixed_rollouts(trainer(tmp_path / "x").model, torch.Generator().manual_seed(31), 0.9)
    )
    constant, mean = step(tmp_path / "a", loss="dr_grpo"), step(tmp_path / "b", loss="dapo")
    assert mean["grad_norm"] / constant["grad_norm"] == pytest.approx(320 / tokens, rel=1e-4)


def test_refills_change_no_divisor(tmp_path):
    """Four prompts of which 0 has signal, then three more: the batch is prompt 0 and the three, not
    all seven.
    """

    def refilled(rl) -> list[Rollout]:
        more = rollouts(rl, signal=(0, 1))
        later = [r for r in rollouts(rl) if r.group in (1, 2, 3)]
        for r in later:
            r.group += 3
        return [*more[:4], *[r for r in rollouts(rl) if r.group in (1, 2, 3)], *later]

    for loss in ("dapo", "dr_grpo"):
        once = step(tmp_path / loss / "a", loss=loss)
        again = step(tmp_path / loss / "b", made=refilled, loss=loss, refill=1)
        assert again["grad_norm"] == pytest.approx(once["grad_norm"], rel=1e-4)
        assert again["zero_signal"] == pytest.approx(6 / 7)
    # With a KL term, which needs every group, the replaced prompts are gone as well.
    assert (
        step(tmp_path / "c", made=refilled, refill=1, kl=1e-9)["trained_tokens"]
        == step(tmp_path / "d", kl=1e-9)["trained_tokens"]
    )


def test_truncated_answers_leave_the_loss_and_not_the_divisor(tmp_path):
    def truncated(rl) -> list[Rollout]:
        made = rollouts(rl)
        made[1].stop_reason = StopReason.LENGTH
        return made

    for loss in ("dapo", "dr_grpo", "grpo"):
        whole = step(tmp_path / loss / "a", made=truncated, loss=loss)
        masked = step(tmp_path / loss / "b", made=truncated, loss=loss, mask_truncated=True)
        assert (
            whole["trained_tokens"] - masked["trained_tokens"]
            == truncated(trainer(tmp_path / loss / "c"))[1].num_sampled
        )
        # What is left out is its term of the sum, and nothing else of the loss: -A n / divisor, or
        # -A / completions.
        rl = trainer(tmp_path / loss / "d")
        made = truncated(rl)
        (a,) = [x for g in form_groups(made) for r, x in zip(g.rollouts, g.advantages, strict=True) if r is made[1]]
        n, tokens = made[1].num_sampled, sum(r.num_sampled for r in made)
        term = {"dapo": n / tokens, "dr_grpo": n / 320, "grpo": 1 / 16}[loss]
        assert masked["loss"] - whole["loss"] == pytest.approx(a * term, abs=1e-6)


def test_the_sampler_is_corrected_where_asked_and_in_16_bits(tmp_path):
    """Every token three times as likely under the trainer as under the sampler: weights of 3, cut
    at 2; none in float32 unless asked for.
    """

    def mismatched(rl) -> list[Rollout]:
        rl.updater._hold = lambda *a: None
        made = rollouts(rl)
        for r in made:
            r.sampler_logprobs = [
                x - torch.tensor(3.0).log().item() if m else 0.0
                for x, m in zip(r.sampler_logprobs, r.sampled_mask, strict=True)
            ]
        return made

    plain = step(tmp_path / "a", made=mismatched)
    assert "importance_mean" not in plain
    assert step(tmp_path / "b", made=mismatched, importance_cap=0)["grad_norm"] == plain["grad_norm"]
    capped = step(tmp_path / "c", made=mismatched, importance_cap=2.0)
    assert capped["grad_norm"] == pytest.approx(2 * plain["grad_norm"], rel=1e-4)
    assert capped["importance_mean"] == pytest.approx(3.0, rel=1e-3) and capped["importance_capped"] == 1.0
    assert step(tmp_path / "d", made=mismatched, importance_cap=4.0)["grad_norm"] == pytest.approx(
        3 * plain["grad_norm"], rel=1e-4
    )
    rl = trainer(tmp_path / "e")
    assert rl.updater.importance_cap == 0.0
    rl.model.to(torch.bfloat16)
    assert rl.updater.importance_cap == 2.0


def test_a_loss_in_one_file_trains(tmp_path, own_registry):  # noqa: F811
    """`loss = "file.py:name"`: twice the loss of dapo is twice its gradient."""
    file = tmp_path / "own.py"
    file.write_text(
        "from dataclasses import replace\nfrom qwq.train.losses import clipped_surrogate, register_loss\n"
        "@register_loss('twice', summed='tokens')\ndef twice(x):\n    terms = clipped_surrogate(x, x.ratio_N)\n"
        "    return replace(terms, loss_N=2 * terms.loss_N)\n"
    )
    own, dapo = step(tmp_path / "a", loss=f"{file}:twice"), step(tmp_path / "b", loss="dapo")
    assert own["grad_norm"] == pytest.approx(2 * dapo["grad_norm"], rel=1e-4)


# --- options --------------------------------------------------------------------------------------


def stage(**options) -> Rl1Stage:
    return Rl1Stage(kind="rl1", steps=1, mix={"math": 1.0}, **options)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_brings_its_clip_and_a_recipe_may_name_another(loss):
    low, high = LOSS_CLIPS[loss]
    assert (stage(loss=loss).clip_low, stage(loss=loss).clip_high) == (low, high)
    assert stage(loss=loss, clip_high=0.5).clip_high == 0.5
    written = json.loads(stage(loss=loss).model_dump_json(exclude_none=True))
    assert Rl1Stage.model_validate(written).model_dump() == stage(loss=loss).model_dump()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "gsp"}, "loss 'gsp' is none of .*: did you mean 'gspo'"),
        ({"advantage": "group"}, "advantage 'group' is none of .*did you mean 'group_"),
        ({"loss": "cispo", "clip_low": 0.2}, "clip_low is 0.2, and loss 'cispo' has no such clip"),
        ({"loss": "cispo", "dual_clip": 3.0}, "dual_clip is 3, and loss 'cispo' has none"),
        ({"scale_advantage": True, "advantage": "rloo"}, "give one of the two"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stage(**options)


def test_stage_2_regularises_with_the_right_gradient():
    assert Rl2Stage(kind="rl2", steps=1, mix={"math": 1.0}).kl_estimator == "k3_ratio"


def test_a_completion_without_tokens_counts_in_the_advantages_and_is_not_trained_on(tmp_path):
    """Behind a prompt that fills the model's positions nothing is sampled; with a KL term such a
    group is kept, and shifted the tokens of all others by one.
    """

    def unfinished(rl, *groups: int) -> list[Rollout]:
        made = rollouts(rl)
        for r in made:
            if r.group in groups:
                r.completion_ids, r.sampled_mask, r.sampler_logprobs, r.weight_versions = [], [], [], []
                r.stop_reason = StopReason.CONTEXT
        return made

    def without(rl, *groups: int) -> list[Rollout]:
        made = rollouts(rl)
        for r in made:
            if r.group in groups:
                r.reward = None
        return made

    found = step(tmp_path / "a", made=lambda rl: unfinished(rl, 1, 2), kl=0.1)
    expected = step(tmp_path / "b", made=lambda rl: without(rl, 1, 2), kl=0.1)
    for name in ("grad_norm", "trained_tokens", "kl", "loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6), name
    assert found["trained_tokens"] > 0
    nothing = step(tmp_path / "c", made=lambda rl: unfinished(rl, 0, 1, 2, 3), kl=0.1)
    assert nothing["trained_tokens"] == 0 and nothing["loss"] == 0.0 and "grad_norm" not in nothing
