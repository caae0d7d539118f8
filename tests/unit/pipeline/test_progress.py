"""Progress lines: what they say, how often, and that no alarm is lost."""

from __future__ import annotations

import io

import pytest

from qwq.pipeline.progress import LiveProgress
from qwq.report.wording import duration, figures


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plain(expected: dict | None = None) -> tuple[LiveProgress, Clock, io.StringIO]:
    clock, out = Clock(), io.StringIO()
    return LiveProgress(expected_s=expected, out=out, live=False, clock=clock), clock, out


RL = {"reward": 0.614, "pass_rate": 0.58, "length": 33.2, "seconds": 1.3, "tokens": 2600}


def steps(progress: LiveProgress, clock: Clock, stage: str, first: int, last: int, seconds: float, **more) -> None:
    for step in range(first, last + 1):
        clock.now += seconds
        progress.update(stage, step, RL | {"seconds": seconds} | more)


def test_a_line_has_step_figures_speed_and_time_left():
    progress, clock, out = plain()
    progress.start("rl1", "rl1", 60, 0)
    steps(progress, clock, "rl1", 1, 30, 1.3)
    assert out.getvalue().splitlines()[0] == "rl1: 60 steps"
    assert (
        out.getvalue().splitlines()[-1] == "rl1 30/60 reward 0.61 pass 0.58 len 33 1.3 s/step 2,000 tokens/s, 39 s left"
    )


def test_one_step_is_a_step():
    progress, _, out = plain()
    progress.start("rl", "rl1", 1, 0)
    assert out.getvalue() == "rl: rl1, 1 step\n"


def test_lines_come_at_a_modest_rate_and_the_last_step_is_always_told():
    progress, clock, out = plain()
    progress.start("sft", "sft", 1000, 0)
    steps(progress, clock, "sft", 1, 1000, 0.01)  # ten seconds in all: a line no sooner than every two seconds
    lines = out.getvalue().splitlines()[1:]
    assert 4 <= len(lines) <= 6 and lines[-1].startswith("sft 1,000/1,000")
    progress, clock, out = plain()
    progress.start("rl1", "rl1", 20, 0)
    steps(progress, clock, "rl1", 1, 20, 60.0)  # slow steps: every one is told
    assert len(out.getvalue().splitlines()) == 21


def test_time_left_follows_the_steps_taken_since_the_run_went_on():
    progress, clock, out = plain()
    progress.start("rl1", "rl1", 100, 50)
    assert "50 of them done" in out.getvalue()
    steps(progress, clock, "rl1", 51, 60, 3.0)
    assert out.getvalue().splitlines()[-1].endswith("2 min 00 s left")  # 40 steps of 3 s


def test_time_left_for_the_run_where_another_seed_told_how_long_stages_take():
    progress, clock, out = plain({"sft": 20.0, "rl1": 300.0, "rl2": 100.0})
    progress.start("sft", "sft", 10, 0)
    progress.start("rl1", "rl1", 100, 0)
    steps(progress, clock, "rl1", 1, 10, 3.0)
    # 90 steps of 3 s, then rl2; sft is over
    assert out.getvalue().splitlines()[-1].endswith("4 min 30 s left (6 min 10 s for the run)")


def test_alarms_are_shown_but_not_at_every_step():
    progress, clock, out = plain()
    progress.start("rl1", "rl1", 1000, 0)
    for step in range(1, 101):
        clock.now += 1.0
        progress.update("rl1", step, RL | {"alarms": [f"{step / 10:.1f}% of verdicts are timeout"]})
    shown = [line for line in out.getvalue().splitlines() if line.startswith("ALARM")]
    assert shown == [
        "ALARM rl1, step 1: 0.1% of verdicts are timeout",
        "ALARM rl1, step 61: 6.1% of verdicts are timeout",
    ]
    progress.update("rl1", 101, RL | {"alarms": ["contract: math fell"]})  # another kind comes through at once
    assert "ALARM rl1, step 101: contract: math fell" in out.getvalue()


def test_an_alarm_that_the_stage_noted_itself_is_not_shown_twice():
    progress, _, out = plain()
    progress.start("rl2", "rl2", 10, 0)
    progress.note("rl2, step 3: contract: math fell")
    progress.update("rl2", 3, RL | {"alarms": ["contract: math fell"]})
    assert out.getvalue().count("contract: math fell") == 1


def test_the_live_display_shows_stage_figures_and_notes_as_they_are():
    out = io.StringIO()
    with LiveProgress(out=out, live=True) as progress:
        progress.start("rl1", "rl1", 10, 0)
        progress.update("rl1", 5, RL | {"alarms": ["[bold]3% of verdicts[/bold] are timeout"]})
        progress.note("rl1: [evaluating] 5 problems")
        progress.start("rl2", "rl2", 4, 0)
    text = out.getvalue()
    for part in (
        "rl1",
        "5/10",
        "reward 0.61",
        "[bold]3% of verdicts[/bold]",
        "rl1: [evaluating] 5 problems",
        "rl2",
        "0/4",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (59.7, "1 min 00 s"), (125, "2 min 05 s"), (11400, "3 h 10 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_supervised_figures_have_loss_and_speed():
    assert figures({"loss": 0.8421, "tokens": 980, "seconds": 0.1}, 0.1) == "loss 0.842 9,800 tokens/s"
    assert figures({"loss": 0.5, "pair_accuracy": 0.91}, 0.7) == "loss 0.500 pairs right 0.91 0.7 s/step"
