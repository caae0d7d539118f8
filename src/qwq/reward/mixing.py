"""What a rollout earns: verdicts first, the reward model behind their gate. Every term is logged
apart.

- `accuracy`: 1 where the verdict is correct, else 0. Unfinished, timeout and undecided pay 0.
- `partial`: a share of the tests or rules that passed, where the recipe pays it and the answer is
  not correct.
- `overlong`, `length`: what a recipe says about length (`shaping.py`).
- a term under the name of each reward function of the user's own (`functions.py`).
- `reward_model`: for domains that no rule can judge. The gate is a rule: only a finished response
  with an answer after its thinking is scored; anything else earns what the worst answer would. The
  score goes through a sigmoid, so that it is bounded like the other terms and an extreme score buys
  nothing.

An infrastructure error earns nothing at all: the reward is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qwq.reward.functions import RewardFunction
from qwq.reward.model import Calibration, RewardModel
from qwq.reward.shaping import LengthShaping
from qwq.text.response import parse
from qwq.types import CUSTOM, Outcome, Problem, Response, Rollout, Verdict
from qwq.verify.grade import Grader

MODEL_DOMAINS = ("preference",)


@dataclass(slots=True)
class Scorer:
    """A calibrated reward model with its weight in the sum."""

    model: RewardModel
    calibration: Calibration
    weight: float = 1.0
    debias_length: bool = True

    def scores(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Calibrated scores, about -2 to 2, of whole rollouts (prompt and completion; the last
        segment's).
        """
        last = [r.all_segments[-1] for r in rollouts]
        sequences = [[*s.prompt_ids, *s.completion_ids] for s in last]
        raw = self.model.raw_scores(sequences)
        return [
            self.calibration.apply(x, len(s.completion_ids), debias_length=self.debias_length)
            for x, s in zip(raw, last, strict=True)
        ]


def _by_rule(problem: Problem) -> bool:
    return problem.domain not in (*MODEL_DOMAINS, CUSTOM)


class Rewarder:
    """Grades rollouts in place: fills `verdicts`, `rewards` and `reward`."""

    def __init__(
        self,
        *,
        partial_credit: float = 0.0,
        scorer: Scorer | None = None,
        shaping: LengthShaping | None = None,
        functions: Sequence[RewardFunction] = (),
        workers: int = 2,
    ) -> None:
        self.partial_credit, self.scorer, self.shaping, self.workers = partial_credit, scorer, shaping, workers
        self.functions = list(functions)

    def grader(self) -> Grader:
        """Takes responses one by one, by their position, while others still decode; judges those
        that a rule can judge.
        """
        return Grader(workers=self.workers, judges=_by_rule)

    def finish(self, grader: Grader, rollouts: Sequence[Rollout], *, step: int | None = None) -> None:
        """Fill in what each rollout earned.

        All of them were submitted to `grader`. `step` is named if a user's function fails.
        """
        for i, verdict in sorted(grader.results().items()):
            rollouts[i].verdicts.append(verdict)
            rollouts[i].rewards = self._rule_terms(verdict)
        by_model = sorted(i for i, (problem, _) in grader.submitted.items() if problem.domain in MODEL_DOMAINS)
        if by_model:
            assert self.scorer, "a recipe that samples preference prompts has a reward model (config checks it)"
            scores = self.scorer.scores([rollouts[i] for i in by_model])
            for i, score in zip(by_model, scores, strict=True):
                gate = gate_verdict(grader.submitted[i][1])
                rollouts[i].verdicts.append(gate)
                earned = self.scorer.weight / (1 + math.exp(-score)) if gate.correct else 0.0
                rollouts[i].rewards = {"reward_model": earned}
        self._ask_functions(grader.submitted, rollouts, step)
        for rollout in rollouts:
            failed = rollout.verdicts[-1].outcome is Outcome.INFRA_ERROR
            rollout.reward = None if failed else sum(rollout.rewards.values())
        if self.shaping:
            self.shaping.apply(rollouts)

    def reward(self, problems: Sequence[Problem], responses: Sequence[Response], rollouts: Sequence[Rollout]) -> None:
        """Grade finished rollouts in one go."""
        grader = self.grader()
        for at, (problem, response) in enumerate(zip(problems, responses, strict=True)):
            grader.submit(at, problem, response)
        self.finish(grader, rollouts)

    def _ask_functions(
        self, submitted: Mapping[int, tuple[Problem, Response]], rollouts: Sequence[Rollout], step: int | None
    ) -> None:
        """The user's own terms, for every response that ended with an answer."""
        for at, (problem, response) in submitted.items():
            if problem.domain == CUSTOM:
                rollouts[at].verdicts.append(gate_verdict(response))
        places = [at for at in sorted(submitted) if gate_verdict(submitted[at][1]).correct]
        if not self.functions or not places:
            return
        asked = [(*submitted[at], rollouts[at].all_segments[-1].completion_ids) for at in places]
        for function in self.functions:
            for at, value in zip(places, function.values(asked, step=step), strict=True):
                if value is not None:
                    rollouts[at].rewards[function.name] = value

    def _rule_terms(self, verdict: Verdict) -> dict[str, float]:
        if verdict.outcome is Outcome.INFRA_ERROR:
            return {}
        terms = {"accuracy": 1.0 if verdict.correct else 0.0}
        if self.partial_credit and verdict.total:
            earns = not verdict.correct and verdict.outcome is Outcome.WRONG
            terms["partial"] = self.partial_credit * verdict.share if earns else 0.0
        return terms


def gate_verdict(response: Response) -> Verdict:
    """The rule in front of the reward model: finished, thinking closed, an answer there, no tool
    call.
    """
    if response.failure:
        return Verdict(Outcome.INFRA_ERROR, response.failure, "gate")
    if not response.finished:
        return Verdict(Outcome.UNFINISHED, "the response did not end", "gate")
    parsed = parse(response.text, thinking_open=response.thinking_open)
    if not parsed.final.strip():
        return Verdict(Outcome.NO_ANSWER, "nothing after the thinking", "gate")
    if parsed.tool_calls or parsed.malformed_calls:
        return Verdict(Outcome.WRONG, "a tool call where there is no tool", "gate")
    return Verdict(Outcome.CORRECT, "finished, with an answer", "gate")
