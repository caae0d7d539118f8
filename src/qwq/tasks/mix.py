"""Which problem comes next: weighted mixes of procedural families and real sets, addressable by number.

Problem number i of a mix is a function of (seed, stage, i): a run that goes on from a checkpoint meets
the very problems the undisturbed run would have met.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qwq.tasks.procedural import family
from qwq.tasks.procedural.base import Family, digest
from qwq.types import Problem


def allot(num: int, available: Sequence[int]) -> list[int]:
    """How many of `num` problems each of several sets gives: even shares, and what a small set lacks comes from the others."""
    given, left = [0] * len(available), num
    for done, i in enumerate(sorted(range(len(available)), key=lambda i: available[i])):
        given[i] = min(available[i], left // (len(available) - done))
        left -= given[i]
    return given


@dataclass(slots=True)
class ProblemMix:
    """Draws problems of one split. `pools` are real sets: name -> (weight, problems), each reshuffled every pass.

    `shares` are the relative weights of families and pools together, in that order; the stage contract may change them.
    """

    seed: int
    label: str
    weights: dict[str, float]
    pools: Mapping[str, tuple[float, Sequence[Problem]]] = field(default_factory=dict)
    split: str = "train"
    shares: dict[str, float] = field(default_factory=dict)
    _families: dict[str, Family] = field(default_factory=dict)
    _orders: dict[tuple[str, int], list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.shares:
            self.shares = self.base_shares

    @property
    def base_shares(self) -> dict[str, float]:
        """The shares that the recipe gives."""
        return self.weights | {name: weight for name, (weight, _) in self.pools.items()}

    def choose(self, index: int) -> str:
        """The family or pool that problem `index` comes from."""
        rng = random.Random(digest(f"{self.seed}/{self.label}/mix/{index}"))
        return rng.choices(list(self.shares), list(self.shares.values()))[0]

    def problem(self, index: int) -> Problem:
        name = self.choose(index)
        if name in self.pools:
            return self._pooled(name, index)
        return self.family(name).problem(digest(f"{self.seed}/{self.label}") % 2**32, self.split, index)

    def family(self, domain: str) -> Family:
        if domain not in self._families:
            self._families[domain] = family(domain)
        return self._families[domain]

    def _pooled(self, name: str, index: int) -> Problem:
        pool = self.pools[name][1]
        passes, at = divmod(index, len(pool))
        if (name, passes) not in self._orders:
            order = list(range(len(pool)))
            random.Random(digest(f"{self.seed}/{self.label}/{name}/{passes}")).shuffle(order)
            self._orders = {k: v for k, v in self._orders.items() if k[0] != name} | {(name, passes): order}
        return pool[self._orders[name, passes][at]]

    def demonstration(self, index: int, noise: float) -> tuple[Problem, tuple]:
        """A procedural problem and turns that answer it; with probability `noise` they have a mistake."""
        problem = self.problem(index)
        rng = random.Random(digest(f"{self.seed}/{self.label}/demo/{index}"))
        noisy = rng.random() < noise
        return problem, self.family(problem.domain).demonstrate(problem, rng, noisy=noisy)
