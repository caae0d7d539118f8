"""The tools of an agent: groups of tools that share a workspace, and the environment made of them.

    box = Toolbox(make_toolsets(["python", "sql"]), Workspace(files={"sales.csv": data}))
    await box.reset(problem)
    result = await box.run_call(ToolCall("python", {"code": "1 + 1"}))       # result.text == "2"

A `Toolset` is one group (`python`, `files`, `shell`, `sql`, `fetch`, an MCP server). It says of
each tool what it may change (`Effect`), how long a call may take and whether its results are other
people's text. `Toolbox` checks arguments against the schemas, once for all tools, bounds the time,
cuts long results, and answers every call in its place.

Tasks and recipes name environments made of the jailed toolsets: "python", "sql", "python+files".
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

from qwq.envs.arguments import fault_in
from qwq.envs.base import Environment, environment_family, shown_schema
from qwq.envs.workspace import Workspace, read_files
from qwq.errors import ConfigError, InfraError, UsageError, nearest
from qwq.sandbox import Sandbox, SessionLimits
from qwq.sandbox.cells import cut_text
from qwq.types import Message, Problem, ToolCall

NO_LIMIT = float("inf")
_Made = TypeVar("_Made", bound="type[Toolset]")


class Effect(StrEnum):
    """What a tool may change."""

    NONE = "none"
    WORKSPACE = "workspace"
    EXTERNAL = "external"


class ResultKind(StrEnum):
    """Every way a call can end."""

    OK = "ok"
    ERROR = "error"  # the call was wrong, or what it ran raised
    REFUSED = "refused"  # not allowed; it was not run
    TIMEOUT = "timeout"
    LIMIT = "limit"  # memory, output or another limit
    UNKNOWN = "unknown_outcome"  # it may or may not have happened


@dataclass(frozen=True, slots=True)
class Artefact:
    """A picture or file that a call made, for people."""

    name: str
    media_type: str
    data: bytes
    title: str = ""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool. `schema` is in OpenAI's form.

    `idempotent`: a call may be repeated when its outcome is unknown. `untrusted`: its results are
    other people's text.
    """

    schema: Mapping[str, Any]
    effect: Effect
    timeout_s: float
    idempotent: bool = False
    untrusted: bool = False

    @property
    def name(self) -> str:
        return str(self.schema["function"]["name"])

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self.schema["function"].get("parameters") or {}

    @property
    def checked(self) -> Mapping[str, Any]:
        """`parameters` as arguments are checked against them: what they do not name is refused."""
        parameters = self.parameters
        return parameters if "additionalProperties" in parameters else {"additionalProperties": False, **parameters}


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The answer to one call. `text` is what the model reads; where it was cut, `whole` is all of
    it. `detail` is for programs: {"cell": 3, ...}.
    """

    text: str
    kind: ResultKind = ResultKind.OK
    whole: str | None = None
    artefacts: tuple[Artefact, ...] = ()
    seconds: float = 0.0
    detail: Mapping[str, Any] = field(default_factory=dict)


def tool_schema(
    name: str, description: str, properties: Mapping[str, Mapping[str, Any]], required: Sequence[str]
) -> dict[str, Any]:
    """A tool's schema in OpenAI's form; other arguments than these are refused."""
    parameters = {
        "type": "object",
        "properties": {key: dict(value) for key, value in properties.items()},
        "required": list(required),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


class Toolset:
    """One group of tools that share state. A subclass gives `specs` and `run`.

    `limit_s` bounds each call beyond the tool's own `timeout_s`; the toolbox sets it before `open`.
    `grace_s` is how much longer the toolbox waits, for toolsets that hold their time limits
    themselves.
    """

    name: str = ""
    needs_programs: ClassVar[bool] = False  # bash and the system's programs, in the jail
    packages: ClassVar[tuple[str, ...]] = ()  # of the host's Python, that the jail is to show where they are installed
    limit_s: float = NO_LIMIT
    grace_s: float = 0.0

    async def open(self, desk: Workspace) -> None:
        """Begin a run. Raises UsageError where the tools cannot work here."""

    def specs(self) -> Sequence[ToolSpec]:
        """The tools, also before `open` where they do not depend on it."""
        raise NotImplementedError

    async def run(self, call: ToolCall) -> ToolResult:
        """Answer a call whose name and arguments fit a spec. InfraError where our own machinery
        failed; whatever else is raised is the call's result.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """End the run. Called once, also where `open` failed."""

    def seconds_for(self, timeout_s: float) -> float:
        return min(timeout_s, self.limit_s)


TOOLSETS: dict[str, Callable[..., Toolset]] = {}


def toolset(name: str) -> Callable[[_Made], _Made]:
    """Class decorator: `make_toolsets` knows the toolset by this name."""

    def register(cls: _Made) -> _Made:
        cls.name = name
        TOOLSETS[name] = cls
        return cls

    return register


def make_toolsets(names: Sequence[str], **options: Any) -> list[Toolset]:
    """Toolsets by name, each with those of the options that it takes. UsageError for a name or an
    option that none knows.
    """
    for name in names:
        if name not in TOOLSETS:
            raise UsageError(f"no tools {name!r}: {nearest(name, TOOLSETS)}")
    taken = {name: set(inspect.signature(TOOLSETS[name]).parameters) for name in dict.fromkeys(names)}
    known = set().union(*taken.values()) if taken else set()
    for option in options:
        if option not in known:
            shown = nearest(option, sorted(known)) if known else "there are no options"
            raise UsageError(f"the tools {', '.join(names)} have no option {option!r}: {shown}")
    return [TOOLSETS[name](**{k: v for k, v in options.items() if k in taken[name]}) for name in taken]


def workspace_for(toolsets: Sequence[Toolset], sandbox: Sandbox | None = None, **options: Any) -> Workspace:
    """A workspace with what these toolsets need; `options` as `Workspace` takes them."""
    packages = tuple(dict.fromkeys(name for group in toolsets for name in group.packages))
    return Workspace(sandbox, programs=any(t.needs_programs for t in toolsets), packages=packages, **options)


EARLIER = "outputs/earlier/{}.txt"  # in the workspace: a result that has left the context
FILE_READERS = {"python", "read", "read_file", "shell"}  # tools that read files of the workspace


class Toolbox(Environment):
    """The environment made of toolsets and one workspace.

    Without a `workspace` of the caller's, each episode gets one of its own with the problem's
    files. Calls of a turn run in order; they run together where every tool has effect none.
    """

    max_calls = 20
    timeout_s = NO_LIMIT
    text_chars = SessionLimits().text_chars
    toolset_names: ClassVar[tuple[str, ...]] = ()  # of a class that `environment_class` made

    def __init__(self, toolsets: Sequence[Toolset] | None = None, workspace: Workspace | None = None):
        self.toolsets = list(make_toolsets(self.toolset_names) if toolsets is None else toolsets)
        self.workspace = workspace
        self._owns_workspace = False
        self._num_results = 0
        self._owners: dict[str, tuple[Toolset, ToolSpec]] = {}

    async def reset(self, problem: Problem) -> None:
        if self.workspace is None:
            files = await asyncio.to_thread(read_files, problem.files)
            self.workspace = workspace_for(self.toolsets, files=files)
            self._owns_workspace = True
        elif problem.files:
            self.workspace.add(await asyncio.to_thread(read_files, problem.files))
        for group in self.toolsets:
            group.limit_s = self.timeout_s
            await group.open(self.workspace)
        self._owners = {}

    async def close(self) -> None:
        for group in reversed(self.toolsets):
            await group.close()
        if self._owns_workspace and self.workspace is not None:
            await asyncio.to_thread(self.workspace.close)

    def specs(self) -> dict[str, ToolSpec]:
        """All tools by name, in the order of the toolsets. ConfigError where two share a name."""
        specs: dict[str, ToolSpec] = {}
        for group in self.toolsets:
            for spec in group.specs():
                if spec.name in specs:
                    raise ConfigError(f"two toolsets offer a tool {spec.name!r}: leave one out")
                specs[spec.name] = spec
        return specs

    def spec(self, name: str) -> ToolSpec | None:
        return self.specs().get(name)

    def schemas(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(spec.schema for spec in self.specs().values())

    def earlier_place(self, ident: str) -> str:
        return EARLIER.format(ident) if FILE_READERS & set(self.specs()) else ""

    def keep_earlier(self, texts: Mapping[str, str]) -> None:
        if self.workspace is not None and self.earlier_place(""):
            self.workspace.add({self.earlier_place(i): text.encode(errors="replace") for i, text in texts.items()})

    def step_limit_s(self, calls: Sequence[ToolCall]) -> float:
        """Each toolset bounds its own calls, which run one after another."""
        return NO_LIMIT

    async def call(self, call: ToolCall) -> str:
        return (await self.run_call(call)).text

    async def step(self, calls: Sequence[ToolCall]) -> list[Message]:
        return [Message("tool", result.text) for result in await self.run_calls(calls)]

    async def run_calls(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """`run_call` for each, in order; together where nothing is changed."""
        specs = self.specs()
        if all(call.name in specs and specs[call.name].effect is Effect.NONE for call in calls):
            return list(await asyncio.gather(*map(self.run_call, calls)))
        return [await self.run_call(call) for call in calls]

    async def run_call(self, call: ToolCall) -> ToolResult:
        """Answer one call. InfraError where our own machinery failed."""
        started = time.monotonic()
        owner, spec = self._owner(call.name)
        if owner is None or spec is None:
            known = list(self._owners)
            return _wrong(f"no tool {call.name!r}: {nearest(call.name, known) if known else 'there are none'}")
        fault = fault_in(call.arguments, spec.checked)
        if fault is not None:
            return _wrong(f"{call.name}: {fault}; {shown_schema(spec.schema)}")
        result = await _bounded(owner, spec, call)
        return self._cut(replace(result, seconds=time.monotonic() - started))

    def _owner(self, name: str) -> tuple[Toolset | None, ToolSpec | None]:
        """The toolset that has the tool, and the tool; looked up again where it is not known."""
        if name not in self._owners:
            self._owners = {spec.name: (group, spec) for group in self.toolsets for spec in group.specs()}
        return self._owners.get(name, (None, None))

    def _cut(self, result: ToolResult) -> ToolResult:
        """Head and tail of a long text. The workspace gets the whole."""
        self._num_results += 1
        if len(result.text) <= self.text_chars or result.whole is not None:
            return result
        name = f"outputs/call-{self._num_results}.txt"
        if self.workspace is not None:
            self.workspace.add({name: result.text.encode(errors="replace")})
        return replace(result, text=cut_text(result.text, self.text_chars, name), whole=result.text)


async def _bounded(owner: Toolset, spec: ToolSpec, call: ToolCall) -> ToolResult:
    limit_s = owner.seconds_for(spec.timeout_s)
    try:
        async with asyncio.timeout(None if limit_s == NO_LIMIT else limit_s + owner.grace_s):
            return await owner.run(call)
    except InfraError:
        raise
    except TimeoutError:
        text = f"error: {call.name} gave no result within {limit_s:g} s"
        kind = ResultKind.UNKNOWN if spec.effect is Effect.EXTERNAL and not spec.idempotent else ResultKind.TIMEOUT
        return ToolResult(text, kind)
    except Exception as error:  # noqa: BLE001  # a tool is somebody's code: whatever it raises is its answer
        return _wrong(f"{call.name} raised {type(error).__name__}: {' '.join(str(error).split())[:500]}")


def _wrong(text: str) -> ToolResult:
    return ToolResult(f"error: {text}", ResultKind.ERROR)


IN_TASKS = ("python", "files", "shell", "sql")  # toolsets that run in the jail and need no options


def toolset_names() -> list[str]:
    """All toolsets: those of the jail first."""
    return [*IN_TASKS, *sorted(name for name in TOOLSETS if name not in IN_TASKS)]


@environment_family
def toolbox_class(name: str) -> type[Environment] | None:
    """The environment "python+sql"; None for a name that is none of this kind."""
    names = name.split("+")
    if not all(part in TOOLSETS and part in IN_TASKS for part in names):
        if "+" in name:
            wrong = next(part for part in names if part not in TOOLSETS or part not in IN_TASKS)
            raise ConfigError(f"no environment {name!r}: {wrong!r} is no toolset: {nearest(wrong, IN_TASKS)}")
        return None
    return type(f"Toolbox[{name}]", (Toolbox,), {"toolset_names": tuple(names)})
