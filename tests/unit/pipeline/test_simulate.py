"""The simulator of RL steps, against values worked out by hand."""

import statistics

import pytest

from qwq.pipeline.plan.simulate import (
    DecodeCost,
    Decoded,
    decode,
    fleet_seconds,
    schedule,
    tailed_lengths,
    with_failures,
)


def test_an_engine_with_room_for_all_lasts_as_long_as_the_longest() -> None:
    """Lengths 1 and 3 behind 10 tokens: two sequences in the first step, one in the next two; held
    are 11 + 11, then 12 and 13 tokens.
    """
    assert decode([1, 3], 2, prompt=10) == Decoded(3, 4, 22 + 12 + 13)
    assert decode([1, 3], 2, prompt=10).seconds(DecodeCost(1.0, 0.5, 0.01)) == pytest.approx(3 + 2 + 0.47)


def test_a_waiting_sequence_takes_the_slot_that_is_free() -> None:
    """Two slots for 2, 4 and 3: the third begins behind the first and ends at step 5."""
    assert decode([2, 4, 3], 2) == Decoded(5, 9, (1 + 1) + (2 + 2) + (3 + 1) + (4 + 2) + 3)
    assert decode([2, 4, 3], 1).steps == 9
    assert decode([], 4) == Decoded(0, 0, 0.0)
    with pytest.raises(ValueError, match="0 slots"):
        decode([1], 0)


def test_a_fleet_waits_for_its_slowest_engine() -> None:
    """Shares (5, 1) and (2, 2) on one slot each: 6 and 4 steps."""
    assert fleet_seconds([5, 2, 1, 2], 2, 1, DecodeCost(0.5)) == 3.0
    assert fleet_seconds([5, 2, 1, 2], 9, 1, DecodeCost(0.5)) == 2.5  # one each: the longest


def test_lengths_have_the_mean_that_is_asked_for_and_a_tail() -> None:
    lengths = tailed_lengths(1000, 400, 2000)
    assert statistics.fmean(lengths) == pytest.approx(400, abs=1) and max(lengths) == 2000
    assert statistics.median(lengths) < 330 and lengths == tailed_lengths(1000, 400, 2000)
    assert tailed_lengths(3, 500, 400) == [400] * 3


def test_steps_in_turn_and_with_lag() -> None:
    """3 s of sampling, 2 s of training, 1 s of sync: 6 s a step in turn. With a lag of 1 sampling
    never waits: it begins at 0, 3, 6 and 9, and the last step is trained at 12 to 14.
    """
    turn = schedule(4, 3.0, 2.0, 1.0)
    assert turn.total_s == 24.0 and turn.lag == 0 and turn.trainer_idle == pytest.approx(1 - 8 / 24)
    lagged = schedule(4, 3.0, 2.0, 1.0, max_lag=1)
    assert lagged.total_s == 15.0 and lagged.lag == 1 and lagged.sampler_idle == pytest.approx(1 - 12 / 15)
    # Training is the slower and never waits: from 1 to 13, and the last sync.
    slow = schedule(3, 1.0, 4.0, 1.0, max_lag=1)
    assert slow.total_s == 1 + 3 * 4 + 1 and slow.lag == 1


@pytest.mark.parametrize("max_lag", [0, 1, 2, 5])
@pytest.mark.parametrize("times", [(1.0, 7.0, 0.5), (7.0, 1.0, 0.5), (2.0, 2.0, 0.0)])
def test_the_lag_is_never_exceeded(max_lag: int, times: tuple[float, float, float]) -> None:
    run = schedule(40, *times, max_lag)
    assert run.lag <= max_lag
    assert run.total_s <= schedule(40, *times).total_s


def test_failures_cost_time_that_may_fail_as_well() -> None:
    """100 GPUs of 1,000 hours between failures: one in 10 hours. Each loses an hour: a tenth of the
    time, so 90 hours of work take 100 and see 10 failures.
    """
    assert with_failures(90 * 3600.0, 100, 1000.0, 3600.0) == (pytest.approx(100 * 3600), pytest.approx(10))
    assert with_failures(3600.0, 100, 1000.0, 11 * 3600.0)[0] == float("inf")


def test_a_step_measured_here_is_predicted_from_smaller_ones() -> None:
    """Sampling of `benchmarks/rl_step.py` in docs/lab_log.md, SmolLM2-135M on two cores: 4x8x64 in
    4.55 s with all completions at full length, and in 3.91 s with 1,591 of the 2,048 tokens,
    calibrate the costs; 8x8x128 with 6,681 tokens took 14.92 s.
    """
    full, natural = decode([64] * 32, 256), decode([64] * 8 + [45] * 23 + [44], 256)
    assert (full.rows, natural.rows) == (2048, 1591) and full.steps == natural.steps == 64
    row_s = (4.55 - 3.91) / (2048 - 1591)
    cost = DecodeCost((4.55 - 2048 * row_s) / 64, row_s)
    larger = decode([128] * 40 + [65] * 23 + [66], 256)
    assert (larger.rows, larger.steps) == (6681, 128)
    assert larger.seconds(cost) == pytest.approx(14.92, rel=0.2)
