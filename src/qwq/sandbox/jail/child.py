"""What one run does inside its jail: load a program, evaluate what is asked, write the values to
one descriptor.

Runs beside the untrusted program in one process, so nothing here is trusted by the parent: a record
on the channel says only "this is what the program returned". Expected values are never sent here.

Records, one JSON line each:  {"i": index, "v": nodes}   {"i": index, "t": truth}   {"i": index, "e": [type, message]}
"""

# ruff: noqa: BLE001 (whatever a program raises is a result)

from __future__ import annotations

import _sitebuiltins
import ast
import atexit
import builtins
import contextlib
import gc
import json
import linecache
import os
import sys
import threading
import traceback
import types
from collections.abc import Coroutine
from typing import Any

from . import codec, pytests
from .box_files import read_files, write_files
from .results import RESULT_FD, exit_code_of, flush, record
from .streams import use_standard_streams

own_pid_namespace = False  # set by the zygote
_notebook_runs: types.ModuleType | None = None
program_file = "program.py"  # the zygote puts a path here where there is a private folder to write it to
MAX_MESSAGE = 500
CO_COROUTINE = 0x80  # as in `inspect`, which bare slots have not imported
# What tests import the program as; data sets do not agree.
PROGRAM_MODULES = ("program", "solution", "main", "submission", "candidate", "answer")
CHANGEABLE = (list, dict, set, bytearray)
# The builtins as they were, under names that tests use: a program may call anything `isinstance`.
OWN_BUILTINS = {f"_judge_{name}": value for name, value in vars(builtins).items() if name[:1] != "_"}
OWN_BUILTINS["_judge_pytest"] = pytests.run_pytest


def describe(error: BaseException) -> list[str]:
    """Type name and message; a hostile `__str__` costs only its own case."""
    try:
        message = str.__str__(str(error))[:MAX_MESSAGE]
    except BaseException:
        message = "(no message)"
    return [type(error).__name__[:100], message]


def _as_file(source: str) -> str:
    """The program without a byte order mark, kept where `inspect.getsource`, tracebacks and
    `open(__file__)` look.
    """
    source = source.removeprefix("\ufeff")
    linecache.cache[program_file] = (len(source), None, source.splitlines(True), program_file)
    if os.path.isabs(program_file):
        with open(program_file, "wb") as file:
            file.write(codec.to_bytes(source))
    return source


def _compile(source: str, name: str, mode: str = "exec", flags: int = 0) -> types.CodeType:
    """Compile as a file of its own: this module's `from __future__` imports must not reach the
    program.
    """
    return compile(source, name, mode, flags, dont_inherit=True)


def _awaited(value: Coroutine[Any, Any, Any]) -> Any:
    import asyncio  # bare slots have not imported it

    return asyncio.run(value)


def _evaluate(source: str, mode: str, space: dict[str, Any]) -> Any:
    """Run a test's expression or statements, which may await at their top level."""
    code = _compile(source, "test", mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    value = eval(code, space)
    return _awaited(value) if code.co_flags & CO_COROUTINE else value


def _add_site_builtins() -> None:
    """What `site` adds to the builtins, which the interpreter that runs us leaves out (-S)."""
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.help = _sitebuiltins._Helper()


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__file__ = program_file
    vars(module)["__builtins__"] = builtins
    sys.modules[name] = module
    return module


def _finalize(space: dict[str, Any]) -> None:
    """Let go of the program's objects as the interpreter does at its end, so that `__del__` runs
    and files are written.
    """
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
    for private in (True, False):
        for name in list(space):
            if name != "__builtins__" and (not private or (name[:1] == "_" and name[:2] != "__")):
                space[name] = None
    gc.collect()


def _wait(pid: int) -> int:
    """The wait status of `pid`; orphans, which come to us as the first process, are reaped on the
    way.
    """
    while True:
        ended, status = os.wait()
        if ended == pid:
            return status


def _run_command(request: dict[str, Any]) -> int:
    """Start a program as a process of its own, which does not hold the result channel, and wait for
    it.
    """
    here = os.getcwd()
    try:
        write_files(request["files"], here)
        argv = request["argv"]
        pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=[(os.POSIX_SPAWN_CLOSE, RESULT_FD)])
    except (OSError, ValueError) as error:
        record({"failed": f"{type(error).__name__}: {error}"[:MAX_MESSAGE]})
        return 1
    status = _wait(pid)
    record({"files": read_files(request["fetch"], here), "status": status})
    return 0


def _run_script(request: dict[str, Any]) -> int:
    """A Python program, with files put beside it before and read back afterwards where that is
    asked for.
    """
    if not request.get("files") and not request.get("fetch"):
        return _script(request)
    here = os.getcwd()
    try:
        write_files(request.get("files") or {}, here)
    except (OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if not request.get("fetch"):
        return _script(request)
    try:
        pid = os.fork()  # so that the files are read also where the program ends itself hard
    except PermissionError:  # no processes at this level
        code = _script(request)
    else:
        if pid == 0:
            os.close(RESULT_FD)
            os._exit(_script(request))
        code = os.waitstatus_to_exitcode(_wait(pid))
    record({"files": read_files(request["fetch"], here)})
    if code < 0:
        os.kill(os.getpid(), -code)  # has an effect outside a PID namespace only
    return code if code >= 0 else 128 - code


def _script(request: dict[str, Any]) -> int:
    """Run as `python program.py` would: threads joined, atexit functions called, output flushed."""
    module = _module("__main__")
    sys.argv = [program_file, *request.get("args", ())]
    code = 0
    try:
        if request.get("prelude"):
            exec(_compile(request["prelude"], "prelude"), module.__dict__)
        exec(_compile(_as_file(request["program"]), program_file), module.__dict__)
    except SystemExit as error:
        code = exit_code_of(error)
    except MemoryError as error:
        _print_error(error)
        code = 1
        with contextlib.suppress(OSError):
            record({"e": ["MemoryError", ""]})
    except BaseException as error:
        _print_error(error)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    unwritten = flush()
    _finalize(module.__dict__)
    return flush(tell=not unwritten) or unwritten or code


def _print_error(error: BaseException) -> None:
    with contextlib.suppress(Exception):  # stderr may be closed
        below = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, below)


def _entry_point(space: dict[str, Any], name: str) -> Any:
    """The method of a class `Solution` (LeetCode's form) where it has one of that name, else the
    function.

    The method comes first: the prelude and a program's own star imports bring names such as `merge`
    and `search` in.
    """
    solution = space.get("Solution")
    if isinstance(solution, type) and hasattr(solution, name):
        return getattr(solution(), name)
    if name in space:
        return space[name]
    raise NameError(f"the program defines no {name!r}")


def _case_error(index: int, error: BaseException) -> None:
    if isinstance(error, SystemExit):
        record({"i": index, "e": ["SystemExit", "the program ended itself"], "end": True})
        flush()
        os._exit(1)
    record({"i": index, "e": describe(error)})


def _run_calls(request: dict[str, Any], space: dict[str, Any]) -> None:
    for index, case in enumerate(request["cases"]):
        try:
            args, kwargs = codec.decode(case["args"]), codec.decode(case["kwargs"])
            function = _entry_point(space, request["entry_point"])
            result = function(*args, **kwargs)
            if type(result) is types.CoroutineType:
                result = _awaited(result)
            nodes = codec.encode(result)
            # What a function without a result did to its first argument may be the answer.
            changed = codec.encode(args[0]) if result is None and args and type(args[0]) in CHANGEABLE else None
        except BaseException as error:
            _case_error(index, error)
        else:
            record({"i": index, "v": nodes} if changed is None else {"i": index, "v": nodes, "a": changed})


def _run_items(request: dict[str, Any], space: dict[str, Any]) -> None:
    """Expressions (their value or truth) and statements, each with its own bound names."""
    for index, item in enumerate(request["items"]):
        space.update(OWN_BUILTINS)  # once more: an earlier item ran the program
        names = {name: codec.decode(nodes) for name, nodes in item.get("bind", {}).items()}
        try:
            space.update(names)
            if item["mode"] == "exec":
                _evaluate(item["source"], "exec", space)
                fields: dict[str, Any] = {"t": True}
            else:
                value = _evaluate(item["source"], "eval", space)
                fields = {"v": codec.encode(value)} if item["mode"] == "value" else {"t": bool(value)}
        except BaseException as error:
            _case_error(index, error)
        else:
            record({"i": index, **fields})


def _run_functions(request: dict[str, Any]) -> int:
    """Load the program under a name other than __main__, then evaluate all that is asked."""
    module = _module("program")
    for name in PROGRAM_MODULES:
        sys.modules[name] = module
    space = module.__dict__
    try:
        for index, source in enumerate(request["sources"]):
            own = index == request["program"]
            try:
                exec(_compile(_as_file(source), program_file) if own else _compile(source, "setup"), space)
            except SystemExit as error:  # `exit()` as the last line: what was defined before it is there
                if exit_code_of(error):
                    raise
    except BaseException as error:
        record({"load": describe(error)})
        flush()
        return 1
    (_run_calls if request["kind"] == "call" else _run_items)(request, space)
    return flush()


def import_notebooks() -> None:
    """Make notebooks and sessions known; called before the jail is entered, which hides their code."""
    from . import notebook_runs

    global _notebook_runs
    _notebook_runs = notebook_runs


def run(payload: bytes) -> int:
    """Run one request to its end and return the exit status."""
    request = json.loads(payload)
    del payload
    sys.setrecursionlimit(1000)
    sys.set_int_max_str_digits(0)  # time is limited already, and graders elsewhere lift it
    sys.path.insert(0, os.getcwd())  # files that come with a program can be imported
    use_standard_streams()
    _add_site_builtins()
    os.write(RESULT_FD, b"R\n")  # from here on whatever happens is the program's doing
    if request["kind"] == "command":
        return _run_command(request)
    if request["kind"] in ("cells", "session"):
        assert _notebook_runs is not None  # these go to slots that are not bare
        book = _module("__main__").__dict__
        return (
            _notebook_runs.run_session(book, own_pid_namespace)
            if request["kind"] == "session"
            else _notebook_runs.run(request, book)
        )
    return _run_script(request) if request["kind"] == "script" else _run_functions(request)
