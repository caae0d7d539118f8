"""The stage contract's decisions, by hand."""

import pytest

from qwq.config import Contract
from qwq.train import contract

SAME = {d: [d] for d in ("math", "code", "tools")}


def outcomes(right: int, n: int = 100) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


def check(before: int, now: int, max_drop: float = 0.03) -> contract.Finding:
    (finding,) = contract.check(
        Contract(max_drop=max_drop), ["math"], {"math": outcomes(before)}, {"math": outcomes(now)}
    )
    return finding


def test_no_change_is_ok():
    """The interval is Agresti and Min's: 1.96 / 102."""
    finding = check(80, 80)
    assert (finding.change, finding.state) == (0.0, "ok")
    assert (finding.low, finding.high) == pytest.approx((-0.0192, 0.0192), abs=1e-4)


def test_a_gain_is_ok():
    assert check(50, 90).state == "ok"


def test_a_large_drop_is_a_breach():
    """20 of 100 problems lost: -0.2 with half-width 1.96 * sqrt(0.16 * 100/99 / 100) = 0.0788."""
    finding = check(80, 60)
    assert finding.change == pytest.approx(-0.2)
    assert (finding.low, finding.high) == pytest.approx((-0.2788, -0.1212), abs=1e-4)
    assert finding.state == "breach"


def test_a_drop_within_noise_only_warns():
    """5 of 100 lost, 5.5 against 0.5 of 102: -5/102 +- 0.0461 reaches above the floor of -0.03."""
    finding = check(80, 75)
    assert finding.high == pytest.approx(-0.0029, abs=1e-4)
    assert finding.state == "warning"


def test_a_drop_within_the_tolerance_is_ok():
    assert check(80, 78).state == "ok"
    assert check(80, 60, max_drop=0.25).state == "ok"


def test_noise_that_cancels_is_ok():
    """Ten problems lost and ten others won."""
    before, now = outcomes(50), outcomes(40, 90) + [1.0] * 10
    (finding,) = contract.check(Contract(), ["math"], {"math": before}, {"math": now})
    assert finding.change == 0.0 and finding.state == "ok"


def test_only_the_held_domains_are_checked_and_in_order():
    before = {d: outcomes(90) for d in ("math", "code", "tools")}
    now = {"math": outcomes(90), "code": outcomes(40), "tools": outcomes(0)}
    findings = contract.check(Contract(), ["code", "math"], before, now)
    assert [(f.domain, f.state) for f in findings] == [("code", "breach"), ("math", "ok")]
    interval = pytest.approx([-0.0192, 0.0192], abs=1e-4)
    assert findings[1].to_dict() == {"domain": "math", "change": 0.0, "ci95": interval, "state": "ok"}


def test_reweighted_by_hand():
    """1, 1, 2 with the first grown by 3 is 3, 1, 2, scaled from 6 back to 4."""
    new = contract.reweighted({"math": 1.0, "code": 1.0, "tools": 2.0}, SAME, ["math"], 3.0)
    assert new == pytest.approx({"math": 2.0, "code": 2 / 3, "tools": 4 / 3})
    assert contract.reweighted({"math": 1.0, "code": 3.0}, SAME, [], 2.0) == {"math": 1.0, "code": 3.0}
    # All breached: nothing can grow at another's cost.
    assert contract.reweighted({"math": 1.0, "code": 3.0}, SAME, ["math", "code"], 2.0) == pytest.approx(
        {"math": 1.0, "code": 3.0}
    )


def test_held_keeps_only_the_held_shares():
    shares = {"math": 1.0, "code": 2.0, "tools": 3.0, "gsm8k:g:train": 4.0}
    assert contract.held(shares, {"math": ["math"], "code": ["code"]}) == {
        "math": 1.0,
        "code": 2.0,
        "tools": 0.0,
        "gsm8k:g:train": 0.0,
    }
    replayed = {"math": ["math", "gsm8k:g:train"]}
    assert contract.held(shares, replayed) == {"math": 1.0, "code": 0.0, "tools": 0.0, "gsm8k:g:train": 4.0}


def test_what_replays_a_domain_grows_as_one():
    """The family and the source of math grow by 3: 1, 2, 1 is 3, 2, 3, scaled from 8 back to 4.

    What two breached names share grows once.
    """
    shares = {"math": 1.0, "tools": 2.0, "gsm8k:g:train": 1.0}
    replays = {"math": ["math", "gsm8k:g:train"], "gsm8k": ["gsm8k:g:train"]}
    assert contract.reweighted(shares, replays, ["math"], 3.0) == pytest.approx(
        {"math": 1.5, "tools": 1.0, "gsm8k:g:train": 1.5}
    )
    assert contract.reweighted(shares, replays, ["math", "gsm8k"], 3.0) == contract.reweighted(
        shares, replays, ["math"], 3.0
    )
    # The source alone: 1, 2, 3 scaled from 6 back to 4.
    assert contract.reweighted(shares, replays, ["gsm8k"], 3.0) == pytest.approx(
        {"math": 2 / 3, "tools": 4 / 3, "gsm8k:g:train": 2.0}
    )


@pytest.mark.parametrize(
    ("scores", "accuracies", "alarm"),
    [
        ([0.5, 0.9], [0.5, 0.4], False),  # two checks are too few
        ([0.5, 0.6, 0.65], [0.5, 0.5, 0.5], True),  # 0.15 up, accuracy flat
        ([0.5, 0.6, 0.65], [0.5, 0.3, 0.4], True),  # and falling
        ([0.5, 0.6, 0.65], [0.5, 0.5, 0.6], False),  # accuracy rises too
        ([0.5, 0.55, 0.58], [0.5, 0.5, 0.5], False),  # 0.08 is less than the rise
        ([0.1, 0.5, 0.6, 0.58], [0.5, 0.5, 0.5, 0.5], False),  # only the last two steps count
    ],
)
def test_reward_hacking_alarm(scores, accuracies, alarm):
    assert contract.reward_hacking(scores, accuracies) is alarm


def test_the_rise_can_be_set():
    assert contract.reward_hacking([0.0, 0.0, 0.05], [0.5, 0.5, 0.5], rise=0.01) is True


@pytest.mark.parametrize(
    ("problems", "max_drop", "can"),
    [(0, 0.03, False), (1, 0.03, False), (2, 0.03, False), (4, 0.03, True), (4, 0.5, False), (20, 0.5, True)],
)
def test_a_watch_that_can_never_find_a_breach(problems, max_drop, can):
    # All of 4 lost: Tango's interval ends at -0.168, of 2 at +0.193, of 20 at -0.760.
    assert contract.can_breach(Contract(max_drop=max_drop), problems) is can
