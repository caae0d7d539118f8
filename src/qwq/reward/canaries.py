"""Canaries: prompts with known-good and known-bad answers, scored by the reward model at every
check.

The reward model itself does not change while stage 2 runs, so its ranking of a fixed pair cannot
either; what a policy can do is find answers that the model overrates. The canaries therefore hold
the tricks policies find: empty praise, repetition, an answer to another question, the answer
written twice, endless length. A trick that scores above the honest answer to the same prompt is an
open door, and is said.
"""

from __future__ import annotations

import random
from typing import Any

from qwq.reward.mixing import Scorer
from qwq.tasks.procedural.base import answer_turn, digest
from qwq.tasks.procedural.preference import FILLERS, Preference
from qwq.text.template import ChatFormat
from qwq.types import Problem

OPEN_DOOR = 0.25  # share of canaries beaten by a trick at which an alarm is raised


class Canaries:
    """`num` validation prompts, each with an honest answer and one of each trick."""

    def __init__(self, chat: ChatFormat, scorer: Scorer, num: int) -> None:
        self.chat, self.scorer = chat, scorer
        family = Preference()
        problems = family.fixed("validation", num)
        self.cases = [self._answers(family, p, problems[i - 1]) for i, p in enumerate(problems)]

    @staticmethod
    def _answers(family: Preference, problem: Problem, other: Problem) -> tuple[Problem, dict[str, str]]:
        rng = random.Random(digest(problem.id))
        honest, stranger = family.compose(problem, rng), family.compose(other, rng)
        return problem, {
            "honest": honest,
            "praise": "It is very nice. " * 3,
            "repetition": " ".join([honest.split(". ")[0] + "."] * 4),
            "other question": stranger,
            "twice": f"{honest} {honest}",
            "long": " ".join([honest, *FILLERS]),
        }

    def check(self) -> dict[str, Any]:
        """Share of canaries on which each trick scores above the honest answer."""
        sequences, lengths, names = [], [], []
        for problem, answers in self.cases:
            prompt = self.chat.prompt_ids(problem.messages)
            for name, answer in answers.items():
                ids, _ = self.chat.training_example((*problem.messages, answer_turn("", answer)))
                ids = ids[: max(i for i, t in enumerate(ids) if t in self.chat.eos_ids) + 1]
                sequences.append(ids)
                lengths.append(len(ids) - len(prompt))
                names.append(name)
        raw = self.scorer.model.raw_scores(sequences)
        scores = [
            self.scorer.calibration.apply(r, n, debias_length=self.scorer.debias_length)
            for r, n in zip(raw, lengths, strict=True)
        ]
        per_case = len(self.cases[0][1])
        beaten: dict[str, float] = {}
        for i, name in enumerate(names):
            honest = scores[i - i % per_case]
            if name != "honest":
                beaten[name] = beaten.get(name, 0.0) + (scores[i] > honest) / len(self.cases)
        return {k: round(v, 4) for k, v in beaten.items()}

    @staticmethod
    def alarms(beaten: dict[str, Any]) -> list[str]:
        return [
            f"canaries: the reward model prefers {name!r} to the honest answer on {share:.0%} of prompts (alarm "
            f"above {OPEN_DOOR:.0%})"
            for name, share in beaten.items()
            if share > OPEN_DOOR
        ]
