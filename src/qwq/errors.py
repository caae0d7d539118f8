"""Every error a user can meet, and nothing else.

    QwqError
    ├── UsageError(ValueError)     the request cannot be met as asked
    │   ├── ConfigError            recipe or option: unknown key, bad value
    │   │   └── ServerRefuses      a model's server: key, address, model
    │   ├── DataError              data file: missing, empty, malformed (file and line)
    │   ├── ModelError             model folder: missing, truncated, does not fit
    │   └── CapacityError          more memory than there is
    ├── InfraError(RuntimeError)   our machinery failed (a dead worker); never a wrong answer
    │   └── PeerLost               another process of a run ended or is silent
    └── Interrupted                Ctrl-C or SIGTERM after the state was saved

The command line prints a QwqError as one line and exits with its `exit_status`; anything else is a
bug and shows its traceback. Messages show both sides and name the repair.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import metadata


class QwqError(Exception):
    """Base of all errors that are reported in one line."""

    exit_status = 1


class UsageError(QwqError, ValueError):
    """The request cannot be met as asked."""

    exit_status = 2


class ConfigError(UsageError):
    """A recipe or an option is not usable."""


class ServerRefuses(ConfigError):
    """A model's server takes no request as it is: its key, address, model or an option is at
    fault.
    """


class DataError(UsageError):
    """A data file is not usable."""


class ModelError(UsageError):
    """A model folder is not usable."""


class CapacityError(UsageError):
    """More memory is asked for than there is."""


class InfraError(QwqError, RuntimeError):
    """Our own machinery failed. Never to be read as a verdict about an answer."""

    exit_status = 70


class PeerLost(InfraError):
    """Another process of the run ended or did not answer in time; its own error says why."""

    exit_status = 76


class Interrupted(QwqError):
    """Stopped by the user after the state was saved."""

    exit_status = 130


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for an unknown name: the closest valid one, or the list of all."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"valid names: {', '.join(valid)}"


def install_hint(extra: str) -> str:
    """The command that installs what an extra needs, package by package: right in a clone, in a
    wheel and in neither's folder.
    """
    try:
        needs = [n.partition(";") for n in metadata.requires("qwq") or ()]
    except metadata.PackageNotFoundError:
        needs = []
    names = [name.strip() for name, _, marker in needs if f'extra == "{extra}"' in marker.replace("'", '"')]
    if not names:
        return f"install what [project.optional-dependencies] of pyproject.toml lists under {extra!r}"
    return f"`pip install {' '.join(repr(name) for name in names)}`"
