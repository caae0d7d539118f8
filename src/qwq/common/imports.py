"""Objects of a user's own: `file.py:name` or `package.module:name`, as recipes and options name
them.

The file runs in this process, with this process's rights: it is the user's own code.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from qwq.errors import ConfigError, InfraError, nearest

_modules: dict[Path, tuple[tuple[int, int], ModuleType]] = {}  # by file: its time and size, and what it made


def is_reference(name: str) -> bool:
    """Whether `name` is of the form `file.py:name` or `package.module:name`, and so no registered
    name.
    """
    place, colon, attribute = name.rpartition(":")
    return bool(place and colon and attribute)


def import_object(where: str, what: str) -> Any:
    """The callable that `where` names.

    ConfigError, in the words of `what` it is for, where there is none or its file does not import.
    """
    place, _, name = where.rpartition(":")
    if not is_reference(where):
        raise ConfigError(f"{what} {where!r}: write file.py:function or package.module:function")
    if place.endswith(".py"):
        path = Path(place).expanduser()
        if not path.is_file():
            raise ConfigError(f"{what} {where!r}: no file at {path}")
        module = _file_module(path.resolve(), where, what)
    else:
        module = _run(where, what, lambda: importlib.import_module(place))
    found = getattr(module, name, None)
    if not callable(found):
        there = [n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")]
        raise ConfigError(f"{what} {where!r}: {place} has no function {name!r}: {nearest(name, there)}")
    return found


def _file_module(path: Path, where: str, what: str) -> ModuleType:
    """The module of a file, which runs once: a task, a loss and a stage of one file are of one
    module. It runs again if it was changed.
    """
    state = path.stat()
    version = (state.st_mtime_ns, state.st_size)
    if path not in _modules or _modules[path][0] != version:
        spec = importlib.util.spec_from_file_location(f"{path.stem}_{zlib.crc32(str(path).encode()):08x}", path)
        assert spec and spec.loader
        module, loader = importlib.util.module_from_spec(spec), spec.loader
        sys.modules[spec.name] = module
        _run(where, what, lambda: loader.exec_module(module))
        _modules[path] = version, module
    return _modules[path][1]


def own_lines(error: BaseException, call: Any) -> str:
    """The lines of the file that holds `call` through which an error came, outermost first; else
    the one that raised it.
    """
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(call, "__code__", None)
    own = [f for f in frames if code and f.filename == code.co_filename] or frames[-1:]
    places = [f"{Path(f.filename).name}, line {f.lineno}" for f in own]
    # A comprehension has a frame of its own before Python 3.12: the same line twice.
    return ", ".join(place for i, place in enumerate(places) if i == 0 or place != places[i - 1])


@contextmanager
def user_code(what: str, call: Any, when: str = "") -> Iterator[None]:
    """A block that runs a user's own function `call`, which may raise anything: ConfigError in one
    line, with the user's own lines.

    An InfraError passes through: a verifier whose sandbox failed is asked again.
    """
    try:
        yield
    except InfraError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or "no message"
        raise ConfigError(f"{what} raised {type(error).__name__}{when}: {reason} ({own_lines(error, call)})") from error


def _run(where: str, what: str, do: Callable[[], Any]) -> Any:
    """Run a user's module, which may raise anything."""
    try:
        return do()
    except SyntaxError as error:
        raise ConfigError(
            f"{what} {where!r}: {error.msg} ({Path(error.filename or '').name}, line {error.lineno})"
        ) from None
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line = "" if isinstance(error, ImportError) else f" ({Path(frame.filename).name}, line {frame.lineno})"
        raise ConfigError(
            f"{what} {where!r}: importing it raised {type(error).__name__}: {' '.join(str(error).split())[:200]}{line}"
        ) from error
