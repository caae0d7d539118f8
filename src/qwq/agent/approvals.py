"""Who may act outside: rules by tool and arguments, else by effect, and a person where they say so.

    external = "ask"                    # what no rule names: ask, or deny
    after_untrusted = "ask"             # once the run has read other people's text: ask, or deny

    [[rule]]
    tool = "github__*"                  # globs; the first rule that fits counts
    arguments.repo = "me/*"
    then = "allow"                      # allow, ask or deny

Effects none and workspace happen in the jail and run without being asked for. After text that other
people wrote (files, web pages, MCP results) no rule allows an external effect: it asks.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from qwq.envs.toolbox import Effect, ToolSpec
from qwq.errors import ConfigError, nearest
from qwq.types import ToolCall


class Then(StrEnum):
    """What becomes of a call."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class ApprovalRule:
    """One `[[rule]]`. It fits where the globs of the tool and of all its arguments do."""

    tool: str
    then: Then
    arguments: Mapping[str, str] = field(default_factory=dict)

    def fits(self, call: ToolCall) -> bool:
        return fnmatchcase(call.name, self.tool) and all(
            name in call.arguments and fnmatchcase(_text(call.arguments[name]), glob)
            for name, glob in self.arguments.items()
        )


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say of one call, and why."""

    then: Then
    reason: str


# Asks a person of a call while the run waits: whether it may run, and a reason.
AskPerson = Callable[[str, ToolCall, Ruling], Awaitable[tuple[bool, str]]]


@dataclass(frozen=True, slots=True)
class Approvals:
    """The rules of a run. `ask` reaches a person while the run continues; without it a call that
    asks parks the run on the disk.
    """

    rules: tuple[ApprovalRule, ...] = ()
    external: Then = Then.ASK
    after_untrusted: Then = Then.ASK
    ask: AskPerson | None = None

    def ruling(self, call: ToolCall, spec: ToolSpec, *, tainted: bool) -> Ruling | None:
        """None where the call just runs: its effect stays in the jail, and no rule forbids it."""
        rule = next((r for r in self.rules if r.fits(call)), None)
        if spec.effect is not Effect.EXTERNAL and (rule is None or rule.then is Then.ALLOW):
            return None
        if rule is None:
            ruling = Ruling(self.external, "its effect is external, and no rule names it")
        else:
            ruling = Ruling(rule.then, f"the rule for {rule.tool} says {rule.then.value}")
        if tainted and spec.effect is Effect.EXTERNAL and ruling.then is Then.ALLOW:
            return Ruling(self.after_untrusted, "its effect is external, and the run has read other people's text")
        return ruling

    def to_dict(self) -> dict[str, Any]:
        rules = [{"tool": r.tool, "then": r.then.value, "arguments": dict(r.arguments)} for r in self.rules]
        return {"external": self.external.value, "after_untrusted": self.after_untrusted.value, "rule": rules}


NO_RULES = Approvals()


def read_approvals(path: Path) -> Approvals:
    """The rules of a TOML file. ConfigError for what is none."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--policy {path} cannot be read ({error}): give a TOML file (docs/agent.md)") from None
    return approvals_of(data, str(path))


def approvals_of(data: Mapping[str, Any], where: str) -> Approvals:
    """The rules of the tables that a policy file holds. ConfigError, which names `where`."""
    _check_keys(data, ("external", "after_untrusted", "rule"), where)
    rules = data.get("rule", [])
    if not isinstance(rules, list):
        raise ConfigError(f"{where}: `rule` is one table: write [[rule]]")
    return Approvals(
        tuple(_rule(rule, f"{where}, rule {number}") for number, rule in enumerate(rules, 1)),
        _without_person(data, "external", where),
        _without_person(data, "after_untrusted", where),
    )


def _rule(data: Mapping[str, Any], where: str) -> ApprovalRule:
    _check_keys(data, ("tool", "arguments", "then"), where)
    tool, arguments = data.get("tool"), data.get("arguments", {})
    if not isinstance(tool, str) or not tool:
        raise ConfigError(f"{where}: no `tool`: give a tool's name or a glob such as github__*")
    if not isinstance(arguments, Mapping) or not all(isinstance(v, str) for v in arguments.values()):
        raise ConfigError(f'{where}: `arguments` holds globs by name, such as arguments.repo = "me/*"')
    return ApprovalRule(tool, _then(data.get("then"), tuple(Then), f"{where}: then"), arguments)


def _without_person(data: Mapping[str, Any], key: str, where: str) -> Then:
    return _then(data.get(key, Then.ASK.value), (Then.ASK, Then.DENY), f"{where}: {key}")


def _then(value: Any, known: tuple[Then, ...], where: str) -> Then:
    if value not in [then.value for then in known]:
        raise ConfigError(f"{where} is {value!r}: give {', '.join(then.value for then in known)}")
    return Then(value)


def _check_keys(data: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}: {nearest(key, known)}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
