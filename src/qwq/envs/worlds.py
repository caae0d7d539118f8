"""Worlds: small state machines that a model can only get right by reading what its tools answer.

A world is rules (`WorldRules`): a call gives a text and may change the state, and at the end an
answer is right or wrong. Rules are pure: the same calls on the same spec give the same texts. So a
verdict needs no word of the environment that served the model: `verify.worlds` replays the recorded
calls on rules of its own, and old logs can be judged again.

The spec of a world is its problem's `truth["world"]`: `kind` names the rules, the rest is theirs.
The rules themselves are in `verify.worlds`, which registers them here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from qwq.envs.base import Environment, environment
from qwq.errors import DataError, nearest
from qwq.types import Message, Problem, ToolCall

WORLD = "world"  # the environment's name, and the key of a world's spec in a problem's truth
MAX_TEXT = 20_000  # characters of one argument


@dataclass(frozen=True, slots=True)
class WorldTool:
    """A tool of a world. All its arguments are required texts: name -> what it is."""

    name: str
    description: str
    arguments: Mapping[str, str]

    @property
    def schema(self) -> dict[str, Any]:
        """The tool in OpenAI's form."""
        properties = {name: {"type": "string", "description": text} for name, text in self.arguments.items()}
        parameters = {"type": "object", "properties": properties, "required": list(self.arguments)}
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": parameters},
        }


class WorldRules:
    """Base of all rules. Every call counts, the wrong ones too; from `max_calls` on nothing happens
    any more.

    A spec with `known` is one whose prompt already tells the answer: there any call is a fault.
    """

    tools: ClassVar[tuple[WorldTool, ...]] = ()
    slow: ClassVar[bool] = False  # whether a call runs something; then it does so on a thread

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self.num_calls = 0

    @property
    def max_calls(self) -> int:
        """Calls of an episode."""
        raise NotImplementedError

    def answer(self, tool: str, **arguments: str) -> str:
        """The result of a call whose name and arguments fit."""
        raise NotImplementedError

    def fault(self, answer: str) -> str | None:
        """Why an episode that ends with this answer is wrong; None where it is right."""
        raise NotImplementedError

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The result of any call. What does not fit gets an error that shows the schema."""
        self.num_calls += 1
        if self.num_calls > self.max_calls:
            return f"error: no call is left of {self.max_calls}: answer with what you have"
        by_name = {tool.name: tool for tool in self.tools}
        if name not in by_name:
            return f"error: no tool {name!r:.80}: {nearest(str(name)[:80], by_name)}"
        wrong = _wrong_arguments(by_name[name].arguments, arguments)
        if wrong:
            shown = json.dumps(by_name[name].schema["function"]["parameters"])
            return f"error: {name}: {wrong}; the schema of {name}: {shown}"
        return self.answer(name, **arguments)

    def verdict(self, answer: str) -> str | None:
        """`fault`, and the rules that hold in every world."""
        if self.spec.get("known"):
            if self.num_calls:
                return f"it made {self.num_calls} calls where the question tells the answer"
            return differs(answer, str(self.spec["known"]))
        if not self.num_calls:
            return "it answered without a call"
        return self.fault(answer)


def _wrong_arguments(expected: Mapping[str, str], arguments: Mapping[str, Any]) -> str:
    """What is wrong with a call's arguments; "" if nothing is."""
    if unknown := [a for a in arguments if a not in expected]:
        return f"unknown argument {str(unknown[0])[:80]!r}"
    if missing := [a for a in expected if a not in arguments]:
        return f"argument {missing[0]!r} is missing"
    for name, value in arguments.items():
        if not isinstance(value, str):
            return f"argument {name!r} is {json.dumps(value, default=str)[:80]}, not a text"
        if len(value) > MAX_TEXT:
            return f"argument {name!r} has {len(value):,} characters, at most {MAX_TEXT:,} are read"
    return ""


def differs(answer: str, gold: str) -> str | None:
    """How an answer differs from the right one; None where they agree as texts or as numbers."""
    if not answer:
        return f"it gave no answer, {gold} is right"
    if answer.casefold() == gold.casefold() or _same_number(answer, gold):
        return None
    return f"it answered {answer[:80]!r}, {gold} is right"


def _same_number(a: str, b: str) -> bool:
    try:
        return float(a.replace(",", "")) == float(b)
    except ValueError:
        return False


RULES: dict[str, type[WorldRules]] = {}


def rules(kind: str) -> Callable[[type[WorldRules]], type[WorldRules]]:
    """Class decorator: specs may then name these rules as their `kind`."""

    def register(cls: type[WorldRules]) -> type[WorldRules]:
        RULES[kind] = cls
        return cls

    return register


def make_rules(spec: Mapping[str, Any]) -> WorldRules:
    """A fresh world of a spec. DataError for one of no known kind."""
    kind = spec.get("kind") if isinstance(spec, Mapping) else None
    if kind not in RULES:
        raise DataError(f"a world's spec names its kind, this one has {kind!r}: {nearest(str(kind), RULES)}")
    return RULES[kind](spec)


@environment(WORLD)
class WorldEnvironment(Environment):
    """Serves the world of `problem.truth["world"]`; calls of one turn run in their order."""

    instant = True

    async def reset(self, problem: Problem) -> None:
        if WORLD not in problem.truth:
            raise DataError(f"problem {problem.id} has no world: its truth has {sorted(problem.truth)}")
        self.rules = make_rules(problem.truth[WORLD])
        if "max_calls" not in vars(self):  # a recipe's or a command's own limit
            self.max_calls = self.rules.max_calls

    def schemas(self) -> tuple[Mapping[str, Any], ...]:
        return ()  # the problem lists them

    async def call(self, call: ToolCall) -> str:
        if self.rules.slow:
            return await asyncio.to_thread(self.rules.call, call.name, call.arguments)
        return self.rules.call(call.name, call.arguments)

    async def step(self, calls: Sequence[ToolCall]) -> list[Message]:
        return [await self._answer(call) for call in calls]
