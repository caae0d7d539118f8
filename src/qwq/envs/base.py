"""The environment protocol: reset with a problem, then answer tool calls. An environment never scores.

A user's environment is one class in one file; RL, evaluation and chat take it by `file.py:Class`:

    class Dice(Environment):
        @tool
        async def roll(self, sides: int) -> str:
            "Roll a die with so many sides."
            return str(random.randint(1, sides))

The schema that the model sees comes from the method's name, type hints and docstring; arguments are checked against them,
and a call that does not fit is answered with what is wrong and the schema. Calls of one turn run together. Every call gets
exactly one answer, in its place: errors and timeouts are answers too, only an InfraError is raised.

Tools written as plain `def` run on a thread, so a slow one does not hold up the others.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, ClassVar, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs

from qwq.common.imports import import_object
from qwq.errors import ConfigError, InfraError, nearest
from qwq.types import Message, Problem, ToolCall

_T = TypeVar("_T")
_Method = TypeVar("_Method", bound=Callable[..., Any])
MAX_THREADS = 32  # tools written as plain functions that run at once
MAX_RESULT = 20_000  # characters of one result


def tool(method: _Method) -> _Method:
    """Mark a method of an `Environment` as a tool. Its docstring's first paragraph is what the model reads."""
    method.__qwq_tool__ = True  # type: ignore[attr-defined]
    return method


class Environment:
    """Base of all environments. `reset` and the tools may keep state on `self`: one object serves one sample."""

    max_calls: ClassVar[int] = 4  # calls of a sample before its last turn
    timeout_s: ClassVar[float] = 30.0  # for one call

    async def reset(self, problem: Problem) -> None:
        """Begin an episode."""

    def schemas(self) -> tuple[Mapping[str, Any], ...]:
        """The tools in OpenAI's form. () leaves those that the problem itself lists."""
        return tuple(_schema(name, method) for name, method in self._tools().items())

    async def call(self, call: ToolCall) -> str:
        """The result of one call as the model reads it. Errors of the call are texts that begin with `error:`."""
        tools = self._tools()
        if call.name not in tools:
            return f"error: no tool {call.name!r}: {nearest(call.name, tools)}"
        method = tools[call.name]
        try:
            bound = _arguments(type(self), call.name).validate_python(ArgsKwargs((), dict(call.arguments)))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "arguments"
            return f"error: {call.name}: {where}: {first['msg']}; its schema: {json.dumps(_schema(call.name, method)['function']['parameters'])}"
        arguments = bound.kwargs or {}
        result = (
            await method(**arguments)
            if inspect.iscoroutinefunction(method)
            else await asyncio.to_thread(method, **arguments)
        )
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)

    async def step(self, calls: Sequence[ToolCall]) -> list[Message]:
        """One tool message for each call, in order; the calls run together."""
        return list(await asyncio.gather(*(self._answer(call) for call in calls)))

    async def _answer(self, call: ToolCall) -> Message:
        try:
            text = await asyncio.wait_for(self.call(call), self.timeout_s)
        except InfraError:
            raise
        except TimeoutError:
            text = f"error: {call.name} gave no result within {self.timeout_s:g} s"
        except Exception as error:  # a tool is somebody's code: whatever it raises is its answer
            text = f"error: {call.name} raised {type(error).__name__}: {' '.join(str(error).split())[:500]}"
        if len(text) > MAX_RESULT:
            text = f"{text[:MAX_RESULT]}\n[{len(text) - MAX_RESULT} further characters cut]"
        return Message("tool", text)

    def _tools(self) -> dict[str, Callable[..., Any]]:
        return {name: getattr(self, name) for name in _tool_names(type(self))}


@cache
def _tool_names(cls: type) -> tuple[str, ...]:
    """Names of the methods marked as tools, base classes first, in the order they are written in."""
    names = dict.fromkeys(
        name for base in reversed(cls.__mro__) for name, value in vars(base).items() if hasattr(value, "__qwq_tool__")
    )
    return tuple(names)


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the same arguments that returns them: pydantic checks them, and the tool itself runs outside the check."""

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


def _schema(name: str, method: Callable[..., Any]) -> dict[str, Any]:
    parameters = _arguments(type(method.__self__), name).json_schema()  # type: ignore[attr-defined]
    parameters = {k: v for k, v in parameters.items() if k in ("type", "properties", "required", "$defs")}
    text = inspect.getdoc(method) or ""
    return {
        "type": "function",
        "function": {"name": name, "description": text.partition("\n\n")[0], "parameters": parameters},
    }


# -- registry ---------------------------------------------------------------------------------------------------------

ENVIRONMENTS: dict[str, type[Environment]] = {}


def environment(name: str) -> Callable[[type[Environment]], type[Environment]]:
    """Class decorator: the environment can then be named in problems, tasks and recipes."""

    def register(cls: type[Environment]) -> type[Environment]:
        ENVIRONMENTS[name] = cls
        return cls

    return register


def environment_class(name: str) -> type[Environment]:
    """The class behind a registered name or `file.py:Class`. ConfigError for one that is neither."""
    if ":" in name and name not in ENVIRONMENTS:
        found = import_object(name, "environment")
        if not (isinstance(found, type) and issubclass(found, Environment)):
            raise ConfigError(f"environment {name!r} is {type(found).__name__}: give a class made from qwq.Environment")
        ENVIRONMENTS[name] = found
    if name not in ENVIRONMENTS:
        raise ConfigError(f"no environment {name!r}: {nearest(name, ENVIRONMENTS)}, or file.py:Class")
    return ENVIRONMENTS[name]


def environment_for(problem: Problem) -> Environment | None:
    """A fresh environment, reset to the problem; None where it has neither an environment nor tools."""
    name = problem.environment or ("calculator" if problem.tools else "")
    if not name:
        return None
    made = environment_class(name)()
    _run(made.reset(problem))
    return made


def answer_calls(made: Environment, calls: Sequence[ToolCall]) -> list[Message]:
    """`made.step(calls)` for callers without an event loop."""
    return _run(made.step(calls))


_loop: asyncio.AbstractEventLoop | None = None
_lock = threading.Lock()


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """The coroutine's result, from one event loop of the process that lives on a daemon thread."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _loop.set_default_executor(ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="tool"))
            threading.Thread(target=_loop.run_forever, name="environments", daemon=True).start()
    return asyncio.run_coroutine_threadsafe(work, _loop).result()
