"""The environment protocol: reset with a problem, then answer tool calls. An environment never
scores.

A user's environment is one class in one file; RL, evaluation and chat take it by `file.py:Class`:

    class Dice(Environment):
        @tool
        async def roll(self, sides: int) -> str:
            "Roll a die with so many sides."
            return str(random.randint(1, sides))

The schema that the model sees comes from the method's name, type hints and docstring; arguments are
checked against them, and a call that does not fit is answered with what is wrong and the schema.
Calls of one turn run together. Every call gets exactly one answer, in its place: errors and
timeouts are answers too, only an InfraError is raised.

Tools written as plain `def` run on a thread, so a slow one does not hold up the others.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs

from qwq.common.imports import import_object
from qwq.errors import ConfigError, InfraError, nearest
from qwq.types import Message, ParsedResponse, Problem, ToolCall

_T = TypeVar("_T")
_Method = TypeVar("_Method", bound=Callable[..., Any])
MAX_THREADS = 32  # tools written as plain functions that run at once
MAX_RESULT = 20_000  # characters of one result
EMPTY_RESULTS = ("", "[]", "{}", "()", "null", "None")


def tool(method: _Method) -> _Method:
    """Mark a method of an `Environment` as a tool. Its docstring's first paragraph is what the
    model reads.
    """
    method.__qwq_tool__ = True  # type: ignore[attr-defined]
    return method


class Parked(Exception):
    """Raised by an environment's `step`: the episode is left where it is and can be resumed later,
    once somebody has decided what the calls wait for.
    """


class Environment:
    """Base of all environments. `reset` and the tools may keep state on `self`: one object serves
    one sample.

    `max_calls` limits the calls of a sample, `timeout_s` one call; a recipe or a command may set
    others. `instant` says that every tool answers at once and is a function of its arguments: the
    sampler then waits for it, so that a run repeats bit for bit. Other tools run while other
    samples decode. `own`: not a user's code, so an error of its `step` is raised. `over` set by a
    tool ends the episode. `turn` is the model's last turn.
    """

    max_calls: int = 4
    timeout_s: float = 30.0
    instant: bool = False
    own: bool = False
    over: bool = False
    turn: ParsedResponse | None = None

    async def reset(self, problem: Problem) -> None:
        """Begin an episode."""

    async def close(self) -> None:
        """End it. Called once, also after a failure."""

    async def next_messages(self, turn: ParsedResponse) -> Sequence[Message]:
        """What follows a turn without calls: the next turn of a user, say. () ends the episode."""
        return ()

    def schemas(self) -> tuple[Mapping[str, Any], ...]:
        """The tools in OpenAI's form. () leaves those that the problem itself lists."""
        return _schemas(self._class)

    async def call(self, call: ToolCall) -> str:
        """The result of one call as the model reads it. Errors of the call are texts that begin
        with `error:`.
        """
        tools = self._tools()
        if call.name not in tools:
            return f"error: no tool {call.name!r}: {nearest(call.name, tools)}"
        method = tools[call.name]
        try:
            bound = _arguments(self._class, call.name).validate_python(ArgsKwargs((), dict(call.arguments)))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "arguments"
            return f"error: {call.name}: {where}: {first['msg']}; {shown_schema(_schema(self._class, call.name))}"
        arguments = bound.kwargs or {}
        result = (
            await method(**arguments)
            if inspect.iscoroutinefunction(method)
            else await asyncio.to_thread(method, **arguments)
        )
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)

    async def step(self, calls: Sequence[ToolCall]) -> list[Message]:
        """One tool message for each call, in order; the calls run together. InfraError where our
        own machinery failed.
        """
        return list(await asyncio.gather(*(self._answer(call) for call in calls)))

    def step_limit_s(self, calls: Sequence[ToolCall]) -> float:
        """How long `step` may take with these calls."""
        return self.timeout_s

    def earlier_place(self, ident: str) -> str:
        """Where a tool can read the result of call `ident` (call-4) once it has left the context;
        "" for nowhere.
        """
        return ""

    def keep_earlier(self, texts: Mapping[str, str]) -> None:
        """Keep results that leave the context, by their calls, at their `earlier_place`."""

    def gave_nothing(self, call: ToolCall, text: str) -> bool:
        """Whether a result tells the model nothing; turns of such calls count as a loop."""
        return text.strip() in EMPTY_RESULTS

    async def _answer(self, call: ToolCall) -> Message:
        try:
            text = await asyncio.wait_for(self.call(call), self.timeout_s)
        except InfraError:
            raise
        except TimeoutError:
            text = f"error: {call.name} gave no result within {self.timeout_s:g} s"
        except Exception as error:  # noqa: BLE001  # a tool is somebody's code: whatever it raises is its answer
            text = f"error: {call.name} raised {type(error).__name__}: {' '.join(str(error).split())[:500]}"
        if len(text) > MAX_RESULT:
            text = f"{text[:MAX_RESULT]}\n[{len(text) - MAX_RESULT} further characters cut]"
        return Message("tool", text)

    @property
    def _class(self) -> Any:
        """The class as the caches below take it: a checker doubts that classes can be hashed."""
        return type(self)

    def _tools(self) -> dict[str, Callable[..., Any]]:
        return {name: getattr(self, name) for name in _tool_names(self._class)}


@cache
def _tool_names(cls: type) -> tuple[str, ...]:
    """Names of the methods marked as tools, base classes first, in the order of the source."""
    names = dict.fromkeys(
        name for base in reversed(cls.__mro__) for name, value in vars(base).items() if hasattr(value, "__qwq_tool__")
    )
    return tuple(names)


def _checked(function: Callable[..., Any]) -> Any:
    """A function of the same arguments that returns them: pydantic checks them, and the tool itself
    runs outside the check.
    """

    def keep(*_: Any, **kwargs: Any) -> ArgsKwargs:
        return ArgsKwargs((), kwargs)

    signature = inspect.signature(function, eval_str=True)
    parameters = [p for p in list(signature.parameters.values())[1:]]
    keep.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[p.replace(kind=p.KEYWORD_ONLY) if p.kind is p.POSITIONAL_OR_KEYWORD else p for p in parameters],
        return_annotation=ArgsKwargs,
    )
    keep.__annotations__ = {p.name: p.annotation for p in parameters if p.annotation is not p.empty}
    return keep


@cache
def _arguments(cls: type, name: str) -> TypeAdapter[Any]:
    return TypeAdapter(_checked(getattr(cls, name)))


@cache
def _schemas(cls: type) -> tuple[dict[str, Any], ...]:
    return tuple(_schema(cls, name) for name in _tool_names(cls))


@cache
def _schema(cls: type, name: str) -> dict[str, Any]:
    parameters = _arguments(cls, name).json_schema()
    parameters = {k: v for k, v in parameters.items() if k in ("type", "properties", "required", "$defs")}
    text = inspect.getdoc(getattr(cls, name)) or ""
    return {
        "type": "function",
        "function": {"name": name, "description": text.partition("\n\n")[0], "parameters": parameters},
    }


def shown_schema(schema: Mapping[str, Any]) -> str:
    """What a model reads of a schema behind an error of its call."""
    function = schema.get("function") or schema
    return f"the schema of {function['name']}: {json.dumps(function.get('parameters') or {}, ensure_ascii=False)}"


def explain_malformed(raw: str, tools: Sequence[Mapping[str, Any]]) -> str:
    """What a model reads in the place of a call that cannot be read: what is wrong, the form of a
    call, the tool's schema.
    """
    functions = {f["name"]: f for f in (t.get("function") or t for t in tools) if f.get("name")}
    try:
        data = json.loads(raw)
    except RecursionError:
        wrong = "its JSON is nested too deep"
    except ValueError as error:
        wrong = f"its JSON is broken: {error}"
    else:
        wrong = _wrong_shape(data)
    named = re.search(r'"name"\s*:\s*"([^"]+)"', raw)
    function = functions.get(named[1]) if named else None
    known = shown_schema(function) if function else f"the tools are {', '.join(functions) or 'none'}"
    return f'error: the call cannot be read, {wrong}. Write {{"name": ..., "arguments": {{...}}}}; {known}'


def _wrong_shape(data: Any) -> str:
    if not isinstance(data, Mapping):
        return "it is no JSON object"
    if not isinstance(data.get("name"), str) or not data["name"]:
        return "it names no tool under `name`"
    if not isinstance(data.get("arguments", {}), Mapping):
        return f"`arguments` is no JSON object{_broken(data['arguments'])}"
    unknown = [k for k in data if k not in ("name", "arguments", "id")]
    return f"it has the unknown key {unknown[0]!r}" if unknown else "it is no call"


def _broken(arguments: Any) -> str:
    """Where the JSON of arguments that are a text breaks; "" where it does not."""
    try:
        json.loads(arguments)
    except RecursionError:
        return ": its JSON is nested too deep"
    except (TypeError, ValueError) as error:
        return f": its JSON is broken: {error}" if isinstance(arguments, str) else ""
    return ""


# -- registry --------------------------------------------------------------------------------------

ENVIRONMENTS: dict[str, type[Environment]] = {}
_FAMILIES: list[Callable[[str], type[Environment] | None]] = []


def environment(name: str) -> Callable[[type[Environment]], type[Environment]]:
    """Class decorator: the environment can then be named in problems, tasks and recipes."""

    def register(cls: type[Environment]) -> type[Environment]:
        ENVIRONMENTS[name] = cls
        return cls

    return register


def environment_family(make: Callable[[str], type[Environment] | None]) -> Callable[[str], type[Environment] | None]:
    """Decorator of a function that makes the class of a name of its kind ("python+sql"), and None
    of other names.
    """
    _FAMILIES.append(make)
    return make


def environment_class(name: str) -> type[Environment]:
    """The class of a registered name, of a name that a family makes, or of `file.py:Class`.
    ConfigError for any other.
    """
    if name not in ENVIRONMENTS:
        made = next((cls for cls in (make(name) for make in _FAMILIES) if cls is not None), None)
        if made is not None:
            ENVIRONMENTS[name] = made
    if ":" in name and name not in ENVIRONMENTS:
        found = import_object(name, "environment")
        if not (isinstance(found, type) and issubclass(found, Environment)):
            raise ConfigError(f"environment {name!r} is {type(found).__name__}: give a class made from qwq.Environment")
        ENVIRONMENTS[name] = found
    if name not in ENVIRONMENTS:
        raise ConfigError(f"no environment {name!r}: {nearest(name, ENVIRONMENTS)}, or file.py:Class")
    return ENVIRONMENTS[name]


UNANSWERED = "none"  # the environment of a problem whose calls are judged and not run


def make_environment(problem: Problem) -> Environment | None:
    """A fresh environment of the problem's, before its `reset`; None where it has neither an
    environment nor tools.
    """
    name = problem.environment or ("calculator" if problem.tools else UNANSWERED)
    return None if name == UNANSWERED else environment_class(name)()


def with_environment(problem: Problem, name: str) -> Problem:
    """The problem with the tools of environment `name`; one that brings tools or an environment
    keeps its own.
    """
    if not name or problem.environment or problem.tools:
        return problem
    return replace(problem, environment=name, tools=environment_class(name)().schemas())


def environment_for(problem: Problem) -> Environment | None:
    """`make_environment`, and reset to the problem."""
    made = make_environment(problem)
    if made is not None:
        in_background(made.reset(problem)).result()
    return made


def answer_calls(made: Environment, calls: Sequence[ToolCall]) -> list[Message]:
    """`made.step(calls)` for callers without an event loop."""
    return in_background(made.step(calls)).result()


_loop: asyncio.AbstractEventLoop | None = None
_lock = threading.Lock()


def in_background(work: Coroutine[Any, Any, _T]) -> Future[_T]:
    """Run a coroutine on the one event loop of the process, which lives on a daemon thread."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _loop.set_default_executor(ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="tool"))
            threading.Thread(target=_loop.run_forever, name="environments", daemon=True).start()
    future = _Background(_loop, work)
    _loop.call_soon_threadsafe(future.start)
    return future


class _Background(Future[_T]):
    """A coroutine on the loop, for the thread that waits for it. Cancelling it cancels the task.

    `asyncio.run_coroutine_threadsafe` with less between: it is on the way of every tool call.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _T]) -> None:
        super().__init__()
        self._loop, self._work = loop, work
        self._task: asyncio.Task[_T] | None = None

    def start(self) -> None:
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(self._settle)
        if self.cancelled():
            self._task.cancel()

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
        return cancelled

    def _settle(self, task: asyncio.Task[_T]) -> None:
        if task.cancelled():
            super().cancel()
        elif (error := task.exception()) is not None:
            if not self.cancelled():
                self.set_exception(error)
        elif not self.cancelled():
            self.set_result(task.result())
