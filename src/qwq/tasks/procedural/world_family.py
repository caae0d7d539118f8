"""What the families of worlds share: problems from a spec, and demonstrations played in the world
itself, so that what a demonstration's tools answer is what the world answers.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

from qwq.envs.worlds import RULES, WORLD, WorldRules, make_rules
from qwq.tasks.base import Protocol
from qwq.tasks.procedural.base import Family, answer_turn
from qwq.text.response import with_thinking
from qwq.types import Message, Problem, ToolCall
from qwq.verify.worlds import VERIFIER

KNOWN = "known"  # the part whose prompts tell the answer: a call there is a fault


class WorldFamily(Family):
    """Problems of one world. Parts are levels, held-out ones among them, and `known`."""

    domain = VERIFIER
    kind: ClassVar[str] = ""  # of the rules
    protocol = Protocol(samples=1, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=512)

    def posed(self, text: str, spec: Mapping[str, Any], canonical: str, level: int = 1) -> Problem:
        """The problem of a spec. Its canonical form begins with the task and its part."""
        name = f"{self.label}/{canonical}"
        truth = {WORLD: {"kind": self.kind, **spec}}
        tools = tuple(tool.schema for tool in RULES[self.kind].tools)
        return Problem(
            name, self.domain, (Message("user", text),), truth, name, tools, level, self.label, environment=WORLD
        )

    def demonstrate(self, problem: Problem, rng: random.Random, *, noisy: bool = False) -> tuple[Message, ...]:
        """A noisy one ends with an answer that the world did not give."""
        spec = problem.truth[WORLD]
        script = Script(make_rules(spec))
        answer = str(spec["known"]) if spec.get("known") else self.play(script, spec, rng)
        if noisy:
            answer = self.wrong(answer, rng)
        return (*script.turns, answer_turn(answer, f"\\boxed{{{answer}}}"))

    def play(self, script: Script, spec: Mapping[str, Any], rng: random.Random) -> str:
        """Make the calls of a demonstration; the answer to end with."""
        raise NotImplementedError

    def wrong(self, answer: str, rng: random.Random) -> str:
        """Another answer of the same form."""
        return str(rng.randint(10, 99))


class Script:
    """The turns of a demonstration while it is played."""

    def __init__(self, world: WorldRules) -> None:
        self.world = world
        self.turns: list[Message] = []

    def call(self, thinking: str, tool: str, **arguments: str) -> str:
        """A turn with one call; its result."""
        result = self.world.call(tool, arguments)
        call = Message("assistant", with_thinking(thinking, "").rstrip("\n"), (ToolCall(tool, arguments),))
        self.turns += [call, Message("tool", result)]
        return result
