"""What a procedural family is, and how its problems are divided into splits.

A problem belongs to a split by a hash of its canonical form, so train, validation and test are
disjoint by construction, in every stage, for every seed: no list of test problems has to be kept
away from anything. Problem number i of a stream is a function of (seed, family, split, i) alone;
that is what lets a killed run resume from the middle of its data.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from qwq.data.examples import FileUse
from qwq.errors import ConfigError
from qwq.tasks.base import Protocol, Task
from qwq.tasks.downloads import DataFiles
from qwq.text.response import with_thinking
from qwq.types import Message, Problem

# Shares of the canonical forms, in percent; the rest is train.
TEST_SHARE, VALIDATION_SHARE = 8, 5
DEFAULT_NUM = 500  # problems of a family's fixed sets, which are endless


def digest(text: str) -> int:
    """A 64-bit number that is the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def split_of(canonical: str) -> str:
    """The split that owns a canonical form."""
    bucket = digest(f"split/{canonical}") % 100
    if bucket < TEST_SHARE:
        return "test"
    return "validation" if bucket < TEST_SHARE + VALIDATION_SHARE else "train"


class Family(Task, ABC):
    """Endless problems of one domain, each with a demonstration of how to solve it; the domain's
    verifier judges them.
    """

    endless = True
    # As a run's own evaluations: these problems are made for small models.
    protocol = Protocol(samples=1, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=512)
    files_task: ClassVar[str] = ""  # the task that reads problems of the domain from files

    @abstractmethod
    def draw(self, rng: random.Random) -> Problem:
        """One problem, of any split."""

    @abstractmethod
    def demonstrate(self, problem: Problem, rng: random.Random, *, noisy: bool = False) -> tuple[Message, ...]:
        """The turns that answer `problem`, thinking included.

        A noisy demonstration has one mistake of the kind people make (a slip in a step, a forgotten
        rule, an answer without its box), as raw text has; pretraining reads some, SFT none.
        """

    def belongs(self, problem: Problem, split: str) -> bool:
        """Whether a drawn problem may be in `split`.

        Families whose problems have parts look at those too.
        """
        return split_of(problem.canonical) == split

    def problem(self, seed: int, split: str, index: int) -> Problem:
        """Problem `index` of the endless stream of `split`."""
        rng = random.Random(digest(f"{seed}/{self.domain}/{split}/{index}"))
        for _ in range(10_000):
            drawn = self.draw(rng)
            if self.belongs(drawn, split):
                return drawn
        raise AssertionError(f"{self.domain}: 10,000 draws and none in split {split}")

    def problems(
        self, split: str, num: int | None = None, *, data: DataFiles | None = None, use: FileUse | None = None
    ) -> list[Problem]:
        """The fixed set of a split, 500 problems by default."""
        if data is not None and data.given:
            raise ConfigError(f"task {self.name} makes its own problems and reads no file: leave {data.place} out")
        return self.fixed(split, num or DEFAULT_NUM)

    def fixed(self, split: str, num: int) -> list[Problem]:
        """The first `num` problems of the fixed, duplicate-free validation or test set.

        They do not depend on a run's seed. Raises ConfigError when the family has fewer distinct
        ones.
        """
        seen: set[str] = set()
        out: list[Problem] = []
        for index in range(60 * num + 1000):
            if len(out) == num:
                return out
            drawn = self.problem(-1, split, index)
            if drawn.id not in seen:
                seen.add(drawn.id)
                out.append(drawn)
        raise ConfigError(
            f"{self.domain} has only {len(out)} distinct {split} problems, {num} asked for: lower the number"
        )

    def stream(self, seed: int, split: str = "train", start: int = 0) -> Iterator[Problem]:
        index = start
        while True:
            yield self.problem(seed, split, index)
            index += 1


def answer_turn(thinking: str, answer: str) -> Message:
    """An assistant turn as the tiny template continues it: the template itself has opened
    `<think>`.
    """
    return Message("assistant", with_thinking(thinking, answer))
