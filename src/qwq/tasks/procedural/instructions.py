"""Instruction following: name some things and keep to rules of format, length and wording.

The rules are in the prompt and are checked by rules (`verify.instructions`); there is no single
right answer. Canonical form: category, number, and every rule with its parameters.
"""

from __future__ import annotations

import random
from typing import Any

from qwq.tasks.procedural.base import Family, answer_turn
from qwq.types import Message, Problem

CATEGORIES: dict[str, tuple[str, ...]] = {
    "animals": ("cat", "dog", "cow", "hen", "fox", "owl", "bee", "pig"),
    "colors": ("red", "blue", "green", "pink", "gray", "black", "white", "gold"),
    "fruits": ("apple", "plum", "pear", "lemon", "fig", "mango", "kiwi", "peach"),
    "tools": ("saw", "axe", "drill", "file", "rake", "spade", "hammer", "clamp"),
    "foods": ("rice", "soup", "bread", "cake", "pie", "stew", "pasta", "salad"),
    "drinks": ("tea", "milk", "water", "juice", "cola", "coffee", "cider", "cocoa"),
}
SEPARATORS = {"commas": ", ", "dashes": " - ", "slashes": " / ", "semicolons": "; "}
CASES = {"upper case": str.upper, "lower case": str.lower}
OPENERS = ("Sure:", "Here:", "List:", "Okay:", "Answer:", "Yes:")
CLOSERS = ("Done.", "End.", "Bye.", "Thanks.", "Enjoy.", "Stop.")


class Instructions(Family):
    name = domain = "instructions"
    files_task = "constraints"

    def draw(self, rng: random.Random) -> Problem:
        category = rng.choice(list(CATEGORIES))
        num = rng.randint(2, 5)
        separator, case = rng.choice(list(SEPARATORS)), rng.choice(list(CASES))
        opener = rng.choice(OPENERS) if rng.random() < 0.5 else None
        closer = rng.choice(CLOSERS) if rng.random() < 0.5 else None
        avoid = rng.choice(CATEGORIES[category]) if rng.random() < 0.5 else None
        text = f"Name {num} {category} in {case}, with {separator} between them."
        # The fixed words keep their own spelling, so the rules on case hold for the things named
        # alone.
        rules: list[dict[str, Any]] = [
            {
                "id": "items",
                "words": [CASES[case](w) for w in CATEGORIES[category] if w != avoid],
                "n": num,
                "separator": SEPARATORS[separator],
            }
        ]
        if opener:
            rules[0]["prefix"] = f"{opener} "
        if closer:
            rules[0]["suffix"] = f" {closer}"
        if avoid:
            text += f" Do not name {avoid}."
        if opener:
            text += f" Start with {opener}"
            rules.append({"id": "starts_with", "text": opener})
        if closer:
            text += f" End with {closer}"
            rules.append({"id": "ends_with", "text": closer})
        truth = {
            "rules": rules, "category": category, "num": num, "separator": separator, "case": case,
            "opener": opener, "closer": closer, "avoid": avoid,
        }  # fmt: skip
        canonical = f"instructions/{category}/{num}/{separator}/{case}/{opener}/{closer}/{avoid}"
        return Problem(canonical, "instructions", (Message("user", text),), truth, canonical, level=len(rules))

    def demonstrate(self, problem: Problem, rng: random.Random, *, noisy: bool = False) -> tuple[Message, ...]:
        t = dict(problem.truth)
        words = [w for w in CATEGORIES[t["category"]] if w != t["avoid"]]
        if noisy:
            words = self._slip(t, words, rng)
        # In alphabetical order, as a careful writer would: the next word differs from all before
        # it.
        chosen = sorted(rng.sample(words, t["num"]))
        listed = SEPARATORS[t["separator"]].join(CASES[t["case"]](w) for w in chosen)
        answer = " ".join(part for part in (t["opener"], listed, t["closer"]) if part)
        plan = f"{t['num']} {t['category']}, {t['case']}, {t['separator']}"
        return (answer_turn(plan, answer),)

    @staticmethod
    def _slip(t: dict[str, Any], words: list[str], rng: random.Random) -> list[str]:
        """Break one rule in `t`; returns the words to choose from."""
        kinds = ["num", "case", "separator"] + [k for k in ("opener", "closer", "avoid") if t[k]]
        kind = rng.choice(kinds)
        if kind == "num":
            t["num"] = max(1, t["num"] + rng.choice((-1, 1)))
        elif kind == "case":
            t["case"] = rng.choice([c for c in CASES if c != t["case"]])
        elif kind == "separator":
            t["separator"] = rng.choice([s for s in SEPARATORS if s != t["separator"]])
        elif kind == "avoid":
            return [t["avoid"], *rng.sample(words, t["num"] - 1)]
        else:
            t[kind] = None
        return words
