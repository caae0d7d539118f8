"""Rewards: calibration that takes out what the labels do not bear out, the gate, the terms, the
groups.
"""

import math

import pytest
import torch

from qwq.model.config import ModelConfig, preset
from qwq.model.transformer import Transformer
from qwq.reward import mixing
from qwq.reward.mixing import Rewarder, Scorer, gate_verdict
from qwq.reward.model import Calibration, RewardModel, calibrate
from qwq.train.rl import form_groups
from qwq.types import Message, Outcome, Problem, Response, Rollout, StopReason, ToolCall, Verdict

# --- calibration ----------------------------------------------------------------------------------


def pairs(bias: float, taste: float = 0.0, n: int = 4000):
    """Labelled pairs: raters prefer quality, and length by `taste`; the model scores both and
    length by `bias` besides.
    """
    g = torch.Generator().manual_seed(5)
    quality = torch.randn(n, 2, generator=g, dtype=torch.float64)
    length = torch.randint(5, 60, (n, 2), generator=g).double()
    worth = quality + taste * length
    first_wins = torch.rand(n, generator=g, dtype=torch.float64) < torch.sigmoid(2 * (worth[:, 0] - worth[:, 1]))
    raw = worth + bias * length
    order = torch.where(first_wins[:, None], torch.tensor([0, 1]), torch.tensor([1, 0]))
    raw, length = raw.gather(1, order), length.gather(1, order)
    chosen, rejected = ([(float(r), int(n)) for r, n in zip(raw[:, i], length[:, i], strict=True)] for i in (0, 1))
    return chosen, rejected


def test_an_unbiased_model_is_left_alone():
    assert abs(calibrate(*pairs(bias=0.0)).length_weight) < 0.004


@pytest.mark.parametrize("bias", [0.05, -0.03])
def test_a_model_that_misrates_length_is_corrected(bias):
    calibration = calibrate(*pairs(bias=bias))
    assert calibration.length_weight == pytest.approx(-bias, abs=0.005)
    # Two answers of equal worth, 40 tokens apart, score alike again.
    short, long = calibration.apply(1.0 + 10 * bias, 10), calibration.apply(1.0 + 50 * bias, 50)
    uncorrected = 40 * abs(bias) / calibration.deviation
    assert abs(long - short) < 0.15 * uncorrected
    raw = [calibration.apply(1.0 + n * bias, n, debias_length=False) for n in (10, 50)]
    assert abs(raw[1] - raw[0]) == pytest.approx(uncorrected)


def test_a_true_taste_for_short_answers_stays():
    """The raters themselves dislike length, and the model says so: nothing to correct."""
    assert abs(calibrate(*pairs(bias=0.0, taste=-0.05)).length_weight) < 0.005


def test_calibrated_scores_have_mean_zero_and_unit_deviation():
    chosen, rejected = pairs(bias=0.05, n=500)
    calibration = calibrate(chosen, rejected)
    scores = torch.tensor([calibration.apply(raw, n) for raw, n in (*chosen, *rejected)], dtype=torch.float64)
    assert abs(float(scores.mean())) < 1e-9 and float(scores.std()) == pytest.approx(1.0)


def test_a_model_worse_than_chance_gets_no_length_correction():
    chosen, rejected = pairs(bias=0.0, n=500)
    calibration = calibrate([(-r, n) for r, n in chosen], [(-r, n) for r, n in rejected])
    assert calibration.length_weight == 0.0


def test_pairs_that_are_separated_perfectly_still_calibrate():
    calibration = calibrate([(3.0, 10), (2.0, 12), (4.0, 11)], [(0.0, 12), (-1.0, 10), (0.5, 11)])
    assert all(math.isfinite(v) for v in calibration.to_dict().values())
    assert calibration.apply(3.0, 10) > calibration.apply(0.0, 12)


def test_equal_lengths_leave_nothing_to_correct():
    calibration = calibrate([(1.0, 10), (2.0, 10)], [(0.0, 10), (3.0, 10)])
    assert calibration.length_weight == pytest.approx(0.0)


def test_apply_by_hand():
    """(5 - 0.1 * (30 - 20) - 2) / 4."""
    assert Calibration(2.0, 4.0, -0.1, 20.0).apply(5.0, 30) == pytest.approx(0.5)
    assert Calibration(2.0, 4.0, -0.1, 20.0).apply(5.0, 30, debias_length=False) == pytest.approx(0.75)


def test_reward_model_scores_each_sequence_at_its_last_token():
    backbone = Transformer(ModelConfig("qwen2", 30, 16, 24, 1, 2, 1, 8)).init_weights(torch.Generator().manual_seed(0))
    score = torch.randn(16, generator=torch.Generator().manual_seed(1))
    model = RewardModel(backbone, score)
    sequences = [[1, 2, 3, 4], [5], [6, 7, 8, 9, 10, 11], [1, 2]]
    alone = [model.raw_scores([s])[0] for s in sequences]
    assert model.raw_scores(sequences, max_tokens=5) == pytest.approx(alone, abs=1e-6)
    changed = model.raw_scores([[1, 2, 3, 5]])[0]
    assert abs(changed - alone[0]) > 1e-4
    assert RewardModel(backbone).raw_scores(sequences) == [0.0] * 4


def test_scorer_counts_completion_tokens_only():
    class Raw:
        def raw_scores(self, sequences):
            return [float(sum(s)) for s in sequences]

    r = rollout(prompt_ids=[1, 1], completion_ids=[1, 1, 1])
    calibration = Calibration(mean=1.0, deviation=2.0, length_weight=0.5, mean_length=1.0)
    assert Scorer(Raw(), calibration).scores([r]) == [(5 + 0.5 * (3 - 1) - 1) / 2]
    assert Scorer(Raw(), calibration, debias_length=False).scores([r]) == [(5 - 1) / 2]


# --- the gate -------------------------------------------------------------------------------------

CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "1+1"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (Response("<think>hm</think>Tea."), Outcome.CORRECT),
        (Response("Tea."), Outcome.CORRECT),
        (Response("hm</think>Tea.", thinking_open=True), Outcome.CORRECT),
        (Response("<think>hm</think>Tea.", finished=False), Outcome.UNFINISHED),
        (Response("<think>hm</think>"), Outcome.NO_ANSWER),
        (Response("<think>hm</think>  \n"), Outcome.NO_ANSWER),
        (Response("<think>only thinking"), Outcome.NO_ANSWER),
        (Response("only thinking", thinking_open=True), Outcome.NO_ANSWER),
        (Response(""), Outcome.NO_ANSWER),
        (Response(f"<think>hm</think>Tea.\n{CALL}"), Outcome.WRONG),
    ],
)
def test_gate(response, outcome):
    assert gate_verdict(response).outcome is outcome


# --- what a rollout earns -------------------------------------------------------------------------


def rollout(group: int = 0, reward: float | None = None, prompt_ids=(1,), completion_ids=(2, 3)) -> Rollout:
    n = len(completion_ids)
    return Rollout(
        "p",
        "math",
        group,
        list(prompt_ids),
        list(completion_ids),
        [1] * n,
        [0.0] * n,
        [0] * n,
        StopReason.END,
        reward=reward,
    )


def problem(domain: str = "math") -> Problem:
    return Problem("p", domain, (Message("user", "?"),), {}, "c")


def verdict(outcome: Outcome, passed: int | None = None, total: int | None = None) -> Verdict:
    return Verdict(outcome, "because", "test", passed, total)


class FixedScorer:
    def __init__(self, scores: list[float], weight: float = 1.0) -> None:
        self.fixed, self.weight, self.seen = scores, weight, []

    def scores(self, rollouts):
        self.seen.append(len(rollouts))
        return self.fixed


class FixedGrader:
    """Verdicts by position, whatever comes; remembers what it was given."""

    def __init__(self, verdicts: list[Verdict]) -> None:
        self.fixed, self.graded, self.submitted = verdicts, [], {}

    def __call__(self, workers: int, judges) -> "FixedGrader":
        self.judges = judges
        return self

    def submit(self, at, problem, response) -> None:
        self.submitted[at] = (problem, response)
        if self.judges(problem):
            self.graded.append((at, problem))

    def results(self) -> dict[int, Verdict]:
        return {at: verdict for (at, _), verdict in zip(self.graded, self.fixed, strict=True)}


def reward(monkeypatch, verdicts: list[Verdict], **options) -> list[Rollout]:
    monkeypatch.setattr(mixing, "Grader", FixedGrader(verdicts))
    rollouts = [rollout() for _ in verdicts]
    Rewarder(**options).reward([problem()] * len(verdicts), [Response("x")] * len(verdicts), rollouts)
    return rollouts


@pytest.mark.parametrize("outcome", [o for o in Outcome if o not in (Outcome.CORRECT, Outcome.INFRA_ERROR)])
def test_only_correct_pays(monkeypatch, outcome):
    right, other = reward(monkeypatch, [verdict(Outcome.CORRECT), verdict(outcome)])
    assert (right.reward, right.rewards) == (1.0, {"accuracy": 1.0})
    assert (other.reward, other.rewards) == (0.0, {"accuracy": 0.0})
    assert other.verdicts == [verdict(outcome)]


def test_an_infrastructure_error_is_no_reward(monkeypatch):
    (r,) = reward(monkeypatch, [verdict(Outcome.INFRA_ERROR)], partial_credit=0.5)
    assert r.reward is None and r.verdicts[-1].outcome is Outcome.INFRA_ERROR


def test_partial_credit_is_a_term_of_its_own_and_only_for_wrong_answers(monkeypatch):
    cases = [
        (verdict(Outcome.WRONG, 3, 4), 0.3),
        (verdict(Outcome.WRONG, 0, 4), 0.0),
        (verdict(Outcome.CORRECT, 4, 4), 1.0),
        (verdict(Outcome.UNFINISHED, 3, 4), 0.0),
        (verdict(Outcome.TIMEOUT, 3, 4), 0.0),
        (verdict(Outcome.WRONG), 0.0),
    ]
    rollouts = reward(monkeypatch, [v for v, _ in cases], partial_credit=0.4)
    assert [r.reward for r in rollouts] == pytest.approx([pay for _, pay in cases])
    assert rollouts[0].rewards == pytest.approx({"accuracy": 0.0, "partial": 0.3})
    assert rollouts[2].rewards == {"accuracy": 1.0, "partial": 0.0}
    assert rollouts[5].rewards == {"accuracy": 0.0}


def test_preference_goes_to_the_reward_model_behind_its_gate(monkeypatch):
    grader = FixedGrader([verdict(Outcome.CORRECT)])
    monkeypatch.setattr(mixing, "Grader", grader)
    problems = [problem("preference"), problem("math"), problem("preference"), problem("preference")]
    responses = [Response("Tea."), Response("4"), Response("Tea.", finished=False), Response("Milk.")]
    rollouts = [rollout() for _ in problems]
    scorer = FixedScorer([0.0, 50.0, math.log(3)], weight=0.8)
    Rewarder(scorer=scorer).reward(problems, responses, rollouts)
    assert [p.domain for _, p in grader.graded] == ["math"] and scorer.seen == [3]
    # sigmoid 1/2 and 3/4, times the weight; what does not end earns nothing, however well it
    # scores.
    assert [r.reward for r in rollouts] == pytest.approx([0.4, 1.0, 0.0, 0.6])
    assert rollouts[0].rewards == {"reward_model": 0.4} and rollouts[1].rewards == {"accuracy": 1.0}
    assert rollouts[2].verdicts[-1].outcome is Outcome.UNFINISHED


def test_real_verdicts_by_rule():
    """Through the real verifiers: a right answer that ends, one that does not, and a wrong call."""
    math_problem = Problem("m", "math", (Message("user", "?"),), {"gold": "42"}, "c")
    responses = [Response("so \\boxed{42}"), Response("so \\boxed{42}", finished=False), Response("so \\boxed{41}")]
    rollouts = [rollout() for _ in responses]
    Rewarder().reward([math_problem] * 3, responses, rollouts)
    assert [r.reward for r in rollouts] == [1.0, 0.0, 0.0]
    assert rollouts[1].verdicts[-1].outcome is Outcome.UNFINISHED


def test_a_call_in_an_answer_to_be_scored_is_gated_with_its_reason():
    gate = gate_verdict(Response(f"Tea. {CALL}", calls=(ToolCall("calculator", {}),)))
    assert not gate.correct and "tool call" in gate.reason


# --- groups ---------------------------------------------------------------------------------------


def test_form_groups_by_hand():
    rewards = [(0, 1.0), (1, 0.0), (0, 0.0), (0, 0.0), (1, 0.0), (0, 1.0)]
    groups = form_groups([rollout(g, r) for g, r in rewards], scale=False)
    assert [g.advantages for g in groups] == [[0.5, -0.5, -0.5, 0.5], [0.0, 0.0]]
    assert [g.has_signal for g in groups] == [True, False]
    assert [r.reward for r in groups[0].rollouts] == [1.0, 0.0, 0.0, 1.0]


def test_rollouts_without_a_reward_leave_baseline_and_group():
    """1, 0 and two infrastructure errors: the mean is 1/2, not 1/4."""
    (group,) = form_groups([rollout(3, r) for r in (1.0, None, 0.0, None)], scale=False)
    assert group.advantages == [0.5, -0.5] and len(group.rollouts) == 2
    assert form_groups([rollout(0, None), rollout(0, None)], scale=False) == []


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3])
def test_equal_rewards_give_exactly_zero(value, scale):
    """Also where the mean of equal numbers is not that number after rounding."""
    for n in (1, 2, 3, 7):
        (group,) = form_groups([rollout(0, value) for _ in range(n)], scale=scale)
        assert group.advantages == [0.0] * n and not group.has_signal


def test_scaled_advantages_have_unit_deviation():
    (group,) = form_groups([rollout(0, r) for r in (1.0, 0.0, 0.0, 0.0)], scale=True)
    deviation = math.sqrt(0.25 * 0.75)
    assert group.advantages == pytest.approx([0.75 / deviation, *[-0.25 / deviation] * 3], rel=1e-4)


def test_scores_of_a_16_bit_model_are_finer_than_16_bits() -> None:
    """Two bfloat16 numbers of a hundred are a half apart at least: many pairs would tie."""
    torch.manual_seed(0)
    model = RewardModel(
        Transformer(preset("tiny", vocab_size=300)).init_weights(torch.Generator().manual_seed(0)).bfloat16()
    )
    model.score.weight.data.normal_(0, 50)
    scores = model.raw_scores([[i, i + 1, 7] for i in range(1, 41)])
    assert model([[1, 2, 3]]).dtype == torch.float32
    assert len(set(scores)) == 40 and len(set(torch.tensor(scores).bfloat16().tolist())) < 40
