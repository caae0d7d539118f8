"""Alarms come when a number leaves its range for some steps, say what helps, and are the same after
going on.
"""

import json

import pytest

from qwq.train.alarms import WINDOW, Watch, verdict_alarms


def run(watch: Watch, key: str, values: list[float]) -> list[list[str]]:
    return [watch.alarms({key: v}) for v in values]


@pytest.mark.parametrize(
    "key, calm, wild, words",
    [
        ("entropy", 1.0, 0.05, "lower optim.lr"),
        ("entropy", 0.5, 5.0, "dissolves"),
        ("clip_fraction", 0.1, 0.6, "updates"),
        ("kl", 0.01, 0.9, "raise kl"),
        ("kl_to_start", 0.01, 0.9, "set kl"),
        ("truncated", 0.1, 0.9, "max_new_tokens"),
        ("length", 100.0, 600.0, "length_weight"),
        ("length", 100.0, 5.0, "short cut"),
        ("zero_signal", 0.4, 1.0, "refill"),
        ("mismatch_mean", 1e-6, 0.5, "dtype"),
    ],
)
def test_each_alarm_sounds_and_names_its_repair(key, calm, wild, words):
    watch = Watch({})
    assert not any(run(watch, key, [calm] * 10))
    found = run(watch, key, [wild] * WINDOW)[-1]
    assert len(found) == 1 and words in found[0]


def test_one_odd_step_is_no_alarm():
    watch = Watch({})
    assert not any(run(watch, "entropy", [1.0] * 8 + [0.1] + [1.0] * 8))


def test_nothing_sounds_before_there_is_a_window():
    assert not any(run(Watch({}), "zero_signal", [1.0] * (WINDOW - 1)))


def test_history_travels_as_json():
    values = [1.0] * 7 + [0.1] * 6
    whole = run(Watch({}), "entropy", values)
    first = Watch({})
    begun = run(first, "entropy", values[:9])
    again = Watch(json.loads(json.dumps(first.history)))
    assert begun + run(again, "entropy", values[9:]) == whole and any(whole)


def test_verdicts_that_are_no_answer():
    assert verdict_alarms({"correct": 97, "timeout": 2, "wrong": 1}) == []
    (text,) = verdict_alarms({"correct": 96, "timeout": 4})
    assert "4.0% of verdicts are timeout" in text
    (text,) = verdict_alarms({"correct": 99, "infra_error": 1})
    assert "1 of 100" in text and "doctor" in text


def outcomes(undecided: int) -> dict[str, dict[str, int]]:
    return {"outcomes": {"wrong": 32 - undecided, "undecided": undecided}}


def test_one_stray_verdict_of_a_small_step_is_no_alarm():
    """1 of 32 is 3.1%, and may happen to anybody; 2 in one step, or 1 in each, does not."""
    assert verdict_alarms({"wrong": 31, "undecided": 1}) == []
    watch = Watch({})
    strays = [watch.alarms(outcomes(n)) for n in (1, 0, 0, 1, 0, 0, 0, 0)]
    assert strays == [[]] * 8
    (text,) = watch.alarms(outcomes(2))
    assert text.startswith("6.2% of verdicts are undecided")
    assert watch.alarms(outcomes(0)) == []


def test_a_verdict_of_every_step_is_an_alarm_and_survives_a_resume():
    watch = Watch({})
    assert watch.alarms(outcomes(1)) == []
    again = Watch(json.loads(json.dumps(watch.history)))
    (text,) = again.alarms(outcomes(1))
    assert text.startswith("3.1% of verdicts in 2 steps are undecided")  # 2 of 64
    for _ in range(2 * WINDOW):
        (text,) = again.alarms(outcomes(1))
    assert text.startswith(f"3.1% of verdicts in {WINDOW} steps are undecided")


def test_a_skipped_step_is_said():
    (text,) = Watch({}).alarms({"skipped": 1.0, "grad_norm": float("nan")})
    assert "skipped" in text


def test_a_step_without_a_number_repeats_no_alarm_about_it():
    """A step that trained on nothing has no clip fraction, and one between two looks no KL."""
    watch = Watch({})
    assert run(watch, "clip_fraction", [0.6] * WINDOW)[-1]
    assert watch.alarms({"zero_signal": 0.1}) == [] == watch.alarms({"clip_fraction": float("nan")})
    assert watch.alarms({"clip_fraction": 0.6}) == ["60% of tokens are clipped: lower optim.lr or updates"]
