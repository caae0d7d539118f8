"""Preference: open questions whose answers people like or not by a rule that the prompt never
states.

The hidden rule, the family's own ground truth: say what kind of thing it is and say it rightly,
mention its color and its place, in at most two sentences, without hedging ("I think"). Pairs for
the reward model are made here by breaking one part of the rule. Canonical form: color, thing and
place.
"""

from __future__ import annotations

import random
from typing import Any

from qwq.tasks.procedural.base import Family, answer_turn
from qwq.tasks.procedural.instructions import CATEGORIES
from qwq.types import Message, Problem

KINDS = {"animals": "animal", "fruits": "fruit", "tools": "tool", "foods": "food", "drinks": "drink"}
COLORS = (*CATEGORIES["colors"], "brown", "silver", "orange", "purple")
PLACES = (
    "barn", "park", "house", "shop", "garden", "yard", "tent", "boat", "school", "castle",
    "cave", "tower", "hall", "mill", "port", "camp", "farm", "cabin", "hotel", "museum",
)  # fmt: skip
HEDGES = ("I think", "Maybe", "I guess")
FILLERS = ("Many people like it.", "It is very nice.", "There is much to say.", "It is well known.")


class Preference(Family):
    name = domain = "preference"

    def draw(self, rng: random.Random) -> Problem:
        category = rng.choice(list(KINDS))
        thing, color, place = rng.choice(CATEGORIES[category]), rng.choice(COLORS), rng.choice(PLACES)
        kind = KINDS[category]
        text = f"Tell me about the {color} {thing} in the {place}."
        rules: list[dict[str, Any]] = [
            {"id": "contains", "text": thing},
            {"id": "contains", "text": color},
            {"id": "contains", "text": place},
            {"id": "contains", "text": kind},
            *({"id": "avoids", "text": other} for other in KINDS.values() if other not in (kind, thing)),
            {"id": "num_sentences", "n": 2, "relation": "at_most"},
            *({"id": "avoids", "text": hedge} for hedge in HEDGES),
        ]
        truth = {"rules": rules, "thing": thing, "color": color, "place": place, "kind": kind}
        canonical = f"preference/{color}/{thing}/{place}"
        return Problem(canonical, "preference", (Message("user", text),), truth, canonical)

    def compose(self, problem: Problem, rng: random.Random, flaws: frozenset[str] = frozenset()) -> str:
        """An answer with the given flaws: hedge, long, thing, kind, color, place."""
        t = problem.truth
        others = [w for category in KINDS for w in CATEGORIES[category] if w != t["thing"]]
        thing = rng.choice(others) if "thing" in flaws else t["thing"]
        color = rng.choice([c for c in COLORS if c != t["color"]]) if "color" in flaws else t["color"]
        place = rng.choice([p for p in PLACES if p != t["place"]]) if "place" in flaws else t["place"]
        kind = rng.choice([k for k in KINDS.values() if k != t["kind"]]) if "kind" in flaws else t["kind"]
        article = "an" if kind[0] in "aeiou" else "a"
        first = f"the {thing} is {article} {kind}."
        first = f"{rng.choice(HEDGES)} {first}" if "hedge" in flaws else first[0].upper() + first[1:]
        sentences = [first, f"It is {color} and lives in the {place}."]
        if "long" in flaws:
            sentences += rng.sample(FILLERS, rng.randint(1, 2))
        return " ".join(sentences)

    def demonstrate(self, problem: Problem, rng: random.Random, *, noisy: bool = False) -> tuple[Message, ...]:
        """People write all kinds of answers: style varies freely here, clean or not; facts are
        wrong only when noisy.
        """
        flaws = {f for f in ("hedge", "long") if rng.random() < 0.4}
        if noisy:
            flaws.add(rng.choice(("kind", "color", "place")))
        t = problem.truth
        return (answer_turn(f"{t['color']} {t['thing']}, {t['place']}", self.compose(problem, rng, frozenset(flaws))),)

    def pair(self, problem: Problem, rng: random.Random) -> tuple[Message, Message]:
        """A chosen and a rejected answer to the same prompt; the rejected one has one to three
        flaws, or says nothing.
        """
        flaws = frozenset(rng.sample(("hedge", "long", "thing", "kind", "color", "place"), rng.choice((1, 1, 2, 3))))
        t = problem.truth
        thinking = f"{t['color']} {t['thing']}, {t['place']}"
        chosen, rejected = self.compose(problem, rng), self.compose(problem, rng, flaws)
        if rng.random() < 0.1:
            rejected = " ".join(rng.sample(FILLERS, rng.randint(1, 3)))
        return answer_turn(thinking, chosen), answer_turn(thinking, rejected)
