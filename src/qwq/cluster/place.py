"""Which process of a run this is, from environment variables. No torch.

`qwq train --processes N` sets them for its own processes, torchrun sets the same names, and under
Slurm its own names are read where MASTER_ADDR is set.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from qwq.errors import ConfigError

LAUNCHED = "QWQ_RENDEZVOUS"  # set by `launch`: where its processes meet
# torchrun's names, and Slurm's.
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")
_was_in_group = False  # set by `note_group`


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Process `rank` of `size`, process `local_rank` of the `local_size` on this machine.

    `rendezvous` is where the processes of a launcher of ours meet: a file, or tcp://HOST:PORT;
    empty: they meet at MASTER_ADDR and MASTER_PORT.
    """

    rank: int
    size: int
    local_rank: int = 0
    local_size: int = 1
    rendezvous: str = ""

    def variables(self) -> dict[str, str]:
        """The environment variables that say this."""
        numbers = (self.rank, self.size, self.local_rank, self.local_size)
        return dict(zip(NAMES, map(str, numbers), strict=True)) | {LAUNCHED: self.rendezvous}


def place_of(environment: Mapping[str, str] | None = None) -> RankPlace | None:
    """The place that the environment variables name; None for a process on its own.

    ConfigError where they contradict each other.
    """
    env = os.environ if environment is None else environment
    slurm = "RANK" not in env and "MASTER_ADDR" in env and "SLURM_PROCID" in env
    names = SLURM if slurm else NAMES
    if names[0] not in env or names[1] not in env:
        return None
    rank, size = (_number(env, name, 0) for name in names[:2])
    if size == 1:
        return None
    place = RankPlace(
        rank, size, _number(env, names[2], rank), _number(env, names[3], 1 if slurm else size), env.get(LAUNCHED, "")
    )
    if not 0 <= rank < size:
        raise ConfigError(f"{names[0]} is {rank} and {names[1]} is {size}: ranks are numbered from 0")
    if not place.rendezvous and not (env.get("MASTER_ADDR") and env.get("MASTER_PORT")):
        raise ConfigError(
            f"{names[0]} and {names[1]} are set, MASTER_ADDR and MASTER_PORT are not both: start with torchrun, or set "
            "them to the address of the first host and a free port there"
        )
    return place


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"{name} is {text!r}: a whole number from 0 is wanted")
    return int(text)


def is_launched() -> bool:
    """Whether `launch` started this process, and reports for it."""
    return bool(os.environ.get(LAUNCHED))


def note_group() -> None:
    """Remember that this process is, or was, one of a process group (`world.join`)."""
    global _was_in_group
    _was_in_group = True


def was_in_group() -> bool:
    """Whether this process has been one of a process group."""
    return _was_in_group


def leave(status: int) -> NoReturn:
    """End a process that was in a process group: its Python threads are waited for, what it has
    registered for its end is run, what it wrote is flushed.

    The interpreter's own end is left out. torch's threads of a process group may outlive the group,
    as long as anything refers to it, and abort there ("terminate called without an active
    exception"): a run that was complete would be told as a failure. The command `qwq` ends so
    whoever started it (`cli.main`). A program of your own that calls `qwq.train` under torchrun or
    Slurm keeps its end: only it knows what else it has to do.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter does, pools of threads among them
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
    os._exit(status)
