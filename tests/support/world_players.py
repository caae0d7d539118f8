"""Players of worlds: each is given a fresh world's spec and a call, and gives the answer it ends
with.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from qwq.envs.worlds import make_rules
from qwq.tasks.procedural.table_questions import AMOUNTS, PLACES

Call = Callable[..., str]
Player = Callable[[Mapping[str, Any], Call, random.Random], str]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def share_right(player: Player, specs: list[Mapping[str, Any]], seed: int = 0) -> float:
    """Share of the specs that a player gets right."""
    rng, right = random.Random(seed), 0
    for spec in specs:
        world = make_rules(spec)
        answer = player(spec, lambda tool, world=world, **arguments: world.call(tool, arguments), rng)
        right += world.verdict(answer) is None
    return right / len(specs)


def _seek(spec: Mapping[str, Any], call: Call, choose: Callable[[list[str]], str]) -> str:
    inside = [c for c in LETTERS if spec["after"] < c < spec["before"]]
    for _ in range(spec["tries"]):
        place = choose(inside)
        result = call("look", place=place)
        if result == "found":
            return place
        inside = [c for c in inside if (c > place) == (result == "higher") and c != place]
    return "none"


def bisects(spec: Mapping[str, Any], call: Call, rng: random.Random) -> str:
    return _seek(spec, call, lambda inside: inside[len(inside) // 2])


def looks_anywhere_inside(spec: Mapping[str, Any], call: Call, rng: random.Random) -> str:
    return _seek(spec, call, rng.choice)


def looks_without_feedback(spec: Mapping[str, Any], call: Call, rng: random.Random) -> str:
    inside = [c for c in LETTERS if spec["after"] < c < spec["before"]]
    for place in rng.sample(inside, spec["tries"]):
        if call("look", place=place) == "found":
            return place
    return "none"


def follows(spec: Mapping[str, Any], call: Call, rng: random.Random) -> str:
    key = spec["first"]
    while True:
        result = call("read", key=key)
        if result.isdigit() or result.startswith("error"):
            return result
        key = key if result.startswith("busy") else result.split()[-1]


def follows_and_never_retries(spec: Mapping[str, Any], call: Call, rng: random.Random) -> str:
    key = spec["first"]
    while True:
        result = call("read", key=key)
        if result.isdigit() or result.startswith("busy"):
            return result
        key = result.split()[-1]


def guesses_the_number(spec: Mapping[str, Any], call: Call, rng: random.Random) -> str:
    """Reads to the end, so that only the number is a guess."""
    follows(spec, call, rng)
    return str(rng.randint(10, 99))


def _sum(spec: Mapping[str, Any], call: Call, pairs: list[tuple[str, str]]) -> str:
    for column, where in pairs:
        result = call("sum", column=column, where=where, **{"is": spec["ask"]})
        if result.isdigit():
            return result
    return "0"


def names_one_pair(spec: Mapping[str, Any], call: Call, rng: random.Random) -> str:
    return _sum(spec, call, [(rng.choice(AMOUNTS), rng.choice(PLACES))])


def names_three_pairs(spec: Mapping[str, Any], call: Call, rng: random.Random) -> str:
    return _sum(spec, call, rng.sample([(a, b) for a in AMOUNTS for b in PLACES], 3))


def reads_the_error(spec: Mapping[str, Any], call: Call, rng: random.Random) -> str:
    column, where = rng.choice(AMOUNTS), rng.choice(PLACES)
    result = call("sum", column=column, where=where, **{"is": spec["ask"]})
    if result.isdigit():
        return result
    names = result.partition("there are ")[2].split(", ")
    column, where = (n for names_of in (AMOUNTS, PLACES) for n in names if n in names_of)
    return call("sum", column=column, where=where, **{"is": spec["ask"]})
