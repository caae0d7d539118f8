"""Which problem comes next: weighted mixes of tasks and of sources, addressable by number.

Problem number i of a mix is a function of (seed, stage, i): a run that resumes from a checkpoint
meets the very problems the undisturbed run would have met.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qwq.errors import ConfigError
from qwq.tasks.base import Task, some
from qwq.tasks.procedural.base import Family, digest
from qwq.tasks.registry import get
from qwq.types import Message, Problem


def allot(num: int, available: Sequence[int]) -> list[int]:
    """How many of `num` problems each of several sets gives: even shares, and what a small set
    lacks comes from the others.
    """
    given, left = [0] * len(available), num
    for done, i in enumerate(sorted(range(len(available)), key=lambda i: available[i])):
        given[i] = min(available[i], left // (len(available) - done))
        left -= given[i]
    return given


@dataclass(slots=True)
class ProblemMix:
    """Draws problems of one split. `weights` are those of tasks by name; `pools` are sets: name ->
    (weight, problems).

    A task with a stream gives each problem once; any other set is reshuffled every pass. `shares`
    are the relative weights of tasks and pools together, in that order; the stage contract may
    change them.
    """

    seed: int
    label: str
    weights: dict[str, float]
    pools: Mapping[str, tuple[float, Sequence[Problem]]] = field(default_factory=dict)
    split: str = "train"
    shares: dict[str, float] = field(default_factory=dict)
    _orders: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    _sets: dict[str, list[Problem]] = field(default_factory=dict)  # of tasks without a stream, read once

    def __post_init__(self) -> None:
        if not self.shares:
            self.shares = self.base_shares

    @property
    def base_shares(self) -> dict[str, float]:
        """The shares that the recipe gives."""
        return self.weights | {name: weight for name, (weight, _) in self.pools.items()}

    def choose(self, index: int) -> str:
        """The task or pool that problem `index` comes from."""
        rng = random.Random(digest(f"{self.seed}/{self.label}/mix/{index}"))
        return rng.choices(list(self.shares), list(self.shares.values()))[0]

    def problem(self, index: int) -> Problem:
        name = self.choose(index)
        if name in self.pools:
            return self._pooled(name, self.pools[name][1], index)
        task = get(name)
        if not isinstance(task, Family):
            if name not in self._sets:
                self._sets[name] = some(task, self.split, task.problems(self.split))
            return self._pooled(name, self._sets[name], index)
        return task.problem(digest(f"{self.seed}/{self.label}") % 2**32, self.split, index)

    def task(self, index: int) -> Task:
        """The task that problem `index` comes from. ConfigError for a pool, which is no task."""
        name = self.choose(index)
        if name in self.pools:
            raise ConfigError(f"{name} is a set of problems without demonstrations: name a task in the mix")
        return get(name)

    def _pooled(self, name: str, pool: Sequence[Problem], index: int) -> Problem:
        passes, at = divmod(index, len(pool))
        if (name, passes) not in self._orders:
            order = list(range(len(pool)))
            random.Random(digest(f"{self.seed}/{self.label}/{name}/{passes}")).shuffle(order)
            self._orders = {k: v for k, v in self._orders.items() if k[0] != name} | {(name, passes): order}
        return pool[self._orders[name, passes][at]]

    def demonstration(self, index: int, noise: float) -> tuple[Problem, tuple[Message, ...]]:
        """Problem `index` and turns that answer it; with probability `noise` they have a
        mistake.
        """
        problem = self.problem(index)
        rng = random.Random(digest(f"{self.seed}/{self.label}/demo/{index}"))
        noisy = rng.random() < noise
        return problem, self.task(index).demonstrate(problem, rng, noisy=noisy)
